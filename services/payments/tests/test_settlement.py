"""Settlement and reconciliation against the sandbox's Stripe, by the unmodified SDK."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, write_merchants
from smartpay_payments.adapters.sqlite_ledger import SqliteLedger
from smartpay_payments.adapters.sqlite_verification import verify_store
from smartpay_payments.adapters.sqlite_workbench import make_due
from smartpay_payments.adapters.stripe_books import StripeBooks
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.ledger import EntryFilter
from smartpay_payments.domain.payment import CaptureMethod, RefundStatus, Status
from smartpay_payments.domain.reconciliation import BooksUnreadableError, BreakKind
from smartpay_payments.domain.settlement import (
    AccountFee,
    ChargeFee,
    Payout,
    PayoutState,
    SettlementLine,
)
from smartpay_payments.reconcile import Report, heal, reconcile_store
from smartpay_payments.settlement import FIRST_READING, OVERLAP, SettledAccount, Settlement
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

FIRST, SECOND = DEMO_ACCOUNTS
KEYS = {FIRST: "sk_test_first", SECOND: "sk_test_second"}
MERCHANT = DEMO_MERCHANT.merchant_id
ACCOUNTS = [SettledAccount(account, "stripe", MERCHANT, False) for account in DEMO_ACCOUNTS]
TOKENS = {FIRST: "pm_card_visa", SECOND: "pm_card_visa"}


class Office:
    """A story at the real adapter, its books, and the bank's side of things."""

    def __init__(self, story: Any, sandbox: StripeSandbox) -> None:
        self.story, self.sandbox = story, sandbox
        self.books = StripeBooks(story.processor.clients)
        self.ledger = SqliteLedger(story.store)
        self.client = sandbox.client()
        self.settlement = Settlement(
            self.ledger, story.commands, {"stripe": self.books}, lambda: ACCOUNTS, story.clock, 1.0
        )

    async def sells(self, key: str = "key", **order: Any) -> Any:
        return await self.story.create(key, tokens=TOKENS, **order)

    async def pays_out(self, minor: int, **params: Any) -> str:
        given: Any = {"amount": minor, "currency": "usd", **params}
        made = await self.client.v1.payouts.create_async(params=given)
        return str(made.id)

    def later(self, **duration: float) -> None:
        self.story.clock.advance(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())

    async def balances(self) -> dict[str, int]:
        found = await self.ledger.balances(MERCHANT, False)
        return {b.account.partition(":")[0]: b.minor_units for b in found if b.minor_units}

    async def names(self) -> list[str]:
        legs, _ = await self.ledger.page(MERCHANT, False, EntryFilter(), 0, 100)
        return sorted({p.entry.transaction_id.partition(":")[0] for p in legs})

    async def heals(self, report: Report) -> int:
        story = self.story
        return await heal(report.breaks, story.store, story.payments, story.commands, story.clock())

    async def reconciled(self, **window: Any) -> Report:
        now = self.story.clock()
        return await reconcile_store(
            self.story.path,
            ACCOUNTS,
            {"stripe": self.books},
            {},
            window.get("window", (now - timedelta(days=1), now + timedelta(days=1))),
            now + timedelta(hours=1),
        )


@pytest.fixture
async def office(new_story: Any, tmp_path: Path) -> AsyncIterator[Office]:
    async with opened(new_story, tmp_path) as running:
        yield running


@asynccontextmanager
async def opened(new_story: Any, folder: Path) -> AsyncIterator[Office]:
    async with stripe_sandbox(folder) as sandbox, new_story(folder / "payments.db") as story:
        story.clock.now = datetime.fromtimestamp(sandbox.clock(), UTC)
        story.processor = StripeProcessor(
            KEYS, sandbox.stripe_url, "https://shop.test/return", 5.0, story.clock
        )
        await story.restart()
        yield Office(story, sandbox)
        assert verify_store(story.path).findings == ()
        await story.processor.close()


# ---- settlement ------------------------------------------------------------------------------


async def test_fees_told_with_the_charge_are_not_posted_again(office: Office) -> None:
    await office.sells()
    before = await office.balances()
    assert before == {"processor": 1911, "fees": 88, "merchant": -1999}
    await office.settlement.round()
    await office.settlement.round()
    assert await office.balances() == before
    assert await office.names() == ["capture", "fee"]


async def test_a_fee_that_was_not_told_with_the_charge_is_learned_from_the_settlement(
    office: Office,
) -> None:
    charge = office.story.processor.charge

    async def tells_no_fee(*arguments: Any) -> Any:
        return replace(await charge(*arguments), fee_minor=0)

    office.story.processor.charge = tells_no_fee
    await office.sells()
    assert await office.balances() == {"processor": 1999, "merchant": -1999}
    for _ in range(2):
        await office.settlement.round()
        await office.story.recovery.step()
    assert await office.balances() == {"processor": 1911, "fees": 88, "merchant": -1999}
    cursor = await office.ledger.cursor(FIRST)
    await office.settlement.round()
    assert cursor is not None
    assert (await office.ledger.cursor(FIRST) or cursor) > cursor, "nothing waits any more"


async def test_a_payout_leaves_the_processor_then_arrives_and_each_is_posted_once(
    office: Office,
) -> None:
    await office.sells()
    await office.pays_out(1500)
    for _ in range(2):
        await office.settlement.round()
    assert await office.balances() == {
        "processor": 411, "fees": 88, "merchant": -1999, "payouts": 1500,
    }  # fmt: skip
    office.later(days=3)
    for _ in range(2):
        await office.settlement.round()
    assert await office.balances() == {"processor": 411, "fees": 88, "merchant": -499}
    assert await office.names() == ["capture", "fee", "payout", "payout_arrived"]


async def test_a_payout_that_the_bank_returns_is_owed_by_the_processor_again(
    office: Office,
) -> None:
    await office.sells()
    before = await office.balances()
    await office.pays_out(1500, destination="ba_account_closed")
    await office.settlement.round()
    office.later(days=3)
    await office.settlement.round()
    await office.settlement.round()
    assert await office.balances() == before
    assert "payout_returned" in await office.names()


async def test_an_account_that_can_t_be_read_waits_and_the_other_is_read(office: Office) -> None:
    await office.sells()
    await office.pays_out(1500)
    office.sandbox.simulator.set_faults(
        [{"kind": "error_before", "method": "GET", "path_prefix": "/v1/balance", "times": 1}]
    )
    await office.settlement.round()
    assert await office.ledger.cursor(FIRST) is None
    assert await office.ledger.cursor(SECOND) is not None
    assert "payout" not in await office.names()
    await office.settlement.round()
    assert "payout" in await office.names()


class Lines:
    """A processor whose settlement is a script."""

    def __init__(self, *lines: SettlementLine) -> None:
        self.told = list(lines)
        self.asked: list[datetime] = []
        self.breaks = False

    async def lines(self, account: str, since: datetime) -> AsyncIterator[SettlementLine]:
        self.asked.append(since)
        for line in self.told:
            yield line
        if self.breaks:
            raise BooksUnreadableError("cut")

    async def payout(self, account: str, payout_id: str) -> Payout:
        return next(
            line for line in self.told if isinstance(line, Payout) and line.line_id == payout_id
        )


async def settled(story: Any, lines: Lines, rounds: int = 1) -> dict[str, int]:
    ledger = SqliteLedger(story.store)
    settlement = Settlement(
        ledger, story.commands, {"stripe": lines}, lambda: ACCOUNTS[:1], story.clock, 1.0
    )
    for _ in range(rounds):
        await settlement.round()
    return {
        b.account.partition(":")[0]: b.minor_units
        for b in await ledger.balances(MERCHANT, False)
        if b.minor_units
    }


async def test_a_fee_waits_until_its_capture_is_stored(story: Any) -> None:
    early = story.clock()
    draft = story.draft("key")
    lines = Lines(ChargeFee("txn_1", early, draft.payment_id, 80, "EUR"))
    story.clock.advance(hours=5)
    assert await settled(story, lines) == {}
    payment = await story.create("key")
    assert payment.payment_id == draft.payment_id
    story.clock.advance(hours=1)
    await settled(story, lines, rounds=2)
    assert lines.asked[1] == early - OVERLAP, "it reads again from where something waits"
    assert lines.asked[2] > early
    fees = [b for b in await SqliteLedger(story.store).balances(MERCHANT, False)
            if b.account.startswith("fees")]  # fmt: skip
    assert [(b.minor_units, b.currency_code) for b in fees] == [(80, "EUR")]


async def test_a_fee_that_nobody_claims_is_not_waited_for_for_ever(story: Any) -> None:
    lines = Lines(ChargeFee("txn_1", story.clock(), "", 88, "USD"))
    story.clock.advance(days=3)
    await settled(story, lines, rounds=2)
    assert lines.asked[1] > lines.asked[0] + FIRST_READING - timedelta(hours=2)


async def test_what_is_kept_for_the_account_as_a_whole_is_posted_once(story: Any) -> None:
    lines = Lines(AccountFee("txn_9", story.clock(), 300, "USD"))
    assert await settled(story, lines, rounds=3) == {"processor": -300, "fees": 300}


async def test_what_breaks_off_is_read_again_and_posted_once(story: Any) -> None:
    now = story.clock()
    lines = Lines(Payout("po_1", now, 500, "USD", PayoutState.ARRIVED))
    lines.breaks = True
    assert await settled(story, lines) == {"merchant": 500, "processor": -500}
    lines.breaks = False
    assert await settled(story, lines) == {"merchant": 500, "processor": -500}
    assert lines.asked[1] - lines.asked[0] < timedelta(minutes=1), "the cursor had stayed"


async def test_a_dispute_is_booked_as_the_bank_decides_and_all_records_agree(
    office: Office,
) -> None:
    disputed = {FIRST: "pm_card_createDispute"}
    for key, evidence in (("won", "winning_evidence"), ("lost", "losing_evidence")):
        payment = await office.story.create(key, tokens=disputed)
        await office.story.recovery.step()
        office.later(days=1)
        await make_due(office.story.store, {payment.payment_id}, office.story.clock())
        await office.story.recovery.step()
        payment = await office.story.read(payment)
        assert payment.disputed_minor == 1999
        (dispute,) = payment.disputes
        payment = await office.story.commands.submit_evidence(
            payment, dispute.dispute_id, {"uncategorized_text": evidence}
        )
    assert await office.balances() == {
        "processor": 1999 - 2 * (88 + 1500),
        "fees": 2 * (88 + 1500),
        "merchant": -1999,
    }
    office.later(hours=1)
    assert (await office.reconciled(window=(
        office.story.clock() - timedelta(days=3), office.story.clock()
    ))).breaks == []  # fmt: skip


# ---- reconciliation on the wire --------------------------------------------------------------


async def test_payments_of_every_sort_agree_on_the_wire(office: Office) -> None:
    await office.sells("captured")
    manual = await office.sells("manual", capture_method=CaptureMethod.MANUAL)
    await office.story.capture(manual, 500)
    await office.sells("held", capture_method=CaptureMethod.MANUAL)
    await office.story.give_back(await office.sells("refunded"), 700)
    canceled = await office.sells("canceled", capture_method=CaptureMethod.MANUAL)
    await office.story.cancel(canceled)
    await office.story.create("declined", tokens={FIRST: "pm_card_chargeDeclinedStolenCard"})
    await office.story.create(
        "cascaded", tokens={FIRST: "pm_card_chargeDeclined", SECOND: "pm_card_visa"}
    )
    report = await office.reconciled()
    assert report.breaks == []
    assert (report.payments, report.unread_accounts, report.too_young) == (7, {}, 0)


@pytest.mark.parametrize("order_is_paid", [False, True])
async def test_a_late_success_is_found_and_healed_by_reconciliation(
    office: Office, order_is_paid: bool
) -> None:
    story = office.story
    declined = {FIRST: "pm_card_chargeDeclinedStolenCard"}
    payment = await story.create("late", tokens=declined, merchant_order_id="o")
    if order_is_paid:
        await office.sells("other", merchant_order_id="o")
    await office.client.v1.payment_intents.confirm_async(
        payment.last_attempt.processor_payment_id,
        params={"payment_method": "pm_card_visa", "return_url": "https://shop.test"},
    )
    office.later(hours=1)
    report = await office.reconciled()
    assert [(b.kind, b.heals) for b in report.breaks] == [(BreakKind.STATUS_MISMATCH, True)]

    assert await office.heals(report) == 1
    await story.recovery.step()
    await office.settlement.round()
    await story.recover()
    office.later(hours=3)

    payment = await story.read(payment)
    assert payment.status is (Status.FAILED if order_is_paid else Status.SUCCEEDED)
    assert [r.status for r in payment.refunds] == [RefundStatus.SUCCEEDED] * order_is_paid
    assert (await office.reconciled()).breaks == []
    fees = 88 * (1 + order_is_paid)
    assert await office.balances() == {"processor": 1999 - fees, "fees": fees, "merchant": -1999}


async def test_what_was_done_behind_our_back_is_found(office: Office) -> None:
    refunded, kept = await office.sells("refunded"), await office.sells("kept")
    await office.client.v1.refunds.create_async(
        params={"payment_intent": refunded.last_attempt.processor_payment_id, "amount": 5}
    )
    held = await office.sells("held", capture_method=CaptureMethod.MANUAL)
    await office.client.v1.payment_intents.capture_async(held.last_attempt.processor_payment_id)
    await office.client.v1.payment_intents.create_async(
        params={
            "amount": 700,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "confirm": True,
            "allowed_payment_method_types": ["card"],
            "return_url": "https://shop.test",
        }
    )
    office.later(hours=1)
    report = await office.reconciled()
    assert sorted((b.kind, b.payment_id, b.heals) for b in report.breaks) == sorted(
        [
            (BreakKind.REFUND_MISMATCH, refunded.payment_id, False),
            (BreakKind.STATUS_MISMATCH, held.payment_id, True),
            (BreakKind.MISSING_WITH_US, "", False),
        ]
    )
    assert kept.payment_id not in {b.payment_id for b in report.breaks}
    assert "REFUND_MISMATCH" in report.table()


async def test_a_late_success_is_healed_by_the_story_itself(office: Office) -> None:
    office.sandbox.simulator.set_faults(
        [{"kind": "drop_after_commit", "method": "POST", "times": 99}]
    )
    payment = await office.sells()
    assert payment.status is Status.UNKNOWN
    office.sandbox.simulator.clear_faults()
    report = await office.reconciled()
    assert [(b.kind, b.heals) for b in report.breaks] == [(BreakKind.STATUS_MISMATCH, True)]
    assert await office.heals(report) == 1
    await office.story.recovery.step()
    assert (await office.story.read(payment)).status is Status.SUCCEEDED
    office.later(hours=1)
    assert (await office.reconciled()).breaks == []


async def test_what_waits_for_a_person_is_healed_by_the_processor_s_word(office: Office) -> None:
    office.sandbox.simulator.set_faults(
        [{"kind": "drop_after_commit", "method": "POST", "times": 99},
         {"kind": "error_before", "method": "GET"}]
    )  # fmt: skip
    payment = await office.sells()
    await office.story.recover(looks=24)
    assert (await office.story.read(payment)).status is Status.NEEDS_REVIEW
    office.sandbox.simulator.clear_faults()
    office.later(hours=30)
    report = await office.reconciled(
        window=(payment.create_time, payment.create_time + timedelta(hours=1))
    )
    assert [b.kind for b in report.breaks] == [BreakKind.STATUS_MISMATCH]
    assert await office.heals(report) == 1
    assert (await office.story.read(payment)).status is Status.SUCCEEDED


async def test_an_account_that_was_not_read_is_named_and_raises_no_false_alarm(
    office: Office,
) -> None:
    await office.sells()
    office.sandbox.simulator.set_faults(
        [{"kind": "error_before", "method": "GET", "path_prefix": "/v1/payment_intents"}]
    )
    report = await office.reconciled()
    assert report.breaks == []
    assert report.unread_accounts.keys() == {FIRST, SECOND}
    assert f"not read: {FIRST}" in report.table()


async def test_a_window_leaves_its_neighbours_alone(office: Office) -> None:
    await office.sells("before")
    office.later(minutes=30)
    begin = office.story.clock()
    await office.sells("within")
    office.later(minutes=30)
    end = office.story.clock()
    await office.sells("after")
    office.later(hours=2)
    report = await office.reconciled(window=(begin, end))
    assert (report.payments, report.breaks) == (1, [])


# ---- the command -----------------------------------------------------------------------------


async def command(office: Office, folder: Path, *arguments: str) -> tuple[int, str]:
    environment = {
        "PATH": "",
        "SMARTPAY_LISTEN_SOCKET": str(folder / "a"),
        "SMARTPAY_EGRESS_SOCKET": str(folder / "b"),
        "SMARTPAY_MERCHANTS_FILE": str(write_merchants(folder / "merchants.json")),
        "PAYMENTS_STORE_PATH": str(office.story.path),
        "STRIPE_SECRET_KEY": "sk_test_first",
        "STRIPE_API_BASE": office.sandbox.stripe_url,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "smartpay_payments.reconcile", *arguments,
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_command_reports_to_people_and_programs_and_heals(
    office: Office, tmp_path: Path
) -> None:
    await office.story.create("good", tokens={FIRST: "pm_card_visa"})
    office.sandbox.simulator.set_faults([{"kind": "drop_after_commit", "method": "POST"}])
    late = await office.story.create("late", tokens={FIRST: "pm_card_visa"})
    office.sandbox.simulator.clear_faults()
    day = late.create_time.date()
    window = ("--since", f"{day}", "--until", f"{day + timedelta(days=1)}")
    report = tmp_path / "breaks.jsonl"
    code, output = await command(office, tmp_path, *window, "--json", str(report), "--heal")
    # The sandbox's clock is ahead of this machine's, so all of it is young.
    assert (code, report.read_text()) == (0, ""), output
    assert "2 payments compared, 0 breaks, 1 differences too young to tell" in output
    assert "0 payments are looked at again" in output


async def test_the_command_says_which_account_it_could_not_read(
    office: Office, tmp_path: Path
) -> None:
    office.sandbox.simulator.set_faults([{"kind": "error_before", "method": "GET"}])
    code, output = await command(office, tmp_path)
    assert code == 2
    assert f"not read: {FIRST}" in output
