"""Connections to the edge as an outside client opens them: TLS by the development CA, a token."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from smartpay_sandbox.launcher import Mesh

CALL_SECONDS = 40.0  # above the longest deadline of a method
CONNECTIONS_MAX = 64


@asynccontextmanager
async def edge_session(
    mesh: Mesh, token: str | None = None, *, call_seconds: float = CALL_SECONDS, **headers: str
) -> AsyncIterator[httpx.AsyncClient]:
    """Opens a session with this token: the demo merchant's when None, none at all when "".

    Args:
        mesh: a running mesh.
        token: an access token.
        call_seconds: how long one call may take.
        headers: sent with every call.
    """
    token = mesh.token() if token is None else token
    if token:
        headers["Authorization"] = f"Bearer {token}"
    async with httpx.AsyncClient(
        base_url=mesh.endpoints["rest"],
        headers=headers,
        verify=ssl.create_default_context(cafile=mesh.endpoints["ca"]),
        limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
        timeout=call_seconds,
        trust_env=False,
    ) as session:
        yield session
