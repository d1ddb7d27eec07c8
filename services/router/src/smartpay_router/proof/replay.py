"""How long a start takes that has no snapshot: the whole log is read and learned again.

`python -m smartpay_router.proof.replay` prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from smartpay_chassis.sqlite import SqliteStore
from smartpay_chassis.telemetry import configure_logging
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes, append
from smartpay_router.domain.breakers import Breakers
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import CHARGE_SCHEMA, describe
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.outcome import Outcome, Sample
from smartpay_router.domain.replicas import Mind
from smartpay_router.domain.steering import Steering

OWNER = "one"
ROWS_PER_WRITE = 10_000
STARTS = 5
_START = 1_790_000_000.0
_ACCOUNTS = tuple(
    (f"pac_d1{number:024d}", processor)
    for number, processor in enumerate(["stripe"] * 40 + ["amazon_pay"] * 15 + ["solana"] * 5)
)
_OUTCOMES = (Outcome.SUCCEEDED, Outcome.DECLINED, Outcome.TECHNICAL_FAILURE, Outcome.ABANDONED)
_SHARES = (92.0, 6.0, 0.5, 1.5)


@dataclass(frozen=True)
class Replayed:
    """How long a log took.

    Attributes:
        rows: how many the log held.
        outcomes: how many of them were learned, not held back.
        seconds: by the wall's clock.
        cpu_seconds: of all this process's threads.
    """

    rows: int
    outcomes: int
    seconds: float
    cpu_seconds: float


def conceive(store: SqliteStore, owner: str, epoch: int) -> Mind:
    """Makes an empty mind as the service has it."""
    learner = LinUcb(CHARGE_SCHEMA, owner=owner, epoch=epoch)
    breakers = Breakers(owner=owner, epoch=epoch)
    steering = Steering(learner, breakers, Budgets())
    outcomes = SqliteOutcomes(store, owner)
    return Mind(
        learner, breakers, steering, Learning(steering, learner, outcomes, CHARGE_SCHEMA, owner)
    )


async def fill(store: SqliteStore, rows: int, seed: int) -> None:
    """Writes a log of healthy traffic: 60 accounts at three processors, a payment a second."""
    dice = random.Random(seed)

    def work(db: sqlite3.Connection, *, first: int, last: int) -> None:
        for number in range(first, last):
            append(db, _sample(number, dice), OWNER)

    for first in range(0, rows, ROWS_PER_WRITE):
        last = min(rows, first + ROWS_PER_WRITE)
        await store.write(partial(work, first=first, last=last))


async def replay(path: Path, rows: int, seed: int, starts: int = STARTS) -> Replayed:
    """Fills a new file and times starts on it; answers the fastest, which others disturbed least.

    Args:
        path: of the file.
        rows: of the log.
        seed: of its outcomes.
        starts: how many are timed.
    """
    store = await SqliteStore.open(path, MIGRATIONS)
    try:
        await fill(store, rows, seed)
        timed = []
        for _ in range(starts):
            began, worked = time.perf_counter(), time.process_time()
            mind = conceive(store, OWNER, 0)
            await mind.learning.catch_up()
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
            timed.append(Replayed(rows, mind.learner.totals().outcomes, seconds, cpu_seconds))
        return min(timed, key=lambda done: done.seconds)
    finally:
        await store.close()


def figures(rows: int = 100_000, seed: int = 1) -> dict[str, float]:
    """Times starts on a log of so many rows; by the wall and by the processor, per 100,000."""
    with tempfile.TemporaryDirectory(prefix="sp-replay-") as folder:
        done = asyncio.run(replay(Path(folder) / "router.db", rows, seed))
    return {
        "replay_rows": done.rows,
        "replay_learned": done.outcomes,
        "replay_100k_seconds": round(done.seconds * 100_000 / rows, 3),
        "replay_100k_cpu_seconds": round(done.cpu_seconds * 100_000 / rows, 3),
    }


def replay_seconds(rows: int = 100_000, seed: int = 1) -> float:
    """Times starts on a log of so many rows; seconds by the wall's clock, per 100,000."""
    return figures(rows, seed)["replay_100k_seconds"]


def _sample(number: int, dice: random.Random) -> Sample:
    decided_at = _START + number
    account, processor = dice.choice(_ACCOUNTS)
    charge = Charge(dice.randrange(100, 100_000), dice.choice(("EUR", "USD", "GBP")), {})
    (outcome,) = dice.choices(_OUTCOMES, _SHARES)
    return Sample(
        decision_id=f"dec_d1{number:024d}",
        attempt_index=0,
        merchant_id="mer_d1" + "m" * 24,
        livemode=True,
        processor_account_id=account,
        processor=processor,
        outcome=outcome,
        several_rails=True,
        context=describe(charge, datetime.fromtimestamp(decided_at, UTC)),
        decided_at=decided_at,
        at=decided_at + dice.random() * 30,
    )


def main(arguments: list[str]) -> None:
    """Prints the figures as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args(arguments)
    configure_logging("proof", "WARNING", "")
    print(json.dumps(figures(wanted.rows, wanted.seed)))


if __name__ == "__main__":
    main(sys.argv[1:])
