"""The graph network: torch-geometric, plain torch, NumPy's rings and ONNX say the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import xgboost
from onnxruntime import InferenceSession  # type: ignore[attr-defined]
from safetensors.numpy import load

from smartpay_fraud.domain.features import EDGE_COLUMNS, FEATURES
from smartpay_fraud.domain.graph import (
    DAY_MS,
    GRAPH_COLUMNS,
    GRAPH_KINDS,
    MessageWeights,
    Ring,
    remember,
    view,
)
from smartpay_fraud.training import trees
from smartpay_fraud.training.neighbourhood import Neighbourhood
from smartpay_fraud.training.onnx_export import to_onnx
from smartpay_fraud.training.replay import Matrix, Replayed
from smartpay_fraud.training.sage import Sage, Schedule, train_sage
from smartpay_fraud.training.sage_reference import DenseTwoHop, WholeGraph, tables
from smartpay_fraud.training.stream import ABSENT, NEVER, Ints

PAYMENTS = 6000
LEARNED = 4000
QUICK = Schedule(epochs=6, batch=256, honest_share=1.0)


def stream() -> Replayed:
    """Terminals turn bad for two weeks; nothing but their labelled payments tells which."""
    rng = np.random.default_rng(11)
    time_ms = np.sort(rng.integers(0, 80 * DAY_MS, PAYMENTS))
    rows = np.zeros((PAYMENTS, len(FEATURES)), np.float32)
    rows[:, :20] = rng.normal(0, 1, (PAYMENTS, 20))
    rows[:, EDGE_COLUMNS] = rng.normal(0, 1, (PAYMENTS, len(EDGE_COLUMNS)))
    rows[rng.random(rows.shape) < 0.05] = np.nan
    sizes = {"customer": 200, "terminal": 60, "card": 300, "device": 250}
    parts = {kind: rng.integers(0, size, PAYMENTS) for kind, size in sizes.items()}
    parts["device"] = np.where(rng.random(PAYMENTS) < 0.3, ABSENT, parts["device"])
    parts["network"] = np.full(PAYMENTS, ABSENT)
    start = rng.integers(0, 60 * DAY_MS, 60)[parts["terminal"]]
    bad = (time_ms >= start) & (time_ms < start + 28 * DAY_MS) & (parts["terminal"] < 20)
    fraud = bad & (rng.random(PAYMENTS) < 0.9)
    known_ms = np.where(fraud, time_ms + 3 * DAY_MS, NEVER)
    return Replayed(rows, time_ms, parts, fraud, known_ms)


@pytest.fixture(scope="module")
def replayed() -> Replayed:
    return stream()


@pytest.fixture(scope="module")
def sage(replayed: Replayed) -> Sage:
    return train_sage(replayed, np.arange(PAYMENTS) < LEARNED, schedule=QUICK)


def by_torch_geometric(sage: Sage, replayed: Replayed, payments: Ints) -> Matrix:
    around = Neighbourhood(replayed)
    with torch.inference_mode():
        columns: Matrix = sage.network(sage.surroundings(around, replayed.rows, payments)).numpy()
    return columns


def test_the_columns_equal_torch_geometric_over_the_edge_list(
    replayed: Replayed, sage: Sage
) -> None:
    payments = np.arange(0, PAYMENTS, 7)
    expected = by_torch_geometric(sage, replayed, payments)
    np.testing.assert_allclose(sage.columns(replayed, payments), expected, rtol=1e-5, atol=1e-5)


def test_the_network_finds_what_only_the_graph_knows(replayed: Replayed, sage: Sage) -> None:
    later = np.arange(LEARNED, PAYMENTS)
    alone = {kind: np.full(PAYMENTS, ABSENT) for kind in GRAPH_KINDS}
    fraud = replayed.fraud[later]

    def wins(around: Replayed) -> float:
        logit = sage.columns(around, later)[:, -1]
        return float((logit[fraud][:, None] > logit[~fraud][None]).mean())

    assert wins(replayed) > 0.75
    assert wins(replace(replayed, parts=alone)) < 0.6


def test_serving_from_rings_and_onnx_equals_torch_geometric_and_xgboost(
    replayed: Replayed, sage: Sage
) -> None:
    columns = sage.columns(replayed)
    stack = np.concatenate([replayed.rows, columns], axis=1)
    booster = xgboost.train(
        {"max_depth": 3, "base_score": 0.1, "objective": "binary:logistic", "nthread": 1},
        xgboost.DMatrix(stack[:LEARNED], replayed.fraud[:LEARNED]),
        20,
    )
    onnx = to_onnx(trees.read_out(booster), len(FEATURES), sage)
    session = InferenceSession(onnx, providers=["CPUExecutionProvider"])
    weights = MessageWeights(**load(sage.safetensors()))
    rings: dict[tuple[str, int], Ring] = {}
    graph_rows = []
    news = [(at, n) for n, at in enumerate(replayed.known_ms.tolist()) if at != NEVER]
    news.sort(reverse=True)
    for payment, now_ms in enumerate(replayed.time_ms.tolist()):
        while news and news[-1][0] <= now_ms:
            at, told = news.pop()
            for kind in GRAPH_KINDS:
                ring = rings.get((kind, int(replayed.parts[kind][told])))
                if ring is not None:
                    ring.label(told, bool(replayed.fraud[told]), at)
        names = [(kind, int(replayed.parts[kind][payment])) for kind in GRAPH_KINDS]
        around = [None if n[1] == ABSENT else rings.setdefault(n, Ring()) for n in names]
        graph_rows.append(view(around, now_ms, weights))
        remember(around, replayed.rows[payment, EDGE_COLUMNS], now_ms, payment, weights)
    chosen = np.arange(PAYMENTS - 500, PAYMENTS)
    asked = {"rows": replayed.rows[chosen], "graph": np.array(graph_rows)[chosen]}
    margins, served = (np.asarray(v) for v in session.run(["margins", "graph_columns"], asked))
    expected = by_torch_geometric(sage, replayed, chosen)
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-5)
    seen = np.concatenate([replayed.rows[chosen], served], axis=1)
    np.testing.assert_allclose(margins[:, 0], trees.margins(booster, seen), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        sage.graph_rows(replayed, chosen), np.array(graph_rows)[chosen], rtol=2e-5, atol=2e-5
    )


def test_dense_torch_and_the_whole_graph_say_the_same_of_the_next_payment(
    replayed: Replayed, sage: Sage
) -> None:
    last = PAYMENTS - 1
    before = Replayed(
        replayed.rows[:last],
        replayed.time_ms[:last],
        {kind: codes[:last] for kind, codes in replayed.parts.items()},
        replayed.fraud[:last],
        replayed.known_ms[:last],
    )
    known = tables(before)
    parts = np.array([replayed.parts[kind][last] for kind in GRAPH_KINDS])
    asked = (replayed.rows[last], parts, int(replayed.time_ms[last]))
    expected = by_torch_geometric(sage, replayed, np.array([last]))[0]
    for rival in (DenseTwoHop(sage, known), WholeGraph(sage, known)):
        np.testing.assert_allclose(rival.columns(*asked).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_labels_not_yet_known_change_nothing(replayed: Replayed, sage: Sage) -> None:
    payment = np.array([PAYMENTS - 1])
    now_ms = replayed.time_ms[-1]
    unknown = (replayed.known_ms == NEVER) | (replayed.known_ms > now_ms)
    flipped = replace(replayed, fraud=replayed.fraud ^ unknown)
    np.testing.assert_array_equal(sage.columns(flipped, payment), sage.columns(replayed, payment))


def test_a_part_never_seen_in_training_works_at_once(replayed: Replayed, sage: Sage) -> None:
    strangers = {
        kind: np.where(codes == ABSENT, ABSENT, codes + 10_000)
        for kind, codes in replayed.parts.items()
    }
    renamed = replace(replayed, parts=strangers)
    payments = np.arange(LEARNED, LEARNED + 200)
    np.testing.assert_array_equal(sage.columns(renamed, payments), sage.columns(replayed, payments))


def test_equal_seeds_give_equal_weights(replayed: Replayed) -> None:
    learn = np.arange(PAYMENTS) < 800
    once = train_sage(replayed, learn, schedule=QUICK._replace(epochs=1))
    again = train_sage(replayed, learn, schedule=QUICK._replace(epochs=1))
    assert once.safetensors() == again.safetensors()
    np.testing.assert_array_equal(once.head.embedding, again.head.embedding)


def test_a_column_that_never_varied_in_training_says_nothing_later(
    replayed: Replayed, sage: Sage
) -> None:
    still = replayed.rows.copy()
    still[:, 5] = 3.0
    trained = train_sage(
        replace(replayed, rows=still), np.arange(PAYMENTS) < 800, schedule=QUICK._replace(epochs=1)
    )
    assert trained.scale[5] == 0.0
    assert len(GRAPH_COLUMNS) == sage.columns(replayed, np.array([0])).shape[1]


def test_a_kind_of_part_that_training_never_saw_says_nothing(
    replayed: Replayed, sage: Sage
) -> None:
    payments = np.arange(LEARNED, LEARNED + 50)
    parts = {**replayed.parts, "network": np.arange(PAYMENTS) % 9}
    np.testing.assert_allclose(
        sage.columns(replace(replayed, parts=parts), payments),
        by_torch_geometric(sage, replayed, payments),
        rtol=1e-5,
        atol=1e-5,
    )
