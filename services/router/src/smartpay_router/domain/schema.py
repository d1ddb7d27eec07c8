"""What a vector of features means: names, order, and how strongly each one's prior holds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

MAGNITUDE_MAX = 100.0
"""Features are scaled to about 1; what is a hundred times that is damage, and one such number
would outweigh ten thousand outcomes."""


INTERCEPT_RIDGE = 10.0
"""Outcomes that outvote the prior of a processor as a whole, so that one early failure can't bury
it. Chosen by simulation on the training seeds, as the next."""

FEATURE_RIDGE = 7.5
"""Outcomes it takes to believe that a processor behaves differently for, say, one currency, until
enough was seen to tell how much payers matter."""


@dataclass(frozen=True)
class Schema:
    """The order and meaning of a context's values.

    Attributes:
        name: for people, for instance "charge-2".
        features: names, unique; the first one is "intercept", whose value is always 1.
        ridges: how many outcomes each feature's prior weighs; all above 0. The more a feature is
            believed to change nothing, the larger. A learner may scale all but the first.

    Raises:
        ValueError: when the parts do not fit each other.
    """

    name: str
    features: tuple[str, ...]
    ridges: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.features[:1] != ("intercept",):
            raise ValueError("the first feature of a schema must be the intercept")
        if len(set(self.features)) != len(self.features):
            raise ValueError("a schema names each feature once")
        if len(self.ridges) != len(self.features):
            raise ValueError("a schema needs one ridge per feature")
        if not all(0 < ridge < math.inf for ridge in self.ridges):
            raise ValueError("ridges must be finite and above 0")
        # Whole numbers would give the same meaning another key.
        object.__setattr__(self, "ridges", tuple(map(float, self.ridges)))

    @cached_property
    def key(self) -> str:
        """The name and a fingerprint of all the rest; sums of another key mean something else."""
        parts = json.dumps([self.name, self.features, self.ridges]).encode()
        return f"{self.name}-{hashlib.sha256(parts).hexdigest()[:12]}"

    def checked(self, values: Sequence[float] | Values) -> Values:
        """Answers one vector of shape [d], fit for a learner.

        Raises:
            ValueError: naming the feature that is not finite or too large, or the wrong length.
        """
        vector = np.asarray(values, dtype=np.float64)
        if vector.shape != (len(self.features),):
            raise ValueError(f"a context of schema {self.name} has {len(self.features)} values")
        # One product finds nearly all vectors good; NaN and infinity fail the comparison as well.
        # (vdot, as other products warn when they overflow.)
        if vector[0] == 1.0 and np.vdot(vector, vector) <= MAGNITUDE_MAX**2:
            return vector
        self._refuse_damage(vector)
        return vector

    def checked_many(self, matrix: Sequence[Sequence[float]] | Values) -> Values:
        """Answers vectors of shape [n, d], one per row, fit for a learner.

        Raises:
            ValueError: as for one vector.
        """
        rows = np.asarray(matrix, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise ValueError(f"a context of schema {self.name} has {len(self.features)} values")
        if not (np.abs(rows) <= MAGNITUDE_MAX).all() or (rows[:, 0] != 1.0).any():
            for row in rows:
                self._refuse_damage(row)
        return rows

    def _refuse_damage(self, vector: Values) -> None:
        for feature, value in zip(self.features, vector.tolist(), strict=True):
            if not abs(value) <= MAGNITUDE_MAX:  # NaN compares false as well
                raise ValueError(f"{feature} must be finite and within {MAGNITUDE_MAX}")
        if vector[0] != 1.0:
            raise ValueError("intercept must be 1")
