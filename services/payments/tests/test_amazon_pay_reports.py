"""Amazon Pay's settlement reports, read from the sandbox: fees, transfers, charges of nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.payments.tests.amazon_pay_till import account
from smartpay_chassis.testing import DEMO_MERCHANT
from smartpay_payments.adapters.amazon_pay_client import AmazonPayClient
from smartpay_payments.adapters.amazon_pay_processor import AmazonPayProcessor
from smartpay_payments.adapters.amazon_pay_reports import (
    SETTLEMENT,
    AmazonPayReports,
)
from smartpay_payments.adapters.sqlite_ledger import SqliteLedger
from smartpay_payments.adapters.sqlite_verification import verify_store
from smartpay_payments.domain.eligibility import Account
from smartpay_payments.domain.payment import Payment, Status
from smartpay_payments.domain.reconciliation import BooksUnreadableError, BreakKind
from smartpay_payments.domain.settlement import (
    AccountFee,
    ChargeFee,
    Payout,
    PayoutState,
    SettlementLine,
)
from smartpay_payments.reconcile import Report, reconcile_store
from smartpay_payments.settlement import SettledAccount, Settlement
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox

WALLET = "pac_d1" + "w" * 24
MERCHANT = DEMO_MERCHANT.merchant_id
ACCOUNT = SettledAccount(WALLET, "amazon_pay", MERCHANT, False)


@dataclass
class Counter:
    """A story with a wallet account, its books, and the Amazon Pay under it."""

    story: Any
    sandbox: AmazonPaySandbox
    rail: AmazonPayProcessor
    reports: AmazonPayReports

    async def sells(self, key: str = "key", **order: Any) -> Payment:
        permission = self.sandbox.simulator.grant("AFIRST", "1111")["chargePermissionId"]
        payment: Payment = await self.story.create(key, tokens={WALLET: permission}, **order)
        assert payment.status is Status.SUCCEEDED
        return payment

    def later(self, **duration: float) -> None:
        self.story.clock.advance(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())

    async def settles(self, rounds: int = 2) -> dict[str, int]:
        """Reads the settlement now and an hour later; answers the balances by kind of account."""
        ledger = SqliteLedger(self.story.store)
        settlement = Settlement(
            ledger,
            self.story.commands,
            {"amazon_pay": self.reports},
            lambda: [ACCOUNT],
            self.story.clock,
            1.0,
        )
        for _ in range(rounds):
            await settlement.round()
            self.later(hours=1)
        return {
            b.account.partition(":")[0]: b.minor_units
            for b in await ledger.balances(MERCHANT, False)
            if b.minor_units
        }

    async def reconciled(self) -> Report:
        now = self.story.clock()
        return await reconcile_store(
            self.story.path,
            [ACCOUNT],
            {},
            {"amazon_pay": self.rail},
            (now - timedelta(days=3), now + timedelta(days=1)),
            now + timedelta(hours=1),
            partial_books={"amazon_pay": self.reports},
        )


@pytest.fixture
async def counter(tmp_path: Path, new_story: Any) -> AsyncIterator[Counter]:
    async with amazon_pay_sandbox(tmp_path) as sandbox, new_story(tmp_path / "p.db") as story:
        sandbox.clock.now = story.clock.now.timestamp()
        client = AmazonPayClient(
            {WALLET: account("first")}, sandbox.amazon_pay_url, 5.0, story.clock
        )
        rail = AmazonPayProcessor(client, "https://shop.test/return", story.clock)
        story.more_rails["amazon_pay"] = rail
        terms = Account(WALLET, "amazon_pay", frozenset({"USD"}), True)
        story.terms = replace(story.terms, accounts=(terms,))
        story.advisor.ranking = (WALLET,)
        await story.restart()
        yield Counter(story, sandbox, rail, AmazonPayReports(client, story.clock))
        assert verify_store(story.path).findings == ()
        await rail.close()


# ---- settlement ------------------------------------------------------------------------------


async def test_a_fee_is_booked_with_its_payment_once_amazon_tells_it(counter: Counter) -> None:
    payment = await counter.sells()
    assert payment.fee_minor == 0
    counter.later(minutes=1)
    assert await counter.settles(1) == {"processor": 1999, "merchant": -1999}
    booked = {"processor": 1911, "fees": 88, "merchant": -1999}
    assert await counter.settles(1) == booked
    assert await counter.settles(3) == booked
    assert (await counter.story.read(payment)).fee_minor == 88


async def test_a_report_is_asked_for_once_an_hour_and_tells_a_day(counter: Counter) -> None:
    await counter.sells()
    counter.later(hours=20)
    since = counter.story.clock() - timedelta(minutes=1)
    for _ in range(3):
        told = [line async for line in counter.reports.lines(WALLET, since)]
        counter.later(minutes=20)
    assert [type(line) for line in told] == [ChargeFee, Payout]
    assert len(counter.sandbox.merchant()["reports"]) == 1
    counter.later(minutes=1)
    assert [line async for line in counter.reports.lines(WALLET, since)] == told
    assert len(counter.sandbox.merchant()["reports"]) == 2


async def test_what_a_refund_gives_back_of_the_fee_is_booked_once(counter: Counter) -> None:
    payment = await counter.story.give_back(await counter.sells(), 1000)
    counter.later(minutes=1)
    await counter.story.recovery.step()
    assert (await counter.story.read(payment)).refunded_minor == 1000
    fees = 88 - 29
    assert await counter.settles(4) == {
        "processor": 999 - fees,
        "fees": fees,
        "merchant": -999,
    }


async def test_a_transfer_to_the_bank_is_booked_once(counter: Counter) -> None:
    await counter.sells("one")
    counter.later(days=1)
    await counter.sells("two")
    counter.later(days=1)
    assert await counter.settles(4) == {"fees": 176, "merchant": -176}


async def test_a_fee_of_a_charge_of_nobody_is_not_booked(counter: Counter) -> None:
    await stray(counter)
    counter.later(minutes=1)
    assert await counter.settles() == {}


# ---- reconciliation --------------------------------------------------------------------------


async def stray(counter: Counter, reference: str = "", minor: str = "7.00") -> str:
    """A charge that somebody made with our credentials, not us."""
    permission = counter.sandbox.simulator.grant("AFIRST", "1111")["chargePermissionId"]
    body = {
        "chargePermissionId": permission,
        "chargeAmount": {"amount": minor, "currencyCode": "USD"},
        "captureNow": True,
        "merchantMetadata": {"merchantReferenceId": reference},
    }
    _, made = await counter.sandbox.call("POST", "/v2/charges", body, key="stray")
    return str(made["chargeId"])


async def test_three_records_agree_once_the_fee_is_booked(counter: Counter) -> None:
    await counter.sells()
    counter.later(minutes=1)
    await counter.settles()
    assert (await counter.reconciled()).breaks == []


async def test_a_fee_that_is_not_booked_yet_is_a_break_that_heals(counter: Counter) -> None:
    await counter.sells()
    counter.later(minutes=1)
    async for _ in counter.reports.lines(WALLET, counter.story.clock() - timedelta(days=1)):
        raise AssertionError("told before it is made")
    counter.later(minutes=20)
    (found,) = (await counter.reconciled()).breaks
    assert (found.kind, found.ours, found.heals) == (BreakKind.FEE_MISMATCH, "0", True)


async def test_a_charge_of_nobody_is_found(counter: Counter) -> None:
    await counter.sells()
    charge_id = await stray(counter)
    counter.later(minutes=1)
    await counter.settles()
    (found,) = (await counter.reconciled()).breaks
    assert (found.kind, found.processor_payment_id) == (BreakKind.MISSING_WITH_US, charge_id)
    assert found.theirs == "CAPTURED 700 USD, fee 50"


async def test_a_second_charge_of_a_payment_is_found(counter: Counter) -> None:
    payment = await counter.sells()
    charge_id = await stray(counter, payment.payment_id, "19.99")
    counter.later(minutes=1)
    await counter.settles()
    (found,) = (await counter.reconciled()).breaks
    assert (found.kind, found.payment_id) == (BreakKind.DUPLICATE_CHARGE, payment.payment_id)
    assert found.processor_payment_id == charge_id


async def test_a_report_that_can_not_be_read_says_so_and_nothing_else(counter: Counter) -> None:
    await counter.sells()
    counter.later(minutes=1)
    await counter.settles()
    rule = {"kind": "error_before", "times": 1, "path_prefix": "/v2/report-documents"}
    counter.sandbox.simulator.set_faults([rule])
    report = await counter.reconciled()
    assert report.breaks == []
    assert "report-documents" in report.unread_accounts[WALLET]


# ---- a live account's report -----------------------------------------------------------------

HEAD = """"SettlementStartDate","2026-01-01T00:00:00 -0800"
"SettlementEndDate","2026-01-02T00:00:00 -0800"
"SellerId","A1"
"TransactionPostedDate","SettlementId","AmazonTransactionId","SellerReferenceId","TransactionType",\
"AmazonOrderReferenceId","SellerOrderId","StoreName","CurrencyCode","TransactionDescription",\
"TransactionAmount","TransactionPercentageFee","TransactionFixedFee","TotalTransactionFee",\
"NetTransactionAmount"
"""


def row(kind: str, name: str, amount: str, fee: str, net: str, currency: str = "USD") -> str:
    fields = ("2026-01-01T10:00:00 -0800", "77", name, "", kind, "", "", "", currency, "")
    return ",".join(f'"{value}"' for value in (*fields, amount, "", "", fee, net)) + "\n"


class LiveAmazon:
    """Amazon's side of a live account: one report at a time, on two pages."""

    def __init__(self, document: str) -> None:
        self.document = document
        self.asked: list[tuple[str, str, Any]] = []
        self.accounts = {WALLET: replace(account("first"), is_live=True)}

    async def call(
        self, name: str, method: str, path: str, body: str = "", *, query: Any = None
    ) -> dict[str, Any]:
        self.asked.append((method, path, query))
        if path.startswith("report-documents/"):
            return {"url": "https://amazon.test/document"}
        if query == {"nextToken": "more"}:
            return {"reports": [{"reportDocumentId": "doc"}]}
        return {"reports": [], "nextToken": "more"}

    async def download(self, url: str) -> bytes:
        return self.document.encode()


async def lines_of(document: str) -> tuple[LiveAmazon, list[SettlementLine]]:
    amazon: Any = LiveAmazon(document)
    now = datetime(2026, 1, 3, tzinfo=UTC)
    reports = AmazonPayReports(amazon, lambda: now)
    return amazon, [line async for line in reports.lines(WALLET, now - timedelta(days=1))]


async def test_a_live_account_s_reports_are_listed_and_never_asked_for() -> None:
    amazon, _ = await lines_of(HEAD)
    assert {method for method, *_ in amazon.asked} == {"GET"}
    _, _, query = amazon.asked[0]
    assert (query["reportTypes"], query["processingStatuses"]) == (SETTLEMENT, "COMPLETED")
    assert query["createdSince"] == "20260101T230000Z"


async def test_each_kind_of_row_posts_what_it_moves() -> None:
    document = HEAD + "".join(
        (
            row("Capture", "C1", "19.99", "-0.88", "19.11"),
            row("Refund", "R1", "-10.00", "0.29", "-9.71"),
            row("Refund", "R2", "-1.00", "0.00", "-1.00"),
            row("Chargeback", "B1", "-5.00", "-20.00", "-25.00"),
            row("Reserve", "", "-3.00", "", "-3.00"),
            row("Carryover", "", "1.00", "", "1.00"),
            row("Transfer", "", "-4.00", "", "-4.00"),
            row("Transfer", "", "2.00", "", "2.00"),
            row("Capture", "C2", "500", "-20", "480", "JPY"),
        )
    )
    _, lines = await lines_of(document)
    at = datetime.fromisoformat("2026-01-01T18:00:00+00:00")
    assert lines == [
        ChargeFee("C1", at, "", 88, "USD", processor_payment_id="C1", is_only_word=True),
        AccountFee("Refund-R1", at, -29, "USD"),
        AccountFee("Chargeback-B1", at, 2500, "USD"),
        Payout("77-1", at, 400, "USD", PayoutState.ARRIVED),
        Payout("77-2", at, -200, "USD", PayoutState.ARRIVED),
        ChargeFee("C2", at, "", 20, "JPY", processor_payment_id="C2", is_only_word=True),
    ]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "<html>",
        HEAD + row("Capture", "C1", "1,000.00", "-0.88", "19.11"),
        HEAD + row("Capture", "C1", "19.99", "-0.881", "19.11"),
        HEAD + row("Capture", "C1", "19.99", "-0.88", "19.11", "XXX"),
        HEAD + '"cut',
    ],
)
async def test_what_is_no_report_posts_nothing_and_is_read_again(document: str) -> None:
    with pytest.raises(BooksUnreadableError):
        await lines_of(document)
