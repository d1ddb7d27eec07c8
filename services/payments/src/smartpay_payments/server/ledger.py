"""Speaks the books: balances and ledger entries."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from smartpay.payments.v1 import exports_pb2, ledger_pb2, ledger_pb2_grpc, payment_pb2
from smartpay.type.v1 import money_pb2
from smartpay_chassis.calls import current_call
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_payments.domain.ledger import Balance, EntryFilter, PostedEntry
from smartpay_payments.messages import ledger_message
from smartpay_payments.server.payment_filters import moment_of

Context = object  # gRPC's own context is the interceptors' business


class Books(Protocol):
    """Reads the ledger of one merchant."""

    async def balances(
        self, merchant_id: str, livemode: bool, as_of: datetime | None = None
    ) -> list[Balance]:
        """Sums every account and currency, by currency and account."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, wanted: EntryFilter, before: int, size: int
    ) -> tuple[list[PostedEntry], int]:
        """Reads legs below a position, newest first, and where to go on; 0 at either end."""
        ...


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Serves the contract.

    Args:
        books: the ledger.
    """

    def __init__(self, books: Books) -> None:
        self._books = books

    async def ListBalances(
        self, request: ledger_pb2.ListBalancesRequest, context: Context
    ) -> ledger_pb2.ListBalancesResponse:
        """Tells what each account holds, now or at a past moment."""
        call = current_call()
        as_of = moment_of(request.as_of, "as_of")
        bound_to = f"balances {call.merchant_id} {call.livemode} {as_of} {request.currency_code}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        found = [
            balance
            for balance in await self._books.balances(call.merchant_id, call.livemode, as_of)
            if request.currency_code in ("", balance.currency_code) and _place_of(balance) > after
        ]
        size = page_size(request.page_size)
        more = len(found) > size
        return ledger_pb2.ListBalancesResponse(
            balances=[_balance_message(balance) for balance in found[:size]],
            next_page_token=(
                encode_page_token(_place_of(found[size - 1]), bound_to=bound_to) if more else ""
            ),
        )

    async def ListLedgerEntries(
        self, request: ledger_pb2.ListLedgerEntriesRequest, context: Context
    ) -> ledger_pb2.ListLedgerEntriesResponse:
        """Lists legs, newest first."""
        call = current_call()
        wanted = entry_filter_of(request)
        bound_to = f"ledger {call.merchant_id} {call.livemode} {wanted}"
        before = (
            int(decode_page_token(request.page_token, bound_to=bound_to))
            if request.page_token
            else 0
        )
        entries, position = await self._books.page(
            call.merchant_id, call.livemode, wanted, before, page_size(request.page_size)
        )
        return ledger_pb2.ListLedgerEntriesResponse(
            entries=[posted_message(posted) for posted in entries],
            next_page_token=(
                encode_page_token(str(position), bound_to=bound_to) if position else ""
            ),
        )


def entry_filter_of(
    request: ledger_pb2.ListLedgerEntriesRequest | exports_pb2.ExportLedgerEntriesRequest,
) -> EntryFilter:
    """Reads which legs are asked for; raises Refusal FIELD_INVALID for a moment that is none."""
    return EntryFilter(
        account=request.account,
        payment_id=request.payment_id,
        currency_code=request.currency_code,
        post_time_from=moment_of(request.post_time_from, "post_time_from"),
        post_time_before=moment_of(request.post_time_before, "post_time_before"),
    )


def posted_message(posted: PostedEntry) -> payment_pb2.LedgerEntry:
    """Spells a leg with its place in the books."""
    message = ledger_message(posted.entry)
    message.entry_id = str(posted.position)
    message.payment_id = posted.payment_id
    return message


def _place_of(balance: Balance) -> str:
    return f"{balance.currency_code} {balance.account}"


def _balance_message(balance: Balance) -> ledger_pb2.Balance:
    return ledger_pb2.Balance(
        account=balance.account,
        amount=money_pb2.Money(
            minor_units=balance.minor_units, currency_code=balance.currency_code
        ),
    )
