"""Real routers as processes, and channels to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

FILE = "router.db"
"""The store of all routers in one folder."""


@contextlib.asynccontextmanager
async def router(
    folder: Path, name: str, point: str = "", passes: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a router that may die at a point; it is killed at the end at the latest.

    Args:
        folder: holds merchants.json, the store and all sockets; a short path.
        name: the replica, and its socket.
        point: one of `points.POINTS`, or none.
        passes: at which pass of it the router dies.
    """
    module = ["smartpay_router.proof.points", point, str(passes)] if point else ["smartpay_router"]
    with log_of(folder, name).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *module,
            env={
                **os.environ,
                "SMARTPAY_LISTEN_SOCKET": str(folder / f"{name}.sock"),
                "SMARTPAY_EGRESS_SOCKET": str(folder / "egress.sock"),
                "SMARTPAY_MERCHANTS_FILE": str(folder / "merchants.json"),
                "ROUTER_STORE_PATH": str(folder / FILE),
                "ROUTER_REPLICA_NAME": name,
                "ROUTER_EXCHANGE_SECONDS": "0.2",  # so that many snapshots are died amid
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def log_of(folder: Path, name: str) -> Path:
    """Answers where a replica's last life has logged."""
    return folder / f"{name}.log"


def channel(socket: Path) -> grpc.aio.Channel:
    """Opens a channel that comes back soon after the router does."""
    return grpc.aio.insecure_channel(
        f"unix:{socket}",
        options=[
            ("grpc.default_authority", "proof"),
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.min_reconnect_backoff_ms", 20),
            ("grpc.max_reconnect_backoff_ms", 100),
        ],
    )
