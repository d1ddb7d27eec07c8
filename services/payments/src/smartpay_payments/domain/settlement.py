"""What a processor settles with us beside payments: fees told later, and payouts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from smartpay_payments.domain.ledger import fee_legs, payout_legs


class PayoutState(StrEnum):
    """Where a payout stands."""

    ON_ITS_WAY = "ON_ITS_WAY"
    ARRIVED = "ARRIVED"
    RETURNED = "RETURNED"
    """It failed or was canceled: the money is back at the processor."""


@dataclass(frozen=True, slots=True)
class ChargeFee:
    """What the processor keeps of one charge, in all."""

    line_id: str
    """The processor's id of the line that told it."""
    create_time: datetime
    payment_id: str
    """Ours; empty when the line names only the charge."""
    fee_minor: int
    currency_code: str
    processor_payment_id: str = ""
    is_only_word: bool = False
    """True when a look at the charge doesn't tell its fee, so that it is booked as told here."""


@dataclass(frozen=True, slots=True)
class AccountFee:
    """What the processor keeps for the account as a whole."""

    line_id: str
    create_time: datetime
    fee_minor: int
    currency_code: str


@dataclass(frozen=True, slots=True)
class Payout:
    """Money on its way to the merchant's bank, or there."""

    line_id: str
    create_time: datetime
    minor_units: int
    currency_code: str
    state: PayoutState


SettlementLine = ChargeFee | AccountFee | Payout


class SettlementSource(Protocol):
    """Reads what a processor settled."""

    def lines(self, processor_account_id: str, since: datetime) -> AsyncIterator[SettlementLine]:
        """Yields the lines of an account since a moment, in any order.

        Raises:
            BooksUnreadableError: when iterated, and the processor gave no usable answer.
        """
        ...

    async def payout(self, processor_account_id: str, payout_id: str) -> Payout:
        """Reads how one payout stands; raises BooksUnreadableError."""
        ...


Transaction = tuple[str, Mapping[str, int]]
"""A transaction's id and its legs."""


def transactions_of(
    line: AccountFee | Payout, merchant_id: str, processor_account_id: str
) -> list[Transaction]:
    """Answers what a line posts, in order; each is posted once, by its id."""
    if isinstance(line, AccountFee):
        return [(f"account_fee:{line.line_id}", fee_legs(processor_account_id, line.fee_minor))]
    sent, arrived = (
        payout_legs(merchant_id, processor_account_id, line.minor_units, arrived=there)
        for there in (False, True)
    )
    posted: list[Transaction] = [(f"payout:{line.line_id}", sent)]
    if line.state is PayoutState.ARRIVED:
        posted.append((f"payout_arrived:{line.line_id}", arrived))
    elif line.state is PayoutState.RETURNED:
        back = {account: -minor for account, minor in sent.items()}
        posted.append((f"payout_returned:{line.line_id}", back))
    return posted
