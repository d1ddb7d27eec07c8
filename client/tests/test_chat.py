"""A streamed answer is whole only with its last piece."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartpay_client import (
    Citation,
    DeadlineExceeded,
    Done,
    Plan,
    StreamBroken,
    Token,
    ToolCall,
    Unavailable,
    Usage,
)
from smartpay_client.chat import Pieces

if TYPE_CHECKING:
    from client.tests.conftest import Caller, FakeEdge

WORDS = {"token": {"text": "Hello"}}
DONE = {"done": {"refused": True}}


def stream(client: Any) -> Any:
    return client.chat.stream("How much?")


async def test_every_kind_of_piece_arrives_as_its_type(edge: FakeEdge, caller: Caller) -> None:
    edge.script(
        "Chat",
        edge.sse(
            {"plan": {"planner": "deterministic", "steps": ["look"]}},
            {"tool": {"name": "query_metrics", "argumentsJson": "{}", "resultJson": "[]"}},
            WORDS,
            {"citation": {"text": "19.99", "source": "query_metrics[0]", "paymentIds": ["p"]}},
            {"usage": {"toolCalls": 1, "inputTokens": 0, "outputTokens": 0}},
            DONE,
        ),
    )
    assert await caller.all(stream) == [
        Plan("deterministic", ("look",)),
        ToolCall("query_metrics", "{}", "[]"),
        Token("Hello"),
        Citation("19.99", "query_metrics[0]", ("p",)),
        Usage(1, 0, 0),
        Done(refused=True),
    ]
    assert edge.calls[0].headers["accept"] == "text/event-stream"


async def read(caller: Caller, pieces: list[Any]) -> None:
    result = stream(caller.client)
    if hasattr(result, "__aiter__"):
        async for piece in result:
            pieces.append(piece)
    else:
        for piece in result:
            pieces.append(piece)


async def test_a_stream_that_ends_without_done_is_broken(edge: FakeEdge, caller: Caller) -> None:
    for body in (edge.sse(WORDS), httpx.Response(200, text="")):
        edge.script("Chat", body)
        pieces: list[Any] = []
        with pytest.raises(StreamBroken, match="broke off"):
            await read(caller, pieces)
        assert pieces in ([Token("Hello")], [])


class BreakingStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """One piece, then an error of the connection."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __iter__(self) -> Any:
        yield f"data: {json.dumps(WORDS)}\n\n".encode()
        raise self._error

    async def __aiter__(self) -> Any:
        yield f"data: {json.dumps(WORDS)}\n\n".encode()
        raise self._error


@pytest.mark.parametrize(
    ("error", "family"),
    [
        (httpx.RemoteProtocolError("incomplete chunked read"), StreamBroken),
        (httpx.ReadTimeout("slow"), DeadlineExceeded),
    ],
)
async def test_a_connection_that_breaks_amid_an_answer_is_told(
    edge: FakeEdge, caller: Caller, error: Exception, family: type[Exception]
) -> None:
    edge.script("Chat", httpx.Response(200, stream=BreakingStream(error)))
    pieces: list[Any] = []
    with pytest.raises(family) as caught:
        await read(caller, pieces)
    assert pieces == [Token("Hello")]
    assert caught.value.__cause__ is error
    assert len(edge.calls) == 1, "what was heard is not heard twice"


async def test_an_answer_that_failed_is_an_error(edge: FakeEdge, caller: Caller) -> None:
    failed = {"error": {"reason": "INDEX_NOT_READY", "message": "Not yet."}}
    edge.script("Chat", edge.sse(WORDS, failed, DONE))
    pieces: list[Any] = []
    with pytest.raises(StreamBroken) as caught:
        await read(caller, pieces)
    assert (caught.value.reason, caught.value.detail) == ("INDEX_NOT_READY", "Not yet.")
    assert pieces == [Token("Hello")]


async def test_a_stream_that_does_not_begin_is_asked_for_again(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("Chat", httpx.ReadError("reset"), edge.problem(503, "UNAVAILABLE"))
    assert (await caller.all(stream))[-1] == Done()
    assert len(edge.calls) == 3


async def test_a_stream_that_never_begins_is_an_error(edge: FakeEdge, caller: Caller) -> None:
    edge.script("Chat", *[edge.problem(503, "INDEX_NOT_READY")] * 99)
    with pytest.raises(Unavailable):
        await caller.all(stream)


async def test_a_piece_of_another_shape_is_an_error(edge: FakeEdge, caller: Caller) -> None:
    for text in ("data: {\n\n", "data: []\n\n", 'data: {"token": 5}\n\n'):
        edge.script("Chat", httpx.Response(200, text=text))
        with pytest.raises(StreamBroken, match="documented shape"):
            await caller.all(stream)


async def test_a_kind_of_piece_that_a_newer_edge_sends_is_passed_over(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("Chat", edge.sse({"picture": {"url": "x"}}, WORDS, DONE))
    assert await caller.all(stream) == [Token("Hello"), Done(refused=True)]


def test_events_are_read_as_the_standard_says() -> None:
    pieces = Pieces("")
    lines = [": a comment", "event: message", "id: 1", 'data:{"token":', 'data: {"text": "x"}}']
    assert [pieces.take(line) for line in [*lines, ""]] == [None] * 5 + [Token("x")]
    assert pieces.take("") is None


async def test_an_answer_takes_no_longer_than_its_deadline(
    edge: FakeEdge, make: Callable[..., Any]
) -> None:
    edge.script("Chat", edge.sse(WORDS, WORDS, DONE))
    with make("sync", edge) as client:
        answer = client.chat.stream("How much?", deadline=5)
        assert next(answer) == Token("Hello")
        edge.clock.now += 6
        with pytest.raises(DeadlineExceeded):
            next(answer)


async def test_a_reader_may_leave_early(edge: FakeEdge, make: Callable[..., Any]) -> None:
    closed = []

    class Watched(BreakingStream):
        async def aclose(self) -> None:
            closed.append("async")

        def close(self) -> None:
            closed.append("sync")

    for kind in ("sync", "async"):
        body = Watched(httpx.ReadError("never read"))
        edge.script("Chat", httpx.Response(200, stream=body))
        client = make(kind, edge)
        answer = client.chat.stream("How much?")
        if kind == "sync":
            assert next(answer) == Token("Hello")
            answer.close()
            client.close()
        else:
            async with client, aclosing(answer):
                assert await anext(answer) == Token("Hello")
    assert closed == ["sync", "async"]


async def test_a_question_is_answered_at_once(edge: FakeEdge, caller: Caller) -> None:
    edge.script(
        "Ask", httpx.Response(200, json={"answer": "19.99 USD", "citations": [{"text": "19.99"}]})
    )
    answer = await caller(lambda c: c.chat.ask("How much?"))
    assert answer.answer == "19.99 USD"
    assert answer.citations == (Citation("19.99"),)
    assert not answer.refused
