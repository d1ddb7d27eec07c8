"""Part of `make bench-fraud`, in the training environment: our graph engine against torch's.

All three answer the same payment from the same past with the same weights, and are held to the same
answer before anything is timed.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

import numpy as np
import torch
import xgboost

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch_geometric.nn  # noqa: F401 - it warns about itself when first imported

from safetensors.numpy import load

from smartpay_bench.alternating import medians_us
from smartpay_fraud.adapters.onnx_models import OnnxModel
from smartpay_fraud.domain.features import EDGE_COLUMNS, FEATURES
from smartpay_fraud.domain.graph import GRAPH_KINDS, MessageWeights, Ring, remember, view
from smartpay_fraud.training import trees
from smartpay_fraud.training.onnx_export import to_onnx
from smartpay_fraud.training.payments_world import PaymentsWorld, generate
from smartpay_fraud.training.replay import Replayed, replay
from smartpay_fraud.training.sage import Schedule, train_sage
from smartpay_fraud.training.sage_reference import DenseTwoHop, WholeGraph, tables
from smartpay_fraud.training.stream import ABSENT

PAYMENTS = 20_000
"""Enough for full rings around busy entities; PyG's whole graph only grows with more."""
PARITY = 1e-4
QUICK = Schedule(epochs=1, batch=512, honest_share=0.2)
"""How well it predicts does not change how long it takes."""


def main() -> None:
    """Measures and prints one JSON object."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    whole = generate(PaymentsWorld())
    past = replay(whole.until(int(whole.day[PAYMENTS]) + 1))
    count = len(past.time_ms)
    sys.stderr.write(f"{count} payments replayed; a quick training next\n")
    sage = train_sage(past, np.ones(count, bool), schedule=QUICK)
    last = count - 1
    before = Replayed(
        past.rows[:last],
        past.time_ms[:last],
        {kind: codes[:last] for kind, codes in past.parts.items()},
        past.fraud[:last],
        past.known_ms[:last],
    )
    row, now_ms = past.rows[last], int(past.time_ms[last])
    parts = np.array([past.parts[kind][last] for kind in GRAPH_KINDS])
    known = tables(before)
    dense, geometric = DenseTwoHop(sage, known), WholeGraph(sage, known)

    # A tree behind the head, for the exported file always is both; it alone is taken off again.
    stub = xgboost.train(
        {"max_depth": 1, "base_score": 0.5, "objective": "binary:logistic", "nthread": 1},
        xgboost.DMatrix(np.zeros((2, len(FEATURES) + 17), np.float32), label=[0, 1]),
        1,
    )
    engine = OnnxModel(to_onnx(trees.read_out(stub), len(FEATURES), sage))
    tree_alone = OnnxModel(to_onnx(trees.read_out(stub), len(FEATURES) + 17))
    weights = MessageWeights(**load(sage.safetensors()))
    rings: dict[tuple[str, int], Ring] = {}
    news = sorted(
        ((int(at), n) for n, at in enumerate(before.known_ms.tolist()) if at >= 0), reverse=True
    )
    for payment, at_ms in enumerate(before.time_ms.tolist()):
        while news and news[-1][0] <= at_ms:
            told_ms, told = news.pop()
            for kind in GRAPH_KINDS:
                ring = rings.get((kind, int(before.parts[kind][told])))
                if ring is not None:
                    ring.label(told, bool(before.fraud[told]), told_ms)
        names = [(kind, int(before.parts[kind][payment])) for kind in GRAPH_KINDS]
        around = [None if n[1] == ABSENT else rings.setdefault(n, Ring()) for n in names]
        view(around, at_ms, weights)
        remember(around, before.rows[payment, EDGE_COLUMNS], at_ms, payment, weights)
    while news and news[-1][0] <= now_ms:
        told_ms, told = news.pop()
        for kind in GRAPH_KINDS:
            ring = rings.get((kind, int(before.parts[kind][told])))
            if ring is not None:
                ring.label(told, bool(before.fraud[told]), told_ms)
    asked = [
        None if code == ABSENT else rings.get((kind, int(code)), Ring())
        for kind, code in zip(GRAPH_KINDS, parts.tolist(), strict=True)
    ]
    rows = np.ascontiguousarray(row[None])

    def ours() -> np.ndarray:
        columns: np.ndarray = engine.infer(rows, view(asked, now_ms, weights)[None])[1][0]
        return columns

    by_torch = dense.columns(row, parts, now_ms).numpy()
    by_geometric = geometric.columns(row, parts, now_ms).numpy()
    worst = max(
        float(np.abs(ours() - by_torch).max()), float(np.abs(by_geometric - by_torch).max())
    )
    if not worst <= PARITY:
        sys.exit(f"bench-fraud: the three engines differ by {worst:.1e}")
    stack, graph = np.zeros((1, len(FEATURES) + 17), np.float32), view(asked, now_ms, weights)[None]
    medians = medians_us(
        {
            "view": lambda: view(asked, now_ms, weights),
            "head and tree": lambda: engine.infer(rows, graph),
            "tree": lambda: tree_alone.infer(stack, graph),
            "torch": lambda: dense.columns(row, parts, now_ms),
            "geometric": lambda: geometric.columns(row, parts, now_ms),
        },
        calls=400,
        slow={"geometric": 10},
    )
    # What the graph adds to a request: its view, and its head's share of the one session run.
    ours_us = medians["view"] + medians["head and tree"] - medians["tree"]
    print(
        json.dumps(
            {
                "graph_us": ours_us,
                "graph_view_us": medians["view"],
                "graph_head_and_tree_us": medians["head and tree"],
                "graph_torch_us": medians["torch"],
                "graph_pyg_us": medians["geometric"],
                "sage_vs_torch": medians["torch"] / ours_us,
                "sage_vs_pyg": medians["geometric"] / ours_us,
                "graph_payments": count,
                "graph_parity": worst,
            }
        )
    )


if __name__ == "__main__":
    main()
