from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS
from smartpay_payments.domain.eligibility import Account
from smartpay_payments.domain.payment import (
    ActionKind,
    AttemptStatus,
    CaptureMethod,
    FraudOpinion,
    NextAction,
    Payment,
    RefundStatus,
    RewardMark,
    Status,
)

FIRST, SECOND = DEMO_ACCOUNTS
MANUAL = CaptureMethod.MANUAL


# ---- the plain story -------------------------------------------------------------------------


async def test_an_approved_payment_is_two_commits_and_one_charge(story: Any) -> None:
    payment = await story.create()

    assert payment.status is Status.SUCCEEDED
    assert story.advisor.asked == ["fraud", "router"]
    assert [verb for verb, _ in story.processor.calls] == ["charge"]
    first, second = await story.history(payment)
    assert (first.status, second.status) == (Status.PROCESSING, Status.SUCCEEDED)
    assert first.attempts[0].request_body == f"{FIRST} 0 pm_first"
    assert first.attempts[0].processor_key == f"{payment.payment_id}-0"
    assert await story.balance(payment) == {
        f"processor:{FIRST}": 1999,
        f"merchant:{payment.merchant_id}": -1999,
    }


async def test_a_soft_decline_goes_on_to_the_next_account_in_one_commit(story: Any) -> None:
    story.processor.script = ["soft"]
    payment = await story.create()

    assert payment.status is Status.SUCCEEDED
    assert [(a.status, a.soft_decline) for a in payment.attempts] == [
        (AttemptStatus.DECLINED, True),
        (AttemptStatus.SUCCEEDED, False),
    ]
    assert [p.version for p in await story.history(payment)] == [1, 2, 3]
    assert story.charged_accounts(payment) == [SECOND]


async def test_soft_declines_everywhere_fail_with_the_last_code(story: Any) -> None:
    story.processor.script = ["soft", "soft"]
    payment = await story.create()
    assert (payment.status, payment.status_reason) == (Status.FAILED, "do_not_honor")


async def test_a_hard_decline_asks_no_other_account(story: Any) -> None:
    story.processor.script = ["hard"]
    payment = await story.create()
    assert (payment.status, payment.status_reason) == (Status.FAILED, "stolen_card")
    assert len(payment.attempts) == 1


async def test_an_account_without_a_token_is_never_tried(story: Any) -> None:
    story.processor.script = ["soft"]
    payment = await story.create(tokens={FIRST: "pm_first"})
    assert payment.status is Status.FAILED
    assert len(payment.attempts) == 1


@pytest.mark.parametrize(
    "second",
    [
        Account(SECOND, "stripe", frozenset({"EUR"}), True),
        Account(SECOND, "stripe", frozenset({"USD"}), False),
        Account(SECOND, "amazon_pay", frozenset({"USD"}), True),
    ],
    ids=["other currency", "disabled", "processor not served"],
)
async def test_an_account_that_can_not_charge_is_never_tried(story: Any, second: Account) -> None:
    story.terms = replace(story.terms, accounts=(story.terms.accounts[0], second))
    story.processor.script = ["soft"]
    payment = await story.create()
    assert [a.processor_account_id for a in payment.attempts] == [FIRST]


async def test_a_merchant_without_rewards_marks_none(story: Any) -> None:
    assert (await story.create()).reward_mark is RewardMark.RECEIPT
    story.terms = replace(story.terms, rewards_enabled=False)
    assert (await story.create("second")).reward_mark is RewardMark.NONE


async def test_the_merchant_s_own_cap_ends_the_cascade(story: Any) -> None:
    story.terms = replace(story.terms, attempts_max=1)
    story.processor.script = ["soft"]
    assert len((await story.create()).attempts) == 1


async def test_the_router_s_order_is_followed(story: Any) -> None:
    story.advisor.ranking = (SECOND, FIRST)
    assert (await story.create()).last_attempt.processor_account_id == SECOND


async def test_without_a_router_the_merchant_s_own_order_decides(story: Any) -> None:
    story.advisor.ranking = None
    payment = await story.create()
    assert payment.route is None
    assert payment.last_attempt.processor_account_id == FIRST


@pytest.mark.parametrize(
    ("opinion", "blocks_when_away", "blocks_reviews", "status", "reason"),
    [
        (FraudOpinion("BLOCK", 0.9, "VELOCITY", b""), False, False, Status.BLOCKED, "VELOCITY"),
        (FraudOpinion("BLOCK", 0.9, "", b""), False, False, Status.BLOCKED, "fraud"),
        (None, True, False, Status.BLOCKED, "fraud_unavailable"),
        (None, False, False, Status.SUCCEEDED, ""),
        (FraudOpinion("REVIEW", 0.5, "NEW", b""), True, False, Status.SUCCEEDED, ""),
        (FraudOpinion("REVIEW", 0.5, "NEW", b""), True, True, Status.BLOCKED, "NEW"),
        (FraudOpinion("REVIEW", 0.5, "", b""), True, True, Status.BLOCKED, "fraud_review"),
    ],
)
async def test_fraud_and_the_merchant_s_policy_decide_before_any_charge(
    story: Any,
    opinion: FraudOpinion | None,
    blocks_when_away: bool,
    blocks_reviews: bool,
    status: Status,
    reason: str,
) -> None:
    story.advisor.opinion = opinion
    story.terms = replace(
        story.terms,
        blocks_when_fraud_is_away=blocks_when_away,
        blocks_what_needs_review=blocks_reviews,
    )
    payment = await story.create()

    assert (payment.status, payment.status_reason) == (status, reason)
    if status is Status.BLOCKED:
        assert story.processor.calls == []
        assert story.advisor.asked == ["fraud"], "a block uses up no routing decision"
        assert [p.event_type for p in await story.history(payment)] == [
            "smartpay.payment.blocked.v1"
        ]
        assert await story.balance(payment) == {}


async def test_a_refused_decision_stores_nothing(story: Any) -> None:
    story.advisor.refusal = Refusal(
        Kind.FAILED_PRECONDITION, "DECISION_REFUSED", "It was used.", remedy="Ask again."
    )
    with pytest.raises(Refusal):
        await story.create(merchant_order_id="order")
    assert await story.payments.events_after(0, 10) == []
    story.advisor.refusal = None
    assert (await story.create("other", merchant_order_id="order")).status is Status.SUCCEEDED


@pytest.mark.parametrize(
    ("tokens", "kind"),
    [
        ({"pac_d1" + "z" * 24: "pm"}, Kind.INVALID_ARGUMENT),
        ({FIRST: "pm", "pac_d1" + "z" * 24: "pm"}, Kind.INVALID_ARGUMENT),
    ],
)
async def test_a_token_of_a_stranger_s_account_is_refused_before_anyone_is_asked(
    story: Any, tokens: dict[str, str], kind: Kind
) -> None:
    with pytest.raises(Refusal) as refused:
        await story.create(tokens=tokens)
    assert (refused.value.kind, refused.value.field) == (kind, "instrument.tokens")
    assert story.advisor.asked == []


async def test_no_account_in_the_currency_is_refused(story: Any) -> None:
    story.terms = replace(
        story.terms, accounts=(Account(FIRST, "stripe", frozenset({"EUR"}), True),)
    )
    with pytest.raises(Refusal) as refused:
        await story.create(tokens={FIRST: "pm"})
    assert refused.value.reason == "NO_ELIGIBLE_ACCOUNT"


async def test_an_order_id_is_held_while_open_or_paid_and_free_after_a_failure(
    story: Any,
) -> None:
    story.processor.script = ["hard"]
    assert (await story.create("a", merchant_order_id="o")).status is Status.FAILED
    story.processor.script = ["lost_before"]
    assert (await story.create("b", merchant_order_id="o")).status is Status.UNKNOWN
    with pytest.raises(Refusal) as refused:
        await story.create("c", merchant_order_id="o")
    assert refused.value.reason == "ORDER_ALREADY_PAID"
    assert await story.read(story.draft("c")) is None
    await story.recover()
    with pytest.raises(Refusal):
        await story.create("d", merchant_order_id="o")


async def test_a_canceled_payment_frees_its_order_id(story: Any) -> None:
    payment = await story.create("a", merchant_order_id="o", capture_method=MANUAL)
    await story.cancel(payment)
    assert (await story.create("b", merchant_order_id="o")).status is Status.SUCCEEDED


# ---- unknown outcomes ------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["lost_before", "lost_after"])
async def test_after_an_unknown_outcome_no_other_account_is_asked(story: Any, word: str) -> None:
    story.processor.script = [word]
    payment = await story.create()
    assert payment.status is Status.UNKNOWN
    assert len(payment.attempts) == 1

    await story.recover()

    payment = await story.read(payment)
    assert payment.status is Status.SUCCEEDED
    assert story.charged_accounts(payment) == [FIRST]
    assert {key for _, key in story.processor.calls} == {f"{payment.payment_id}-0"}


async def test_a_replay_that_is_declined_softly_lets_the_next_account_try(story: Any) -> None:
    story.processor.script = ["lost_before", "soft"]
    payment = await story.create()
    await story.recover()
    payment = await story.read(payment)
    assert payment.status is Status.SUCCEEDED
    assert story.charged_accounts(payment) == [SECOND]


async def test_turned_away_at_first_goes_on_to_the_next_account(story: Any) -> None:
    story.processor.script = ["turned_away"]
    payment = await story.create()
    assert payment.status is Status.SUCCEEDED
    assert payment.attempts[0].decline_code == "refused_rate_limit"


async def test_turned_away_after_a_lost_answer_proves_nothing(story: Any) -> None:
    # The first call charged; a rate limit on the replay must not lead to the second account.
    story.processor.script = ["lost_after", "turned_away"]
    payment = await story.create()
    await story.recover()
    payment = await story.read(payment)
    assert payment.status is Status.SUCCEEDED
    assert story.charged_accounts(payment) == [FIRST]


async def test_restarts_look_at_once_and_use_up_no_patience(story: Any) -> None:
    story.processor.script = ["lost_before"] * 10
    payment = await story.create()
    for _ in range(9):
        await story.recovery.take_over()
        assert await story.recovery.step() == 1
    payment = await story.read(payment)
    assert payment.status is Status.UNKNOWN
    assert payment.check_time is not None
    assert (payment.check_time - story.clock()).total_seconds() <= 1


async def test_turned_away_proves_nothing_when_somebody_else_sends_as_well(story: Any) -> None:
    """A story stalls in its first call; recovery takes the payment up and charges."""
    story.processor.gate = asyncio.Event()
    story.processor.script = ["turned_away", "ok"]
    first = asyncio.create_task(story.create())
    while not story.processor.calls:
        await asyncio.sleep(0)
    story.clock.advance(minutes=1)
    second = asyncio.create_task(story.recovery.step())
    while len(story.processor.calls) < 2:
        await asyncio.sleep(0)
    story.processor.gate.set()
    payment = await first
    await second
    payment = await story.read(payment)
    assert (payment.status, len(payment.attempts)) == (Status.SUCCEEDED, 1)
    assert story.charged_accounts(payment) == [FIRST]


async def test_recovery_looks_on_schedule_and_then_leaves_it_to_a_person(story: Any) -> None:
    story.processor.script = ["lost_before"] * 20
    payment = await story.create()
    for pause in (1, 5, 30, 120, 600, 3600):
        looked = len(story.processor.calls)
        story.clock.advance(seconds=pause - 0.5)
        assert await story.recovery.step() == 0
        story.clock.advance(seconds=0.5)
        assert await story.recovery.step() == 1
        assert len(story.processor.calls) == looked + 1
    payment = await story.read(payment)
    assert (payment.status, payment.status_reason) == (Status.NEEDS_REVIEW, "no_answer")
    await story.recover()
    assert (await story.read(payment)).version == payment.version


async def test_trouble_with_one_payment_does_not_keep_the_others_waiting(story: Any) -> None:
    story.processor.script = ["lost_before"] * 17
    for number in range(16):
        await story.create(f"gone {number}")
    payment = await story.create("fine")
    terms, gone = story.terms, {story.draft(f"gone {n}").payment_id for n in range(16)}
    story.recovery._terms_of = lambda p: None if p.payment_id in gone else terms
    story.clock.advance(seconds=10)

    assert await story.recovery.step() == 16
    assert await story.recovery.step() == 1

    assert (await story.read(payment)).status is Status.SUCCEEDED


async def test_who_loses_the_race_answers_what_the_winner_stored(story: Any) -> None:
    story.processor.script = ["lost_before"]
    payment = await story.create()

    first, second = await asyncio.gather(
        story.saga.advance(payment, story.terms), story.saga.advance(payment, story.terms)
    )

    assert first == second == await story.read(payment)
    assert [p.version for p in await story.history(payment)] == [1, 2, 3]


async def test_a_loser_does_not_take_up_the_winner_s_next_attempt(story: Any) -> None:
    story.processor.script = ["lost_before"]
    payment = await story.create()
    # Both see the soft decline; the winner waits at the second account.
    story.processor.script = ["soft"]
    gate = asyncio.Event()
    charge = story.processor.charge
    waiting: list[str] = []

    async def charge_second_late(payment: Payment, attempt: Any) -> Any:
        if attempt.attempt_index == 1:
            assert not waiting, "the loser sent the winner's attempt"
            waiting.append(attempt.processor_key)
            await gate.wait()
        return await charge(payment, attempt)

    story.processor.charge = charge_second_late
    winner = asyncio.create_task(story.saga.advance(payment, story.terms))
    while (await story.read(payment)).version == payment.version:
        await asyncio.sleep(0)
    loser = await story.saga.advance(payment, story.terms)
    gate.set()

    assert loser.attempts[-1].status is AttemptStatus.STARTED
    assert (await winner).status is Status.SUCCEEDED
    assert [k for _, k in story.processor.calls].count(f"{payment.payment_id}-1") == 1


# ---- the payer must act ----------------------------------------------------------------------


async def test_a_payment_waits_for_the_payer_without_making_versions(story: Any) -> None:
    story.processor.script = ["action"]
    payment = await story.create()
    assert (payment.status, payment.next_action) == (
        Status.REQUIRES_ACTION,
        NextAction(ActionKind.REDIRECT, "https://bank.test/3ds"),
    )
    story.clock.advance(minutes=30)
    assert await story.recovery.step() == 1
    assert await story.recovery.step() == 0
    assert await story.saga.look_again(payment) == await story.read(payment) == payment

    story.payer(payment, "succeeded")
    story.clock.advance(minutes=1)
    await story.recovery.step()

    paid = await story.read(payment)
    assert (paid.status, paid.next_action, paid.version) == (Status.SUCCEEDED, None, 3)


async def test_a_payer_who_fails_the_challenge_fails_the_payment(story: Any) -> None:
    story.processor.script = ["action"]
    payment = await story.create()
    story.payer(payment, "hard")
    assert (await story.saga.look_again(payment)).status is Status.FAILED


async def test_a_payer_who_never_acts_is_canceled_at_the_processor(story: Any) -> None:
    story.processor.script = ["action"]
    payment = await story.create()
    story.clock.advance(hours=1)
    await story.recovery.step()
    payment = await story.read(payment)
    assert (payment.status, payment.status_reason) == (Status.CANCELED, "action_expired")
    assert story.charged_accounts(payment) == []


async def test_a_payer_who_acts_in_the_last_moment_has_paid(story: Any) -> None:
    story.processor.script = ["action"]
    payment = await story.create()
    story.clock.advance(hours=1)
    cancel = story.processor.cancel

    async def cancel_too_late(*args: Any) -> Any:
        story.payer(payment, "succeeded")
        return await cancel(*args)

    story.processor.cancel = cancel_too_late
    await story.recovery.step()
    assert (await story.read(payment)).status is Status.SUCCEEDED


async def test_a_merchant_may_give_up_waiting_for_the_payer(story: Any) -> None:
    story.processor.script = ["action"]
    payment = await story.cancel(await story.create())
    assert (payment.status, payment.status_reason) == (Status.CANCELED, "canceled_by_merchant")


# ---- capture and cancel ----------------------------------------------------------------------


async def test_an_authorization_is_held_then_captured_in_part(story: Any) -> None:
    payment = await story.create(capture_method=MANUAL)
    assert payment.status is Status.REQUIRES_CAPTURE
    assert await story.balance(payment) == {
        f"hold:{FIRST}": 1999,
        f"held:{payment.merchant_id}": -1999,
    }
    payment = await story.capture(payment, 1500)
    assert (payment.status, payment.authorized_minor, payment.captured_minor) == (
        Status.SUCCEEDED,
        1999,
        1500,
    )
    assert await story.balance(payment) == {
        f"hold:{FIRST}": 0,
        f"held:{payment.merchant_id}": 0,
        f"processor:{FIRST}": 1500,
        f"merchant:{payment.merchant_id}": -1500,
    }


@pytest.mark.parametrize("word", ["lost_before", "lost_after", "turned_away"])
async def test_a_capture_without_an_answer_is_repeated_not_given_up(story: Any, word: str) -> None:
    payment = await story.create(capture_method=MANUAL)
    story.processor.script = [word, word]
    assert (await story.capture(payment)).status is Status.UNKNOWN
    await story.recover()
    payment = await story.read(payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, 1999)


async def test_a_refused_capture_leaves_the_authorization_and_says_why(story: Any) -> None:
    payment = await story.create(capture_method=MANUAL)
    intent = story.processor.intents[payment.last_attempt.processor_key]
    story.processor.answers["c"] = story.processor._outcome(replace(intent, status="hard"))
    refused = await story.capture(payment)
    assert (refused.status, refused.status_reason) == (Status.REQUIRES_CAPTURE, "stolen_card")


async def test_a_capture_of_what_the_bank_released_ends_canceled_with_the_hold_gone(
    story: Any,
) -> None:
    payment = await story.create(capture_method=MANUAL)
    story.processor.intents[payment.last_attempt.processor_key].status = "canceled"
    payment = await story.capture(payment)
    assert payment.status is Status.CANCELED
    assert set((await story.balance(payment)).values()) == {0}


async def test_a_cancel_of_what_is_canceled_already_is_the_merchants_all_the_same(
    story: Any,
) -> None:
    payment = await story.create(capture_method=MANUAL)
    story.processor.intents[payment.last_attempt.processor_key].status = "canceled"
    payment = await story.cancel(payment)
    assert (payment.status, payment.status_reason) == (Status.CANCELED, "canceled_by_merchant")


async def test_of_two_commands_at_once_one_is_told_that_the_payment_changed(story: Any) -> None:
    payment = await story.create(capture_method=MANUAL)
    results = await asyncio.gather(
        story.capture(payment), story.cancel(payment), return_exceptions=True
    )
    (refused,) = [r for r in results if isinstance(r, Refusal)]
    assert (refused.kind, refused.reason) == (Kind.ABORTED, "PAYMENT_CHANGED")


# ---- refunds ---------------------------------------------------------------------------------


async def test_a_refund_is_booked_and_told_as_an_event_of_its_own(story: Any) -> None:
    payment = await story.give_back(await story.create())
    assert (payment.refunded_minor, payment.refundable_minor) == (500, 1499)
    assert (await story.balance(payment))[f"merchant:{payment.merchant_id}"] == -1499
    assert [p.event_type for p in await story.history(payment)] == [
        "smartpay.payment.processing.v1",
        "smartpay.payment.succeeded.v1",
        "smartpay.refund.pending.v1",
        "smartpay.refund.succeeded.v1",
    ]


async def test_a_refused_refund_leaves_the_money_refundable(story: Any) -> None:
    payment = await story.create()
    story.processor.script = ["hard"]
    payment = await story.give_back(payment)
    assert payment.refunds[0].status is RefundStatus.FAILED
    assert payment.refundable_minor == 1999


@pytest.mark.parametrize("word", ["lost_before", "lost_after"])
async def test_an_unknown_refund_is_found_out_and_counts_meanwhile(story: Any, word: str) -> None:
    payment = await story.create()
    story.processor.script = [word]
    payment = await story.give_back(payment)
    assert (payment.refunds[0].status, payment.refundable_minor) == (RefundStatus.UNKNOWN, 1499)
    await story.recover()
    payment = await story.read(payment)
    assert payment.refunds[0].status is RefundStatus.SUCCEEDED
    assert list(story.processor.refunds.values()) == [500]


async def test_a_refund_nobody_answers_for_is_left_to_a_person(story: Any) -> None:
    payment = await story.create()
    story.processor.script = ["lost_before"] * 20
    await story.give_back(payment)
    await story.recover()
    payment = await story.read(payment)
    assert (payment.refunds[0].status, payment.check_time) == (RefundStatus.NEEDS_REVIEW, None)


async def test_a_pending_refund_may_take_days(story: Any) -> None:
    payment = await story.create()
    story.processor.script = ["pending"] * 40
    await story.give_back(payment)
    for _ in range(4):
        await story.recover()
    assert (await story.read(payment)).refunds[0].status is RefundStatus.PENDING
    story.processor.script = []
    await story.recover()
    assert (await story.read(payment)).refunds[0].status is RefundStatus.SUCCEEDED


async def test_racing_refunds_all_end_and_never_exceed_what_was_captured(story: Any) -> None:
    payment = await story.create()

    async def one(number: int) -> bool:
        fresh = await story.read(payment)
        while fresh.refundable_minor >= 100:
            if await story.give_back(fresh, 100, f"r{number}"):
                return True
            fresh = await story.read(payment)
        return False

    done = await asyncio.gather(*(one(n) for n in range(64)))

    final = await story.read(payment)
    assert sum(done) == 19
    assert {r.status for r in final.refunds} == {RefundStatus.SUCCEEDED}
    assert final.refunded_minor == sum(story.processor.refunds.values()) == 1900
    assert final.check_time is None
