"""Settlement reports of the sandbox's Amazon Pay: asked for, made, listed, fetched."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from smartpay_sandbox.amazon_pay_objects import timestamp
from smartpay_sandbox.amazon_pay_reports import (
    COLUMNS,
    DAY,
    READY_AFTER_SECONDS,
    SANDBOX_SETTLEMENT,
    URL_SECONDS,
)
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox

Rows = list[dict[str, str]]


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[AmazonPaySandbox]:
    async with amazon_pay_sandbox(tmp_path) as running:
        yield running


async def charge(sandbox: AmazonPaySandbox, amount: str = "19.99") -> str:
    permission = sandbox.simulator.grant("AFIRST", "1111")["chargePermissionId"]
    status, made = await sandbox.call(
        "POST",
        "/v2/charges",
        {
            "chargePermissionId": permission,
            "chargeAmount": {"amount": amount, "currencyCode": "USD"},
            "captureNow": True,
            "merchantMetadata": {"merchantReferenceId": "pay_1"},
        },
        key=f"k{len(sandbox.merchant()['charges'])}",
    )
    assert status == 201
    return str(made["chargeId"])


async def asked(sandbox: AmazonPaySandbox, seconds: float = DAY, **changes: Any) -> Any:
    now = sandbox.clock()
    body = {
        "reportType": SANDBOX_SETTLEMENT,
        "startTime": timestamp(now - seconds),
        "endTime": timestamp(now + 1),
    }
    return await sandbox.call("POST", "/v2/reports", body | changes)


async def fetched(sandbox: AmazonPaySandbox, report_id: str) -> str:
    _, report = await sandbox.call("GET", f"/v2/reports/{report_id}")
    assert report["processingStatus"] == "COMPLETED"
    _, found = await sandbox.call("GET", f"/v2/report-documents/{report['reportDocumentId']}")
    assert found["compressionAlgorithm"] == "N/A"
    async with aiohttp.ClientSession() as browser, browser.get(found["url"]) as response:
        assert response.status == 200
        return await response.text()


async def rows_of(sandbox: AmazonPaySandbox, seconds: float = DAY) -> Rows:
    _, made = await asked(sandbox, seconds)
    sandbox.clock.advance(READY_AFTER_SECONDS)
    lines = (await fetched(sandbox, made["reportId"])).splitlines()
    assert [line.split(",")[0] for line in lines[:3]] == [
        '"SettlementStartDate"',
        '"SettlementEndDate"',
        '"SellerId"',
    ]
    found = csv.DictReader(io.StringIO("\n".join(lines[3:])))
    assert tuple(found.fieldnames or ()) == COLUMNS
    return list(found)


async def test_a_report_tells_captures_refunds_and_their_fees(sandbox: AmazonPaySandbox) -> None:
    charge_id = await charge(sandbox)
    body = {"chargeId": charge_id, "refundAmount": {"amount": "10.00", "currencyCode": "USD"}}
    _, refund = await sandbox.call("POST", "/v2/refunds", body, key="r")
    sandbox.clock.advance(5)
    capture, back = await rows_of(sandbox)
    assert {name: capture[name] for name in COLUMNS[2:7]} == {
        "AmazonTransactionId": charge_id,
        "SellerReferenceId": "pay_1",
        "TransactionType": "Capture",
        "AmazonOrderReferenceId": charge_id[:19],
        "SellerOrderId": "pay_1",
    }
    assert [capture[name] for name in COLUMNS[10:]] == ["19.99", "-0.58", "-0.30", "-0.88", "19.11"]
    assert back["AmazonTransactionId"] == refund["refundId"]
    assert [back[name] for name in COLUMNS[10:]] == ["-10.00", "0.29", "0.00", "0.29", "-9.71"]


async def test_what_is_left_at_midnight_is_transferred_once(sandbox: AmazonPaySandbox) -> None:
    await charge(sandbox)
    sandbox.clock.advance(DAY)
    await charge(sandbox, "5.00")
    sandbox.clock.advance(DAY)
    for _ in range(2):
        found = await rows_of(sandbox, 3 * DAY)
        transfers = [row for row in found if row["TransactionType"] == "Transfer"]
        assert [row["NetTransactionAmount"] for row in transfers] == ["-19.11", "-4.55"]
        assert len({row["SettlementId"] for row in transfers}) == 2
        assert sum(float(row["NetTransactionAmount"]) for row in found) == pytest.approx(0)


async def test_a_report_takes_its_time_and_one_of_nothing_is_canceled(
    sandbox: AmazonPaySandbox,
) -> None:
    status, made = await asked(sandbox)
    assert status == 201
    path = f"/v2/reports/{made['reportId']}"
    assert (await sandbox.call("GET", path))[1]["processingStatus"] == "IN_PROGRESS"
    sandbox.clock.advance(READY_AFTER_SECONDS)
    _, report = await sandbox.call("GET", path)
    assert (report["processingStatus"], report["reportDocumentId"]) == ("CANCELLED", None)


async def test_reports_are_listed_by_filters_in_pages_newest_first(
    sandbox: AmazonPaySandbox,
) -> None:
    await charge(sandbox)
    made = []
    for _ in range(3):
        made.append((await asked(sandbox))[1]["reportId"])
        sandbox.clock.advance(10)
    since = timestamp(sandbox.clock() - 25)
    found, path = (
        [],
        f"/v2/reports?reportTypes={SANDBOX_SETTLEMENT}&createdSince={since}&pageSize=1",
    )
    while path:
        _, page = await sandbox.call("GET", path)
        found += [report["reportId"] for report in page["reports"]]
        path = f"/v2/reports?nextToken={page['nextToken']}" if page["nextToken"] else ""
    assert found == [made[2], made[1]]
    _, none = await sandbox.call("GET", "/v2/reports?processingStatuses=FAILED,CANCELLED")
    assert none["reports"] == []
    _, others = await sandbox.call("GET", "/v2/reports", name="second")
    assert others["reports"] == []


async def test_an_address_is_good_for_half_a_minute(sandbox: AmazonPaySandbox) -> None:
    await charge(sandbox)
    _, made = await asked(sandbox)
    sandbox.clock.advance(READY_AFTER_SECONDS)
    _, report = await sandbox.call("GET", f"/v2/reports/{made['reportId']}")
    path = f"/v2/report-documents/{report['reportDocumentId']}"
    _, found = await sandbox.call("GET", path)
    sandbox.clock.advance(URL_SECONDS)
    async with aiohttp.ClientSession() as browser, browser.get(found["url"]) as response:
        assert response.status == 403
    assert (await sandbox.call("GET", path, name="second"))[0] == 404


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"reportType": "_GET_FLAT_FILE_OFFAMAZONPAYMENTS_SETTLEMENT_DATA_"}, "reportType"),
        ({"startTime": "yesterday"}, "startTime"),
        ({"startTime": "20200101T000000Z"}, "endTime"),
    ],
)
async def test_a_report_that_can_not_be_is_refused_by_field(
    sandbox: AmazonPaySandbox, changes: dict[str, Any], code: str
) -> None:
    status, refused = await asked(sandbox, **changes)
    assert (status, refused["reasonCode"]) == (400, "InvalidParameterValue")
    assert code in refused["message"]


async def test_an_unknown_filter_is_refused(sandbox: AmazonPaySandbox) -> None:
    status, refused = await sandbox.call("GET", "/v2/reports?status=DONE")
    assert (status, refused["reasonCode"]) == (400, "UnrecognizedField")
    status, _ = await sandbox.call("GET", "/v2/reports?pageSize=1000")
    assert status == 400
