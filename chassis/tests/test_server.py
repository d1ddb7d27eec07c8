"""A service's process, from the outside: how it starts, refuses to, drains and dies."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import tempfile
import weakref
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_chassis.server import COLLECT_EVERY_OBJECTS, spare_the_collector
from smartpay_chassis.testing import as_service, write_merchants

SERVICE = Path(__file__).with_name("slow_service.py")
PATIENCE_SECONDS = 60  # for a machine that is busy with other tests; decides nothing
GET = payments_pb2.GetPaymentRequest(payment_id="pay_d1" + "0" * 24)
HealthStub: Any = health_pb2_grpc.HealthStub  # its types leave out the methods
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def folder() -> Iterator[Path]:
    # A Unix socket's path may have some 100 characters, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="sp") as name:
        write_merchants(Path(name) / "merchants.json")
        yield Path(name)


@contextlib.asynccontextmanager
async def started(folder: Path, **variables: str) -> AsyncIterator[Process]:
    """Starts the service; kills it in the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        SERVICE,
        stderr=PIPE,
        env={
            **os.environ,
            "SMARTPAY_LISTEN_SOCKET": str(folder / "slow.sock"),
            "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
            "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
            "SLOW_FOLDER": str(folder),
            **variables,
        },
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: Process) -> tuple[int | None, str]:
    """Waits for the end; answers exit code and what was said."""
    _, said = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    return process.returncode, said.decode()


@contextlib.asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    """Connects once something listens."""
    async with grpc.aio.insecure_channel(
        f"unix:{folder / 'slow.sock'}",
        options=[
            ("grpc.default_authority", "test"),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 200),
        ],
    ) as channel:
        await asyncio.wait_for(channel.channel_ready(), PATIENCE_SECONDS)
        yield channel


async def health(channel: grpc.aio.Channel) -> int:
    answer = await HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return int(answer.status)


async def test_a_call_in_work_is_answered_before_the_process_stops(folder: Path) -> None:
    async with started(folder) as process, connected(folder) as channel:
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        states = aiter(watch)
        assert (await anext(states)).status == SERVING
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        call = stub.GetPayment(GET, metadata=as_service("rewards"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (folder / "called").exists():
                await asyncio.sleep(0.01)
        process.terminate()
        assert (await anext(states)).status == NOT_SERVING
        watch.cancel()
        assert not (folder / "closed").exists(), "nothing closes under a running call"
        (folder / "answer").touch()
        assert (await call).payment.payment_id == GET.payment_id
        code, said = await ended(process)
    assert code == 0
    assert (folder / "closed").exists()
    events = [json.loads(line) for line in said.splitlines()]
    assert [e["event"] for e in events] == ["serving", "call", "stopped"]
    assert {e["service"] for e in events} == {"slow"}


async def test_only_its_own_user_may_connect(folder: Path) -> None:
    async with started(folder), connected(folder):
        assert (folder / "slow.sock").stat().st_mode & 0o077 == 0


async def test_a_second_start_is_refused_until_the_first_is_gone(folder: Path) -> None:
    async with started(folder) as first, connected(folder) as channel:
        async with started(folder) as second:
            code, said = await ended(second)
        assert code == 1
        assert "another process serves slow already" in said
        assert await health(channel) == SERVING, "the first was not disturbed"
        first.kill()
        await ended(first)
    assert (folder / "slow.sock").exists(), "kill -9 leaves the socket behind"
    async with started(folder), connected(folder) as channel:
        assert await health(channel) == SERVING


async def test_background_work_that_fails_ends_the_process(folder: Path) -> None:
    async with started(folder, SLOW_FAILURE="background") as process:
        code, said = await ended(process)
    assert code == 1
    failed = next(e for e in map(json.loads, said.splitlines()) if e["level"] == "error")
    assert (failed["event"], failed["work"]) == ("background work failed", "demand")
    assert (folder / "closed").exists(), "what was opened is closed all the same"


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"SLOW_FOLDER": "", "SMARTPAY_DRAIN_SECONDS": "soon"}, "SLOW_FOLDER"),
        ({"SMARTPAY_DRAIN_SECONDS": "soon"}, "SMARTPAY_DRAIN_SECONDS"),
        ({"SMARTPAY_MERCHANTS_FILE": "absent.json"}, "SMARTPAY_MERCHANTS_FILE"),
        ({"SLOW_FAILURE": "build"}, "SLOW_FAILURE"),
    ],
    ids=["missing", "wrong", "no such file", "found late"],
)
async def test_wrong_settings_end_it_with_78_and_are_named(
    folder: Path, variables: dict[str, str], named: str
) -> None:
    async with started(folder, **variables) as process:
        code, said = await ended(process)
    assert code == os.EX_CONFIG
    assert named in said
    assert "Traceback" not in said
    assert not (folder / "slow.sock").exists()


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ('{"merchants": [{"merchant_id": "sk_live_oops"}]}', "merchants.0.merchant_id"),
        ('{"merchants": "sk_live_oops', "Invalid JSON"),
    ],
)
async def test_a_wrong_merchants_table_is_named_with_its_place(
    folder: Path, table: str, place: str
) -> None:
    (folder / "merchants.json").write_text(table)
    async with started(folder) as process:
        code, said = await ended(process)
    assert code == os.EX_CONFIG
    assert "SMARTPAY_MERCHANTS_FILE" in said
    assert place in said
    assert "sk_live_oops" not in said


@pytest.fixture
def collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


class Knot:
    """Holds itself, so that only the collector gets rid of it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.usefixtures("collector")
def test_what_the_start_made_is_looked_through_no_more_and_later_cycles_still_are() -> None:
    gc.unfreeze()
    spare_the_collector()
    assert gc.get_freeze_count() > 0
    first = weakref.ref(Knot())
    for _ in range(COLLECT_EVERY_OBJECTS):
        Knot()
    assert first() is None
