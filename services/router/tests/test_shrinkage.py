"""How strongly payers are believed to be alike follows from what was seen."""

import math

import numpy as np
import pytest

from smartpay_router.domain.schema import Values
from smartpay_router.domain.shrinkage import CHOOSING_SHARE, shrinkage

RIDGES = np.array([10.0, 4.0, 8.0, 8.0, 8.0])
PRIOR = 0.9


def seen(count: int, matters: float, seed: int = 1) -> tuple[Values, Values]:
    """Payers' features, shape [n, d], and outcomes; `matters` moves success per feature."""
    dice = np.random.default_rng(seed)
    rows = dice.normal(size=(count, len(RIDGES)))
    rows[:, 0] = 1.0
    effects = matters * dice.normal(size=len(RIDGES) - 1)
    success = np.clip(0.85 + rows[:, 1:] @ effects, 0.0, 1.0)
    return rows, (dice.random(count) < success).astype(np.float64)


def told(rows: Values, rewards: Values) -> Values:
    sums: Values = rows.T @ np.column_stack((rows, rewards))
    return sums


def by_hand(rows: Values, rewards: Values, doubt: float) -> float:
    """The same from the likelihood of the outcomes themselves, whose covariance is [n, n]."""
    success = rewards.mean()
    noise = success * (1 - success)
    logs, likelihoods = [], []
    for power in range(-4, 5):
        ridges = RIDGES.copy()
        ridges[1:] *= 2.0**power / CHOOSING_SHARE
        covariance = noise * (np.eye(len(rows)) + (rows / ridges) @ rows.T)
        surprise = rewards - PRIOR
        _, volume = np.linalg.slogdet(covariance)
        fit = surprise @ np.linalg.solve(covariance, surprise)
        logs.append(power * math.log(2))
        likelihoods.append(-0.5 * (volume + fit + (logs[-1] / doubt) ** 2))
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    return math.exp(float(weights @ np.array(logs) / weights.sum()))


@pytest.mark.parametrize("matters", [0.0, 0.03, 0.1])
def test_the_scale_is_the_one_that_the_outcomes_likelihood_finds(matters: float) -> None:
    rows, rewards = seen(150, matters)
    found = shrinkage([told(rows, rewards)], RIDGES, PRIOR, 0.6)
    assert found == pytest.approx(by_hand(rows, rewards, 0.6), rel=1e-9)


def test_payers_that_matter_are_followed_and_others_are_taken_to_be_alike() -> None:
    scales = [
        shrinkage([told(*seen(3_000, matters, seed)) for seed in (1, 2)], RIDGES, PRIOR, 0.6)
        for matters in (0.2, 0.03, 0.0)
    ]
    assert scales == sorted(scales)
    assert 3 * scales[0] < scales[2]


def test_the_schema_is_believed_until_something_was_seen_and_always_without_doubt() -> None:
    nothing = np.zeros((len(RIDGES), len(RIDGES) + 1))
    assert shrinkage([], RIDGES, PRIOR, 0.6) == pytest.approx(1.0, abs=1e-12)
    assert shrinkage([nothing], RIDGES, PRIOR, 0.6) == pytest.approx(1.0, abs=1e-12)
    assert shrinkage([told(*seen(3_000, 0.0))], RIDGES, PRIOR, 0.0) == 1.0


def test_outcomes_that_never_differ_or_hardly_weigh_answer_a_number() -> None:
    rows, _ = seen(50, 0.0)
    for rewards in (np.ones(50), np.zeros(50)):
        for weight in (1.0, 1e-300):
            scale = shrinkage([weight * told(rows, rewards)], RIDGES, PRIOR, 0.6)
            assert 1 / 16 <= scale <= 16


@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_sums_that_are_not_finite_are_refused_and_not_spread(damage: float) -> None:
    sums = told(*seen(50, 0.0))
    sums[2, 3] = damage
    with pytest.raises(FloatingPointError, match="not finite"):
        shrinkage([sums], RIDGES, PRIOR, 0.6)
