"""Part of `make bench-router`: RouterService.Decide in the service's own process, over gRPC.

Everything is on: identity, access rule, contract check, ranking by a learner that has learned, and
the durable decision before each answer. h2load asks over the service's Unix socket as its sidecar
does, without TLS, on the same two cores. The published peak beside which the figures stand, 835
calls a second for a pod of two CPUs, is of juspay/decision-engine on another machine
(docs/benchmarks.mdx of that project): a scale, not a rival of this run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import uvloop

from smartpay.router.v1 import router_pb2, router_pb2_grpc
from smartpay.type.v1.instrument_pb2 import Instrument, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_bench.cpu import cpu_microseconds
from smartpay_bench.h2load import Load, LoadError, require_h2load, run_load
from smartpay_bench.one_call import framed
from smartpay_chassis.merchants import Fee, ProcessorAccount
from smartpay_chassis.testing import DEMO_MERCHANT, as_merchant, write_merchants

IN_FLIGHT = (1, 8, 16)
ROUNDS, ROUND_SECONDS = 3, 5
OUTCOMES = 300
"""Learned before anything is timed: an account never tried would cost less to estimate."""

PUBLISHED_RATE = 835.0
START_SECONDS = 60.0
ACCOUNTS = {f"pac_d1{letter * 24}": 0.95 - place / 20 for place, letter in enumerate("abe")}
"""Three arms, as in the simulated worlds, and how often each succeeds."""

METHOD = "/smartpay.router.v1.RouterService/Decide"
REQUEST = router_pb2.DecideRequest(
    amount=Money(minor_units=4_999, currency_code="USD"),
    instrument=Instrument(
        tokens=[ProcessorToken(processor_account_id=each, token="pm_card") for each in ACCOUNTS]
    ),
    risk=0.02,
)
_SIZE_VARIES = 0.25  # numbers that are 0 take no bytes; a refusal has none at all


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[Path, int]]:
    """Starts the service and lets it learn; answers its socket and process; ends it afterwards."""
    with tempfile.TemporaryDirectory(prefix="sp-") as name:
        folder = Path(name)
        socket = folder / "router.sock"
        accounts = tuple(
            ProcessorAccount(
                processor_account_id=account,
                processor="stripe",
                name=account[6:7],
                fees={"USD": Fee(basis_points=290 + 10 * place, fixed_minor_units=30)},
            )
            for place, account in enumerate(ACCOUNTS)
        )
        merchant = DEMO_MERCHANT.model_copy(update={"processor_accounts": accounts})
        service = subprocess.Popen(
            [sys.executable, "-m", "smartpay_router"],
            env={
                **os.environ,
                "SMARTPAY_LISTEN_SOCKET": str(socket),
                "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
                "SMARTPAY_MERCHANTS_FILE": str(
                    write_merchants(folder / "merchants.json", [merchant])
                ),
                "ROUTER_STORE_PATH": str(folder / "router.sqlite"),
                "LOG_LEVEL": "ERROR",
            },
            stdout=subprocess.DEVNULL,
        )
        try:
            async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                await asyncio.wait_for(channel.channel_ready(), START_SECONDS)
                await _teach(router_pb2_grpc.RouterServiceStub(channel))
            yield socket, service.pid
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(30)


async def _teach(stub: router_pb2_grpc.RouterServiceAsyncStub) -> None:
    dice, metadata = random.Random(1), as_merchant()
    for _ in range(OUTCOMES):
        decision = (await stub.Decide(REQUEST, metadata=metadata)).decision
        first = decision.ranking[0].processor_account_id
        good = dice.random() < ACCOUNTS[first]
        await stub.RecordOutcome(
            router_pb2.RecordOutcomeRequest(
                decision_id=decision.decision_id,
                processor_account_id=first,
                outcome=router_pb2.OUTCOME_SUCCEEDED if good else router_pb2.OUTCOME_DECLINED,
            ),
            metadata=metadata,
        )


async def _answer_bytes(socket: Path) -> int:
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        answer = await stub.Decide(REQUEST, metadata=as_merchant())
        return len(framed(answer.SerializeToString()))


def _load(socket: Path, body: Path, in_flight: int, answer_bytes: int, seconds: int) -> Load:
    headers = [("content-type", "application/grpc"), ("te", "trailers"), *as_merchant()]
    arguments = ["-c1", f"-m{in_flight}", "-p", "h2c", "-d", str(body), "-B", f"unix:{socket}"]
    for name, value in headers:
        arguments += ["-H", f"{name}: {value}"]
    called = (*arguments, f"http://router{METHOD}")
    return run_load(called, seconds, answer_bytes, varies=_SIZE_VARIES)


async def measure(rounds: int, seconds: int) -> dict[str, float]:
    """Loads the service with each number of calls in flight in turn; medians of the rounds."""
    loads: dict[int, list[Load]] = {many: [] for many in IN_FLIGHT}
    costs: dict[int, list[float]] = {many: [] for many in IN_FLIGHT}
    async with running() as (socket, pid):
        body = socket.parent / "request"
        body.write_bytes(framed(REQUEST.SerializeToString()))
        size = await _answer_bytes(socket)
        await asyncio.to_thread(_load, socket, body, 8, size, 1)
        for _ in range(rounds):
            for many in IN_FLIGHT:
                before = cpu_microseconds({"router": pid})["router"]
                load = await asyncio.to_thread(_load, socket, body, many, size, seconds)
                spent = cpu_microseconds({"router": pid})["router"] - before
                loads[many].append(load)
                costs[many].append(spent / load.calls)
                sys.stderr.write(f"{many}: {load.rate:.0f}/s, {costs[many][-1]:.0f} us CPU each\n")
    told = {"service_answer_bytes": float(size)}
    for many in IN_FLIGHT:
        told |= {
            f"service_rate_{many}": statistics.median(load.rate for load in loads[many]),
            f"service_p50_ms_{many}": statistics.median(load.p50_ms for load in loads[many]),
            f"service_p99_ms_{many}": statistics.median(load.p99_ms for load in loads[many]),
            f"service_cpu_us_{many}": statistics.median(costs[many]),
        }
    told["service_rate_vs_published"] = told["service_rate_8"] / PUBLISHED_RATE
    return told


def main() -> None:
    """Measures and prints one JSON object; ends with 1 and no figures when a call failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=ROUND_SECONDS)
    chosen = parser.parse_args()
    try:
        require_h2load()
        print(json.dumps(uvloop.run(measure(chosen.rounds, chosen.seconds))))
    except LoadError as error:
        sys.exit(f"router_service: {error}")


if __name__ == "__main__":
    main()
