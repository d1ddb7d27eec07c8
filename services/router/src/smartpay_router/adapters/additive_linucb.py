"""The served learner as a policy of River, so that River's own tools can drive and judge it."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

from river.bandit import base

from smartpay_router.domain.learner import Arm
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.schema import FEATURE_RIDGE, INTERCEPT_RIDGE, Schema

Context = Mapping[str, float]


class AdditiveLinUcb(base.ContextualPolicy):
    """LinUCB with a prior, fading outcomes and a bonus that follows the variance.

    Works with `river.bandit.evaluate_offline`, and without contexts with `bandit.evaluate`. Its
    clock is the number of updates, so that `memory` counts those. Rewards are within 0 to 1.

    Args:
        features: names of the numbers in a context; one that is missing counts 0. None: no context.
        ridge: how many outcomes the prior of each feature weighs; the intercept's is as served.
        prior_success: reward expected of an arm before its first update.
        exploration: standard errors of optimism.
        memory: after how many updates one weighs 1/e.
        burn_in: how often each arm is pulled before the policy chooses.
        seed: of the choice among equals.
    """

    def __init__(
        self,
        features: list[str] | None = None,
        ridge: float = FEATURE_RIDGE,
        prior_success: float = 0.9,
        exploration: float = 0.3,
        memory: float = math.inf,
        burn_in: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(burn_in=burn_in)
        # River clones a policy by the attributes that bear its arguments' names, and takes a tuple
        # for a class with its arguments.
        self.features = features
        self.ridge = ridge
        self.prior_success = prior_success
        self.exploration = exploration
        self.memory = memory
        self.seed = seed
        names = tuple(features or ())
        self._schema = Schema(
            "river", ("intercept", *names), (INTERCEPT_RIDGE, *(ridge for _ in names))
        )
        tuning = Tuning(prior_success=prior_success, memory_seconds=memory)
        self._learner = LinUcb(self._schema, tuning)
        self._rng = random.Random(seed)

    def _pull(  # type: ignore[override]  # as in River's own contextual policies
        self, arm_ids: Iterable[base.ArmID], context: Context | None
    ) -> base.ArmID:
        choices = list(arm_ids)
        arms = [_arm(choice) for choice in choices]
        estimates = self._learner.estimates(arms, self._values(context), float(self._n))
        bounds = estimates.upper(self.exploration).tolist()
        best = max(bounds)
        equals = [choice for choice, bound in zip(choices, bounds, strict=True) if bound == best]
        return self._rng.choice(equals)

    def update(self, arm_id: base.ArmID, *context_and_reward: Context | float | None) -> None:
        """Learns a reward: `update(arm, context, reward)`, or `update(arm, reward)` without one.

        `bandit.evaluate` calls the second form, whatever kind of policy it drives.

        Raises:
            ValueError: when the reward is not within 0 to 1 or the context makes no sense; nothing
                was counted then, unlike in River's own policies.
        """
        *told, reward = context_and_reward
        context = told[0] if told else None
        if not isinstance(reward, int | float) or isinstance(context, int | float):
            raise ValueError("an update has a context, which may be left out, and a reward")
        self._learner.learn(_arm(arm_id), self._values(context), float(reward), float(self._n))
        super().update(arm_id, context, float(reward))  # type: ignore[no-untyped-call]

    def _values(self, context: Context | None) -> tuple[float, ...]:
        context = context or {}
        names = self._schema.features[1:]
        if unknown := context.keys() - set(names):
            raise ValueError(f"{min(unknown)} is no feature of this policy")
        return (1.0, *(context.get(name, 0.0) for name in names))


def _arm(arm_id: base.ArmID) -> Arm:
    name = repr(arm_id)  # tells 1 from "1"
    return Arm(name, name)
