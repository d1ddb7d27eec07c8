"""Part of `make bench-router`, in the rivals' environment: MABWiser and VW in our worlds.

Same command line and same JSON as `python -m smartpay_router.simulate`, whose streams they meet.
Each rival learns the share of the amount that is left, fee taken off, so that it knows of fees.
"""

from __future__ import annotations

import random
import sys
from functools import partial

import numpy as np

from smartpay_router.simulate import main
from smartpay_router.simulation.runner import Maker, Payment
from smartpay_router.simulation.stream import FEATURES, Stream
from smartpay_router.simulation.world import World

ALPHAS = ("0.1", "0.3", "1", "2")
"""MABWiser's LinUCB is given the best of these in hindsight."""

VOWPAL_WABBIT = {
    "vw-epsilon": "--cb_explore_adf --epsilon 0.02 --cb_type mtr",
    "vw-squarecb": "--cb_explore_adf --squarecb --gamma_scale 100",
    "vw-bag": "--cb_explore_adf --bag 5",
}
"""Vowpal Wabbit is given the best of these in hindsight."""


class MabWiser:
    """MABWiser's LinUCB: refuses to predict before it has learned, so it begins with each arm once.

    Args:
        arms: how many.
        alpha: its exploration.
        seed: of its ties.
    """

    def __init__(self, arms: int, alpha: float, seed: int) -> None:
        from mabwiser.mab import (  # type: ignore[import-not-found]
            MAB,
            LearningPolicy,
        )

        self._mab = MAB(list(range(arms)), LearningPolicy.LinUCB(alpha=alpha), seed=seed)
        self._arms = arms
        self._fitted = 0
        self._asked = 0

    def choose(self, payment: Payment) -> int:
        """Answers what MABWiser predicts."""
        self._asked += 1
        if self._asked <= self._arms or not self._fitted:
            return (self._asked - 1) % self._arms
        return int(self._mab.predict(payment.values[None]))

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Fits one outcome."""
        reward = succeeded * (1 - float(payment.fee_shares[arm]))
        self._mab.partial_fit([arm], [reward], payment.values[None])
        self._fitted += 1


class VowpalWabbit:
    """Vowpal Wabbit's contextual bandits with one line per arm and payment by arm interactions.

    Args:
        arms: how many.
        options: its command line.
        seed: of its exploration, and of the draw out of the probabilities it answers.
    """

    def __init__(self, arms: int, options: str, seed: int) -> None:
        import vowpalwabbit  # type: ignore[import-not-found]

        self._vw = vowpalwabbit.Workspace(f"{options} -q PA --quiet --random_seed {seed}")
        self._arms = [f"|A arm={arm}" for arm in range(arms)]
        self._dice = random.Random(seed)
        self._chances: dict[int, float] = {}

    def choose(self, payment: Payment) -> int:
        """Draws an arm by the probabilities it answers."""
        answered = self._vw.predict("\n".join((_shared(payment), *self._arms)))
        chances = np.asarray(answered, float)
        ticket, arm = self._dice.random() * chances.sum(), 0
        while arm < len(chances) - 1 and ticket >= chances[arm]:
            ticket -= chances[arm]
            arm += 1
        self._chances[payment.number] = float(chances[arm] / chances.sum())
        return arm

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Learns one outcome; Vowpal Wabbit wants costs, and the probability it chose by."""
        cost = -succeeded * (1 - float(payment.fee_shares[arm]))
        told = list(self._arms)
        told[arm] = f"0:{cost:.6f}:{self._chances.pop(payment.number):.6f} {told[arm]}"
        self._vw.learn("\n".join((_shared(payment), *told)))


def _shared(payment: Payment) -> str:
    # The intercept is left out: Vowpal Wabbit brings its own.
    features = " ".join(
        f"{name}:{value:.5g}"
        for name, value in zip(FEATURES[1:], payment.values[1:].tolist(), strict=True)
        if value
    )
    return f"shared |P {features}"


def _mabwiser(alpha: float, world: World, stream: Stream, seed: int) -> MabWiser:
    return MabWiser(len(world.arms), alpha, seed)


def _vowpal_wabbit(options: str, world: World, stream: Stream, seed: int) -> VowpalWabbit:
    return VowpalWabbit(len(world.arms), options, seed)


def rivals() -> dict[str, Maker]:
    """Answers all by name."""
    return {
        **{f"mabwiser-{alpha}": partial(_mabwiser, float(alpha)) for alpha in ALPHAS},
        **{name: partial(_vowpal_wabbit, options) for name, options in VOWPAL_WABBIT.items()},
    }


if __name__ == "__main__":
    main(sys.argv[1:], rivals())
