"""The whole service as a process, killed without warning."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent
from smartpay.router.v1 import router_pb2
from smartpay.router.v1.evidence_pb2 import AccountStatus, GetRoutingStatusRequest
from smartpay.router.v1.evidence_pb2_grpc import RoutingEvidenceServiceStub
from smartpay.router.v1.policies_pb2 import RoutingPolicyTerms, UpdateRoutingPolicyRequest
from smartpay.router.v1.policies_pb2_grpc import RoutingPoliciesServiceStub
from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay.type.v1.instrument_pb2 import Instrument, Processor, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    as_merchant,
    as_service,
    write_merchants,
)

FIRST, SECOND = DEMO_ACCOUNTS
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
async def router(
    folder: Path, name: str = "one", **settings: str
) -> AsyncIterator[grpc.aio.Channel]:
    """Runs the service and kills it at the end, so that it can't tidy up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "smartpay_router",
        env={
            **os.environ,
            "SMARTPAY_LISTEN_SOCKET": str(folder / f"{name}.sock"),
            "ROUTER_REPLICA_NAME": name,
            "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
            "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
            "ROUTER_STORE_PATH": str(folder / "router.db"),
            "ROUTER_EPSILON": "0",
            **settings,
        },
    )
    try:
        async with grpc.aio.insecure_channel(
            f"unix:{folder / name}.sock",
            options=[
                ("grpc.default_authority", "test"),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        ) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_SECONDS_MAX)
            yield channel
    finally:
        process.kill()
        await process.wait()


async def learned(channel: grpc.aio.Channel, count: int) -> AccountStatus:
    """Asks until so many outcomes of the first account are learned; answers what is known of it."""
    evidence = RoutingEvidenceServiceStub(channel)
    async with asyncio.timeout(START_SECONDS_MAX):
        while True:
            told = await evidence.GetRoutingStatus(
                GetRoutingStatusRequest(), metadata=as_merchant()
            )
            [account] = [a for a in told.status.accounts if a.processor_account_id == FIRST]
            if account.outcomes == count:
                return account
            await asyncio.sleep(0.05)


async def test_what_was_learned_decided_and_ruled_survives_kill_9(folder: Path) -> None:
    log: list[PaymentEvent] = []
    request = router_pb2.DecideRequest()
    request.CopyFrom(CHARGE)
    request.payment_id = PAYMENT
    async with payments(folder / "egress.sock", log):
        async with router(folder) as channel:
            stub = RouterServiceStub(channel)
            paid = (await stub.Decide(request, metadata=as_service("payments"))).decision
            assert paid.ranking[0].processor_account_id == FIRST
            declined = Attempt(
                processor_account_id=FIRST,
                processor=Processor.PROCESSOR_STRIPE,
                status=Attempt.STATUS_DECLINED,
            )
            log.append(
                PaymentEvent(
                    merchant_id=DEMO_MERCHANT.merchant_id,
                    time=paid.create_time,
                    payment=Payment(route=paid, attempts=[declined]),
                )
            )
            await learned(channel, 1)
            followed = (await stub.Decide(CHARGE, metadata=as_merchant())).decision
            await stub.RecordOutcome(
                router_pb2.RecordOutcomeRequest(
                    decision_id=followed.decision_id,
                    processor_account_id=FIRST,
                    outcome=router_pb2.OUTCOME_DECLINED,
                ),
                metadata=as_merchant(),
            )
            before = await learned(channel, 2)
            policies = RoutingPoliciesServiceStub(channel)
            await policies.UpdateRoutingPolicy(
                UpdateRoutingPolicyRequest(
                    etag='"1"',
                    terms=RoutingPolicyTerms(
                        mode=RoutingPolicyTerms.MODE_STATIC, static_order=[SECOND]
                    ),
                ),
                metadata=as_merchant(),
            )
        async with router(folder) as channel:
            after = await learned(channel, 2)
            stub = RouterServiceStub(channel)
            repeated = (await stub.Decide(request, metadata=as_service("payments"))).decision
            ruled = (await stub.Decide(CHARGE, metadata=as_merchant())).decision

    assert repeated == paid
    assert after.effective_outcomes == pytest.approx(before.effective_outcomes, rel=1e-3)
    assert ruled.ranking[0].processor_account_id == SECOND
    assert ruled.served_by == router_pb2.Decision.SERVED_BY_STATIC


async def test_rivers_learner_serves_when_the_settings_name_it(folder: Path) -> None:
    async with (
        payments(folder / "egress.sock", []),
        router(folder, ROUTER_POLICY="river") as channel,
    ):
        decision = (
            await RouterServiceStub(channel).Decide(CHARGE, metadata=as_merchant())
        ).decision
    assert decision.policy_version.startswith("river")
    assert len(decision.ranking) == 2


async def test_a_kill_switch_thrown_at_one_replica_holds_at_the_other(folder: Path) -> None:
    async with (
        payments(folder / "egress.sock", []),
        router(folder, "one") as one,
        router(folder, "two") as two,
    ):
        before = (await RouterServiceStub(two).Decide(CHARGE, metadata=as_merchant())).decision
        assert before.served_by == router_pb2.Decision.SERVED_BY_LIVE
        terms = RoutingPolicyTerms(mode=RoutingPolicyTerms.MODE_LIVE, kill_switch=True)
        await RoutingPoliciesServiceStub(one).UpdateRoutingPolicy(
            UpdateRoutingPolicyRequest(etag='"1"', terms=terms), metadata=as_merchant()
        )
        async with asyncio.timeout(START_SECONDS_MAX):
            while True:
                stub = RouterServiceStub(two)
                after = (await stub.Decide(CHARGE, metadata=as_merchant())).decision
                if after.routing_policy_version == 2:
                    break
                await asyncio.sleep(0.05)
    assert after.served_by == router_pb2.Decision.SERVED_BY_KILL_SWITCH
