from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_rewards.domain.reward import (
    Mark,
    Refunded,
    currency_exponent,
    token_base_units,
)
from smartpay_rewards.testing import START, a_payment, terms

TOKEN = 1_000_000


@pytest.mark.parametrize(
    ("minor_units", "currency", "rate", "expected"),
    [
        (10_000, "USD", "1", 2 * TOKEN),
        (12_345, "USD", "1", 2_469_000),
        (1, "USD", "1", TOKEN),  # at least one token
        (5_000, "USD", "1", TOKEN),
        (5_001, "USD", "1", 1_000_200),
        (5_000_000, "USD", "1", 1000 * TOKEN),
        (99_999_999, "USD", "1", 1000 * TOKEN),  # at most a thousand
        (10_000, "EUR", "27/25", 2_160_000),
        (10_000, "JPY", "1/150", 1_333_333),  # no decimals, and floored
        (100_000, "BHD", "53/20", 5_300_000),  # three decimals
        (100_000_000, "USDC", "1", 2 * TOKEN),
        (0, "USD", "1", 0),
        (-5, "USD", "1", 0),
    ],
)
def test_a_reward_is_two_percent_floored_and_clamped(
    minor_units: int, currency: str, rate: str, expected: int
) -> None:
    assert token_base_units(minor_units, currency, Fraction(rate)) == expected


@given(
    minor_units=st.integers(1, 99_999_999),
    currency=st.sampled_from(["USD", "JPY", "BHD", "CLF", "SOL"]),
    rate=st.fractions(min_value=Fraction(1, 10_000), max_value=10_000),
)
def test_a_reward_never_exceeds_two_percent_unless_it_is_the_least_one(
    minor_units: int, currency: str, rate: Fraction
) -> None:
    units = token_base_units(minor_units, currency, rate)
    exact = minor_units * rate * 20_000 / 10 ** currency_exponent(currency)
    assert TOKEN <= units <= 1000 * TOKEN
    assert units == TOKEN or units == 1000 * TOKEN or exact - 1 < units <= exact
    assert units <= max(exact, TOKEN)


@given(first=st.integers(1, 10**8), second=st.integers(1, 10**8))
def test_a_larger_payment_never_earns_less(first: int, second: int) -> None:
    low, high = sorted((first, second))
    assert token_base_units(low, "USD", Fraction(1)) <= token_base_units(high, "USD", Fraction(1))


def test_an_unknown_rate_is_held_and_says_which() -> None:
    quote = terms().quote(a_payment(currency_code="CHF"))
    assert quote.hold.startswith("RATE_UNKNOWN: no recorded rate from CHF")
    assert quote.rate == ""


def test_a_payment_of_the_other_mode_or_mark_is_held() -> None:
    assert terms().quote(a_payment(livemode=True)).hold.startswith("OTHER_MODE")
    assert terms().quote(a_payment(mark=Mark.SEQUENCE)).hold.startswith("MARK_UNSUPPORTED")
    assert terms().quote(a_payment()).hold == ""


def refund(after: timedelta, minor_units: int) -> Refunded:
    return Refunded(START + after, minor_units)


def test_without_vesting_a_refund_takes_nothing_back() -> None:
    quote = terms().quote(a_payment(refunds=(refund(timedelta(seconds=1), 10_000),)))
    assert (quote.token_base_units, quote.due_time) == (2 * TOKEN, START)


def test_a_refund_within_vesting_reduces_and_one_after_it_does_not() -> None:
    week = timedelta(days=7)
    early, late = refund(timedelta(days=1), 4_000), refund(week, 6_000)
    quote = terms(vesting=week).quote(a_payment(refunds=(early, late)))
    assert quote.token_base_units == 1_200_000
    assert quote.due_time == START + week


def test_a_full_refund_within_vesting_earns_nothing_not_even_the_least() -> None:
    week = timedelta(days=7)
    both = (refund(timedelta(days=1), 4_000), refund(timedelta(days=2), 6_000))
    assert terms(vesting=week).quote(a_payment(refunds=both)).token_base_units == 0
