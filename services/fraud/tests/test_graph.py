"""The rings of the graph: a new edge is seen at once, labels when they are known, sums exactly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from smartpay_fraud.domain import graph
from smartpay_fraud.domain.graph import (
    DAY_MS,
    EDGE_FEATURES,
    GRAPH_KINDS,
    GRAPH_WIDTH,
    HIDDEN,
    MATURITY_MS,
    MESSAGE_WIDTH,
    PART_WIDTH,
    RING,
    SLOT,
    SUMS_WIDTH,
    MessageWeights,
    Ring,
    Vector,
    remember,
    view,
)

NOW_MS = 1_700_000_000_000
HOUR_MS = DAY_MS // 24


def weights(seed: int = 3) -> MessageWeights:
    numbers = np.random.default_rng(seed).standard_normal((len(GRAPH_KINDS), len(SLOT), HIDDEN))
    return MessageWeights((0.3 * numbers).astype(np.float32))


def edge(seed: int) -> Vector:
    return np.random.default_rng(seed).normal(2, 2, len(EDGE_FEATURES)).astype(np.float32)


def customer_ring(
    payments: int, model: MessageWeights | None = None, step_ms: int = HOUR_MS
) -> Ring:
    """A customer's ring after payments an hour apart, the last one hour before now."""
    ring = Ring()
    for number in range(payments):
        at = NOW_MS - (payments - number) * step_ms
        remember(only(ring), edge(number), at, number, model)
    return ring


def only(ring: Ring) -> list[Ring | None]:
    return [ring, None, None, None, None]


def part(row: Vector, kind: str = "customer") -> Vector:
    numbers: Vector = row.reshape(len(GRAPH_KINDS), PART_WIDTH)[GRAPH_KINDS.index(kind)]
    return numbers


def by_hand(ring: Ring, now_ms: int, model: MessageWeights, kind: int = 0) -> NDArray[np.float64]:
    """The definition of a part's numbers, slot by slot in double precision."""
    sums = np.zeros((len(graph.DECAY_DAYS), MESSAGE_WIDTH))
    greatest = np.zeros(MESSAGE_WIDTH)
    told = ring.dump()
    for slot, at, known_ms, fraud in zip(
        ring.slots.astype(np.float64), told.times_ms, told.known_ms, told.frauds, strict=True
    ):
        slot[SLOT.index("known")] = known_ms <= now_ms
        slot[SLOT.index("fraud")] = known_ms <= now_ms and fraud
        message = np.append(np.maximum(slot @ model.weights[kind], 0), 1.0)
        for row, days in zip(sums, graph.DECAY_DAYS, strict=True):
            row += message * np.exp(-(now_ms - at) / DAY_MS / days)
        greatest = np.maximum(greatest, message)
    return np.concatenate([sums.ravel(), greatest])


def test_a_payment_without_known_parts_has_an_empty_row() -> None:
    row = view([None] * 5, NOW_MS, weights())
    assert row.shape == (GRAPH_WIDTH,)
    assert row.dtype == np.float32
    assert not row.any()


def test_the_next_score_sees_the_payment_of_a_moment_ago() -> None:
    model, ring = weights(), customer_ring(3, weights())
    before = view(only(ring), NOW_MS, model)
    remember(only(ring), edge(9), NOW_MS, "new", model)
    after = view(only(ring), NOW_MS, model)
    counts = slice(HIDDEN, SUMS_WIDTH, MESSAGE_WIDTH)
    np.testing.assert_allclose((part(after) - part(before))[counts], 1.0, rtol=1e-6)


@pytest.mark.parametrize("payments", [1, 7, RING, RING + 13])
@pytest.mark.parametrize("later_ms", [0, 90_000, 3 * DAY_MS, 6 * DAY_MS, 40 * DAY_MS])
def test_ready_sums_equal_the_definition_at_any_later_time(payments: int, later_ms: int) -> None:
    model = weights()
    ring = customer_ring(payments, model, step_ms=7 * HOUR_MS)
    ring.label(payments - 1, True, NOW_MS + 2 * DAY_MS)
    row = part(view(only(ring), NOW_MS + later_ms, model))
    expected = by_hand(ring, NOW_MS + later_ms, model)
    np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_looking_twice_and_between_changes_nothing() -> None:
    model = weights()
    often, once = customer_ring(12, model), customer_ring(12, None)
    for hours in range(0, 24 * 9, 5):
        view(only(often), NOW_MS + hours * HOUR_MS, model)
    late = NOW_MS + 9 * DAY_MS
    np.testing.assert_allclose(
        view(only(often), late, model), view(only(once), late, model), rtol=1e-5, atol=1e-7
    )


def test_a_ring_holds_the_latest_payments_only() -> None:
    ring = customer_ring(RING + 5)
    told = ring.dump()
    assert told.keys == list(range(5, RING + 5))
    assert len(ring) == len(told.edges) == len(ring.slots) == RING
    np.testing.assert_array_equal(told.edges[-1], edge(24))
    np.testing.assert_array_equal(ring.slots[-1, : len(EDGE_FEATURES)], graph.squash(edge(24)))


def test_a_payment_knows_how_long_it_came_after_one_that_is_no_longer_held() -> None:
    ring = customer_ring(RING + 5)
    gaps = ring.slots[:, SLOT.index("gap")]
    np.testing.assert_allclose(gaps, np.log1p(1 / 24), rtol=1e-6)
    assert customer_ring(2).slots[0, SLOT.index("gap")] == 0.0


def test_a_label_counts_from_the_moment_it_is_known_and_not_before() -> None:
    model = weights()
    told, silent = customer_ring(5, model), customer_ring(5, model)
    told.label(2, True, NOW_MS + HOUR_MS)
    just_before = NOW_MS + HOUR_MS - 1
    np.testing.assert_array_equal(
        view(only(told), just_before, model), view(only(silent), just_before, model)
    )
    known = NOW_MS + HOUR_MS
    assert not np.allclose(view(only(told), known, model), view(only(silent), known, model))
    np.testing.assert_allclose(
        part(view(only(told), known, model)), by_hand(told, known, model), rtol=1e-5, atol=1e-6
    )


def test_a_payment_that_nobody_called_a_fraud_counts_as_legitimate_after_a_week() -> None:
    model, ring = weights(), customer_ring(1)
    matures = ring.dump().times_ms[0] + MATURITY_MS
    for now_ms, known in ((matures - 1, 0.0), (matures, 1.0)):
        view(only(ring), now_ms, model)
        assert ring.slots[0, SLOT.index("known")] == known
        assert ring.slots[0, SLOT.index("fraud")] == 0.0


def test_a_fraud_told_after_the_week_still_counts() -> None:
    model, ring = weights(), customer_ring(2)
    late = NOW_MS + 20 * DAY_MS
    view(only(ring), late, model)
    ring.label(1, True, late)
    view(only(ring), late, model)
    assert ring.slots[:, SLOT.index("fraud")].tolist() == [0.0, 1.0]


def test_a_label_of_a_payment_no_longer_held_is_let_go() -> None:
    model, ring = weights(), customer_ring(RING + 1)
    before = view(only(ring), NOW_MS, model)
    ring.label(0, True, NOW_MS)
    np.testing.assert_array_equal(view(only(ring), NOW_MS, model), before)


def test_each_kind_of_part_speaks_with_its_own_weights() -> None:
    model = weights()
    rings: list[Ring | None] = [customer_ring(4) for _ in GRAPH_KINDS]
    row = view(rings, NOW_MS, model)
    for kind, name in enumerate(GRAPH_KINDS):
        expected = by_hand(customer_ring(4), NOW_MS, model, kind)
        np.testing.assert_allclose(part(row, name), expected, rtol=1e-5, atol=1e-6)


def test_champion_and_challenger_share_rings_without_disturbing_each_other() -> None:
    champion, challenger = weights(1), weights(2)
    shared = customer_ring(6, champion)
    alone = customer_ring(6, champion)
    view(only(shared), NOW_MS, challenger)
    np.testing.assert_array_equal(
        view(only(shared), NOW_MS, champion), view(only(alone), NOW_MS, champion)
    )
    np.testing.assert_allclose(
        part(view(only(shared), NOW_MS, challenger)),
        by_hand(shared, NOW_MS, challenger),
        rtol=1e-5,
        atol=1e-6,
    )


def test_missing_and_huge_inputs_cannot_spoil_the_sums() -> None:
    model, ring = weights(), Ring()
    wild = np.full(len(EDGE_FEATURES), np.nan, np.float32)
    wild[0], wild[1] = np.inf, -np.inf
    remember(only(ring), wild, NOW_MS, "wild", model)
    assert np.isfinite(view(only(ring), NOW_MS, model)).all()
    assert ring.slots[0, :3].tolist() == [5.0, -5.0, 0.0]


def test_a_clock_that_steps_back_does_not_break_the_order() -> None:
    ring = customer_ring(2)
    remember(only(ring), edge(5), NOW_MS - 9 * HOUR_MS, "early", None)
    times_ms = ring.dump().times_ms
    assert len(times_ms) == 3
    assert times_ms == sorted(times_ms)


def test_a_loaded_ring_goes_on_as_the_dumped_one_would_have() -> None:
    model, ring = weights(), customer_ring(RING + 2)
    ring.label(RING, True, NOW_MS + HOUR_MS)
    loaded = Ring.load(ring.dump())
    for later_ms in (0, HOUR_MS, 8 * DAY_MS):
        remember(only(ring), edge(50), NOW_MS + later_ms, later_ms, model)
        remember(only(loaded), edge(50), NOW_MS + later_ms, later_ms, model)
        np.testing.assert_array_equal(
            view(only(loaded), NOW_MS + later_ms, model), view(only(ring), NOW_MS + later_ms, model)
        )


def test_a_damaged_ring_is_refused() -> None:
    told = customer_ring(4).dump()
    with pytest.raises(ValueError, match="older snapshot"):
        Ring.load(told._replace(edges=told.edges[:3]))
    with pytest.raises(ValueError, match="older snapshot"):
        Ring.load(told._replace(times_ms=told.times_ms[1:]))


@pytest.mark.parametrize(
    "numbers",
    [
        np.zeros((len(GRAPH_KINDS), len(SLOT), HIDDEN + 1), np.float32),
        np.zeros((len(GRAPH_KINDS), len(SLOT), HIDDEN), np.float64),
        np.full((len(GRAPH_KINDS), len(SLOT), HIDDEN), np.nan, np.float32),
    ],
)
def test_weights_of_another_shape_or_not_finite_are_refused(numbers: Vector) -> None:
    with pytest.raises(ValueError, match="train the graph model anew"):
        MessageWeights(numbers)


def test_models_that_came_and_went_leave_nothing_behind() -> None:
    ring = customer_ring(6)
    for seed in range(20):
        view(only(ring), NOW_MS, weights(seed))
    settled, kept = ring.settled, 0
    while settled is not None:
        settled, kept = settled.other, kept + 1
    assert kept == 2


def test_a_clock_that_steps_back_by_months_does_not_blow_the_sums_up() -> None:
    model = weights()
    ring = customer_ring(3, model)
    now = view(only(ring), NOW_MS, model)
    early = view(only(ring), NOW_MS - 200 * DAY_MS, model)
    assert np.isfinite(early).all()
    assert early.max() <= 1.1 * now.max()
