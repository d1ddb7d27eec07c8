"""A file is given whole, or the error says after which row to go on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartpay_client import (
    DeadlineExceeded,
    InvalidRequest,
    ServerFault,
    StreamBroken,
    Unavailable,
    limits,
)

if TYPE_CHECKING:
    from client.tests.conftest import Caller, FakeEdge

IDS = [f"pay_d1{number:024}" for number in range(6)]
HEAD = b"payment_id,description\r\n"


def row(payment_id: str) -> bytes:
    """Writes a row whose text holds everything that could be taken for a row's end."""
    text = io.StringIO()
    csv.writer(text).writerow([payment_id, 'a "note",\r\nend,1\nü'])
    return text.getvalue().encode()


def part(ids: list[str], *, head: bytes = HEAD) -> bytes:
    return head + b"".join(row(each) for each in ids) + b"end,%d\r\n" % len(ids)


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Gives bytes in pieces, then ends or breaks."""

    def __init__(self, body: bytes, size: int = 7, error: Exception | None = None) -> None:
        self._pieces = [body[at : at + size] for at in range(0, len(body), size)]
        self._error = error

    def __iter__(self) -> Any:
        yield from self._pieces
        if self._error:
            raise self._error

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


def answer(body: bytes, error: Exception | None = None) -> httpx.Response:
    return httpx.Response(200, stream=Pieces(body, error=error))


def export(client: Any) -> Any:
    return client.exports.payments("CSV", customer_id="payer")


def afters(edge: FakeEdge) -> list[str]:
    messages: list[Any] = [call.message for call in edge.calls]
    assert {message.customer_id for message in messages} == {"payer"}, "filters stay the same"
    return [message.after for message in messages]


async def read(caller: Caller, rows: list[bytes], use: Callable[[Any], Any] = export) -> None:
    result = use(caller.client)
    if hasattr(result, "__aiter__"):
        async for each in result:
            rows.append(each)
    else:
        for each in result:
            rows.append(each)


async def test_a_whole_file_is_given_row_by_row_without_its_last_line(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("ExportPayments", answer(part(IDS)))
    rows = await caller.all(export)
    assert rows == [HEAD, *(row(each) for each in IDS)]
    table = list(csv.reader(io.StringIO(b"".join(rows).decode(), newline="")))
    assert [line[0] for line in table] == ["payment_id", *IDS]
    assert edge.calls[0].headers["accept"] == "*/*"


@pytest.mark.parametrize("error", [None, httpx.RemoteProtocolError("incomplete chunked read")])
async def test_wherever_a_file_is_cut_each_row_comes_once(
    edge: FakeEdge, caller: Caller, error: Exception | None
) -> None:
    whole = part(IDS[:3])
    for length in range(len(whole)):
        edge.calls.clear()
        kept = [each for each in IDS[:3] if row(each) in whole[:length]]
        rest = [each for each in IDS[:3] if each not in kept]
        edge.script("ExportPayments", answer(whole[:length], error), answer(part(rest)))
        assert await caller.all(export) == [HEAD, *(row(each) for each in IDS[:3])]
        assert afters(edge) == ["", kept[-1] if kept else ""]


async def test_a_file_may_be_cut_as_often_as_each_part_brings_a_row(
    edge: FakeEdge, caller: Caller
) -> None:
    ids = [f"pay_d1{number:024}" for number in range(3 * limits.TRIES)]
    edge.script("ExportPayments", *(answer(HEAD + row(each)) for each in ids), answer(part([])))
    assert await caller.all(export) == [HEAD, *(row(each) for each in ids)]
    assert afters(edge) == ["", *ids]
    assert edge.clock.slept == [0.25] * len(ids)


async def test_parts_that_bring_nothing_end_as_an_error_that_says_where_to_go_on(
    edge: FakeEdge, caller: Caller
) -> None:
    error = httpx.ReadError("reset")
    parts = [HEAD + row(IDS[0]), *[HEAD] * 9]
    edge.script("ExportPayments", *(answer(body, error) for body in parts))
    rows: list[bytes] = []
    with pytest.raises(StreamBroken, match=f"after='{IDS[0]}'") as caught:
        await read(caller, rows)
    assert rows == [HEAD, row(IDS[0])]
    assert caught.value.__cause__ is error
    assert afters(edge) == ["", *[IDS[0]] * (limits.TRIES - 1)]


async def test_going_on_by_hand_brings_no_second_header(edge: FakeEdge, caller: Caller) -> None:
    edge.script("ExportPayments", answer(part(IDS[1:])))
    rows = await caller.all(lambda c: c.exports.payments("CSV", after=IDS[0], customer_id="payer"))
    assert rows == [row(each) for each in IDS[1:]]


async def test_lines_of_json_go_on_as_well(edge: FakeEdge, caller: Caller) -> None:
    def line(number: int) -> bytes:
        entry = {"transactionId": "capture", "entryId": str(number), "account": 'x "\u2028'}
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"

    end = b'{"end":{"rows":"1"}}\n'
    cut = line(9) + line(8) + line(7)[:-3]
    edge.script("ExportLedgerEntries", answer(cut), answer(line(7) + end))
    rows = await caller.all(lambda c: c.exports.ledger_entries("JSONL"))
    assert rows == [line(9), line(8), line(7)]
    messages: list[Any] = [call.message for call in edge.calls]
    assert [message.after for message in messages] == ["", "8"]


async def test_an_empty_file_is_its_header(edge: FakeEdge, caller: Caller) -> None:
    edge.script("ExportPayments", answer(part([])))
    assert await caller.all(export) == [HEAD]


@pytest.mark.parametrize(
    "body",
    [
        HEAD + row(IDS[0]) + b"end,2\r\n",
        HEAD + b"end,many\r\n",
        part(IDS[:1]) + row(IDS[1]),
    ],
)
async def test_a_file_that_contradicts_itself_is_a_fault(
    edge: FakeEdge, caller: Caller, body: bytes
) -> None:
    edge.script("ExportPayments", answer(body))
    with pytest.raises(ServerFault) as caught:
        await caller.all(export)
    assert caught.value.reason == "ANSWER_UNREADABLE"
    assert len(edge.calls) == 1


async def test_json_without_ids_is_a_fault_once_it_is_cut(edge: FakeEdge, caller: Caller) -> None:
    for body in (b"{}\n", b"[]\n", b"x\n", b'{"end":1}\n'):
        edge.script("ExportPayments", answer(body))
        with pytest.raises(ServerFault):
            await caller.all(lambda c: c.exports.payments("JSONL"))


async def test_a_refusal_is_an_error_before_the_first_row(edge: FakeEdge, caller: Caller) -> None:
    edge.script("ExportPayments", edge.problem(400, "FIELD_INVALID"))
    with pytest.raises(InvalidRequest):
        await caller.all(export)
    edge.script("ExportPayments", *[edge.problem(429, "UNAVAILABLE")] * 2, answer(part(IDS)))
    assert len(await caller.all(export)) == 1 + len(IDS), "too many exports at once: later"
    edge.script("ExportPayments", answer(HEAD), *[httpx.ConnectError("away")] * 99)
    with pytest.raises(Unavailable):
        await caller.all(export)


class SlowPieces(Pieces):
    """Each piece takes its seconds."""

    def __init__(self, edge: FakeEdge, body: bytes, seconds: float) -> None:
        super().__init__(body, size=len(HEAD + row(IDS[0])))
        self._edge, self._seconds = edge, seconds

    def __iter__(self) -> Any:
        for piece in self._pieces:
            self._edge.clock.now += self._seconds
            yield piece


async def test_a_deadline_bounds_the_whole_file(edge: FakeEdge, caller: Caller) -> None:
    slow = httpx.Response(200, stream=SlowPieces(edge, part(IDS), 4))
    edge.script("ExportPayments", slow)
    rows: list[bytes] = []
    with pytest.raises(DeadlineExceeded, match=f"after='{IDS[2]}'"):
        await read(
            caller, rows, lambda c: c.exports.payments("CSV", customer_id="payer", deadline=10)
        )
    assert rows == [HEAD, *(row(each) for each in IDS[:3])]
    assert len(edge.calls) == 1


async def test_without_a_deadline_a_file_takes_as_long_as_it_comes(
    edge: FakeEdge, caller: Caller
) -> None:
    seconds = 2 * (300 + limits.ANSWER_MARGIN_SECONDS) + 1
    slow = httpx.Response(200, stream=SlowPieces(edge, HEAD + row(IDS[0]) + row(IDS[1]), seconds))
    edge.script("ExportPayments", slow, answer(part(IDS[1:])))
    assert await caller.all(export) == [HEAD, *(row(each) for each in IDS)]
    assert afters(edge) == ["", IDS[0]]
