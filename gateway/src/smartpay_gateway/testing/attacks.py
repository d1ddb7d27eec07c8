"""Tries things on an Envoy and says in a few words what came of it."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from google.protobuf.message import Message

from smartpay.payments.v1 import payments_pb2
from smartpay_gateway.testing.http2 import DATA, END_STREAM, RawHttp2, connect, frame
from smartpay_gateway.testing.issuer import Issuer
from smartpay_gateway.testing.lifts import Lift, lifted
from smartpay_gateway.testing.mesh import Envoy, Mesh
from smartpay_gateway.testing.services import PAYMENT_ID

READ = "smartpay/payments.read"
WRITE = "smartpay/payments.write"
REFUND = "smartpay/payments.refund"
SERVICE = "/smartpay.payments.v1.PaymentsService/"
GET_PATH = f"/payments/{PAYMENT_ID}"
GET = payments_pb2.GetPaymentRequest(payment_id=PAYMENT_ID)
FORGED = "forged"
# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_CODES = {
    **{"0": "OK", "7": "PERMISSION_DENIED", "8": "RESOURCE_EXHAUSTED", "12": "UNIMPLEMENTED"},
    **{"13": "INTERNAL", "14": "UNAVAILABLE", "16": "UNAUTHENTICATED"},
}


class Place:
    """Where attacks go: the mesh's own Envoys, or those beside it whose defences are lifted.

    Whoever calls a lifted sidecar is started beside it, too, when an attack asks for it.
    """

    def __init__(self, mesh: Mesh, lifts: Sequence[Lift] = ()) -> None:
        self.mesh = mesh
        self._lifts = lifts
        self._stack = contextlib.ExitStack()

    @functools.cached_property
    def payments(self) -> Envoy:
        """The sidecar of payments."""
        return self._envoy("sidecar-payments")

    @functools.cached_property
    def edge(self) -> Envoy:
        """The edge, with TLS."""
        return self._envoy("edge", PAYMENTS_PORT=str(self.payments.port))

    @functools.cached_property
    def rewards(self) -> Envoy:
        """The sidecar of rewards, which may call payments."""
        return self._envoy("sidecar-rewards", PAYMENTS_PORT=str(self.payments.port))

    def _envoy(self, template: str, **values: str) -> Envoy:
        service = template.removeprefix("sidecar-")
        own = self.mesh.own(service)
        here = [lift for lift in self._lifts if lift.template == template]
        elsewhere = {k: v for k, v in values.items() if self.mesh.values[k] != v}
        if not here and not elsewhere:
            return own
        for lift in here:
            elsewhere |= lift.holes(self.mesh, self._stack)
        beside = self.mesh.beside(template, lifted(here), **elsewhere)
        return self._stack.enter_context(beside)

    def close(self) -> None:
        """Ends what was started here."""
        self._stack.close()


Act = Callable[[Place], str]
Token = Callable[[Issuer], str | None]


def token(scope: str | None = READ, **claims: object) -> Token:
    """Signs a token as the issuer does, with other claims where they are given."""
    return lambda issuer: issuer.token(scope, **claims)


GOOD = token(f"{READ} {WRITE} {REFUND}")
"""A token for all that is tried here."""


# By REST


def rest(
    method: str = "GET",
    path: str = GET_PATH,
    *,
    by: Token = GOOD,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    in_pieces: bool = False,
    tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    saw: Callable[[Any], str] | None = None,
) -> Act:
    """Calls by REST; tells status and reason, or what `saw` finds in a good answer.

    A body in pieces has no stated length.
    """

    def act(place: Place) -> str:
        signed = by(place.mesh.issuer)
        authorization = {"authorization": f"Bearer {signed}"} if signed is not None else {}
        try:
            with httpx.Client(verify=trust(place, tls), timeout=20) as client:
                answer = client.request(
                    method,
                    f"https://127.0.0.1:{place.edge.port}{path}",
                    headers=authorization | dict(headers or {}),
                    content=iter([content]) if in_pieces and content is not None else content,
                )
        except httpx.ConnectError as refusal:
            return _alert(refusal)
        if answer.status_code >= 400:
            return f"{answer.status_code} {answer.json()['reason']}"
        return saw(answer.json()) if saw else str(answer.status_code)

    return act


def _alert(refusal: BaseException) -> str:
    while not isinstance(refusal, ssl.SSLError):
        if refusal.__context__ is None:
            return type(refusal).__name__
        refusal = refusal.__context__
    return str(refusal.reason)


def trust(place: Place, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Trusts the mesh's CA, whatever the name, and speaks TLS up to a version."""
    context = ssl.create_default_context(cafile=str(place.mesh.ca))
    if newest < ssl.TLSVersion.TLSv1_2:
        # Even OpenSSL's own client does that only when told so.
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = newest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = newest
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


def http1(framing: str, body: str = "0\r\n\r\n", by: Token = GOOD) -> Act:
    """Pays by HTTP/1.1, with headers as they are written; tells the status, and if that was all."""

    def act(place: Place) -> str:
        context = trust(place)
        context.set_alpn_protocols(["http/1.1"])
        lines = ["POST /pay HTTP/1.1", "host: x", f"authorization: Bearer {by(place.mesh.issuer)}"]
        text = "\r\n".join([*lines, framing.replace("\n", "\r\n"), "", body])
        with context.wrap_socket(connect(place.edge.port)) as connection:
            connection.sendall(text.encode())
            answer = connection.recv(4096).decode()
        return answer.split()[1] + (", closed" if "\r\nconnection: close\r\n" in answer else "")

    return act


# By gRPC


def message(request: Message) -> bytes:
    """Writes a message as gRPC does (length-prefixed)."""
    body = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


def call(
    connection: socket.socket,
    method: str = "GetPayment",
    request: Message = GET,
    headers: Mapping[str, str] | None = None,
    trailers: Mapping[str, str] | None = None,
) -> str:
    """Calls on a connection of its own; tells the code, or what ended the connection.

    The service echoes what it was told, so a forged value that reached it is told, too.
    """
    given = dict(headers or {})
    path = method if method.startswith("/") else SERVICE + method
    start = {":method": "POST", ":scheme": "https", ":authority": "x", ":path": path}
    kind = {"content-type": "application/grpc", "te": "trailers"}
    with RawHttp2(connection) as http2:
        sent = http2.headers(1, end=False, headers=start | kind | given)
        sent += frame(DATA, 0 if trailers else END_STREAM, 1, message(request))
        if trailers:
            sent += http2.headers(1, end=True, headers=trailers)
        http2.send(sent)
        told = http2.answer()
    if not told:
        return http2.ended
    code = _CODES.get(told.get("grpc-status", ""), told[":status"])
    return f"{code} {FORGED}" if FORGED.encode() in http2.body else code


def native(
    method: str = "GetPayment",
    request: Message = GET,
    by: Token = GOOD,
    headers: Mapping[str, str] | None = None,
) -> Act:
    """Calls the edge by native gRPC."""

    def act(place: Place) -> str:
        signed = by(place.mesh.issuer)
        authorization = {"authorization": f"Bearer {signed}"} if signed is not None else {}
        connection = trust(place).wrap_socket(connect(place.edge.port))
        return call(connection, method, request, authorization | dict(headers or {}))

    return act


def both(by: Token) -> Act:
    """Reads a payment by REST and by native gRPC."""
    return lambda place: f"{rest(by=by)(place)}, {native(by=by)(place)}"


def as_peer(
    caller: str | Callable[[Mesh], Path] | None,
    method: str = "GetPayment",
    request: Message = GET,
    *,
    tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    headers: Mapping[str, str] | None = None,
) -> Act:
    """Calls payments' mesh port with a service's certificate, that of a folder, or none."""

    def act(place: Place) -> str:
        context = trust(place, tls)
        if caller is not None:
            of = place.mesh
            own = of.folder / "certs" / caller if isinstance(caller, str) else caller(of)
            context.load_cert_chain(own / "tls.crt", own / "tls.key")
        try:
            connection = context.wrap_socket(connect(place.payments.port))
        except ssl.SSLError as refusal:
            return str(refusal.reason)
        return call(connection, method, request, headers)

    return act


def through_egress(
    method: str = "GetPayment", request: Message = GET, headers: Mapping[str, str] | None = None
) -> Act:
    """Calls by the way out of rewards, as a service does that somebody broke into."""

    def act(place: Place) -> str:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(place.rewards.egress))
        return call(connection, method, request, headers)

    return act


def plain(port: Callable[[Place], int], method: str = "GetPayment", request: Message = GET) -> Act:
    """Calls a port without TLS."""
    return lambda place: call(connect(port(place)), method, request)
