"""A stream of payments as columns: what generators and table readers hand to training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import DAY_MS
from smartpay_fraud.domain.transaction import Transaction

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

ABSENT = -1
"""An input that was not sent."""
NEVER = -1
"""A time that will never come: nobody says what this payment was, or it was not declined."""

LABEL_DELAY_MS = 7 * DAY_MS
"""When a fraud becomes known, where the data don't say: the published protocol's delay."""


class TableError(Exception):
    """A table can't be read as payments; the text names column, row, reason and remedy."""


@dataclass(frozen=True)
class Stream:
    """Payments in order of time.

    Attributes:
        time_ms: milliseconds since the epoch, never falling.
        amount_minor: minor units of the payment's currency, at least 0.
        fraud: what the payment is in the end.
        known_ms: when its label becomes known, NEVER when nobody will say.
        customer: number of the payer; the protocol's "card".
        terminal: number of the point of sale.
        codes: further columns by name (merchant, card, device, network, currency, category,
            country); numbers into `names`, ABSENT where not sent.
        names: the text behind the numbers of each column; a number stands for itself without.
        scenario: which story a payment belongs to, where a generator knows.
        declined_ms: when the processor declined it, NEVER when it did not.
    """

    time_ms: Ints
    amount_minor: Ints
    fraud: Flags
    known_ms: Ints
    customer: Ints
    terminal: Ints
    codes: Mapping[str, Ints] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scenario: Ints | None = None
    declined_ms: Ints | None = None

    def __len__(self) -> int:
        return len(self.time_ms)

    @property
    def first_ms(self) -> int:
        """Midnight (UTC) before the first payment."""
        return int(self.time_ms[0]) // DAY_MS * DAY_MS if len(self) else 0

    @property
    def day(self) -> Ints:
        """Days since the first day, int64 [payments]."""
        return (self.time_ms - self.first_ms) // DAY_MS

    def until(self, day: int) -> Stream:
        """The payments before a day; a view, nothing is copied."""
        end = int(np.searchsorted(self.time_ms, self.first_ms + day * DAY_MS))
        return Stream(
            time_ms=self.time_ms[:end],
            amount_minor=self.amount_minor[:end],
            fraud=self.fraud[:end],
            known_ms=self.known_ms[:end],
            customer=self.customer[:end],
            terminal=self.terminal[:end],
            codes={name: column[:end] for name, column in self.codes.items()},
            names=self.names,
            scenario=None if self.scenario is None else self.scenario[:end],
            declined_ms=None if self.declined_ms is None else self.declined_ms[:end],
        )

    def transactions(self) -> Iterator[Transaction]:
        """The stream as the service would be asked about it."""
        columns = zip(
            self.amount_minor.tolist(),
            self._texts("customer", self.customer, "c"),
            self._texts("terminal", self.terminal, "t"),
            self._column("merchant", "m", "all"),
            self._column("card", "i"),
            self._column("device", "d"),
            self._column("network", "n"),
            self._column("currency", "", "USD"),
            self._column("category", ""),
            self._column("country", ""),
            strict=True,
        )
        for number, columns_of_one in enumerate(columns):
            amount, customer, terminal, merchant, card, device, network, currency, mcc, country = (
                columns_of_one
            )
            yield Transaction(
                merchant_id=merchant,
                livemode=True,
                transaction_id=f"p{number}",
                amount_minor=amount,
                currency_code=currency,
                customer_id=customer,
                instrument_id=card,
                device_id=device,
                ip_address=network,
                terminal_id=terminal,
                merchant_category=mcc,
                country=country,
            )

    def _column(self, name: str, prefix: str, default: str = "") -> Iterator[str]:
        codes = self.codes.get(name)
        if codes is None:
            return iter([default] * len(self))
        return self._texts(name, codes, prefix)

    def _texts(self, name: str, codes: Ints, prefix: str) -> Iterator[str]:
        names = self.names.get(name)
        if names is None:
            return iter(["" if n < 0 else f"{prefix}{n}" for n in codes.tolist()])
        return iter(["" if n < 0 else names[n] for n in codes.tolist()])
