"""The published protocol, on cases small enough to count by hand."""

import numpy as np
import pytest
from numpy.typing import ArrayLike

from smartpay_fraud.domain.features import DAY_MS, HOUR_MS
from smartpay_fraud.training import gate, metrics, published_world
from smartpay_fraud.training.handbook_features import NAMES, handbook_rows
from smartpay_fraud.training.protocol import (
    TEST_STARTS,
    VALIDATION_STARTS,
    Fold,
    ProtocolError,
    check,
    figures,
    judged,
    within,
)
from smartpay_fraud.training.published_world import PublishedWorld
from smartpay_fraud.training.stream import LABEL_DELAY_MS, NEVER, Stream

MONDAY_MS = 1_522_627_200_000  # 2018-04-02
SMALL = PublishedWorld(seed=5, days=60, customers=60, terminals=100, radius=15)


def a_stream(
    days: ArrayLike, customers: ArrayLike, frauds: list[int], of_day_ms: ArrayLike = 0
) -> Stream:
    time_ms = np.asarray(MONDAY_MS + np.array(days) * DAY_MS + np.array(of_day_ms), np.int64)
    fraud = np.isin(np.arange(len(time_ms)), frauds)
    return Stream(
        time_ms=time_ms,
        amount_minor=np.full(len(time_ms), 1_000),
        fraud=fraud,
        known_ms=np.where(fraud, time_ms + LABEL_DELAY_MS, NEVER),
        customer=np.array(customers),
        terminal=np.zeros(len(time_ms), np.int64),
    )


def test_windows_of_a_run_follow_each_other_without_sharing_a_day() -> None:
    fold = Fold(115)
    assert fold.strict == (115, 122)
    assert fold.test == (129, 136)
    assert fold.long == (87, 122)
    assert fold.graph == (38, 87)
    assert Fold(10).long == (0, 17)
    assert Fold(10).graph == (0, 0)


def test_validation_weeks_end_before_the_first_published_training_day() -> None:
    assert max(Fold(start).test[1] for start in VALIDATION_STARTS) <= min(TEST_STARTS)


def test_a_card_known_to_be_compromised_leaves_from_the_day_its_label_arrives() -> None:
    # The run trains on days 0-6 and tests on 14-20; day 8's label arrives before day 16.
    stream = a_stream(
        days=[0, 3, 8, 14, 14, 14, 15, 16],
        customers=[9, 1, 2, 1, 2, 3, 2, 2],
        frauds=[1, 2],
    )
    assert judged(stream, Fold(0)).tolist() == [False] * 4 + [True, True, True, False]


def test_a_fraud_before_the_training_week_is_no_reason_to_leave() -> None:
    stream = a_stream(days=[0, 15], customers=[1, 1], frauds=[0])
    assert judged(stream, Fold(1)).tolist() == [False, True]


def test_the_figures_of_a_week_look_only_at_its_judged_payments() -> None:
    stream = a_stream(
        days=[0, 3, 14, 14, 15, 15, 16], customers=[9, 1, 1, 2, 3, 4, 5], frauds=[1, 3, 6]
    )
    scores = np.array([9.0, 9, 9, 3, 2, 1, 0.5])
    week = figures(stream, Fold(0), scores)
    # Left are customers 2 (fraud), 3, 4 and 5 (fraud), in this order of scores.
    assert week.auc == pytest.approx(0.5)
    assert week.ap == pytest.approx((1 + 2 / 4) / 2)
    assert week.cp100 == pytest.approx((1 / 100 + 0 + 1 / 100) / 3)


def test_days_count_from_the_midnight_before_the_first_payment() -> None:
    stream = a_stream(days=[0, 0, 1], customers=[1, 1, 1], frauds=[], of_day_ms=[HOUR_MS] * 3)
    assert stream.first_ms == MONDAY_MS
    assert stream.day.tolist() == [0, 0, 1]
    assert len(stream.until(1)) == 2


def test_a_stream_too_short_for_the_four_weeks_is_refused_with_the_days_it_needs() -> None:
    with pytest.raises(ProtocolError, match=r"cover 101 days, .* at least 157 days"):
        check(a_stream(days=[0, 100], customers=[1, 2], frauds=[0]))


def test_a_week_without_frauds_is_refused_by_name() -> None:
    days = np.arange(157)
    with pytest.raises(ProtocolError, match="training week from day 115 has 0 frauds"):
        check(a_stream(days=days, customers=days, frauds=[]))


def test_the_baseline_features_equal_a_naive_count() -> None:
    stream = published_world.as_stream(SMALL)
    rows = handbook_rows(stream)
    assert rows.shape == (len(stream), len(NAMES)) == (len(stream), 15)
    amount = stream.amount_minor / 100
    for at in np.random.default_rng(1).choice(len(stream), 200, replace=False).tolist():
        now = stream.time_ms[at]
        day = int(now // DAY_MS)
        expected = [amount[at], float((day + 3) % 7 >= 5), float(now // HOUR_MS % 24 <= 6)]
        own = (stream.customer == stream.customer[at]) & (np.arange(len(stream)) <= at)
        for days in (1, 7, 30):
            seen = own & (stream.time_ms > now - days * DAY_MS)
            expected += [seen.sum(), amount[seen].mean()]
        there = stream.terminal == stream.terminal[at]
        for days in (1, 7, 30):
            seen = there & (stream.time_ms <= now - LABEL_DELAY_MS)
            seen &= stream.time_ms > now - LABEL_DELAY_MS - days * DAY_MS
            expected += [seen.sum(), stream.fraud[seen].mean() if seen.any() else 0]
        np.testing.assert_allclose(rows[at], expected, rtol=1e-6)


def test_weekend_and_night_are_told_by_the_calendar() -> None:
    stream = a_stream([0, 4, 5, 6], [1] * 4, [], of_day_ms=np.array([6, 7, 0, 12]) * HOUR_MS)
    rows = handbook_rows(stream)
    assert rows[:, NAMES.index("weekend")].tolist() == [0, 0, 1, 1]
    assert rows[:, NAMES.index("night")].tolist() == [1, 0, 1, 0]


def test_the_published_process_has_the_published_shape() -> None:
    drawn = published_world.generate(PublishedWorld(customers=1_000, terminals=2_000, radius=11))
    assert len(drawn) == pytest.approx(1_000 * 2 * 183, rel=0.06)
    assert (np.diff(drawn.second) >= 0).all()
    assert (drawn.amount_cents >= 0).all()
    # The same number of terminals and customers is attacked a day, in a fifth of the world.
    counts = np.bincount(drawn.scenario, minlength=4)
    assert counts[1] == pytest.approx(200, rel=0.4)
    assert counts[2] == pytest.approx(9_000, rel=0.2)
    assert counts[3] == pytest.approx(4_600, rel=0.2)
    assert (drawn.amount_cents[(drawn.scenario == 0)] <= 22_000).all()


def test_equal_worlds_are_equal_and_another_seed_is_another_world() -> None:
    first, again = published_world.generate(SMALL), published_world.generate(SMALL)
    np.testing.assert_array_equal(first.amount_cents, again.amount_cents)
    other = published_world.generate(PublishedWorld(**{**vars(SMALL), "seed": 6}))
    assert len(other) != len(first) or (other.amount_cents != first.amount_cents).any()


def weeks_of(gain: float, count: int = 4) -> list[gate.Week]:
    rng = np.random.default_rng(2)
    weeks = []
    for _ in range(count):
        fraud = rng.random(3_000) < 0.03
        noise, other = rng.normal(size=(2, 3_000))
        champion = 2 * fraud + noise
        challenger = (2 + gain) * fraud + noise + 0.05 * other
        weeks.append(gate.Week(fraud, rng.integers(0, 400, 3_000), champion, challenger))
    return weeks


def test_the_gate_lets_in_what_helps_in_nearly_every_draw() -> None:
    ruling = gate.rule(weeks_of(gain=0.5))
    assert ruling.accepted
    assert 0 < ruling.low < ruling.gain < ruling.high
    assert all(gain > 0 for gain in ruling.weeks)


@pytest.mark.parametrize("gain", [0.0, -0.5])
def test_the_gate_refuses_what_does_not_help(gain: float) -> None:
    assert not gate.rule(weeks_of(gain)).accepted


def test_the_gate_asks_for_four_weeks() -> None:
    with pytest.raises(ValueError, match="4 test weeks"):
        gate.rule(weeks_of(0.5, count=3))


def test_the_gates_precision_is_the_measures_when_everybody_counts_once() -> None:
    week = weeks_of(0.0)[0]
    rounded = np.round(week.champion, 1)  # with ties
    payer = np.unique(week.payer, return_inverse=True)[1]
    once = np.ones(payer.max() + 1)
    assert gate._Ranked(week.fraud, payer, rounded).precision(once) == pytest.approx(
        metrics.average_precision(week.fraud, rounded)
    )


def test_a_window_of_days_ends_before_its_last_day() -> None:
    assert within(np.array([6, 7, 13, 14]), (7, 14)).tolist() == [False, True, True, False]
