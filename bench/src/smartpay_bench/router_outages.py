"""Outages: payments until a breaker opens, how rarely it opens for nothing, and the way back.

All figures come from the router's own `Breakers` and `Steering`. Only the hundred million healthy
payments go through a NumPy twin, which the bench's tests hold to the same payment on the same
stream.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartpay_router.domain.breakers import Breakers, BreakerTuning, Kind, State
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learner import Arm
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.schema import Schema
from smartpay_router.domain.steering import Option, Steering

HEALTHY = 0.95
DEAD = 0.20
TECHNICAL_SHARE = 0.005
"""Of healthy payments; the rest of the failures are declines, and all of an outage's are. An
outage of technical failures is told in half the time, so declines are the harder case."""

WARM_UP_PAYMENTS = 500
OUTAGE_PAYMENTS = 1_500
REPLICAS = 16
EXCHANGE_PAYMENTS = 5

Floats = NDArray[np.float64]


def figures(*, quick: bool = False) -> dict[str, float]:
    """Measures everything; `quick` takes small samples, whose figures mean little."""
    trip = payments_to_trip(chains=100 if quick else 4_000, seed=501)
    lost = lost_by_replicas(chains=3 if quick else 300, seed=502)
    healthy, false_trips = false_alarms(chains=500 if quick else 20_000, payments=5_000, seed=503)
    ways = [way_through(seed) for seed in range(504, 505 if quick else 524)]
    late = [way_through(seed, late=20) for seed in range(504, 505 if quick else 524)]
    return {
        "trip_mean": round(float(trip.mean()), 2),
        "trip_p99": float(np.quantile(trip, 0.99)),
        "trip_floor": round(lorden_floor(healthy / max(1, false_trips)), 2),
        "healthy_per_false_trip": round(healthy / max(1, false_trips)),
        "healthy_payments": float(healthy),
        "false_trips": float(false_trips),
        "lost_16_replicas": round(float(lost.mean()), 2),
        "lost_16_replicas_p99": float(np.quantile(lost, 0.99)),
        "sent_to_dead": round(float(np.mean([w.sent_to_dead for w in ways])), 1),
        "sent_to_dead_20_late": round(float(np.mean([w.sent_to_dead for w in late])), 1),
        "recovery_payments": float(np.median([w.recovery for w in ways])),
        "recovery_payments_20_late": float(np.median([w.recovery for w in late])),
    }


def lorden_floor(healthy_per_false_trip: float) -> float:
    """Answers the payments any detector needs on average at so many healthy ones per false alarm.

    Lorden 1971, "Procedures for reacting to a change in distribution": log of them, divided by
    what one payment tells, the Kullback-Leibler divergence of the outage from health. First
    order; it assumes both rates are known, which ours has to learn one of.
    """
    told = DEAD * math.log(DEAD / HEALTHY) + (1 - DEAD) * math.log((1 - DEAD) / (1 - HEALTHY))
    return math.log(healthy_per_false_trip) / told


def outcomes(success: float, dice: random.Random, *, technical: float = 0.0) -> Iterator[Kind]:
    """Draws outcomes without end; success and technical failure have these probabilities."""
    while True:
        ticket = dice.random()
        if ticket < success:
            yield Kind.SUCCESS
        else:
            yield Kind.TECHNICAL if ticket >= 1 - technical else Kind.DECLINE


def payments_to_trip(*, chains: int, seed: int) -> NDArray[np.int64]:
    """Counts the outage's payments until the breaker opens, for accounts that learned health."""
    counts = []
    for chain in range(chains):
        dice = random.Random(f"{seed}-{chain}")
        breakers = warmed_up(dice)
        counts.append(_until_open(breakers, outcomes(DEAD, dice)))
    return np.array(counts)


def warmed_up(dice: random.Random) -> Breakers:
    """Lets one account live in health; a false alarm, which is counted elsewhere, begins anew."""
    while True:
        breakers = Breakers()
        healthy = outcomes(HEALTHY, dice, technical=TECHNICAL_SHARE)
        for now, kind in zip(range(WARM_UP_PAYMENTS), healthy, strict=False):
            breakers.judge("one", "one", kind, float(now), float(now))
        if breakers.standing("one", "one").state is State.CLOSED:
            return breakers


def _until_open(breakers: Breakers, stream: Iterator[Kind]) -> int:
    for count, kind in enumerate(stream, start=1):
        now = float(WARM_UP_PAYMENTS + count)
        breakers.judge("one", "one", kind, now, now)
        if breakers.standing("one", "one").state is not State.CLOSED:
            return count
    raise AssertionError("the stream has no end")


def lost_by_replicas(*, chains: int, seed: int) -> NDArray[np.int64]:
    """Counts what sixteen replicas together send to a dead account until none does any more.

    Payments fall on replicas at random; after every fifth all exchange their rows as bytes.
    """
    return np.array([_lost(random.Random(f"{seed}-{chain}")) for chain in range(chains)])


def _lost(dice: random.Random) -> int:
    state = warmed_up(dice).state()
    fleet = [Breakers(owner=f"replica-{i}") for i in range(REPLICAS)]
    for breakers in fleet:
        breakers.restore(state)
    healthy = outcomes(HEALTHY, dice, technical=TECHNICAL_SHARE)
    dead = outcomes(DEAD, dice)
    lost = 0
    # Some healthy payments first, so that every replica has seen every other's row.
    for now in range(WARM_UP_PAYMENTS, WARM_UP_PAYMENTS + 10_000):
        in_outage = now >= WARM_UP_PAYMENTS + 100
        breakers = dice.choice(fleet)
        if breakers.standing("one", "one").state is State.CLOSED:
            kind = next(dead) if in_outage else next(healthy)
            breakers.judge("one", "one", kind, float(now), float(now))
            lost += in_outage
        if now % EXCHANGE_PAYMENTS == 0:
            rows = [each.share(float(now)) for each in fleet]
            for each in fleet:
                each.take(rows)
            if all(each.standing("one", "one").state is State.OPEN for each in fleet):
                return lost
    raise AssertionError("ten thousand payments opened no breaker")


@dataclass(slots=True)
class Twin:
    """Many accounts that share with nobody, judged at once as `Breakers` judges one.

    Attributes:
        tuning: the breakers' own.
        rate: healthy success, shape [n].
        weight: outcomes it stands for, shape [n].
        rate_at_zero: the rate when both sums were 0, shape [n].
        outcomes: how many were judged, shape [n].
        technical: the technical channel's sum, shape [n].
        declines: the declines channel's sum, shape [n].
    """

    tuning: BreakerTuning
    rate: Floats
    weight: Floats
    rate_at_zero: Floats
    outcomes: NDArray[np.int64]
    technical: Floats
    declines: Floats

    @staticmethod
    def of(size: int, tuning: BreakerTuning | None = None) -> Twin:
        """Makes new accounts."""
        tuning = tuning or BreakerTuning()
        rate = np.full(size, tuning.start_rate)
        return Twin(
            tuning,
            rate,
            np.full(size, float(tuning.start_outcomes)),
            rate.copy(),
            np.zeros(size, dtype=np.int64),
            np.zeros(size),
            np.zeros(size),
        )

    def judge(self, success: NDArray[np.bool_], technical: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Takes one outcome of each account; tells which open. Those begin anew as closed.

        Args:
            success: which succeeded, shape [n].
            technical: which failed for technical reasons, shape [n].
        """
        tuning = self.tuning
        up = math.log(tuning.technical_outage / tuning.technical_healthy)
        down = math.log((1 - tuning.technical_outage) / (1 - tuning.technical_healthy))
        rate = np.clip(self.rate, tuning.rate_min, tuning.rate_max)
        declined = np.log((1 - tuning.outage_share * rate) / (1 - rate))
        step = np.where(success, math.log(tuning.outage_share), declined)
        was_known = self.outcomes >= tuning.known_outcomes
        self.outcomes += 1
        self.technical = np.maximum(0.0, self.technical + np.where(technical, up, down))
        self.declines = np.maximum(0.0, self.declines + step)
        self.declines[~was_known & (self.outcomes >= tuning.known_outcomes)] = 0.0
        self.rate = (self.rate * self.weight + success) / (self.weight + 1)
        self.weight = np.minimum(tuning.memory_outcomes, self.weight + 1)
        quiet = (self.technical == 0) & (self.declines == 0)
        self.rate_at_zero[quiet] = self.rate[quiet]
        opened: NDArray[np.bool_] = (self.technical >= tuning.technical_trip) | (
            was_known & (self.declines >= tuning.trip)
        )
        self.rate[opened] = self.rate_at_zero[opened]
        self.technical[opened] = self.declines[opened] = 0.0
        return opened


def false_alarms(
    *, chains: int, payments: int, seed: int, tuning: BreakerTuning | None = None
) -> tuple[int, int]:
    """Counts healthy payments and the breakers they opened, from each account's first payment on.

    Args:
        chains: accounts.
        payments: of each.
        seed: of the stream.
        tuning: the breakers'; theirs when None.
    """
    dice = np.random.default_rng(seed)
    twin = Twin.of(chains, tuning)
    false_trips = 0
    for _ in range(payments):
        ticket = dice.random(chains)
        opened = twin.judge(ticket < HEALTHY, ticket >= 1 - TECHNICAL_SHARE)
        false_trips += int(opened.sum())
    return chains * payments, false_trips


@dataclass(frozen=True, slots=True)
class Way:
    """One way through an outage.

    Attributes:
        sent_to_dead: payments the dead account got, probes included.
        recovery: payments after the outage until nine of ten of the last fifty went there again.
    """

    sent_to_dead: int
    recovery: int


_SCHEMA = Schema("outage-bench", ("intercept",), (5.0,))
_ACCOUNTS = {"best": HEALTHY, "second": 0.90, "third": 0.86}
_BEFORE = 2_000
_AFTER = 6_000
_WINDOW = 50


def way_through(seed: int, *, late: int = 0) -> Way:
    """Drives the whole steering through an outage of the best of three accounts and out again.

    Args:
        seed: of payers and of the router's dice.
        late: payments that pass before an outcome is known.
    """
    dice, luck = random.Random(f"dice-{seed}"), random.Random(f"luck-{seed}")
    learner = LinUcb(_SCHEMA, Tuning(memory_seconds=5_000.0))
    steering = Steering(learner, Breakers(), Budgets())
    options = [Option(Arm(name, name), 0.02) for name in _ACCOUNTS]
    values = np.ones(1)
    under_way: list[tuple[Arm, bool, int]] = []
    sent, recent = 0, [False] * _WINDOW
    back = _BEFORE + OUTAGE_PAYMENTS
    for now in range(_BEFORE + OUTAGE_PAYMENTS + _AFTER):
        ranking = steering.rank(
            options, values, baseline=None, budget_key="one", at=float(now), dice=dice
        )
        arm = ranking.places[0].option.arm
        dead = arm.account == "best" and _BEFORE <= now < back
        sent += dead
        under_way.append((arm, luck.random() < (DEAD if dead else _ACCOUNTS[arm.account]), now))
        while len(under_way) > late:
            tried, good, then = under_way.pop(0)
            kind = Kind.SUCCESS if good else Kind.DECLINE
            steering.settle(tried, values, kind, float(good), float(then), float(now))
        recent = [*recent[1:], arm.account == "best"]
        if now >= back + _WINDOW and sum(recent) >= 0.9 * _WINDOW:
            return Way(sent, now - back)
    return Way(sent, _AFTER)


def main() -> None:
    """Prints the figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small samples that mean little")
    print(json.dumps(figures(quick=parser.parse_args().quick)))


if __name__ == "__main__":
    main()
