"""The whole service as a process, with its neighbours behind the egress socket."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
from smartpay.router.v1 import router_pb2, router_pb2_grpc
from smartpay_chassis.interceptors import status_of
from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_chassis.testing import DEMO_ACCOUNTS, as_merchant, error_info, write_merchants
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

FIRST, SECOND = DEMO_ACCOUNTS
P = payment_pb2.Payment
START_SECONDS_MAX = 60  # a machine that is busy with other tests starts slowly


class Neighbours(
    fraud_pb2_grpc.FraudServiceServicer,
    router_pb2_grpc.RouterServiceServicer,
):
    """Fraud and the router; rewards is always away."""

    def __init__(self) -> None:
        self.verdict = fraud_pb2.Assessment.VERDICT_ALLOW
        self.decide_refuses: Refusal | None = None
        self.score_refuses: Refusal | None = None
        self.decided: list[router_pb2.DecideRequest] = []

    async def Score(self, request: Any, context: Any) -> fraud_pb2.ScoreResponse:
        await refuse(self.score_refuses, context)
        assessment = fraud_pb2.Assessment(
            transaction_id=request.transaction_id,
            verdict=self.verdict,
            score=0.25,
            reasons=[fraud_pb2.Reason(code="VELOCITY_DEVICE")],
        )
        return fraud_pb2.ScoreResponse(assessment=assessment)

    async def Decide(self, request: Any, context: Any) -> router_pb2.DecideResponse:
        self.decided.append(request)
        await refuse(self.decide_refuses, context)
        ranking = [router_pb2.RankedAccount(processor_account_id=a) for a in (SECOND, FIRST)]
        decision = router_pb2.Decision(decision_id="dec_d1" + "x" * 24, ranking=ranking)
        return router_pb2.DecideResponse(decision=decision)


async def refuse(refusal: Refusal | None, context: Any) -> None:
    """Refuses as the chassis would."""
    if refusal is not None:
        status = rpc_status.to_status(status_of(refusal))
        await context.abort(status.code, status.details, trailing_metadata=status.trailing_metadata)


class Street:
    """The sandbox, the neighbours, and the service that can be started and killed."""

    def __init__(self, folder: Path, sandbox: StripeSandbox) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.neighbours = Neighbours()  # type: ignore[abstract]
        secrets = {
            "SMARTPAY_LISTEN_SOCKET": "listen",
            "SMARTPAY_EGRESS_SOCKET": "egress",
            "SMARTPAY_MERCHANTS_FILE": "merchants.json",
            "PAYMENTS_STORE_PATH": "payments.db",
        }
        self.environment = {
            **os.environ,
            **{name: str(folder / file) for name, file in secrets.items()},
            "STRIPE_SECRET_KEY": "sk_test_first",
            "STRIPE_API_BASE": sandbox.stripe_url,
        }

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "smartpay_payments", env=self.environment
        )
        self.channel = grpc.aio.insecure_channel(
            f"unix:{self.folder / 'listen'}", options=[("grpc.default_authority", "test")]
        )
        self.stub = payments_pb2_grpc.PaymentsServiceStub(self.channel)

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()
        await self.channel.close()

    async def pay(self, key: str, **changes: Any) -> payment_pb2.Payment:
        tokens = [{"processor_account_id": a, "token": "pm_card_visa"} for a in DEMO_ACCOUNTS]
        request = payments_pb2.CreatePaymentRequest(
            **{
                "amount": {"minor_units": 1999, "currency_code": "USD"},
                "instrument": {"tokens": tokens},
                "capture_method": payment_pb2.CAPTURE_METHOD_AUTOMATIC,
                **changes,
            }
        )
        response = await self.stub.CreatePayment(
            request,
            metadata=as_merchant(idempotency_key=key),
            wait_for_ready=True,
            timeout=START_SECONDS_MAX,
        )
        return response.payment

    async def list(self) -> list[payment_pb2.Payment]:
        response = await self.stub.ListPayments(
            payments_pb2.ListPaymentsRequest(),
            metadata=as_merchant(),
            wait_for_ready=True,
            timeout=START_SECONDS_MAX,
        )
        return list(response.payments)


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    # A Unix socket's path may have some 100 characters, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="sp") as name:
        folder = Path(name)
        write_merchants(folder / "merchants.json")
        async with stripe_sandbox(folder) as sandbox:
            street = Street(folder, sandbox)
            async with neighbours(street):
                await street.start()
                yield street
                if street.process.returncode is None:
                    await street.kill()


@asynccontextmanager
async def neighbours(street: Street) -> AsyncIterator[None]:
    server = grpc.aio.server()
    fraud_pb2_grpc.add_FraudServiceServicer_to_server(street.neighbours, server)
    router_pb2_grpc.add_RouterServiceServicer_to_server(street.neighbours, server)
    server.add_insecure_port(f"unix:{street.folder / 'egress'}")
    await server.start()
    yield
    await server.stop(None)


async def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error_info(error.value)


async def test_a_payment_goes_through_its_neighbours_and_the_process_ends_clean(
    street: Street,
) -> None:
    paid = await street.pay("paid", device_id="device", country="DE", off_session=True)
    assert paid.status == P.STATUS_SUCCEEDED
    assert [a.processor_account_id for a in paid.attempts] == [SECOND], "as the router ranked"
    assert paid.fraud.transaction_id == paid.payment_id
    assert paid.route.decision_id == "dec_d1" + "x" * 24
    (asked,) = street.neighbours.decided
    assert (asked.payment_id, asked.risk) == (paid.payment_id, 0.25)
    assert (asked.country, asked.off_session) == ("DE", True)

    street.neighbours.verdict = fraud_pb2.Assessment.VERDICT_BLOCK
    blocked = await street.pay("blocked")
    assert (blocked.status, blocked.status_reason) == (P.STATUS_BLOCKED, "VELOCITY_DEVICE")

    street.neighbours.verdict = fraud_pb2.Assessment.VERDICT_ALLOW
    street.neighbours.decide_refuses = Refusal(
        Kind.FAILED_PRECONDITION, "DECISION_EXPIRED", "It expired.", remedy="Ask again."
    )
    expired = await refused(street.pay("expired", decision_id="dec_d1" + "y" * 24))
    assert (expired["reason"], expired["cause"]) == ("DECISION_REFUSED", "DECISION_EXPIRED")
    away = Refusal(Kind.UNAVAILABLE, "UNAVAILABLE", "Away.", remedy="Wait.")
    street.neighbours.decide_refuses = away
    unchecked = await refused(street.pay("unchecked", decision_id="dec_d1" + "y" * 24))
    assert (unchecked["reason"], unchecked["cause"]) == ("DECISION_REFUSED", "DECISION_UNCHECKED")
    static = await street.pay("static")
    assert [a.processor_account_id for a in static.attempts] == [FIRST]
    assert not static.HasField("route")

    street.neighbours.score_refuses = away
    closed = await street.pay("closed")
    assert (closed.status, closed.status_reason) == (P.STATUS_BLOCKED, "fraud_unavailable")
    street.neighbours.score_refuses = idempotency_key_reused()
    assert (await refused(street.pay("reused")))["reason"] == "IDEMPOTENCY_KEY_REUSED"
    assert len(await street.list()) == 4

    street.process.terminate()
    assert await street.process.wait() == 0
    await street.channel.close()


async def test_a_process_killed_amid_a_charge_finds_it_when_it_comes_back(street: Street) -> None:
    await street.pay("warm")
    street.sandbox.simulator.set_faults(
        [{"kind": "slow", "delay_ms": 60_000, "times": 1, "method": "POST"}]
    )
    caller = asyncio.ensure_future(street.pay("killed"))
    while len(street.sandbox.account()["idempotency_keys"]) < 2:
        await asyncio.sleep(0.01)
    await street.kill()
    (lost,) = await asyncio.gather(caller, return_exceptions=True)
    assert isinstance(lost, grpc.aio.AioRpcError | asyncio.CancelledError)
    street.sandbox.clock.advance(60)

    await street.start()

    found = await street.list()
    while any(p.status != P.STATUS_SUCCEEDED for p in found):
        await asyncio.sleep(0.05)
        found = await street.list()
    assert len(found) == 2
    assert len(street.sandbox.account()["charges"]) == 2
    again = await street.pay("killed")
    assert again.status == P.STATUS_SUCCEEDED
    assert len(street.sandbox.account()["charges"]) == 2
