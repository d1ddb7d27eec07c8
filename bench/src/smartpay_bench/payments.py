"""`make bench-payments`: what the durable saga costs, against the bare call and other stores.

Three measurements in one run, their rivals interleaved: the saga with its two commits against the
same call of the same SDK without anything around it; what it adds to one payment at a steady 50 a
second; and the store's group commit against an fsync per transaction and PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import stripe
import uvloop

from smartpay_bench.cpu import cpu_microseconds, machine_microseconds
from smartpay_bench.postgres import PostgresError, postgres_rate
from smartpay_bench.stores import group_commit_rate, single_commit_rate
from smartpay_chassis.ids import derive
from smartpay_chassis.server import spare_the_collector
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.commands import Commands
from smartpay_payments.domain.eligibility import Account, MerchantTerms
from smartpay_payments.domain.patience import Patience
from smartpay_payments.domain.payment import (
    CaptureMethod,
    FraudOpinion,
    Money,
    Order,
    Payment,
    RouteAdvice,
    Status,
)
from smartpay_payments.domain.saga import Saga
from smartpay_payments.domain.silence import Silence
from smartpay_payments.domain.versions import Versions

CALLERS = (1, 16, 64)
ROUNDS = 5
ROUND_SECONDS = 3.0
STEADY_RATE = 50
"""Payments a second, one after the other is due whether or not the last has ended."""
STEADY_SECONDS = 2.5
"""Short, and many in turn: what keeps a machine busy comes and goes within seconds."""
STEADY_ROUNDS = 12
TARGETS = {"saga_ratio_64": 0.6}
LIMITS = {"added_p50_ms": 10.0, "added_p99_ms": 40.0}
ACCOUNT = "pac_d1" + "a" * 24
MERCHANT = "mer_d1" + "m" * 24
SECRET_KEY = "sk_test_bench"
TERMS = MerchantTerms(
    accounts=(Account(ACCOUNT, "stripe", frozenset({"USD"}), True),),
    blocks_when_fraud_is_away=True,
    blocks_what_needs_review=False,
)


class Advisors:
    """Fraud and router that answer at once, so that only the saga is measured."""

    async def assess(self, payment: Payment) -> FraudOpinion | None:
        """Allows everything."""
        return FraudOpinion("ALLOW", 0.1, "", b"")

    async def rank(self, payment: Payment) -> RouteAdvice | None:
        """Names the only account."""
        return RouteAdvice("dec", (ACCOUNT,), b"")


def now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


@dataclass
class Till:
    """Both ways to take a payment over one connection pool."""

    saga: Saga
    processor: StripeProcessor
    client: stripe.StripeClient
    numbers: itertools.count[int]
    sandbox_pid: int
    """The process that stands in for Stripe."""

    def draft(self) -> Payment:
        """Makes the next payment, in both ways the same."""
        order = Order(
            amount=Money(1999, "USD"),
            tokens={ACCOUNT: "pm_card_visa"},
            fingerprint="",
            capture_method=CaptureMethod.AUTOMATIC,
        )
        moment = now()
        return Payment(
            payment_id=derive("pay", "d1", str(next(self.numbers)), str(os.getpid())),
            merchant_id=MERCHANT,
            livemode=False,
            order=order,
            request_hash="hash",
            status=Status.PROCESSING,
            create_time=moment,
            update_time=moment,
        )

    async def by_saga(self) -> None:
        """Takes a payment with two commits, ledger and event."""
        payment = await self.saga.create(self.draft(), TERMS)
        if payment.status is not Status.SUCCEEDED:
            raise RuntimeError(f"a payment ended {payment.status}: {payment.status_reason}")

    async def bare(self) -> None:
        """Sends the same request by the same SDK and keeps nothing."""
        payment = self.draft()
        body = json.loads(self.processor.prepare(payment, ACCOUNT, 0))
        intent = await self.client.v1.payment_intents.create_async(
            params=body, options={"idempotency_key": f"{payment.payment_id}-0"}
        )
        if intent.status != "succeeded":
            raise RuntimeError(f"an intent ended {intent.status}")


@asynccontextmanager
async def running_till(folder: Path) -> AsyncIterator[Till]:
    """Starts the sandbox in a process of its own, and a till over a fresh store."""
    state = folder / "sandbox"
    port_file = folder / "port"
    accounts = folder / "accounts.json"
    accounts.write_text(json.dumps([{"id": "acct_bench", "secret_key": SECRET_KEY}]))
    sandbox = subprocess.Popen(
        [sys.executable, "-m", "smartpay_sandbox"],
        env={
            **os.environ,
            "SANDBOX_STATE_DIR": str(state),
            "SANDBOX_PORT": "0",
            "SANDBOX_PORT_FILE": str(port_file),
            "SANDBOX_STRIPE_ACCOUNTS": str(accounts),
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        while not port_file.exists():
            if sandbox.poll() is not None:
                raise RuntimeError("the sandbox did not start")
            await asyncio.sleep(0.05)
        api = f"http://127.0.0.1:{port_file.read_text()}/stripe"
        store = await SqliteStore.open(folder / "payments.db", MIGRATIONS)
        processor = StripeProcessor(
            {ACCOUNT: SECRET_KEY}, api, "https://bench.test/return", 30.0, now
        )
        versions = Versions(SqlitePayments(store), {"stripe": processor}, now, Patience(), derive)
        silence = Silence(now)
        advisors = Advisors()
        saga = Saga(versions, Commands(versions, silence), advisors, advisors, silence)
        yield Till(saga, processor, processor.clients[ACCOUNT], itertools.count(), sandbox.pid)
        await processor.close()
        await store.close()
    finally:
        sandbox.terminate()
        sandbox.wait()


async def rate(pay: Callable[[], Awaitable[None]], callers: int, seconds: float) -> float:
    """Answers payments a second with so many callers, each asking anew when answered."""
    done = 0
    ends = time.monotonic() + seconds

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < ends:
            await pay()
            done += 1

    started = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.monotonic() - started)


async def steady(pay: Callable[[], Awaitable[None]], seconds: float) -> list[float]:
    """Answers how long each payment took, in ms, begun at a fixed rate (open loop)."""
    took: list[float] = []

    async def one(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        # From the moment it was due: waiting for a busy service counts.
        await pay()
        took.append((time.monotonic() - due) * 1000)

    start = time.monotonic() + 0.1
    count = int(STEADY_RATE * seconds)
    await asyncio.gather(*(one(start + n / STEADY_RATE) for n in range(count)))
    return took


class Costs:
    """What payments cost in CPU time, which tells more than rates on a machine that is busy."""

    def __init__(self, sandbox_pid: int) -> None:
        self._processes = {"ours": os.getpid(), "sandbox": sandbox_pid}
        self._found: dict[str, list[tuple[float, float]]] = {}
        self._others: list[float] = []

    async def rate(self, pay: Callable[[], Awaitable[None]], callers: int, seconds: float) -> float:
        """Answers payments a second, as `rate` does, and notes what they cost."""
        before, machine = cpu_microseconds(self._processes), machine_microseconds()
        started = time.monotonic()
        found = await rate(pay, callers, seconds)
        took = time.monotonic() - started
        after = cpu_microseconds(self._processes)
        used = {name: after[name] - before[name] for name in after}
        made = found * took
        costs = self._found.setdefault(pay.__name__, [])
        costs.append((used["ours"] / made, used["sandbox"] / made))
        others = machine_microseconds() - machine - sum(used.values())
        self._others.append(others / took / 1_000_000)
        return found

    def said(self) -> dict[str, object]:
        """Answers the medians: microseconds per payment, and how many cores others kept busy."""
        ours, sandbox = (
            {way: statistics.median(c[which] for c in costs) for way, costs in self._found.items()}
            for which in (0, 1)
        )
        return {
            "saga_cpu_us": round(ours["by_saga"]),
            "bare_cpu_us": round(ours["bare"]),
            "sandbox_cpu_us": round(statistics.median(sandbox.values())),
            "others_cores": round(statistics.median(self._others), 2),
        }


async def measure(rounds: int, say: Callable[[str], None]) -> dict[str, object]:
    """Runs everything; answers the summary."""
    said: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="smartpay-bench-") as name:
        folder = Path(name)
        async with running_till(folder) as till:
            await rate(till.by_saga, 16, 1.0)
            await rate(till.bare, 16, 1.0)
            # As every service does once it has started; the bare call gains by it too.
            spare_the_collector()
            for callers in CALLERS:
                pairs = []
                costs = Costs(till.sandbox_pid)
                for number in range(rounds):
                    ways = [till.by_saga, till.bare]
                    found = {}
                    for pay in ways if number % 2 else ways[::-1]:
                        found[pay.__name__] = await costs.rate(pay, callers, ROUND_SECONDS)
                    pairs.append(found)
                    say(
                        f"{callers} callers: saga {found['by_saga']:.0f}/s,"
                        f" bare {found['bare']:.0f}/s"
                    )
                said[f"saga_ratio_{callers}"] = round(
                    statistics.median(p["by_saga"] / p["bare"] for p in pairs), 3
                )
                said[f"saga_rate_{callers}"] = round(statistics.median(p["by_saga"] for p in pairs))
            # Of the most callers: where CPU time is what is short.
            said |= costs.said()
            times: dict[str, list[float]] = {"by_saga": [], "bare": []}
            for number in range(STEADY_ROUNDS):
                ways = [till.by_saga, till.bare]
                for pay in ways if number % 2 else ways[::-1]:
                    times[pay.__name__] += await steady(pay, STEADY_SECONDS)
            for percent in (50, 99):
                ours, bare = (
                    statistics.quantiles(times[way], n=100)[percent - 1]
                    for way in ("by_saga", "bare")
                )
                said[f"added_p{percent}_ms"] = round(ours - bare, 2)
                said[f"saga_p{percent}_ms"] = round(ours, 2)
                say(f"p{percent} at {STEADY_RATE}/s: saga {ours:.1f} ms, bare {bare:.1f} ms")
        group, single, postgres = [], [], []
        for number in range(rounds):
            group.append(await group_commit_rate(folder / f"g{number}.db", ROUND_SECONDS))
            single.append(
                await asyncio.to_thread(single_commit_rate, folder / f"s{number}.db", ROUND_SECONDS)
            )
            postgres.append(await asyncio.to_thread(postgres_rate, ROUND_SECONDS))
            say(
                f"store: group commit {group[-1]:.0f}/s, an fsync each {single[-1]:.0f}/s,"
                f" PostgreSQL {postgres[-1]:.0f}/s"
            )
    said["group_commit_ratio"] = round(
        statistics.median(g / s for g, s in zip(group, single, strict=True)), 2
    )
    said["postgres_ratio"] = round(
        statistics.median(g / p for g, p in zip(group, postgres, strict=True)), 2
    )
    said["missed"] = [
        *(name for name, least in TARGETS.items() if float(str(said[name])) < least),
        *(name for name, most in LIMITS.items() if float(str(said[name])) > most),
    ]
    said["cores"] = os.cpu_count()
    return said


def main() -> None:
    """Runs the bench; ends with 1 and no figures when anything failed."""
    parser = argparse.ArgumentParser(prog="make bench-payments", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    try:
        said = uvloop.run(measure(chosen.rounds, lambda line: print(line, flush=True)))
    except (PostgresError, RuntimeError) as error:
        sys.exit(f"bench-payments: {error}")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
