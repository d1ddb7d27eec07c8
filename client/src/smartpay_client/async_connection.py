"""Carries plans out on an event loop: the async client's input and output."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, assert_never

import httpx

from smartpay_client.connection import timeouts
from smartpay_client.errors import DeadlineExceeded, SmartPayError
from smartpay_client.plan import Answer, Authorize, Effect, Lost, Page, Pause, Plan, Send, lost
from smartpay_client.session import Session

T = TypeVar("T")


class AsyncConnection:
    """Pooled connections to edge and issuer; many tasks of one event loop may share it.

    Args:
        session: makes the plans.
        edge: connections to the edge.
        issuer: connections to the issuer of tokens.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        session: Session,
        edge: httpx.AsyncClient,
        issuer: httpx.AsyncClient,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.session = session
        self._edge = edge
        self._issuer = issuer
        self._sleep = sleep
        self._renewing = asyncio.Lock()

    async def close(self) -> None:
        """Closes all connections."""
        await self._edge.aclose()
        await self._issuer.aclose()

    async def run(self, plan: Plan[T]) -> T:
        """Carries a plan out and answers its result; raises what the plan raises."""
        reply: Any = None
        while True:
            try:
                effect = plan.send(reply)
            except StopIteration as end:
                result: T = end.value
                return result
            reply = await self._carry_out(effect)

    async def pages(self, page: Callable[[str], Plan[Page[T]]]) -> AsyncIterator[T]:
        """Reads all items, asking for a page when the one before is read; AIP-158."""
        token = ""
        while True:
            read = await self.run(page(token))
            for item in read.items:
                yield item
            token = read.next_page_token
            if not token:
                return

    async def _carry_out(self, effect: Effect) -> object:
        match effect:
            case Send():
                return await self._send(effect)
            case Pause(seconds):
                await self._sleep(seconds)
                return None
            case Authorize():
                return await self._authorize(effect)
            case _:
                assert_never(effect)

    async def _authorize(self, wanted: Authorize) -> str | SmartPayError:
        tokens = self.session.tokens
        if (token := tokens.held(wanted.refused)) is not None:
            return token
        left = max(0.0, wanted.ends - self.session.clock())
        try:
            async with asyncio.timeout(left):
                await self._renewing.acquire()
        except TimeoutError:
            return DeadlineExceeded("The time was up before the issuer gave a token.")
        try:
            return await self.run(tokens.fetch(wanted.refused, wanted.ends))
        finally:
            self._renewing.release()

    async def _send(self, wanted: Send) -> Answer | Lost | httpx.Response:
        client = self._issuer if wanted.to_issuer else self._edge
        request = client.build_request(
            wanted.verb,
            wanted.url,
            headers=dict(wanted.headers),
            content=wanted.content,
            timeout=timeouts(wanted.seconds),
        )
        try:
            async with asyncio.timeout(wanted.seconds):
                response = await client.send(request, stream=True)
                if wanted.streams and response.status_code == httpx.codes.OK:
                    return response
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
        except (httpx.TransportError, httpx.DecodingError, TimeoutError) as error:
            return lost(error)
        return Answer(response.status_code, dict(response.headers), body)
