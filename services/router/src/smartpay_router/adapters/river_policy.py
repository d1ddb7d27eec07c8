"""River's LinUCBDisjoint as the learner: one Bayesian linear regression per account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from smartpay_router.domain.context import FEATURES, Context
from smartpay_router.domain.linucb import PRIOR_SUCCESS, PRIOR_WEIGHTS, Estimate

# River's prior is one precision for all weights around zero, and it is only right at alpha 1: any
# other alpha starts with a covariance that is not the precision's inverse. So features are scaled
# to give each its own prior weight, and rewards are learned as differences from the prior.
_SCALES = tuple(1 / math.sqrt(weight) for weight in PRIOR_WEIGHTS)
_NOISE_PRECISION = 1


class RiverPolicy:
    """The port `Policy` over River 0.26.1; its state lives in memory and comes back by replay.

    River's own `pull` is not asked: it breaks ties at random, knows no fees, and adds to each
    bound a constant noise that hides the differences. Its posteriors are read instead.
    """

    def __init__(self) -> None:
        # Imported here because it loads SciPy and takes seconds, which tests of rules can spare.
        from river import bandit, linear_model

        self._bandit: Any = bandit.LinUCBDisjoint(alpha=1, beta=_NOISE_PRECISION)
        self._unseen: Any = linear_model.BayesianLinearRegression(alpha=1, beta=_NOISE_PRECISION)
        self._learned = 0

    @property
    def version(self) -> str:
        """The learner's name and how many outcomes it has learned."""
        return f"river-linucb-{self._learned}"

    def estimate(self, arms: Sequence[str], context: Context) -> Sequence[Estimate]:
        """Estimates each account's success; one never seen has the prior's estimate."""
        features = _features(context)
        # Looked up with get: River's table would otherwise keep an entry for every arm asked for.
        regressions = self._bandit._bayes_lin_regs
        estimates = []
        for arm in arms:
            posterior = regressions.get(arm, self._unseen).predict_one(features, with_dist=True)
            knowledge = float(posterior.sigma) ** 2 - 1 / _NOISE_PRECISION
            estimates.append(
                Estimate(
                    success=PRIOR_SUCCESS + float(posterior.mu),
                    width=math.sqrt(max(0.0, knowledge)),
                    outcomes=self._bandit._counts[arm],
                )
            )
        return estimates

    def learn(self, arm: str, context: Context, reward: float) -> None:
        """Takes in one outcome.

        Everything is checked first: River counts an update before it fails on it, and one NaN
        spoils an arm for ever.

        Raises:
            ValueError: when the reward is not within 0 to 1 or the context has another schema.
        """
        if not 0 <= reward <= 1:  # also false for NaN
            raise ValueError("a reward must be within 0 to 1")
        self._bandit.update(arm, _features(context), reward - PRIOR_SUCCESS)
        self._learned += 1


def _features(context: Context) -> dict[str, float]:
    if not context.is_current():
        raise ValueError("the context has a schema that this learner doesn't know")
    return {
        name: value * scale
        for name, value, scale in zip(FEATURES, context.values, _SCALES, strict=True)
    }
