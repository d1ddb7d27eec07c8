"""Reasons are exact: they are XGBoost's own Shapley values, read from tables."""

import numpy as np
import pytest
import xgboost

from smartpay_fraud.adapters.model_bundle import ModelBundle, load
from smartpay_fraud.domain.attribution import ROWS_AT_ONCE, Attribution, Ensemble
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.training import trees

PARITY = 1e-5
ROWS = 5 * ROWS_AT_ONCE + 3
Files = dict[str, bytes]


@pytest.fixture(scope="module", params=["files", "graph_files"])
def trained(request: pytest.FixtureRequest) -> tuple[ModelBundle, xgboost.Booster]:
    files: Files = request.getfixturevalue(request.param)
    return load(files), xgboost.Booster(model_file=bytearray(files["model.ubj"]))


def rows_at_thresholds(ensemble: Ensemble, columns: int) -> np.ndarray:
    """Random values around the trees' own thresholds, a fifth of them missing."""
    rng = np.random.default_rng(5)
    values = np.zeros((ROWS, columns), np.float32)
    for feature in range(columns):
        thresholds = ensemble.threshold[(ensemble.left >= 0) & (ensemble.feature == feature)]
        if len(thresholds):
            # Exactly at a threshold is where "below" and "at least" differ.
            values[:, feature] = rng.choice(thresholds, ROWS) + rng.choice([0, -0.01, 0.01], ROWS)
    values[rng.random(values.shape) < 0.2] = np.nan
    return values


def said_by(booster: xgboost.Booster, rows: np.ndarray, **what: bool) -> np.ndarray:
    return np.asarray(booster.predict(xgboost.DMatrix(rows, nthread=1), **what), np.float64)


def test_the_tables_say_what_xgboost_says(trained: tuple[ModelBundle, xgboost.Booster]) -> None:
    bundle, booster = trained
    rows = rows_at_thresholds(trees.read_out(booster), bundle.columns)
    expected = said_by(booster, rows, pred_contribs=True)
    ours = bundle.attribution.contributions(rows)
    assert np.abs(ours - expected[:, :-1]).max() <= PARITY
    assert abs(bundle.attribution.expected - expected[0, -1]) <= PARITY


def test_contributions_add_up_to_the_margin(trained: tuple[ModelBundle, xgboost.Booster]) -> None:
    bundle, booster = trained
    rows = rows_at_thresholds(trees.read_out(booster), bundle.columns)
    sums = bundle.attribution.expected + bundle.attribution.contributions(rows).sum(axis=1)
    assert np.abs(sums - said_by(booster, rows, output_margin=True)).max() <= PARITY


def test_the_engine_says_what_xgboost_says(files: Files) -> None:
    booster = xgboost.Booster(model_file=bytearray(files["model.ubj"]))
    rows = rows_at_thresholds(trees.read_out(booster), len(FEATURES))
    margins, columns = load(files).engine.infer(rows, np.zeros((len(rows), 0), np.float32))
    assert np.abs(margins - said_by(booster, rows, output_margin=True)).max() <= PARITY
    assert columns.shape == (len(rows), 0)


def test_a_row_alone_is_explained_as_it_is_among_others(
    trained: tuple[ModelBundle, xgboost.Booster],
) -> None:
    bundle, booster = trained
    rows = rows_at_thresholds(trees.read_out(booster), bundle.columns)
    together = bundle.attribution.contributions(rows)
    alone = [bundle.attribution.contributions(rows[n : n + 1])[0] for n in range(len(rows))]
    assert np.array_equal(together, np.array(alone))


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_other_depths_are_exact_too(depth: int) -> None:
    rng = np.random.default_rng(depth)
    rows = rng.normal(size=(400, 20)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    label = rng.random(400) < 1 / (1 + np.exp(-np.nan_to_num(rows[:, 0] * rows[:, 1])))
    parameters = {
        "objective": "binary:logistic",
        "max_depth": depth,
        "min_child_weight": 0.1,
        "base_score": 0.1,
        "nthread": 1,
    }
    booster = xgboost.train(parameters, xgboost.DMatrix(rows, label=label, nthread=1), 8)
    attribution = Attribution(trees.read_out(booster), 20)
    expected = said_by(booster, rows, pred_contribs=True)[:, :-1]
    assert np.abs(attribution.contributions(rows) - expected).max() <= PARITY


def test_trees_that_never_ask_add_nothing() -> None:
    rows = np.ones((50, 3), np.float32)
    label = np.arange(50) % 5 == 0
    parameters = {"objective": "binary:logistic", "base_score": 0.2, "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(rows, label=label, nthread=1), 2)
    attribution = Attribution(trees.read_out(booster), 3)
    assert not attribution.contributions(rows[:2]).any()


def test_a_tree_that_is_too_deep_is_refused_at_once() -> None:
    links = 200_000
    inner = np.arange(0, 2 * links, 2)
    left, right = np.full(2 * links + 1, -1, np.int32), np.full(2 * links + 1, -1, np.int32)
    left[inner], right[inner] = inner + 1, inner + 2
    numbers = np.ones(2 * links + 1, np.float32)
    chain = Ensemble(
        roots=np.zeros(1, np.int32),
        left=left,
        right=right,
        feature=np.zeros(2 * links + 1, np.int32),
        threshold=numbers,
        missing_left=numbers > 0,
        value=numbers,
        cover=numbers,
        base_margin=0.0,
    )
    with pytest.raises(ValueError, match="too deep"):
        Attribution(chain, 1)
