"""The bench of the router: what it runs, and what it says of it."""

from typing import Any

import pytest

from smartpay_bench.router import (
    AT_LEAST,
    AT_MOST,
    LOSING,
    MABWISER,
    MAIN,
    OURS,
    RIVER,
    SEEDS,
    VOWPAL_WABBIT,
    WINDOWS,
    Job,
    PartError,
    compared,
    jobs,
    judged,
    ran,
    regrets,
    table,
)
from smartpay_bench.router_replicas import Replicas
from smartpay_bench.router_rivals import rivals
from smartpay_router.simulation.policies import POLICIES
from smartpay_router.simulation.runner import run
from smartpay_router.simulation.stream import draw
from smartpay_router.simulation.world import load, packaged


def told(regrets: list[float], **more: Any) -> dict[str, Any]:
    mean = sum(regrets) / len(regrets)
    known = {"regrets": regrets, "regret": mean, "regret_low": 1.0, "regret_high": 2.0}
    return known | {"shortfall_percent": 0.1, "gain_percent": 5.0} | more


def found() -> dict[tuple[str, str], dict[str, Any]]:
    every = (*RIVER, *MABWISER, *VOWPAL_WABBIT, *WINDOWS)
    known = {(world, policy): told([4.0, 4.0]) for world in MAIN for policy in every}
    known |= {(world, policy): told([1.0, 3.0]) for world in MAIN for policy in OURS}
    known["drift", "vw-bag"] = told([2.0])
    known["drift", "ours-budget"] = told([1.0, 3.0], gain_percent=4.0, shortfall_percent=0.4)
    return known


def test_every_job_names_a_world_and_a_policy_that_exist() -> None:
    known = set(POLICIES) | set(rivals())
    for quick in (False, True):
        listed = jobs(quick=quick)
        assert len({(job.world, job.policy) for job in listed}) == len(listed)
        assert {job.policy for job in listed} <= known
        assert {job.world for job in listed} == {*MAIN, *LOSING} <= set(packaged())


def test_a_look_never_touches_the_seeds_that_are_reported() -> None:
    assert all(not set(job.seeds) & set(SEEDS) for job in jobs(quick=True))


def test_a_rival_runs_in_its_own_environment() -> None:
    assert Job("real", "vw-bag", range(1, 3)).command()[0].startswith(".venv-bench-router")
    assert "smartpay_router.simulate" in Job("real", "river", range(1, 3)).command()


def test_ours_is_compared_with_the_best_rival_over_the_seeds_both_have_run() -> None:
    against = compared(found(), "drift", VOWPAL_WABBIT)
    assert (against["rival"], against["ratio"], against["seeds"]) == ("vw-bag", 0.5, 1)
    assert compared(found(), "real", VOWPAL_WABBIT)["ratio"] == 0.5


def test_of_the_changing_worlds_the_worse_one_counts() -> None:
    known = found()
    known["drift", "ours"] = told([2.0, 3.0])
    figures = regrets(known)
    assert figures["regret_vs_river_real"] == 0.5
    assert figures["regret_vs_srv3"] == 0.625
    assert figures["regret_vs_vw"] == 1.0
    assert (figures["exploration_shortfall"], figures["gain_kept"]) == (0.4, 0.8)


def test_what_was_missed_is_named() -> None:
    good = {key: 0.0 for key in AT_MOST} | {key: 1e9 for key in AT_LEAST}
    assert judged(good)["missed"] == []
    assert judged(good | {"trip_mean": 8.1, "gain_kept": float("nan")})["missed"] == [
        "trip_mean",
        "gain_kept",
    ]


def test_the_table_leaves_out_what_did_not_run_and_ratios_to_nothing() -> None:
    known = found() | {("flat", "static"): told([0.0, 0.0])}
    lines = table(known, ("flat", "real"), ("ours", "static", "river")).splitlines()
    assert lines[3] == "| static | 0.0 (1-2) |  |"
    assert lines[4] == "| river | 4.0 (1-2) [0.50] | 4.0 (1-2) [0.50] |"


def test_a_part_that_fails_ends_the_bench_with_its_own_words() -> None:
    with pytest.raises(PartError, match="no such world"):
        ran(["python3", "-c", "raise SystemExit('no such world')"])


def test_replicas_that_exchange_at_once_decide_like_each_other() -> None:
    world = load("static")
    stream = draw(world, 1).until(200)
    once, twice = (run(stream, Replicas(world, 1, every=50)) for _ in range(2))
    assert once.choices.tobytes() == twice.choices.tobytes()


def test_replicas_that_know_little_exchange_sooner_and_lose_less_for_a_few_exchanges() -> None:
    world = load("static")
    streams = [draw(world, seed).until(1_000) for seed in range(1, 5)]
    fleets = {
        by_news: [Replicas(world, 1, 1_000, by_news=by_news) for _ in streams]
        for by_news in (True, False)
    }
    lost = {
        by_news: sum(run(s, f).regret for s, f in zip(streams, made, strict=True))
        for by_news, made in fleets.items()
    }
    assert lost[True] < 0.9 * lost[False]
    assert all(fleet.exchanges == 0 for fleet in fleets[False])
    assert all(16 < fleet.exchanges <= 8 * 16 for fleet in fleets[True])
