"""Each limit is met where it is set, and what it refused passes once that limit alone is lifted."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from hpack import Encoder

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_gateway import limits
from smartpay_gateway.limits_page import limits_page
from smartpay_gateway.testing import PAYMENT_ID, READY_SECONDS, Edge, Mesh

GET = f"/payments/{PAYMENT_ID}"
SCOPES = "smartpay/payments.read smartpay/payments.write smartpay/chat"
LARGE = 2_000_000  # bytes of an answer nobody reads

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 2, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4


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


# How large


@pytest.mark.parametrize(
    ("headers", "lifted"),
    [
        ({"x-large": "x" * 33 * 1024}, ('"maxRequestHeadersKb": 32', '"maxRequestHeadersKb": 64')),
        (
            {f"x-{number}": "x" for number in range(64)},
            ('"maxHeadersCount": 64', '"maxHeadersCount": 128'),
        ),
    ],
    ids=["bytes", "number"],
)
def test_headers_too_large_or_too_many_are_refused(
    mesh: Mesh, headers: dict[str, str], lifted: tuple[str, str]
) -> None:
    with mesh.rest(**bearer(mesh)) as client:
        answer = client.get(GET, headers=headers)
        assert answer.status_code == 431
        assert answer.headers["content-type"] == "application/problem+json"
    with mesh.plain_edge(lifted) as edge, edge.rest(**bearer(mesh)) as client:
        assert client.get(GET, headers=headers).status_code == 200


def test_a_body_too_large_is_refused(mesh: Mesh) -> None:
    body = {"merchantOrderId": "o", "description": "x" * 70_000}
    with mesh.rest(**bearer(mesh)) as client:
        answer = client.post("/pay", json=body)
        assert (answer.status_code, answer.json()["reason"]) == (413, "BODY_TOO_LARGE")
    # In the filters, in the Lua, and in the connection's buffer.
    lifted = ("65536", "131072")
    with mesh.plain_edge(lifted) as edge, edge.rest(**bearer(mesh)) as client:
        assert client.post("/pay", json=body).status_code == 201


# One HTTP/1.1 request that two readers could take for two


def plain_exchange(port: int, request: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        return connection.recv(4096).decode()


CLOSED_BODY = "0\n\n"


@pytest.mark.parametrize(
    "framing",
    [
        "content-length: 5\ntransfer-encoding: chunked\n",
        "transfer-encoding: chunked\ncontent-length: 5\n",
        "content-length: 5\ncontent-length: 6\n",
        "transfer-encoding: xchunked\n",
        "transfer-encoding: chunked\ntransfer-encoding: identity\n",
        "content-length: +5\n",
        "content-length : 5\n",
    ],
)
def test_a_request_of_two_lengths_is_refused(mesh: Mesh, framing: str) -> None:
    with mesh.plain_edge() as edge:
        start = f"POST /pay HTTP/1.1\nhost: x\nauthorization: {bearer(mesh)['authorization']}\n"
        answer = plain_exchange(edge.port, f"{start}{framing}\n{CLOSED_BODY}")
        assert answer.split()[1] in ("400", "501")
        assert "connection: close" in answer
        plain = plain_exchange(edge.port, f"{start}transfer-encoding: chunked\n\n{CLOSED_BODY}")
        assert plain.split()[1] == "201"


def test_two_lengths_pass_only_where_the_rule_against_them_is_lifted(mesh: Mesh) -> None:
    lifted = (
        '"statPrefix": "edge",',
        '"statPrefix": "edge", "httpProtocolOptions": {"allowChunkedLength": true},',
    )
    with mesh.plain_edge(lifted) as edge:
        answer = plain_exchange(
            edge.port,
            f"POST /pay HTTP/1.1\nhost: x\nauthorization: {bearer(mesh)['authorization']}\n"
            f"content-length: 5\ntransfer-encoding: chunked\n\n{CLOSED_BODY}",
        )
    assert answer.split()[1] == "201"


# HTTP/2 by hand, for what no client library does


class RawHttp2:
    """A connection whose owner may send any frame, and need not read."""

    def __init__(self, port: int, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self.encoder = Encoder()
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS))

    def headers(self, stream: int, *, end: bool, headers: dict[str, str]) -> bytes:
        block = self.encoder.encode(list(headers.items()))
        return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)

    def send(self, data: bytes) -> bool:
        """Says whether the other side still took it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Reads kind, stream and payload of frames until the other side closes or is silent."""
        with contextlib.suppress(OSError):
            while head := self._read(9):
                size, kind, _, stream = struct.unpack(">I", b"\0" + head[:3]) + struct.unpack(
                    ">BBI", head[3:]
                )
                yield kind, stream, self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return data

    def __enter__(self) -> RawHttp2:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def call(mesh: Mesh, path: str = "/pay", method: str = "POST") -> dict[str, str]:
    pseudo = {":method": method, ":scheme": "http", ":authority": "x", ":path": path}
    return {**pseudo, **bearer(mesh)}


def takes(mesh: Mesh, edge: Edge, calls: int) -> bool:
    """Opens so many calls on one connection, ends none, and sees whether one is refused."""
    with RawHttp2(edge.port) as connection:
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


def pings(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    for _ in range(300):
        yield frame(PING, payload=b"12345678") * 1000


def resets(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    unfinished = call(mesh)
    for number in range(700):
        stream = 2 * number + 1
        yield connection.headers(stream, end=False, headers=unfinished) + frame(
            RST_STREAM, 0, stream, struct.pack(">I", 8)
        )


def empty_frames(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    yield connection.headers(1, end=False, headers=call(mesh))
    yield frame(DATA, 0, 1) * 3


def priorities(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    yield connection.headers(1, end=False, headers=call(mesh))
    yield frame(PRIORITY, 0, 1, struct.pack(">IB", 0, 1)) * 400


def window_updates(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    yield connection.headers(1, end=True, headers=call(mesh, GET, "GET"))
    next(kind for kind, *_ in connection.frames() if kind == DATA)
    yield frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 400


def survives(edge: Edge, mesh: Mesh, flood: Callable[[RawHttp2, Mesh], Iterator[bytes]]) -> bool:
    """Floods a connection without reading, then asks whether it still answers."""
    with RawHttp2(edge.port, receive_buffer=4096) as connection:
        if not all(connection.send(piece) for piece in flood(connection, mesh)):
            return False
        connection.send(frame(PING, payload=b"the last"))
        received = b""
        with contextlib.suppress(OSError):
            while piece := connection.socket.recv(1 << 20):
                received = received[-8:] + piece
                if b"the last" in received:
                    return True
    return False


@pytest.mark.parametrize(
    ("flood", "lifted"),
    [
        (
            pings,
            [
                ('"maxOutboundControlFrames": 1000,', '"maxOutboundControlFrames": 9000000,'),
                ('"maxOutboundFrames": 10000,', '"maxOutboundFrames": 9000000,'),
            ],
        ),
        (
            resets,
            [
                ('total_stream_count": 500.0', 'total_stream_count": 9000.0'),
                ('"streamResetBurst": 500', '"streamResetBurst": 9000'),
            ],
        ),
        (empty_frames, [('FramesWithEmptyPayload": 1,', 'FramesWithEmptyPayload": 9,')]),
        (priorities, [('PriorityFramesPerStream": 100,', 'PriorityFramesPerStream": 9000,')]),
        (window_updates, [('PerDataFrameSent": 10,', 'PerDataFrameSent": 9000,')]),
    ],
)
def test_a_flood_of_frames_ends_the_connection(
    mesh: Mesh,
    flood: Callable[[RawHttp2, Mesh], Iterator[bytes]],
    lifted: list[tuple[str, str]],
) -> None:
    with mesh.plain_edge() as edge:
        assert not survives(edge, mesh, flood)
        # Others never notice.
        with edge.rest(**bearer(mesh)) as client:
            assert client.get(GET).status_code == 200
    with mesh.plain_edge(*lifted) as edge:
        assert survives(edge, mesh, flood)


# How many, how long, how much memory


def test_connections_beyond_the_limit_are_closed_and_ops_still_answers(mesh: Mesh) -> None:
    def open_and_ask(edge: Edge, stack: contextlib.ExitStack) -> bool:
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


def open_to_ops(edge: Edge, connections: int) -> int:
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


def unread_answers(mesh: Mesh, edge: Edge, calls: int, window: int) -> RawHttp2:
    """Asks for large answers, grants `window` bytes each, and reads nothing."""
    connection = RawHttp2(edge.port, receive_buffer=4096)
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
