"""Speaks whole lists as files, in pieces that need little memory and that one can go on after."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.api import httpbody_pb2
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from smartpay.payments.v1 import exports_pb2, exports_pb2_grpc
from smartpay_chassis.calls import current_call
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.ledger import EntryFilter, PostedEntry
from smartpay_payments.domain.payment import Payment, payment_not_found
from smartpay_payments.domain.search import PaymentFilter
from smartpay_payments.messages import payment_message
from smartpay_payments.server.ledger import entry_filter_of, posted_message
from smartpay_payments.server.payment_filters import payment_filter_of

CHUNK_ROWS = 100  # rows per message: some hundred kilobytes as JSON, far below the edge's 4 MiB
# Exports at work at once; each keeps the one reader of the store busy now and then.
EXPORTS_MAX = 4

PAYMENT_COLUMNS = (
    "payment_id",
    "create_time",
    "update_time",
    "status",
    "status_reason",
    "currency_code",
    "amount",
    "authorized_amount",
    "captured_amount",
    "refunded_amount",
    "disputed_amount",
    "overpaid_amount",
    "capture_method",
    "initiator",
    "merchant_order_id",
    "customer_id",
    "description",
    "processor",
    "processor_account_id",
    "processor_payment_id",
    "attempts",
    "metadata",
)
ENTRY_COLUMNS = (
    "entry_id",
    "post_time",
    "payment_id",
    "transaction_id",
    "account",
    "currency_code",
    "amount",
)

Context = object  # gRPC's own context is the interceptors' business
Row = TypeVar("Row")
Cell = str | int


class PaymentPages(Protocol):
    """Reads a merchant's payments page by page."""

    async def get(self, merchant_id: str, livemode: bool, payment_id: str) -> Payment | None:
        """Reads one payment."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, wanted: PaymentFilter, after: str, size: int
    ) -> tuple[list[Payment], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        ...

    def position_of(self, payment: Payment) -> str:
        """Spells the position after which `page` goes on behind a payment."""
        ...


class EntryPages(Protocol):
    """Reads a merchant's legs page by page."""

    async def page(
        self, merchant_id: str, livemode: bool, wanted: EntryFilter, before: int, size: int
    ) -> tuple[list[PostedEntry], int]:
        """Reads legs below a position, newest first, and where to go on; 0 at either end."""
        ...


class ExportsServicer(exports_pb2_grpc.ExportsServiceServicer):
    """Serves the contract.

    Args:
        payments: the payments.
        entries: the ledger.
    """

    def __init__(self, payments: PaymentPages, entries: EntryPages) -> None:
        self._payments = payments
        self._entries = entries
        self._free = EXPORTS_MAX

    async def ExportPayments(
        self, request: exports_pb2.ExportPaymentsRequest, context: Context
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """Streams payments, newest first."""
        wanted = payment_filter_of(request)
        pages = self._payment_pages(wanted, request.after)
        writer = _writer(request.format, PAYMENT_COLUMNS, _payment_cells, payment_message)
        async for chunk in self._stream(pages, writer, "payments"):
            yield chunk

    async def ExportLedgerEntries(
        self, request: exports_pb2.ExportLedgerEntriesRequest, context: Context
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        """Streams ledger entries, newest first."""
        wanted = entry_filter_of(request)
        pages = self._entry_pages(wanted, int(request.after or 0))
        writer = _writer(request.format, ENTRY_COLUMNS, _entry_cells, posted_message)
        async for chunk in self._stream(pages, writer, "ledger"):
            yield chunk

    async def _payment_pages(
        self, wanted: PaymentFilter, after: str
    ) -> AsyncIterator[Sequence[Payment]]:
        call = current_call()
        position = ""
        if after:
            last = await self._payments.get(call.merchant_id, call.livemode, after)
            if last is None:
                raise payment_not_found()
            position = self._payments.position_of(last)
        while True:
            page, position = await self._payments.page(
                call.merchant_id, call.livemode, wanted, position, CHUNK_ROWS
            )
            yield page
            if not position:
                return

    async def _entry_pages(
        self, wanted: EntryFilter, before: int
    ) -> AsyncIterator[Sequence[PostedEntry]]:
        call = current_call()
        while True:
            page, before = await self._entries.page(
                call.merchant_id, call.livemode, wanted, before, CHUNK_ROWS
            )
            yield page
            if not before:
                return

    async def _stream(
        self, pages: AsyncIterator[Sequence[Row]], writer: Writer[Row], name: str
    ) -> AsyncIterator[httpbody_pb2.HttpBody]:
        if not self._free:
            raise Refusal(
                Kind.RESOURCE_EXHAUSTED,
                "UNAVAILABLE",
                "Too many exports are being written.",
                remedy="Wait until another export has ended and ask again.",
            )
        self._free -= 1
        try:
            current_call().respond_with(
                headers={"content-disposition": f'attachment; filename="{name}.{writer.suffix}"'}
            )
            if writer.head:
                yield writer.chunk(writer.head)
            rows = 0
            async for page in pages:
                if page:
                    rows += len(page)
                    # Spelling a page takes milliseconds, in which payments would wait.
                    yield writer.chunk(await asyncio.to_thread(writer.lines, page))
            yield writer.chunk(writer.end(rows))
        finally:
            self._free += 1


@dataclass(frozen=True)
class Writer(Generic[Row]):
    """Writes rows in one format."""

    suffix: str
    content_type: str
    head: bytes
    """What stands before the first row."""
    lines: Callable[[Sequence[Row]], bytes]
    """Writes rows, a line each."""
    end: Callable[[int], bytes]
    """Writes the line that tells how many rows a complete export has."""

    def chunk(self, data: bytes) -> httpbody_pb2.HttpBody:
        """Wraps what is sent at once."""
        return httpbody_pb2.HttpBody(content_type=self.content_type, data=data)


def _writer(
    wanted: exports_pb2.ExportFormat.ValueType,
    columns: Sequence[str],
    cells: Callable[[Row], Sequence[Cell]],
    message: Callable[[Row], Message],
) -> Writer[Row]:
    if wanted == exports_pb2.EXPORT_FORMAT_CSV:
        return Writer(
            suffix="csv",
            content_type="text/csv; charset=utf-8",
            head=_csv_lines([columns]),
            lines=lambda rows: _csv_lines([guarded(cell) for cell in cells(row)] for row in rows),
            end=lambda rows: _csv_lines([("end", rows)]),
        )
    return Writer(
        suffix="jsonl",
        content_type="application/x-ndjson",
        head=b"",
        lines=lambda rows: b"".join(_json_line(message(row)) for row in rows),
        end=lambda rows: (
            json.dumps({"end": {"rows": str(rows)}}, separators=(",", ":")).encode() + b"\n"
        ),
    )


def guarded(cell: Cell) -> Cell:
    """Keeps a spreadsheet from running a text as a formula; numbers of ours stay numbers.

    See https://owasp.org/www-community/attacks/CSV_Injection.
    """
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{cell}"
    return cell


def _csv_lines(rows: Iterable[Sequence[Cell]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _json_line(message: Message) -> bytes:
    # The edge's own spelling: camelCase, 64-bit integers as texts, nothing that can't be absent
    # left out.
    text = MessageToJson(
        message, indent=None, always_print_fields_with_no_presence=True, ensure_ascii=False
    )
    return text.encode() + b"\n"


def _payment_cells(payment: Payment) -> Sequence[Cell]:
    order = payment.order
    last = payment.attempts[-1] if payment.attempts else None
    return (
        payment.payment_id,
        payment.create_time.isoformat(),
        payment.update_time.isoformat(),
        payment.status.value,
        payment.status_reason,
        order.amount.currency_code,
        order.amount.minor_units,
        payment.authorized_minor,
        payment.captured_minor,
        payment.refunded_minor,
        payment.disputed_minor,
        payment.overpaid_minor,
        order.capture_method.value,
        order.initiator.value,
        order.merchant_order_id,
        order.customer_id,
        order.description,
        last.processor if last else "",
        last.processor_account_id if last else "",
        last.processor_payment_id if last else "",
        len(payment.attempts),
        json.dumps(order.metadata, ensure_ascii=False) if order.metadata else "",
    )


def _entry_cells(posted: PostedEntry) -> Sequence[Cell]:
    entry = posted.entry
    return (
        posted.position,
        entry.post_time.isoformat(),
        posted.payment_id,
        entry.transaction_id,
        entry.account,
        entry.currency_code,
        entry.minor_units,
    )
