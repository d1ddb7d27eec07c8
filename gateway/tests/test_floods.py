"""Floods of HTTP/2 frames that cost the receiver more than the sender end with their connection.

CVE-2019-9511 to 9518, CVE-2023-44487 (rapid reset), CVE-2024-30255 (CONTINUATION). Each flood
passes once the limits that are met by it, and no others, are lifted.
"""

from __future__ import annotations

import contextlib
import functools
import struct
from collections.abc import Callable, Iterator, Sequence

import pytest

from smartpay_gateway.testing import PAYMENT_ID, Envoy, Mesh
from smartpay_gateway.testing.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawHttp2,
    connect,
    frame,
)

GET = f"/payments/{PAYMENT_ID}"
SCOPES = "smartpay/payments.read smartpay/payments.write"
Flood = Callable[[RawHttp2, Mesh], Iterator[bytes]]


def bearer(mesh: Mesh) -> dict[str, str]:
    return {"authorization": f"Bearer {mesh.issuer.token(SCOPES)}"}


def call(mesh: Mesh, path: str = "/pay", method: str = "POST") -> dict[str, str]:
    pseudo = {":method": method, ":scheme": "http", ":authority": "x", ":path": path}
    return {**pseudo, **bearer(mesh)}


def settings(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    """Changes the window again and again; every change has to be acknowledged."""
    for _ in range(300):
        yield frame(SETTINGS, payload=struct.pack(">HI", 4, 65_535)) * 1000


def unended(connection: RawHttp2, mesh: Mesh, pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Begins a call whose headers go on and on, and ends them in the end."""
    yield frame(HEADERS, END_STREAM, 1, connection.block(call(mesh, GET, "GET")))
    for piece in pieces:
        yield frame(CONTINUATION, 0, 1, piece)
    yield frame(CONTINUATION, END_HEADERS, 1)


def continuations(pieces: int, connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    return unended(connection, mesh, [connection.block({"x-piece": "y"})] * pieces)


def empty_continuations(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    return unended(connection, mesh, [b""] * 5)


def provoked_resets(connection: RawHttp2, mesh: Mesh) -> Iterator[bytes]:
    """Has the other side do the resetting (CVE-2025-8671), by bodies longer than they say."""
    wrong = {**call(mesh), "content-length": "1"}
    for number in range(700):
        stream = 2 * number + 1
        yield connection.headers(stream, end=False, headers=wrong) + frame(DATA, 0, stream, b"{}")


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


def survives(edge: Envoy, mesh: Mesh, flood: Flood) -> bool:
    """Floods a connection without reading, then asks whether it still answers."""
    with RawHttp2(connect(edge.port, receive_buffer=4096)) as connection:
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


FRAMES_WAITING = [
    ('"maxOutboundControlFrames": 1000,', '"maxOutboundControlFrames": 9000000,'),
    ('"maxOutboundFrames": 10000,', '"maxOutboundFrames": 9000000,'),
]
EARLY_ENDS = ('total_stream_count": 500.0', 'total_stream_count": 9000.0')
EMPTY = ('FramesWithEmptyPayload": 1,', 'FramesWithEmptyPayload": 9,')


@pytest.mark.parametrize(
    ("flood", "lifted"),
    [
        (settings, FRAMES_WAITING),
        (pings, FRAMES_WAITING),
        (resets, [EARLY_ENDS, ('"streamResetBurst": 500', '"streamResetBurst": 9000')]),
        (provoked_resets, [EARLY_ENDS]),
        (empty_frames, [EMPTY]),
        (empty_continuations, [EMPTY]),
        (priorities, [('PriorityFramesPerStream": 100,', 'PriorityFramesPerStream": 9000,')]),
        (window_updates, [('PerDataFrameSent": 10,', 'PerDataFrameSent": 9000,')]),
    ],
)
def test_a_flood_of_frames_ends_the_connection(
    mesh: Mesh, flood: Flood, lifted: list[tuple[str, str]]
) -> None:
    with mesh.plain_edge() as edge:
        assert not survives(edge, mesh, flood)
        # Others never notice.
        with edge.rest(**bearer(mesh)) as client:
            assert client.get(GET).status_code == 200
    with mesh.plain_edge(*lifted) as edge:
        assert survives(edge, mesh, flood)


@pytest.mark.parametrize(("pieces", "ends"), [(300, False), (600, True)])
def test_headers_in_too_many_continuations_end_the_connection(
    mesh: Mesh, pieces: int, ends: bool
) -> None:
    # The codec's own bound, which no setting lifts: 512 frames.
    with mesh.plain_edge() as edge:
        flood = functools.partial(continuations, pieces)
        assert survives(edge, mesh, flood) is not ends
        with edge.rest(**bearer(mesh)) as client:
            assert client.get(GET).status_code == 200
