"""What a service measures of itself, for Prometheus: a few numbers that change slowly.

Calls, latencies and errors are counted by the sidecar. A service tells only what it alone can know;
the sidecar's ops listener hands it on as `GET /metrics/service`.
https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4)
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

REQUEST_SECONDS_MAX = 5.0
"""For a request to arrive: only the sidecar connects, and it sends at once."""

SUFFIX = ".gauges"
"""Added to the name of the service's socket; the sidecar's template does the same."""

_HEAD = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n"
    "connection: close\r\n\r\n"
)


class Gauges:
    """The newest value of each gauge; one event loop owns it.

    Names carry no labels, so that the number of series is the number of names in the code.
    """

    def __init__(self) -> None:
        self._values: dict[str, tuple[str, float]] = {}

    def tell(self, name: str, meaning: str, value: float | None) -> None:
        """Replaces a gauge's value; None takes it back, for there is nothing to tell.

        Args:
            name: letters, digits and underscores, by convention smartpay_<service>_<what>_<unit>.
            meaning: one line of text without a backslash.
            value: what was measured last.
        """
        if value is None:
            self._values.pop(name, None)
        else:
            self._values[name] = (meaning, value)

    def text(self) -> str:
        """All gauges as Prometheus reads them."""
        return "".join(
            f"# HELP {name} {meaning}\n# TYPE {name} gauge\n{name} {float(value)!r}\n"
            for name, (meaning, value) in sorted(self._values.items())
        )


async def serve_gauges(gauges: Gauges, listen_socket: Path) -> asyncio.Server:
    """Answers every request on the socket beside the service's own; close what it returns."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                await reader.readuntil(b"\r\n\r\n")
                body = gauges.text().encode()
                writer.write(_HEAD.format(len(body)).encode() + body)
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # whoever asked is gone, or did not ask
        finally:
            writer.close()

    # The sidecar runs as the same user; nobody else may connect.
    mask = os.umask(0o077)
    try:
        return await asyncio.start_unix_server(
            answer, listen_socket.absolute().with_name(listen_socket.name + SUFFIX)
        )
    finally:
        os.umask(mask)
