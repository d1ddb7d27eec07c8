"""Fits what a bundle holds on one stream: trees over features and graph, calibrated later on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from smartpay_fraud.adapters.model_bundle import FILES, SAGE, pack, pack_arrays, seal
from smartpay_fraud.adapters.onnx_models import OnnxModel
from smartpay_fraud.domain.drift import reference
from smartpay_fraud.domain.features import DAY_MS, DEFINITIONS_VERSION, FEATURES, schema_hash
from smartpay_fraud.domain.graph import GRAPH_COLUMNS, graph_hash
from smartpay_fraud.domain.verdict import Calibration, Costs
from smartpay_fraud.training import trees
from smartpay_fraud.training.onnx_export import to_onnx
from smartpay_fraud.training.protocol import within
from smartpay_fraud.training.replay import Replayed
from smartpay_fraud.training.stream import Ints, Stream

if TYPE_CHECKING:
    from smartpay_fraud.training.sage import Sage

GOLDEN_ROWS = 64
"""Enough rows to reach most leaves, few enough to check in milliseconds at every start."""

GOLDEN_EARLY = 10_000
"""Half of the golden rows come from the first payments, so that a test can replay them soon."""


SAMPLED_ABOVE = 300_000
"""Payments in a window from which on a share of the honest ones teaches as much in a third of the
time."""


@dataclass(frozen=True)
class Split:
    """Days of a stream, each [first, last): no payment is judged by labels not yet known.

    The graph learns before the trees do, so that the trees see its mistakes on new days. A week is
    kept for calibration, and one more passes until its labels are in.
    """

    graph: tuple[int, int]
    train: tuple[int, int]
    calibrate: tuple[int, int]
    test: tuple[int, int]


@dataclass(frozen=True)
class Fitted:
    """A finished training, not yet written."""

    booster: xgboost.Booster
    sage: Sage | None
    calibration: Calibration
    costs: Costs
    rows: int

    def margins_of(self, replayed: Replayed, payments: Ints) -> NDArray[np.float64]:
        """Log-odds of fraud of some payments, by XGBoost itself."""
        return trees.margins(self.booster, _stack(replayed, self.sage, payments))


def fit(stream: Stream, replayed: Replayed, split: Split, sage: Sage | None) -> Fitted:
    """Trains the trees on one window and calibrates them on the next.

    A fraud counts in training only if it was known when the calibration's labels were.
    """
    day, known = stream.day, _known_frauds(stream, split.test[0])
    learn = np.flatnonzero(within(day, split.train))
    share = trees.HONEST_SHARE if len(learn) > SAMPLED_ABOVE else 1.0
    kept, weight = trees.sample(known[learn], share)
    learn = learn[kept]
    names = FEATURES if sage is None else FEATURES + GRAPH_COLUMNS
    booster = trees.train(_stack(replayed, sage, learn), known[learn], names, weight)
    held_out = np.flatnonzero(within(day, split.calibrate))
    margin = trees.margins(booster, _stack(replayed, sage, held_out))
    return Fitted(booster, sage, trees.calibrate(margin, known[held_out]), Costs(), len(learn))


def contents(fitted: Fitted, stream: Stream, replayed: Replayed, split: Split) -> dict[str, bytes]:
    """The bundle's files, ready to be sealed and written."""
    ensemble = trees.read_out(fitted.booster)
    model = to_onnx(ensemble, len(FEATURES), fitted.sage)
    held_out = np.flatnonzero(within(stream.day, split.calibrate))
    margin = fitted.margins_of(replayed, held_out)
    scores = np.array([fitted.calibration.probability(m) for m in margin.tolist()])
    learned = replayed.rows[within(stream.day, split.train)]
    files = {
        "model.onnx": model,
        "trees.npz": pack(ensemble),
        "golden.npz": pack_arrays(_golden(fitted, replayed, OnnxModel(model))),
        "drift.npz": pack_arrays(reference(learned, scores)._asdict()),
        "model.ubj": bytes(fitted.booster.save_raw("ubj")),
    }
    assert set(files) == set(FILES)
    if fitted.sage is not None:
        files[SAGE] = fitted.sage.safetensors()
    return files


def manifest(
    fitted: Fitted, files: dict[str, bytes], training: dict[str, Any], **told: object
) -> dict[str, Any]:
    """The bundle's manifest, sealed; `told` are further entries such as metrics."""
    return seal(
        {
            "features": list(FEATURES),
            "definitions_version": DEFINITIONS_VERSION,
            "schema_hash": schema_hash(),
            "graph_hash": graph_hash() if fitted.sage is not None else "",
            "calibration": asdict(fitted.calibration),
            "costs": asdict(fitted.costs),
            "training": {
                **training,
                "rows": fitted.rows,
                "trees": trees.TREES,
                "parameters": trees.PARAMETERS,
                "xgboost": xgboost.__version__,
                "numpy": np.__version__,
            },
            **told,
        },
        files,
    )


def _golden(fitted: Fitted, replayed: Replayed, served: OnnxModel) -> dict[str, NDArray[Any]]:
    """Some payments with what the trainers' own libraries say of them.

    The trees judge the graph columns that serving computes: XGBoost's thresholds are values of
    training rows, so the last digit of a column may decide a split.
    """
    rng = np.random.default_rng(trees.SEED)
    count = len(replayed.rows)
    early = rng.choice(min(GOLDEN_EARLY, count), GOLDEN_ROWS // 2, replace=False)
    chosen = np.concatenate([early, rng.choice(count, GOLDEN_ROWS // 2, replace=False)])
    rows = np.ascontiguousarray(replayed.rows[chosen])
    golden: dict[str, NDArray[Any]] = {"payments": chosen, "rows": rows}
    stack = rows
    if fitted.sage is not None:
        golden["graph"] = fitted.sage.graph_rows(replayed, chosen)
        golden["graph_columns"] = fitted.sage.columns(replayed, chosen)
        stack = np.concatenate([rows, served.infer(rows, golden["graph"])[1]], axis=1)
    golden["margins"] = trees.margins(fitted.booster, stack)
    golden["contributions"] = trees.contributions(fitted.booster, stack)[:, :-1]
    return golden


def _stack(replayed: Replayed, sage: Sage | None, payments: Ints) -> NDArray[np.float32]:
    """What the trees see: base rows and, with a graph, its columns beside them."""
    rows = np.ascontiguousarray(replayed.rows[payments])
    if sage is None:
        return rows
    return np.concatenate([rows, sage.columns(replayed, payments)], axis=1)


def _known_frauds(stream: Stream, day: int) -> NDArray[np.bool_]:
    """The frauds known when a day begins."""
    begin = stream.first_ms + day * DAY_MS
    return np.asarray(stream.fraud & (stream.known_ms >= 0) & (stream.known_ms <= begin))
