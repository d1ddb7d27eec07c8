"""The learner against the static order, among payers whom a hash assigned to one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from smartpay_router.domain.modes import ServedBy, learner_share
from smartpay_router.domain.outcome import Outcome
from smartpay_router.domain.policy import Terms
from smartpay_router.domain.sequential_test import Difference, HoldoutTest


@dataclass(frozen=True, slots=True)
class Try:
    """The first try of a decision whose outcome is known.

    Attributes:
        payer: a name of who paid.
        served_by: who chose.
        outcome: how it ended.
        several_rails: whether accounts of several processors were ranked.
        fee_share: what the tried account takes of the amount, 0 to 1.
    """

    payer: str
    served_by: ServedBy
    outcome: Outcome
    several_rails: bool
    fee_share: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was counted, and how sure it is.

    Attributes:
        learner_tries: payers on the learner's side.
        learner_succeeded: how many of them succeeded.
        static_tries: payers on the static order's side.
        static_succeeded: how many of them succeeded.
        conversion: the learner's share of successes less the static order's.
        net_value: the same of the amount that is left after failures and fees.
    """

    learner_tries: int
    learner_succeeded: int
    static_tries: int
    static_succeeded: int
    conversion: Difference
    net_value: Difference


def compare(tries: Iterable[Try], terms: Terms) -> Comparison | None:
    """Compares both sides under one version of a policy.

    Each payer counts once, with the first payment: further ones of the same payer are not drawn
    anew, so they would count luck twice.

    Args:
        tries: oldest first, all under the same terms.
        terms: those.

    Answers None when the terms give all payers to one side, or nothing is known yet.
    """
    share = learner_share(terms)
    if not 0 < share < 1:
        return None
    conversion, net_value = (HoldoutTest(min(share, 1 - share)) for _ in range(2))
    seen: set[str] = set()
    counts = {True: [0, 0], False: [0, 0]}
    for each in tries:
        success = each.outcome.reward(several_rails=each.several_rails)
        if success is None or each.payer in seen:
            continue
        seen.add(each.payer)
        is_learner = each.served_by.is_learner
        counts[is_learner][0] += 1
        counts[is_learner][1] += success > 0
        conversion.observe(live=is_learner, live_share=share, outcome=success)
        kept = success * (1 - each.fee_share)
        net_value.observe(live=is_learner, live_share=share, outcome=kept)
    if not seen:
        return None
    (tries_learner, learner), (tries_static, static) = counts[True], counts[False]
    return Comparison(
        tries_learner,
        learner,
        tries_static,
        static,
        conversion.difference(),
        net_value.difference(),
    )
