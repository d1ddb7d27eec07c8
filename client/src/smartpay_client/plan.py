"""A plan is a call without its input and output: it yields what to do and is sent what came of it.

The sync and the async client carry out the same plans, so that they differ in waiting alone.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send a request; replied to by an Answer, a Lost, or an opened response if it streams.

    Attributes:
        seconds: how long until the whole answer must be there; with `streams`, its head.
        streams: leave the body of a 200 to the caller.
    """

    verb: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    seconds: float
    to_issuer: bool = False
    streams: bool = False


@dataclass(frozen=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True)
class Authorize:
    """Get an access token; replied to by its text or a SmartPayError.

    Attributes:
        refused: a token the edge has just refused; "" for none.
        ends: when the call must end, by the client's clock.
    """

    refused: str = field(repr=False)
    ends: float


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        headers: with lower-case names.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Lost:
    """No answer came.

    Attributes:
        detail: one sentence, without addresses or secrets.
        reached: the other side may have begun to work.
        timed_out: it was our time that was up.
        hopeless: repeating can't help.
    """

    detail: str
    reached: bool = True
    timed_out: bool = False
    hopeless: bool = False
    cause: Exception | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list; an empty next_page_token is the end."""

    items: tuple[T, ...]
    next_page_token: str


Effect: TypeAlias = Send | Pause | Authorize
Plan: TypeAlias = Generator[Effect, Any, T]


def lost(error: Exception) -> Lost:
    """Tells what an exception of the transport means for the call."""
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return Lost("No connection came about in time.", False, True, cause=error)
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return Lost("No answer came in time.", True, True, cause=error)
    if isinstance(error, httpx.ConnectError):
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            detail = "The other side's certificate is not trusted."
            return Lost(detail, False, hopeless=True, cause=error)
        return Lost("No connection could be made.", False, cause=error)
    return Lost("The connection broke before the answer was there.", cause=error)
