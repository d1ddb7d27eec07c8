"""HTTP/2 by hand (RFC 9113), for what no client library does: any frame, any header, no reading."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterable, Iterator, Mapping

from hpack import Decoder, Encoder

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_BYTES = 16_384
"""The largest frame a peer takes who has not said otherwise (RFC 9113, 4.2)."""

PATIENCE_SECONDS = 10
"""How long a silent peer is waited for."""


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Writes one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def connect(port: int, receive_buffer: int = 0) -> socket.socket:
    """Connects to a port of this machine; a small receive buffer makes a reader that stalls."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(PATIENCE_SECONDS)
    connection.connect(("127.0.0.1", port))
    return connection


class RawHttp2:
    """A connection whose owner may send any frame, and need not read."""

    def __init__(self, connection: socket.socket | ssl.SSLSocket) -> None:
        self.socket = connection
        self.encoder = Encoder()
        self.ended = "closed"
        self.body = b""
        # Sent together with the first call: whoever is refused by TLS then hears why.
        self._unsent = PREFACE + frame(SETTINGS)

    def block(self, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
        """Packs headers (HPACK); a pair may occur twice."""
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        packed: bytes = self.encoder.encode(list(pairs))
        return packed

    def headers(self, stream: int, *, end: bool, headers: Mapping[str, str]) -> bytes:
        """Writes one HEADERS frame, and CONTINUATION frames for what is too large for it."""
        block = self.block(headers)
        pieces = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
        kinds = [HEADERS] + [CONTINUATION] * (len(pieces) - 1)
        ended = [END_STREAM if end else 0] + [0] * (len(pieces) - 1)
        ended[-1] |= END_HEADERS
        return b"".join(
            frame(kind, flags, stream, piece)
            for kind, flags, piece in zip(kinds, ended, pieces, strict=True)
        )

    def send(self, data: bytes) -> bool:
        """Says whether the other side still took it."""
        data, self._unsent = self._unsent + data, b""
        try:
            self.socket.sendall(data)
        except OSError as end:
            self._note(end)
            return False
        return True

    def _note(self, end: OSError) -> None:
        if isinstance(end, ssl.SSLError) and end.reason:
            self.ended = end.reason

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Reads kind, stream and payload of frames until the other side closes or is silent.

        What ended it stands in `ended` then, as TLS calls it if it was TLS.
        """
        if self._unsent:
            self.send(b"")
        try:
            while head := self._read(9):
                (size,), (kind, _, stream) = (
                    struct.unpack(">I", b"\0" + head[:3]),
                    struct.unpack(">BBI", head[3:]),
                )
                yield kind, stream, self._read(size)
        except OSError as end:
            self._note(end)

    def answer(self, stream: int = 1) -> dict[str, str]:
        """Reads a call's headers and trailers; empty when it was reset or the connection ended.

        The bytes of its answer stand in `body` then.
        """
        told: dict[str, str] = {}
        decoder = Decoder()
        for kind, of, payload in self.frames():
            if kind == SETTINGS and payload:
                self.send(frame(SETTINGS, 1))
            elif kind == GOAWAY or (kind == RST_STREAM and of == stream):
                return told if "grpc-status" in told else {}
            elif kind == DATA and of == stream:
                self.body += payload
            elif kind == HEADERS and of == stream:
                told |= {str(name): str(value) for name, value in decoder.decode(payload)}
                if "grpc-status" in told or told[":status"] >= "400":
                    return told
        return {}

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
