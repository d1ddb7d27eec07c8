from __future__ import annotations

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_router.domain.policy import (
    FIRST_POLICY,
    Mode,
    PolicyBook,
    RoutingPolicy,
    Terms,
    check_terms,
)
from smartpay_router.domain.rules import AccountLimit, Action, AmountRange, Condition, Rule
from smartpay_router.domain.splits import Share, Split

ONE, TWO, STRANGER = "pac_1", "pac_2", "pac_9"
USD_MORE_THAN_LESS = Condition(minor_units_min=9, minor_units_max=8, currencies=("USD",))


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (Terms(static_order=(ONE, STRANGER)), "static_order[1]"),
        (
            Terms(rules=(Rule("A", Action.EXCLUDE, (STRANGER,)),)),
            "rules[0].processor_account_ids[0]",
        ),
        (
            Terms(splits=(Split("A", (Share(ONE, 40), Share(STRANGER, 60))),)),
            "splits[0].shares[1].processor_account_id",
        ),
        (Terms(limits=(AccountLimit(STRANGER),)), "limits[0].processor_account_id"),
    ],
)
def test_terms_that_name_a_foreign_account_are_refused(terms: Terms, field: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_terms(terms, [ONE, TWO])
    assert (caught.value.reason, caught.value.field) == ("ACCOUNT_UNKNOWN", f"terms.{field}")


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        (Terms(mode=Mode.STATIC, canary_percent=5), "canary_percent"),
        (Terms(mode=Mode.CANARY, holdout_percent=5), "holdout_percent"),
        (
            Terms(
                rules=(Rule("A", Action.EXCLUDE, (ONE,)),),
                splits=(Split("A", (Share(ONE, 100),)),),
            ),
            "splits[0].rule_id",
        ),
        (
            Terms(rules=(Rule("A", Action.EXCLUDE, (ONE,), USD_MORE_THAN_LESS),)),
            "rules[0].condition.minor_units_max",
        ),
        (
            Terms(rules=(Rule("A", Action.EXCLUDE, (ONE,), Condition(risk_min=1, risk_max=0)),)),
            "rules[0].condition.risk_max",
        ),
        (Terms(splits=(Split("A", (Share(ONE, 40), Share(TWO, 59))),)), "splits[0].shares"),
        (Terms(splits=(Split("A", (Share(ONE, 40), Share(ONE, 60))),)), "splits[0].shares"),
        (
            Terms(limits=(AccountLimit(ONE), AccountLimit(ONE))),
            "limits[1].processor_account_id",
        ),
        (
            Terms(limits=(AccountLimit(ONE, (AmountRange("USD", 9, 8),)),)),
            "limits[0].amounts[0].minor_units_max",
        ),
        (
            Terms(limits=(AccountLimit(ONE, (AmountRange("USD"), AmountRange("USD"))),)),
            "limits[0].amounts[1].currency_code",
        ),
    ],
)
def test_terms_that_cannot_be_followed_are_refused_by_field(terms: Terms, field: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_terms(terms, [ONE, TWO])
    assert (caught.value.reason, caught.value.field) == ("POLICY_INVALID", f"terms.{field}")
    assert caught.value.remedy


def test_what_every_merchant_begins_with_is_live_and_makes_sense() -> None:
    check_terms(FIRST_POLICY.terms, [])
    assert PolicyBook().of("mer_1", livemode=True) is FIRST_POLICY


def test_a_book_never_goes_back_to_an_older_version() -> None:
    book = PolicyBook()
    book.put("mer_1", livemode=True, policy=RoutingPolicy(3, Terms(kill_switch=True)))
    book.put("mer_1", livemode=True, policy=RoutingPolicy(2, Terms()))
    assert book.of("mer_1", livemode=True).version == 3
    assert book.of("mer_1", livemode=False) is FIRST_POLICY
