from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from smartpay_chassis.merchants import Fee, ProcessorAccount
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_ACCOUNT
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.eligibility import Eligible, Obstacle, candidates, narrow
from smartpay_router.domain.policy import Terms
from smartpay_router.domain.rules import AccountLimit, Action, AmountRange, Condition, Rule

ACCOUNTS = DEMO_MERCHANT.processor_accounts
FIRST, SECOND = DEMO_ACCOUNTS
BOTH = {FIRST: "pm_1", SECOND: "pm_2"}
USD = Charge(2500, "USD", BOTH)
ANY = Terms()
NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def sort_out(
    charge: Charge, terms: Terms = ANY, accounts: Sequence[ProcessorAccount] = ACCOUNTS
) -> Eligible:
    return narrow(charge, candidates(charge, accounts), terms, NOON)


def eligible(found: Eligible) -> list[str]:
    return [account.processor_account_id for account in found.accounts]


def codes(found: Eligible) -> dict[str, tuple[str, ...]]:
    return {e.processor_account_id: Obstacle(e.obstacles).codes() for e in found.excluded}


def test_an_account_with_token_currency_and_switch_is_eligible() -> None:
    found = sort_out(USD)
    assert eligible(found) == [FIRST, SECOND]
    assert found.excluded == ()


def test_an_account_without_a_token_of_the_instrument_is_left_out() -> None:
    found = sort_out(Charge(2500, "USD", {SECOND: "pm_2"}))
    assert eligible(found) == [SECOND]
    assert codes(found) == {FIRST: ("NO_TOKEN",)}


def test_an_account_is_left_out_for_a_currency_it_has_no_fee_for() -> None:
    found = sort_out(Charge(2500, "EUR", BOTH))
    assert eligible(found) == [FIRST]
    assert codes(found) == {SECOND: ("CURRENCY_UNSUPPORTED",)}
    assert "EUR" in found.excluded[0].message


def test_a_disabled_account_is_left_out_although_it_has_a_token() -> None:
    off = ACCOUNTS[0].model_copy(update={"enabled": False})
    found = sort_out(Charge(2500, "USD", {FIRST: "pm_1"}), accounts=[off])
    assert codes(found) == {FIRST: ("ACCOUNT_DISABLED",)}


def test_every_obstacle_is_logged_and_the_first_one_is_told() -> None:
    off = ACCOUNTS[1].model_copy(update={"enabled": False})
    excluded = sort_out(Charge(2500, "EUR", {}), accounts=[off]).excluded[0]
    assert excluded.obstacles == 7
    assert excluded.code == "ACCOUNT_DISABLED"


def test_a_wallet_cannot_be_charged_while_its_payer_is_away() -> None:
    wallet = ACCOUNTS[0].model_copy(update={"processor": "solana"})
    away = Charge(2500, "USD", {FIRST: "wallet"}, off_session=True)
    assert codes(sort_out(away, accounts=[wallet])) == {FIRST: ("PAYER_ABSENT",)}
    assert eligible(sort_out(Charge(2500, "USD", {FIRST: "wallet"}), accounts=[wallet])) == [FIRST]


def test_a_token_of_a_foreign_account_is_refused_by_name() -> None:
    with pytest.raises(Refusal) as caught:
        sort_out(Charge(2500, "USD", {FIRST: "pm_1", OTHER_ACCOUNT: "pm_2"}))
    refusal = caught.value
    assert (refusal.kind, refusal.reason) == (Kind.INVALID_ARGUMENT, "ACCOUNT_UNKNOWN")
    assert refusal.field == "instrument.tokens"
    assert refusal.facts == {"processor_account_id": OTHER_ACCOUNT}


def test_a_rule_leaves_its_accounts_out_and_is_named() -> None:
    found = sort_out(USD, Terms(rules=(Rule("NOT_FIRST", Action.EXCLUDE, (FIRST,)),)))
    assert eligible(found) == [SECOND]
    assert codes(found) == {FIRST: ("RULE_EXCLUDED",)}
    assert found.excluded[0].rule_ids == ("NOT_FIRST",)
    assert "NOT_FIRST" in found.excluded[0].message
    assert found.matched_rules == ("NOT_FIRST",)


def test_a_rule_that_requires_accounts_leaves_all_others_out() -> None:
    found = sort_out(USD, Terms(rules=(Rule("ONLY_SECOND", Action.REQUIRE, (SECOND,)),)))
    assert eligible(found) == [SECOND]
    assert codes(found) == {FIRST: ("RULE_NOT_REQUIRED",)}


def test_rules_that_contradict_each_other_leave_nobody() -> None:
    rules = (Rule("A", Action.REQUIRE, (FIRST,)), Rule("B", Action.REQUIRE, (SECOND,)))
    found = sort_out(USD, Terms(rules=rules))
    assert eligible(found) == []
    assert {e.processor_account_id: e.rule_ids for e in found.excluded} == {
        FIRST: ("B",),
        SECOND: ("A",),
    }


def test_a_disabled_rule_and_one_that_does_not_match_are_not_asked() -> None:
    large = Condition(minor_units_min=2501, currencies=("USD",))
    rules = (
        Rule("OFF", Action.EXCLUDE, (FIRST,), disabled=True),
        Rule("LARGE", Action.EXCLUDE, (FIRST,), large),
    )
    found = sort_out(USD, Terms(rules=rules))
    assert eligible(found) == [FIRST, SECOND]
    assert found.matched_rules == ()


@pytest.mark.parametrize(("amount", "left_out"), [(99, True), (100, False), (5001, True)])
def test_an_account_takes_only_amounts_within_its_limits(amount: int, left_out: bool) -> None:
    terms = Terms(limits=(AccountLimit(FIRST, (AmountRange("USD", 100, 5000),)),))
    found = sort_out(Charge(amount, "USD", BOTH), terms)
    assert (codes(found) == {FIRST: ("AMOUNT_OUT_OF_RANGE",)}) is left_out
    assert eligible(sort_out(Charge(1, "EUR", BOTH), terms)) == [FIRST]


def test_an_account_takes_payers_of_its_countries_and_those_of_unknown_country() -> None:
    terms = Terms(limits=(AccountLimit(FIRST, countries=("DE",)),))
    abroad = sort_out(Charge(2500, "USD", BOTH, country="US"), terms)
    assert codes(abroad) == {FIRST: ("REGION_UNSUPPORTED",)}
    for country in ("DE", ""):
        found = sort_out(Charge(2500, "USD", BOTH, country=country), terms)
        assert eligible(found) == [FIRST, SECOND]


def test_a_fee_of_just_the_cap_passes_and_one_minor_unit_more_does_not() -> None:
    # 103 and 110 of 2500 minor units are 412 and 440 in 10,000.
    assert eligible(sort_out(USD, Terms(fee_basis_points_max=412))) == [FIRST]
    assert eligible(sort_out(USD, Terms(fee_basis_points_max=411))) == []
    assert codes(sort_out(USD, Terms(fee_basis_points_max=439))) == {SECOND: ("FEE_OVER_CAP",)}


def test_the_static_order_puts_named_accounts_first_and_keeps_the_rest() -> None:
    assert eligible(sort_out(USD, Terms(static_order=(SECOND,)))) == [SECOND, FIRST]


def test_a_half_of_a_minor_unit_of_fee_is_rounded_up() -> None:
    account = ProcessorAccount(
        processor_account_id=FIRST,
        processor="stripe",
        name="one percent",
        fees={"USD": Fee(basis_points=100, fixed_minor_units=7)},
    )
    fee = account.fees["USD"]
    assert [fee.of(49), fee.of(50), fee.of(150)] == [7, 8, 9]
