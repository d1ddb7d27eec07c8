from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, OTHER_ACCOUNT, FakeClock
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.decision import Decision, bound, repeated, reported
from smartpay_router.domain.outcome import Outcome

PAYMENT, OTHER_PAYMENT = "pay_d1" + "p" * 24, "pay_d1" + "q" * 24


def test_a_fresh_decision_is_bound_to_the_payment_that_asks(
    decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    taken = bound(decision, PAYMENT, charge, clock(), reported_on=False)
    assert taken == replace(decision, payment_id=PAYMENT)


def test_a_payment_that_has_the_decision_gets_it_even_after_it_expired(
    decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    taken = bound(decision, PAYMENT, charge, clock(), reported_on=False)
    clock.advance(days=1)
    assert bound(taken, PAYMENT, charge, clock(), reported_on=False) == taken


def test_a_decision_serves_one_payment_only(
    decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    taken = bound(decision, PAYMENT, charge, clock(), reported_on=False)
    with pytest.raises(Refusal) as caught:
        bound(taken, OTHER_PAYMENT, charge, clock(), reported_on=False)
    assert (caught.value.kind, caught.value.reason) == (Kind.FAILED_PRECONDITION, "DECISION_USED")


def test_a_decision_followed_outside_can_not_be_paid_with(
    decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    with pytest.raises(Refusal) as caught:
        bound(decision, PAYMENT, charge, clock(), reported_on=True)
    assert caught.value.reason == "DECISION_USED"


@pytest.mark.parametrize(
    ("age", "refused"), [(timedelta(minutes=15), True), (timedelta(minutes=14, seconds=59), False)]
)
def test_a_decision_is_taken_until_it_expires(
    decision: Decision, charge: Charge, clock: FakeClock, age: timedelta, refused: bool
) -> None:
    at = clock() + age
    if not refused:
        assert bound(decision, PAYMENT, charge, at, reported_on=False).payment_id == PAYMENT
        return
    with pytest.raises(Refusal) as caught:
        bound(decision, PAYMENT, charge, at, reported_on=False)
    assert caught.value.reason == "DECISION_EXPIRED"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (Charge(2501, "USD", dict.fromkeys(DEMO_ACCOUNTS, "pm_card")), "amount.minor_units"),
        (Charge(2500, "EUR", dict.fromkeys(DEMO_ACCOUNTS, "pm_card")), "amount.currency_code"),
        (Charge(2500, "USD", dict.fromkeys(DEMO_ACCOUNTS, "pm_else")), "instrument.tokens"),
        (Charge(2500, "USD", {DEMO_ACCOUNTS[0]: "pm_card"}), "instrument.tokens"),
    ],
)
def test_a_decision_is_refused_for_other_terms_and_says_which(
    decision: Decision, clock: FakeClock, other: Charge, field: str
) -> None:
    with pytest.raises(Refusal) as caught:
        bound(decision, PAYMENT, other, clock(), reported_on=False)
    assert caught.value.reason == "DECISION_MISMATCH"
    assert caught.value.facts == {"differs_in": field}
    with pytest.raises(Refusal) as caught:
        repeated(decision, other)
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


def test_an_outcome_told_from_outside_becomes_a_sample_with_the_decisions_context(
    decision: Decision, clock: FakeClock
) -> None:
    clock.advance(minutes=3)
    sample = reported(decision, 0, DEMO_ACCOUNTS[1], Outcome.DECLINED, clock())
    assert sample.context == decision.route.context
    assert (sample.decision_id, sample.attempt_index) == (decision.decision_id, 0)
    assert sample.at - sample.decided_at == 180
    later = reported(decision, 1, DEMO_ACCOUNTS[1], Outcome.DECLINED, clock())
    assert later.context == decision.route.context.of_attempt(1) != decision.route.context


def test_an_outcome_of_a_decision_that_pay_used_is_refused(
    decision: Decision, clock: FakeClock
) -> None:
    used = replace(decision, payment_id=PAYMENT)
    with pytest.raises(Refusal) as caught:
        reported(used, 0, DEMO_ACCOUNTS[0], Outcome.SUCCEEDED, clock())
    assert (caught.value.kind, caught.value.reason) == (Kind.FAILED_PRECONDITION, "DECISION_USED")


def test_an_outcome_of_an_account_that_was_not_ranked_is_refused(
    decision: Decision, clock: FakeClock
) -> None:
    with pytest.raises(Refusal) as caught:
        reported(decision, 0, OTHER_ACCOUNT, Outcome.SUCCEEDED, clock())
    assert caught.value.reason == "ACCOUNT_NOT_RANKED"
    assert caught.value.field == "processor_account_id"
