"""Part of `make bench-fraud`: the fraud service's own process, asked over gRPC as its sidecar asks.

Everything is on: features, model, reasons, decision, and the durable write before each answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import grpc
import uvloop

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.type.v1.money_pb2 import Money
from smartpay_bench.cpu import cpu_microseconds
from smartpay_chassis.testing import DEMO_MERCHANT, as_merchant

CALLERS = 4
"""Calls under way at once, of every form alike: four full batches fit into the queue."""
BATCHES = (8, 32, 128)
ROUNDS = 3
ROUND_SECONDS = 4.0
STEADY_SECONDS = 10.0
START_SECONDS = 60.0
CUSTOMERS = 5_000


def requests() -> Iterator[fraud_pb2.ScoreRequest]:
    """Payments of so many customers in turn, each with a card and a device of its own."""
    run = os.getpid()
    for number in itertools.count():
        payer = number * 7_919 % CUSTOMERS
        yield fraud_pb2.ScoreRequest(
            transaction_id=f"b{run}-{number}",
            amount=Money(minor_units=1_000 + payer % 9_000, currency_code="USD"),
            customer_id=f"customer-{payer}",
            instrument_fingerprint=f"card-{payer}",
            device_id=f"device-{payer}",
            ip_address=f"198.51.{payer % 100}.{payer % 250}",
        )


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[fraud_pb2_grpc.FraudServiceAsyncStub, int]]:
    """Starts the service and waits until it scores; ends it afterwards."""
    with tempfile.TemporaryDirectory(prefix="sp-") as name:
        folder = Path(name)
        socket = folder / "fraud.sock"
        (folder / "merchants.json").write_text(
            json.dumps({"merchants": [DEMO_MERCHANT.model_dump(mode="json")]})
        )
        service = subprocess.Popen(
            [sys.executable, "-m", "smartpay_fraud"],
            env={
                **os.environ,
                "SMARTPAY_LISTEN_SOCKET": str(socket),
                "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
                "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
                "FRAUD_STORE_PATH": str(folder / "fraud.sqlite"),
                "LOG_LEVEL": "ERROR",
            },
            stdout=subprocess.DEVNULL,
        )
        try:
            async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                await asyncio.wait_for(channel.channel_ready(), START_SECONDS)
                yield fraud_pb2_grpc.FraudServiceStub(channel), service.pid
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(30)


async def closed_loop(call: Callable[[], Awaitable[int]], seconds: float) -> float:
    """Rows a second with CALLERS that each ask again once they are answered."""
    rows, end = 0, time.monotonic() + seconds

    async def caller() -> None:
        nonlocal rows
        while time.monotonic() < end:
            answered = await call()  # first: `+=` would read the sum before the wait
            rows += answered

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return rows / (time.monotonic() - start)


async def open_loop(call: Callable[[], Awaitable[int]], rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each call was due, whether or not those before it have ended."""
    taken: list[float] = []

    async def one(due: float) -> None:
        await call()
        taken.append((time.monotonic() - due) * 1_000)

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(one(due))
    return sorted(taken)


async def measure() -> dict[str, float]:
    """All forms in turn, then a steady half of what unary calls reached."""
    source, metadata = requests(), as_merchant()
    async with running() as (stub, pid):

        async def unary() -> int:
            await stub.Score(next(source), metadata=metadata)
            return 1

        def batched(size: int) -> Callable[[], Awaitable[int]]:
            async def call() -> int:
                batch = fraud_pb2.ScoreBatchRequest(transactions=itertools.islice(source, size))
                await stub.ScoreBatch(batch, metadata=metadata)
                return size

            return call

        forms = {"unary": unary, **{f"batch {size}": batched(size) for size in BATCHES}}
        for form in forms.values():
            await closed_loop(form, 1.0)
        rates: dict[str, list[float]] = {name: [] for name in forms}
        costs: dict[str, list[float]] = {name: [] for name in forms}
        for _ in range(ROUNDS):
            for name, form in forms.items():
                before = cpu_microseconds({"fraud": pid})["fraud"]
                rate = await closed_loop(form, ROUND_SECONDS)
                spent = cpu_microseconds({"fraud": pid})["fraud"] - before
                rates[name].append(rate)
                costs[name].append(spent / (rate * ROUND_SECONDS))
                sys.stderr.write(f"{name}: {rate:.0f} rows/s, {costs[name][-1]:.0f} us CPU a row\n")
        half = statistics.median(rates["unary"]) / 2
        taken = await open_loop(unary, half, STEADY_SECONDS)
    told = {
        "server_callers": CALLERS,
        "server_unary_rate": statistics.median(rates["unary"]),
        "server_unary_cpu_us": statistics.median(costs["unary"]),
        "server_half_rate": half,
        "server_p50_ms": taken[len(taken) // 2],
        "server_p99_ms": taken[len(taken) * 99 // 100],
    }
    for size in BATCHES:
        name = f"batch {size}"
        ratio = statistics.median(
            ours / single for ours, single in zip(rates[name], rates["unary"], strict=True)
        )
        told[f"scorebatch_{size}_rate"] = statistics.median(rates[name])
        told[f"scorebatch_{size}_cpu_us"] = statistics.median(costs[name])
        told["scorebatch_vs_unary" if size == 32 else f"scorebatch_{size}_vs_unary"] = ratio
    return told


def main() -> None:
    """Measures and prints one JSON object."""
    print(json.dumps(uvloop.run(measure())))


if __name__ == "__main__":
    main()
