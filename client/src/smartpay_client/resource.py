"""What the sync client's generated calls are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import httpx

from smartpay_client.connection import Connection
from smartpay_client.exports import Export
from smartpay_client.method import Method
from smartpay_client.session import CallOptions, parts_of

T = TypeVar("T")
A = TypeVar("A")

Fields = Mapping[str, object]


class Resource:
    """The calls of one service of the contract.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session = connection.session

    def _ask(self, kind: type[A], method: Method, options: CallOptions, fields: Fields) -> A:
        plan = self._session.ask(kind, method, options, **parts_of(method, fields))
        return self._connection.run(plan)

    def _tell(self, method: Method, options: CallOptions, fields: Fields) -> None:
        self._connection.run(self._session.tell(method, options, **parts_of(method, fields)))

    def _pages(
        self,
        kind: type[A],
        items: Callable[[A], tuple[T, ...]],
        method: Method,
        options: CallOptions,
        fields: Fields,
    ) -> Iterator[T]:
        return self._connection.pages(self._session.page(kind, items, method, options, fields))

    def _rows(self, method: Method, options: CallOptions, fields: Fields) -> Iterator[bytes]:
        export = Export(self._session, method, options, fields)
        while not export.is_whole:
            response: httpx.Response = self._connection.run(export.open())
            cause: Exception | None = None
            try:
                for piece in response.iter_bytes():
                    yield from export.take(piece)
                    if export.seconds_left() <= 0:
                        break
            except (httpx.TransportError, httpx.DecodingError) as error:
                cause = error
            finally:
                response.close()
            export.ended(cause)
