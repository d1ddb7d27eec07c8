"""Judges every combination of features, window and graph by the published protocol.

Each fold stands for itself: its graph learned before its trees, its trees before its test week.
Folds run side by side, one process and one thread each.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.training import gate, trees
from smartpay_fraud.training.handbook_features import NAMES, handbook_rows
from smartpay_fraud.training.protocol import Figures, Fold, figures, judged, within
from smartpay_fraud.training.replay import Replayed
from smartpay_fraud.training.sage import GRAPH_COLUMNS, train_sage
from smartpay_fraud.training.stream import Stream

Scores = NDArray[np.float64]

WORKERS = 2
"""Folds at a time: each holds a copy of its windows, and the machine this is tuned for has two
cores."""


class Model(NamedTuple):
    """One row of the ablation."""

    features: str
    window: str
    graph: bool

    def __str__(self) -> str:
        columns = {"handbook": "Handbook features", "ours": "our features", "": "GraphSAGE alone"}
        name = columns[self.features]
        return name + " + GraphSAGE" if self.features and self.graph else name


GRAPH_ALONE = Model("", "", True)

MODELS: tuple[Model, ...] = (
    GRAPH_ALONE,
    *(
        Model(features, window, graph)
        for window in ("strict", "long")
        for features in ("handbook", "ours")
        for graph in (False, True)
    ),
)


@dataclass(frozen=True)
class Judged:
    """One fold: each model's figures, and its scores on the payments judged."""

    fold: Fold
    figures: dict[Model, Figures]
    scores: dict[Model, Scores]
    fraud: NDArray[np.bool_]
    payer: NDArray[np.int64]


class _Inputs(NamedTuple):
    stream: Stream
    replayed: Replayed
    handbook: NDArray[np.float32]


_inputs: _Inputs | None = None  # handed to the forked workers by memory, not by a pipe


def run(
    stream: Stream,
    replayed: Replayed,
    starts: Sequence[int],
    progress: Callable[[float], None] = lambda _: None,
) -> list[Judged]:
    """Trains and judges every model on every fold."""
    global _inputs
    _inputs = _Inputs(stream, replayed, handbook_rows(stream))
    try:
        context = multiprocessing.get_context("fork")
        done = []
        with ProcessPoolExecutor(WORKERS, mp_context=context) as pool:
            for judgement in pool.map(_fold, [Fold(start) for start in starts]):
                done.append(judgement)
                progress(len(done) / len(starts))
        return done
    finally:
        _inputs = None


def compare(weeks: Sequence[Judged], champion: Model, challenger: Model) -> gate.Ruling:
    """Lets the gate decide between two models."""
    return gate.rule(
        [
            gate.Week(week.fraud, week.payer, week.scores[champion], week.scores[challenger])
            for week in weeks
        ]
    )


def _fold(fold: Fold) -> Judged:
    assert _inputs is not None
    stream, replayed, handbook = _inputs
    day = stream.day
    sage = train_sage(replayed, within(day, fold.graph))
    of = np.flatnonzero(judged(stream, fold))
    needed = np.flatnonzero(within(day, fold.long))
    columns = sage.columns(replayed, of)
    learned = sage.columns(replayed, needed)
    scores: dict[Model, Scores] = {GRAPH_ALONE: columns[:, -1].astype(np.float64)}
    for model in MODELS[1:]:
        ours = model.features == "ours"
        rows, names = (replayed.rows, FEATURES) if ours else (handbook, NAMES)
        learn = np.flatnonzero(within(day, getattr(fold, model.window)))
        fraud = stream.fraud[learn]
        weight = None
        if model.window == "long":
            kept, weight = trees.sample(fraud)
            learn, fraud = learn[kept], fraud[kept]
        seen, asked = rows[learn], rows[of]
        if model.graph:
            names = names + GRAPH_COLUMNS
            of_learn = learned[np.searchsorted(needed, learn)]
            seen = np.concatenate([seen, of_learn], axis=1)
            asked = np.concatenate([asked, columns], axis=1)
        parameters, count = (
            (trees.PARAMETERS, trees.TREES) if ours else (trees.BOOK_PARAMETERS, trees.BOOK_TREES)
        )
        booster = trees.train(seen, fraud, names, weight, parameters, count)
        scores[model] = trees.margins(booster, asked)
    everywhere = np.zeros(len(stream))
    told = {}
    for model, of_model in scores.items():
        everywhere[of] = of_model
        told[model] = figures(stream, fold, everywhere)
    return Judged(fold, told, scores, stream.fraud[of], stream.customer[of])
