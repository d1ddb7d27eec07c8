"""Payments that wait: for a confirmation, for a person's review, for an operator's word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.payments.tests.conftest import FIRST, SECOND
from smartpay_chassis.refusals import Refusal
from smartpay_payments.domain.commands import Evidence
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.payment import FraudOpinion, Payment, Status

REVIEW = FraudOpinion("REVIEW", 0.5, "new_device", b"")


def unconfirmed(story: Any, key: str = "key", **changes: Any) -> Payment:
    draft: Payment = story.draft(key, **changes)
    return replace(draft, status=Status.REQUIRES_CONFIRMATION)


def claim(payment: Payment, key: str = "k") -> Claim:
    return Claim(key, payment.payment_id, "hash")


# ---- confirmed later -------------------------------------------------------------------------


async def test_a_payment_to_be_confirmed_asks_nobody_until_it_is(story: Any) -> None:
    payment = await story.saga.create(unconfirmed(story), story.terms)
    assert payment.status is Status.REQUIRES_CONFIRMATION
    assert (story.advisor.asked, story.processor.calls) == ([], [])
    paid = await story.saga.confirm(payment, story.terms)
    assert paid.status is Status.SUCCEEDED
    assert story.advisor.asked == ["fraud", "router"]
    assert await story.saga.confirm(paid, story.terms) == paid


async def test_the_payer_s_choice_is_followed_and_the_router_not_asked(story: Any) -> None:
    payment = await story.saga.create(unconfirmed(story), story.terms)
    paid = await story.saga.confirm(payment, story.terms, SECOND)
    assert story.charged_accounts(paid) == [SECOND]
    assert story.advisor.asked == ["fraud"]


async def test_two_confirmations_at_once_charge_once(story: Any) -> None:
    payment = await story.saga.create(unconfirmed(story), story.terms)
    await story.saga.confirm(payment, story.terms, FIRST)
    with pytest.raises(Refusal, match="same time"):
        await story.saga.confirm(payment, story.terms, SECOND)
    assert story.charged_accounts(payment) == [FIRST]


async def test_fraud_is_heard_at_the_confirmation(story: Any) -> None:
    payment = await story.saga.create(unconfirmed(story), story.terms)
    story.advisor.opinion = FraudOpinion("BLOCK", 0.99, "card_testing", b"")
    blocked = await story.saga.confirm(payment, story.terms)
    assert (blocked.status, blocked.status_reason) == (Status.BLOCKED, "card_testing")
    assert story.processor.calls == []


async def test_what_nobody_confirms_is_canceled_after_a_day(story: Any) -> None:
    payment = await story.saga.create(unconfirmed(story), story.terms)
    story.clock.advance(hours=23)
    assert await story.recovery.step() == 0
    story.clock.advance(hours=2)
    await story.recovery.step()
    ended = await story.read(payment)
    assert (ended.status, ended.status_reason) == (Status.CANCELED, "confirmation_expired")
    assert ended.check_time is None


async def test_a_payment_not_yet_charged_is_canceled_without_asking_anybody(story: Any) -> None:
    payment = await story.saga.create(unconfirmed(story), story.terms)
    canceled = await story.cancel(payment)
    assert canceled.status is Status.CANCELED
    assert story.processor.calls == []


# ---- held for review -------------------------------------------------------------------------


@pytest.fixture
def holding(story: Any) -> Any:
    story.terms = replace(story.terms, holds_what_needs_review=True)
    story.advisor.opinion = REVIEW
    return story


async def test_a_doubtful_payment_is_held_and_nobody_is_charged(holding: Any) -> None:
    payment = await holding.create()
    assert (payment.status, payment.status_reason) == (Status.IN_REVIEW, "new_device")
    assert (holding.processor.calls, holding.advisor.asked) == ([], ["fraud"])


async def test_an_approved_payment_is_charged(holding: Any) -> None:
    payment = await holding.create()
    paid = await holding.saga.review(payment, holding.terms, True, claim(payment))
    assert paid.status is Status.SUCCEEDED
    assert holding.advisor.asked == ["fraud", "router"]


async def test_a_rejected_payment_is_blocked_and_its_order_is_free(holding: Any) -> None:
    payment = await holding.create(merchant_order_id="o1")
    blocked = await holding.saga.review(payment, holding.terms, False, claim(payment))
    assert (blocked.status, blocked.status_reason) == (Status.BLOCKED, "review_rejected")
    assert (await holding.create("again", merchant_order_id="o1")).status is Status.IN_REVIEW


async def test_two_reviewers_decide_once(holding: Any) -> None:
    payment = await holding.create()
    await holding.saga.review(payment, holding.terms, False, claim(payment, "k1"))
    with pytest.raises(Refusal, match="same time"):
        await holding.saga.review(payment, holding.terms, True, claim(payment, "k2"))
    assert holding.processor.calls == []


async def test_a_review_nobody_ends_is_canceled_after_a_week(holding: Any) -> None:
    payment = await holding.create()
    holding.clock.advance(days=8)
    await holding.recovery.step()
    ended = await holding.read(payment)
    assert (ended.status, ended.status_reason) == (Status.CANCELED, "review_expired")


# ---- needs review ----------------------------------------------------------------------------


async def stuck(story: Any, word: str = "lost_after") -> Payment:
    """Answers a payment that recovery gave up on."""
    story.processor.script = [word] * 40
    payment = await story.create()
    await story.recover()
    payment = await story.read(payment)
    assert payment.status is Status.NEEDS_REVIEW
    story.processor.script = []
    found: Payment = payment
    return found


async def test_an_operator_s_word_ends_what_nobody_answers_for(story: Any) -> None:
    payment = await stuck(story, "lost_before")
    resolved = await story.commands.resolve(payment, Evidence(charged=False), claim(payment))
    assert (resolved.status, resolved.status_reason) == (Status.FAILED, "resolved_not_charged")
    assert resolved.check_time is None


async def test_a_found_charge_is_booked_with_its_ledger(story: Any) -> None:
    payment = await stuck(story)
    (intent,) = story.processor.intents.values()
    evidence = Evidence(True, intent.intent_id, 1999)
    resolved = await story.commands.resolve(payment, evidence, claim(payment))
    assert (resolved.status, resolved.captured_minor) == (Status.SUCCEEDED, 1999)
    assert sum((await story.balance(resolved)).values()) == 0


async def test_the_processor_s_word_wins_over_the_operator_s(story: Any) -> None:
    payment = await stuck(story)
    (intent,) = story.processor.intents.values()
    wrong = Evidence(False, intent.intent_id)
    with pytest.raises(Refusal, match="says otherwise"):
        await story.commands.resolve(payment, wrong, claim(payment))
    assert (await story.read(payment)).status is Status.NEEDS_REVIEW


async def test_only_what_needs_review_can_be_resolved(story: Any) -> None:
    payment = await story.create()
    with pytest.raises(Refusal, match="Nobody waits"):
        await story.commands.resolve(payment, Evidence(charged=False), claim(payment))


async def test_an_authorization_that_lapses_is_noticed(story: Any) -> None:
    from smartpay_payments.domain.payment import CaptureMethod

    payment = await story.create(capture_method=CaptureMethod.MANUAL)
    assert payment.status is Status.REQUIRES_CAPTURE
    story.clock.advance(hours=7)
    await story.recovery.step()
    assert (await story.read(payment)).version == payment.version
    story.payer(payment, "canceled")
    story.clock.advance(hours=7)
    await story.recovery.step()
    ended = await story.read(payment)
    assert (ended.status, ended.status_reason) == (Status.CANCELED, "authorization_expired")
    assert set((await story.balance(ended)).values()) == {0}
