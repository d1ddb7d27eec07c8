"""What people do with fraud while payments go on: decide reviews, swap the model, watch drift."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from importlib import resources
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import pytest

from smartpay_fraud.adapters.model_bundle import FILES, SAGE, seal, write
from smartpay_sandbox.launcher import Mesh

if TYPE_CHECKING:
    from tests.mesh.conftest import Edge

pytestmark = pytest.mark.mesh

RELOADS = 20
CALLERS = 4
PAUSE_SECONDS = 0.02
"""Between two calls of a caller: together they stay below the edge's limit per client."""
SOON_SECONDS = 60
ON_ITS_WAY = ("STATUS_IN_REVIEW", "STATUS_PROCESSING")

T = TypeVar("T")


def place(folder: Path, number: int) -> None:
    """Puts a bundle of another version where the link leads, as an operator does."""
    packaged = resources.files("smartpay_fraud") / "bundle"
    names = [name for name in (*FILES, SAGE) if (packaged / name).is_file()]
    files = {name: (packaged / name).read_bytes() for name in names}
    manifest = json.loads((packaged / "manifest.json").read_text())
    manifest["costs"]["review_cents"] += number
    write(folder / f"bundle-{number}", seal(manifest, files), files)
    (folder / "next").symlink_to(folder / f"bundle-{number}")
    os.replace(folder / "next", folder / "model")


@pytest.fixture(scope="module")
def models() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sp-models-") as folder:
        place(Path(folder), 0)
        yield Path(folder)


@pytest.fixture(scope="module")
def own_edge(models: Path, edge_of: type[Edge]) -> Iterator[Edge]:
    fraud = {
        "FRAUD_MODEL_URI": str(models / "model"),
        "FRAUD_MODEL_POLL_SECONDS": "0.05",
        "FRAUD_DRIFT_SECONDS": "0.2",
        # Snapshots are taken all the time, so that the load below meets them as well.
        "FRAUD_MEMORY_SNAPSHOT_SECONDS": "1",
    }
    with (
        tempfile.TemporaryDirectory(prefix="sp-") as folder,
        Mesh(Path(folder), environment={"fraud": fraud}) as running,
    ):
        yield edge_of(running)


async def soon(found: Callable[[], Awaitable[T | None]]) -> T:
    """Asks until there is an answer."""
    end = time.monotonic() + SOON_SECONDS
    while (answer := await found()) is None:
        assert time.monotonic() < end, "it does not happen"
        await asyncio.sleep(0.05)
    return answer


async def asked(session: httpx.AsyncClient, path: str, body: Any = None) -> dict[str, Any]:
    """Reads, or writes with a key, and wants success."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    answer = await (
        session.get(path) if body is None else session.post(path, json=body, headers=headers)
    )
    assert answer.status_code < 300, answer.text
    return dict(answer.json())


async def held_payment(session: httpx.AsyncClient, edge: Edge) -> tuple[dict[str, Any], Any]:
    """A payment that waits for a person, and its review."""
    order = edge.order(
        amount={"minorUnits": 77_700, "currencyCode": "USD"}, customerId=uuid.uuid4().hex
    )
    payment = await asked(session, "/pay", order)
    assert payment["status"] == "STATUS_IN_REVIEW"
    assert payment["attempts"] == []

    async def review() -> Any:
        listed = await asked(session, "/fraud/reviews?state=STATE_OPEN")
        of_it = [r for r in listed["reviews"] if r["transactionId"] == payment["paymentId"]]
        return of_it[0] if of_it else None

    return payment, await soon(review)


async def test_a_review_that_is_decided_at_the_edge_decides_the_held_payment(
    own_edge: Edge,
) -> None:
    async with own_edge.session() as session:
        merchant = await asked(session, "/merchant")
        settings = {
            **merchant["settings"],
            "fraudReviewPolicy": "FRAUD_REVIEW_POLICY_HOLD",
            "merchantCategory": "5732",
        }
        held = {"settings": settings, "etag": merchant["etag"]}
        await asked(session, "/merchant:update", held)
        large = [
            {"name": "amount_usd_cents", "operator": "OPERATOR_EQUAL", "number": 77_700},
            # What the merchant sells reached fraud with the payment.
            {"name": "merchant_category", "operator": "OPERATOR_IN", "texts": ["5732"]},
        ]
        rule = {"ruleId": "LARGE", "verdict": "VERDICT_REVIEW", "conditions": large, "message": "?"}
        rules = {"baseVersion": (await asked(session, "/fraud/rules"))["version"], "rules": [rule]}
        await asked(session, "/fraud/rules:update", rules)

        for resolution, status in (
            ("RESOLUTION_APPROVE", "STATUS_SUCCEEDED"),
            ("RESOLUTION_FRAUD", "STATUS_BLOCKED"),
        ):
            payment, review = await held_payment(session, own_edge)
            path = f"/fraud/reviews/{review['reviewId']}"

            async def decided(path: str = path, resolution: str = resolution) -> Any:
                read = (await asked(session, path))["review"]
                body = {"etag": read["etag"], "resolution": resolution}
                answer = await session.post(
                    f"{path}:resolve", json=body, headers={"Idempotency-Key": uuid.uuid4().hex}
                )
                # Meanwhile fraud may have heard that the payment is held, which is a change.
                assert answer.status_code in (200, 409), answer.text
                return answer.json() if answer.status_code == 200 else None

            assert (await soon(decided))["resolution"] == resolution

            async def moved_on(number: str = payment["paymentId"]) -> Any:
                shown = await asked(session, f"/payments/{number}")
                return None if shown["status"] in ON_ITS_WAY else shown

            assert (await soon(moved_on))["status"] == status


async def test_twenty_reloads_under_rest_load_fail_no_call(own_edge: Edge, models: Path) -> None:
    numbers, done = count(), asyncio.Event()
    failed: list[str] = []
    versions: list[str] = []

    async with own_edge.session() as session:

        async def reloads() -> int:
            return int((await asked(session, "/fraud/model"))["reloads"].get("succeeded", 0))

        async def call_again_and_again() -> None:
            while not done.is_set():
                number = next(numbers)
                answer = await session.post(
                    "/fraud",
                    json={
                        "transactionId": f"reload-{number}",
                        "amount": {"minorUnits": 1_000 + number, "currencyCode": "USD"},
                        "customerId": f"customer-{number % 50}",
                    },
                )
                if answer.status_code != 200:
                    failed.append(answer.text)
                else:
                    versions.append(answer.json()["modelVersion"])
                await asyncio.sleep(PAUSE_SECONDS)

        callers = [asyncio.create_task(call_again_and_again()) for _ in range(CALLERS)]
        for reload in range(RELOADS):
            place(models, reload + 1)

            async def swapped(before: int = reload) -> bool | None:
                return await reloads() > before or None

            await soon(swapped)
        done.set()
        await asyncio.gather(*callers)  # raises what broke a connection
        assert failed == []
        assert await reloads() == RELOADS
    assert len(set(versions)) > RELOADS / 2, "calls were answered by one model after the other"
    log = own_edge.mesh.run.log("fraud").read_text()
    assert "model swapped" in log
    assert "the snapshot's process failed" not in log


async def test_the_sidecar_shows_prometheus_how_far_payments_have_drifted(own_edge: Edge) -> None:
    ports = json.loads((own_edge.mesh.run.state / "ports.json").read_text())
    async with httpx.AsyncClient(trust_env=False) as prometheus:

        async def told() -> str | None:
            page = await prometheus.get(f"http://127.0.0.1:{ports['fraud-ops']}/metrics/service")
            return page.text if "smartpay_fraud_drift_rows" in page.text else None

        assert "# TYPE smartpay_fraud_drift_labelled_transactions gauge\n" in await soon(told)
