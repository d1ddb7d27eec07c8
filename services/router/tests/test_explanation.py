from __future__ import annotations

from dataclasses import replace

import pytest

from smartpay_chassis.testing import DEMO_ACCOUNTS
from smartpay_router.domain.decision import Decision
from smartpay_router.domain.explanation import steps_of
from smartpay_router.domain.modes import ServedBy

FIRST, SECOND = DEMO_ACCOUNTS


def explained(decision: Decision, **facts: object) -> list[str]:
    route = replace(decision.route, **{"routing_policy_version": 2, **facts})  # type: ignore[arg-type]
    return steps_of(replace(decision, route=route))


def test_a_decision_of_an_earlier_release_says_that_little_was_kept(decision: Decision) -> None:
    assert explained(decision, routing_policy_version=0) == [
        "An earlier release decided, which kept no more than its reasons."
    ]


def test_the_steps_tell_policy_eligibility_rules_and_who_decided(decision: Decision) -> None:
    assert explained(
        decision, served_by=ServedBy.HOLDOUT, matched_rules=("A", "B"), alternative=SECOND
    ) == [
        "Version 2 of the routing policy was in force.",
        "2 of 3 accounts could make the charge.",
        f"{decision.route.excluded[0].processor_account_id}: No token.",
        "These rules matched: A, B.",
        "A hash of the payer gave this payment to the static order, to compare with.",
        f"{FIRST}: It is a test.",
        f"The learner would have put {SECOND} first.",
    ]


def test_the_first_version_is_called_what_everybody_begins_with(decision: Decision) -> None:
    steps = explained(decision, routing_policy_version=1, served_by=ServedBy.LIVE)
    assert "which every merchant begins with" in steps[0]


def test_nobody_eligible_ends_the_story(decision: Decision) -> None:
    assert explained(decision, ranking=()) == [
        "Version 2 of the routing policy was in force.",
        "0 of 1 accounts could make the charge.",
        f"{decision.route.excluded[0].processor_account_id}: No token.",
    ]


@pytest.mark.parametrize("served_by", ServedBy)
def test_whoever_decided_every_step_is_a_sentence(decision: Decision, served_by: ServedBy) -> None:
    steps = explained(decision, served_by=served_by, alternative=FIRST)
    assert all(step.endswith(".") for step in steps)
