"""What every simulator offers, so that one process and one control API can run them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.types import ASGIApp, Receive, Scope

HANG_UP = "smartpay.hang_up"
"""The ASGI extension by which an app drops its TCP connection; `listener.py` provides it."""


class Simulator(Protocol):
    """One vendor's wire, kept durable in a state folder and breakable on demand."""

    @property
    def app(self) -> ASGIApp:
        """The ASGI app that speaks the vendor's protocol, mounted under the vendor's name."""
        ...

    def dump(self) -> dict[str, Any]:
        """Return everything the simulator knows, because it is the judge in the chaos tests."""
        ...

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules.

        Raises:
            ValueError: if a rule cannot be understood; the message names field and remedy.
        """
        ...

    def clear_faults(self) -> None:
        """Behave again."""
        ...

    async def start(self) -> None:
        """Load the durable state; called once before the first request."""
        ...

    async def stop(self) -> None:
        """Release files; called once after the last request."""
        ...


async def hang_up(scope: Scope, receive: Receive) -> None:
    """Drop the caller's connection without an answer, and return once it is gone.

    Raises:
        RuntimeError: if the server does not provide the `smartpay.hang_up` extension.
    """
    abort = scope.get("extensions", {}).get(HANG_UP)
    if abort is None:
        raise RuntimeError("This server cannot drop connections; serve the app by listener.py.")
    abort()
    while (await receive())["type"] != "http.disconnect":
        pass
