"""Real sockets that break: the call goes on with the same key, or ends as an error."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from smartpay_client import Client, Money, StreamBroken, Unavailable

if TYPE_CHECKING:
    from client.tests.conftest import FakeEdge

ID = "d1" + "0" * 24
ORDER: dict[str, Any] = {
    "amount": Money(1999, "USD"),
    "instrument": {f"pac_{ID}": "pm_card_visa"},
    "capture_method": "AUTOMATIC",
}
PAYMENT = json.dumps({"paymentId": f"pay_{ID}", "status": "STATUS_SUCCEEDED"}).encode()
TOKEN = json.dumps({"access_token": "t", "expires_in": 3600}).encode()


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class BreakingServer:
    """Answers requests for payments from a script of raw bytes; b"" and "reset" break off.

    Every connection serves one request, as a server that is going away does.
    """

    def __init__(self) -> None:
        self.script: list[bytes | str] = []
        self.keys: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        with socket.create_connection(self._listener.getsockname()) as last:
            last.sendall(b"QUIT / HTTP/1.1\r\n\r\n")
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                head = self._read(connection)
                if head.startswith("QUIT"):
                    return
                if "/oauth2/token" in head:
                    connection.sendall(whole(TOKEN))
                    continue
                lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
                self.keys.append(lines.get("idempotency-key", ""))
                reply = self.script.pop(0)
                if isinstance(reply, bytes):
                    connection.sendall(reply)
                else:
                    linger = struct.pack("ii", 1, 0)  # close() then resets; socket(7)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    @staticmethod
    def _read(connection: socket.socket) -> str:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(body) < length:
            body += connection.recv(65536)
        return head.decode()


@pytest.fixture
def server() -> Iterator[BreakingServer]:
    running = BreakingServer()
    yield running
    running.close()


async def drive(
    url: str, edge: FakeEdge, make: Callable[..., Any], kind: str, use: Callable[[Any], Any]
) -> Any:
    """Runs a call of either client over real sockets, without pauses."""
    arguments = {
        "base_url": url,
        "token_url": f"{url}/oauth2/token",
        "transport": None,
        "chance": lambda: 0.0,
    }
    clock = asyncio.get_running_loop().time
    client = make(kind, edge, clock=clock, sleep=nothing(kind), **arguments)
    if kind == "async":
        async with client:
            result = use(client)
            return [p async for p in result] if hasattr(result, "__aiter__") else await result

    def work() -> Any:
        with client:
            result = use(client)
            return list(result) if hasattr(result, "__next__") else result

    return await asyncio.to_thread(work)


def nothing(kind: str) -> Callable[[float], Any]:
    return (lambda seconds: None) if kind == "sync" else asyncio.sleep


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_payment_survives_every_way_a_connection_can_break(
    server: BreakingServer, edge: FakeEdge, make: Callable[..., Any], kind: str
) -> None:
    truncated = whole(PAYMENT)[:-7]
    server.script = [b"", "reset", truncated, whole(PAYMENT)]
    payment = await drive(server.url, edge, make, kind, lambda c: c.payments.create(**ORDER))
    assert payment.succeeded
    assert len(server.keys) == 4
    assert len(set(server.keys)) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_kept_connection_that_was_closed_meanwhile_is_no_error(
    server: BreakingServer, edge: FakeEdge, make: Callable[..., Any], kind: str
) -> None:
    server.script = [whole(PAYMENT), whole(PAYMENT)]

    def twice(client: Client) -> Any:
        client.payments.create(**ORDER)
        return client.payments.create(**ORDER)

    async def twice_async(client: Any) -> Any:
        await client.payments.create(**ORDER)
        return await client.payments.create(**ORDER)

    use = twice if kind == "sync" else twice_async
    assert (await drive(server.url, edge, make, kind, use)).succeeded
    assert len(server.keys) == 2


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_broken_stream_is_an_error_and_never_a_short_answer(
    server: BreakingServer, edge: FakeEdge, make: Callable[..., Any], kind: str
) -> None:
    piece = b'data: {"token": {"text": "Hello"}}\n\n'
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    for broken in (head + chunk, head + chunk + b"0\r\n\r\n"):
        server.script = [broken]
        with pytest.raises(StreamBroken):
            await drive(server.url, edge, make, kind, lambda c: c.chat.stream("How much?"))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_nobody_listening_is_unavailable(
    edge: FakeEdge, make: Callable[..., Any], kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Unavailable):
        await drive(url, edge, make, kind, lambda c: c.payments.get(f"pay_{ID}"))
