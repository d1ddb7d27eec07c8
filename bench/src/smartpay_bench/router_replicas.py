"""Part of `make bench-router`: what sixteen replicas lose by exchanging what they learned late.

Payments go to the replicas in turn. Each learns from its own outcomes at once and, every so many
payments, from what all others have learned by then; one learner that hears everything at once is
the measure. The world is `static`: nothing but the learning itself can differ.

In the service a replica also exchanges before that time when its news outweigh what it knows; what
that loses is told beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable

import numpy as np

from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.replicas import outweighs
from smartpay_router.domain.totals import Totals
from smartpay_router.simulation.policies import WORLD_SCHEMA, Steered
from smartpay_router.simulation.runner import Payment, Policy, ratio_interval, run
from smartpay_router.simulation.stream import draw
from smartpay_router.simulation.world import World, load

REPLICAS = 16
PAYMENTS = 12_000
SEEDS = range(601, 621)
EXCHANGES = (100, 1_000)


class Replicas:
    """Steerings that share nothing but totals.

    Args:
        world: names the arms.
        seed: of the dice, of each replica its own.
        every: payments between exchanges of all.
        by_news: whether a replica also exchanges when its news outweigh what it knows.

    Attributes:
        exchanges: how many there were, of all replicas together.
    """

    def __init__(self, world: World, seed: int, every: int, *, by_news: bool = True) -> None:
        self._learners = [LinUcb(WORLD_SCHEMA, owner=f"r{i}") for i in range(REPLICAS)]
        self._replicas = [
            Steered(world, seed + 1_000 * i, learner=learner, breakers=False, budget=False)
            for i, learner in enumerate(self._learners)
        ]
        self._every = every
        self._by_news = by_news
        self._published: dict[int, Totals] = {}
        self._known = [0] * REPLICAS
        self.exchanges = 0

    def choose(self, payment: Payment) -> int:
        """Asks the replica whose turn it is."""
        if payment.number and payment.number % self._every == 0:
            self._published = {i: learner.totals() for i, learner in enumerate(self._learners)}
            for i in range(REPLICAS):
                self._exchange(i)
        return self._replicas[payment.number % REPLICAS].choose(payment)

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Tells the replica that decided."""
        i = payment.number % REPLICAS
        self._replicas[i].settle(payment, arm, succeeded, technical, at)
        news = self._learners[i].outcomes - self._known[i]
        if self._by_news and outweighs(news, self._known[i], max(1, len(self._published))):
            self._exchange(i)

    def _exchange(self, i: int) -> None:
        """Publishes what one replica learned; it hears what others published, be it older."""
        learner = self._learners[i]
        self._published[i] = learner.totals()
        learner.share(self._published.values())
        self._known[i] = learner.outcomes
        self.exchanges += 1


def figures(*, quick: bool = False) -> dict[str, float]:
    """Answers each exchange's regret by the single learner's, over the same streams."""
    world = load("static").model_copy(update={"payments": 600 if quick else PAYMENTS})
    seeds = SEEDS[:1] if quick else SEEDS

    def regrets(name: str, maker: Callable[[int], Policy]) -> list[float]:
        lost = []
        for seed in seeds:
            lost.append(run(draw(world, seed), maker(seed)).regret)
            sys.stderr.write(f"{name} seed {seed}: regret {lost[-1]:.1f}\n")
        return lost

    one = regrets("one learner", lambda seed: Steered(world, seed, breakers=False, budget=False))
    told = {"sync_single_regret": float(np.mean(one))}
    for every, by_news in itertools.product(EXCHANGES, (True, False)):
        name = f"sync_penalty_{every}_as_served" if by_news else f"sync_penalty_{every}"
        fleets = {seed: Replicas(world, seed, every, by_news=by_news) for seed in seeds}
        many = regrets(name, fleets.__getitem__)
        told[name] = float(np.mean(many) / np.mean(one))
        told[f"{name}_low"], told[f"{name}_high"] = ratio_interval(many, one)
        exchanges = sum(fleet.exchanges for fleet in fleets.values())
        told[f"{name}_exchanges"] = exchanges / len(fleets) / REPLICAS
    return told


def main() -> None:
    """Measures and prints one JSON object."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    print(json.dumps(figures(quick=parser.parse_args().quick)))


if __name__ == "__main__":
    main()
