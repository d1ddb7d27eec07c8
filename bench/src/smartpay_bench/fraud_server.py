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
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import uvloop

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.type.v1.money_pb2 import Money
from smartpay_bench.cpu import cpu_microseconds
from smartpay_bench.loops import Call, closed_loop, open_loop
from smartpay_chassis.testing import DEMO_MERCHANT, as_merchant

CALLERS = (1, 8, 64)
"""Calls under way at once, of both forms alike: nobody to wait with, a few, and the many that the
batchers are compared with."""
BATCH_ROWS = 32
OTHER_BATCHES = (8, 128)
"""Only with the few callers: they show how the ratio grows with the rows."""
FEW = 8
QUEUE_ROWS_MAX = 4_096
"""Twice what 64 callers bring with 32 rows each: a refused call is no answer."""
ROUNDS = 3
ROUND_SECONDS = 2.5
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
                "FRAUD_QUEUE_ROWS_MAX": str(QUEUE_ROWS_MAX),
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


async def measure() -> dict[str, float]:
    """All forms in turn, then a steady half of what unary calls reached."""
    source, metadata = requests(), as_merchant()
    async with running() as (stub, pid):

        async def unary() -> None:
            await stub.Score(next(source), metadata=metadata)

        def batched(size: int) -> Call:
            async def call() -> None:
                batch = fraud_pb2.ScoreBatchRequest(transactions=itertools.islice(source, size))
                await stub.ScoreBatch(batch, metadata=metadata)

            return call

        forms: dict[tuple[int, int], Call] = {}  # by rows of a call, and callers
        for callers in CALLERS:
            forms[1, callers] = unary
            forms[BATCH_ROWS, callers] = batched(BATCH_ROWS)
        forms |= {(rows, FEW): batched(rows) for rows in OTHER_BATCHES}
        for (rows, callers), form in forms.items():
            await closed_loop(form, callers, 0.5, rows=rows)
        rates: dict[tuple[int, int], list[float]] = {name: [] for name in forms}
        costs: dict[tuple[int, int], list[float]] = {name: [] for name in forms}
        for _ in range(ROUNDS):
            for name, form in forms.items():
                rows, callers = name
                before = cpu_microseconds({"fraud": pid})["fraud"]
                load = await closed_loop(form, callers, ROUND_SECONDS, rows=rows)
                spent = cpu_microseconds({"fraud": pid})["fraud"] - before
                rates[name].append(load.rate)
                costs[name].append(spent / (len(load.taken_ms) * rows))
                sys.stderr.write(
                    f"{rows} rows, {callers} callers: {load.rate:.0f} rows/s,"
                    f" {costs[name][-1]:.0f} us CPU a row\n"
                )
        half = statistics.median(rates[1, FEW]) / 2
        steady = await open_loop(unary, half, STEADY_SECONDS)
    told = {
        "server_half_rate": half,
        "server_p50_ms": steady.percentile_ms(50),
        "server_p99_ms": steady.percentile_ms(99),
    }
    for (rows, callers), found in rates.items():
        form_name = f"{'unary' if rows == 1 else f'scorebatch_{rows}'}_{callers}_callers"
        told[f"{form_name}_rate"] = statistics.median(found)
        told[f"{form_name}_cpu_us"] = statistics.median(costs[rows, callers])
        if rows > 1:
            told[f"{form_name}_vs_unary"] = statistics.median(
                ours / single for ours, single in zip(found, rates[1, callers], strict=True)
            )
    told["scorebatch_vs_unary"] = told[f"scorebatch_{BATCH_ROWS}_{CALLERS[-1]}_callers_vs_unary"]
    return told


def main() -> None:
    """Measures and prints one JSON object."""
    print(json.dumps(uvloop.run(measure())))


if __name__ == "__main__":
    main()
