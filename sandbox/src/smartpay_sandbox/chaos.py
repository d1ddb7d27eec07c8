"""`make chaos-payments`: kills payments amid load on all rails; the last line is one JSON object.

A run is made of rounds, each with a place of its own (see `chaos_round`), and of the negative
controls (see `chaos_controls`), each of which must be caught, and must leave nothing to say in the
same trouble when no promise is broken. About 0.5 s per kill on two idle cores, the controls
another minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smartpay_sandbox.chaos_controls import CONTROLS, is_caught, plan_of
from smartpay_sandbox.chaos_nursery import Nursery
from smartpay_sandbox.chaos_orders import STAMPEDE
from smartpay_sandbox.chaos_round import (
    Plan,
    Verdict,
    faults,
    kills_for,
    median_recovery,
    play,
)

KILLS = 1000
ROUND_KILLS = 50  # few enough that a round's dumps and books are quickly read
LANES = 2  # places at once; one is mostly waiting
EXAMPLES_MAX = 10


@dataclass
class Result:
    """What a run came to."""

    rounds: list[Verdict] = field(default_factory=list)
    caught: list[str] = field(default_factory=list)
    """The controls that were caught."""
    blamed: list[str] = field(default_factory=list)
    """What the judge said of a service that breaks no promise, in a control's trouble."""

    @property
    def violations(self) -> list[str]:
        """Everything that is wrong with the service."""
        return [v for verdict in self.rounds for v in verdict.violations] + self.blamed

    def summary(self) -> dict[str, Any]:
        """Spells the result as it is printed."""
        points: Counter[str] = sum((v.points for v in self.rounds), Counter())
        return {
            "kills": sum(v.kills for v in self.rounds),
            "violations": len(self.violations),
            "controls_caught": len(self.caught),
            "controls": len(CONTROLS),
            "median_recovery_seconds": round(median_recovery(self.rounds), 2),
            "recoveries": sum(len(v.recoveries) for v in self.rounds),
            "payments": sum(v.payments for v in self.rounds),
            "rails": dict(sum((v.rails for v in self.rounds), Counter())),
            "statuses": dict(sum((v.statuses for v in self.rounds), Counter())),
            "faults": dict(sum((v.faults for v in self.rounds), Counter())),
            "points": dict(sorted(points.items())),
            "examples": self.violations[:EXAMPLES_MAX],
        }


def plans_for(
    kills: int, seed: int, *, round_kills: int = ROUND_KILLS, keep: Path | None = None
) -> list[Plan]:
    """Splits a run into rounds; round n has the seed + n.

    Args:
        kills: in all.
        seed: of everything.
        round_kills: at most so many in one place.
        keep: where the evidence of violations goes, in a folder per seed.
    """
    all_kills = kills_for(kills, seed)
    return [
        Plan(
            seed + number,
            all_kills[start : start + round_kills],
            begins_with=STAMPEDE,
            faults=faults(seed + number),
            keep=keep and keep / f"chaos-{seed + number}",
        )
        for number, start in enumerate(range(0, kills, round_kills))
    ]


async def run(
    plans: Sequence[Plan],
    controls: Sequence[str] = tuple(CONTROLS),
    *,
    seed: int,
    innocents: bool = True,
    lanes: int = LANES,
    tell: Callable[[str], None] = lambda _: None,
) -> Result:
    """Plays rounds and controls, some at once.

    Args:
        plans: the rounds.
        controls: the promises to break.
        seed: of the controls.
        innocents: whether each control's trouble is also given to a service that breaks nothing.
        lanes: how many places at once.
        tell: hears of progress.
    """
    result = Result()
    async with Nursery() as nursery:

        async def play_round(number: int, plan: Plan) -> None:
            verdict = await play(plan, nursery)
            result.rounds.append(verdict)
            tell(
                f"round {number} of {len(plans)}, seed {plan.seed}: {verdict.kills} kills,"
                f" {verdict.payments} payments, {len(verdict.violations)} violations,"
                f" {verdict.seconds:.0f} s"
            )

        async def play_control(name: str) -> None:
            guilty = await play(plan_of(name, seed), nursery)
            if is_caught(name, guilty.violations):
                result.caught.append(name)
            tell(f"control {name}: {'caught' if name in result.caught else 'NOT CAUGHT'}")

        async def play_innocent(name: str) -> None:
            innocent = await play(plan_of(name, seed, sabotaged=False), nursery)
            result.blamed += innocent.violations
            tell(f"the trouble of {name} alone: {len(innocent.violations)} violations")

        jobs: list[Awaitable[None]] = [
            *(play_round(number, plan) for number, plan in enumerate(plans, start=1)),
            *(play_control(name) for name in controls),
            *((play_innocent(name) for name in controls) if innocents else ()),
        ]
        waiting = iter(jobs)

        async def lane() -> None:
            for job in waiting:
                await job

        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(lane())
    return result


def main() -> None:
    """Runs it; exits with 1 when a promise was broken, or a broken one not noticed."""
    parser = argparse.ArgumentParser(prog="python -m smartpay_sandbox.chaos")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, help="folder for the evidence of violations")
    parser.add_argument("--lanes", type=int, default=LANES, help="places at once")
    arguments = parser.parse_args()
    started = time.monotonic()
    print(f"seed {arguments.seed}", flush=True)
    result = asyncio.run(
        run(
            plans_for(arguments.kills, arguments.seed, keep=arguments.keep),
            seed=arguments.seed,
            lanes=arguments.lanes,
            tell=lambda line: print(f"{time.monotonic() - started:6.0f} s  {line}", flush=True),
        )
    )
    summary = {
        **result.summary(),
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(summary))
    is_whole = summary["kills"] == arguments.kills and summary["controls_caught"] == len(CONTROLS)
    sys.exit(0 if is_whole and not result.violations else 1)


if __name__ == "__main__":
    main()
