"""The way of one decision: kill switch, eligibility, preferring rules, splits, mode, steering."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from smartpay_router.domain.breakers import Breakers, State
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import Context, describe
from smartpay_router.domain.eligibility import Candidate, Eligible, Exclusion, narrow
from smartpay_router.domain.learner import Arm, Estimates, Learner
from smartpay_router.domain.modes import ServedBy, learner_share, side_of
from smartpay_router.domain.outcome import arm_of
from smartpay_router.domain.policy import Mode, RoutingPolicy
from smartpay_router.domain.reasons import first_place, later_place, numbers
from smartpay_router.domain.schema import Values
from smartpay_router.domain.splits import drawn, lot
from smartpay_router.domain.steering import Option, Place, Ranking, Steering
from smartpay_router.domain.tenant import Tenant


@dataclass(frozen=True)
class RankedAccount:
    """One eligible account in a ranking.

    Attributes:
        processor_account_id: the account.
        processor: its processor's name.
        expected_success: probability of success, 0 to 1; 0 when the learner was not asked.
        fee_minor: what the account would take, in minor units of the charge's currency.
        score: upper bound of success times the share left after fee and losses, 0 to 1.
        propensity: exact probability that this account stood first, 0 to 1.
        reasons: why it stands here, a sentence each, at most 4.
        width: standard error in units of one outcome's deviation.
        upper_bound: the success that may be hoped for, 0 to 1.
        expected_value: expected success times the share left after fee and losses, 0 to 1.
        breaker: closed, open or probing.
    """

    processor_account_id: str
    processor: str
    expected_success: float
    fee_minor: int
    score: float
    propensity: float
    reasons: tuple[str, ...]
    width: float = 0.0
    upper_bound: float = 0.0
    expected_value: float = 0.0
    breaker: State = State.CLOSED


@dataclass(frozen=True)
class Route:
    """A ranking with what is needed to explain it, to learn from it, and to decide it again.

    Attributes:
        ranking: the eligible accounts, best first.
        excluded: the others.
        policy_version: the learner's.
        explored: True when the learner's own choice was not followed, to learn.
        context: what the learner saw.
        served_by: what decided the first place.
        routing_policy_version: the merchant's policy; 0 of a release that had none.
        mode: the policy's.
        alternative: what would have stood first otherwise; empty when there was no other way.
        matched_rules: rules and splits that matched, in their order.
        static_order: the eligible accounts in the static order.
        payer: a name of who pays, the same for each use of an instrument.
        risk: as the charge told.
        country: as the charge told.
        off_session: as the charge told.
    """

    ranking: tuple[RankedAccount, ...]
    excluded: tuple[Exclusion, ...]
    policy_version: str
    explored: bool
    context: Context
    served_by: ServedBy = ServedBy.NOBODY
    routing_policy_version: int = 0
    mode: Mode = Mode.LIVE
    alternative: str = ""
    matched_rules: tuple[str, ...] = ()
    static_order: tuple[str, ...] = ()
    payer: str = ""
    risk: float = 0.0
    country: str = ""
    off_session: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision up to where the learner is asked.

    Attributes:
        tenant: whose charge it is.
        charge: what is to be charged.
        policy: in force, or proposed.
        eligible: what is left of the merchant's accounts.
        context: what the learner sees.
        values: the same as an array.
        options: the eligible accounts as the steering takes them, in the static order.
        at: when, in seconds since the epoch.
        payer: a name of who pays.
    """

    tenant: Tenant
    charge: Charge
    policy: RoutingPolicy
    eligible: Eligible
    context: Context
    values: Values
    options: tuple[Option, ...]
    at: float
    payer: str

    @property
    def arms(self) -> list[Arm]:
        """What to estimate, in the order of the options."""
        return [option.arm for option in self.options]


@dataclass(frozen=True, slots=True)
class Choice:
    """Who stands first, and how probable everyone was to.

    Attributes:
        order: all eligible accounts, best first.
        chances: exact probability of each to stand first; who is missing had none.
        served_by: what decided it.
        explored: True when the learner's own choice was not followed, to learn.
        alternative: what would have stood first otherwise.
        rule_id: the rule or split that decided it, if one did.
        places: the learner's numbers by account; empty when it was not asked.
    """

    order: tuple[str, ...]
    chances: Mapping[str, float]
    served_by: ServedBy
    explored: bool = False
    alternative: str = ""
    rule_id: str = ""
    places: Mapping[str, Place] | None = None

    def matched(self, plan: Plan) -> tuple[str, ...]:
        """Lists the rules that matched, and the split that was drawn from."""
        split = (self.rule_id,) if self.served_by is ServedBy.SPLIT else ()
        return (*plan.eligible.matched_rules, *split)


@dataclass(frozen=True, slots=True)
class Dice:
    """The chance of one decision: its id is as random as any, and lets anyone throw them again."""

    decision_id: str

    def random(self) -> float:
        """Throws them: 0 to below 1, every time the same."""
        return lot("dice", self.decision_id)


class Pipeline:
    """Makes decisions; the server and the dry run of a policy go the same way.

    Args:
        steering: ranks by what was learned, and explores.
        learner: counts decisions that the steering did not make.
        breakers: tell which processors work.
        expected_loss: share of the amount that chargebacks take back per success of a model.
    """

    def __init__(
        self,
        steering: Steering,
        learner: Learner,
        breakers: Breakers,
        expected_loss: Callable[[str], float],
    ) -> None:
        self._steering = steering
        self._learner = learner
        self._breakers = breakers
        self._expected_loss = expected_loss

    def plan(
        self,
        tenant: Tenant,
        charge: Charge,
        found: Sequence[Candidate],
        policy: RoutingPolicy,
        at: datetime,
        payer: str = "",
    ) -> Plan:
        """Asks everything but the learner.

        Args:
            tenant: whose charge it is.
            charge: what is to be charged.
            found: the merchant's accounts, in its own order.
            policy: in force, or proposed.
            at: when, with a time zone.
            payer: a name of who pays, when it was kept; the charge's own when empty.
        """
        eligible = narrow(charge, found, policy.terms, at)
        context = describe(charge, at)
        return Plan(
            tenant=tenant,
            charge=charge,
            policy=policy,
            eligible=eligible,
            context=context,
            values=np.array(context.values),
            options=tuple(self._option(tenant, charge, each) for each in eligible.accounts),
            at=at.timestamp(),
            payer=payer or charge.payer(),
        )

    def route(self, plan: Plan, decision_id: str, estimates: Estimates | None = None) -> Route:
        """Decides, and counts the decision as one that is followed.

        Args:
            plan: where the learner comes in.
            decision_id: the chance.
            estimates: what a remote learner knows; asked of our own when absent.
        """
        choice = self.choose(plan, decision_id, estimates, follow=True)
        eligible = plan.eligible
        by_id = {each.processor_account_id: each for each in eligible.accounts}
        options = {option.arm.account: option for option in plan.options}
        return Route(
            ranking=tuple(
                _ranked(plan, choice, by_id[account], options[account], number)
                for number, account in enumerate(choice.order, start=1)
            ),
            excluded=eligible.excluded,
            policy_version=self._learner.version,
            explored=choice.explored,
            context=plan.context,
            served_by=choice.served_by,
            routing_policy_version=plan.policy.version,
            mode=plan.policy.terms.mode,
            alternative=choice.alternative,
            matched_rules=choice.matched(plan),
            static_order=tuple(by_id),
            payer=plan.payer,
            risk=plan.charge.risk,
            country=plan.charge.country,
            off_session=plan.charge.off_session,
        )

    def choose(
        self,
        plan: Plan,
        decision_id: str,
        estimates: Estimates | None = None,
        *,
        follow: bool = False,
    ) -> Choice:
        """Puts an account first.

        Args:
            plan: where the learner comes in.
            decision_id: the chance.
            estimates: what a remote learner knows; asked of our own when absent.
            follow: False for a decision that nobody follows: no trace of it is kept.
        """
        static = tuple(each.processor_account_id for each in plan.eligible.accounts)
        if not static:
            return Choice((), {}, ServedBy.NOBODY)
        terms = plan.policy.terms
        if terms.kill_switch:
            # The learner isn't even asked: it may be what the switch was thrown for.
            return Choice(static, {static[0]: 1.0}, ServedBy.KILL_SWITCH)
        forced = self._forced(plan, static, decision_id)
        served_by = forced.served_by if forced else side_of(plan.tenant, plan.payer, terms)
        ranking = self._steering.rank(
            plan.options,
            plan.values,
            baseline=static[0],
            budget_key=plan.tenant.key,
            at=plan.at,
            dice=Dice(decision_id),
            pull=follow and served_by.is_learner,
            estimates=estimates,
            explore_rate=terms.exploration_rate(),
        )
        if forced is not None:
            choice = _with_ranking(forced, ranking)
        else:
            choice = _by_mode(served_by, learner_share(terms), static, ranking)
        if follow and not served_by.is_learner:
            first = next(o.arm for o in plan.options if o.arm.account == choice.order[0])
            self._learner.pull(first, plan.values, plan.at)
        return choice

    def expected(self, plan: Plan, arms: Sequence[Arm]) -> list[float]:
        """Answers what success is expected of some accounts, eligible or not, 0 to 1."""
        expected: list[float] = (
            self._learner.estimates(arms, plan.values, plan.at).expected().tolist()
        )
        return expected

    def _option(self, tenant: Tenant, charge: Charge, account: Candidate) -> Option:
        arm = arm_of(account.processor_account_id, account.processor, livemode=tenant.livemode)
        # A tiny charge may cost more than it brings; it is then worth nothing, not less.
        taken = account.fee_minor / charge.amount_minor + self._expected_loss(arm.model)
        return Option(arm, min(1.0, taken))

    def _forced(self, plan: Plan, static: Sequence[str], decision_id: str) -> Choice | None:
        """Lets a rule or a split put an account first, if one of theirs can and works."""
        eligible = plan.eligible
        if not (eligible.preferred or eligible.splits):
            return None
        able = {option.arm.account for option in plan.options if self._works(option.arm)}
        if preferred := tuple(account for account in eligible.preferred if account in able):
            return Choice(
                preferred, {preferred[0]: 1.0}, ServedBy.RULE, rule_id=eligible.preferring_rule
            )
        for split in eligible.splits:
            if chances := split.chances(able):
                account = drawn(chances, "split", split.rule_id, plan.tenant.key, decision_id)
                return Choice((account,), chances, ServedBy.SPLIT, rule_id=split.rule_id)
        return None

    def _works(self, arm: Arm) -> bool:
        return self._breakers.standing(arm.account, arm.model).state is State.CLOSED


def _by_mode(
    served_by: ServedBy, share: float, static: tuple[str, ...], ranking: Ranking
) -> Choice:
    """Lets the learner or the static order serve; chances are those before the payer was known."""
    places = {place.option.arm.account: place for place in ranking.places}
    chances = {account: share * place.propensity for account, place in places.items()}
    chances[static[0]] += 1 - share
    learned = tuple(places)
    return Choice(
        order=learned if served_by.is_learner else static,
        chances=chances,
        served_by=served_by,
        explored=ranking.explored and served_by.is_learner,
        alternative=static[0] if served_by.is_learner else learned[0],
        places=places,
    )


def _with_ranking(forced: Choice, ranking: Ranking) -> Choice:
    """Lets the others follow in the learner's order."""
    places = {place.option.arm.account: place for place in ranking.places}
    behind = tuple(account for account in places if account not in forced.order)
    return replace(forced, order=forced.order + behind, places=places)


def _ranked(
    plan: Plan, choice: Choice, account: Candidate, option: Option, number: int
) -> RankedAccount:
    place = (choice.places or {}).get(account.processor_account_id)
    success = place.success if place is not None else 0.0
    count = len(choice.order)
    if number == 1:
        why = first_place(choice.served_by, choice.rule_id, place, count)
    else:
        why = later_place(choice.served_by, number, count)
    charge = plan.charge
    lost = option.fee_share - account.fee_minor / charge.amount_minor
    said = numbers(place, account.fee_minor, charge.amount_minor, charge.currency, lost)
    return RankedAccount(
        processor_account_id=account.processor_account_id,
        processor=account.processor,
        expected_success=success,
        fee_minor=account.fee_minor,
        score=place.score if place is not None else 0.0,
        propensity=choice.chances.get(account.processor_account_id, 0.0),
        reasons=(why, *said),
        width=place.width if place is not None else 0.0,
        upper_bound=place.upper if place is not None else 0.0,
        expected_value=success * (1 - option.fee_share),
        breaker=place.breaker if place is not None else State.CLOSED,
    )
