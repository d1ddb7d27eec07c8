"""What other terms would have done with the decisions already made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from smartpay_router.domain.charge import Charge
from smartpay_router.domain.decision import Decision
from smartpay_router.domain.eligibility import BY_NATURE, Candidate, Obstacle
from smartpay_router.domain.evaluation import LoggedArm, LoggedDecision
from smartpay_router.domain.outcome import Outcome, arm_of
from smartpay_router.domain.policy import RoutingPolicy, Terms
from smartpay_router.domain.route import Choice, Pipeline, Plan

EXAMPLES_MAX = 10
"""Decisions shown per kind of change: enough to look at, not to page through."""

CHANGES_MAX = 100
"""Kinds of change shown, the most frequent ones; ten accounts have no more."""


@dataclass(frozen=True, slots=True)
class Past:
    """A decision and what became of the first try of its first place.

    Attributes:
        decision: as it was stored.
        outcome: None while it is not known, or when another account was tried first.
    """

    decision: Decision
    outcome: Outcome | None


@dataclass(slots=True)
class Kind:
    """Decisions whose first place would change in the same way."""

    decisions: int = 0
    decision_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Sum:
    """What first places of one currency take and bring; amounts in minor units.

    Attributes:
        decisions: those with a first place before and after.
        amount: what they were to charge.
        stored_fee: of the first places as they were.
        proposed_fee: of the first places as they would be.
        stored_success: sum of their expected success, as it is believed now.
        proposed_success: the same as they would be.
    """

    decisions: int = 0
    amount: int = 0
    stored_fee: int = 0
    proposed_fee: int = 0
    stored_success: float = 0.0
    proposed_success: float = 0.0


@dataclass(slots=True)
class Report:
    """What was counted so far.

    Attributes:
        decisions: decided again.
        skipped: of a release that kept too little.
        changed: with another first place.
        unroutable_stored: without any account then.
        unroutable_proposed: without any account under the terms.
        excluded_stored: accounts left out then, by obstacle.
        excluded_proposed: accounts that would be.
        matches: by rule and split, how many decisions it would match.
        changes: by first place before and after.
        sums: by currency.
    """

    decisions: int = 0
    skipped: int = 0
    changed: int = 0
    unroutable_stored: int = 0
    unroutable_proposed: int = 0
    excluded_stored: Counter[str] = field(default_factory=Counter)
    excluded_proposed: Counter[str] = field(default_factory=Counter)
    matches: dict[str, int] = field(default_factory=dict)
    changes: dict[tuple[str, str], Kind] = field(default_factory=dict)
    sums: dict[str, Sum] = field(default_factory=dict)

    def most_frequent(self) -> list[tuple[tuple[str, str], Kind]]:
        """Lists changes, most frequent first."""
        return sorted(self.changes.items(), key=lambda item: -item[1].decisions)[:CHANGES_MAX]


class DryRun:
    """Decides past charges again.

    Args:
        pipeline: the way of every decision; nothing that it knows is changed.
        terms: as they would be.
        accounts: the merchant's, in its own order.
        at: the present, in seconds; the learner is asked what it believes now.
    """

    def __init__(
        self, pipeline: Pipeline, terms: Terms, accounts: Sequence[str], at: float
    ) -> None:
        self._pipeline = pipeline
        self._policy = RoutingPolicy(0, terms)
        self._places = {account: place for place, account in enumerate(accounts)}
        self._at = at
        self.report = Report(matches=dict.fromkeys(terms.rule_ids(), 0))

    def count(self, pasts: Iterable[Past]) -> None:
        """Decides again and counts what would change."""
        for past in pasts:
            self._count(past.decision)

    def chances(self, past: Past) -> tuple[LoggedDecision, list[float]] | None:
        """Answers a decision as off-policy evaluation takes it, and the terms' chances.

        None when it can't be learned from: how it ended is not known or says nothing, or too
        little of it was kept.
        """
        decision, route = past.decision, past.decision.route
        if not _is_whole(decision) or past.outcome is None or not route.context.is_current():
            return None
        rails = {ranked.processor for ranked in route.ranking}
        success = past.outcome.reward(several_rails=len(rails) > 1)
        if success is None:
            return None
        logged = {ranked.processor_account_id: ranked.propensity for ranked in route.ranking}
        able = [each for each in self._candidates(decision) if not each.obstacles]
        accounts = [each.processor_account_id for each in able]
        choice = self._choose(decision)[1]
        arms = tuple(
            LoggedArm(
                each.processor_account_id,
                min(1.0, each.fee_minor / decision.amount_minor),
                logged.get(each.processor_account_id, 0.0),
            )
            for each in able
        )
        first = accounts.index(route.ranking[0].processor_account_id)
        target = [choice.chances.get(account, 0.0) for account in accounts]
        return LoggedDecision(route.context.values, arms, first, success), target

    def _count(self, decision: Decision) -> None:
        report, route = self.report, decision.route
        if not _is_whole(decision):
            report.skipped += 1
            return
        plan, choice = self._choose(decision)
        stored = route.ranking[0].processor_account_id if route.ranking else ""
        proposed = choice.order[0] if choice.order else ""
        report.decisions += 1
        report.unroutable_stored += not stored
        report.unroutable_proposed += not proposed
        for exclusion in route.excluded:
            report.excluded_stored.update(Obstacle(exclusion.obstacles).codes())
        for exclusion in plan.eligible.excluded:
            report.excluded_proposed.update(Obstacle(exclusion.obstacles).codes())
        for rule_id in choice.matched(plan):
            report.matches[rule_id] += 1
        if stored and proposed:
            self._add_up(decision, plan, stored, proposed)
        if stored != proposed:
            report.changed += 1
            kind = report.changes.setdefault((stored, proposed), Kind())
            kind.decisions += 1
            if len(kind.decision_ids) < EXAMPLES_MAX:
                kind.decision_ids.append(decision.decision_id)

    def _add_up(self, decision: Decision, plan: Plan, stored: str, proposed: str) -> None:
        found = {each.processor_account_id: each for each in self._candidates(decision)}
        pair = [found[stored], found[proposed]]
        before, after = self._pipeline.expected(
            plan,
            [
                arm_of(e.processor_account_id, e.processor, livemode=decision.tenant.livemode)
                for e in pair
            ],
        )
        total = self.report.sums.setdefault(decision.currency, Sum())
        total.decisions += 1
        total.amount += decision.amount_minor
        total.stored_fee += pair[0].fee_minor
        total.proposed_fee += pair[1].fee_minor
        total.stored_success += before
        total.proposed_success += after

    def _choose(self, decision: Decision) -> tuple[Plan, Choice]:
        found = self._candidates(decision)
        route = decision.route
        plan = self._pipeline.plan(
            decision.tenant,
            Charge(
                decision.amount_minor,
                decision.currency,
                {e.processor_account_id: "" for e in found if not e.obstacles & Obstacle.NO_TOKEN},
                risk=route.risk,
                country=route.country,
                off_session=route.off_session,
            ),
            found,
            self._policy,
            decision.created_at,
            payer=route.payer,
        )
        plan = replace(plan, at=self._at)
        return plan, self._pipeline.choose(plan, decision.decision_id)

    def _candidates(self, decision: Decision) -> list[Candidate]:
        """Rebuilds the accounts as they stood before the policy of then was asked."""
        route = decision.route
        found = [
            Candidate(r.processor_account_id, r.processor, r.fee_minor, Obstacle(0))
            for r in route.ranking
        ]
        found += [
            Candidate(
                e.processor_account_id, e.processor, e.fee_minor, Obstacle(e.obstacles) & BY_NATURE
            )
            for e in route.excluded
        ]
        last = len(self._places)
        return sorted(found, key=lambda e: self._places.get(e.processor_account_id, last))


def _is_whole(decision: Decision) -> bool:
    """Tells whether a release made it that kept all there is to know."""
    return decision.route.routing_policy_version > 0
