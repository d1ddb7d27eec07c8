"""What one decision costs in process, ours beside River's, and how exactly replicas add up.

    python -m smartpay_bench.router_decisions [--quick]

A decision is: estimate three accounts for one context, take fees off the optimistic bound, choose.
River's is its `pull`. Both have learned the same outcomes, of the same arms and features.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
from collections.abc import Mapping
from itertools import cycle

# As in the service: NumPy's engine reads it once, when it is loaded. On matrices this small its
# threads only wait for each other.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from numpy.typing import NDArray
from river import bandit

from smartpay_bench.alternating import medians_us
from smartpay_router.domain.breakers import Breakers
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learner import Arm
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.schema import Schema
from smartpay_router.domain.steering import Option, Steering
from smartpay_router.domain.totals import Sum, merged

FEATURES = 34
"""As many as a charge's context about has; one-hot values, three of them set, and six numbers."""
OUTCOMES = 3_000
BATCH = 256
CALLS, BATCH_CALLS = 2_000, 50
REPLICAS = 16
MERGES = 20
NOW = 1_770_000_000.0
ARMS = tuple(Arm(name, name) for name in ("stripe", "amazon_pay", "solana"))
LEFT = np.array([0.971, 0.966, 0.995])
"""The share of the amount that each account's fee leaves."""
OPTIMISM = 0.3

Floats = NDArray[np.float64]


def contexts(count: int, dice: np.random.Generator) -> Floats:
    """Draws contexts of shape [count, FEATURES] that look like charges'."""
    rows = np.zeros((count, FEATURES))
    rows[:, 0] = 1.0
    rows[:, 1:7] = dice.normal(size=(count, 6)) / 2
    places = np.arange(count)
    for first, size in ((7, 7), (14, 12), (26, 8)):
        rows[places, dice.integers(first, first + size, count)] = 1.0
    return rows


class Deciders:
    """Both learners, taught alike, and their ways to decide."""

    def __init__(self, seed: int = 601) -> None:
        dice = np.random.default_rng(seed)
        names = ("intercept", *(f"feature_{i}" for i in range(1, FEATURES)))
        self.schema = Schema("bench", names, (1.0,) * FEATURES)
        self.rows = contexts(OUTCOMES, dice)
        self.named = [dict(zip(names, row.tolist(), strict=True)) for row in self.rows]
        self.ours = LinUcb(self.schema, Tuning())
        self.river = bandit.LinUCBDisjoint(seed=seed)
        chosen = dice.integers(len(ARMS), size=OUTCOMES)
        rewards: Floats = (dice.random(OUTCOMES) < 0.9).astype(np.float64)
        self.ours.learn_many(
            [ARMS[i] for i in chosen],
            self.rows,
            rewards,
            np.linspace(NOW, NOW + OUTCOMES, OUTCOMES),
        )
        for place, context in enumerate(self.named):
            self.river.update(  # type: ignore[no-untyped-call]
                ARMS[chosen[place]].account, context, float(rewards[place])
            )
        self.names: list[int | str] = [arm.account for arm in ARMS]
        self.at = NOW + OUTCOMES
        self.steering = Steering(self.ours, Breakers(), Budgets())
        self.options = [Option(arm, 1 - float(left)) for arm, left in zip(ARMS, LEFT, strict=True)]
        self._turn = cycle(range(OUTCOMES - BATCH))
        self._dice = random.Random(seed)

    def decide(self) -> int:
        """Answers the best account for the next context."""
        found = self.ours.estimates(ARMS, self.rows[next(self._turn)], self.at)
        return int((found.upper(OPTIMISM) * LEFT).argmax())

    def decide_batch(self) -> Floats:
        """Answers the best account for each of the next contexts."""
        start = next(self._turn)
        found = self.ours.estimates_many(ARMS, self.rows[start : start + BATCH], self.at)
        best: Floats = (found.upper(OPTIMISM) * LEFT).argmax(axis=1)
        return best

    def river_decides(self) -> str:
        """Answers River's choice for the next context."""
        return str(self.river.pull(self.names, context=self.named[next(self._turn)]))

    def rank(self) -> object:
        """Ranks as the service does: breakers, budget, propensities, reasons, a pull counted."""
        self.at += 0.001
        return self.steering.rank(
            self.options,
            self.rows[next(self._turn)],
            baseline="stripe",
            budget_key="bench",
            at=self.at,
            dice=self._dice,
        )


def costs(calls: int = CALLS, batch_calls: int = BATCH_CALLS) -> dict[str, float]:
    """Times the ways to decide by turns, in this process."""
    deciders = Deciders()
    told = medians_us(
        {
            "ours": deciders.decide,
            "river": deciders.river_decides,
            "batch": deciders.decide_batch,
            "rank": deciders.rank,
        },
        calls,
        slow={"batch": batch_calls},
    )
    batched = told["batch"] / BATCH
    return {
        "decide_us": round(told["ours"], 2),
        "decide_river_us": round(told["river"], 2),
        "decide_batched_us": round(batched, 3),
        "rank_us": round(told["rank"], 2),
        "decide_vs_river": round(told["river"] / told["ours"], 2),
        "batch_vs_river": round(told["river"] / batched, 1),
        "rank_vs_river": round(told["river"] / told["rank"], 2),
    }


def merge_error(merges: int = MERGES, seed: int = 602) -> float:
    """Answers the largest relative error of replicas' merged sums against one learner's.

    Outcomes come late, in any order, to any of the replicas, over a hundred memories, so that
    landmarks differ; early and repeated totals are merged along.
    """
    memory = 3_600.0
    schema = Schema("bench", ("intercept", "amount", "risk"), (1.0, 20.0, 20.0))
    worst = 0.0
    for turn in range(merges):
        dice = random.Random(seed + turn)
        one = LinUcb(schema, Tuning(memory_seconds=memory))
        parts = [
            LinUcb(schema, Tuning(memory_seconds=memory), f"replica-{i}") for i in range(REPLICAS)
        ]
        told = []
        for _ in range(500):
            arm, part = dice.choice(ARMS), dice.choice(parts)
            values = (1.0, dice.uniform(-2, 2), dice.random())
            reward, at = float(dice.random() < 0.9), NOW + dice.uniform(0, 100 * memory)
            for learner in (one, part):
                learner.learn(arm, values, reward, at)
            if dice.random() < 0.05:
                told.append(part.totals())
        told += [part.totals() for part in parts] * 2
        dice.shuffle(told)
        ours, single = merged(told), one.totals()
        factor = math.exp((ours.landmark - single.landmark) / memory)
        for mine, its in ((ours.models, single.models), (ours.accounts, single.accounts)):
            worst = max(worst, _distance(mine, its, factor))
    return worst


def _distance(ours: Mapping[str, Sum], theirs: Mapping[str, Sum], factor: float) -> float:
    if {k: s.outcomes for k, s in ours.items()} != {k: s.outcomes for k, s in theirs.items()}:
        return math.inf
    return max(
        float(np.abs(ours[key].values * factor - known.values).max() / np.abs(known.values).max())
        for key, known in theirs.items()
    )


def figures(*, quick: bool = False) -> dict[str, float]:
    """Measures everything; `quick` takes small samples, whose figures mean little."""
    told = costs(20, 2) if quick else costs()
    return {**told, "merge_error": merge_error(1 if quick else MERGES)}


def main() -> None:
    """Prints the figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small samples that mean little")
    print(json.dumps(figures(quick=parser.parse_args().quick)))


if __name__ == "__main__":
    main()
