"""`make bench-mesh`: what edge and sidecars cost, against plain gRPC and a FastAPI gateway.

Rounds are interleaved and their order rotates, so that a machine that grows slower or busier does
so for all; ratios are taken within a round, and the median of the rounds is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from smartpay_bench.cpu import client_microseconds, cpu_microseconds, machine_microseconds
from smartpay_bench.h2load import CALLERS, Load, LoadError, require_h2load, run_load
from smartpay_bench.paths import PathError, Route, running_paths

ROUNDS = 6
"""Enough for a median on a machine that is never quite calm; six paths rotate through them."""
ROUND_SECONDS = 4
"""One path in one round: hundreds of ticks of CPU, thousands of calls."""
WARM_UP_SECONDS = 2
"""Before the first round, for each path: connections, caches, JIT of Lua."""
TARGETS = {"edge_vs_grpc": 0.45, "edge_vs_fastapi": 3.0, "sidecars_vs_grpc": 0.7}
"""The least each ratio of rates should be."""
PLAIN, SIDECARS = "plain gRPC", "two sidecars"
EDGE, EDGE_HTTP2 = "our edge", "our edge, HTTP/2"
RIVAL, MESHED_RIVAL = "FastAPI", "FastAPI+sidecar"


@dataclass(frozen=True)
class Result:
    """One path in one round."""

    load: Load
    cpu_us: Mapping[str, float]
    """CPU microseconds per call, of each process on the path."""
    client_us: float
    """The same of the client, which is counted nowhere else."""
    others: float
    """Cores that neither path nor client kept busy: other work on this machine, interrupts."""

    @property
    def total_us(self) -> float:
        """CPU microseconds per call of the whole path."""
        return sum(self.cpu_us.values())


def measure(route: Route, seconds: int) -> Result:
    """Loads one path and reads what its processes spent on it."""
    before, client, machine = (
        cpu_microseconds(route.processes),
        client_microseconds(),
        machine_microseconds(),
    )
    started = time.monotonic()
    load = run_load(route.load, seconds, route.answer_bytes)
    took = time.monotonic() - started
    after = cpu_microseconds(route.processes)
    client = client_microseconds() - client
    spent = {name: after[name] - before[name] for name in before}
    others = machine_microseconds() - machine - sum(spent.values()) - client
    return Result(
        load,
        {name: value / load.calls for name, value in spent.items()},
        client / load.calls,
        max(0.0, others / took / 1_000_000),
    )


def measure_rounds(
    routes: Sequence[Route], rounds: int, seconds: int, say: Callable[[str], None]
) -> dict[str, list[Result]]:
    """Measures all paths in each round, each round beginning with another one."""
    for route in routes:
        measure(route, WARM_UP_SECONDS)
    results: dict[str, list[Result]] = {route.name: [] for route in routes}
    for number in range(rounds):
        start = number % len(routes)
        for route in (*routes[start:], *routes[:start]):
            results[route.name].append(measure(route, seconds))
        rates = ", ".join(f"{name} {found[-1].load.rate:.0f}" for name, found in results.items())
        others = statistics.mean(found[-1].others for found in results.values())
        say(f"round {number + 1}: {rates} calls/s; others kept {others:.2f} cores busy")
    return results


def ratio(results: Mapping[str, Sequence[Result]], above: str, below: str) -> float:
    """Compares two paths' rates within each round and takes the median."""
    pairs = zip(results[above], results[below], strict=True)
    return round(statistics.median(a.load.rate / b.load.rate for a, b in pairs), 3)


def summary(results: Mapping[str, Sequence[Result]]) -> dict[str, object]:
    """Says the run in one object; rates per second, times in ms, CPU in us per call."""
    ratios = {
        "edge_vs_grpc": ratio(results, EDGE, PLAIN),
        "edge_vs_fastapi": ratio(results, EDGE, RIVAL),
        "sidecars_vs_grpc": ratio(results, SIDECARS, PLAIN),
        "edge_http2_vs_grpc": ratio(results, EDGE_HTTP2, PLAIN),
        "edge_vs_fastapi_sidecar": ratio(results, EDGE, MESHED_RIVAL),
    }
    paths = {name: _medians(found) for name, found in results.items()}
    return {
        **ratios,
        "edge_cpu_us": paths[EDGE]["cpu_us"],
        "fastapi_cpu_us": paths[RIVAL]["cpu_us"],
        "fastapi_sidecar_cpu_us": paths[MESHED_RIVAL]["cpu_us"],
        "targets": TARGETS,
        "missed": [name for name, least in TARGETS.items() if ratios[name] < least],
        "paths": paths,
        "rounds": {name: [round(r.load.rate) for r in found] for name, found in results.items()},
        "in_flight": CALLERS,
        "cores": os.cpu_count(),
        "others_cores": round(
            statistics.mean(r.others for found in results.values() for r in found), 2
        ),
    }


def _medians(found: Sequence[Result]) -> dict[str, object]:
    def median(of: Callable[[Result], float]) -> float:
        return round(statistics.median(of(result) for result in found), 1)

    return {
        "rate": median(lambda r: r.load.rate),
        "p50_ms": median(lambda r: r.load.p50_ms),
        "p99_ms": median(lambda r: r.load.p99_ms),
        "cpu_us": median(lambda r: r.total_us),
        "client_cpu_us": median(lambda r: r.client_us),
        "cpu_us_by_process": {
            name: round(statistics.median(r.cpu_us[name] for r in found), 1)
            for name in found[0].cpu_us
        },
    }


def table(said: Mapping[str, object]) -> str:
    """Shows the summary to people."""
    lines = [f"{'path':<18}{'calls/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}   of which"]
    paths = said["paths"]
    assert isinstance(paths, dict)
    for name, path in paths.items():
        parts = ", ".join(f"{k} {v:.0f}" for k, v in path["cpu_us_by_process"].items())
        lines.append(
            f"{name:<18}{path['rate']:>9.0f}{path['p50_ms']:>9.1f}{path['p99_ms']:>9.1f}"
            f"{path['cpu_us']:>9.0f}   {parts}"
        )
    lines.append("")
    for name, least in TARGETS.items():
        verdict = "missed" if name in said["missed"] else "met"  # type: ignore[operator]
        lines.append(f"{name:<18}{said[name]:>6}   aim at least {least}: {verdict}")
    return "\n".join(lines)


def main() -> None:
    """Runs the bench; ends with 1 and no figures when anything failed."""
    parser = argparse.ArgumentParser(prog="make bench-mesh", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=ROUND_SECONDS, help="per path and round")
    chosen = parser.parse_args()
    try:
        require_h2load()
        with running_paths() as paths:
            results = measure_rounds(paths.routes(), chosen.rounds, chosen.seconds, print)
    except (LoadError, PathError) as error:
        sys.exit(f"bench-mesh: {error}")
    said = summary(results)
    print(
        f"\n{table(said)}\nThe client (h2load) is not in the CPU figures; others kept "
        f"{said['others_cores']} of {said['cores']} cores busy.\n"
    )
    print(json.dumps(said))


if __name__ == "__main__":
    main()
