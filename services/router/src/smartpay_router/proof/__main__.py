"""`make chaos-router`: kills the router amid load, and looks into what it leaves; one JSON line.

Half of the kills come at a named point of `points`, the others at a random moment. After each of
them the file is judged before the next start; see `verdict`. Several replicas may share the file.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay_chassis.sqlite import SqliteStore
from smartpay_chassis.telemetry import configure_logging
from smartpay_chassis.testing import write_merchants
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.proof.load import HEALTHY, TRIES, Customers, Ledger, payments
from smartpay_router.proof.points import POINTS
from smartpay_router.proof.processes import FILE, channel, log_of, router
from smartpay_router.proof.replay import figures
from smartpay_router.proof.verdict import Verdict, judge

CUSTOMERS = 8
START_SECONDS_MAX = 60.0  # first imports on a busy machine
POINT_SECONDS_MAX = 10.0  # a point that is not passed by then is given up, and the kill is random
RANDOM_SECONDS = (0.05, 1.5)  # after its start, where no point is named
KILLS = 100
SEED = 20261123
EXAMPLES_MAX = 10
LOG_CHARACTERS_MAX = 2_000


@dataclass
class Result:
    """What a run came to."""

    points: Counter[str] = field(default_factory=Counter)
    verdicts: list[Verdict] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def violations(self) -> int:
        """How many looks found a broken promise, and answers that contradicted others."""
        return sum(not v.is_clean for v in self.verdicts) + len(self.ledger.wrong)

    def summary(self) -> dict[str, Any]:
        """Spells the result as it is printed."""
        verdicts = self.verdicts
        examples = [e for v in verdicts for e in v.examples] + self.ledger.wrong
        return {
            "kills": len(verdicts),
            "lost": sum(v.lost for v in verdicts),
            "doubled": sum(v.doubled for v in verdicts),
            "unbound": sum(v.unbound for v in verdicts),
            "forgotten": sum(v.forgotten for v in verdicts),
            "totals_error": max((v.error for v in verdicts), default=0.0),
            "breakers_strayed": sum(v.strayed for v in verdicts),
            "violations": self.violations,
            "acknowledged_outcomes": len(self.ledger.outcomes),
            "acknowledged_bindings": len(self.ledger.bound),
            "events": len(self.ledger.events),
            "log_rows": verdicts[-1].rows if verdicts else 0,
            "rows_behind_snapshot_max": max((v.behind for v in verdicts), default=0),
            "median_start_seconds": round(statistics.median(self.starts), 2),
            "points": dict(sorted(self.points.items())),
            "examples": examples[:EXAMPLES_MAX],
        }


async def run(kills: int, seed: int, replicas: int = 1) -> Result:
    """Kills routers amid load, and judges what each one leaves.

    Args:
        kills: how often, in all; the last one comes when everybody has been answered.
        seed: of the load, the moments and the points.
        replicas: how many routers share the file; each dies while the others go on.
    """
    result = Result()
    names = [f"replica-{number}" for number in range(replicas)]
    # A Unix socket's path may have some 100 characters, so the folder's is short.
    with tempfile.TemporaryDirectory(prefix="sp-chaos-") as name:
        folder = Path(name)
        write_merchants(folder / "merchants.json")
        # Two processes that make the same file at once is not what is looked at here.
        await (await SqliteStore.open(folder / FILE, MIGRATIONS)).close()
        news = asyncio.Condition()
        async with (
            payments(folder / "egress.sock", result.ledger, news),
            contextlib.AsyncExitStack() as stack,
            asyncio.TaskGroup() as group,
        ):
            channels = {
                name: await stack.enter_async_context(channel(folder / f"{name}.sock"))
                for name in names
            }
            customers = Customers(
                [RouterServiceStub(each) for each in channels.values()],
                result.ledger,
                seed,
                news,
                HEALTHY if replicas > 1 else TRIES,
            )
            shoppers = [group.create_task(customers.shop()) for _ in range(CUSTOMERS)]
            await asyncio.gather(
                *(
                    _haunt(
                        _Place(folder, name, channels[name], random.Random(f"{seed}-{name}")),
                        len(range(number, kills - 1, replicas)),
                        result,
                    )
                    for number, name in enumerate(names)
                )
            )
            async with contextlib.AsyncExitStack() as lives:
                for name in names:
                    await lives.enter_async_context(router(folder, name))
                customers.stop()
                await asyncio.gather(*shoppers)
        result.points["answered"] += 1
        result.verdicts.append(await judge(folder / FILE, result.ledger))
    return result


@dataclass(frozen=True)
class _Place:
    """Where one replica lives and dies."""

    folder: Path
    name: str
    channel: grpc.aio.Channel
    dice: random.Random


async def _haunt(place: _Place, kills: int, result: Result) -> None:
    """Lets one replica live and die, every second time at a named point."""
    points = sorted(POINTS)
    for index in range(kills):
        point = points[index // 2 % len(points)] if index % 2 else ""
        passes = place.dice.randint(1, POINTS[point].passes_max) if point else 0
        async with router(place.folder, place.name, point, passes) as process:
            began = time.perf_counter()
            async with asyncio.timeout(START_SECONDS_MAX):
                # One that dies amid its start is never ready.
                await _first(place.channel.channel_ready(), process.wait())
            if process.returncode is None:
                result.starts.append(time.perf_counter() - began)
            patience = POINT_SECONDS_MAX if point else place.dice.uniform(*RANDOM_SECONDS)
            await _first(process.wait(), asyncio.sleep(patience))
            died_by_itself = process.returncode is not None
        if died_by_itself and process.returncode != -signal.SIGKILL:
            last = log_of(place.folder, place.name).read_text()[-LOG_CHARACTERS_MAX:]
            result.ledger.wrong.append(f"a router ended by itself: {process.returncode} {last}")
        result.points[point if died_by_itself else "random"] += 1
        result.verdicts.append(await judge(place.folder / FILE, result.ledger))


async def _first(*works: Coroutine[Any, Any, object]) -> None:
    """Waits until one of several ends."""
    tasks = [asyncio.ensure_future(work) for work in works]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main(arguments: list[str]) -> int:
    """Runs the proof; answers 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="smartpay_router.proof", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--replicas", type=int, default=1)
    wanted = parser.parse_args(arguments)
    configure_logging("proof", "WARNING", "")
    result = asyncio.run(run(wanted.kills, wanted.seed, wanted.replicas))
    summary = {**result.summary(), **figures()}
    print(json.dumps(summary))
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
