"""The estimators find a known truth, and refuse what no estimator can divide by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smartpay_router.domain import direct_method, off_policy
from smartpay_router.domain.off_policy import Floats, Interval, Logged, OffPolicyError

ARMS, FEATURES = 3, 4
WEIGHTS = np.array([[0.8, 0.1, 0.0, -0.1], [0.7, -0.1, 0.1, 0.1], [0.6, 0.0, -0.1, 0.0]])


def a_log(rows: int, seed: int) -> tuple[Floats, Logged, Floats, float]:
    """Answers contexts, what a lopsided policy logged, another policy, and its true value."""
    rng = np.random.default_rng(seed)
    values = np.column_stack([np.ones(rows), rng.uniform(-1, 1, (rows, FEATURES - 1))])
    success = values @ WEIGHTS.T
    served = np.where((values[:, 1] > 0)[:, None], [0.8, 0.15, 0.05], [0.15, 0.8, 0.05])
    target = np.where((values[:, 2] > 0)[:, None], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1])
    chosen = (rng.random((rows, 1)) > served.cumsum(axis=1)).sum(axis=1)
    each = np.arange(rows)
    rewards = (rng.random(rows) < success[each, chosen]).astype(float)
    logged = Logged(chosen, served[each, chosen], rewards)
    return values, logged, target, float((success * target).sum(axis=1).mean())


def all_estimates(values: Floats, logged: Logged, target: Floats) -> dict[str, Interval]:
    examples = (values, logged, ARMS)
    unseen, ridge = direct_method.out_of_fold(*examples)
    model = direct_method.fit(*examples, ridge)
    return {
        "ips": off_policy.ips(logged, target),
        "snips": off_policy.snips(logged, target),
        "dm": off_policy.dm(
            model.predict(values), target, model_variance=model.variance(values, target)
        ),
        "dr": off_policy.dr(logged, target, unseen),
    }


def test_every_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = dict.fromkeys(("ips", "snips", "dm", "dr"), 0)
    for seed in range(200):
        values, logged, target, truth = a_log(600, seed)
        for name, found in all_estimates(values, logged, target).items():
            held[name] += found.low <= truth <= found.high
    # 95 % of 200 is 190, give or take 3: nine below is three deviations.
    assert all(count >= 181 for count in held.values()), held


def test_a_model_takes_noise_away_from_the_weights() -> None:
    reach = {name: 0.0 for name in ("ips", "snips", "dm", "dr")}
    for seed in range(20):
        values, logged, target, _ = a_log(2_000, seed)
        for name, found in all_estimates(values, logged, target).items():
            reach[name] += found.high - found.low
    assert reach["dm"] < reach["dr"] < reach["ips"]
    assert reach["snips"] < reach["ips"]


def test_doubly_robust_survives_a_model_that_knows_nothing() -> None:
    _, logged, target, truth = a_log(40_000, 1)
    ignorant = np.full_like(target, 0.1)
    assert off_policy.dm(ignorant, target).value == pytest.approx(0.1)
    assert off_policy.dr(logged, target, ignorant).value == pytest.approx(truth, abs=0.02)


def test_the_served_policys_own_value_is_the_mean_of_its_rewards() -> None:
    values, logged, _, _ = a_log(500, 2)
    served = np.where((values[:, 1] > 0)[:, None], [0.8, 0.15, 0.05], [0.15, 0.8, 0.05])
    mean = logged.rewards.mean()
    assert off_policy.ips(logged, served).value == pytest.approx(mean)
    assert off_policy.snips(logged, served).value == pytest.approx(mean)
    assert off_policy.on_policy(logged.rewards).value == mean
    assert off_policy.effective_size(logged, served) == pytest.approx(500)


def test_a_policy_that_charges_half_as_often_is_worth_half() -> None:
    values, logged, target, _ = a_log(2_000, 3)
    whole, half = (all_estimates(values, logged, target * share) for share in (1, 0.5))
    for name, found in half.items():
        assert found.value == pytest.approx(whole[name].value / 2)


def test_one_heavy_row_is_worth_about_one_decision() -> None:
    logged = Logged(np.array([0, 1, 1]), np.array([1e-6, 0.5, 0.5]), np.ones(3))
    assert off_policy.effective_size(logged, np.full((3, 2), 0.5)) == pytest.approx(1, abs=1e-4)
    nothing = np.zeros((3, 2))
    assert off_policy.effective_size(logged, nothing) == 0
    with pytest.raises(OffPolicyError, match="no decision that the target would make"):
        off_policy.snips(logged, nothing)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("propensities", 0.0, "row 1: the chosen arm's propensity must be above 0"),
        ("propensities", 1.5, "row 1: the chosen arm's propensity"),
        ("propensities", np.nan, "row 1: the chosen arm's propensity"),
        ("rewards", np.inf, "row 1: the reward must be finite"),
        ("chosen", -1, "row 1: the chosen arm must not be negative"),
    ],
)
def test_a_log_that_cannot_be_divided_by_is_refused_by_name(
    field: str, value: float, reason: str
) -> None:
    good = Logged(np.array([0, 1]), np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    column = getattr(good, field).copy()
    column[1] = value
    with pytest.raises(OffPolicyError, match=reason):
        replace(good, **{field: column})


def test_an_empty_log_and_columns_of_other_lengths_are_refused() -> None:
    with pytest.raises(OffPolicyError, match="no rows"):
        Logged(np.array([], np.int64), np.array([]), np.array([]))
    with pytest.raises(OffPolicyError, match="one length"):
        Logged(np.array([0, 1]), np.array([0.5]), np.array([1.0, 0.0]))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (np.array([[0.5, 0.5], [0.6, 0.5]]), "row 1: the target's probabilities exceed 1"),
        (np.array([[-0.1, 0.5], [0.6, 0.4]]), "row 0: the target's probabilities must be at least"),
        (np.array([[np.nan, 0.5], [0.6, 0.4]]), "row 0: the target's probabilities"),
        (np.array([[1.0], [1.0]]), "a column per arm"),
        (np.array([[1.0, 0.0]]), "a row per decision"),
    ],
)
def test_what_is_no_policy_is_refused(target: Floats, reason: str) -> None:
    logged = Logged(np.array([0, 1]), np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    with pytest.raises(OffPolicyError, match=reason):
        off_policy.ips(logged, target)


def test_a_rarely_tried_arm_is_predicted_as_arms_are_in_general() -> None:
    rng = np.random.default_rng(4)
    chosen = np.where(np.arange(3_000) < 2, 2, np.arange(3_000) % 2)
    rewards = (rng.random(3_000) < np.array([0.9, 0.7, 0.0])[chosen]).astype(float)
    rewards[0] = 1.0  # one of two
    logged = Logged(chosen, np.full(3_000, 0.5), rewards)
    model = direct_method.fit(np.ones((3_000, 1)), logged, 3, ridge=10.0)
    first, second, rare = model.predict(np.ones((1, 1)))[0]
    assert first == pytest.approx(0.9, abs=0.03)
    assert second == pytest.approx(0.7, abs=0.03)
    assert second < rare < first
    assert model.covariances[2] > 5 * model.covariances[1]


def test_arms_that_are_all_alike_are_pooled() -> None:
    rng = np.random.default_rng(5)
    chosen = rng.integers(0, 40, 2_000)
    rewards = (rng.random(2_000) < 0.5).astype(float)
    logged = Logged(chosen, np.full(2_000, 1 / 40), rewards)
    unseen, ridge = direct_method.out_of_fold(np.ones((2_000, 1)), logged, 40)
    assert ridge == max(direct_method.RIDGES)
    assert unseen == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.ones((2, 1)), "at least 3 rows"),
        (np.array([[1.0, 0.0], [1.0, np.nan], [1.0, 0.0]]), "finite"),
        (np.zeros((3, 1)), "intercept"),
    ],
)
def test_contexts_that_no_model_can_be_fitted_to_are_refused(values: Floats, reason: str) -> None:
    rows = len(values)
    logged = Logged(np.zeros(rows, np.int64), np.ones(rows), np.zeros(rows))
    with pytest.raises(OffPolicyError, match=reason):
        direct_method.out_of_fold(values, logged, 1)
