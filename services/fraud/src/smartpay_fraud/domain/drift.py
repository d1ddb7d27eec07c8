"""Notices when payments, scores or outcomes no longer look like those the model was trained on.

Population stability index: the sum over bins of (now - then) * ln(now / then), where the bins are
the training's deciles and one for "missing". By convention .1 asks to watch, .25 to act.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.assessment import Assessment, Finding, Happening
from smartpay_fraud.domain.features import DAY_MS, FEATURES
from smartpay_fraud.domain.transaction import TransactionKey
from smartpay_fraud.domain.verdict import Verdict

WATCH = 0.1
ALERT = 0.25

WINDOW = 4096
"""Latest rows compared with the training: enough for shares of a tenth to settle, 2 MB."""

ROWS_MIN = 256
"""Fewer rows say nothing: a tenth of them would be a couple of dozen payments."""

LABELLED_MAX = 50_000
"""Scored payments whose outcome is waited for or known, about 10 MB."""

MATURITY_MS = 7 * DAY_MS
"""A payment that nobody called a fraud for so long counts as honest, as it does in training."""

_BINS = 10
_SHARE_MIN = 1e-4  # an empty bin counts as one payment in ten thousand, or its logarithm explodes
_AGES = [FEATURES.index(name) for name in ("customer_age", "card_age", "device_age")]


class Level(Enum):
    """How far something has moved."""

    STEADY = "STEADY"
    WATCH = "WATCH"
    ALERT = "ALERT"

    @classmethod
    def of(cls, index: float) -> Level:
        """Reads a population stability index by the convention."""
        return cls.ALERT if index >= ALERT else cls.WATCH if index >= WATCH else cls.STEADY


class Reference(NamedTuple):
    """How the training looked: one line per base feature, the last line is the score.

    `edges` float32 [lines, 9] are the deciles; `shares` float64 [lines, 11] what lay in each bin,
    the last one holds what was missing.
    """

    edges: NDArray[np.float32]
    shares: NDArray[np.float64]

    def fits(self) -> bool:
        """Whether the shapes are this code's and every number is one."""
        lines = len(FEATURES) + 1
        return (
            self.edges.shape == (lines, _BINS - 1)
            and self.shares.shape == (lines, _BINS + 1)
            and bool(np.isfinite(self.edges).all() and np.isfinite(self.shares).all())
        )


def reference(rows: NDArray[np.float32], scores: NDArray[np.float64]) -> Reference:
    """Describes the training: base rows [n, features], and calibrated scores of held-out ones."""
    columns = [*rows.T, scores.astype(np.float32)]
    edges = np.stack([_deciles(column) for column in columns])
    return Reference(edges, np.stack([_shares(*pair) for pair in zip(columns, edges, strict=True)]))


def stability(then: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """The population stability index of two lists of shares."""
    before, after = np.maximum(then, _SHARE_MIN), np.maximum(now, _SHARE_MIN)
    return float(((after - before) * np.log(after / before)).sum())


class FeatureDrift(NamedTuple):
    """How far one feature has moved."""

    feature: str
    stability: float


@dataclass(frozen=True, slots=True)
class DriftReport:
    """What is known now; None where there is too little to tell.

    Attributes:
        rows: latest rows that were compared.
        features: all features, the furthest first; empty without a reference or enough rows.
        score: the score's own index.
        unknown_entities: share of rows whose given customer, card and device were all new.
        labelled: scored payments whose outcome is known, by label or by maturity.
        calibration_error: mean distance of scores from the share of frauds among them.
        average_precision: over the labelled payments.
    """

    rows: int
    features: tuple[FeatureDrift, ...]
    score: float | None
    unknown_entities: float | None
    labelled: int
    calibration_error: float | None
    average_precision: float | None

    @property
    def level(self) -> Level:
        """The worst of the score and the furthest feature."""
        indices = [feature.stability for feature in self.features[:1]]
        return Level.of(max([*indices, self.score or 0.0], default=0.0))


class _Waiting(NamedTuple):
    scored_ms: int
    score: float
    blocked: bool


class DriftWatch:
    """Keeps the latest rows and the outcomes of scored payments, and compares on demand."""

    def __init__(self) -> None:
        self._rows = np.zeros((WINDOW, len(FEATURES)), np.float32)
        self._scores = np.zeros(WINDOW, np.float32)
        self._seen = 0
        self._waiting: dict[TransactionKey, _Waiting] = {}
        self._outcomes: dict[TransactionKey, bool] = {}

    def saw(self, rows: NDArray[np.float32], assessments: Sequence[Assessment]) -> None:
        """Takes note of a scored batch; the oldest rows make room."""
        for row, assessment in zip(rows, assessments, strict=True):
            place = self._seen % WINDOW
            self._rows[place] = row
            self._scores[place] = assessment.score
            self._seen += 1
            self._wait(
                assessment.transaction.key,
                assessment.scored_ms,
                assessment.score,
                assessment.verdict is Verdict.BLOCK,
            )

    def heard(self, happenings: Iterable[Happening]) -> None:
        """Takes note of outcomes, and of replayed scores."""
        for happening in happenings:
            key = happening.transaction.key
            if happening.finding is None and happening.score is not None:
                self._wait(key, happening.at_ms, happening.score, happening.blocked)
            elif happening.finding in (Finding.FRAUD, Finding.LEGITIMATE) and key in self._waiting:
                self._outcomes[key] = happening.finding is Finding.FRAUD

    def report(self, then: Reference | None, now_ms: int) -> DriftReport:
        """Compares; takes some 10 ms, so ask from a thread. `then` is the champion's training."""
        rows = min(self._seen, WINDOW)
        features: list[FeatureDrift] = []
        score = unknown = None
        if rows >= ROWS_MIN:
            seen = self._rows[:rows].copy()
            ages = seen[:, _AGES]
            new = ((ages == 0) | np.isnan(ages)).all(axis=1) & ~np.isnan(ages).all(axis=1)
            unknown = float(new.mean())
            if then is not None:
                columns = [*seen.T, self._scores[:rows].copy()]
                *indices, score = [
                    stability(shares, _shares(column, edges))
                    for column, edges, shares in zip(columns, *then, strict=True)
                ]
                features = [FeatureDrift(*pair) for pair in zip(FEATURES, indices, strict=True)]
                features.sort(key=lambda drift: -drift.stability)
        scores, frauds = self._known(now_ms)
        return DriftReport(
            rows,
            tuple(features),
            score,
            unknown,
            len(scores),
            calibration_error(scores, frauds) if len(scores) >= ROWS_MIN else None,
            average_precision(scores, frauds) if frauds.any() else None,
        )

    def _wait(self, key: TransactionKey, scored_ms: int, score: float, blocked: bool) -> None:
        self._waiting[key] = _Waiting(scored_ms, score, blocked)
        if len(self._waiting) > LABELLED_MAX:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._outcomes.pop(oldest, None)

    def _known(self, now_ms: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores and outcomes; what we blocked and nobody judged has no outcome."""
        scores, frauds = [], []
        # A copy, because the event loop goes on adding while a thread reads.
        for key, (scored_ms, score, blocked) in list(self._waiting.items()):
            outcome = self._outcomes.get(key)
            if outcome is None and not blocked and scored_ms + MATURITY_MS <= now_ms:
                outcome = False
            if outcome is not None:
                scores.append(score)
                frauds.append(outcome)
        return np.array(scores, np.float64), np.array(frauds, np.bool_)


def calibration_error(scores: NDArray[np.float64], frauds: NDArray[np.bool_]) -> float:
    """Expected calibration error over ten bins of equal size (Naeini et al. 2015)."""
    order = np.argsort(scores, kind="stable")
    gaps = [
        abs(scores[part].mean() - frauds[part].mean()) * len(part)
        for part in np.array_split(order, _BINS)
        if len(part)
    ]
    return float(sum(gaps) / len(scores))


def average_precision(scores: NDArray[np.float64], frauds: NDArray[np.bool_]) -> float:
    """Area under precision over recall, by steps; equal scores share one step."""
    order = np.argsort(-scores, kind="stable")
    ranked, caught = scores[order], np.cumsum(frauds[order])
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    precision = caught[ends] / (ends + 1)
    gained = np.diff(caught[ends], prepend=0)
    return float((precision * gained).sum() / caught[-1])


def _deciles(column: NDArray[np.float32]) -> NDArray[np.float32]:
    known = column[~np.isnan(column)]
    if not len(known):
        return np.zeros(_BINS - 1, np.float32)
    return np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1]).astype(np.float32)


def _shares(column: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.float64]:
    missing = np.isnan(column)
    bins = np.searchsorted(edges, column[~missing], side="right")
    counts = np.append(np.bincount(bins, minlength=_BINS), missing.sum())
    return counts / len(column)
