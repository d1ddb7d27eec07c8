"""The last task of a start: ends with 0 once every service serves and the edge lets a token in.

A process of its own, because gRPC's threads and a supervisor's forks do not go together.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from smartpay_gateway.topology import SERVICES
from smartpay_sandbox.cognito import UserPool, fetch_token
from smartpay_sandbox.run_folder import RunFolder, read_json

GATE_SECONDS = 55.0  # a little less than the supervisor's patience, so that the reason is told
CHECK_SECONDS = 2.0
POLL_SECONDS = 0.05
# One read per house behind the edge that has one: it crosses TLS, token, sidecar and service.
READ_PATHS = ("/payments?pageSize=1", "/rewards?pageSize=1")


async def serves(socket: Path) -> bool:
    """Asks a service's own health over its Unix socket."""
    options = [("grpc.default_authority", "health")]
    try:
        async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
            stub: Any = HealthStub(channel)  # its published types know only blocking channels
            answer = await stub.Check(HealthCheckRequest(), timeout=CHECK_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def read_through_edge(endpoints: dict[str, str], token: str, path: str) -> int:
    """Reads one path through the edge; 0 when it can't be reached."""
    address = urlsplit(endpoints["rest"])
    try:
        context = ssl.create_default_context(cafile=endpoints["ca"])
        connection = http.client.HTTPSConnection(
            str(address.hostname), address.port, timeout=CHECK_SECONDS, context=context
        )
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0


async def pass_gate(run: RunFolder) -> None:
    """Waits until everything serves; the text of the TimeoutError names what does not."""
    waiting = {service: run.sockets / f"{service}.sock" for service in SERVICES}
    endpoints = read_json(run.endpoints)
    pool = UserPool.load(run)
    assert pool is not None
    token = await asyncio.to_thread(fetch_token, endpoints["cognito"], pool.clients["demo"])
    paths = dict.fromkeys(READ_PATHS, 0)
    try:
        async with asyncio.timeout(GATE_SECONDS):
            while waiting:
                for service in [name for name, s in waiting.items() if await serves(s)]:
                    del waiting[service]
                await asyncio.sleep(POLL_SECONDS)
            while any(status != http.client.OK for status in paths.values()):
                for path in paths:
                    paths[path] = await asyncio.to_thread(read_through_edge, endpoints, token, path)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        missing = ", ".join(waiting) or "every service serves"
        raise TimeoutError(f"not serving: {missing}; through the edge: {paths}") from None


def main() -> None:
    """Waits for the mesh of one run folder."""
    parser = argparse.ArgumentParser(prog="python -m smartpay_sandbox.health_gate")
    parser.add_argument("--run", type=Path, required=True)
    run = RunFolder(parser.parse_args().run)
    try:
        asyncio.run(pass_gate(run))
    except TimeoutError as error:
        sys.exit(f"health gate: {error}")


if __name__ == "__main__":
    main()
