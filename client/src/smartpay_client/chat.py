"""The assistant: one answer at once, or as a stream that is only whole with its last piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias, Unpack

import httpx

from smartpay_client import _methods as methods
from smartpay_client._contract import (
    AskResponse,
    ChatResponse,
    Citation,
    Done,
    Plan,
    Token,
    ToolCall,
    Usage,
)
from smartpay_client.async_connection import AsyncConnection
from smartpay_client.connection import Connection
from smartpay_client.errors import DeadlineExceeded, StreamBroken
from smartpay_client.plan import Plan as CallPlan
from smartpay_client.session import CallOptions, Session
from smartpay_client.wire import UnreadableError, decode, parse

Piece: TypeAlias = Plan | ToolCall | Token | Citation | Usage | Done
_ASK_AGAIN = "Ask again; what came so far is not the whole answer."


class Pieces:
    """Reads server-sent events line by line; html.spec.whatwg.org, section 9.2.

    Args:
        request_id: of the call, for errors.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._data: list[str] = []
        self.is_complete = False

    def take(self, line: str) -> Piece | None:
        """Takes a line without its end; answers the piece it completes.

        Raises:
            StreamBroken: when the stream says that the answer failed, or can't be read.
        """
        if line:
            name, _, value = line.partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            return None
        if not self._data:
            return None
        data, self._data = "\n".join(self._data), []
        try:
            response = decode(ChatResponse, parse(data.encode()))
        except UnreadableError as error:
            raise self._broken(f"A piece is not of the documented shape ({error}).") from error
        if response.error is not None:
            raise self._broken(response.error.message, response.error.reason)
        pieces = (response.plan, response.tool, response.token, response.citation, response.usage)
        self.is_complete = response.done is not None
        return response.done or next((piece for piece in pieces if piece is not None), None)

    def end(self, cause: Exception | None = None) -> StreamBroken:
        """Makes the error of a stream that ended before its last piece."""
        error = self._broken("The answer broke off.")
        error.__cause__ = cause
        return error

    def late(self) -> DeadlineExceeded:
        """Makes the error of a stream that took too long."""
        return DeadlineExceeded(
            "The time was up before the answer was whole.",
            remedy="Ask again with a longer deadline.",
            request_id=self._request_id,
        )

    def _broken(self, detail: str, reason: str = "") -> StreamBroken:
        return StreamBroken(
            detail, status=200, reason=reason, remedy=_ASK_AGAIN, request_id=self._request_id
        )


class ChatPlans:
    """What the calls do, whoever waits for them.

    Args:
        session: of the client.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def ask(self, message: str, options: CallOptions) -> CallPlan[AskResponse]:
        """Asks for a whole answer."""
        return self._session.ask(AskResponse, methods.ASK, options, body={"message": message})

    def open(self, message: str, options: CallOptions, ends: float) -> CallPlan[Any]:
        """Asks for a stream and answers the opened response."""
        return self._session.open(
            methods.CHAT, options, body={"message": message}, accept="text/event-stream", ends=ends
        )


class Chat:
    """`client.chat`.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._plans = ChatPlans(connection.session)

    def ask(self, message: str, **options: Unpack[CallOptions]) -> AskResponse:
        """Asks a question about one's own payments and waits for the whole answer."""
        return self._connection.run(self._plans.ask(message, options))

    def stream(self, message: str, **options: Unpack[CallOptions]) -> Iterator[Piece]:
        """Asks a question and gives the answer piece by piece; the last one is a Done.

        Raises:
            StreamBroken: when the answer fails or breaks off: what came is not the whole.
            SmartPayError: before the first piece, as any call.
        """
        session = self._connection.session
        ends = session.ends(methods.CHAT, options)
        response: httpx.Response = self._connection.run(self._plans.open(message, options, ends))
        pieces = Pieces(response.headers.get("x-request-id", ""))
        try:
            for line in response.iter_lines():
                if session.clock() > ends:
                    raise pieces.late()
                if (piece := pieces.take(line)) is not None:
                    yield piece
                if pieces.is_complete:
                    return
        except httpx.TimeoutException as error:
            raise pieces.late() from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise pieces.end(error) from error
        finally:
            response.close()
        raise pieces.end()


class AsyncChat:
    """`client.chat` of the async client; the same calls.

    Args:
        connection: carries the calls out.
    """

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._plans = ChatPlans(connection.session)

    async def ask(self, message: str, **options: Unpack[CallOptions]) -> AskResponse:
        """As `Chat.ask`."""
        return await self._connection.run(self._plans.ask(message, options))

    async def stream(self, message: str, **options: Unpack[CallOptions]) -> AsyncIterator[Piece]:
        """As `Chat.stream`; leave it early inside `contextlib.aclosing`."""
        session = self._connection.session
        ends = session.ends(methods.CHAT, options)
        response: httpx.Response = await self._connection.run(
            self._plans.open(message, options, ends)
        )
        pieces = Pieces(response.headers.get("x-request-id", ""))
        lines = response.aiter_lines()
        try:
            while True:
                async with asyncio.timeout(max(0.0, ends - session.clock())):
                    line = await anext(lines, None)
                if line is None:
                    raise pieces.end()
                if (piece := pieces.take(line)) is not None:
                    yield piece
                if pieces.is_complete:
                    return
        except (httpx.TimeoutException, TimeoutError) as error:
            raise pieces.late() from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise pieces.end(error) from error
        finally:
            await response.aclose()
