"""Holds a new model against the one it would replace, on the weeks that judge the new one.

Both score the same payments with the same features, so the gate may compare them in pairs. A former
champion that reads other features, or that learned from the weeks that judge, can't be compared;
then the reason is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.adapters.bundle_source import BundleError, Folder
from smartpay_fraud.adapters.model_bundle import ModelBundle, load
from smartpay_fraud.domain.features import DAY_MS
from smartpay_fraud.domain.graph import GRAPH_WIDTH
from smartpay_fraud.training import gate
from smartpay_fraud.training.gate import Ruling
from smartpay_fraud.training.neighbourhood import Neighbourhood
from smartpay_fraud.training.replay import Replayed
from smartpay_fraud.training.stream import Ints, Stream

Scores = NDArray[np.float64]

LEARNED_UNTIL = "learned_until"
"""Entry of a bundle's `training`: what happened from this moment on taught it nothing."""

_ROWS = 4_096  # scored at once
_ITSELF = "it is this very model."


class IncomparableError(Exception):
    """The former champion can't be held against a new model; the text says why."""


class ChampionKeptError(Exception):
    """The new model did not beat the one it would have replaced; the text says by how much."""


class JudgedWeek(NamedTuple):
    """The payments of one week, who paid, and the log-odds that the new model gave them."""

    payments: Ints
    payer: Ints
    scores: Scores


@dataclass(frozen=True)
class Contest:
    """What came out.

    Attributes:
        champion: version of the former champion.
        ruling: the gate's, with the new model as the challenger; None when there was no contest.
        why: why there was none.
    """

    champion: str
    ruling: Ruling | None
    why: str = ""

    @property
    def is_with_itself(self) -> bool:
        """Whether the same data and code made the champion again."""
        return self.why == _ITSELF

    def keeps(self, demanded: bool) -> bool:
        """Whether the champion stays: unbeaten, or never met though a contest was demanded."""
        if self.ruling is None:
            return demanded and not self.is_with_itself
        return not self.ruling.accepted

    @property
    def told(self) -> dict[str, Any]:
        """The manifest's entry."""
        if self.ruling is None:
            return {"model_version": self.champion, "why_not_compared": self.why}
        return {"model_version": self.champion, **asdict(self.ruling)}

    def __str__(self) -> str:
        ruling = self.ruling
        if ruling is None:
            return f"Not compared with {self.champion}, the former champion: {self.why}"
        weeks = ", ".join(f"{gain:+.3f}" for gain in ruling.weeks)
        return (
            f"Against {self.champion}, the former champion: average precision {ruling.gain:+.3f} "
            f"(90 % interval {ruling.low:+.3f} to {ruling.high:+.3f}; by week {weeks}), ahead in "
            f"{ruling.ahead:.1%} of the draws: the gate "
            f"{'lets the new model in' if ruling.accepted else 'keeps the champion'}."
        )


def read(folder: Path) -> ModelBundle:
    """Reads a former champion.

    Raises:
        IncomparableError: there is none, or it does not read the features of this code.
    """
    try:
        return load(Folder(folder, "--champion").read())
    except BundleError as error:
        raise IncomparableError(f"the bundle in {folder.name} can't be judged: {error}") from error


def learned_until(stream: Stream, day: int) -> str:
    """Names the beginning of a stream's day (UTC, ISO 8601)."""
    return datetime.fromtimestamp((stream.first_ms + day * DAY_MS) / 1000, UTC).isoformat()


def contest(
    champion: ModelBundle,
    challenger: Mapping[str, Any],
    stream: Stream,
    replayed: Replayed,
    weeks: Sequence[JudgedWeek],
) -> Contest:
    """Lets the gate decide whether a new model may replace the champion.

    Args:
        champion: the former one.
        challenger: the new one's manifest.
        stream: the payments of which the weeks are a part.
        replayed: their features.
        weeks: WEEKS_MIN or more that the new model did not learn from.
    """
    if champion.version == challenger["model_version"]:
        return Contest(champion.version, None, _ITSELF)
    why = _why_unfair(champion.training, challenger["training"], stream, weeks)
    if why:
        return Contest(champion.version, None, why)
    ruling = gate.rule(
        [
            gate.Week(
                stream.fraud[week.payments],
                week.payer,
                margins(champion, replayed, week.payments),
                week.scores,
            )
            for week in weeks
        ]
    )
    return Contest(champion.version, ruling)


def margins(champion: ModelBundle, replayed: Replayed, payments: Ints) -> Scores:
    """Log-odds of fraud as the bundle's own engine gives them, float64 [payments]."""
    around = Neighbourhood(replayed) if champion.weights else None
    scores = np.empty(len(payments))
    for start in range(0, len(payments), _ROWS):
        chunk = payments[start : start + _ROWS]
        graph = np.zeros((len(chunk), GRAPH_WIDTH), np.float32)
        if around is not None and champion.weights is not None:
            graph = around.rows(chunk, champion.weights)
        rows = np.ascontiguousarray(replayed.rows[chunk])
        scores[start : start + _ROWS] = champion.engine.infer(rows, graph)[0]
    return scores


def _why_unfair(
    former: Mapping[str, Any],
    new: Mapping[str, Any],
    stream: Stream,
    weeks: Sequence[JudgedWeek],
) -> str:
    """Why the champion may have seen the weeks that judge; "" when it can't have."""
    if ("world" in former) != ("world" in new):
        return ""  # one learned from a generated world, which knows nothing of anybody's payments
    if LEARNED_UNTIL not in former:
        return "its manifest does not tell until when it learned."
    begin = datetime.fromtimestamp(
        min(int(stream.time_ms[week.payments].min()) for week in weeks) / 1000, UTC
    )
    if datetime.fromisoformat(former[LEARNED_UNTIL]) > begin:
        return (
            f"it learned until {former[LEARNED_UNTIL]}, and the weeks that judge begin on "
            f"{begin:%Y-%m-%d}; it would be asked what it was told."
        )
    return ""
