"""A proposed policy is valued from the log before it goes live."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from smartpay_router.domain.breakers import Breakers, Kind
from smartpay_router.domain.evaluation import (
    Caution,
    Estimator,
    LoggedArm,
    LoggedDecision,
    evaluate,
)
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learner import Arm
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.off_policy import OffPolicyError
from smartpay_router.domain.schema import Schema
from smartpay_router.domain.steering import Option, Steering, SteeringTuning

SUCCESS = {"a": (0.9, 0.7), "b": (0.8, 0.95)}  # home charges, foreign charges
FEES = {"a": 0.01, "b": 0.03}


def a_log(count: int, epsilon: float, seed: int = 1) -> list[LoggedDecision]:
    """Decisions of a policy that puts `a` first but for epsilon."""
    dice = random.Random(seed)
    log = []
    for _ in range(count):
        foreign = int(dice.random() < 0.4)
        first = int(dice.random() < epsilon / 2)
        account = "ab"[first]
        log.append(
            LoggedDecision(
                values=(1.0, float(foreign)),
                arms=(
                    LoggedArm("a", FEES["a"], 1 - epsilon / 2),
                    LoggedArm("b", FEES["b"], epsilon / 2),
                ),
                first=first,
                success=float(dice.random() < SUCCESS[account][foreign]),
            )
        )
    return log


def by_origin(log: Sequence[LoggedDecision]) -> list[tuple[float, float]]:
    """The proposal: foreign charges go to `b`."""
    return [(0.0, 1.0) if decision.values[1] else (1.0, 0.0) for decision in log]


def test_a_better_proposal_is_seen_to_be_better_before_it_is_live() -> None:
    log = a_log(20_000, epsilon=0.2)
    found = evaluate(log, by_origin(log))
    conversion = 0.6 * 0.9 + 0.4 * 0.95
    net_value = 0.6 * 0.9 * 0.99 + 0.4 * 0.95 * 0.97
    for name in Estimator:
        worth = found.proposed[name]
        assert worth.conversion.low < conversion < worth.conversion.high, name
        assert worth.net_value.low < net_value < worth.net_value.high, name
        assert worth.net_value.low > found.logged.net_value.high
    assert found.decisions == 20_000
    assert found.cautions == ()
    assert found.unsupported_share == 0


def test_what_the_steering_logs_while_it_learns_tells_what_another_policy_earns() -> None:
    schema = Schema("origin-1", ("intercept", "foreign"), (1.0, 20.0))
    learner = LinUcb(schema)
    steering = Steering(learner, Breakers(), Budgets(), SteeringTuning(epsilon=0.2))
    options = [Option(Arm(name, name), fee) for name, fee in FEES.items()]
    dice, log = random.Random(7), []
    for number in range(4_000):
        at, foreign = 1_800_000_000.0 + 60 * number, int(dice.random() < 0.4)
        values = np.array([1.0, foreign])
        ranking = steering.rank(
            options, values, baseline=None, budget_key="merchant", at=at, dice=dice
        )
        first = ranking.places[0].option.arm
        success = float(dice.random() < SUCCESS[first.account][foreign])
        kind = Kind.SUCCESS if success else Kind.DECLINE
        steering.settle(first, values, kind, success, at, at)
        arms = tuple(
            LoggedArm(place.option.arm.account, place.option.fee_share, place.propensity)
            for place in ranking.places
        )
        log.append(LoggedDecision((1.0, float(foreign)), arms, 0, success))
    # The opposite of what is best, so that the log rarely did it.
    wanted = [("b", "a")[int(decision.values[1])] for decision in log]
    target = [
        [float(arm.account == name) for arm in decision.arms]
        for decision, name in zip(log, wanted, strict=True)
    ]
    found, truth = evaluate(log, target), 0.6 * 0.8 + 0.4 * 0.7
    # Nearer to the truth than to what was served, which is .1 better.
    for name in Estimator:
        worth = found.proposed[name].conversion
        assert worth.low < truth < worth.high, name
        assert worth.value == pytest.approx(truth, abs=0.05), name
    assert found.logged.conversion.low > truth + 0.08


def test_a_log_that_rarely_does_what_is_proposed_is_called_thin() -> None:
    log = a_log(2_000, epsilon=0.01)
    found = evaluate(log, [(0.0, 1.0)] * len(log))
    assert found.effective_decisions == sum(decision.first for decision in log) < 30
    assert found.cautions == (Caution.THIN_SUPPORT,)


def test_accounts_that_could_not_be_first_are_pointed_out() -> None:
    log = [
        replace(decision, arms=(*decision.arms, LoggedArm("new", 0.0, 0.0)))
        for decision in a_log(3_000, epsilon=0.5)
    ]
    found = evaluate(log, [(0.75, 0.0, 0.25)] * len(log))
    assert found.cautions == (Caution.UNSUPPORTED_ACCOUNTS,)
    assert found.unsupported_share == pytest.approx(0.25)
    # Weights know nothing of it; a model at least guesses.
    assert found.proposed[Estimator.IPS].conversion.value < 0.7
    assert found.proposed[Estimator.DR].conversion.value > 0.75


def test_merchants_with_other_accounts_share_one_log() -> None:
    log = a_log(1_000, epsilon=0.5)
    one = [
        LoggedDecision(decision.values, (LoggedArm("only", 0.02, 1.0),), 0, decision.success)
        for decision in a_log(1_000, epsilon=0.0, seed=2)
    ]
    target = [*by_origin(log), *([(1.0,)] * len(one))]
    found = evaluate([*log, *one], target)
    assert found.decisions == 2_000
    assert found.proposed[Estimator.SNIPS].conversion.value == pytest.approx(0.87, abs=0.04)


def test_charging_nobody_is_worth_nothing() -> None:
    log = a_log(500, epsilon=0.5)
    half = evaluate(log, [(0.5, 0.0)] * len(log)).proposed[Estimator.DR].conversion.value
    whole = evaluate(log, [(1.0, 0.0)] * len(log)).proposed[Estimator.DR].conversion.value
    assert half == pytest.approx(whole / 2)


A, B = LoggedArm("a", 0.01, 0.9), LoggedArm("b", 0.03, 0.1)


@pytest.mark.parametrize(
    ("change", "probabilities", "reason"),
    [
        ({"arms": (A, A)}, (1.0, 0.0), "row 3: an account stands twice"),
        ({}, (1.0,), "row 3: the proposal needs a probability for each account"),
        ({}, (0.9, 0.2), "row 3: the target's probabilities exceed 1"),
        ({"first": 2}, (1.0, 0.0), "row 3: the first place"),
        ({"success": 1.5}, (1.0, 0.0), "row 3: success"),
        ({"arms": (replace(A, propensity=0.0), B)}, (1.0, 0.0), "row 3: the chosen arm's prop"),
        ({"arms": (A, replace(B, propensity=-0.1))}, (1.0, 0.0), "propensity of b"),
        ({"arms": (A, replace(B, fee_share=float("nan")))}, (1.0, 0.0), "fee share"),
        ({"values": (1.0,)}, (1.0, 0.0), "row 3: the context"),
    ],
)
def test_a_row_at_fault_is_named(
    change: dict[str, object], probabilities: tuple[float, ...], reason: str
) -> None:
    good = LoggedDecision((1.0, 0.0), (A, B), 0, 1.0)
    log = [good, good, good, replace(good, **change)]  # type: ignore[arg-type]
    with pytest.raises(OffPolicyError, match=reason):
        evaluate(log, [*[(1.0, 0.0)] * 3, probabilities])


def test_an_empty_log_and_a_proposal_for_another_log_are_refused() -> None:
    with pytest.raises(OffPolicyError, match="no rows"):
        evaluate([], [])
    with pytest.raises(OffPolicyError, match="every decision"):
        evaluate(a_log(3, 0.5), [(1.0, 0.0)])
