"""Builders for the tests of rewards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

from solders.keypair import Keypair

from smartpay_chassis.ids import derive
from smartpay_chassis.testing import DEMO_MERCHANT
from smartpay_rewards.domain.reward import Mark, Refunded, SettledPayment, Terms

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ISSUER = Keypair.from_seed(bytes([1]) * 32)
RECEIPT_KEY = bytes(range(32))
WALLET = str(Keypair.from_seed(bytes([3]) * 32).pubkey())
OTHER_WALLET = str(Keypair.from_seed(bytes([4]) * 32).pubkey())


def payment_id(number: int) -> str:
    """Make the id of the payment with this number."""
    return derive("pay", "d1", "test", str(number))


def a_payment(
    number: int = 1,
    *,
    merchant_id: str = DEMO_MERCHANT.merchant_id,
    livemode: bool = False,
    captured_minor_units: int = 10_000,
    currency_code: str = "USD",
    refunds: tuple[Refunded, ...] = (),
    settle_time: datetime = START,
    wallet: str = "",
    mark: Mark | None = Mark.RECEIPT,
    sequence: int = 2,
) -> SettledPayment:
    """Make a settled payment of 100 USD that earns 2 tokens, or what is asked."""
    return SettledPayment(
        merchant_id=merchant_id,
        livemode=livemode,
        payment_id=payment_id(number),
        captured_minor_units=captured_minor_units,
        currency_code=currency_code,
        refunds=refunds,
        settle_time=settle_time,
        wallet=wallet,
        mark=mark,
        sequence=sequence,
    )


def terms(*, vesting: timedelta = timedelta(0), **usd_rates: str) -> Terms:
    """Make terms with USD, EUR at 27/25 and whatever else is asked."""
    rates = {"USD": "1", "EUR": "27/25", **usd_rates}
    return Terms({code: Fraction(text) for code, text in rates.items()}, vesting, livemode=False)
