"""The whole service as a process, killed without warning."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent
from smartpay.router.v1 import router_pb2
from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay.type.v1.instrument_pb2 import Instrument, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    as_merchant,
    as_service,
    write_merchants,
)

if TYPE_CHECKING:
    from smartpay.router.v1.router_pb2_grpc import RouterServiceAsyncStub

PAYMENT = "pay_d1" + "p" * 24
START_SECONDS_MAX = 60  # a machine that is busy with other tests imports SciPy slowly
CHARGE = router_pb2.DecideRequest(
    amount=Money(minor_units=2500, currency_code="USD"),
    instrument=Instrument(
        tokens=[ProcessorToken(processor_account_id=a, token="pm_card") for a in DEMO_ACCOUNTS]
    ),
)


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path may have some 100 characters, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="sp") as name:
        write_merchants(Path(name) / "merchants.json")
        yield Path(name)


@contextlib.asynccontextmanager
async def payments(socket: Path, log: list[PaymentEvent]) -> AsyncIterator[None]:
    """Serves payments' Watch where the sidecar's egress would be."""

    class Payments(payments_pb2_grpc.PaymentsServiceServicer):
        async def Watch(
            self, request: payments_pb2.WatchRequest, context: object
        ) -> AsyncIterator[payments_pb2.WatchResponse]:
            start = int(request.cursor or 0)
            for number, event in enumerate(log[start:], start=start + 1):
                yield payments_pb2.WatchResponse(event=event, cursor=str(number))

    server = grpc.aio.server()
    payments_pb2_grpc.add_PaymentsServiceServicer_to_server(Payments(), server)  # type: ignore[abstract]
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    yield
    await server.stop(None)


@contextlib.asynccontextmanager
async def router(folder: Path) -> AsyncIterator[RouterServiceAsyncStub]:
    """Runs the service and kills it at the end, so that it can't tidy up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "smartpay_router",
        env={
            **os.environ,
            "SMARTPAY_LISTEN_SOCKET": str(folder / "router.sock"),
            "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
            "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
            "ROUTER_STORE_PATH": str(folder / "router.db"),
            "ROUTER_EPSILON": "0",
        },
    )
    try:
        async with grpc.aio.insecure_channel(
            f"unix:{folder / 'router.sock'}",
            options=[
                ("grpc.default_authority", "test"),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        ) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_SECONDS_MAX)
            yield RouterServiceStub(channel)
    finally:
        process.kill()
        await process.wait()


async def learned(stub: RouterServiceAsyncStub, count: int) -> router_pb2.Decision:
    """Asks until so many outcomes are learned; answers the first decision made then."""
    async with asyncio.timeout(START_SECONDS_MAX):
        while True:
            decision = (await stub.Decide(CHARGE, metadata=as_merchant())).decision
            if decision.policy_version == f"river-linucb-{count}":
                return decision
            await asyncio.sleep(0.05)


async def test_what_was_learned_and_decided_survives_kill_9(folder: Path) -> None:
    log: list[PaymentEvent] = []
    request = router_pb2.DecideRequest()
    request.CopyFrom(CHARGE)
    request.payment_id = PAYMENT
    async with payments(folder / "egress.sock", log):
        async with router(folder) as stub:
            paid = (await stub.Decide(request, metadata=as_service("payments"))).decision
            first = paid.ranking[0].processor_account_id
            log.append(
                PaymentEvent(
                    merchant_id=DEMO_MERCHANT.merchant_id,
                    payment=Payment(
                        route=paid,
                        attempts=[
                            Attempt(processor_account_id=first, status=Attempt.STATUS_DECLINED)
                        ],
                    ),
                )
            )
            followed = await learned(stub, 1)
            await stub.RecordOutcome(
                router_pb2.RecordOutcomeRequest(
                    decision_id=followed.decision_id,
                    processor_account_id=first,
                    outcome=router_pb2.OUTCOME_TECHNICAL_FAILURE,
                ),
                metadata=as_merchant(),
            )
            before = await learned(stub, 2)
        async with router(folder) as stub:
            after = await learned(stub, 2)
            repeated = (await stub.Decide(request, metadata=as_service("payments"))).decision

    assert repeated == paid
    assert [r.processor_account_id for r in after.ranking] == [
        r.processor_account_id for r in before.ranking
    ]
    # The hour moved on by the restart's seconds; what was learned is the same to the last bit,
    # as test_sqlite_decisions shows with a clock that stands.
    assert after.ranking[-1].expected_success == pytest.approx(
        before.ranking[-1].expected_success, abs=1e-4
    )
    assert first == after.ranking[-1].processor_account_id
