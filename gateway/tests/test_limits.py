"""Each limit is met where it is set, and what it refused passes once that limit alone is lifted."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_gateway import limits
from smartpay_gateway.limits_page import limits_page
from smartpay_gateway.testing import PAYMENT_ID, READY_SECONDS, Envoy, Mesh
from smartpay_gateway.testing.http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawHttp2,
    connect,
    frame,
)

GET = f"/payments/{PAYMENT_ID}"
SCOPES = "smartpay/payments.read smartpay/payments.write smartpay/chat"
LARGE = 2_000_000  # bytes of an answer nobody reads


def bearer(mesh: Mesh, **claims: object) -> dict[str, str]:
    return {"authorization": f"Bearer {mesh.issuer.token(SCOPES, **claims)}"}


def statuses(ask: Callable[[], httpx.Response], times: int) -> list[int]:
    return [ask().status_code for _ in range(times)]


def native_outcome(mesh: Mesh, channel: grpc.Channel) -> grpc.StatusCode:
    request = payments_pb2.GetPaymentRequest(payment_id=PAYMENT_ID)
    metadata = tuple(bearer(mesh).items())
    try:
        payments_pb2_grpc.PaymentsServiceStub(channel).GetPayment(
            request, metadata=metadata, timeout=10
        )
    except grpc.RpcError as refusal:
        return refusal.code()
    return grpc.StatusCode.OK


def test_the_page_of_limits_says_what_the_limits_are() -> None:
    page = Path(__file__).parents[2] / "docs" / "limits.md"
    assert page.read_text() == limits_page(), "run: python -m smartpay_gateway generate"
    public = [name for name in vars(limits) if name.isupper()]
    assert [name for name in public if f"| `{name}` |" not in page.read_text()] == []


# How often


def test_a_client_over_its_limit_is_told_when_to_come_back(mesh: Mesh) -> None:
    with mesh.plain_edge(CLIENT_CALLS="3") as edge, edge.rest(**bearer(mesh)) as client:
        answers = [client.get(GET) for _ in range(12)]
        first = answers[0]
        refused = next(answer for answer in answers if answer.status_code != 200)
        with edge.rest(**bearer(mesh, client_id="other0client")) as other:
            assert other.get(GET).status_code == 200
        with grpc.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
            codes = [native_outcome(mesh, channel) for _ in range(12)]
    assert first.status_code == 200
    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == (
        "3",
        "2",
    )
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["reason"] == "RATE_LIMITED"
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    with mesh.rest(**bearer(mesh)) as client:
        assert statuses(lambda: client.get(GET), 12) == [200] * 12


def test_a_costly_route_is_limited_by_itself(mesh: Mesh) -> None:
    three = (
        ('"maxTokens": 40,', '"maxTokens": 3,'),
        ('"tokensPerFill": 40,', '"tokensPerFill": 3,'),
    )

    def ask(client: httpx.Client) -> Callable[[], httpx.Response]:
        return lambda: client.post("/chat:ask", json={"message": "x"})

    with mesh.plain_edge(*three) as edge, edge.rest(**bearer(mesh)) as client:
        answers = [ask(client)() for _ in range(12)]
        assert 429 in [answer.status_code for answer in answers]
        refused = next(answer for answer in answers if answer.status_code == 429)
        # One number each, of the limit that was met.
        assert refused.headers["x-ratelimit-limit"] == "3"
        assert client.get(GET).status_code == 200
        with edge.rest(**bearer(mesh, client_id="other0client")) as other:
            assert ask(other)().status_code == 200
    with mesh.rest(**bearer(mesh)) as client:
        assert statuses(ask(client), 12) == [200] * 12


def test_calls_are_limited_before_their_tokens_are_looked_at(mesh: Mesh) -> None:
    three = (
        ('"maxTokens": 10000,', '"maxTokens": 3,'),
        ('"tokensPerFill": 10000,', '"tokensPerFill": 3,'),
    )
    with mesh.plain_edge(*three) as edge, edge.rest(authorization="Bearer x") as client:
        found = statuses(lambda: client.get(GET), 12)
        assert found[0] == 401
        assert 429 in found
    with mesh.rest(authorization="Bearer x") as client:
        assert statuses(lambda: client.get(GET), 12) == [401] * 12


def test_calls_without_a_token_share_a_limit_of_their_own(mesh: Mesh) -> None:
    three = (
        ('"maxTokens": 400,', '"maxTokens": 3,'),
        ('"tokensPerFill": 400,', '"tokensPerFill": 3,'),
    )
    with mesh.plain_edge(*three) as edge, edge.rest() as client:
        assert 429 in statuses(lambda: client.get("/healthz"), 12)
        assert client.get(GET, headers=bearer(mesh)).status_code == 200
    with mesh.rest() as client:
        assert statuses(lambda: client.get("/healthz"), 12) == [200] * 12


# How many calls on one connection


def call(mesh: Mesh, path: str = "/pay", method: str = "POST") -> dict[str, str]:
    pseudo = {":method": method, ":scheme": "http", ":authority": "x", ":path": path}
    return {**pseudo, **bearer(mesh)}


def takes(mesh: Mesh, edge: Envoy, calls: int) -> bool:
    """Opens so many calls on one connection, ends none, and sees whether one is refused."""
    with RawHttp2(connect(edge.port)) as connection:
        # The limit counts once its SETTINGS are acknowledged.
        next(kind for kind, *_ in connection.frames() if kind == SETTINGS)
        connection.send(frame(SETTINGS, 1))
        unfinished = call(mesh)
        for number in range(calls):
            connection.send(connection.headers(2 * number + 1, end=False, headers=unfinished))
        connection.send(frame(PING, payload=b"all sent"))
        for kind, _, payload in connection.frames():
            if kind in (RST_STREAM, GOAWAY):
                return False
            if kind == PING and payload == b"all sent":
                return True
    return False


def test_more_calls_at_once_than_a_connection_may_have_are_refused(mesh: Mesh) -> None:
    with mesh.plain_edge() as edge:
        assert takes(mesh, edge, 128)
        assert not takes(mesh, edge, 129)
    with mesh.plain_edge(('"maxConcurrentStreams": 128', '"maxConcurrentStreams": 256')) as edge:
        assert takes(mesh, edge, 129)


# How many, how long, how much memory


def test_connections_beyond_the_limit_are_closed_and_ops_still_answers(mesh: Mesh) -> None:
    def open_and_ask(edge: Envoy, stack: contextlib.ExitStack) -> bool:
        client = stack.enter_context(edge.rest())
        with contextlib.suppress(httpx.TransportError):
            return client.get("/healthz").status_code == 200
        return False

    few = ('"maxActiveDownstreamConnections": "10000"', '"maxActiveDownstreamConnections": "3"')
    with mesh.plain_edge(few) as edge, contextlib.ExitStack() as stack:
        assert [open_and_ask(edge, stack) for _ in range(5)] == [True] * 3 + [False] * 2
        assert httpx.get(f"http://127.0.0.1:{edge.ops_port}/metrics").status_code == 200
    with mesh.plain_edge() as edge, contextlib.ExitStack() as stack:
        assert [open_and_ask(edge, stack) for _ in range(5)] == [True] * 5


def open_to_ops(edge: Envoy, connections: int) -> int:
    """Opens so many connections to the ops port and counts those that are kept."""
    kept = 0
    with contextlib.ExitStack() as stack:
        for _ in range(connections):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", edge.ops_port)))
            one.settimeout(10)
            with contextlib.suppress(OSError):
                one.sendall(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n")
                kept += bool(one.recv(12))
    return kept


def test_the_ops_port_has_connections_of_its_own(mesh: Mesh) -> None:
    with mesh.plain_edge() as edge:
        assert 32 < open_to_ops(edge, 80) <= 64
    with mesh.plain_edge(
        ('listener.ops.connection_limit": 64.0', 'listener.ops.connection_limit": 200.0')
    ) as edge:
        assert open_to_ops(edge, 80) == 80


def test_an_edge_short_of_memory_refuses_calls_and_still_shows_its_metrics(mesh: Mesh) -> None:
    tiny = ('"maxHeapSizeBytes": "1073741824"', '"maxHeapSizeBytes": "1000000"')
    with mesh.plain_edge(tiny) as edge, edge.rest(**bearer(mesh)) as client:
        until = time.monotonic() + READY_SECONDS
        while (answer := client.get(GET)).status_code == 200 and time.monotonic() < until:
            time.sleep(0.05)
        assert answer.status_code == 503
        assert answer.json()["reason"] == "UNAVAILABLE"
        assert httpx.get(f"http://127.0.0.1:{edge.ops_port}/metrics").status_code == 200
    with mesh.rest(**bearer(mesh)) as client:
        assert client.get(GET).status_code == 200


def test_a_client_that_never_ends_its_headers_is_let_go(mesh: Mesh) -> None:
    short = ('"requestHeadersTimeout": "10s"', '"requestHeadersTimeout": "0.2s"')
    with mesh.plain_edge() as patient, mesh.plain_edge(short) as edge:
        waiting, stalled = (
            socket.create_connection(("127.0.0.1", one.port), timeout=10) for one in (patient, edge)
        )
        with waiting, stalled:
            for connection in (waiting, stalled):
                connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
            assert b" 408 " in stalled.recv(4096)
            # The other is still listened to.
            waiting.sendall(b"\r\n")
            assert b" 200 " in waiting.recv(4096)


def unread_answers(mesh: Mesh, edge: Envoy, calls: int, window: int) -> RawHttp2:
    """Asks for large answers, grants `window` bytes each, and reads nothing."""
    connection = RawHttp2(connect(edge.port, receive_buffer=4096))
    connection.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)))
    connection.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 30))))
    body = f'{{"merchantOrderId":"large:{LARGE}"}}'.encode()
    for stream in range(1, 2 * calls, 2):
        connection.send(connection.headers(stream, end=False, headers=call(mesh)))
        connection.send(frame(DATA, END_STREAM, stream, body))
    return connection


def test_an_answer_nobody_makes_room_for_is_dropped(mesh: Mesh) -> None:
    short = ('lushTimeout": "10s"', 'lushTimeout": "0.2s"')
    with (
        mesh.plain_edge() as patient,
        mesh.plain_edge(short) as edge,
        unread_answers(mesh, patient, 1, 10),
        unread_answers(mesh, edge, 1, 10),
    ):
        assert edge.wait_for("tx_flush_timeout") == 1
        assert patient.counter("tx_flush_timeout") == 0


def test_a_connection_that_stays_full_is_closed(mesh: Mesh) -> None:
    short = ('HighWatermarkTimeout": "30s"', 'HighWatermarkTimeout": "0.2s"')
    open_now = "http.edge.downstream_cx_active"
    with (
        mesh.plain_edge() as patient,
        mesh.plain_edge(short) as edge,
        unread_answers(mesh, patient, 8, 1 << 30),
        unread_answers(mesh, edge, 8, 1 << 30),
    ):
        until = time.monotonic() + READY_SECONDS
        while edge.counter(open_now) and time.monotonic() < until:
            time.sleep(0.02)
        assert edge.counter(open_now) == 0
        assert patient.counter(open_now) == 1
