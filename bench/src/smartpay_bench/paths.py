"""The paths to one service, all up at once: plain, sidecars, our edge, FastAPI gateways."""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx

from smartpay.fraud.v1 import fraud_pb2_grpc
from smartpay_bench.h2load import CALLERS
from smartpay_bench.one_call import ANSWER, BODY, METHOD, REQUEST, ROUTE, SCOPE, framed
from smartpay_gateway.testing import Mesh, free_port, new_mesh
from smartpay_gateway.topology import server_name

READY_SECONDS = 20
CALLS_PER_SECOND = 1_000_000
"""The limit per client of both gateways: checked for each call, never reached."""
TOKEN_SECONDS = 3600
"""Longer than any run: the tokens of one run are the same."""
ROOT = Path(__file__).resolve().parents[3]
RIVAL_PYTHON = ROOT / ".venv-bench" / "bin" / "python"
RIVALS = ("fastapi", "fastapi with sidecar")
SOURCES = (ROOT / "bench" / "src", ROOT / "protos" / "gen")


def gateway_egress(template: str) -> str:
    """Makes a gateway's own sidecar out of payments': its egress alone, which lets the user pass.

    Retries, breakers, outlier detection and mutual TLS stay as every service has them.
    """
    document: dict[str, Any] = json.loads(template)
    resources = document["staticResources"]
    egress, ops = (x for x in resources["listeners"] if x["name"] in ("egress", "ops"))
    manager = egress["filterChains"][0]["filters"][0]["typedConfig"]
    manager["routeConfig"]["requestHeadersToRemove"].remove("x-jwt-payload")
    resources["listeners"] = [egress, ops]
    return json.dumps(document)


class PathError(Exception):
    """A path does not come up or answers wrong; the text says what to do."""


@dataclass(frozen=True)
class Route:
    """One path to the service.

    Attributes:
        name: as the report calls it.
        load: what h2load calls.
        processes: process ids of all who take part, the client excepted.
        answer_bytes: size of a good answer's body.
    """

    name: str
    load: tuple[str, ...]
    processes: Mapping[str, int]
    answer_bytes: int


@dataclass
class Paths:
    """The running processes and how to call them."""

    mesh: Mesh
    plain_port: int
    rival_ports: dict[str, int]
    pids: dict[str, int] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def token(self, **claims: object) -> str:
        """Signs a token as the issuer would; keyword arguments replace claims."""
        expires = int(time.time()) + TOKEN_SECONDS
        scope = claims.pop("scope", SCOPE)
        return self.mesh.issuer.token(str(scope), **{"exp": expires, **claims})

    def rest(self, port: int) -> httpx.Client:
        """Opens a REST client of either gateway that trusts the development CA."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            verify=ssl.create_default_context(cafile=str(self.mesh.ca)),
            timeout=READY_SECONDS,
            trust_env=False,
        )

    def start_rival(self, certificates: Path, port: int, upstream: str = "") -> int:
        """Starts a FastAPI gateway with a folder of certificates and answers its process id.

        It calls fraud's Envoy by mutual TLS, or `upstream`, the socket of its own sidecar.
        """
        values = self.mesh.values
        keys = f"http://{values['JWKS_HOST']}:{values['JWKS_PORT']}{values['JWKS_PATH']}"
        return self._start(
            str(RIVAL_PYTHON),
            *("-m", "smartpay_bench.fastapi_gateway"),
            BENCH_PORT=str(port),
            BENCH_CERTIFICATES=str(certificates),
            BENCH_UPSTREAM=upstream or f"127.0.0.1:{self.mesh.ports['fraud']}",
            BENCH_UPSTREAM_NAME=server_name("fraud"),
            BENCH_ISSUER=values["ISSUER"],
            BENCH_KEYS=keys,
            BENCH_CLIENTS=values["CLIENT_IDS"],
            BENCH_CALLS_PER_SECOND=str(CALLS_PER_SECOND),
            BENCH_ACCESS_LOG=str(self.mesh.folder / f"rival-{port}.access.log"),
        )

    def start_service(self) -> int:
        """Starts the service and answers its process id."""
        socket = str(self.mesh.folder / "fraud.app")
        return self._start(
            sys.executable, "-m", "smartpay_bench.constant_fraud", socket, str(self.plain_port)
        )

    def _start(self, *command: str, **environment: str) -> int:
        sources = os.pathsep.join(map(str, SOURCES))
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": sources, **environment}
        )
        self.started.append(process)
        return process.pid

    def stop(self) -> None:
        """Ends everything that was started here."""
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.wait(timeout=READY_SECONDS)
        self.mesh.stop()

    def routes(self) -> tuple[Route, ...]:
        """Lists the paths, each called once and found to answer right."""
        folder = self.mesh.folder
        (folder / "request.bin").write_bytes(framed(REQUEST.SerializeToString()))
        (folder / "request.json").write_text(json.dumps(BODY))
        egress = folder / "payments.egress"
        service, sidecar, caller, edge, its_sidecar = (
            {name: self.pids[name]}
            for name in ("service", "fraud sidecar", "payments sidecar", "edge", "gateway sidecar")
        )
        rival, meshed_rival = ({"fastapi": self.pids[name]} for name in RIVALS)
        framed_bytes = len(framed(ANSWER.SerializeToString()))
        # A service holds one channel to a peer; REST clients hold a connection per call in flight.
        native = (
            *("-c1", f"-m{CALLERS}", f"-d{folder / 'request.bin'}"),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        )
        json_call = (
            *(f"-d{folder / 'request.json'}", "-H", "content-type: application/json"),
            *("-H", f"authorization: Bearer {self.token()}"),
        )
        rest = ("--h1", f"-c{CALLERS}", *json_call)
        self._check_native(f"127.0.0.1:{self.plain_port}")
        self._check_native(f"unix:{egress}")
        edge_port = self.mesh.edge_port
        rival_port, meshed_rival_port = (self.rival_ports[name] for name in RIVALS)
        return (
            Route(
                "plain gRPC",
                (*native, f"http://127.0.0.1:{self.plain_port}{METHOD}"),
                service,
                framed_bytes,
            ),
            Route(
                "two sidecars",
                (*native, f"--base-uri=unix:{egress}", f"http://fraud{METHOD}"),
                {**service, **sidecar, **caller},
                framed_bytes,
            ),
            Route(
                "our edge",
                (*rest, f"https://127.0.0.1:{edge_port}{ROUTE}"),
                {**service, **sidecar, **edge},
                self._check_rest(edge_port),
            ),
            Route(
                "our edge, HTTP/2",
                ("-c1", f"-m{CALLERS}", *json_call, f"https://127.0.0.1:{edge_port}{ROUTE}"),
                {**service, **sidecar, **edge},
                self._check_rest(edge_port),
            ),
            Route(
                "FastAPI",
                (*rest, f"https://127.0.0.1:{rival_port}{ROUTE}"),
                {**service, **sidecar, **rival},
                self._check_rest(rival_port),
            ),
            Route(
                "FastAPI+sidecar",
                (*rest, f"https://127.0.0.1:{meshed_rival_port}{ROUTE}"),
                {**service, **sidecar, **meshed_rival, **its_sidecar},
                self._check_rest(meshed_rival_port),
            ),
        )

    def _check_native(self, address: str) -> None:
        options = [("grpc.default_authority", "fraud")]
        with grpc.insecure_channel(address, options) as channel:
            stub = fraud_pb2_grpc.FraudServiceStub(channel)
            answer = stub.Score(REQUEST, timeout=READY_SECONDS, wait_for_ready=True)
        if answer != ANSWER:
            raise PathError(f"{address} answered {answer}")

    def _check_rest(self, port: int) -> int:
        """Answers the size of the answer, once it is the right one."""
        until = time.monotonic() + READY_SECONDS
        with self.rest(port) as client:
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    answer = self.score(client)
                    if answer.status_code == httpx.codes.OK:
                        break
                    if time.monotonic() > until:
                        raise PathError(f"port {port} answered {answer.status_code} {answer.text}")
                if time.monotonic() > until:
                    raise PathError(f"Nobody answers on port {port}.")
                time.sleep(0.05)
        found = answer.json()
        if found["transactionId"] != ANSWER.assessment.transaction_id or "reasons" not in found:
            raise PathError(f"port {port} answered {answer.text}")
        return len(answer.content)

    def score(
        self, client: httpx.Client, token: str | None = "", **changes: object
    ) -> httpx.Response:
        """Asks for the score over REST; a token of None sends none, changes go into the body."""
        headers = {} if token is None else {"authorization": f"Bearer {token or self.token()}"}
        return client.post(ROUTE, json={**BODY, **changes}, headers=headers)


@contextlib.contextmanager
def running_paths() -> Iterator[Paths]:
    """Starts service, sidecars, edge and rival, and ends them.

    Raises PathError when the rival's environment is missing.
    """
    if not RIVAL_PYTHON.exists():
        raise PathError("The rival has no environment: run it by `make bench-mesh`.")
    mesh = new_mesh()
    paths = Paths(mesh, plain_port=free_port(), rival_ports={name: free_port() for name in RIVALS})
    try:
        paths.pids["service"] = paths.start_service()
        for service in ("fraud", "payments"):
            mesh.start(f"sidecar-{service}", service)
            paths.pids[f"{service} sidecar"] = mesh.envoys[service].pid
        mesh.start("edge", "edge", CLIENT_CALLS=str(CALLS_PER_SECOND))
        paths.pids["edge"] = mesh.envoys["edge"].pid
        certificates = mesh.folder / "certs" / "edge"
        mesh.start(
            "sidecar-payments", "gateway", gateway_egress, CERTIFICATE_FOLDER=str(certificates)
        )
        paths.pids["gateway sidecar"] = mesh.envoys["gateway"].pid
        for name, upstream in zip(RIVALS, ("", f"unix:{mesh.folder}/gateway.egress"), strict=True):
            paths.pids[name] = paths.start_rival(certificates, paths.rival_ports[name], upstream)
        yield paths
    finally:
        paths.stop()
