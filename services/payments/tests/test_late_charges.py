"""Money that a processor shows for what had ended without it: kept once, else given back."""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT
from smartpay_payments.adapters.sqlite_audit import SqliteAudit
from smartpay_payments.domain.commands import Evidence
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.payment import (
    AttemptStatus,
    CaptureMethod,
    Payment,
    RefundReason,
    RefundStatus,
    RewardMark,
    Status,
)

FIRST, SECOND = DEMO_ACCOUNTS
MANUAL = CaptureMethod.MANUAL


async def failed(story: Any, key: str = "key", words: tuple[str, ...] = ("hard",)) -> Payment:
    """A payment for order "o" that a processor refused."""
    story.processor.script = list(words)
    payment: Payment = await story.create(key, merchant_order_id="o")
    assert payment.status is Status.FAILED
    return payment


async def look(story: Any, payment: Payment) -> Payment:
    """Looks as recovery does once something points to the payment."""
    looked: Payment = await story.saga.advance(await story.read(payment), story.terms)
    return looked


def kept(story: Any, *payments: Payment) -> list[int]:
    """What of each successful charge was not given back, by the processor's own truth."""
    left = []
    for payment in payments:
        for attempt in payment.attempts:
            intent = story.processor.intents.get(attempt.processor_key)
            if intent is None or not intent.captured:
                continue
            back = sum(
                story.processor.refunds.get(refund.refund_id, 0)
                for refund in payment.refunds
                if refund.attempt_index == attempt.attempt_index
            )
            left.append(intent.captured - back)
    return [minor for minor in left if minor]


# ---- taken up --------------------------------------------------------------------------------


async def test_a_late_success_pays_the_payment_while_its_order_is_free(story: Any) -> None:
    payment = await failed(story)
    story.charge_late(payment)

    healed = await look(story, payment)

    assert (healed.status, healed.status_reason) == (Status.SUCCEEDED, "charged_late")
    assert (healed.captured_minor, healed.reward_mark) == (1999, RewardMark.RECEIPT)
    assert healed.last_attempt.status is AttemptStatus.SUCCEEDED
    assert healed.last_attempt.decline_code == ""
    assert (await story.history(payment))[-1].event_type == "smartpay.payment.succeeded.v1"
    assert await story.balance(payment) == {
        f"processor:{FIRST}": 1999,
        f"merchant:{payment.merchant_id}": -1999,
    }
    with pytest.raises(Refusal, match="order id"):
        await story.create("again", merchant_order_id="o")


async def test_the_audit_trail_tells_that_nobody_asked_for_it(story: Any) -> None:
    payment = await failed(story)
    story.charge_late(payment)
    await look(story, payment)
    records, _ = await SqliteAudit(story.store).page(
        DEMO_MERCHANT.merchant_id, False, "", 10, subject_id=payment.payment_id
    )
    told = {c.field: (c.before, c.after) for c in records[0].changes}
    assert (records[0].actor, records[0].action) == ("system:recovery", "late_charge")
    assert told["status"] == ("FAILED", "SUCCEEDED")


async def test_a_payment_that_expired_is_paid_by_a_late_success(story: Any) -> None:
    story.processor.script = ["action"]
    payment = await story.create()
    await story.recover()
    payment = await story.read(payment)
    assert payment.status is Status.CANCELED
    story.charge_late(payment)
    assert (await look(story, payment)).status is Status.SUCCEEDED


async def test_what_an_operator_gave_up_without_an_id_is_found_and_paid(story: Any) -> None:
    story.processor.script = ["lost_after"] * 20
    payment = await story.create()
    await story.recover()
    payment = await story.read(payment)
    story.processor.script = []
    claim = Claim("op", payment.payment_id, "hash")
    payment = await story.commands.resolve(payment, Evidence(charged=False), claim)
    assert (payment.status, payment.last_attempt.processor_payment_id) == (Status.FAILED, "")
    healed = await look(story, payment)
    assert (healed.status, healed.last_attempt.processor_payment_id) == (Status.SUCCEEDED, "pi_0")


async def test_what_waits_for_a_person_ends_by_the_processors_own_word(story: Any) -> None:
    story.processor.script = ["lost_after"] * 20
    payment = await story.create()
    await story.recover()
    story.processor.script = []
    assert (await story.read(payment)).status is Status.NEEDS_REVIEW
    assert (await look(story, payment)).status is Status.SUCCEEDED


async def test_a_late_hold_may_be_captured(story: Any) -> None:
    story.processor.script = ["hard"]
    payment = await story.create(capture_method=MANUAL)
    story.charge_late(payment, status="requires_capture")
    held = await look(story, payment)
    assert (held.status, held.authorized_minor) == (Status.REQUIRES_CAPTURE, 1999)
    assert (await story.capture(held, 700)).captured_minor == 700


# ---- given back ------------------------------------------------------------------------------


async def test_a_late_success_of_a_paid_order_is_given_back_once(story: Any) -> None:
    payment = await failed(story)
    other = await story.create("other", merchant_order_id="o")
    story.charge_late(payment)

    for _ in range(3):
        looked = await look(story, payment)

    assert (looked.status, looked.captured_minor) == (Status.FAILED, 0)
    (refund,) = looked.refunds
    assert (refund.reason, refund.status) == (RefundReason.OVERPAYMENT, RefundStatus.SUCCEEDED)
    assert (refund.amount.minor_units, looked.refunded_minor) == (1999, 0)
    assert list(story.processor.refunds.values()) == [1999]
    assert kept(story, looked, other) == [1999]
    assert set((await story.balance(payment)).values()) == {0}
    assert {e.transaction_id for e in await story.payments.ledger(payment.payment_id)} >= {
        "transfers:0",
        f"refund:{refund.refund_id}",
    }


async def test_an_order_that_is_being_paid_is_not_paid_twice(story: Any) -> None:
    payment = await failed(story)
    story.processor.script = ["action"]
    await story.create("other", merchant_order_id="o")
    story.charge_late(payment)
    assert (await look(story, payment)).status is Status.FAILED
    assert list(story.processor.refunds.values()) == [1999]


async def test_what_the_merchant_gave_up_is_given_back(story: Any) -> None:
    payment = await story.cancel(await story.create(capture_method=MANUAL))
    story.charge_late(payment)
    assert (await look(story, payment)).status is Status.CANCELED
    assert list(story.processor.refunds.values()) == [1999]


async def test_of_two_late_successes_one_pays_and_one_goes_back(story: Any) -> None:
    payment = await failed(story, words=("soft", "soft"))
    story.charge_late(payment, 0)
    story.charge_late(payment, 1)
    healed = await look(story, payment)
    assert (healed.status, healed.paid_attempt.attempt_index) == (Status.SUCCEEDED, 0)
    assert [r.attempt_index for r in healed.refunds] == [1]
    assert kept(story, healed) == [1999]


async def test_a_late_success_beside_the_one_that_paid_goes_back(story: Any) -> None:
    story.processor.script = ["soft"]
    payment = await story.create()
    story.charge_late(payment, 0)
    looked = await look(story, payment)
    assert [(r.attempt_index, r.amount.minor_units) for r in looked.refunds] == [(0, 1999)]
    assert (looked.refundable_minor, looked.overpaid_minor) == (1999, 1999)
    assert kept(story, looked) == [1999]
    assert await story.balance(payment) == {
        f"processor:{FIRST}": 0,
        f"overpayments:{payment.merchant_id}": 0,
        f"processor:{SECOND}": 1999,
        f"merchant:{payment.merchant_id}": -1999,
    }


async def test_a_late_hold_of_a_paid_order_is_given_up(story: Any) -> None:
    story.processor.script = ["hard"]
    payment = await story.create("key", capture_method=MANUAL, merchant_order_id="o")
    await story.create("other", merchant_order_id="o")
    story.charge_late(payment, status="requires_capture")
    assert (await look(story, payment)).version == payment.version
    assert story.processor.intents[payment.last_attempt.processor_key].status == "canceled"


# ---- left to a person ------------------------------------------------------------------------


async def test_another_amount_is_left_to_a_person(story: Any) -> None:
    payment = await failed(story)
    story.charge_late(payment)
    story.processor.intents[payment.last_attempt.processor_key].captured = 5
    assert (await look(story, payment)).version == payment.version


async def test_what_somebody_gave_back_at_the_processor_is_left_to_a_person(story: Any) -> None:
    payment = await failed(story)
    story.charge_late(payment)
    honest = story.processor.look

    async def look_and_tell(*args: Any) -> Any:
        return replace(await honest(*args), refunded_minor=1)

    story.processor.look = look_and_tell
    assert (await look(story, payment)).version == payment.version


async def test_silence_at_a_late_look_changes_nothing(story: Any) -> None:
    payment = await failed(story)
    story.charge_late(payment)
    story.processor.script = ["lost_before"]
    assert (await look(story, payment)).status is Status.FAILED
    assert (await look(story, payment)).status is Status.SUCCEEDED


# ---- whatever happens ------------------------------------------------------------------------


@pytest.mark.parametrize("order_is_paid", [False, True])
async def test_a_crash_at_any_point_keeps_one_charge(
    order_is_paid: bool, new_story: Any, crash: type[BaseException], tmp_path: Path
) -> None:
    dies_at, survived = 0, False
    while not survived:
        dies_at += 1
        async with new_story(tmp_path / f"{dies_at}.db") as story:
            payments = [await failed(story)]
            if order_is_paid:
                payments.append(await story.create("other", merchant_order_id="o"))
            story.charge_late(payments[0])
            story.fate.points, story.fate.dies_at = 0, dies_at
            try:
                await look(story, payments[0])
                survived = True
            except crash:
                await story.restart()
            await look(story, payments[0])
            await story.recover()
            payments = [await story.read(payment) for payment in payments]
            assert kept(story, *payments) == [1999]
            assert [p.status for p in payments].count(Status.SUCCEEDED) == 1
    assert dies_at > 4, "there were no points to die at"


async def test_two_who_look_at_once_book_once(story: Any) -> None:
    payment = await failed(story)
    await story.create("other", merchant_order_id="o")
    story.charge_late(payment)
    await asyncio.gather(*(look(story, payment) for _ in range(8)))
    assert list(story.processor.refunds.values()) == [1999]
    assert len(await story.history(payment)) == (await story.read(payment)).version


async def test_two_who_look_at_two_late_successes_keep_one(story: Any) -> None:
    payment = await failed(story, words=("soft", "soft"))
    story.charge_late(payment, 0)
    story.charge_late(payment, 1)
    for _ in range(2):
        await asyncio.gather(*(look(story, payment) for _ in range(8)))
    healed = await story.read(payment)
    assert [a.status for a in healed.attempts].count(AttemptStatus.SUCCEEDED) == 1
    assert list(story.processor.refunds.values()) == [1999]
    assert kept(story, healed) == [1999]


@pytest.mark.parametrize("seed", range(25))
def test_of_an_order_never_two_charges_are_kept(new_story: Any, seed: int) -> None:
    """Several payments for one order, late successes anywhere, looks in any order."""

    async def run(folder: str) -> None:
        chance = random.Random(seed)
        async with new_story(Path(folder) / "payments.db") as story:
            payments: list[Payment] = []
            for number in range(chance.randint(2, 4)):
                story.processor.script = chance.choices(["ok", "soft", "hard", "action"], k=2)
                with contextlib.suppress(Refusal):  # another one holds the order
                    payments.append(await story.create(f"{number}", merchant_order_id="o"))
                story.processor.script = []
                await story.recover()
                for payment in chance.choices(payments, k=2):
                    now = await story.read(payment)
                    if chance.random() < 0.5 and now.attempts:
                        story.charge_late(now, chance.randrange(len(now.attempts)))
                    await look(story, payment)
            for _ in range(2):
                payments = [await look(story, payment) for payment in payments]
            await story.recover()
            payments = [await story.read(payment) for payment in payments]
            paid = [p for p in payments if p.status is Status.SUCCEEDED]
            assert len(paid) <= 1
            assert kept(story, *payments) == [1999] * len(paid)
            for payment in payments:
                books = await story.balance(payment)
                assert sum(books.values()) == 0
                assert not books.get(f"overpayments:{payment.merchant_id}")

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))
