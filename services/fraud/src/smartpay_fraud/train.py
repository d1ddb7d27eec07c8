"""Trains the packaged bundle from nothing: `python -m smartpay_fraud.train [--out FOLDER]`.

Equal code gives equal bytes on one kind of machine; another processor may differ in a last digit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xgboost
from numpy.typing import NDArray

from smartpay_fraud.adapters.model_bundle import (
    FILES,
    FORMAT,
    PARITY_MAX,
    load,
    pack,
    pack_arrays,
    version_of,
)
from smartpay_fraud.domain.attribution import Ensemble
from smartpay_fraud.domain.features import DAY_MS, DEFINITIONS_VERSION, FEATURES, schema_hash
from smartpay_fraud.domain.verdict import Calibration, Costs, Verdict
from smartpay_fraud.training import metrics, trees
from smartpay_fraud.training.generator import (
    SCENARIOS,
    START_MS,
    Stream,
    World,
    generate,
)
from smartpay_fraud.training.onnx_export import to_onnx
from smartpay_fraud.training.replay import replay

T = TypeVar("T")

GOLDEN_ROWS = 64
"""Enough rows to reach most leaves, few enough to check in milliseconds at every start."""

GOLDEN_EARLY = 10_000
"""Half of the golden rows come from the first payments, so that a test can replay them soon."""

WEEK_DAYS = 7


@dataclass(frozen=True)
class Trained:
    """A finished training, not yet written."""

    booster: xgboost.Booster
    ensemble: Ensemble
    calibration: Calibration
    costs: Costs
    golden: dict[str, NDArray[Any]]
    metrics: dict[str, Any]
    rows: int


def train(world: World, split: trees.Split) -> Trained:
    """Generates, replays, fits, calibrates and measures."""
    stream = _timed("generating payments", lambda: generate(world))
    rows = _timed("replaying them through the serving features", lambda: replay(stream, _bar))
    day = (stream.time_ms - START_MS) // DAY_MS
    fraud = stream.fraud
    learn = _within(day, split.train)
    booster = _timed("training the trees", lambda: trees.train(rows[learn], fraud[learn]))
    margin = trees.margins(booster, rows)
    held_out = _within(day, split.calibrate)
    calibration = trees.calibrate(margin[held_out], fraud[held_out])
    costs = Costs()
    probability = np.array([calibration.probability(m) for m in margin.tolist()])
    measured = {
        "weeks": [
            _week(stream, day, first, probability, rows[:, 0].astype(np.float64))
            for first in range(*split.test, WEEK_DAYS)
        ],
        "verdicts": _verdicts(stream, _within(day, split.test), probability, costs, rows[:, 0]),
    }
    rng = np.random.default_rng(trees.SEED)
    early = rng.choice(min(GOLDEN_EARLY, len(rows)), GOLDEN_ROWS // 2, replace=False)
    chosen = np.concatenate([early, rng.choice(len(rows), GOLDEN_ROWS // 2 - 1, replace=False)])
    unknown = np.full((1, len(FEATURES)), np.nan, np.float32)
    golden_rows = np.concatenate([rows[chosen], unknown])
    golden = {
        "payments": chosen,
        "rows": golden_rows,
        "margins": trees.margins(booster, golden_rows),
        "contributions": trees.contributions(booster, golden_rows)[:, :-1],
    }
    ensemble = trees.read_out(booster)
    return Trained(booster, ensemble, calibration, costs, golden, measured, int(learn.sum()))


def write(trained: Trained, world: World, split: trees.Split, folder: Path) -> dict[str, Any]:
    """Writes the bundle's files and answers its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "model.onnx": to_onnx(trained.ensemble, len(FEATURES)),
        "trees.npz": pack(trained.ensemble),
        "golden.npz": pack_arrays(trained.golden),
        "model.ubj": bytes(trained.booster.save_raw("ubj")),
    }
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "features": list(FEATURES),
        "definitions_version": DEFINITIONS_VERSION,
        "schema_hash": schema_hash(),
        "calibration": asdict(trained.calibration),
        "costs": asdict(trained.costs),
        "parity_max": PARITY_MAX,
        "training": {
            "data": "smartpay_fraud.training.generator",
            "world": asdict(world),
            "split_days": asdict(split),
            "rows": trained.rows,
            "trees": trees.TREES,
            "parameters": trees.PARAMETERS,
            "xgboost": xgboost.__version__,
            "numpy": np.__version__,
        },
        "metrics": trained.metrics,
        "files": {name: hashlib.sha256(contents[name]).hexdigest() for name in FILES},
    }
    manifest["model_version"] = version_of(manifest)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def _within(day: NDArray[np.int64], days: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray((day >= days[0]) & (day < days[1]))


def _week(
    stream: Stream,
    day: NDArray[np.int64],
    first: int,
    probability: NDArray[np.float64],
    amount: NDArray[np.float64],
) -> dict[str, Any]:
    """The published measures of one test week, for the model and for "large is suspicious"."""
    week = _within(day, (first, first + WEEK_DAYS))
    fraud = stream.fraud[week]
    measured: dict[str, Any] = {
        "first_day": first,
        "payments": int(week.sum()),
        "frauds": int(fraud.sum()),
        "mean_score": round(float(probability[week].mean()), 4),
    }
    for name, scores in (("model", probability), ("amount_only", amount)):
        judged = scores[week]
        measured[name] = {
            "average_precision": round(metrics.average_precision(fraud, judged), 4),
            "roc_auc": round(metrics.roc_auc(fraud, judged), 4),
            "card_precision_100": round(
                metrics.card_precision(fraud, judged, stream.card[week], day[week]), 4
            ),
        }
    return measured


def _verdicts(
    stream: Stream,
    tested: NDArray[np.bool_],
    probability: NDArray[np.float64],
    costs: Costs,
    amount: NDArray[np.float32],
) -> dict[str, dict[str, float]]:
    """Which share of each scenario the verdicts would have let through, stopped or shown."""
    cents = np.maximum(1, np.rint(np.expm1(amount.astype(np.float64)) * 100)).astype(np.int64)
    verdicts = np.array(
        [
            costs.verdict(p, size).value
            for p, size in zip(probability[tested].tolist(), cents[tested].tolist(), strict=True)
        ]
    )
    scenario = stream.scenario[tested]
    shares = {}
    for number, name in enumerate(SCENARIOS):
        those = verdicts[scenario == number]
        if len(those):
            shares[name] = {
                verdict.value: round(float((those == verdict.value).mean()), 4)
                for verdict in Verdict
            }
    return shares


def _timed(what: str, work: Callable[[], T]) -> T:
    begin = time.perf_counter()
    _say(f"{what} ...")
    result = work()
    _say(f"\r{what}: {time.perf_counter() - begin:.1f} s\n")
    return result


def _bar(share: float) -> None:
    if sys.stdout.isatty():
        _say(f"\r{share:5.0%} of the payments ")


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _table(measured: dict[str, Any]) -> str:
    lines = ["", "test week   scores by      AP     AUC    CP@100  payments  frauds"]
    for week in measured["weeks"]:
        for name in ("model", "amount_only"):
            m = week[name]
            lines.append(
                f"day {week['first_day']:<7} {name:<12} {m['average_precision']:.3f}  "
                f"{m['roc_auc']:.3f}  {m['card_precision_100']:.3f}   "
                f"{week['payments']:>7}  {week['frauds']:>6}"
            )
    lines += ["", "both weeks              allowed  reviewed  blocked"]
    for name, shares in measured["verdicts"].items():
        lines.append(
            f"{name:<22} {shares['ALLOW']:>8.2%} {shares['REVIEW']:>9.2%} {shares['BLOCK']:>8.2%}"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Trains with the stated defaults, writes the bundle and loads it as the service would."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parent / "bundle"
    parser.add_argument("--out", type=Path, default=default, help="folder of the bundle")
    out = parser.parse_args().out
    world, split = World(), trees.Split()
    trained = train(world, split)
    manifest = write(trained, world, split, out)
    _say(_table(manifest["metrics"]))
    load(out)
    size = sum((out / name).stat().st_size for name in FILES)
    _say(f"\n{manifest['model_version']} written: {size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
