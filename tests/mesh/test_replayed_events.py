"""Rewards' store wiped, the mesh restarted, all events replayed: not one token more."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smartpay_sandbox.chaos_mesh import dump
from smartpay_sandbox.launcher import Mesh

if TYPE_CHECKING:
    from tests.mesh.conftest import Edge

pytestmark = pytest.mark.mesh


async def final_rewards(edge: Edge, count: int) -> dict[str, str]:
    rewards: list[dict[str, Any]] = []
    async with edge.session() as session:
        for _ in range(300):
            rewards = (await session.get("/rewards", params={"pageSize": 200})).json()["rewards"]
            if sum(r["status"] == "STATUS_FINAL" for r in rewards) == count:
                return {r["paymentId"]: r["signature"] for r in rewards}
            await asyncio.sleep(0.1)
    raise AssertionError(f"not final: {[r['status'] for r in rewards]}")


async def supply(mesh: Mesh) -> str:
    chain = await dump(mesh, "solana")
    return str(chain["mints"][mesh.endpoints["mint"]]["supply"])


async def test_replayed_events_mint_nothing(edge_of: type[Edge]) -> None:
    with tempfile.TemporaryDirectory(prefix="sp-") as folder, Mesh(Path(folder)) as mesh:
        edge = edge_of(mesh)
        async with edge.session() as session:
            for _ in range(10):
                answer = await session.post(
                    "/pay",
                    json=edge.order(customerId=str(uuid.uuid4())),
                    headers={"Idempotency-Key": str(uuid.uuid4())},
                )
                assert answer.json()["status"] == "STATUS_SUCCEEDED"
        signatures = await final_rewards(edge, 10)
        before = await supply(mesh)
        assert int(before) > 0
        await asyncio.to_thread(mesh.stop)
        shutil.rmtree(mesh.run.state / "rewards")
        # Started in this thread: the kernel ends the mesh with the thread that started it.
        mesh.start()
        assert await final_rewards(edge, 10) == signatures
        assert await supply(mesh) == before
