"""Drift is told when payments, scores or outcomes move away from the training, and not before."""

import numpy as np
import pytest

from smartpay_fraud.domain.assessment import Assessment, Finding, Happening
from smartpay_fraud.domain.drift import (
    LABELLED_MAX,
    MATURITY_MS,
    ROWS_MIN,
    WINDOW,
    DriftWatch,
    Level,
    average_precision,
    calibration_error,
    reference,
    stability,
)
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.domain.verdict import Verdict
from smartpay_fraud.domain.watching import Comparison

NOON = 1_767_268_800_000


def a_payment(number: int) -> Transaction:
    return Transaction("mer_d1" + "m" * 24, False, f"order-{number}", 5_000, "USD")


def an_assessment(
    number: int, score: float = 0.01, verdict: Verdict = Verdict.ALLOW, at_ms: int = NOON
) -> Assessment:
    return Assessment(a_payment(number), verdict, score, (), "trees-1", 1, at_ms)


def rows_like_training(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.gamma(2, 2, (count, len(FEATURES))).astype(np.float32)
    rows[:, 1] = rng.integers(0, 3, count)  # a feature of three values has fewer bins than ten
    rows[:, 2] = np.nan
    rows[rng.random(count) < 0.3, 3] = np.nan
    return rows


TRAINING = reference(rows_like_training(5_000), np.random.default_rng(1).beta(1, 50, 5_000))


def scores_like_training(count: int) -> list[float]:
    return [float(score) for score in np.random.default_rng(2).beta(1, 50, count)]


def watched(rows: np.ndarray, scores: list[float]) -> DriftWatch:
    watch = DriftWatch()
    watch.saw(rows, [an_assessment(n, score) for n, score in enumerate(scores)])
    return watch


def test_the_index_is_the_published_sum() -> None:
    then, now = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.4, 0.2])
    by_hand = -0.1 * np.log(0.8) + 0.1 * np.log(4 / 3)
    assert stability(then, now) == pytest.approx(by_hand)
    assert stability(then, then) == 0
    assert stability(np.array([1.0, 0.0]), np.array([0.0, 1.0])) > 1


@pytest.mark.parametrize(
    ("index", "level"),
    [(0.0, Level.STEADY), (0.0999, Level.STEADY), (0.1, Level.WATCH), (0.25, Level.ALERT)],
)
def test_the_levels_are_the_usual_ones(index: float, level: Level) -> None:
    assert Level.of(index) is level


def test_payments_like_the_trainings_are_steady() -> None:
    watch = watched(rows_like_training(4_000, 9), scores_like_training(4_000))
    report = watch.report(TRAINING, NOON)
    assert report.rows == 4_000
    assert report.level is Level.STEADY
    assert len(report.features) == len(FEATURES)
    assert report.score is not None
    assert report.score < 0.1


@pytest.mark.parametrize("how", ["higher", "missing", "there again"])
def test_a_feature_that_moved_is_told_first(how: str) -> None:
    rows = rows_like_training(2_000, 9)
    moved = 2 if how == "there again" else 7
    rows[:, moved] = {"higher": 50.0, "missing": np.nan, "there again": 1.0}[how]
    report = watched(rows, scores_like_training(2_000)).report(TRAINING, NOON)
    assert report.features[0].feature == FEATURES[moved]
    assert report.level is Level.ALERT
    assert report.features[1].stability < 0.1


def test_scores_that_moved_are_told_even_if_features_did_not() -> None:
    report = watched(rows_like_training(2_000, 9), [0.5] * 2_000).report(TRAINING, NOON)
    assert report.score is not None
    assert report.score > 0.25
    assert report.level is Level.ALERT


def test_too_few_payments_or_no_reference_tell_nothing() -> None:
    few = watched(rows_like_training(ROWS_MIN - 1), scores_like_training(ROWS_MIN - 1))
    assert few.report(TRAINING, NOON).features == ()
    assert few.report(TRAINING, NOON).score is None
    many = watched(rows_like_training(ROWS_MIN), scores_like_training(ROWS_MIN))
    assert many.report(None, NOON).features == ()
    assert many.report(None, NOON).level is Level.STEADY


def test_only_the_latest_payments_count() -> None:
    watch = watched(np.full((WINDOW, len(FEATURES)), 99, np.float32), [0.9] * WINDOW)
    assert watch.report(TRAINING, NOON).level is Level.ALERT
    rows = rows_like_training(WINDOW, 9)
    watch.saw(rows, [an_assessment(n, s) for n, s in enumerate(scores_like_training(WINDOW))])
    assert watch.report(TRAINING, NOON).level is Level.STEADY


def test_strangers_are_payments_whose_given_parts_are_all_new() -> None:
    rows = rows_like_training(1_000) + 1
    ages = [FEATURES.index(name) for name in ("customer_age", "card_age", "device_age")]
    rows[:100, ages] = [0, np.nan, 0]  # new, without a card
    rows[100:200, ages] = [0, 5, 0]  # a new customer with a known card
    rows[200:300, ages] = np.nan  # nothing is given, so nothing is new
    report = watched(rows, scores_like_training(1_000)).report(TRAINING, NOON)
    assert report.unknown_entities == pytest.approx(0.1)


# Outcomes.


def test_outcomes_count_once_known_by_label_or_by_maturity() -> None:
    watch = DriftWatch()
    rows = rows_like_training(4)
    watch.saw(rows, [an_assessment(n, 0.1 * n, at_ms=NOON) for n in range(4)])
    assert watch.report(None, NOON + 1).labelled == 0
    watch.heard([Happening(a_payment(3), NOON + 1, Finding.FRAUD)])
    assert watch.report(None, NOON + 1).labelled == 1
    later = watch.report(None, NOON + MATURITY_MS)
    assert later.labelled == 4
    assert later.average_precision == 1


def test_what_we_blocked_has_no_outcome_until_somebody_judges_it() -> None:
    watch = DriftWatch()
    watch.saw(rows_like_training(1), [an_assessment(0, 0.9, Verdict.BLOCK)])
    watch.heard([Happening(a_payment(0), NOON, Finding.BLOCKED)])
    assert watch.report(None, NOON + MATURITY_MS).labelled == 0
    watch.heard([Happening(a_payment(0), NOON, Finding.LEGITIMATE)])
    assert watch.report(None, NOON + MATURITY_MS).labelled == 1


def test_a_later_word_replaces_the_earlier_one_and_a_strangers_is_passed_over() -> None:
    watch = DriftWatch()
    watch.saw(rows_like_training(1), [an_assessment(0, 0.9)])
    for finding in (Finding.FRAUD, Finding.LEGITIMATE):
        watch.heard([Happening(a_payment(0), NOON, finding)])
    watch.heard([Happening(a_payment(77), NOON, Finding.FRAUD)])
    report = watch.report(None, NOON)
    assert report.labelled == 1
    assert report.average_precision is None  # no fraud among them


def test_a_restart_takes_scores_in_again() -> None:
    watch = DriftWatch()
    watch.heard([Happening(a_payment(0), NOON, score=0.2)])
    watch.heard([Happening(a_payment(0), NOON, Finding.FRAUD)])
    assert watch.report(None, NOON).labelled == 1


def test_outcomes_waited_for_are_bounded() -> None:
    watch = DriftWatch()
    watch.heard([Happening(a_payment(n), NOON, score=0.2) for n in range(LABELLED_MAX + 10)])
    assert watch.report(None, NOON + MATURITY_MS).labelled == LABELLED_MAX


def test_calibration_error_is_the_distance_of_scores_from_shares() -> None:
    rng = np.random.default_rng(4)
    scores = rng.random(20_000)
    honest = rng.random(20_000) < scores
    assert calibration_error(scores, honest) < 0.02
    rarer = rng.random(20_000) < scores**2
    assert calibration_error(scores, rarer) == pytest.approx(1 / 6, abs=0.02)


def test_average_precision_is_the_area_by_steps() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    frauds = np.array([True, False, True, False])
    assert average_precision(scores, frauds) == pytest.approx((1 + 2 / 3) / 2)
    equal = np.full(4, 0.5)
    assert average_precision(equal, frauds) == pytest.approx(0.5)


# The challenger beside the champion.


def test_a_comparison_is_what_the_pairs_say() -> None:
    comparison = Comparison()
    assert comparison.difference_mean is None
    assert comparison.correlation is None
    ours = np.random.default_rng(5).random(200)
    theirs = np.clip(ours + 0.1 * np.random.default_rng(6).normal(size=200), 0, 1)
    agreed = np.abs(theirs - ours) < 0.1
    pairs = list(zip(ours.tolist(), theirs.tolist(), agreed.tolist(), strict=True))
    comparison.saw(("a", "b"), pairs[:50])
    comparison.saw(("a", "b"), pairs[50:])
    assert comparison.count == 200
    assert comparison.difference_mean == pytest.approx((theirs - ours).mean())
    assert comparison.difference_max == pytest.approx(np.abs(theirs - ours).max())
    assert comparison.agreement == pytest.approx(agreed.mean())
    assert comparison.correlation == pytest.approx(np.corrcoef(ours, theirs)[0, 1])


def test_another_model_on_either_side_begins_anew() -> None:
    comparison = Comparison()
    comparison.saw(("a", "b"), [(0.1, 0.2, True)] * 40)
    comparison.saw(("a", "c"), [(0.5, 0.5, True)])
    assert comparison.count == 1
    assert comparison.difference_max == 0


def test_a_challenger_that_always_says_the_same_correlates_with_nothing() -> None:
    comparison = Comparison()
    comparison.saw(("a", "b"), [(n / 100, 0.5, True) for n in range(100)])
    assert comparison.correlation is None
