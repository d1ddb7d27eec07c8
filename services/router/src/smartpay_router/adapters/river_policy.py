"""River's LinUCBDisjoint as the learner: one Bayesian linear regression per model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from smartpay_router.domain.learner import Arm, Estimates, Knowledge
from smartpay_router.domain.schema import Schema, Values


class RiverPolicy:
    """The port `Learner` over River 0.26.1; its state lives in memory and comes back by replay.

    River's own `pull` is not asked: it breaks ties at random, knows no fees, and adds to each
    bound a constant noise that hides the differences. Its posteriors are read instead. It never
    forgets and counts no decision before its outcome, so times and pulls change nothing.

    Args:
        schema: what contexts mean.
        prior_success: what a model is believed to achieve before its first outcome.
    """

    def __init__(self, schema: Schema, prior_success: float = 0.9) -> None:
        # Imported here because it loads SciPy and takes seconds, which other learners spare.
        from river import bandit, linear_model

        self._schema = schema
        self._prior_success = prior_success
        # River's prior is one precision for all weights around zero, and it is only right at
        # alpha 1: any other starts with a covariance that is not the precision's inverse. So
        # features are scaled to give each its own ridge, and rewards learned as differences.
        self._scales = 1 / np.sqrt(np.array(schema.ridges))
        self._bandit: Any = bandit.LinUCBDisjoint(alpha=1, beta=1)
        self._unseen: Any = linear_model.BayesianLinearRegression(alpha=1, beta=1)
        self._outcomes: Counter[str] = Counter()
        self._successes: Counter[str] = Counter()

    @property
    def version(self) -> str:
        """Names the learner and the meaning of its contexts."""
        return f"river-linucb-{self._schema.key}"

    @property
    def outcomes(self) -> int:
        """How many outcomes it has learned."""
        return self._outcomes.total()

    def estimates(
        self, arms: Sequence[Arm], values: Sequence[float] | Values, at: float
    ) -> Estimates:
        """Estimates each arm's success; a model never seen has the prior's estimate."""
        features = self._features(self._schema.checked(values))
        # Looked up with get: River's table would otherwise keep an entry for every arm asked for.
        regressions = self._bandit._bayes_lin_regs
        success, width = [], []
        for arm in arms:
            posterior = regressions.get(arm.model, self._unseen).predict_one(
                features, with_dist=True
            )
            success.append(self._prior_success + float(posterior.mu))
            # River's variance includes the noise of one outcome, which is 1 at beta 1.
            width.append(math.sqrt(max(0.0, float(posterior.sigma) ** 2 - 1.0)))
        counts = [self._outcomes[arm.account] for arm in arms]
        return Estimates.of(np.array(success), np.array(width), counts)

    def estimates_many(
        self, arms: Sequence[Arm], matrix: Sequence[Sequence[float]] | Values, at: float
    ) -> Estimates:
        """Estimates each arm's success for many contexts, one after the other."""
        rows = [self.estimates(arms, row, at) for row in self._schema.checked_many(matrix)]
        shape = (len(rows), len(arms))
        return Estimates.of(
            np.array([row.success for row in rows]).reshape(shape),
            np.array([row.width for row in rows]).reshape(shape),
            [self._outcomes[arm.account] for arm in arms],
        )

    def pull(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        """Changes nothing: River knows outcomes only."""

    def release(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        """Changes nothing, as `pull` did not."""

    def learn(
        self, arm: Arm, values: Sequence[float] | Values, reward: float, decided_at: float
    ) -> None:
        """Takes in one outcome.

        Everything is checked first: River counts an update before it fails on it, and one NaN
        spoils an arm for ever.

        Raises:
            ValueError: when the reward is not within 0 to 1 or the values do not fit the schema.
        """
        self.learn_many((arm,), (values,), (reward,), (decided_at,))

    def learn_many(
        self,
        arms: Sequence[Arm],
        matrix: Sequence[Sequence[float] | Values] | Values,
        rewards: Sequence[float] | Values,
        decided_at: Sequence[float] | Values,
    ) -> None:
        """Takes in outcomes one after the other, once all of them are found good.

        Raises:
            ValueError: when one could not be learned alone; nothing was learned then.
        """
        vectors = [self._schema.checked(row) for row in matrix]
        if not all(0 <= reward <= 1 for reward in rewards):  # also false for NaN
            raise ValueError("a reward must be within 0 to 1")
        for arm, vector, reward in zip(arms, vectors, rewards, strict=True):
            self._bandit.update(arm.model, self._features(vector), reward - self._prior_success)
            self._outcomes[arm.account] += 1
            self._successes[arm.account] += reward

    def knowledge(self, account: str, at: float) -> Knowledge:
        """Tells what an account's own outcomes were; none of them fades."""
        outcomes = self._outcomes[account]
        return Knowledge(outcomes, float(outcomes), float(self._successes[account]))

    def forget(self, account: str) -> None:
        """Drops the counts of an account that its merchant removed; its model stays."""
        del self._outcomes[account], self._successes[account]

    def _features(self, vector: Values) -> dict[str, float]:
        return dict(zip(self._schema.features, (vector * self._scales).tolist(), strict=True))
