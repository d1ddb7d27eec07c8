"""What the async client's generated calls are made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import httpx

from smartpay_client.async_connection import AsyncConnection
from smartpay_client.exports import Export
from smartpay_client.method import Method
from smartpay_client.resource import Fields
from smartpay_client.session import CallOptions, parts_of

T = TypeVar("T")
A = TypeVar("A")


class AsyncResource:
    """The calls of one service of the contract.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._session = connection.session

    async def _ask(self, kind: type[A], method: Method, options: CallOptions, fields: Fields) -> A:
        plan = self._session.ask(kind, method, options, **parts_of(method, fields))
        return await self._connection.run(plan)

    async def _tell(self, method: Method, options: CallOptions, fields: Fields) -> None:
        await self._connection.run(self._session.tell(method, options, **parts_of(method, fields)))

    def _pages(
        self,
        kind: type[A],
        items: Callable[[A], tuple[T, ...]],
        method: Method,
        options: CallOptions,
        fields: Fields,
    ) -> AsyncIterator[T]:
        return self._connection.pages(self._session.page(kind, items, method, options, fields))

    async def _rows(
        self, method: Method, options: CallOptions, fields: Fields
    ) -> AsyncIterator[bytes]:
        export = Export(self._session, method, options, fields)
        while not export.is_whole:
            response: httpx.Response = await self._connection.run(export.open())
            pieces = response.aiter_bytes()
            cause: Exception | None = None
            try:
                while (left := export.seconds_left()) > 0:
                    async with asyncio.timeout(left):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    for row in export.take(piece):
                        yield row
            except (httpx.TransportError, httpx.DecodingError, TimeoutError) as error:
                cause = error
            finally:
                await response.aclose()
            export.ended(cause)
