"""The champion gate: what is new must help, beyond what luck explains, or it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.training.stream import Flags, Ints

Scores = NDArray[np.float64]

DRAWS = 1_000
"""Bootstrap draws: the 5 % quantile of the gain is then good to about a tenth of its spread."""

CONFIDENCE = 0.95
"""The share of draws in which the challenger must be ahead."""

WEEKS_MIN = 4
"""Fewer weeks would let one lucky week decide."""


@dataclass(frozen=True)
class Week:
    """One test week, judged by both; all arrays have one entry per payment."""

    fraud: Flags
    payer: Ints
    champion: Scores
    challenger: Scores


@dataclass(frozen=True)
class Ruling:
    """What the gate decided.

    Attributes:
        accepted: the challenger may replace the champion.
        gain: mean difference of average precision over the weeks.
        low: the difference that all but 5 % of the draws exceed.
        high: the difference that 5 % of the draws exceed.
        ahead: share of the draws in which the challenger was ahead.
        weeks: difference of average precision in each week.
    """

    accepted: bool
    gain: float
    low: float
    high: float
    ahead: float
    weeks: tuple[float, ...]


def rule(weeks: Sequence[Week], seed: int = 1) -> Ruling:
    """Draws payers with replacement within each week and compares average precision in pairs.

    Payers, not payments, are drawn, because one payer's frauds come together (Efron and Tibshirani
    1993, "An Introduction to the Bootstrap", chapter 8).

    Raises:
        ValueError: fewer than WEEKS_MIN weeks.
    """
    if len(weeks) < WEEKS_MIN:
        raise ValueError(f"the gate needs {WEEKS_MIN} test weeks or more, got {len(weeks)}")
    rng = np.random.default_rng(seed)
    gains = np.empty((len(weeks), DRAWS))
    seen = []
    for number, week in enumerate(weeks):
        _, payer = np.unique(week.payer, return_inverse=True)
        payers = int(payer.max()) + 1
        rivals = [_Ranked(week.fraud, payer, s) for s in (week.champion, week.challenger)]
        once = np.ones(payers)
        seen.append(rivals[1].precision(once) - rivals[0].precision(once))
        for draw in range(DRAWS):
            times = np.bincount(rng.integers(0, payers, payers), minlength=payers).astype(float)
            gains[number, draw] = rivals[1].precision(times) - rivals[0].precision(times)
    means = gains.mean(axis=0)
    ahead = float((means > 0).mean())
    low, high = np.quantile(means, [1 - CONFIDENCE, CONFIDENCE]).tolist()
    return Ruling(
        accepted=ahead >= CONFIDENCE,
        gain=float(np.mean(seen)),
        low=low,
        high=high,
        ahead=ahead,
        weeks=tuple(seen),
    )


class _Ranked:
    """One model's ranking of a week, made once for all draws."""

    def __init__(self, fraud: Flags, payer: Ints, scores: Scores) -> None:
        order = np.argsort(-scores, kind="stable")
        ranked = fraud[order]
        # Only the order before and at each fraud matters; ties count as one step.
        self._payer, self._fraud = payer[order], ranked.astype(np.float64)
        ends = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])
        caught = np.add.reduceat(self._fraud, np.r_[0, ends[:-1] + 1])
        self._ends = ends[caught > 0]

    def precision(self, times: NDArray[np.float64]) -> float:
        """Average precision when each payer counts so many times."""
        weight = times[self._payer]
        taken = np.cumsum(weight)[self._ends]
        caught = np.cumsum(weight * self._fraud)[self._ends]
        if not len(caught) or caught[-1] == 0:
            return 0.0
        steps = np.diff(caught, prepend=0.0)
        return float((caught / np.maximum(taken, 1e-12) * steps).sum() / caught[-1])
