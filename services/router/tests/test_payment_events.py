from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from smartpay.payments.v1.merchants_pb2 import MerchantEvent
from smartpay.payments.v1.payment_pb2 import Attempt, Dispute, Payment, PaymentEvent
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.payments.v1.processor_accounts_pb2 import ProcessorAccount, ProcessorFee
from smartpay.router.v1.router_pb2 import Decision as DecisionMessage
from smartpay.router.v1.router_pb2 import RankedAccount
from smartpay.type.v1.instrument_pb2 import Processor
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_ACCOUNT
from smartpay_router.adapters.payment_events import PaymentEvents, chargebacks_of, samples_of
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.breakers import Breakers
from smartpay_router.domain.chargebacks import SHARE_MAX, Chargeback
from smartpay_router.domain.context import CHARGE_SCHEMA, Context
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.outcome import Outcome, arm_of
from smartpay_router.domain.steering import Steering

FIRST, SECOND = DEMO_ACCOUNTS
STRIPE, SOLANA = Processor.PROCESSOR_STRIPE, Processor.PROCESSOR_SOLANA
DECIDED, ENDED = 1_790_000_000, 1_790_000_090


def event(
    context: Context,
    *attempts: tuple[str, Attempt.Status.ValueType],
    number: int = 1,
    second_rail: Processor.ValueType = STRIPE,
) -> PaymentEvent:
    told = PaymentEvent(
        id=f"evt_{number}",
        merchant_id=DEMO_MERCHANT.merchant_id,
        sequence=number,
        payment=Payment(
            payment_id="pay_d1" + "p" * 24,
            captured_amount=Money(minor_units=2500, currency_code="USD"),
            route=DecisionMessage(
                decision_id=f"dec_d1{number:024d}",
                ranking=[
                    RankedAccount(processor_account_id=FIRST, processor=STRIPE),
                    RankedAccount(processor_account_id=SECOND, processor=second_rail),
                ],
                context=context.values,
                context_schema=context.schema,
            ),
            attempts=[
                Attempt(
                    attempt_index=index,
                    processor_account_id=account,
                    processor=second_rail if account == SECOND else STRIPE,
                    status=status,
                )
                for index, (account, status) in enumerate(attempts)
            ],
        ),
    )
    told.payment.route.create_time.FromSeconds(DECIDED)
    told.time.FromSeconds(ENDED)
    return told


def outcome_of(told: PaymentEvent) -> Outcome:
    (sample,) = samples_of(told)
    return sample.outcome


def test_each_finished_attempt_is_an_outcome_of_the_decision(context: Context) -> None:
    told = event(context, (FIRST, Attempt.STATUS_DECLINED), (SECOND, Attempt.STATUS_SUCCEEDED))
    told.payment.attempts[1].end_time.FromNanoseconds(ENDED * 10**9 - 250_000_000)
    first, second = samples_of(told)
    assert (first.attempt_index, first.processor_account_id, first.outcome) == (
        0,
        FIRST,
        Outcome.DECLINED,
    )
    assert (second.attempt_index, second.outcome) == (1, Outcome.SUCCEEDED)
    assert first.context == context
    assert second.context == context.of_attempt(1) != context
    assert first.merchant_id == DEMO_MERCHANT.merchant_id
    assert first.arm == arm_of(FIRST, "stripe", livemode=False)
    assert (first.decided_at, first.at) == (DECIDED, ENDED)
    assert second.at == ENDED - 0.25


def test_a_request_the_processor_would_not_take_is_a_technical_failure(context: Context) -> None:
    told = event(context, (FIRST, Attempt.STATUS_FAILED))
    assert outcome_of(told) is Outcome.TECHNICAL_FAILURE


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("insufficient_funds", Outcome.DECLINED),
        ("", Outcome.DECLINED),
        ("processing_error", Outcome.TECHNICAL_FAILURE),
        ("resolved_not_charged", Outcome.TECHNICAL_FAILURE),
        ("stolen_card", Outcome.FRAUD),
        ("fraudulent", Outcome.FRAUD),
    ],
)
def test_a_decline_tells_by_its_code_whose_doing_it_was(
    context: Context, code: str, outcome: Outcome
) -> None:
    told = event(context, (FIRST, Attempt.STATUS_DECLINED))
    told.payment.attempts[0].decline_code = code
    assert outcome_of(told) is outcome


def test_a_try_that_nobody_answers_is_told_at_once(context: Context) -> None:
    assert outcome_of(event(context, (FIRST, Attempt.STATUS_UNKNOWN))) is Outcome.UNANSWERED


def test_a_payer_who_never_finished_has_abandoned_the_account(context: Context) -> None:
    for second_rail, several in ((STRIPE, False), (SOLANA, True)):
        told = event(context, (FIRST, Attempt.STATUS_CANCELED), second_rail=second_rail)
        (sample,) = samples_of(told)
        assert sample.outcome is Outcome.ABANDONED
        assert sample.several_rails is several


def test_an_authorization_that_the_merchant_let_go_was_a_success(context: Context) -> None:
    told = event(context, (FIRST, Attempt.STATUS_CANCELED))
    told.payment.authorized_amount.minor_units = 2500
    assert outcome_of(told) is Outcome.SUCCEEDED


@pytest.mark.parametrize("status", [Attempt.STATUS_STARTED, Attempt.STATUS_REQUIRES_ACTION])
def test_an_attempt_that_still_runs_tells_nothing(
    context: Context, status: Attempt.Status.ValueType
) -> None:
    assert not samples_of(event(context, (FIRST, status)))


def test_a_payment_that_fraud_blocked_has_no_attempt_and_teaches_nothing(context: Context) -> None:
    assert not samples_of(event(context))


def test_a_payment_routed_by_the_static_order_teaches_nothing() -> None:
    attempt = Attempt(processor_account_id=FIRST, status=Attempt.STATUS_SUCCEEDED)
    assert not samples_of(PaymentEvent(payment=Payment(attempts=[attempt])))


def test_an_attempt_at_an_account_that_was_not_ranked_teaches_nothing(context: Context) -> None:
    assert not samples_of(event(context, (OTHER_ACCOUNT, Attempt.STATUS_SUCCEEDED)))


@pytest.mark.parametrize(("place", "value"), [(0, math.nan), (1, math.inf), (0, 2.0), (2, -1e9)])
def test_a_damaged_context_is_left_out_and_does_not_stop_the_stream(
    context: Context, place: int, value: float
) -> None:
    damaged = event(context, (FIRST, Attempt.STATUS_SUCCEEDED))
    damaged.payment.route.context[place] = value
    assert not samples_of(damaged)


@pytest.mark.parametrize("decided", [ENDED + 90_000, 0, -5])
def test_a_decision_of_an_impossible_time_is_left_out(context: Context, decided: int) -> None:
    damaged = event(context, (FIRST, Attempt.STATUS_SUCCEEDED))
    damaged.payment.route.create_time.FromSeconds(decided)
    assert not samples_of(damaged)


def dispute(reason: str, status: Dispute.Status.ValueType, minor_units: int = 2500) -> Dispute:
    return Dispute(
        dispute_id="dis_1",
        reason=reason,
        status=status,
        amount=Money(minor_units=minor_units, currency_code="USD"),
    )


@pytest.mark.parametrize(
    ("told", "share"),
    [
        (dispute("fraudulent", Dispute.STATUS_NEEDS_RESPONSE), 1.0),
        (dispute("fraudulent", Dispute.STATUS_WON), 0.0),
        (dispute("product_not_received", Dispute.STATUS_UNDER_REVIEW), 0.0),
        (dispute("product_not_received", Dispute.STATUS_LOST, 1000), 0.4),
    ],
)
def test_a_dispute_takes_back_its_share_once_it_is_fraud_or_lost(
    context: Context, told: Dispute, share: float
) -> None:
    paid = event(context, (FIRST, Attempt.STATUS_DECLINED), (SECOND, Attempt.STATUS_SUCCEEDED))
    paid.payment.disputes.append(told)
    assert chargebacks_of(paid) == (
        Chargeback(
            "dis_1", 1, paid.payment.route.decision_id, "test/stripe", float(DECIDED), share
        ),
    )


def test_a_disputes_fee_is_lost_as_well_but_not_without_limit(context: Context) -> None:
    paid = event(context, (FIRST, Attempt.STATUS_SUCCEEDED))
    paid.payment.disputes.append(dispute("fraudulent", Dispute.STATUS_LOST))
    fee = paid.payment.disputes[0].fee
    for currency, minor_units, share in (("USD", 500, 1.2), ("EUR", 500, 1.0), ("USD", 9999, 2.0)):
        fee.CopyFrom(Money(minor_units=minor_units, currency_code=currency))
        assert chargebacks_of(paid)[0].share == pytest.approx(share)
    assert chargebacks_of(paid)[0].share == SHARE_MAX


def change(sequence: int = 1, *names: str) -> MerchantEvent:
    return MerchantEvent(
        merchant_id=DEMO_MERCHANT.merchant_id,
        sequence=sequence,
        processor_accounts=[
            ProcessorAccount(
                processor_account_id=name,
                processor=Processor.PROCESSOR_AMAZON_PAY,
                fees=[ProcessorFee(currency_code="EUR", basis_points=150, fixed_minor_units=25)],
                enabled=True,
            )
            for name in names
        ],
    )


async def test_the_accounts_of_a_change_are_known_at_once_and_after_a_restart(
    outcomes: SqliteOutcomes, directory: Directory
) -> None:
    events = PaymentEvents(nobody, outcomes, learning(outcomes, LinUcb(CHARGE_SCHEMA)), directory)
    merchant = DEMO_MERCHANT
    for step in (
        WatchResponse(merchant_event=change(1, "a")),
        WatchResponse(merchant_event=change(2, "a", "b"), cursor="7"),
        WatchResponse(merchant_event=change(1, "old news"), cursor="8"),
    ):
        await events.apply(step)
    assert await outcomes.cursor() == "8"
    for known in (directory, Directory(await outcomes.added_accounts())):
        accounts = known.all_of(merchant.merchant_id, False, merchant.processor_accounts)
        assert [a.processor_account_id for a in accounts] == [*DEMO_ACCOUNTS, "a", "b"]
        assert accounts[-1].processor == "amazon_pay"
        assert accounts[-1].fees["EUR"].of(1000) == 40
        assert known.all_of(merchant.merchant_id, True, ()) == ()


def learning(outcomes: SqliteOutcomes, learner: LinUcb) -> Learning:
    steering = Steering(learner, Breakers(), Budgets())
    return Learning(steering, learner, outcomes, CHARGE_SCHEMA, "one")


def nobody(request: WatchRequest) -> AsyncIterator[WatchResponse]:
    raise AssertionError("nothing is watched here")


async def test_the_stream_is_followed_from_the_stored_cursor_and_learned_once(
    outcomes: SqliteOutcomes, context: Context, directory: Directory
) -> None:
    log = [
        event(context, (FIRST, Attempt.STATUS_STARTED)),
        event(context, (FIRST, Attempt.STATUS_DECLINED)),
        event(context, (FIRST, Attempt.STATUS_DECLINED), (SECOND, Attempt.STATUS_SUCCEEDED)),
    ]
    taught = learning(outcomes, LinUcb(CHARGE_SCHEMA))
    asked: list[str] = []
    caught_up = asyncio.Event()

    async def watch(request: WatchRequest) -> AsyncIterator[WatchResponse]:
        asked.append(request.cursor)
        start = int(request.cursor or 0)
        for number, told in enumerate(log[start:], start=start + 1):
            yield WatchResponse(event=told, cursor=str(number))
        yield WatchResponse(cursor=str(len(log)), caught_up=True)
        caught_up.set()
        await asyncio.Event().wait()

    for _ in range(2):
        events = PaymentEvents(watch, outcomes, taught, directory)
        following = asyncio.create_task(events.follow())
        await caught_up.wait()
        caught_up.clear()
        following.cancel()
        await asyncio.wait([following])

    assert asked == ["", "3"]
    assert await outcomes.cursor() == "3"
    page = await outcomes.after(0, "one", CHARGE_SCHEMA.name)
    assert (page.accounts, page.outcomes) == ([FIRST, SECOND], ["DECLINED", "SUCCEEDED"])
    assert taught.counts.learned == 2


async def test_a_dispute_is_counted_with_the_payment_that_it_claims_back(
    outcomes: SqliteOutcomes, context: Context, directory: Directory
) -> None:
    paid = event(context, (FIRST, Attempt.STATUS_SUCCEEDED))
    paid.payment.disputes.append(dispute("fraudulent", Dispute.STATUS_LOST))
    taught = learning(outcomes, LinUcb(CHARGE_SCHEMA))
    await PaymentEvents(nobody, outcomes, taught, directory).apply(
        WatchResponse(event=paid, cursor="1")
    )
    (tally,) = (await outcomes.tallies(0, DECIDED)).values()
    assert (tally.successes, tally.chargebacks, tally.lost_shares) == (1, 1, 1.0)
