"""Amounts are spelt and read without a float, in every currency's own fineness."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_chassis.refusals import Refusal
from smartpay_payments.adapters.stripe_amounts import from_stripe, to_stripe
from smartpay_payments.domain.currencies import EXPONENTS, decimal_text, minor_units_of

MONEY = Path(__file__).parents[3] / "protos/smartpay/type/v1/money.proto"


def test_every_currency_of_the_contract_has_an_exponent_and_no_other() -> None:
    assert set(re.findall(r"'([A-Z]{3,4})'", MONEY.read_text())) == set(EXPONENTS)


@pytest.mark.parametrize(
    ("minor", "code", "text"),
    [
        (1999, "USD", "19.99"),
        (5, "USD", "0.05"),
        (-5, "USD", "-0.05"),
        (1999, "JPY", "1999"),
        (0, "JPY", "0"),
        (1999, "KWD", "1.999"),
        (1, "CLF", "0.0001"),
        (1, "USDC", "0.000001"),
        (1_000_000_001, "SOL", "1.000000001"),
    ],
)
def test_an_amount_has_all_its_decimals(minor: int, code: str, text: str) -> None:
    assert decimal_text(minor, code) == text
    assert minor_units_of(text, code) == minor


@given(st.integers(-(10**18), 10**18), st.sampled_from(sorted(EXPONENTS)))
def test_what_is_spelt_reads_back(minor: int, code: str) -> None:
    assert minor_units_of(decimal_text(minor, code), code) == minor


@pytest.mark.parametrize(("text", "minor"), [("19", 1900), ("19.9", 1990), ("19.900", 1990)])
def test_fewer_decimals_and_trailing_zeros_are_read(text: str, minor: int) -> None:
    assert minor_units_of(text, "USD") == minor


@pytest.mark.parametrize(
    "text", ["", ".5", "1.", "1e3", "+1", "01", "1,5", " 1", "NaN", "19.999", "٣", "--1"]
)
def test_anything_else_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match="is"):
        minor_units_of(text, "USD")


def test_a_currency_nobody_knows_is_told() -> None:
    with pytest.raises(KeyError):
        decimal_text(1, "XXX")


@pytest.mark.parametrize(
    ("minor", "code", "amount"),
    [(1999, "USD", 1999), (500, "JPY", 500), (5, "ISK", 500), (5, "UGX", 500), (500, "MGA", 5)],
)
def test_stripe_s_own_way_of_counting_is_kept_at_stripe(minor: int, code: str, amount: int) -> None:
    assert to_stripe(minor, code) == amount
    assert from_stripe(amount, code.lower()) == minor


def test_what_stripe_can_not_take_is_refused_by_field() -> None:
    with pytest.raises(Refusal) as refused:
        to_stripe(550, "MGA")
    assert (refused.value.reason, refused.value.field) == ("FIELD_INVALID", "amount")


def test_a_fee_below_one_unit_is_rounded_half_up() -> None:
    assert [from_stripe(amount, "isk") for amount in (49, 50, 149, 150)] == [0, 1, 1, 2]
