"""How strongly payers' features are drawn to their prior, chosen by what was seen.

Whether a processor treats payers differently, and by how much, is not known beforehand: where they
matter little a light prior chases noise, and where they matter much a heavy one learns too late.
The evidence of all outcomes decides (MacKay 1992, "Bayesian Interpolation"; empirical Bayes).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from smartpay_router.domain.learner import VARIANCE_FLOOR
from smartpay_router.domain.schema import Values

_LN_SCALES = np.arange(-4.0, 5.0) * math.log(2)
"""From a sixteenth of what is believed at first to sixteen times that."""

CHOOSING_SHARE = 0.5
"""Evidence finds what predicts best. For choosing, half of it lost least in simulations: who is too
sure that payers are alike stops looking where they are not."""


def shrinkage(told: Iterable[Values], ridges: Values, prior: float, doubt: float) -> float:
    """Answers by what the ridges of all features but the intercept are multiplied.

    It is the mean, in logarithms, over the scales' evidence in a Gaussian model, times a prior
    belief that they are right as they are.

    Args:
        told: of each model the sums of w x (x, r)' over its outcomes, shape [d, d + 1].
        ridges: of the schema, shape [d].
        prior: the success believed in before the first outcome.
        doubt: standard deviation of that belief in the logarithm of the scale; 0 answers 1.

    Raises:
        FloatingPointError: a sum is not finite; ridges made of it would poison every estimate.
    """
    if doubt == 0.0:
        return 1.0
    scales = np.exp(_LN_SCALES)
    evidence = -0.5 * (_LN_SCALES / doubt) ** 2
    root = np.sqrt(ridges[1:] / CHOOSING_SHARE)
    for sums in told:
        if not np.isfinite(sums).all():
            raise FloatingPointError("the sums of what was learned are not finite")
        weight = sums[0, 0]
        if weight <= 0.0:
            continue
        success = sums[0, -1] / weight
        noise = max(success * (1.0 - success), VARIANCE_FLOOR)
        # The level, which no scale touches, is integrated out; the rest in units of its ridges.
        level = weight + ridges[0]
        means = sums[0, 1:-1]
        squares = (sums[1:, 1:-1] - np.multiply.outer(means, means) / level) / np.multiply.outer(
            root, root
        )
        surprise = sums[:, -1] - prior * sums[:, 0]
        along = (surprise[1:] - means * (surprise[0] / level)) / root
        # Solved anew for each scale: slower than one eigendecomposition, which may not converge.
        precisions = squares + scales[:, None, None] * np.eye(len(along))
        fit = np.linalg.solve(precisions, along[:, None])[:, :, 0] @ along
        volume = np.linalg.slogdet(precisions)[1] - len(along) * _LN_SCALES
        evidence += 0.5 * (fit / noise - volume)
    weights = np.exp(evidence - evidence.max())
    return float(np.exp(weights @ _LN_SCALES / weights.sum()))
