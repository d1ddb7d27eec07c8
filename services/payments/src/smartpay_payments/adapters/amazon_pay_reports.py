"""What Amazon Pay's settlement reports say: fees, also those of refunds, transfers and charges.

https://developer.amazon.com/docs/amazon-pay-api-v2/reports.html and
https://developer.amazon.com/docs/amazon-pay-reports/settlement-reports.html. Live accounts get a
report with each settlement. Amazon's sandbox makes none by itself, so for test accounts one is
asked for at each reading, and read at the next.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from smartpay_payments.adapters.amazon_pay_client import (
    AmazonPayClient,
    AmazonPayRefusedError,
    NoAnswerError,
)
from smartpay_payments.adapters.amazon_pay_objects import CURRENCIES
from smartpay_payments.domain.currencies import minor_units_of
from smartpay_payments.domain.reconciliation import (
    BooksUnreadableError,
    ChargeState,
    ProcessorCharge,
)
from smartpay_payments.domain.settlement import (
    AccountFee,
    ChargeFee,
    Payout,
    PayoutState,
    SettlementLine,
)

SETTLEMENT = "_GET_FLAT_FILE_OFFAMAZONPAYMENTS_SETTLEMENT_DATA_"
SANDBOX_SETTLEMENT = "_GET_FLAT_FILE_OFFAMAZONPAYMENTS_SANDBOX_SETTLEMENT_DATA_"
PAGE_SIZE = 100  # Amazon's own limit
PAGES_MAX = 100  # a list that goes on longer is none of settlements
# The longest time one report covers, and how long Amazon keeps reports.
PERIOD_MAX, KEPT = timedelta(days=30), timedelta(days=90)
# A report is listed as soon as it is asked for or due, and can be read some minutes later.
TAKES = timedelta(hours=1)
# How often one is asked for where none comes by itself, and how far each goes back at least:
# the same line told twice posts once.
ASK_PAUSE, ASKED_PERIOD = timedelta(hours=1), timedelta(days=1)
# Money that only moves within the account: held back, given free, carried to the next period.
INSIDE = frozenset({"Authorization", "Reserve", "Carryover"})


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a report, in minor units; what Amazon keeps is negative."""

    posted: datetime
    settlement_id: str
    transaction_id: str
    kind: str
    references: tuple[str, ...]
    currency: str
    amount_minor: int
    fee_minor: int
    net_minor: int


class AmazonPayReports:
    """The ports `SettlementSource` and `ProcessorBooks` for Amazon Pay accounts.

    Args:
        client: calls Amazon Pay.
        clock: the time, aware.
    """

    def __init__(self, client: AmazonPayClient, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._clock = clock

    # ---- settlement --------------------------------------------------------------------------

    async def lines(
        self, processor_account_id: str, since: datetime
    ) -> AsyncIterator[SettlementLine]:
        """Yields fees and transfers of the reports that came since a moment."""
        async for rows in self._rows(processor_account_id, since - TAKES):
            transfers: Counter[str] = Counter()
            for row in rows:
                transfers[row.settlement_id] += row.kind == "Transfer"
                line = _line_of(row, transfers[row.settlement_id])
                if line is not None:
                    yield line
        await self._ask(processor_account_id, since)

    async def payout(self, processor_account_id: str, payout_id: str) -> Payout:
        """Raises BooksUnreadableError: Amazon tells of each transfer once, as of one that is done.

        None is ever on its way in our books, so nobody asks.
        """
        raise BooksUnreadableError(f"{payout_id}: Amazon Pay tells no more of a transfer")

    # ---- charges -----------------------------------------------------------------------------

    async def charges(
        self, processor_account_id: str, since: datetime, until: datetime
    ) -> AsyncIterator[ProcessorCharge]:
        """Yields every captured charge that the reports name and that was settled in a window."""
        async for rows in self._rows(processor_account_id, since):
            for row in rows:
                if row.kind == "Capture" and since <= row.posted < until:
                    yield _charge_of(processor_account_id, row)

    # ---- reports -----------------------------------------------------------------------------

    async def _rows(self, account: str, since: datetime) -> AsyncIterator[list[Row]]:
        """Yields the rows of each report that was made since a moment."""
        async for report in self._reports(account, since, {"processingStatuses": "COMPLETED"}):
            document_id = report.get("reportDocumentId")
            found = await self._call(account, "GET", f"report-documents/{document_id}")
            try:
                body = await self._client.download(str(found.get("url")))
            except NoAnswerError as error:
                raise BooksUnreadableError(f"document {document_id}: {error}") from error
            yield list(_read(body))

    async def _ask(self, account: str, since: datetime) -> None:
        """Asks for what Amazon's sandbox reports only when it is asked for."""
        if self._client.accounts[account].is_live:
            return
        now = self._clock()
        async for _ in self._reports(account, now - ASK_PAUSE, {}):
            return
        start = max(since - ASKED_PERIOD, now - PERIOD_MAX + timedelta(minutes=1))
        period = {
            "reportType": SANDBOX_SETTLEMENT,
            "startTime": _text(start),
            "endTime": _text(now),
        }
        await self._call(account, "POST", "reports", json.dumps(period))

    async def _reports(
        self, account: str, since: datetime, filters: Mapping[str, str]
    ) -> AsyncIterator[dict[str, Any]]:
        is_live = self._client.accounts[account].is_live
        query = {
            "reportTypes": SETTLEMENT if is_live else SANDBOX_SETTLEMENT,
            **filters,
            "createdSince": _text(max(since, self._clock() - KEPT)),
            "pageSize": str(PAGE_SIZE),
        }
        for _ in range(PAGES_MAX):
            page = await self._call(account, "GET", "reports", query=query)
            reports = page.get("reports")
            if not isinstance(reports, list):
                raise BooksUnreadableError("a list of reports without reports")
            for report in reports:
                yield report
            if not page.get("nextToken"):
                return
            query = {"nextToken": page["nextToken"]}
        raise BooksUnreadableError("more reports than anyone can have")

    async def _call(
        self,
        account: str,
        method: str,
        path: str,
        body: str = "",
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        try:
            return await self._client.call(account, method, path, body, query=query)
        except (AmazonPayRefusedError, NoAnswerError) as error:
            raise BooksUnreadableError(f"{method} {path}: {error}") from error


def _line_of(row: Row, number: int) -> SettlementLine | None:
    """Reads what a row posts.

    Args:
        row: the row.
        number: which transfer of its settlement it is; a settlement may have several.
    """
    match row.kind:
        case "Capture":
            return ChargeFee(
                row.transaction_id,
                row.posted,
                "",
                -row.fee_minor,
                row.currency,
                processor_payment_id=row.transaction_id,
                is_only_word=True,
            )
        case "Refund":
            # The money itself is the refund's to tell; fees come back with it.
            kept = -row.fee_minor
        case "Transfer":
            payout_id = f"{row.settlement_id}-{number}"
            return Payout(payout_id, row.posted, -row.net_minor, row.currency, PayoutState.ARRIVED)
        case _ if row.kind in INSIDE:
            return None
        case _:
            # All else that Amazon takes or gives, for instance a chargeback.
            kept = -row.net_minor
    line_id = row.transaction_id or f"{row.settlement_id}-{row.posted.isoformat()}"
    return AccountFee(f"{row.kind}-{line_id}", row.posted, kept, row.currency) if kept else None


def _charge_of(account: str, row: Row) -> ProcessorCharge:
    ours = [reference for reference in row.references if reference.startswith("pay_")]
    return ProcessorCharge(
        processor_account_id=account,
        processor_payment_id=row.transaction_id,
        payment_id=ours[0] if ours else "",
        attempt_index=0,
        state=ChargeState.CAPTURED,
        currency_code=row.currency,
        create_time=row.posted,
        authorized_minor=row.amount_minor,
        captured_minor=row.amount_minor,
        fee_minor=-row.fee_minor,
    )


def _read(body: bytes) -> Iterator[Row]:
    """Reads a flat file: lines on the period, then a header, then one row per transaction.

    Raises:
        BooksUnreadableError: it has another shape, or an amount is none.
    """
    try:
        lines = body.decode("utf-8-sig").splitlines()
        names = [number for number, line in enumerate(lines) if "TransactionPostedDate" in line]
        if not names:
            raise ValueError("no header")
        for found in csv.DictReader(lines[names[0] :], strict=True):
            yield _row_of(found)
    except (KeyError, ValueError, AttributeError, csv.Error) as error:
        raise BooksUnreadableError(f"not a settlement report: {error}") from error


def _row_of(found: Mapping[str, str]) -> Row:
    currency = found["CurrencyCode"]
    if currency not in CURRENCIES:
        raise ValueError(f"currency {currency!r:.20}")

    def minor(name: str) -> int:
        return minor_units_of(found[name].strip() or "0", currency)

    return Row(
        # Amazon's zone may stand after a blank.
        posted=datetime.fromisoformat(found["TransactionPostedDate"].replace(" ", "")),
        settlement_id=found["SettlementId"],
        transaction_id=found["AmazonTransactionId"],
        kind=found["TransactionType"],
        references=(found["SellerReferenceId"], found["SellerOrderId"]),
        currency=currency,
        amount_minor=minor("TransactionAmount"),
        fee_minor=minor("TotalTransactionFee"),
        net_minor=minor("NetTransactionAmount"),
    )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
