"""What looks on while models score: drift, and the challenger beside the champion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.assessment import Assessment, Happening
from smartpay_fraud.domain.drift import DriftWatch

COMPARED_MIN = 30
"""Payments before a correlation means anything."""


class Comparison:
    """Champion and challenger on the same payments, as running sums.

    Attributes:
        versions: the champion's and the challenger's; new ones begin anew.
        count: payments compared.
        failures: batches in which the challenger failed.
        last_failure: the kind of the last failure; "" if there was none.
    """

    def __init__(self) -> None:
        self.versions = ("", "")
        self._begin()

    def saw(self, versions: tuple[str, str], pairs: Sequence[tuple[float, float, bool]]) -> None:
        """Takes note of a batch: champion's score, challenger's, and would both do the same."""
        if versions != self.versions:
            self.versions = versions
            self._begin()
        for ours, theirs, agreed in pairs:
            self._add(ours, theirs, agreed)

    def failed(self, error: Exception) -> None:
        """Takes note of a batch without the challenger's word."""
        self.failures += 1
        self.last_failure = type(error).__name__

    @property
    def difference_mean(self) -> float | None:
        """Mean of challenger less champion."""
        return (self._theirs - self._ours) / self.count if self.count else None

    @property
    def difference_max(self) -> float | None:
        """The largest difference either way."""
        return self._furthest if self.count else None

    @property
    def agreement(self) -> float | None:
        """Share of payments on which both models alone would do the same."""
        return self._agreed / self.count if self.count else None

    @property
    def correlation(self) -> float | None:
        """Pearson's; None while there are too few or one of them always says the same."""
        if self.count < COMPARED_MIN:
            return None
        ours = self._ours_squared - self._ours**2 / self.count
        theirs = self._theirs_squared - self._theirs**2 / self.count
        both = self._product - self._ours * self._theirs / self.count
        return both / math.sqrt(ours * theirs) if ours > 0 and theirs > 0 else None

    def _begin(self) -> None:
        self.count = self.failures = self._agreed = 0
        self.last_failure = ""
        self._furthest = self._ours = self._theirs = self._product = 0.0
        self._ours_squared = self._theirs_squared = 0.0

    def _add(self, ours: float, theirs: float, agreed: bool) -> None:
        self.count += 1
        self._agreed += agreed
        self._furthest = max(self._furthest, abs(theirs - ours))
        self._ours += ours
        self._theirs += theirs
        self._product += ours * theirs
        self._ours_squared += ours * ours
        self._theirs_squared += theirs * theirs


class Watching:
    """Hands what happens to whoever watches it."""

    def __init__(self) -> None:
        self.drift = DriftWatch()
        self.comparison = Comparison()

    def saw(self, rows: NDArray[np.float32], assessments: Sequence[Assessment]) -> None:
        """Takes note of a scored batch."""
        self.drift.saw(rows, assessments)

    def compared(
        self, versions: tuple[str, str], pairs: Sequence[tuple[float, float, bool]]
    ) -> None:
        """Takes note of a batch that champion and challenger both scored."""
        self.comparison.saw(versions, pairs)

    def lost_challenger(self, error: Exception) -> None:
        """Takes note that the challenger failed."""
        self.comparison.failed(error)

    def heard(self, happenings: Sequence[Happening]) -> None:
        """Takes note of outcomes, and of replayed scores."""
        self.drift.heard(happenings)
