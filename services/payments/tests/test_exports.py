"""Books and exports over gRPC, with everything that stands around a call."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from smartpay.payments.v1 import exports_pb2, exports_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    OTHER_MERCHANT,
    as_merchant,
    error_info,
    serve_for_test,
)
from smartpay_payments.adapters.sqlite_ledger import SqliteLedger
from smartpay_payments.server import exports
from smartpay_payments.server.exports import ExportsServicer, guarded
from smartpay_payments.server.ledger import LedgerServicer

CSV, JSONL = exports_pb2.EXPORT_FORMAT_CSV, exports_pb2.EXPORT_FORMAT_JSONL
MERCHANT = f"merchant:{DEMO_MERCHANT.merchant_id}"
PROCESSOR = f"processor:{DEMO_ACCOUNTS[0]}"


class Office:
    """The two services over a story's store."""

    def __init__(self, story: Any, channel: grpc.aio.Channel, servicer: ExportsServicer) -> None:
        self.story, self.servicer = story, servicer
        self._ledger = ledger_pb2_grpc.LedgerServiceStub(channel)
        self._exports = exports_pb2_grpc.ExportsServiceStub(channel)

    async def balances(self, merchant: Any = DEMO_MERCHANT, **request: Any) -> Any:
        return await self._ledger.ListBalances(
            ledger_pb2.ListBalancesRequest(**request), metadata=as_merchant(merchant)
        )

    async def entries(self, merchant: Any = DEMO_MERCHANT, **request: Any) -> Any:
        return await self._ledger.ListLedgerEntries(
            ledger_pb2.ListLedgerEntriesRequest(**request), metadata=as_merchant(merchant)
        )

    def payments_call(self, merchant: Any = DEMO_MERCHANT, **request: Any) -> Any:
        return self._exports.ExportPayments(
            exports_pb2.ExportPaymentsRequest(**request), metadata=as_merchant(merchant)
        )

    def entries_call(self, merchant: Any = DEMO_MERCHANT, **request: Any) -> Any:
        return self._exports.ExportLedgerEntries(
            exports_pb2.ExportLedgerEntriesRequest(**request), metadata=as_merchant(merchant)
        )

    async def refused(self, call: Any) -> dict[str, Any]:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            _ = [chunk async for chunk in call] if hasattr(call, "__aiter__") else await call
        return error_info(error.value)


@pytest.fixture
async def office(story: Any) -> AsyncIterator[Office]:
    ledger = SqliteLedger(story.store)
    servicer = ExportsServicer(story.payments, ledger)
    async with serve_for_test(
        [
            (
                ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
                LedgerServicer(ledger),
                ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
            ),
            (
                exports_pb2_grpc.add_ExportsServiceServicer_to_server,
                servicer,
                exports_pb2.DESCRIPTOR.services_by_name["ExportsService"],
            ),
        ]
    ) as channel:
        yield Office(story, channel, servicer)


async def text_of(call: Any) -> str:
    return b"".join([chunk.data async for chunk in call]).decode()


def table(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


# ---- balances and entries --------------------------------------------------------------------


async def test_balances_tell_what_each_account_holds_and_held(office: Office) -> None:
    payment = await office.story.create()
    before = payment.update_time.isoformat().replace("+00:00", "Z")
    office.story.clock.advance(hours=1)
    await office.story.give_back(payment)
    now = {b.account: b.amount.minor_units for b in (await office.balances()).balances}
    assert now == {PROCESSOR: 1499, MERCHANT: -1499}
    then = await office.balances(as_of=before)
    assert {b.amount.minor_units for b in then.balances} == {1999, -1999}
    assert [b.amount.currency_code for b in then.balances] == ["USD", "USD"]


async def test_balances_come_in_pages_and_by_currency(office: Office) -> None:
    await office.story.create()
    page = await office.balances(page_size=1)
    rest = await office.balances(page_size=1, page_token=page.next_page_token)
    assert [b.account for b in (*page.balances, *rest.balances)] == [MERCHANT, PROCESSOR]
    assert rest.next_page_token == ""
    assert (await office.balances(currency_code="EUR")).balances == []


async def test_entries_are_listed_in_pages_with_their_payment(office: Office) -> None:
    for key in ("a", "b"):
        await office.story.create(key)
    page = await office.entries(page_size=3, account="")
    rest = await office.entries(page_size=3, page_token=page.next_page_token)
    entries = [*page.entries, *rest.entries]
    assert (len(page.entries), len(rest.entries), rest.next_page_token) == (3, 1, "")
    assert sum(e.amount.minor_units for e in entries) == 0
    ids = [int(e.entry_id) for e in entries]
    assert ids == sorted(ids, reverse=True)
    of_one = await office.entries(payment_id=entries[0].payment_id, account=MERCHANT)
    assert [e.amount.minor_units for e in of_one.entries] == [-1999]


@pytest.mark.parametrize(
    ("ask", "request_"),
    [
        ("balances", {"as_of": "2026-02-30T00:00:00Z"}),
        ("balances", {"as_of": "yesterday"}),
        ("entries", {"post_time_from": "2026-13-01T00:00:00Z"}),
        ("entries", {"payment_id": "pay_none"}),
    ],
)
async def test_a_moment_that_is_none_is_named(office: Office, ask: str, request_: Any) -> None:
    refused = await office.refused(getattr(office, ask)(**request_))
    assert refused["reason"] == "FIELD_INVALID"


async def test_page_tokens_belong_to_a_list_its_filters_and_its_merchant(office: Office) -> None:
    await office.story.create()
    token = (await office.entries(page_size=1)).next_page_token
    for other in (
        office.entries(page_token=token, account=MERCHANT),
        office.entries(OTHER_MERCHANT, page_token=token),
        office.balances(page_token=token),
    ):
        assert (await office.refused(other))["reason"] == "PAGE_TOKEN_INVALID"


async def test_another_merchant_sees_none_of_it(office: Office) -> None:
    payment = await office.story.create()
    assert (await office.balances(OTHER_MERCHANT)).balances == []
    assert (await office.entries(OTHER_MERCHANT)).entries == []
    assert table(await text_of(office.payments_call(OTHER_MERCHANT, format=CSV)))[1:] == [
        ["end", "0"]
    ]
    refused = await office.refused(
        office.payments_call(OTHER_MERCHANT, format=CSV, after=payment.payment_id)
    )
    assert refused["reason"] == "PAYMENT_NOT_FOUND"


# ---- exports ---------------------------------------------------------------------------------


async def test_csv_has_a_header_a_row_per_payment_and_an_end(office: Office) -> None:
    made = [await office.story.create(key, metadata={"k": "v"}) for key in "abc"]
    head, *rows, end = table(await text_of(office.payments_call(format=CSV)))
    assert end == ["end", "3"]
    assert [row[0] for row in rows] == [p.payment_id for p in reversed(made)]
    first = dict(zip(head, rows[0], strict=True))
    assert (first["amount"], first["currency_code"], first["status"]) == ("1999", "USD",
                                                                          "SUCCEEDED")  # fmt: skip
    assert json.loads(first["metadata"]) == {"k": "v"}
    assert first["processor_account_id"] == DEMO_ACCOUNTS[0]


async def test_lines_of_json_spell_a_payment_as_the_edge_does(office: Office) -> None:
    payment = await office.story.create()
    *lines, end = (await text_of(office.payments_call(format=JSONL))).splitlines()
    assert json.loads(end) == {"end": {"rows": "1"}}
    (told,) = map(json.loads, lines)
    assert told["paymentId"] == payment.payment_id
    assert told["amount"] == {"minorUnits": "1999", "currencyCode": "USD"}
    assert told["status"] == "STATUS_SUCCEEDED"
    assert told["livemode"] is False, "what is empty is spelt too"


async def test_the_ledger_is_exported_in_both_formats(office: Office) -> None:
    await office.story.create()
    head, *rows, end = table(await text_of(office.entries_call(format=CSV)))
    assert end == ["end", "2"]
    entries = [dict(zip(head, row, strict=True)) for row in rows]
    assert [e["amount"] for e in entries] == ["-1999", "1999"], "amounts stay numbers"
    lines = (await text_of(office.entries_call(format=JSONL, account=MERCHANT))).splitlines()
    assert [json.loads(line).get("account") for line in lines] == [MERCHANT, None]


@pytest.mark.parametrize("wanted", [CSV, JSONL])
async def test_an_export_that_was_cut_goes_on_after_its_last_row(
    office: Office, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "CHUNK_ROWS", 2)
    made = [(await office.story.create(f"{n}")).payment_id for n in range(7)]
    head = ["payment_id"] if wanted == CSV else []

    def ids(text: str) -> list[str]:
        lines = text.splitlines()
        if wanted == CSV:
            return [line.split(",")[0] for line in lines]
        return [json.loads(line).get("paymentId", "end") for line in lines]

    for whole_rows in range(1, 8):
        rows: list[str] = []
        call = office.payments_call(format=wanted)
        async for chunk in call:
            rows += ids(chunk.data.decode())
            if len(rows) >= whole_rows + len(head):
                call.cancel()
                break
        await office.story.create(f"meanwhile {whole_rows} {wanted}")
        rest = ids(await text_of(office.payments_call(format=wanted, after=rows[-1])))
        whole = [r for r in (*rows, *rest) if r not in ("payment_id", "end")]
        assert [r for r in whole if r in made] == made[::-1]
        assert len(set(whole)) == len(whole)
        assert rest[-1] == "end"


async def test_exports_pass_the_filters_of_the_list(office: Office) -> None:
    await office.story.create("a", customer_id="c-1")
    await office.story.create("b")
    rows = table(await text_of(office.payments_call(format=CSV, customer_id="c-1")))
    assert len(rows) == 3
    refused = await office.refused(office.payments_call(format=CSV, minor_units_min=5))
    assert (refused["reason"], refused["field"]) == ("FIELD_INVALID", "currency_code")
    assert (await office.refused(office.payments_call()))["reason"] == "FIELD_INVALID"


async def test_a_text_is_no_formula_for_a_spreadsheet(office: Office) -> None:
    await office.story.create(
        description='=HYPERLINK("x")', merchant_order_id="+1", customer_id="@"
    )
    head, row, _ = table(await text_of(office.payments_call(format=CSV)))
    told = dict(zip(head, row, strict=True))
    assert told["description"] == '\'=HYPERLINK("x")'
    assert (told["merchant_order_id"], told["customer_id"]) == ("'+1", "'@")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_each_sign_that_begins_a_formula_is_guarded(text: str) -> None:
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize("cell", ["", "a=1", -5, "'=1"])
def test_other_cells_stay_as_they_are(cell: str | int) -> None:
    assert guarded(cell) == cell


async def test_only_so_many_exports_are_written_at_once_and_a_cut_one_makes_room(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.servicer._free = 1
    monkeypatch.setattr(exports, "CHUNK_ROWS", 1)
    for n in range(3):
        await office.story.create(f"{n}")
    first = office.payments_call(format=JSONL)
    await first.__aiter__().__anext__()
    refused = await office.refused(office.payments_call(format=JSONL))
    assert refused["reason"] == "UNAVAILABLE"
    _ = [chunk async for chunk in first]
    assert len((await text_of(office.payments_call(format=JSONL))).splitlines()) == 4


async def test_memory_stays_small_because_no_message_holds_more_than_a_chunk(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "CHUNK_ROWS", 2)
    for n in range(9):
        await office.story.create(f"{n}")
    sizes = [chunk.data.count(b"\n") async for chunk in office.payments_call(format=JSONL)]
    assert max(sizes) == 2
    assert sum(sizes) == 10
