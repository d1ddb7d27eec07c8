"""Training repeats itself to the byte, and the committed bundle is what the code would train."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from smartpay_fraud.adapters.model_bundle import FILES, load, packaged
from smartpay_fraud.domain.features import DAY_MS, FEATURES
from smartpay_fraud.train import GOLDEN_EARLY, train, write
from smartpay_fraud.training import metrics, trees
from smartpay_fraud.training.generator import (
    HONEST,
    NEVER,
    REPORTED,
    SCENARIOS,
    START_MS,
    Stream,
    World,
    generate,
)
from smartpay_fraud.training.replay import replay

SMALL = World(
    days=21,
    customers=1_200,
    sales=4,
    batches=2,
    card_tests=25,
    takeovers=20,
    stolen_cards=60,
    compromised_merchants=2,
    night_buyers=25,
)
SMALL_SPLIT = trees.Split(train=(0, 10), calibrate=(10, 14), test=(14, 21))


@pytest.fixture(scope="module")
def stream() -> Stream:
    return generate()


def test_two_trainings_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write(train(SMALL, SMALL_SPLIT), SMALL, SMALL_SPLIT, tmp_path / name)
    for name in ("manifest.json", *FILES):
        first, second = (tmp_path / folder / name for folder in ("first", "second"))
        assert first.read_bytes() == second.read_bytes(), name
    assert load(tmp_path / "first").version != load(packaged()).version


def test_the_committed_bundle_states_what_the_code_would_do() -> None:
    manifest = json.loads((packaged() / "manifest.json").read_text())
    training = manifest["training"]
    assert training["world"] == asdict(World())
    assert training["split_days"] == json.loads(json.dumps(asdict(trees.Split())))
    assert training["parameters"] == trees.PARAMETERS
    assert training["trees"] == trees.TREES
    assert manifest["features"] == list(FEATURES)


def test_the_committed_golden_rows_come_out_of_the_replay_again(stream: Stream) -> None:
    with np.load(str(packaged() / "golden.npz"), allow_pickle=False) as golden:
        payments, rows = golden["payments"], golden["rows"]
    columns = {name: getattr(stream, name)[:GOLDEN_EARLY] for name in asdict(stream)}
    again = replay(Stream(**columns))
    early = np.flatnonzero(payments < GOLDEN_EARLY)
    assert len(early) >= 32
    np.testing.assert_array_equal(again[payments[early]], rows[early])


def test_the_committed_model_beats_the_rule_that_large_is_suspicious() -> None:
    manifest = json.loads((packaged() / "manifest.json").read_text())
    for week in manifest["metrics"]["weeks"]:
        assert week["model"]["average_precision"] > 2 * week["amount_only"]["average_precision"]
        assert week["model"]["roc_auc"] > 0.95
    verdicts = manifest["metrics"]["verdicts"]
    assert verdicts["honest"]["BLOCK"] < 0.002
    assert verdicts["card testing"]["BLOCK"] > 0.9


def test_the_stream_is_ordered_and_tells_every_story(stream: Stream) -> None:
    assert (np.diff(stream.time_ms) >= 0).all()
    assert stream.time_ms.min() >= START_MS
    assert stream.time_ms.max() < START_MS + World().days * DAY_MS
    assert (stream.amount_minor >= 1).all()
    for number, _ in enumerate(SCENARIOS):
        assert (stream.scenario == number).sum() > 50
    assert 0.005 < stream.fraud.mean() < 0.05


def test_labels_and_declines_become_known_after_the_payment(stream: Stream) -> None:
    labelled = stream.label_ms != NEVER
    np.testing.assert_array_equal(labelled, stream.fraud)
    delay = stream.label_ms[labelled] - stream.time_ms[labelled]
    assert delay.min() >= DAY_MS
    assert delay.max() < 7 * DAY_MS
    declined = stream.declined_ms != NEVER
    assert (stream.declined_ms[declined] > stream.time_ms[declined]).all()


def test_missing_inputs_are_as_common_among_honest_payments(stream: Stream) -> None:
    fraud = np.isin(stream.scenario, (HONEST, REPORTED), invert=True)
    for name in ("device", "network", "customer"):
        missing = getattr(stream, name) < 0
        assert missing[~fraud].mean() > 0.1
        assert missing[fraud].mean() < missing[~fraud].mean() + 0.15


def test_another_seed_is_another_stream() -> None:
    first, second = generate(SMALL), generate(World(**{**asdict(SMALL), "seed": 2}))
    assert not np.array_equal(first.amount_minor, second.amount_minor)


def test_the_measures_know_a_perfect_and_a_blind_score() -> None:
    fraud = np.array([False, True, False, True, False, False])
    perfect = fraud.astype(np.float64)
    assert metrics.average_precision(fraud, perfect) == 1
    assert metrics.roc_auc(fraud, perfect) == 1
    assert metrics.roc_auc(fraud, -perfect) == 0
    blind = np.zeros(6)
    assert metrics.average_precision(fraud, blind) == pytest.approx(2 / 6)
    assert metrics.roc_auc(fraud, blind) == 0.5


def test_average_precision_is_the_mean_precision_at_each_fraud() -> None:
    fraud = np.array([True, False, True, False])
    scores = np.array([0.9, 0.8, 0.7, 0.1])
    assert metrics.average_precision(fraud, scores) == pytest.approx((1 + 2 / 3) / 2)


def test_a_card_caught_once_is_not_counted_again() -> None:
    cards = np.array([1, 2, 1, 3])
    days = np.array([0, 0, 1, 1])
    fraud = np.array([True, False, True, False])
    scores = np.array([0.9, 0.1, 0.9, 0.2])
    assert metrics.card_precision(fraud, scores, cards, days) == pytest.approx(0.5 / 100)


def test_calibration_recovers_the_true_slope() -> None:
    rng = np.random.default_rng(4)
    margin = rng.normal(-2, 2, 40_000)
    fraud = rng.random(len(margin)) < 1 / (1 + np.exp(-(0.7 * margin - 0.5)))
    calibration = trees.calibrate(margin, fraud)
    assert calibration.slope == pytest.approx(0.7, abs=0.03)
    assert calibration.intercept == pytest.approx(-0.5, abs=0.06)
