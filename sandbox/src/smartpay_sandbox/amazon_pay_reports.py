"""Amazon Pay's settlement reports: what an account took, what it cost, what went to the bank.

From developer.amazon.com/docs/amazon-pay-api-v2/reports.html and .../amazon-pay-reports
(settlement-reports, requesting-sandbox-settlement-reports). In Amazon's sandbox a settlement report
comes only when it is asked for, covers the time asked for, and is canceled when there is nothing in
it. Here an account is settled each midnight (UTC): whatever is more than nothing is transferred.
"""

from __future__ import annotations

import csv
import io
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import NamedTuple

from smartpay_sandbox.amazon_pay_account import AmazonPayAccount, Answer
from smartpay_sandbox.amazon_pay_objects import EXPONENTS, Json, price, public, timestamp
from smartpay_sandbox.amazon_pay_refusals import AmazonPayRefusalError, invalid, not_found

SANDBOX_SETTLEMENT = "_GET_FLAT_FILE_OFFAMAZONPAYMENTS_SANDBOX_SETTLEMENT_DATA_"
"""The one report that Amazon's sandbox has."""
READY_AFTER_SECONDS = 5
"""How long a report is in progress here; Amazon's takes minutes."""
URL_SECONDS = 30
"""How long the address of a document is good; Amazon's own limit."""
PERIOD_SECONDS_MAX = 30 * 24 * 3600
"""The longest time one settlement report covers."""
PAGE_SIZE, PAGE_SIZE_MAX = 10, 100
DAY = 24 * 3600
PERCENT_PER_MILLE, FIXED_MINOR = 29, {0: 0, 2: 30}
"""2.9 % and 0.30, Amazon's domestic fee; currencies without decimals have no fixed one."""
DOWNLOADS = "/report-downloads/"
"""Where documents are fetched; Amazon serves them from another host."""

COLUMNS = (
    "TransactionPostedDate",
    "SettlementId",
    "AmazonTransactionId",
    "SellerReferenceId",
    "TransactionType",
    "AmazonOrderReferenceId",
    "SellerOrderId",
    "StoreName",
    "CurrencyCode",
    "TransactionDescription",
    "TransactionAmount",
    "TransactionPercentageFee",
    "TransactionFixedFee",
    "TotalTransactionFee",
    "NetTransactionAmount",
)
_TIME = re.compile(r"\d{8}T\d{6}Z")


class Posted(NamedTuple):
    """One line of an account: credits positive, what Amazon keeps negative, in minor units."""

    at: float
    kind: str
    transaction_id: str
    permission_id: str
    reference: str
    currency: str
    minor: int
    percentage_fee: int
    fixed_fee: int

    @property
    def net(self) -> int:
        """What the line changes the balance by."""
        return self.minor + self.percentage_fee + self.fixed_fee


def create_report(account: AmazonPayAccount, params: Json) -> Answer:
    """Ask for a settlement report over a time; it is ready some seconds later."""
    if params["reportType"] != SANDBOX_SETTLEMENT:
        raise AmazonPayRefusalError(
            400, "InvalidParameterValue", "[reportType]: is not one that the sandbox makes"
        )
    start, end = (_seconds(params.get(name, ""), name) for name in ("startTime", "endTime"))
    if not start < end <= start + PERIOD_SECONDS_MAX:
        raise invalid("endTime", "must follow startTime within 30 days")
    now = account.clock()
    lines = [line for line in account_lines(account, now) if start <= line.at < end]
    report = account.put(
        "report",
        {
            "reportId": str(10**9 + len(account.every("report"))),
            "reportType": SANDBOX_SETTLEMENT,
            "startTime": timestamp(start),
            "endTime": timestamp(end),
            "createdTime": timestamp(now),
            "processingStatus": "IN_PROGRESS",
            "processingStartTime": timestamp(now),
            "processingEndTime": None,
            "reportDocumentId": None,
            "_created": now,
            "_document_id": f"amzn1.tortuga.0.{uuid.uuid4()}" if lines else "",
            "_document": _document(account.merchant_id, start, end, lines),
        },
    )
    return Answer(201, {"reportId": report["reportId"]})


def get_report(account: AmazonPayAccount, report_id: str) -> Answer:
    """Read how far a report is."""
    return Answer(200, _as_of(account.find("report", report_id), account.clock()))


def get_reports(account: AmazonPayAccount, params: Json) -> Answer:
    """List reports, the newest first; a next page is asked for by its token alone."""
    if token := params.get("nextToken"):
        if params.keys() != {"nextToken"} or token not in account.pages:
            raise invalid("nextToken", "goes alone, as it was answered")
        params = account.pages[token]
    size = params.get("pageSize", str(PAGE_SIZE))
    if not size.isdigit() or not 1 <= int(size) <= PAGE_SIZE_MAX:
        raise invalid("pageSize", f"must be 1 to {PAGE_SIZE_MAX}")
    wanted = [_as_of(report, account.clock()) for report in _wanted(account, params)]
    if statuses := params.get("processingStatuses"):
        wanted = [r for r in wanted if r["processingStatus"] in statuses.split(",")]
    first = int(params.get("_first", "0"))
    last = first + int(size)
    more = None
    if len(wanted) > last:
        more = uuid.uuid4().hex
        account.pages[more] = {**params, "_first": str(last)}
    return Answer(200, {"reports": wanted[first:last], "nextToken": more})


def _wanted(account: AmazonPayAccount, params: Json) -> Iterator[Json]:
    types = params.get("reportTypes")
    since = _seconds(params["createdSince"], "createdSince") if "createdSince" in params else 0.0
    until = _seconds(params["createdUntil"], "createdUntil") if "createdUntil" in params else 1e12
    for report in reversed(account.every("report")):
        # Amazon counts whole seconds.
        if since <= int(report["_created"]) <= until and (
            not types or report["reportType"] in types.split(",")
        ):
            yield report


def _as_of(report: Json, now: float) -> Json:
    ready = report["_created"] + READY_AFTER_SECONDS
    if now < ready:
        return public(report)
    done = {"processingStatus": "CANCELLED", "processingEndTime": timestamp(ready)}
    if report["_document_id"]:
        done = {
            "processingStatus": "COMPLETED",
            "processingEndTime": timestamp(ready),
            "reportDocumentId": report["_document_id"],
        }
    return public(report) | done


def get_document(account: AmazonPayAccount, document_id: str, url: str) -> Answer:
    """Answer where a document can be fetched for half a minute."""
    document_of(account, document_id)
    token = uuid.uuid4().hex
    account.downloads[token] = (document_id, account.clock() + URL_SECONDS)
    body = {
        "reportDocumentId": document_id,
        "url": f"{url}{DOWNLOADS}{token}",
        "compressionAlgorithm": "N/A",
    }
    return Answer(200, body)


def download(account: AmazonPayAccount, token: str) -> str | None:
    """Read the document behind an address; None when it is over or none."""
    document_id, until = account.downloads.get(token, ("", 0.0))
    return document_of(account, document_id) if account.clock() < until else None


def document_of(account: AmazonPayAccount, document_id: str) -> str:
    """Read a report's content.

    Raises:
        AmazonPayRefusalError: 404.
    """
    for report in account.every("report"):
        if _as_of(report, account.clock())["reportDocumentId"] == document_id:
            content: str = report["_document"]
            return content
    raise not_found("reportDocument", document_id)


# --- what the account did ---


def account_lines(account: AmazonPayAccount, until: float) -> list[Posted]:
    """List every line of an account up to a moment, transfers included, oldest first."""
    lines = sorted([*_captures(account), *_refunds(account)])
    settled: list[Posted] = []
    held: Counter[str] = Counter()
    for day, posted in groupby(lines, key=lambda line: int(line.at // DAY)):
        for line in posted:
            settled.append(line)
            held[line.currency] += line.net
        midnight = (day + 1) * DAY
        for currency, minor in sorted(held.items()):
            if minor > 0 and midnight <= until:
                settled.append(
                    Posted(midnight, "Transfer", "", "", "", currency, -minor, 0, 0),
                )
                held[currency] = 0
    return sorted(settled)


def _captures(account: AmazonPayAccount) -> Iterator[Posted]:
    for charge in account.every("charge"):
        if charge["statusDetails"]["state"] == "Captured":
            currency = charge["chargeAmount"]["currencyCode"]
            minor: int = charge["_captured"]
            yield _posted(
                "Capture", charge, charge.get("_posted", 0.0), charge["chargeId"], currency, minor
            )


def _refunds(account: AmazonPayAccount) -> Iterator[Posted]:
    for refund in account.every("refund"):
        if refund["statusDetails"]["state"] == "Refunded":
            charge = account.find("charge", refund["chargeId"])
            currency = charge["chargeAmount"]["currencyCode"]
            at, minor = refund.get("_posted", 0.0), -refund["_units"]
            yield _posted("Refund", charge, at, refund["refundId"], currency, minor)


def _posted(
    kind: str, charge: Json, at: float, transaction_id: str, currency: str, minor: int
) -> Posted:
    """Write a line; a refund brings back the percentage and not the fixed fee."""
    reference = charge["merchantMetadata"]["merchantReferenceId"] or ""
    percentage = -((abs(minor) * PERCENT_PER_MILLE + 500) // 1000)
    fixed = -FIXED_MINOR[EXPONENTS[currency]]
    if minor < 0:
        percentage, fixed = -percentage, 0
    permission = charge["chargePermissionId"]
    return Posted(
        at, kind, transaction_id, permission, reference, currency, minor, percentage, fixed
    )


def _document(merchant_id: str, start: float, end: float, lines: Iterable[Posted]) -> str:
    """Write the flat file: who and when, then a header and one row per line."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(("SettlementStartDate", _iso(start)))
    writer.writerow(("SettlementEndDate", _iso(end)))
    writer.writerow(("SellerId", merchant_id))
    writer.writerow(COLUMNS)
    for line in lines:
        # What is transferred at midnight belongs to the day before.
        day = int(line.at // DAY) - (line.kind == "Transfer")
        writer.writerow(
            (
                _iso(line.at),
                f"{day:010d}",
                line.transaction_id,
                line.reference,
                line.kind,
                line.permission_id,
                line.reference,
                "",
                line.currency,
                "",
                _decimal(line.minor, line.currency),
                _decimal(line.percentage_fee, line.currency),
                _decimal(line.fixed_fee, line.currency),
                _decimal(line.percentage_fee + line.fixed_fee, line.currency),
                _decimal(line.net, line.currency),
            )
        )
    return text.getvalue()


def _decimal(minor: int, currency: str) -> str:
    return f"{'-' if minor < 0 else ''}{price(abs(minor), currency)['amount']}"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


def _seconds(text: str, name: str) -> float:
    if not _TIME.fullmatch(text):
        raise invalid(name, "must be like 20261122T180000Z")
    return datetime.strptime(text, "%Y%m%dT%H%M%S%z").timestamp()
