"""Captures, cancellations, fences and refunds at Amazon Pay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.payments.tests.amazon_pay_till import (
    CHARGES,
    MANUAL,
    REFUNDS,
    SESSIONS,
    Till,
    opened_till,
)
from smartpay_payments.domain.payment import (
    Money,
    RefundStatus,
)
from smartpay_payments.domain.processor import (
    Canceled,
    Charged,
    Declined,
    NotKnown,
    RefundOutcome,
    Standing,
)
from smartpay_sandbox.amazon_pay_account import REFUND_SECONDS


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with opened_till(tmp_path) as made:
        yield made


# ---- capture and cancel ----------------------------------------------------------------------


@pytest.mark.parametrize("minor", [1999, 1500])
async def test_an_authorization_is_captured_wholly_or_in_part_and_once(
    till: Till, minor: int
) -> None:
    payment, attempt = await till.charged(**MANUAL)
    charge_id = attempt.processor_payment_id
    assert await till.processor.look(payment, attempt) == Charged(charge_id, 1999, 0)
    taken = Charged(charge_id, 1999, minor)
    assert await till.processor.capture(payment, attempt, till.capture(minor)) == taken
    assert await till.processor.capture(payment, attempt, till.capture(minor)) == taken
    assert await till.processor.capture(payment, attempt, till.capture(minor, "x")) == Declined(
        "refused_invalid_charge_status", soft=True
    )


async def test_more_than_was_authorized_is_not_captured(till: Till) -> None:
    payment, attempt = await till.charged(**MANUAL)
    assert await till.processor.capture(payment, attempt, till.capture(2000)) == Declined(
        "refused_transaction_amount_exceeded", soft=True
    )


@pytest.mark.parametrize("kind", ["drop_after_commit", "error_after"])
async def test_a_capture_whose_answer_is_lost_is_read_from_the_charge(
    till: Till, kind: str
) -> None:
    payment, attempt = await till.charged(**MANUAL)
    till.break_next(kind, CHARGES, method="POST")
    taken = Charged(attempt.processor_payment_id, 1999, 1500)
    assert await till.processor.capture(payment, attempt, till.capture(1500)) == taken
    assert await till.processor.capture(payment, attempt, till.capture(1500)) == taken


async def test_a_capture_that_never_happened_is_not_known_and_happens_by_its_replay(
    till: Till,
) -> None:
    payment, attempt = await till.charged(**MANUAL)
    till.break_next("error_before", CHARGES, method="POST")
    pending = till.capture(1500)
    assert await till.processor.capture(payment, attempt, pending) == NotKnown(
        "no_answer", attempt.processor_payment_id
    )
    assert isinstance(await till.processor.capture(payment, attempt, pending), Charged)


async def test_a_canceled_authorization_closes_its_permission_and_can_not_be_captured(
    till: Till,
) -> None:
    payment, attempt = await till.charged(**MANUAL)
    canceled = Canceled(attempt.processor_payment_id)
    assert await till.processor.cancel(payment, attempt, "key") == canceled
    assert await till.processor.cancel(payment, attempt, "key") == canceled
    (permission,) = till.objects("chargePermission")
    assert permission["statusDetails"]["state"] == "Closed"
    assert await till.processor.capture(payment, attempt, till.capture(1999)) == Declined(
        "refused_invalid_charge_status", soft=True
    )


async def test_a_captured_charge_is_not_canceled(till: Till) -> None:
    payment, attempt = await till.charged()
    refused = await till.processor.cancel(payment, attempt, "key")
    assert refused == Declined("refused_invalid_charge_status", soft=True)
    assert isinstance(await till.processor.look(payment, attempt), Charged)


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "error_after"])
async def test_a_cancel_without_an_answer_is_not_known_and_then_canceled(
    till: Till, kind: str
) -> None:
    payment, attempt = await till.charged(**MANUAL)
    # A DELETE whose kept connection breaks is sent once more by aiohttp itself.
    till.break_next(kind, "/v2/chargePermissions", 2 if kind == "drop_after_commit" else 1)
    assert await till.processor.cancel(payment, attempt, "key") == NotKnown(
        "no_answer", attempt.processor_payment_id
    )
    assert isinstance(await till.processor.cancel(payment, attempt, "key"), Canceled)


# ---- the fence of an open session ------------------------------------------------------------


@pytest.mark.parametrize("minor", [1999, 1])
async def test_a_canceled_session_can_not_be_completed_by_a_look_under_way(
    till: Till, minor: int
) -> None:
    payment, attempt, url = await till.opened(amount=Money(minor, "USD"))
    canceled = Canceled(attempt.processor_payment_id)
    assert await till.processor.cancel(payment, attempt, "key") == canceled
    assert await till.processor.cancel(payment, attempt, "key") == canceled
    await till.sandbox.buyer(url)
    assert await till.processor.look(payment, attempt) == canceled
    assert till.charges() == []


async def test_a_completion_that_arrives_after_the_fence_is_refused(till: Till) -> None:
    payment, attempt, url = await till.opened()
    till.break_next("slow", f"{SESSIONS}/{attempt.processor_payment_id}/complete", delay_ms=1000)
    looking = asyncio.create_task(till.processor.look(payment, attempt))
    while not till.sandbox.simulator.dump()["faults"][0]["fired"]:
        await asyncio.sleep(0)
    assert isinstance(await till.processor.cancel(payment, attempt, "key"), Canceled)
    await till.sandbox.buyer(url)
    till.later(seconds=1)
    assert await looking == Canceled(attempt.processor_payment_id)
    assert till.charges() == []


async def test_a_session_whose_payer_agreed_first_is_not_fenced_and_the_charge_stands(
    till: Till,
) -> None:
    payment, attempt = await till.agreed()
    refused = await till.processor.cancel(payment, attempt, "key")
    assert refused == Declined("refused_invalid_checkout_session_status", soft=True)
    assert isinstance(await till.processor.look(payment, attempt), Charged)


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "error_after"])
async def test_a_fence_without_an_answer_is_not_known_and_then_stands(
    till: Till, kind: str
) -> None:
    payment, attempt, _ = await till.opened()
    till.break_next(kind, SESSIONS, method="PATCH")
    assert await till.processor.cancel(payment, attempt, "key") == NotKnown(
        "no_answer", attempt.processor_payment_id
    )
    assert isinstance(await till.processor.cancel(payment, attempt, "key"), Canceled)


# ---- refunds ---------------------------------------------------------------------------------


async def test_a_refund_is_pending_until_amazon_says_how_it_ended(till: Till) -> None:
    payment, attempt = await till.charged()
    refund = till.refund(500)
    made = await till.processor.refund(payment, attempt, refund)
    assert made.status is RefundStatus.PENDING
    assert await till.processor.refund(payment, attempt, refund) == made, "a replay is the same"
    known = replace(refund, processor_refund_id=made.processor_refund_id)
    assert await till.processor.refund(payment, attempt, known) == made
    till.later(seconds=REFUND_SECONDS)
    done = RefundOutcome(RefundStatus.SUCCEEDED, made.processor_refund_id)
    assert await till.processor.refund(payment, attempt, known) == done
    assert len(till.objects("refund")) == 1


async def test_money_is_given_back_in_parts_and_never_more_than_was_taken(till: Till) -> None:
    payment, attempt = await till.charged()
    first = await till.processor.refund(payment, attempt, till.refund(1000, "a"))
    over = await till.processor.refund(payment, attempt, till.refund(1000, "b"))
    rest = await till.processor.refund(payment, attempt, till.refund(999, "c"))
    assert [r.status for r in (first, over, rest)] == [
        RefundStatus.PENDING,
        RefundStatus.FAILED,
        RefundStatus.PENDING,
    ]
    assert over.failure_code == "refused_transaction_amount_exceeded"
    till.later(seconds=REFUND_SECONDS)
    await till.processor.look(payment, attempt)
    (charge,) = till.charges()
    assert charge["refundedAmount"]["amount"] == "19.99"


async def test_a_refund_that_amazon_declines_has_failed(till: Till) -> None:
    payment, attempt = await till.charged()
    refund = till.refund(500)
    body = {
        "chargeId": attempt.processor_payment_id,
        "refundAmount": {"amount": "5.00", "currencyCode": "USD"},
    }
    # The first call, whose answer got lost, is simulated; ours is its replay.
    await till.sandbox.call("POST", REFUNDS, body, key=refund.refund_id, code="RefundDeclined")
    made = await till.processor.refund(payment, attempt, refund)
    assert made.status is RefundStatus.PENDING
    till.later(seconds=REFUND_SECONDS)
    known = replace(refund, processor_refund_id=made.processor_refund_id)
    assert await till.processor.refund(payment, attempt, known) == RefundOutcome(
        RefundStatus.FAILED, made.processor_refund_id, "amazon_rejected"
    )


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "rate_limit"])
async def test_a_refund_without_an_answer_is_not_known_and_then_made_once(
    till: Till, kind: str
) -> None:
    payment, attempt = await till.charged()
    till.break_next(kind, REFUNDS)
    refund = till.refund(500)
    assert await till.processor.refund(payment, attempt, refund) == RefundOutcome(
        RefundStatus.UNKNOWN
    )
    made = await till.processor.refund(payment, attempt, refund)
    assert made.status is RefundStatus.PENDING
    assert len(till.objects("refund")) == 1


async def test_a_burnt_refund_is_found_by_the_money_that_went_back(till: Till) -> None:
    payment, attempt = await till.charged()
    earlier = replace(till.refund(300, "earlier"), status=RefundStatus.SUCCEEDED)
    await till.processor.refund(payment, attempt, earlier)
    till.later(seconds=REFUND_SECONDS)
    payment = replace(payment, refunds=(earlier,))
    till.break_next("error_after", REFUNDS)
    refund = till.refund(500)
    unknown = RefundOutcome(RefundStatus.UNKNOWN)
    assert await till.processor.refund(payment, attempt, refund) == unknown
    till.later(seconds=REFUND_SECONDS)
    assert await till.processor.refund(payment, attempt, refund) == RefundOutcome(
        RefundStatus.SUCCEEDED
    )
    another = replace(till.refund(500, "open"), status=RefundStatus.UNKNOWN)
    torn = replace(payment, refunds=(earlier, another))
    assert await till.processor.refund(torn, attempt, refund) == unknown, "whose money was it?"
    assert len(till.objects("refund")) == 2


async def test_burnt_refunds_of_one_charge_are_found_by_the_money_of_all_of_them(
    till: Till,
) -> None:
    payment, attempt = await till.charged()
    first, second = (
        replace(till.refund(500, name), status=RefundStatus.UNKNOWN) for name in ("one", "two")
    )
    payment = replace(payment, refunds=(first, second))
    unknown = RefundOutcome(RefundStatus.UNKNOWN)
    till.break_next("error_after", REFUNDS)
    assert await till.processor.refund(payment, attempt, first) == unknown
    till.later(seconds=REFUND_SECONDS)
    assert await till.processor.refund(payment, attempt, first) == unknown, "whose money was it?"
    till.break_next("error_after", REFUNDS)
    assert await till.processor.refund(payment, attempt, second) == unknown
    till.later(seconds=REFUND_SECONDS)
    for refund in (first, second):
        found = await till.processor.refund(payment, attempt, refund)
        assert found == RefundOutcome(RefundStatus.SUCCEEDED)


async def test_nothing_more_is_known_of_a_charge_than_itself(till: Till) -> None:
    payment, attempt = await till.charged()
    assert await till.processor.standing(payment, attempt) == Standing()
