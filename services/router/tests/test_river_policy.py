from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from smartpay_router.adapters.river_policy import RiverPolicy
from smartpay_router.domain.learner import Arm, Learner
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.schema import Schema

NOW = 1_770_000_000.0
FEATURES = ("intercept", "amount", "risk", "night")
SCHEMA = Schema("test-1", FEATURES, (1.0, 20.0, 20.0, 40.0))
NEVER = Tuning(memory_seconds=math.inf, ridge_doubt=0.0, residual_outcomes=math.inf)
STRIPE, AMAZON = Arm("pac_a", "live/stripe"), Arm("pac_b", "live/amazon_pay")
ARMS = (STRIPE, AMAZON)
ASKED = (1.0, 0.3, -0.7, 1.0)

Floats = NDArray[np.float64]


def history(count: int = 300, size: int = 4) -> tuple[list[Arm], Floats, Floats]:
    dice = np.random.default_rng(1)
    rows: Floats = dice.normal(size=(count, size))
    rows[:, 0] = 1.0
    rewards: Floats = (dice.random(count) < 0.85).astype(np.float64)
    return [ARMS[i] for i in dice.integers(2, size=count)], rows, rewards


def teach(learner: Learner) -> None:
    for place, (arm, values, reward) in enumerate(zip(*history(), strict=True)):
        learner.learn(arm, values, float(reward), NOW + place)


@pytest.fixture(scope="module")
def taught() -> RiverPolicy:
    river = RiverPolicy(SCHEMA)
    teach(river)
    return river


def test_without_forgetting_our_learner_is_rivers() -> None:
    """The parity oracle: at alpha 1, beta 1 and no prior success, precision, mean and width."""
    schema = Schema("plain", FEATURES, (1.0,) * 4)
    ours = LinUcb(schema, replace(NEVER, prior_success=0.0))
    rivers = RiverPolicy(schema, prior_success=0.0)
    teach(ours)
    teach(rivers)
    for arm in ARMS:
        regression = rivers._bandit._bayes_lin_regs[arm.model]
        order = [regression._idx[feature] for feature in FEATURES]
        known = ours.totals().models[arm.model].values
        precision = regression._ss_arr[np.ix_(order, order)]
        assert np.allclose(known[:, :4] + np.eye(4), precision, rtol=0, atol=1e-9)
        regression._ensure_m()
        # The weights are what a unit vector would be estimated at; they differ by the intercept.
        unit = np.eye(4) + np.eye(4)[0]
        unit[0, 0] = 1.0
        weights = ours.estimates_many((arm,), unit, NOW).success[:, 0]
        weights[1:] -= weights[0]
        assert np.allclose(weights, regression._m_arr[order], rtol=0, atol=1e-9)
    mine, its = (learner.estimates(ARMS, ASKED, NOW) for learner in (ours, rivers))
    assert np.allclose(mine.success, its.success, rtol=0, atol=1e-9)
    assert np.allclose(mine.width, its.width, rtol=0, atol=1e-7)
    assert list(mine.outcomes) == list(its.outcomes)


def test_with_a_prior_and_ridges_as_well(taught: RiverPolicy) -> None:
    ours = LinUcb(SCHEMA, NEVER)
    teach(ours)
    mine, its = (learner.estimates(ARMS, ASKED, NOW) for learner in (ours, taught))
    assert np.allclose(mine.success, its.success, rtol=0, atol=1e-9)
    assert np.allclose(mine.width, its.width, rtol=0, atol=1e-7)
    assert np.allclose(mine.spread, its.spread, rtol=0, atol=1e-7)


def test_a_model_never_seen_is_believed_good_and_leaves_no_trace(taught: RiverPolicy) -> None:
    new = Arm("pac_new", "live/solana")
    found = taught.estimates((STRIPE, new), ASKED, NOW)
    assert found.success[1] == pytest.approx(0.9)
    assert found.width[1] > found.width[0]
    assert found.outcomes[1] == 0
    assert new.model not in taught._bandit._bayes_lin_regs


def test_a_batch_is_estimated_as_each_alone(taught: RiverPolicy) -> None:
    rows = history()[1][:3]
    batch = taught.estimates_many(ARMS, rows, NOW)
    for place, row in enumerate(rows):
        alone = taught.estimates(ARMS, row, NOW)
        assert list(batch.success[place]) == list(alone.success)
        assert list(batch.spread[place]) == list(alone.spread)
    assert taught.estimates_many(ARMS, np.zeros((0, 4)), NOW).success.shape == (0, 2)


def test_pulls_and_times_change_nothing(taught: RiverPolicy) -> None:
    before = taught.estimates(ARMS, ASKED, NOW)
    taught.pull(STRIPE, ASKED, NOW)
    assert list(taught.estimates(ARMS, ASKED, 2 * NOW).width) == list(before.width)
    taught.release(STRIPE, ASKED, NOW)


def test_it_counts_per_account_what_it_was_told() -> None:
    river = RiverPolicy(SCHEMA)
    twin = Arm("pac_twin", STRIPE.model)
    river.learn_many((STRIPE, STRIPE, twin), [ASKED] * 3, (1.0, 0.0, 1.0), (NOW,) * 3)
    assert river.outcomes == 3
    assert river.knowledge(STRIPE.account, NOW) == (2, 2.0, 1.0)
    assert list(river.estimates((STRIPE, twin), ASKED, NOW).outcomes) == [2, 1]
    river.forget(STRIPE.account)
    assert river.knowledge(STRIPE.account, NOW) == (0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "reward", "told"),
    [
        (ASKED, math.nan, "reward"),
        (ASKED, 1.1, "reward"),
        (ASKED, -0.1, "reward"),
        ((1.0, math.nan, 0.0, 0.0), 1.0, "amount"),
        ((1.0, 0.0, 0.0), 1.0, "4 values"),
    ],
)
def test_what_would_spoil_an_arm_is_refused_and_changes_nothing(
    taught: RiverPolicy, values: tuple[float, ...], reward: float, told: str
) -> None:
    before = taught.estimates(ARMS, ASKED, NOW)
    outcomes = taught.outcomes
    with pytest.raises(ValueError, match=told):
        taught.learn(STRIPE, values, reward, NOW)
    with pytest.raises(ValueError, match=told):
        taught.learn_many((STRIPE, STRIPE), [ASKED, values], (1.0, reward), (NOW, NOW))
    assert taught.outcomes == outcomes
    assert list(taught.estimates(ARMS, ASKED, NOW).success) == list(before.success)


def test_its_version_names_the_meaning_of_its_contexts(taught: RiverPolicy) -> None:
    assert taught.version == f"river-linucb-{SCHEMA.key}"
