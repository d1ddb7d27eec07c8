"""How much a payment earns: 2 % of what was captured, in whole base units, never a float."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction

TOKEN_DECIMALS = 6
BASE_UNITS_PER_TOKEN: int = 10**TOKEN_DECIMALS
REWARD_SHARE = Fraction(2, 100)  # of the captured amount; one token stands for one USD
TOKENS_MIN = 1
TOKENS_MAX = 1000

# ISO 4217 minor-unit exponents that are not 2, and the two coins of the contract.
_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW"), 0),
    **dict.fromkeys(("PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    "CLF": 4,
    "USDC": 6,
    "SOL": 9,
}


def currency_exponent(currency_code: str) -> int:
    """Return how many decimals the minor unit of a currency stands for (ISO 4217)."""
    return _EXPONENTS.get(currency_code, 2)


class Mark(StrEnum):
    """How a reward is marked on the chain; the payment's event fixes it for ever."""

    RECEIPT = "RECEIPT"
    SEQUENCE = "SEQUENCE"


@dataclass(frozen=True)
class Refunded:
    """Money given back, or on its way back, in the payment's currency."""

    time: datetime
    minor_units: int


@dataclass(frozen=True)
class SettledPayment:
    """What rewards must know of a captured payment.

    Attributes:
        captured_minor_units: at least 1.
        settle_time: when it was captured, or later where that moment is not told.
        wallet: the payment's own wallet, "" for the default.
        mark: None when the payment was looked up, because only its event tells the mark.
        sequence: of the event; 0 when the payment was looked up.
        vesting: as its merchant has it; None for that of this deployment.
    """

    merchant_id: str
    livemode: bool
    payment_id: str
    captured_minor_units: int
    currency_code: str
    refunds: tuple[Refunded, ...]
    settle_time: datetime
    wallet: str
    mark: Mark | None
    sequence: int
    vesting: timedelta | None = None


@dataclass(frozen=True)
class Quote:
    """What a payment earns by the terms in force.

    Attributes:
        token_base_units: 0 when everything was refunded before it vested.
        rate: USD per unit of the currency, as an exact ratio such as "27/25"; "" when unknown.
        hold: why it can't be minted now; "" when it can.
        due_time: when it vests.
    """

    token_base_units: int
    rate: str
    hold: str
    due_time: datetime


@dataclass(frozen=True)
class Terms:
    """The reward policy of this deployment.

    Attributes:
        usd_rates: USD per unit of a currency, exact.
        vesting: refunds within this time of the capture reduce or cancel the reward, because a
            one-token minimum on refunded payments could be farmed.
        livemode: whose payments this chain serves; a test payment must not mint real tokens.
    """

    usd_rates: Mapping[str, Fraction]
    vesting: timedelta
    livemode: bool

    def quote(self, payment: SettledPayment) -> Quote:
        """Compute the reward; the same payment and terms always give the same answer."""
        vesting = self.vesting if payment.vesting is None else payment.vesting
        due_time = payment.settle_time + vesting
        refunded = sum(each.minor_units for each in payment.refunds if each.time < due_time)
        net_minor_units = payment.captured_minor_units - refunded
        rate = self.usd_rates.get(payment.currency_code)
        hold = ""
        if payment.livemode != self.livemode:
            hold = "OTHER_MODE: this chain does not serve payments of this mode."
        elif rate is None:
            hold = f"RATE_UNKNOWN: no recorded rate from {payment.currency_code} to USD."
        elif payment.mark is Mark.SEQUENCE:
            hold = "MARK_UNSUPPORTED: the payment asks for a mark this release can't make."
        units = 0
        if rate is not None:
            units = token_base_units(net_minor_units, payment.currency_code, rate)
        return Quote(units, "" if rate is None else str(rate), hold, due_time)


def token_base_units(minor_units: int, currency_code: str, usd_rate: Fraction) -> int:
    """Return the reward of an amount: floor(2 %), at least 1 and at most 1000 tokens; 0 for none.

    Args:
        minor_units: what was captured and kept, in the currency's minor units.
        currency_code: ISO 4217, USDC or SOL.
        usd_rate: USD per whole unit of the currency.
    """
    if minor_units <= 0:
        return 0
    minor_units_per_unit: int = 10 ** currency_exponent(currency_code)
    dollars = minor_units * usd_rate / minor_units_per_unit
    earned = math.floor(dollars * REWARD_SHARE * BASE_UNITS_PER_TOKEN)
    return max(TOKENS_MIN * BASE_UNITS_PER_TOKEN, min(earned, TOKENS_MAX * BASE_UNITS_PER_TOKEN))
