"""The steering: one object that ranks and learns, for the server and the simulator alike.

It builds the exact probability of every account to stand first, under breakers, probes, the
exploration budget and epsilon, and only then draws once. What it logs as a propensity is therefore
what off-policy evaluation may divide by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from smartpay_router.domain.breakers import Breakers, Kind, Standing, State, Verdict
from smartpay_router.domain.exploration import Budgets, leads_over
from smartpay_router.domain.held_back import Held, HeldBack
from smartpay_router.domain.learner import Arm, Estimates, Learner


@dataclass(frozen=True, slots=True)
class SteeringTuning:
    """How much is left to chance, and how much hope and doubt count.

    Attributes:
        exploration: standard errors of optimism in the score; chosen by simulation.
        caution: standard errors by which an account must lead the baseline to count as better, and
            which price its choice before that.
        proof_outcomes: outcomes of a charge's accounts together of which caution is 1.4 times as
            large, and of fewer larger still: errors estimated from few outcomes are too small.
        epsilon: share of decisions whose first place is drawn evenly among healthy accounts. Every
            account then has a known chance, without which no log can judge another policy.
        spared_share: the part of epsilon that is left while a merchant's budget is in debt, and to
            an account whose breaker is open: what is drawn there is lost, and probes tell more.
        probe_share: share of decisions that try an open account which would lead again, each.
        eager_share: the same once a probe succeeded, or when none was sent for a while: an account
            that is back should not wait for hundreds of payments, nor a small merchant for weeks.
        probe_wait_seconds: how long without a probe is a while; doubles with each that failed.
        probe_wait_seconds_max: the longest such wait.
        held_max: outcomes held back per account while an outage is suspected; an outage is told in
            14 nearly always. What isn't told in so many is a change, which has to be learned.

    Raises:
        ValueError: when epsilon and probes together could take more than all decisions.
    """

    exploration: float = 0.3
    caution: float = 1.5
    proof_outcomes: int = 100
    epsilon: float = 0.005
    spared_share: float = 0.1
    probe_share: float = 0.01
    eager_share: float = 0.25
    probe_wait_seconds: float = 7_200.0
    probe_wait_seconds_max: float = 14_400.0
    held_max: int = 25

    def __post_init__(self) -> None:
        if self.epsilon + self.eager_share > 1:
            raise ValueError("epsilon and eager_share must leave the leader a chance")


class Reason(StrEnum):
    """Why an account stands where it stands; the server has the words."""

    ONLY = "only"
    LEADS = "leads"
    PROVEN = "proven"
    TOKEN = "token"
    BASELINE_KEPT = "baseline_kept"
    DRAWN = "drawn"
    PROBE = "probe"
    BREAKER_OPEN = "breaker_open"
    ALL_OPEN = "all_open"
    BY_SCORE = "by_score"


@dataclass(frozen=True, slots=True)
class Option:
    """An account that can make the charge.

    Attributes:
        arm: the account and whose outcomes it shares.
        fee_share: what it takes of the amount, 0 to 1.
    """

    arm: Arm
    fee_share: float


@dataclass(frozen=True, slots=True)
class Place:
    """One account in a ranking.

    Attributes:
        option: the account.
        success: expected probability of success, 0 to 1.
        width: standard error in units of one outcome's deviation.
        upper: the success that may be hoped for, 0 to 1.
        score: that, times the share left after the fee.
        propensity: exact probability that it stood first, 0 to 1.
        breaker: closed, open or probing.
        reasons: why it stands here, as codes of `Reason`.
    """

    option: Option
    success: float
    width: float
    upper: float
    score: float
    propensity: float
    breaker: State
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Accounts, best first.

    Attributes:
        places: the accounts.
        explored: True when the first place isn't the one with the highest probability.
        why_first: the first reason of the first place.
    """

    places: tuple[Place, ...]
    explored: bool
    why_first: str


class Dice(Protocol):
    """Chance that can be thrown again, for instance `random.Random`."""

    def random(self) -> float:
        """Answers a number from 0 to below 1, evenly drawn."""
        ...


@runtime_checkable
class BulkLearner(Protocol):
    """A learner that can take a whole log in at once."""

    def learn_many(
        self,
        arms: Sequence[Arm],
        matrix: NDArray[np.float64],
        rewards: NDArray[np.float64],
        decided_at: NDArray[np.float64],
    ) -> None:
        """Takes in many outcomes, with the sums of doing it one by one."""
        ...


class Steering:
    """Ranks accounts, and takes their outcomes in; everything it knows is in what it was given."""

    def __init__(
        self,
        learner: Learner,
        breakers: Breakers,
        budgets: Budgets,
        tuning: SteeringTuning | None = None,
    ) -> None:
        self._learner = learner
        self._breakers = breakers
        self._budgets = budgets
        self._tuning = tuning or SteeringTuning()
        self._held = HeldBack(self._tuning.held_max)
        self._probes: dict[Arm, tuple[float, int]] = {}

    def rank(
        self,
        options: Sequence[Option],
        values: NDArray[np.float64],
        *,
        baseline: str | None,
        budget_key: str,
        at: float,
        dice: Dice,
        pull: bool = True,
        estimates: Estimates | None = None,
        explore_rate: float | None = None,
    ) -> Ranking:
        """Ranks the accounts for one charge and draws the first place.

        Args:
            options: the eligible accounts, in the merchant's order, which breaks ties.
            values: the context.
            baseline: the account the merchant's own order would take; None or one that is not
                among the options or not closed binds nothing.
            budget_key: whose exploration budget pays.
            at: the present, in seconds.
            dice: the chance; drawn from once, and only when there is a choice.
            pull: False for a ranking that nobody follows: no trace of it is kept.
            estimates: of another learner, in the options' order; our own are used when None.
            explore_rate: what this merchant lends to learning, as a share of what its own order
                brings; everybody's when None.

        Raises:
            ValueError: when there is no option.
        """
        if not options:
            raise ValueError("there is no account to rank")
        if estimates is None:
            estimates = self._learner.estimates([option.arm for option in options], values, at)
        success = estimates.expected().tolist()
        upper = estimates.upper(self._tuning.exploration).tolist()
        left = [1 - option.fee_share for option in options]
        standings = [self._breakers.standing(o.arm.account, o.arm.model) for o in options]
        closed = [i for i, s in enumerate(standings) if s.state is State.CLOSED]
        worth = [bound * share for bound, share in zip(upper, left, strict=True)]
        usable = closed or list(range(len(options)))
        if not closed:
            worth = [w * s.alive() for w, s in zip(worth, standings, strict=True)]
        by_worth = sorted(usable, key=lambda i: -worth[i])

        leader, why = by_worth[0], Reason.LEADS
        base = next((i for i in closed if options[i].arm.account == baseline), None)
        leads = prices = [0.0] * len(options)
        if base is not None:
            bar = success[base] * left[base]
            known = sum(estimates.outcomes) or 0.5
            caution = self._tuning.caution * math.sqrt(1 + self._tuning.proof_outcomes / known)
            leads = leads_over(success, left, estimates.spread.tolist(), base, caution)
            prices = [
                # Proven ones pay in; what is suspected, or open, may cost all there is.
                lead
                if lead >= 0 and standing.state is State.CLOSED
                else max(-bar, min(0.0, lead) - bar * standing.suspicion)
                for lead, standing in zip(leads, standings, strict=True)
            ]
            if pull:
                self._budgets.lend(budget_key, bar, explore_rate)
        tokens = self._budgets.tokens(budget_key)
        if len(options) == 1:
            why = Reason.ONLY
        elif not closed:
            why = Reason.ALL_OPEN
        elif base is not None and leader != base:
            if leads[leader] >= 0:
                why = Reason.PROVEN
            elif tokens + prices[leader] >= 0:
                why = Reason.TOKEN
            else:
                leader = next(i for i in by_worth if leads[i] >= 0)
                why = Reason.BASELINE_KEPT if leader == base else Reason.PROVEN

        # An open account that would not lead if it were back has nothing to hurry for.
        wanted = [
            i
            for i in range(len(options))
            if i not in usable
            and (
                options[i].arm.account == baseline or (leads[i] >= 0 and worth[i] >= worth[leader])
            )
        ]
        indebted = base is not None and tokens < 0
        chances = self._chances(options, standings, wanted, leader, at, indebted=indebted)
        first = _draw(chances, dice) if len(options) > 1 else 0
        if first != leader:
            why = Reason.PROBE if first in wanted else Reason.DRAWN
        if pull:
            self._budgets.book(budget_key, prices[first])
            if first not in usable:
                answered = standings[first].succeeded + standings[first].failed
                self._probes[options[first].arm] = at, answered
            self._learner.pull(options[first].arm, values, at)

        behind = [i for i in by_worth if i != first]
        behind += sorted(
            (i for i in range(len(options)) if i not in usable and i != first),
            key=lambda i: -worth[i],
        )
        places = tuple(
            Place(
                option=options[i],
                success=success[i],
                width=float(estimates.width[i]),
                upper=upper[i],
                score=upper[i] * left[i],
                propensity=chances[i],
                breaker=standings[i].state,
                reasons=_reasons(why if i == first else None, standings[i]),
            )
            for i in (first, *behind)
        )
        return Ranking(places, explored=first != leader, why_first=why)

    def settle(
        self,
        arm: Arm,
        values: NDArray[np.float64],
        kind: Kind | None,
        reward: float | None,
        decided_at: float,
        at: float,
        *,
        pulled: bool = True,
    ) -> None:
        """Takes an outcome in: judges it, and teaches it unless it is an outage's.

        An outcome is held back while an outage is suspected, and taught when the suspicion ends.

        Args:
            arm: what was tried.
            values: the context of the decision.
            kind: what the breakers hear; None when it says nothing about the account's health.
            reward: what the learner hears, 0 to 1; None when it teaches nothing.
            decided_at: when the decision fell, in seconds.
            at: the present, in seconds.
            pulled: False when no pull waits for this outcome.

        Raises:
            ValueError: when the reward is not within 0 to 1; nothing was taken in then.
        """
        if reward is not None and not 0 <= reward <= 1:
            raise ValueError("a reward lies within 0 to 1")
        verdict = self._breakers.judge(arm.account, arm.model, kind, decided_at, at)
        for ripe_arm, ripe in self._sift(arm, values, verdict, reward, decided_at, pulled=pulled):
            self._learner.learn(ripe_arm, ripe.values, ripe.reward, ripe.decided_at)

    def settle_many(
        self,
        arms: Sequence[Arm],
        matrix: NDArray[np.float64],
        kinds: Sequence[Kind | None],
        rewards: Sequence[float | None],
        decided_at: Sequence[float],
        at: Sequence[float],
    ) -> None:
        """Takes logged outcomes in, in their order, as `settle` does one by one, but much faster.

        For replaying a log: no pulls are waiting for these outcomes.

        Args:
            arms: what was tried.
            matrix: the contexts of the decisions, shape [n, d].
            kinds: what the breakers hear.
            rewards: what the learner hears.
            decided_at: when the decisions fell, in seconds.
            at: when the outcomes came, in seconds.

        Raises:
            ValueError: when a reward is not within 0 to 1; nothing was taken in then.
        """
        if not all(reward is None or 0 <= reward <= 1 for reward in set(rewards)):
            raise ValueError("a reward lies within 0 to 1")
        at_once: list[int] = []
        late: list[tuple[Arm, Held]] = []
        waiting, unjudged, learn = self._held.arms, Verdict.UNJUDGED, Verdict.LEARN
        verdicts = self._breakers.judge_many(arms, kinds, decided_at, at)
        # Lazily: what a verdict leads to must be done before the next outcome is judged.
        for n, (arm, reward, verdict) in enumerate(zip(arms, rewards, verdicts, strict=True)):
            if (verdict is learn or verdict is unjudged) and arm not in waiting:
                if reward is not None:
                    at_once.append(n)
            else:
                late += self._sift(arm, matrix[n], verdict, reward, decided_at[n], pulled=False)
        if not isinstance(self._learner, BulkLearner):
            late += [(arms[n], Held(matrix[n], rewards[n] or 0.0, decided_at[n])) for n in at_once]
            for arm, held in late:
                self._learner.learn(arm, held.values, held.reward, held.decided_at)
            return
        self._learner.learn_many(
            [arms[n] for n in at_once] + [arm for arm, _ in late],
            np.vstack((matrix[at_once], *(held.values for _, held in late))),
            np.array([rewards[n] for n in at_once] + [held.reward for _, held in late], np.float64),
            np.array([decided_at[n] for n in at_once] + [held.decided_at for _, held in late]),
        )

    def state(self) -> bytes:
        """Answers what the breakers know and which outcomes are held back, as JSON.

        Budgets are left out: after a restart they begin anew, which lends less.
        """
        state = {"breakers": self._breakers.state(), "held": self._held.state()}
        return json.dumps(state).encode()

    def restore(self, state: bytes) -> None:
        """Goes on from what `state` answered; pulls that waited then are not known any more.

        Raises:
            ValueError: when it is no such state; nothing was changed then.
        """
        try:
            read = json.loads(state)
            held = HeldBack(self._tuning.held_max)
            held.restore(read["held"])
            self._breakers.restore(read["breakers"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("this is no state of a steering") from error
        self._held = held

    def _chances(
        self,
        options: Sequence[Option],
        standings: Sequence[Standing],
        wanted: Sequence[int],
        leader: int,
        at: float,
        *,
        indebted: bool,
    ) -> list[float]:
        """Builds each option's exact probability to stand first."""
        drawn = self._tuning.epsilon / len(options)
        spared = drawn * self._tuning.spared_share
        chances = [
            spared if indebted or standing.state is not State.CLOSED else drawn
            for standing in standings
        ]
        for i in wanted:
            share = self._probe_share(options[i].arm, standings[i], at)
            # Many open accounts share what a closed one can spare.
            chances[i] = max(chances[i], share / len(wanted))
        chances[leader] = 1.0 - math.fsum(c for i, c in enumerate(chances) if i != leader)
        return chances

    def _probe_share(self, arm: Arm, standing: Standing, at: float) -> float:
        tuning = self._tuning
        last, answered = self._probes.get(arm, (0.0, -1))
        # 2^30 waits are longer than any limit, and a larger exponent would overflow.
        wait = tuning.probe_wait_seconds * 2.0 ** min(standing.failed, 30)
        due = at - max(last, standing.since) >= min(wait, tuning.probe_wait_seconds_max)
        # While a probe is under way, more of them would only be lost with it.
        eager = standing.state is State.PROBING and (
            last < standing.since or standing.succeeded + standing.failed > answered
        )
        return tuning.eager_share if due or eager else tuning.probe_share

    def _sift(
        self,
        arm: Arm,
        values: NDArray[np.float64],
        verdict: Verdict,
        reward: float | None,
        decided_at: float,
        *,
        pulled: bool,
    ) -> list[tuple[Arm, Held]]:
        """Holds or drops what the verdict says; answers what is ripe to be learned, oldest first.

        What was not judged says nothing of an outage, nor of the end of one.
        """
        if verdict is Verdict.DISCARD:
            self._drop(arm)
        if verdict is Verdict.DISCARD or reward is None:
            if pulled:
                self._learner.release(arm, values, decided_at)
            ripe = []
        else:
            ripe = [Held(values, reward, decided_at, pulled)]
        if verdict is Verdict.HOLD:
            ripe = self._held.hold(arm, ripe)
        elif verdict is not Verdict.UNJUDGED and arm in self._held:
            # What was held back when another replica opened the breaker is an outage's as well.
            since = self._breakers.changed_at(arm.account, arm.model)
            waiting = self._held.let_go(arm)
            self._release(arm, [each for each in waiting if each.decided_at < since])
            ripe = [each for each in waiting if each.decided_at >= since] + ripe
        self._release(arm, ripe)
        return [(arm, outcome) for outcome in ripe]

    def _release(self, arm: Arm, outcomes: Sequence[Held]) -> None:
        for outcome in outcomes:
            if outcome.pulled:
                self._learner.release(arm, outcome.values, outcome.decided_at)

    def _drop(self, arm: Arm) -> None:
        """Forgets what was held back: the account's, or all its processor's when that is open."""
        every = self._held.of(arm.model) if self._breakers.closes_all_of(arm.model) else [arm]
        for each in every:
            self._release(each, self._held.let_go(each))


def _draw(chances: Sequence[float], dice: Dice) -> int:
    """Draws an index by its chance; one of chance 0 is never drawn."""
    ticket = dice.random()
    last = 0
    for i, chance in enumerate(chances):
        if chance > 0:
            last = i
            if ticket < chance:
                return i
            ticket -= chance
    return last


def _reasons(why: Reason | None, standing: Standing) -> tuple[str, ...]:
    place = (Reason.BY_SCORE if why is None else why,)
    return place if standing.state is State.CLOSED else (*place, Reason.BREAKER_OPEN)
