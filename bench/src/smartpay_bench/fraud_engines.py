"""Part of `make bench-fraud`: trees, reasons, a whole request and the batcher, in one process."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import uvloop
import xgboost
from numpy.typing import NDArray

from smartpay_bench.alternating import medians_us
from smartpay_chassis.server import spare_the_collector
from smartpay_fraud.adapters.bundle_source import source_of
from smartpay_fraud.adapters.model_bundle import ModelBundle, arrays, load
from smartpay_fraud.adapters.onnx_models import OnnxModel
from smartpay_fraud.adapters.serving_models import LocalModel
from smartpay_fraud.domain.appraisal import Appraiser
from smartpay_fraud.domain.features import FeatureStore
from smartpay_fraud.domain.memory import LocalMemory
from smartpay_fraud.domain.models import Lineup
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.watching import Watching
from smartpay_fraud.micro_batcher import MicroBatcher
from smartpay_fraud.training import trees
from smartpay_fraud.training.onnx_export import to_onnx
from smartpay_fraud.training.payments_world import PaymentsWorld, generate

WARM_PAYMENTS = 60_000
"""Remembered before a request is timed: rings and windows of busy entities are full by then."""
REQUESTS = 4_000
CALLERS = 64
BATCHED_ROWS = 12_800
BATCH_ROWS_MAX = 64
BATCH_REPEATS = 5
QUEUE_MAX = 1_024

Matrix = NDArray[np.float32]


def single_rows(bundle: ModelBundle, booster: xgboost.Booster, rows: Matrix) -> dict[str, float]:
    """One row at a time: our trees and reasons against XGBoost's own."""
    ours = OnnxModel(to_onnx(trees.read_out(booster), rows.shape[1]))
    nothing = np.zeros((1, 0), np.float32)
    lines = [np.ascontiguousarray(row[None]) for row in rows]
    turn = iter(range(1 << 60))

    def row() -> Matrix:
        return lines[next(turn) % len(lines)]

    told = medians_us(
        {
            "trees": lambda: ours.infer(row(), nothing),
            "inplace": lambda: booster.inplace_predict(row()),
            "predict": lambda: booster.predict(xgboost.DMatrix(row(), nthread=1)),
            "reasons": lambda: bundle.attribution.contributions(row()),
            "contribs": lambda: booster.predict(
                xgboost.DMatrix(row(), nthread=1), pred_contribs=True
            ),
        },
        calls=400,
    )
    return {
        "trees_us": told["trees"],
        "inplace_us": told["inplace"],
        "predict_us": told["predict"],
        "trees_vs_inplace": told["inplace"] / told["trees"],
        "reasons_us": told["reasons"],
        "contribs_us": told["contribs"],
        "reasons_vs_contribs": told["contribs"] / told["reasons"],
    }


async def whole_requests(bundle: ModelBundle) -> dict[str, float]:
    """Features, graph, trees, reasons and decision of one payment after the other."""
    stream = generate(PaymentsWorld())
    visits = list(zip(stream.transactions(), stream.time_ms.tolist(), strict=True))
    visits = visits[: WARM_PAYMENTS + REQUESTS]
    memory = LocalMemory(FeatureStore())
    with ThreadPoolExecutor(1) as thread:
        model = LocalModel(bundle, thread, datetime.now(UTC))
        appraiser = Appraiser(memory, Lineup(memory, model), Rulebook(), Watching())
        for visit in visits[:WARM_PAYMENTS]:
            await memory.observe([visit])
            memory.settle([visit[0].key])
        spare_the_collector()  # as the service does once it has made what it serves with
        taken, used = [], []
        for visit in visits[WARM_PAYMENTS:]:
            start, busy = time.perf_counter_ns(), time.process_time_ns()
            await appraiser.appraise([visit])
            taken.append(time.perf_counter_ns() - start)
            used.append(time.process_time_ns() - busy)
            memory.settle([visit[0].key])
    taken.sort()
    return {
        "request_p50_us": statistics.median(taken) / 1_000,
        "request_p99_us": taken[len(taken) * 99 // 100] / 1_000,
        "request_cpu_us": statistics.median(used) / 1_000,
        "remembered": WARM_PAYMENTS,
    }


async def _rate(call: Callable[[Matrix], Awaitable[object]], rows: Sequence[Matrix]) -> float:
    """Rows a second that so many callers get, each asking again once it is answered."""
    left = iter(rows)

    async def caller() -> None:
        for row in left:
            await call(row)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return len(rows) / (time.perf_counter() - start)


async def batching(
    ours: Callable[[Matrix], NDArray[np.float64]], xgb: xgboost.Booster, rows: Matrix
) -> dict[str, float]:
    """The same model with and without the batcher, for our engine and for XGBoost itself."""
    lines = [rows[n % len(rows)][None] for n in range(BATCHED_ROWS)]
    told: dict[str, list[float]] = {}
    engines = {"ours": ours, "xgboost": lambda block: np.asarray(xgb.inplace_predict(block))}
    for _ in range(BATCH_REPEATS):
        for name, engine in engines.items():

            async def work(
                items: list[Matrix], engine: Callable[[Matrix], NDArray[np.float64]] = engine
            ) -> list[float]:
                found: list[float] = engine(np.concatenate(items)).tolist()
                return found

            batcher = MicroBatcher(work, rows_max=BATCH_ROWS_MAX, queue_max=QUEUE_MAX)

            async def alone(
                row: Matrix, engine: Callable[[Matrix], NDArray[np.float64]] = engine
            ) -> object:
                await asyncio.sleep(0)  # as a caller would: nobody has the loop to itself
                return engine(row)

            async def together(
                row: Matrix, batcher: MicroBatcher[Matrix, float] = batcher
            ) -> object:
                return await batcher.submit([row])

            share = lines if name == "ours" else lines[: BATCHED_ROWS // 4]
            told.setdefault(f"{name} alone", []).append(await _rate(alone, share))
            told.setdefault(f"{name} together", []).append(await _rate(together, share))
    ratios = {
        name: statistics.median(
            together / alone
            for together, alone in zip(told[f"{name} together"], told[f"{name} alone"], strict=True)
        )
        for name in engines
    }
    return {
        "batcher_vs_unbatched": ratios["ours"],
        "batcher_vs_unbatched_xgboost": ratios["xgboost"],
    }


def main() -> None:
    """Measures and prints one JSON object."""
    os.environ["OMP_NUM_THREADS"] = "1"
    files = source_of("").read()
    bundle = load(files)
    golden = arrays(files["golden.npz"])
    booster = xgboost.Booster()
    booster.load_model(bytearray(files["model.ubj"]))
    booster.set_param({"nthread": 1})
    rows = golden["rows"].astype(np.float32)
    columns = golden.get("graph_columns")
    stack = rows if columns is None else bundle.stack(rows, columns.astype(np.float32))
    graph = golden.get("graph", np.zeros((len(rows), 0)))[:1].astype(np.float32)
    told = single_rows(bundle, booster, stack)
    engine = medians_us({"engine": lambda: bundle.engine.infer(rows[:1], graph)}, calls=400)
    told["engine_us"] = engine["engine"]
    sys.stderr.write("engines measured; a whole request next\n")
    told |= uvloop.run(whole_requests(bundle))
    trees_alone = OnnxModel(to_onnx(trees.read_out(booster), stack.shape[1]))
    nothing = np.zeros((1, 0), np.float32)
    told |= uvloop.run(batching(lambda block: trees_alone.infer(block, nothing)[0], booster, stack))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
