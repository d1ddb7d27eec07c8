"""The mounted table of merchants: what it refuses, what it finds, what it computes."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from smartpay_chassis.merchants import Fee, Merchant, Merchants, load_merchants
from smartpay_chassis.testing import (
    DEMO_MERCHANT,
    OTHER_MERCHANT,
    TEST_MERCHANTS,
    write_merchants,
)


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert load_merchants(write_merchants(tmp_path / "merchants.json")) == TEST_MERCHANTS


def test_test_and_live_are_two_entries() -> None:
    live = DEMO_MERCHANT.model_copy(
        update={"livemode": True, "clients": ("live-client",), "processor_accounts": ()}
    )
    table = Merchants(merchants=(DEMO_MERCHANT, live))
    assert table.get(DEMO_MERCHANT.merchant_id, False) is DEMO_MERCHANT
    assert table.get(DEMO_MERCHANT.merchant_id, True) is live
    assert table.get(OTHER_MERCHANT.merchant_id, False) is None
    assert table.of_client("live-client") is live
    assert table.of_client("nobody") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"merchant_id": DEMO_MERCHANT.merchant_id},
        {"clients": ("other-client", "demo-client")},
        {"processor_accounts": DEMO_MERCHANT.processor_accounts[:1]},
    ],
    ids=["merchant", "client", "account"],
)
def test_nobody_stands_in_the_table_twice(changes: dict[str, Any]) -> None:
    second = OTHER_MERCHANT.model_copy(update=changes)
    with pytest.raises(ValidationError, match="stands in the table twice"):
        Merchants(merchants=(DEMO_MERCHANT, second))


def with_account(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda merchant: merchant["processor_accounts"][0].update(changes)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda merchant: merchant.update(merchant_id="mer_1"),
        lambda merchant: merchant.update(fraud_fail_polcy="open"),
        with_account(processor="paypal"),
        with_account(processor_account_id="pac_d1" + "u" * 24),
        with_account(fees={"USD": {"basis_points": 10_001, "fixed_minor_units": 0}}),
        with_account(fees={"USD": {"basis_points": 1, "fixed_minor_units": -1}}),
    ],
    ids=["id", "misspelt policy", "processor", "letter u", "share over 100 %", "negative fee"],
)
def test_a_wrong_entry_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    merchant = DEMO_MERCHANT.model_dump(mode="json")
    Merchant.model_validate(merchant)
    spoil(merchant)
    with pytest.raises(ValidationError):
        Merchant.model_validate(merchant)


@pytest.mark.parametrize(
    ("minor_units", "fee"),
    [(0, 30), (1, 30), (17, 30), (18, 31), (50, 31), (51, 31), (52, 32), (10_000, 320)],
)
def test_a_fee_is_rounded_half_up(minor_units: int, fee: int) -> None:
    assert Fee(basis_points=290, fixed_minor_units=30).of(minor_units) == fee


def test_exactly_half_a_unit_is_rounded_up() -> None:
    half = Fee(basis_points=5_000, fixed_minor_units=0)
    assert [half.of(amount) for amount in (1, 2, 3)] == [1, 1, 2]


@given(st.integers(0, 10**12), st.integers(0, 10_000), st.integers(0, 10**6))
def test_a_fee_is_never_off_by_more_than_half_a_unit(amount: int, points: int, fixed: int) -> None:
    exact = Fraction(amount * points, 10_000) + fixed
    error = Fee(basis_points=points, fixed_minor_units=fixed).of(amount) - exact
    assert Fraction(-1, 2) < error <= Fraction(1, 2)


def test_an_account_is_found_only_at_its_merchant() -> None:
    mine = DEMO_MERCHANT.processor_accounts[0]
    assert DEMO_MERCHANT.account(mine.processor_account_id) is mine
    assert OTHER_MERCHANT.account(mine.processor_account_id) is None
