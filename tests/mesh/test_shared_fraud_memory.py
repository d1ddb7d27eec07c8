"""Redis under the fraud service dies: merchants get the policy they chose, nothing counts twice."""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartpay_fraud.adapters.redis_log import RedisLog
from smartpay_fraud.domain.features import FEATURE_INDEX
from smartpay_fraud.domain.replicated_memory import START, ReplicatedMemory
from smartpay_fraud.domain.transaction import Transaction
from smartpay_sandbox.launcher import Mesh
from smartpay_sandbox.redis_server import RedisServer, programs

if TYPE_CHECKING:
    from tests.mesh.conftest import Edge

pytestmark = pytest.mark.mesh

DEVICE = "till-7"
CALLERS = 4
WITHOUT_REDIS_PAYMENTS = 12
LIMIT_MINOR = 2_000


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="sp-redis-") as folder:
        server = RedisServer(Path(folder), programs()["valkey"])
        server.start()
        yield server
        server.kill()


@pytest.fixture(scope="module")
def own_mesh(redis: RedisServer) -> Iterator[Mesh]:
    environment = {"fraud": {"FRAUD_MEMORY_URL": redis.url, "FRAUD_MEMORY_TIMEOUT_SECONDS": "1"}}
    with (
        tempfile.TemporaryDirectory(prefix="sp-") as folder,
        Mesh(Path(folder), environment=environment) as running,
    ):
        yield running


async def choose(session: httpx.AsyncClient, policy: str, **limits: Any) -> None:
    merchant = (await session.get("/merchant")).raise_for_status().json()
    settings = {**merchant["settings"], "fraudFailPolicy": f"FRAUD_FAIL_POLICY_{policy}", **limits}
    body = {"settings": settings, "etag": merchant["etag"]}
    answer = await session.post(
        "/merchant:update", json=body, headers={"Idempotency-Key": uuid.uuid4().hex}
    )
    answer.raise_for_status()


async def pay(session: httpx.AsyncClient, edge: Edge, number: int, minor: int) -> dict[str, Any]:
    """Pays as another customer each time, at one device; asks again until there is an answer."""
    order = edge.order(
        amount={"minorUnits": minor, "currencyCode": "USD"},
        customerId=f"customer-{number}",
        deviceId=DEVICE,
    )
    key = uuid.uuid4().hex
    for _ in range(60):
        answer = await session.post("/pay", json=order, headers={"Idempotency-Key": key})
        if answer.status_code < 300:
            return dict(answer.json())
        assert answer.status_code in (409, 429, 503, 504), answer.text
        await asyncio.sleep(0.25)
    raise AssertionError("no answer")


async def test_a_dead_redis_leaves_payments_to_the_merchants_policy_and_counts_nothing_twice(
    own_mesh: Mesh, redis: RedisServer, edge_of: type[Edge]
) -> None:
    edge = edge_of(own_mesh)
    async with edge.session() as session:
        await choose(session, "OPEN")
        number = 0
        stop = asyncio.Event()
        answers: list[dict[str, Any]] = []

        async def caller() -> None:
            nonlocal number
            while not stop.is_set():
                number += 1
                answers.append(await pay(session, edge, number, 1_999))

        callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
        while len(answers) < WITHOUT_REDIS_PAYMENTS:
            await asyncio.sleep(0.05)
        assert all("fraud" in payment for payment in answers), "the control: fraud was asked"

        redis.kill()
        killed = len(answers)
        while len(answers) < killed + WITHOUT_REDIS_PAYMENTS:
            await asyncio.sleep(0.05)
        unscored = [payment for payment in answers if "fraud" not in payment]
        assert unscored, "under load, payments went on without fraud's word"
        assert {payment["status"] for payment in unscored} == {"STATUS_SUCCEEDED"}

        await choose(session, "CLOSED")
        closed = await pay(session, edge, 10_001, 1_999)
        assert (closed["status"], "fraud" in closed) == ("STATUS_BLOCKED", False)

        await choose(
            session,
            "RULES",
            fraudFailLimits=[{"minorUnits": LIMIT_MINOR, "currencyCode": "USD"}],
        )
        small = await pay(session, edge, 10_002, LIMIT_MINOR)
        large = await pay(session, edge, 10_003, LIMIT_MINOR + 1)
        assert (small["status"], large["status"]) == ("STATUS_SUCCEEDED", "STATUS_BLOCKED")

        await asyncio.to_thread(redis.start)
        end = time.monotonic() + 30
        back = len(answers)
        while not any("fraud" in payment for payment in answers[back:]):
            assert time.monotonic() < end, "fraud is not asked again"
            await asyncio.sleep(0.05)
        stop.set()
        await asyncio.gather(*callers)

    log = RedisLog(redis.url, timeout_seconds=5)
    bodies = []
    position, complete = START, False
    while not complete:
        page = await log.read(position)
        complete = page.complete
        bodies += [body for _, body in page.entries]
        position = page.entries[-1][0] if page.entries else position
    ours = ReplicatedMemory(log)
    await ours.open()
    scored = {p["paymentId"] for p in answers if "fraud" in p}
    counted = Counter(
        payment["paymentId"]
        for payment in answers
        for body in bodies
        if body.startswith(b'["",') and payment["paymentId"].encode() in body
    )
    assert scored <= counted.keys(), "what was scored is remembered"
    assert set(counted.values()) == {1}
    merchant = answers[0]["merchantId"]
    (seen,) = await ours.observe(
        [
            (
                Transaction(merchant, False, "probe", 1_999, "USD", "probe", "", DEVICE),
                int(time.time() * 1000),
            )
        ]
    )
    total = sum(1 for body in bodies if body.startswith(b'["",') and DEVICE.encode() in body)
    assert seen.view.row[FEATURE_INDEX["device_count_24h"]] == total
    await log.close()
