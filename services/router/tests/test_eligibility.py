from __future__ import annotations

import pytest

from smartpay_chassis.merchants import Fee, ProcessorAccount
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_ACCOUNT
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.eligibility import sort_out

ACCOUNTS = DEMO_MERCHANT.processor_accounts
FIRST, SECOND = DEMO_ACCOUNTS


def test_an_account_with_token_currency_and_switch_is_eligible() -> None:
    eligible, excluded = sort_out(Charge(2500, "USD", {FIRST: "pm_1", SECOND: "pm_2"}), ACCOUNTS)
    assert [a.processor_account_id for a in eligible] == [FIRST, SECOND]
    assert excluded == ()


def test_an_account_without_a_token_of_the_instrument_is_left_out() -> None:
    eligible, excluded = sort_out(Charge(2500, "USD", {SECOND: "pm_2"}), ACCOUNTS)
    assert [a.processor_account_id for a in eligible] == [SECOND]
    assert [(e.processor_account_id, e.code) for e in excluded] == [(FIRST, "NO_TOKEN")]


def test_an_account_is_left_out_for_a_currency_it_has_no_fee_for() -> None:
    eligible, excluded = sort_out(Charge(2500, "EUR", {FIRST: "pm_1", SECOND: "pm_2"}), ACCOUNTS)
    assert [a.processor_account_id for a in eligible] == [FIRST]
    assert [(e.processor_account_id, e.code) for e in excluded] == [
        (SECOND, "CURRENCY_UNSUPPORTED")
    ]
    assert "EUR" in excluded[0].message


def test_a_disabled_account_is_left_out_although_it_has_a_token() -> None:
    off = ACCOUNTS[0].model_copy(update={"enabled": False})
    _, excluded = sort_out(Charge(2500, "USD", {FIRST: "pm_1"}), [off])
    assert [e.code for e in excluded] == ["ACCOUNT_DISABLED"]


def test_a_token_of_a_foreign_account_is_refused_by_name() -> None:
    with pytest.raises(Refusal) as caught:
        sort_out(Charge(2500, "USD", {FIRST: "pm_1", OTHER_ACCOUNT: "pm_2"}), ACCOUNTS)
    refusal = caught.value
    assert (refusal.kind, refusal.reason) == (Kind.INVALID_ARGUMENT, "ACCOUNT_UNKNOWN")
    assert refusal.field == "instrument.tokens"
    assert refusal.facts == {"processor_account_id": OTHER_ACCOUNT}


def test_a_half_of_a_minor_unit_of_fee_is_rounded_up() -> None:
    account = ProcessorAccount(
        processor_account_id=FIRST,
        processor="stripe",
        name="one percent",
        fees={"USD": Fee(basis_points=100, fixed_minor_units=7)},
    )
    fee = account.fees["USD"]
    assert [fee.of(49), fee.of(50), fee.of(150)] == [7, 8, 9]
