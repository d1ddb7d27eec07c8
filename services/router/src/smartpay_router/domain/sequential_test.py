"""Whether live routing beats the held-out static order, told at any time and as often as one likes.

An ordinary test is wrong once somebody looks before its end. This one is a mixture sequential
probability ratio test (Robbins 1970; Johari, Koomen, Pekelis and Walsh 2017) on the empirical
Bernstein supermartingale with predictable regression adjustment of Howard, Ramdas, McAuliffe and
Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences" (arXiv 1810.08240,
theorem 4 and section 4.2): for bounded outcomes, whatever their distribution, without asymptotics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ALPHA = 0.05
"""Chance that the interval ever misses, over the whole life of the test."""

_RATIO, _STEPS = 0.7, 14
"""Bets on the size of the effect, each .7 of the one before, from the largest that is allowed down
to one for a hundred million charges. A best bet between two of them loses some 3 %."""

_ROUNDING = 1e-12
_HALVINGS = 40  # of the interval's reach: to a millionth of a millionth


@dataclass(frozen=True)
class Difference:
    """How much better live is than the holdout, in the unit of the outcomes.

    Attributes:
        observations: how many were counted.
        value: the estimate.
        low: lower end of the interval that holds at all times at once, 1 - ALPHA.
        high: its upper end.
        p_value: chance that luck alone would ever have shown this much; it only falls.
    """

    observations: int
    value: float
    low: float
    high: float
    p_value: float


class HoldoutTest:
    """Compares the outcomes of live and held-out charges as they come.

    Each observation must have its side drawn by itself, so count one per unit of randomisation: a
    payer's first charge when the holdout is drawn by payer. The difference is that of the effect
    averaged over all observations so far; it may change with time.

    Args:
        share_min: the least share that the smaller side will ever have, above 0 to .5. The smaller
            it is, the longer the test takes, so name the one that is planned.

    Raises:
        ValueError: when the share is out of its range.
    """

    def __init__(self, share_min: float) -> None:
        if not 0 < share_min <= 0.5:
            raise ValueError("the smaller side's share must be above 0 and at most one half")
        self._share_min = share_min
        self._sums = _Sums()
        shares = _RATIO ** np.arange(1, _STEPS + 1)
        self._bets = share_min * shares
        # The paper's psi_E: no surprise exceeds 1 / share_min.
        self._costs = (-np.log1p(-shares) - shares) * share_min**2

    def observe(self, *, live: bool, live_share: float, outcome: float) -> None:
        """Counts one charge.

        Args:
            live: whether it was routed live; False for the holdout.
            live_share: probability with which it was, known before; it may change over time.
            outcome: what it brought, 0 to 1.

        Raises:
            ValueError: when the share or the outcome is out of its range; nothing was counted.
        """
        # 1 - .9 is a little less than .1
        if not self._share_min <= min(live_share, 1 - live_share) * (1 + _ROUNDING):
            raise ValueError(f"neither side's share may be less than {self._share_min}")
        if not 0 <= outcome <= 1:  # also false for NaN
            raise ValueError("an outcome must be within 0 to 1")
        sums = self._sums
        live_guess = _guess(sums.live_total, sums.live_count)
        held_guess = _guess(sums.held_total, sums.held_count)
        # Guesses from the past only: so they change the noise and never the mean.
        if live:
            surprise = (outcome - live_guess) / live_share
            sums.live_total += outcome
            sums.live_count += 1
        else:
            surprise = -(outcome - held_guess) / (1 - live_share)
            sums.held_total += outcome
            sums.held_count += 1
        sums.effect += live_guess - held_guess + surprise
        sums.variance += surprise * surprise
        # No bet gains more than effect^2 / (2 variance), and none while effect^2 is below the
        # variance (log cosh x <= x^2 / 2, psi_E(x) >= x^2 / 2): then there is no new peak.
        if sums.effect**2 > sums.variance * max(1.0, 2 * sums.evidence_peak):
            sums.evidence_peak = max(sums.evidence_peak, self._log_evidence(sums.effect))

    def difference(self) -> Difference:
        """Answers what is known now; before the first observation nothing is."""
        sums = self._sums
        count = sums.live_count + sums.held_count
        if not count:
            return Difference(0, 0.0, -1.0, 1.0, 1.0)
        value, reach = sums.effect / count, self._reach() / count
        return Difference(
            observations=count,
            value=value,
            low=max(-1.0, value - reach),
            high=min(1.0, value + reach),
            p_value=min(1.0, math.exp(-sums.evidence_peak)),
        )

    def _log_evidence(self, deviation: float) -> float:
        """Answers the log of the mixture's wealth against a mean that is so far from the sum."""
        steps = self._bets * abs(deviation)
        # log cosh of each step, written so that a large one does not overflow
        grown = (
            steps + np.log1p(np.exp(-2 * steps)) - math.log(2) - self._costs * self._sums.variance
        )
        most = float(grown.max())
        return most + math.log(float(np.exp(grown - most).mean()))

    def _reach(self) -> float:
        """Answers how far the true sum may be from the observed: where wealth is 1 / ALPHA."""
        enough = -math.log(ALPHA)
        high = 1.0
        while self._log_evidence(high) < enough:
            high *= 2
        low = 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._log_evidence(middle) < enough else (low, middle)
        return high


@dataclass
class _Sums:
    """Everything that is remembered of the past."""

    live_total: float = 0.0
    live_count: int = 0
    held_total: float = 0.0
    held_count: int = 0
    effect: float = 0.0
    variance: float = 0.0
    evidence_peak: float = 0.0


def _guess(total: float, count: int) -> float:
    """Answers the mean so far, from a first guess of one half."""
    return (total + 0.5) / (count + 1)
