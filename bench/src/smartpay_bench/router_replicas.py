"""Part of `make bench-router`: what sixteen replicas lose by exchanging what they learned late.

Payments go to the replicas in turn. Each learns from its own outcomes at once and, every so many
payments, from what all others have learned by then; one learner that hears everything at once is
the measure. The world is `static`: nothing but the learning itself can differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np

from smartpay_router.domain.linucb import LinUcb
from smartpay_router.simulation.policies import WORLD_SCHEMA, Steered
from smartpay_router.simulation.runner import Payment, Policy, run
from smartpay_router.simulation.stream import draw
from smartpay_router.simulation.world import World, load

REPLICAS = 16
PAYMENTS = 12_000
SEEDS = range(301, 307)
EXCHANGES = (100, 1_000)


class Replicas:
    """Steerings that share nothing but totals.

    Args:
        world: names the arms.
        seed: of the dice, of each replica its own.
        every: payments between exchanges.
    """

    def __init__(self, world: World, seed: int, every: int) -> None:
        self._learners = [LinUcb(WORLD_SCHEMA, owner=f"r{i}") for i in range(REPLICAS)]
        self._replicas = [
            Steered(world, seed + 1_000 * i, learner=learner, breakers=False, budget=False)
            for i, learner in enumerate(self._learners)
        ]
        self._every = every

    def choose(self, payment: Payment) -> int:
        """Asks the replica whose turn it is."""
        if payment.number and payment.number % self._every == 0:
            told = [learner.totals() for learner in self._learners]
            for learner in self._learners:
                learner.share(told)
        return self._replicas[payment.number % REPLICAS].choose(payment)

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Tells the replica that decided."""
        self._replicas[payment.number % REPLICAS].settle(payment, arm, succeeded, technical, at)


def figures(*, quick: bool = False) -> dict[str, float]:
    """Answers each exchange's regret by the single learner's, over the same streams."""
    world = load("static").model_copy(update={"payments": 600 if quick else PAYMENTS})
    seeds = SEEDS[:1] if quick else SEEDS

    def regret(name: str, maker: Callable[[int], Policy]) -> float:
        lost = []
        for seed in seeds:
            lost.append(run(draw(world, seed), maker(seed)).regret)
            sys.stderr.write(f"{name} seed {seed}: regret {lost[-1]:.1f}\n")
        return float(np.mean(lost))

    one = regret("one learner", lambda seed: Steered(world, seed, breakers=False, budget=False))
    told = {"sync_single_regret": one}
    for every in EXCHANGES:
        many = regret(f"every {every}", lambda seed, every=every: Replicas(world, seed, every))  # type: ignore[misc]
        told[f"sync_penalty_{every}"] = many / one
    return told


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(figures(quick=parser.parse_args().quick)))


if __name__ == "__main__":
    main()
