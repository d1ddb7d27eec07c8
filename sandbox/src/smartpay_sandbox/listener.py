"""One loopback listener for a whole ASGI app, for the sandbox process and for tests alike."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from smartpay_sandbox.simulator import HANG_UP

LOOPBACK = "127.0.0.1"
BACKLOG = 512
"""Connections that may wait for accept; above the few hundred clients a load test opens at once."""
DRAIN_SECONDS = 3
"""How long a stop waits for requests under way; longer than any delay the demo configures."""
DATE_SECONDS = 1
"""The Date header has seconds; fresher would say nothing more."""
KEEP_ALIVE_SECONDS = 75
"""Idle connections outlive the pauses of a client pool, so a reused one is seldom found closed."""


class HangUpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with one ASGI extension more: the app may drop its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the app, so that each request of this connection carries the extension."""
        super().connection_made(transport)
        inner = self.app

        async def with_hang_up(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[HANG_UP] = transport.abort
            await inner(scope, receive, send)

        self.app = with_hang_up


def bind(port: int) -> socket.socket:
    """Bind one loopback port; 0 takes a free one.

    Raises:
        OSError: if the port is taken.
    """
    # asyncio turns Nagle's delay off only where the protocol number is explicit; without it each
    # answer waits 40 ms for the caller's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError:
        listener.close()
        raise
    return listener


class EmbeddedServer(uvicorn.Server):
    """uvicorn without its hands on the process's signals, and stopped by a call, not a poll."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Let requests under way finish, then end `serve`."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        """Refresh the Date header each second until told to stop."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), DATE_SECONDS)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals to the process: uvicorn would raise them again after a clean stop."""
        return nullcontext()


def server_for(app: ASGIApp) -> EmbeddedServer:
    """Build the server; `await server.serve(sockets=[bind(port)])` runs it until told to exit."""
    return EmbeddedServer(
        uvicorn.Config(
            app,
            http=HangUpProtocol,
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )


@asynccontextmanager
async def listening(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """Serve an app inside the running loop and yield its base URL; for tests and embedding."""
    listener = bind(port)
    server = server_for(app)
    task: asyncio.Task[Any] = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if task.done():
            task.result()
            raise RuntimeError("The app refused to start.")
        await asyncio.sleep(0.001)  # uvicorn has no event for this
    try:
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    finally:
        server.stop()
        await task
