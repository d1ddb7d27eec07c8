from __future__ import annotations

import random

import numpy as np
import pytest

from smartpay_bench.router_outages import (
    DEAD,
    HEALTHY,
    Twin,
    false_alarms,
    figures,
    lorden_floor,
    payments_to_trip,
    way_through,
)
from smartpay_router.domain.breakers import Breakers, Kind, State, Verdict


@pytest.mark.parametrize("technical", [0.005, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_the_twin_opens_at_the_same_payment_as_the_routers_own_breakers(
    seed: int, technical: float
) -> None:
    dice = random.Random(f"{seed}-{technical}")
    chains, opened_twice = 8, 0
    twin = Twin.of(chains)
    breakers = Breakers()
    for now in range(1, 800):
        success = HEALTHY if now % 200 < 150 else DEAD
        tickets = [dice.random() for _ in range(chains)]
        opened = twin.judge(
            np.array([t < success for t in tickets]),
            np.array([success <= t < success + (1 - success) * technical for t in tickets]),
        )
        for chain, ticket in enumerate(tickets):
            kind = Kind.DECLINE
            if ticket < success:
                kind = Kind.SUCCESS
            elif ticket < success + (1 - success) * technical:
                kind = Kind.TECHNICAL
            name = str(chain)
            verdict = breakers.judge(name, name, kind, float(now), float(now))
            is_open = breakers.standing(name, name).state is not State.CLOSED
            assert is_open == opened[chain]
            if is_open:
                assert verdict is Verdict.DISCARD
                opened_twice += 1
                # The twin begins anew as closed, so its account gets its four good probes.
                for _ in range(4):
                    breakers.judge(name, name, Kind.SUCCESS, float(now), float(now))
    assert opened_twice > chains


def test_an_outage_is_told_within_the_aim_even_in_a_small_sample() -> None:
    trips = payments_to_trip(chains=200, seed=1)
    assert trips.mean() <= 8.5
    assert trips.max() < 60


def test_healthy_payments_seldom_open_a_breaker() -> None:
    payments, false_trips = false_alarms(chains=2_000, payments=1_000, seed=1)
    assert payments == 2_000_000
    assert false_trips <= 10


def test_the_floor_is_below_what_any_detector_reaches() -> None:
    assert lorden_floor(100_000) == pytest.approx(6.04, abs=0.01)


def test_the_same_seed_is_the_same_way() -> None:
    assert way_through(3) == way_through(3)


def test_the_short_run_has_every_figure() -> None:
    short = figures(quick=True)
    aims = {"trip_mean", "trip_p99", "healthy_per_false_trip", "lost_16_replicas"}
    assert aims | {"recovery_payments", "trip_floor", "sent_to_dead"} <= short.keys()
    assert all(np.isfinite(value) for value in short.values())
