"""Reasons are exact: they are XGBoost's own Shapley values, read from tables."""

import numpy as np
import pytest
import xgboost

from smartpay_fraud.adapters.model_bundle import ModelBundle, packaged
from smartpay_fraud.domain.attribution import Attribution
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.training import trees

PARITY = 1e-5


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    return xgboost.Booster(model_file=bytearray((packaged() / "model.ubj").read_bytes()))


@pytest.fixture(scope="module")
def rows(booster: xgboost.Booster) -> np.ndarray:
    """Random values around the trees' own thresholds, a fifth of them missing."""
    rng = np.random.default_rng(5)
    ensemble = trees.read_out(booster)
    values = np.zeros((300, len(FEATURES)), np.float32)
    for feature in range(len(FEATURES)):
        thresholds = ensemble.threshold[(ensemble.left >= 0) & (ensemble.feature == feature)]
        if len(thresholds):
            # Exactly at a threshold is where "below" and "at least" differ.
            values[:, feature] = rng.choice(thresholds, 300) + rng.choice([0, -0.01, 0.01], 300)
    values[rng.random(values.shape) < 0.2] = np.nan
    return values


def test_the_tables_say_what_xgboost_says(
    bundle: ModelBundle, booster: xgboost.Booster, rows: np.ndarray
) -> None:
    expected = trees.contributions(booster, rows)
    ours = np.array([bundle.contributions(row) for row in rows])
    assert np.abs(ours - expected[:, :-1]).max() <= PARITY
    assert abs(bundle.attribution.expected - expected[0, -1]) <= PARITY


def test_contributions_add_up_to_the_margin(
    bundle: ModelBundle, booster: xgboost.Booster, rows: np.ndarray
) -> None:
    margins = trees.margins(booster, rows)
    sums = [bundle.attribution.expected + bundle.contributions(row).sum() for row in rows]
    assert np.abs(np.array(sums) - margins).max() <= PARITY


def test_the_engine_says_what_xgboost_says(
    bundle: ModelBundle, booster: xgboost.Booster, rows: np.ndarray
) -> None:
    assert np.abs(bundle.trees.margins(rows) - trees.margins(booster, rows)).max() <= PARITY


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_other_depths_are_exact_too(depth: int, rows: np.ndarray) -> None:
    rng = np.random.default_rng(depth)
    label = rng.random(len(rows)) < 1 / (1 + np.exp(-np.nan_to_num(rows[:, 0])))
    parameters = {**trees.PARAMETERS, "max_depth": depth, "min_child_weight": 0.1}
    matrix = xgboost.DMatrix(rows, label=label, nthread=1)
    booster = xgboost.train(parameters, matrix, 8)
    attribution = Attribution(trees.read_out(booster), len(FEATURES))
    expected = trees.contributions(booster, rows)[:, :-1]
    ours = np.array([attribution.contributions(row) for row in rows])
    assert np.abs(ours - expected).max() <= PARITY
