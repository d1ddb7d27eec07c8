"""One whole mesh, with real Envoys, for all tests that need one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from smartpay_sandbox.edge_session import edge_session
from smartpay_sandbox.launcher import Mesh


class Edge:
    """The mesh as its users see it."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        merchants = json.loads(mesh.run.merchants.read_text())["merchants"]
        self.accounts, self.other_accounts = (
            [
                a["processor_account_id"]
                for a in m["processor_accounts"]
                if a["processor"] == "stripe"
            ]
            for m in merchants
        )

    def session(
        self, token: str | None = None, **headers: str
    ) -> AbstractAsyncContextManager[httpx.AsyncClient]:
        """Opens connections as a client with this token; the demo merchant's by default."""
        named: dict[str, Any] = {**headers}
        return edge_session(self.mesh, token, **named)

    def order(self, **changes: object) -> dict[str, Any]:
        """Spells an order that goes through."""
        return {
            "amount": {"minorUnits": 1999, "currencyCode": "USD"},
            "instrument": {
                "tokens": [
                    {"processorAccountId": a, "token": "pm_card_visa"} for a in self.accounts
                ]
            },
            "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
            **changes,
        }


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    # Short, because Unix sockets live in it.
    with tempfile.TemporaryDirectory(prefix="sp-") as folder, Mesh(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def edge(mesh: Mesh) -> Edge:
    return Edge(mesh)


@pytest.fixture(scope="session")
def edge_of() -> type[Edge]:
    """For tests that need a mesh of their own."""
    return Edge
