"""The whole service as a process, killed without warning."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from smartpay.assistant.v1.assistant_pb2 import AskRequest
from smartpay.assistant.v1.assistant_pb2_grpc import AssistantServiceStub
from smartpay.payments.v1.payment_pb2 import PaymentEvent
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.payments.v1.payments_pb2_grpc import (
    PaymentsServiceServicer,
    add_PaymentsServiceServicer_to_server,
)
from smartpay_assistant.testing import History, event_of
from smartpay_chassis.testing import as_merchant, write_merchants

if TYPE_CHECKING:
    from smartpay.assistant.v1.assistant_pb2_grpc import AssistantServiceAsyncStub

START_SECONDS_MAX = 60  # a machine that is busy with other tests starts processes slowly


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path may have some 100 characters, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="sp") as name:
        write_merchants(Path(name) / "merchants.json")
        yield Path(name)


class Log(PaymentsServiceServicer):
    """Serves payments' Watch where the sidecar's egress would be."""

    def __init__(self, events: list[PaymentEvent]) -> None:
        self.events = events

    async def Watch(
        self, request: WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[WatchResponse]:
        start = int(request.cursor or 0)
        for number, event in enumerate(self.events[start:], start=start + 1):
            yield WatchResponse(event=event, cursor=str(number))
        yield WatchResponse(cursor=str(len(self.events)), caught_up=True)


@contextlib.asynccontextmanager
async def payments(socket: Path, events: list[PaymentEvent]) -> AsyncIterator[None]:
    server = grpc.aio.server()
    add_PaymentsServiceServicer_to_server(Log(events), server)  # type: ignore[abstract]
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    yield
    await server.stop(None)


@contextlib.asynccontextmanager
async def assistant(folder: Path) -> AsyncIterator[AssistantServiceAsyncStub]:
    """Runs the service and kills it at the end, so that it can't tidy up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "smartpay_assistant",
        env={
            **os.environ,
            "SMARTPAY_LISTEN_SOCKET": str(folder / "assistant.sock"),
            "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
            "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
            "ASSISTANT_STORE_PATH": str(folder / "assistant.db"),
        },
    )
    try:
        async with grpc.aio.insecure_channel(
            f"unix:{folder / 'assistant.sock'}",
            options=[
                ("grpc.default_authority", "test"),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 200),
            ],
        ) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_SECONDS_MAX)
            yield AssistantServiceStub(channel)
    finally:
        process.kill()
        await process.wait()


async def answered(stub: AssistantServiceAsyncStub, question: str) -> str:
    """Asks until the index is ready."""
    async with asyncio.timeout(START_SECONDS_MAX):
        while True:
            try:
                request = AskRequest(message=question)
                return (await stub.Ask(request, metadata=as_merchant())).answer
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.05)


async def test_what_was_indexed_survives_kill_9_and_needs_no_payments_to_be_told(
    folder: Path,
) -> None:
    payment = History(1).payment("failed")
    question = f"why was {payment.payment_id} declined?"
    async with payments(folder / "egress.sock", [event_of(payment)]), assistant(folder) as stub:
        before = await answered(stub, question)
    async with assistant(folder) as stub:
        after = await answered(stub, question)

    assert payment.payment_id in before
    assert after == before
