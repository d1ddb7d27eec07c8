"""What another policy would have earned, estimated from a log with exact propensities.

Inverse propensity scoring and its self-normalised form: Swaminathan and Joachims 2015, "The
Self-Normalized Estimator for Counterfactual Learning"; doubly robust: Dudik, Langford and Li 2011
(arXiv 1103.4601). Weights are never clipped: a clipped weight hides how thin the support is, which
`effective_size` tells instead. Intervals are normal, 95 %, and take rows as independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NORMAL_95 = 1.959964  # standard errors on either side
_SUM_TOLERANCE = 1e-9  # what adding up probabilities may lose


class OffPolicyError(ValueError):
    """The log or the proposed policy can't be evaluated; says which row and why."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, in the unit of the rewards."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, variance: float) -> Interval:
        """Builds the normal interval of an estimate with this variance."""
        reach = _NORMAL_95 * float(np.sqrt(variance))
        return cls(value, value - reach, value + reach)


@dataclass(frozen=True)
class Logged:
    """What was done and what came of it, a row per decision.

    Attributes:
        chosen: column of the arm that was chosen, shape [n].
        propensities: probability with which that arm was chosen, above 0 to 1, shape [n].
        rewards: what it brought, shape [n].

    Raises:
        OffPolicyError: no rows, other shapes, or a number out of its range.
    """

    chosen: Ints
    propensities: Floats
    rewards: Floats

    def __post_init__(self) -> None:
        n = len(self.chosen)
        if n == 0:
            raise OffPolicyError("the log has no rows")
        if self.chosen.shape != (n,) or {self.propensities.shape, self.rewards.shape} != {(n,)}:
            raise OffPolicyError("chosen, propensities and rewards must be of one length")
        _refuse(self.chosen < 0, "the chosen arm must not be negative")
        # Comparisons are turned so that NaN fails them as well.
        _refuse(
            ~((self.propensities > 0) & (self.propensities <= 1)),
            "the chosen arm's propensity must be above 0 and at most 1",
        )
        _refuse(~np.isfinite(self.rewards), "the reward must be finite")

    def __len__(self) -> int:
        return len(self.chosen)

    def of_rows(self, rows: NDArray[np.bool_] | Ints) -> Logged:
        """Answers the same log of these rows only."""
        return Logged(self.chosen[rows], self.propensities[rows], self.rewards[rows])

    def of_chosen(self, matrix: Floats) -> Floats:
        """Picks each row's chosen arm out of a matrix [n, k]; answers shape [n]."""
        return matrix[np.arange(len(self)), self.chosen]

    def weights(self, target: Floats) -> Floats:
        """Answers how much more often the target policy chooses what was chosen, shape [n].

        Raises:
            OffPolicyError: `target` holds no probabilities, or misses a row or a chosen arm.
        """
        if target.ndim != 2 or len(target) != len(self) or self.chosen.max() >= target.shape[1]:
            raise OffPolicyError("the target needs a row per decision and a column per arm")
        checked_target(target)
        return self.of_chosen(target) / self.propensities


def checked_target(target: Floats) -> None:
    """Refuses what is no policy: rows [n, k] of probabilities that sum to at most 1.

    What a row lacks to 1 is the chance that the policy chooses nobody, which is worth 0.

    Raises:
        OffPolicyError: naming the first row at fault.
    """
    _refuse(~(target >= 0).all(axis=1), "the target's probabilities must be at least 0")
    _refuse(target.sum(axis=1) > 1 + _SUM_TOLERANCE, "the target's probabilities exceed 1")


def on_policy(rewards: Floats) -> Interval:
    """Answers what the logging policy itself earned: the mean of its rewards, shape [n]."""
    return _mean(rewards)


def ips(logged: Logged, target: Floats) -> Interval:
    """Weighs each reward by how much more often the target chooses so; unbiased, and noisy."""
    return _mean(logged.weights(target) * logged.rewards)


def snips(logged: Logged, target: Floats) -> Interval:
    """Divides `ips` by what its weights came to; slightly biased, and calmer.

    Raises:
        OffPolicyError: also when the log holds nothing that the target would choose.
    """
    weights, mass = logged.weights(target), float(target.sum(axis=1).mean())
    total = float(weights.mean())
    if total == 0:
        raise OffPolicyError("the log holds no decision that the target would make")
    ratio = float((weights * logged.rewards).mean()) / total
    # The delta method: to first order a ratio varies as its residuals do.
    spread = weights * (logged.rewards - ratio) * (mass / total)
    return Interval.of(ratio * mass, float(spread.var()) / len(logged))


def dm(predicted: Floats, target: Floats, *, model_variance: float = 0.0) -> Interval:
    """Trusts a model of the rewards; steady, and as wrong as the model is.

    Args:
        predicted: the model's reward of each arm, shape [n, k].
        target: the policy's probabilities, shape [n, k].
        model_variance: how much the answer varies because the model was itself estimated.
    """
    checked_target(target)
    expected = (predicted * target).sum(axis=1)
    return Interval.of(
        float(expected.mean()), float(expected.var()) / len(expected) + model_variance
    )


def dr(logged: Logged, target: Floats, predicted: Floats) -> Interval:
    """Corrects the model by the weighted rewards it missed; right when either of them is.

    Args:
        logged: the log.
        target: the policy's probabilities, shape [n, k].
        predicted: a model's reward of each arm, made without the row itself, shape [n, k].
    """
    missed = logged.rewards - logged.of_chosen(predicted)
    return _mean((predicted * target).sum(axis=1) + logged.weights(target) * missed)


def effective_size(logged: Logged, target: Floats) -> float:
    """Answers how many rows of the target's own log this log is worth (Kish 1965)."""
    weights = logged.weights(target)
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _mean(values: Floats) -> Interval:
    return Interval.of(float(values.mean()), float(values.var()) / len(values))


def _refuse(wrong: ArrayLike, reason: str) -> None:
    if np.any(wrong):
        raise OffPolicyError(f"row {int(np.argmax(wrong))}: {reason}")
