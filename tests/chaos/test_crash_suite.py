"""Payments killed at every named point on every rail; and each broken promise is noticed.

`make chaos-payments` is the same with a thousand kills.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from smartpay_sandbox.chaos import Result, plans_for, run
from smartpay_sandbox.chaos_controls import CONTROLS
from smartpay_sandbox.chaos_street import RAILS
from smartpay_sandbox.crash_points import POINTS

KILLS = 54
SEED = 20261122


@pytest.fixture(scope="module")
def result() -> Result:
    plans = plans_for(KILLS, SEED, round_kills=KILLS // 2)
    return asyncio.run(run(plans, seed=SEED, innocents=False, lanes=3))


def test_kills_at_every_point_on_every_rail_lose_and_double_nothing(result: Result) -> None:
    summary = result.summary()
    assert summary["violations"] == 0, summary
    assert summary["kills"] == KILLS
    reached = Counter(point.partition(" ")[0] for v in result.rounds for point in v.points)
    assert reached.keys() >= POINTS.keys(), "a watcher of crash_points watches nothing any more"
    assert summary["rails"].keys() >= set(RAILS)
    assert summary["faults"].keys() >= {"error_before", "slow", "drop_after_commit", "error_after"}
    assert all(summary["faults"].values()), summary["faults"]
    assert summary["recoveries"], "nothing was ever in flight when the service died"


def test_every_broken_promise_is_caught(result: Result) -> None:
    assert sorted(result.caught) == sorted(CONTROLS)
