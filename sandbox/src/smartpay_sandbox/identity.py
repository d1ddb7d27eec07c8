"""The task before the mesh starts: who may call it. `python -m smartpay_sandbox.identity`.

The pool is made by an emulator of its own that is stopped cleanly at once, because ministack
saves only then. So whatever ends the mesh later, the next start finds the same issuer, the same
clients and keys, and tokens stay good.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from smartpay_gateway.templates import fill_from, load
from smartpay_gateway.topology import EDGE, SERVICES
from smartpay_sandbox import ministack, tenants
from smartpay_sandbox.cognito import UserPool, provision
from smartpay_sandbox.ports import LOOPBACK
from smartpay_sandbox.processes import Answering, Child, Process
from smartpay_sandbox.run_folder import RunFolder, read_json, write_whole

STARTING_SECONDS = 40.0  # its first import without bytecode takes 5 s on a slow machine
SAVING_SECONDS = 10.0
POLL_SECONDS = 0.03


async def establish(run: RunFolder, port: int) -> UserPool:
    """Answers the pool of last time if the emulator saved it, else makes one.

    Raises:
        RuntimeError: when the emulator does not start or does not save.
    """
    pool = UserPool.load(run)
    wanted = tenants.clients()
    if pool is not None and pool.clients.keys() == wanted.keys() and _is_saved(run, pool):
        return pool
    process = Process(
        "ministack-once", ministack.command(), environment=ministack.environment(run, port)
    )
    child = Child(process, run.log("ministack"))
    url = f"http://{LOOPBACK}:{port}"
    try:
        async with asyncio.timeout(STARTING_SECONDS):
            while not await Answering(url + ministack.HEALTH_PATH).is_true():
                if child.exited.done():
                    raise RuntimeError(f"ministack ended; see {run.log('ministack')}")
                await asyncio.sleep(POLL_SECONDS)
        pool = provision(
            url,
            resource_server=tenants.RESOURCE_SERVER,
            scopes=tenants.SCOPES,
            clients=wanted,
            groups=[f"merchant/{tenant.merchant_id}" for tenant in tenants.TENANTS],
        )
    finally:
        await child.stop(SAVING_SECONDS)
    if not _is_saved(run, pool):
        raise RuntimeError(f"ministack did not save its state in {ministack.state_of(run)}")
    pool.save(run)
    return pool


def _is_saved(run: RunFolder, pool: UserPool) -> bool:
    file = ministack.state_of(run) / "cognito.json"
    if not file.exists():
        return False
    text = file.read_text()
    return all(c.client_id in text for c in pool.clients.values()) and pool.pool_id in text


def fill_envoys(run: RunFolder, ports: dict[str, int], pool: UserPool, environment: str) -> None:
    """Fills the holes of every Envoy's template for this machine."""
    allowed = (c for name, c in pool.clients.items() if name not in tenants.FOREIGN_CLIENTS)
    shared = {
        "ENVIRONMENT": environment,
        "LISTEN_HOST": LOOPBACK,
        "ISSUER": pool.issuer,
        "JWKS_SCHEME": "http",
        "JWKS_HOST": LOOPBACK,
        "JWKS_PORT": str(ports["ministack"]),
        "JWKS_PATH": pool.jwks_path,
        "JWKS_CA_FILE": str(run.certificates / "ca.crt"),
        "CLIENT_IDS": "|".join(client.client_id for client in allowed),
    }
    for service in SERVICES:
        shared[f"{service.upper()}_HOST"] = LOOPBACK
        shared[f"{service.upper()}_PORT"] = str(ports[service])
    for name in (EDGE, *SERVICES):
        own = {
            "LISTEN_PORT": str(ports[name]),
            "OPS_PORT": str(ports[f"{name}-ops"]),
            "APP_SOCKET": str(run.sockets / f"{name}.sock"),
            "EGRESS_SOCKET": str(run.sockets / f"{name}-egress.sock"),
            "ADMIN_SOCKET": str(run.sockets / f"{name}-admin.sock"),
            "CERTIFICATE_FOLDER": str(run.certificates / name),
            "ACCESS_LOG": str(run.logs / f"{name}-access.log"),
        }
        template = load(EDGE if name == EDGE else f"sidecar-{name}")
        write_whole(run.envoys / f"{name}.json", fill_from(template, shared | own))


def main() -> None:
    """Establishes identity for one run folder."""
    parser = argparse.ArgumentParser(prog="python -m smartpay_sandbox.identity")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--environment", default="dev")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    ports = read_json(run.state / "ports.json")
    try:
        pool = asyncio.run(establish(run, ports["ministack"]))
    except (RuntimeError, TimeoutError) as error:
        sys.exit(f"identity: {error}")
    ids = {name: client.client_id for name, client in pool.clients.items()}
    tenants.write_merchants(run, ids)
    fill_envoys(run, ports, pool, arguments.environment)
    print(json.dumps({"pool": pool.pool_id, "clients": ids}))


if __name__ == "__main__":
    main()
