"""Several rails for one payment: the payer chooses, and money that comes late goes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.payments.tests.conftest import FIRST, SECOND, WALLET
from smartpay_chassis.refusals import Refusal
from smartpay_payments.domain.payment import (
    ActionKind,
    AttemptStatus,
    Initiator,
    NextAction,
    Payment,
    RefundReason,
    RefundStatus,
    Status,
)
from smartpay_payments.domain.processor import TransferRail

BOTH_RAILS = {FIRST: "pm_first", SECOND: "pm_second", WALLET: "solana_pay"}
ONLY_WALLET = {WALLET: "solana_pay"}


@pytest.fixture
def wallet_story(story: Any) -> Any:
    story.advisor.ranking = (FIRST, SECOND, WALLET)
    return story


async def settled(story: Any, payment: Payment) -> Payment:
    """Lets recovery look until nothing is due, and answers the payment."""
    story.clock.advance(minutes=6)
    while await story.recovery.step():
        pass
    found: Payment = await story.read(payment)
    return found


def returned(story: Any) -> list[tuple[str, int]]:
    return sorted(story.wallet.returned.values())


def test_the_pretend_wallet_is_a_transfer_rail(wallet_story: Any) -> None:
    assert isinstance(wallet_story.wallet, TransferRail)
    assert not isinstance(wallet_story.processor, TransferRail)


async def test_a_declined_card_offers_the_other_rail_and_never_chooses_it(
    wallet_story: Any,
) -> None:
    wallet_story.processor.script = ["soft", "soft"]
    payment = await wallet_story.create(tokens=BOTH_RAILS)
    assert payment.status is Status.REQUIRES_CONFIRMATION
    assert payment.status_reason == "do_not_honor"
    assert payment.next_action == NextAction(
        ActionKind.CHOOSE_RAIL, processor_account_ids=(WALLET,)
    )
    assert [a.processor for a in payment.attempts] == ["stripe", "stripe"]
    with pytest.raises(Refusal, match="nobody chose"):
        await wallet_story.saga.confirm(payment, wallet_story.terms)
    with pytest.raises(Refusal, match="No enabled account"):
        await wallet_story.saga.confirm(payment, wallet_story.terms, FIRST)

    payment = await wallet_story.saga.confirm(payment, wallet_story.terms, WALLET)
    assert (payment.status, payment.next_action.kind) == (
        Status.REQUIRES_ACTION,
        ActionKind.SOLANA_PAY,
    )
    wallet_story.wallet.pays(payment, 1999)
    payment = await settled(wallet_story, payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, 1999)


async def test_an_offer_nobody_takes_ends_by_itself_and_frees_the_order(wallet_story: Any) -> None:
    wallet_story.processor.script = ["hard"]
    payment = await wallet_story.create(tokens=BOTH_RAILS, merchant_order_id="o1")
    wallet_story.clock.advance(days=2)
    await wallet_story.recovery.step()
    ended = await wallet_story.read(payment)
    assert (ended.status, ended.status_reason) == (Status.CANCELED, "confirmation_expired")
    again = await wallet_story.create("second", merchant_order_id="o1")
    assert again.status is Status.SUCCEEDED


@pytest.mark.parametrize("absent", [{"off_session": True}, {"initiator": Initiator.MERCHANT}])
async def test_a_payer_who_is_not_there_is_offered_nothing(
    wallet_story: Any, absent: dict[str, Any]
) -> None:
    wallet_story.processor.script = ["hard"]
    payment = await wallet_story.create(tokens=BOTH_RAILS, **absent)
    assert (payment.status, payment.next_action) == (Status.FAILED, None)


async def test_a_payer_may_leave_a_card_challenge_for_the_wallet(wallet_story: Any) -> None:
    wallet_story.processor.script = ["action"]
    payment = await wallet_story.create(tokens=BOTH_RAILS)
    payment = await wallet_story.saga.confirm(payment, wallet_story.terms, WALLET)
    assert [a.status for a in payment.attempts] == [
        AttemptStatus.CANCELED,
        AttemptStatus.REQUIRES_ACTION,
    ]
    assert wallet_story.charged_accounts(payment) == []


async def test_leaving_a_challenge_that_was_passed_in_time_charges_the_card_alone(
    wallet_story: Any,
) -> None:
    wallet_story.processor.script = ["action"]
    payment = await wallet_story.create(tokens=BOTH_RAILS)
    wallet_story.payer(payment, "succeeded")
    payment = await wallet_story.saga.confirm(payment, wallet_story.terms, WALLET)
    assert (payment.status, len(payment.attempts)) == (Status.SUCCEEDED, 1)


@pytest.mark.parametrize("word", ["lost_before", "lost_after", "turned_away"])
async def test_nobody_is_charged_elsewhere_before_the_fence_stands(
    wallet_story: Any, word: str
) -> None:
    wallet_story.processor.script = ["action", word]
    payment = await wallet_story.create(tokens=BOTH_RAILS)
    same = await wallet_story.saga.confirm(payment, wallet_story.terms, WALLET)
    assert same == payment
    assert len((await wallet_story.read(payment)).attempts) == 1


async def test_a_late_transfer_on_a_rail_the_payer_left_goes_back(wallet_story: Any) -> None:
    wallet_story.advisor.ranking = (WALLET, FIRST)
    payment = await wallet_story.create(tokens=BOTH_RAILS)
    paid = await wallet_story.saga.confirm(payment, wallet_story.terms, FIRST)
    assert (paid.status, paid.paid_attempt.processor) == (Status.SUCCEEDED, "stripe")
    wallet_story.wallet.pays(paid, 1999, "bob", index=0)
    paid = await settled(wallet_story, paid)
    assert returned(wallet_story) == [("bob", 1999)]
    assert (paid.captured_minor, paid.overpaid_minor, paid.refunded_minor) == (1999, 1999, 0)
    assert [(r.reason, r.status) for r in paid.refunds] == [
        (RefundReason.OVERPAYMENT, RefundStatus.SUCCEEDED)
    ]
    assert paid.refundable_minor == 1999
    await settled(wallet_story, paid)
    assert returned(wallet_story) == [("bob", 1999)]


async def test_too_little_waits_for_the_rest_and_asks_for_exactly_that(wallet_story: Any) -> None:
    wallet_story.advisor.ranking = (WALLET,)
    payment = await wallet_story.create(tokens=ONLY_WALLET)
    wallet_story.wallet.pays(payment, 999)
    payment = await settled(wallet_story, payment)
    assert payment.status is Status.REQUIRES_ACTION
    assert payment.next_action is not None
    assert payment.next_action.url.endswith("?amount=1000")
    assert payment.last_attempt.transfers[0].minor_units == 999
    assert payment.refunds == ()
    wallet_story.wallet.pays(payment, 1000)
    payment = await settled(wallet_story, payment)
    assert (payment.status, payment.overpaid_minor) == (Status.SUCCEEDED, 0)


async def test_what_exceeds_the_price_goes_back_to_whom_it_came_from(wallet_story: Any) -> None:
    wallet_story.advisor.ranking = (WALLET,)
    payment = await wallet_story.create(tokens=ONLY_WALLET)
    wallet_story.wallet.pays(payment, 1500, "ann")
    wallet_story.wallet.pays(payment, 1500, "bob")
    wallet_story.wallet.pays(payment, 700, "cem")
    payment = await settled(wallet_story, payment)
    assert returned(wallet_story) == [("bob", 1001), ("cem", 700)]
    assert (payment.captured_minor, payment.overpaid_minor) == (1999, 1701)
    assert payment.refundable_minor == 1999


async def test_dust_is_booked_and_not_sent_back(wallet_story: Any) -> None:
    wallet_story.advisor.ranking = (WALLET,)
    payment = await wallet_story.create(tokens=ONLY_WALLET)
    wallet_story.wallet.pays(payment, 2004)
    payment = await settled(wallet_story, payment)
    assert (payment.overpaid_minor, payment.refunds) == (5, ())


async def test_part_of_the_price_that_came_before_the_end_goes_back(wallet_story: Any) -> None:
    wallet_story.advisor.ranking = (WALLET,)
    payment = await wallet_story.create(tokens=ONLY_WALLET)
    wallet_story.wallet.pays(payment, 900)
    wallet_story.clock.advance(hours=2)
    payment = await settled(wallet_story, payment)
    assert (payment.status, payment.status_reason) == (Status.CANCELED, "action_expired")
    assert returned(wallet_story) == [("ann", 900)]
    wallet_story.wallet.pays(payment, 1099, "late")
    await settled(wallet_story, payment)
    assert returned(wallet_story) == [("ann", 900), ("late", 1099)]


async def test_an_overpayment_is_sent_back_once_whatever_breaks(wallet_story: Any) -> None:
    wallet_story.advisor.ranking = (WALLET,)
    payment = await wallet_story.create(tokens=ONLY_WALLET)
    wallet_story.wallet.pays(payment, 2999)
    await wallet_story.saga.look_again(payment)
    wallet_story.wallet.is_down = True
    await wallet_story.restart()
    await wallet_story.recovery.step()
    wallet_story.wallet.is_down = False
    payment = await settled(wallet_story, payment)
    assert returned(wallet_story) == [("ann", 1000)]
    assert [r.status for r in payment.refunds] == [RefundStatus.SUCCEEDED]


async def test_late_transfers_are_watched_for_a_week_and_no_longer(wallet_story: Any) -> None:
    wallet_story.advisor.ranking = (WALLET,)
    payment = await wallet_story.create(tokens=ONLY_WALLET)
    wallet_story.wallet.pays(payment, 1999)
    paid = await settled(wallet_story, payment)
    assert paid.late_until is not None
    assert paid.paid_attempt.end_time is not None
    assert paid.late_until - paid.paid_attempt.end_time == timedelta(days=7)
    assert paid.check_time is not None
    wallet_story.clock.advance(days=8)
    await wallet_story.recovery.step()
    assert await wallet_story.recovery.step() == 0
    wallet_story.clock.advance(days=8)
    assert await wallet_story.recovery.step() == 0


async def test_the_cascade_ends_with_its_attempts_and_its_time(wallet_story: Any) -> None:
    wallet_story.processor.script = ["soft"]
    wallet_story.patience = replace(wallet_story.patience, cascade_attempts_max=1)
    await wallet_story.restart()
    payment = await wallet_story.create()
    assert (payment.status, len(payment.attempts)) == (Status.FAILED, 1)

    wallet_story.patience = replace(
        wallet_story.patience, cascade_attempts_max=3, cascade_seconds=60.0
    )
    await wallet_story.restart()
    wallet_story.processor.script = ["lost_before", "soft"]
    payment = await wallet_story.create("second")
    wallet_story.clock.advance(minutes=2)
    await wallet_story.recovery.step()
    payment = await wallet_story.read(payment)
    assert (payment.status, len(payment.attempts)) == (Status.FAILED, 1)
