"""Carries plans out by waiting: the sync client's input and output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, assert_never

import httpx

from smartpay_client import limits
from smartpay_client.errors import DeadlineExceeded, SmartPayError
from smartpay_client.plan import Answer, Authorize, Effect, Lost, Page, Pause, Plan, Send, lost
from smartpay_client.session import Session

T = TypeVar("T")


def timeouts(seconds: float) -> httpx.Timeout:
    """Bounds each step of a request by the time it has as a whole."""
    return httpx.Timeout(seconds, connect=min(limits.CONNECT_SECONDS, seconds))


class Connection:
    """Pooled connections to edge and issuer; many threads may share it.

    Args:
        session: makes the plans.
        edge: connections to the edge.
        issuer: connections to the issuer of tokens.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        session: Session,
        edge: httpx.Client,
        issuer: httpx.Client,
        sleep: Callable[[float], None],
    ) -> None:
        self.session = session
        self._edge = edge
        self._issuer = issuer
        self._sleep = sleep
        self._renewing = threading.Lock()

    def close(self) -> None:
        """Closes all connections."""
        self._edge.close()
        self._issuer.close()

    def run(self, plan: Plan[T]) -> T:
        """Carries a plan out and answers its result; raises what the plan raises."""
        reply: Any = None
        while True:
            try:
                effect = plan.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = self._carry_out(effect)

    def pages(self, page: Callable[[str], Plan[Page[T]]]) -> Iterator[T]:
        """Reads all items, asking for a page when the one before is read; AIP-158."""
        token = ""
        while True:
            read = self.run(page(token))
            yield from read.items
            token = read.next_page_token
            if not token:
                return

    def _carry_out(self, effect: Effect) -> object:
        match effect:
            case Send():
                return self._send(effect)
            case Pause(seconds):
                return self._sleep(seconds)
            case Authorize():
                return self._authorize(effect)
            case _:
                assert_never(effect)

    def _authorize(self, wanted: Authorize) -> str | SmartPayError:
        tokens = self.session.tokens
        if (token := tokens.held(wanted.refused)) is not None:
            return token
        if not self._renewing.acquire(timeout=max(0.0, wanted.ends - self.session.clock())):
            return DeadlineExceeded("The time was up before the issuer gave a token.")
        try:
            return self.run(tokens.fetch(wanted.refused, wanted.ends))
        finally:
            self._renewing.release()

    def _send(self, wanted: Send) -> Answer | Lost | httpx.Response:
        client = self._issuer if wanted.to_issuer else self._edge
        ends = self.session.clock() + wanted.seconds
        request = client.build_request(
            wanted.verb,
            wanted.url,
            headers=dict(wanted.headers),
            content=wanted.content,
            timeout=timeouts(wanted.seconds),
        )
        try:
            response = client.send(request, stream=True)
        except httpx.TransportError as error:
            return lost(error)
        if wanted.streams and response.status_code == httpx.codes.OK:
            return response
        body = bytearray()
        try:
            for chunk in response.iter_bytes():
                body += chunk
                if self.session.clock() > ends:  # the timeouts above bound each step alone
                    return lost(TimeoutError())
        except (httpx.TransportError, httpx.DecodingError) as error:
            return lost(error)
        finally:
            response.close()
        return Answer(response.status_code, dict(response.headers), bytes(body))
