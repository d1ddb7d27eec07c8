"""Disputes: learned from the processor, held in the books, answered once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smartpay_chassis.ids import derive
from smartpay_chassis.refusals import Refusal
from smartpay_payments.domain.payment import Dispute, DisputeStatus, Payment
from smartpay_payments.domain.processor import Standing


def dispute_of(story: Any, payment: Payment, status: DisputeStatus, minor: int = 1999) -> Dispute:
    return Dispute(
        dispute_id=derive("dis", "d1", payment.payment_id, "dp_1"),
        processor_dispute_id="dp_1",
        amount_minor=minor,
        reason="fraudulent",
        status=status,
        create_time=story.clock(),
        update_time=story.clock(),
    )


async def hinted(story: Any, payment: Payment) -> Payment:
    """Makes the payment due as a webhook does, and lets recovery look."""
    await story.payments.postpone(payment, story.clock())
    await story.recovery.step()
    found: Payment = await story.read(payment)
    return found


@pytest.fixture
async def disputed(story: Any) -> Any:
    payment = await story.create()
    story.processor.became = Standing((dispute_of(story, payment, DisputeStatus.NEEDS_RESPONSE),))
    return await hinted(story, payment)


async def test_a_dispute_is_learned_once_and_holds_its_amount(story: Any, disputed: Any) -> None:
    assert (disputed.disputed_minor, disputed.refundable_minor) == (1999, 0)
    assert disputed.event_type == "smartpay.dispute.needs_response.v1"
    again = await hinted(story, disputed)
    assert again == disputed
    assert again.check_time is None


async def test_a_won_dispute_gives_the_money_back_to_the_merchant(
    story: Any, disputed: Any
) -> None:
    (dispute,) = disputed.disputes
    story.processor.became = Standing((replace(dispute, status=DisputeStatus.WON),))
    won = await hinted(story, disputed)
    assert (won.disputed_minor, won.refundable_minor) == (0, 1999)
    assert won.disputes[0].create_time == dispute.create_time


async def test_evidence_is_handed_in_once(story: Any, disputed: Any) -> None:
    (dispute,) = disputed.disputes
    told = await story.commands.submit_evidence(
        disputed, dispute.dispute_id, {"uncategorized_text": "shipped"}
    )
    assert told.disputes[0].status is DisputeStatus.UNDER_REVIEW
    with pytest.raises(Refusal, match="takes no answer"):
        await story.commands.submit_evidence(told, dispute.dispute_id, {})
    assert story.processor.evidence == [{"uncategorized_text": "shipped"}]


async def test_an_accepted_dispute_is_lost(story: Any, disputed: Any) -> None:
    (dispute,) = disputed.disputes
    lost = await story.commands.accept_dispute(disputed, dispute.dispute_id)
    assert (lost.disputes[0].status, lost.disputed_minor) == (DisputeStatus.LOST, 1999)


async def test_no_answer_leaves_the_dispute_as_it_was(story: Any, disputed: Any) -> None:
    story.processor.script = ["lost_before"]
    with pytest.raises(Refusal, match="no usable answer"):
        await story.commands.accept_dispute(disputed, disputed.disputes[0].dispute_id)
    assert await story.read(disputed) == disputed


async def test_a_fee_told_later_is_posted_once(story: Any) -> None:
    payment = await story.create()
    story.processor.became = Standing(fee_minor=88)
    await hinted(story, payment)
    payment = await hinted(story, payment)
    fees = [e for e in await story.payments.ledger(payment.payment_id) if "fee" in e.transaction_id]
    assert sorted(e.minor_units for e in fees) == [-88, 88]
