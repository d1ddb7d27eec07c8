"""How a decision came about, step by step, in words."""

from __future__ import annotations

from smartpay_router.domain.decision import Decision
from smartpay_router.domain.modes import ServedBy
from smartpay_router.domain.policy import FIRST_POLICY

_WHO = {
    ServedBy.KILL_SWITCH: "The kill switch was on, so the static order decided.",
    ServedBy.STATIC: "The mode left the first place to the static order.",
    ServedBy.SHADOW: "The static order decided, and the learner only watched.",
    ServedBy.CONTROL: "A hash of the payer gave this payment to the static order, as no canary.",
    ServedBy.CANARY: "A hash of the payer gave this payment to the learner, as a canary.",
    ServedBy.HOLDOUT: "A hash of the payer gave this payment to the static order, to compare with.",
    ServedBy.LIVE: "The learner decided.",
}


def steps_of(decision: Decision) -> list[str]:
    """Tells the steps of a decision, a sentence each, in the order in which they were taken."""
    route = decision.route
    if not route.routing_policy_version:
        return ["An earlier release decided, which kept no more than its reasons."]
    is_first = route.routing_policy_version == FIRST_POLICY.version
    steps = [
        f"Version {route.routing_policy_version} of the routing policy was in force"
        + (", which every merchant begins with." if is_first else "."),
        f"{len(route.ranking)} of {len(route.ranking) + len(route.excluded)} accounts could make"
        " the charge.",
    ]
    steps += [f"{each.processor_account_id}: {each.message}" for each in route.excluded]
    if route.matched_rules:
        steps.append(f"These rules matched: {', '.join(route.matched_rules)}.")
    if not route.ranking:
        return steps
    first = route.ranking[0]
    if who := _WHO.get(route.served_by):
        steps.append(who)
    steps.append(f"{first.processor_account_id}: {first.reasons[0]}")
    if route.alternative:
        by = "The static order" if route.served_by.is_learner else "The learner"
        same = route.alternative == first.processor_account_id
        steps.append(f"{by} would have put {'the same' if same else route.alternative} first.")
    return steps
