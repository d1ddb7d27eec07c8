from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from smartpay.payments.v1.merchants_pb2 import MerchantEvent
from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.payments.v1.processor_accounts_pb2 import ProcessorAccount, ProcessorFee
from smartpay.router.v1.router_pb2 import Decision as DecisionMessage
from smartpay.router.v1.router_pb2 import RankedAccount
from smartpay.type.v1.instrument_pb2 import Processor
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_ACCOUNT
from smartpay_router.adapters.payment_events import PaymentEvents, samples_of
from smartpay_router.adapters.river_policy import RiverPolicy
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.context import Context
from smartpay_router.domain.outcome import Learner, Outcome

FIRST, SECOND = DEMO_ACCOUNTS


def event(
    context: Context, *attempts: tuple[str, Attempt.Status.ValueType], number: int = 1
) -> PaymentEvent:
    return PaymentEvent(
        id=f"evt_{number}",
        merchant_id=DEMO_MERCHANT.merchant_id,
        payment=Payment(
            payment_id="pay_d1" + "p" * 24,
            route=DecisionMessage(
                decision_id=f"dec_d1{number:024d}",
                ranking=[RankedAccount(processor_account_id=a) for a in DEMO_ACCOUNTS],
                context=context.values,
                context_schema=context.schema,
            ),
            attempts=[
                Attempt(attempt_index=index, processor_account_id=account, status=status)
                for index, (account, status) in enumerate(attempts)
            ],
        ),
    )


def test_each_finished_attempt_is_an_outcome_of_the_decision(context: Context) -> None:
    samples = samples_of(
        event(context, (FIRST, Attempt.STATUS_DECLINED), (SECOND, Attempt.STATUS_SUCCEEDED))
    )
    assert [(s.attempt_index, s.processor_account_id, s.outcome) for s in samples] == [
        (0, FIRST, Outcome.DECLINED),
        (1, SECOND, Outcome.SUCCEEDED),
    ]
    assert samples[0].context == context
    assert samples[0].merchant_id == DEMO_MERCHANT.merchant_id


def test_a_request_the_processor_would_not_take_is_a_technical_failure(context: Context) -> None:
    (sample,) = samples_of(event(context, (FIRST, Attempt.STATUS_FAILED)))
    assert sample.outcome is Outcome.TECHNICAL_FAILURE


@pytest.mark.parametrize(
    "status",
    [
        Attempt.STATUS_STARTED,
        Attempt.STATUS_REQUIRES_ACTION,
        Attempt.STATUS_UNKNOWN,
        Attempt.STATUS_CANCELED,
    ],
)
def test_an_attempt_without_a_known_end_teaches_nothing(
    context: Context, status: Attempt.Status.ValueType
) -> None:
    assert samples_of(event(context, (FIRST, status))) == ()


def test_a_payment_that_fraud_blocked_has_no_attempt_and_teaches_nothing(context: Context) -> None:
    assert samples_of(event(context)) == ()


def test_a_payment_routed_by_the_static_order_teaches_nothing() -> None:
    attempt = Attempt(processor_account_id=FIRST, status=Attempt.STATUS_SUCCEEDED)
    assert samples_of(PaymentEvent(payment=Payment(attempts=[attempt]))) == ()


def test_an_attempt_at_an_account_that_was_not_ranked_teaches_nothing(context: Context) -> None:
    assert samples_of(event(context, (OTHER_ACCOUNT, Attempt.STATUS_SUCCEEDED))) == ()


def test_a_damaged_context_is_left_out_and_does_not_stop_the_stream(context: Context) -> None:
    damaged = event(context, (FIRST, Attempt.STATUS_SUCCEEDED))
    damaged.payment.route.context[0] = math.nan
    assert samples_of(damaged) == ()


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
    store: SqliteDecisions, river: RiverPolicy, directory: Directory
) -> None:
    events = PaymentEvents(nobody, store, Learner(river, store), directory)
    merchant = DEMO_MERCHANT
    for step in (
        WatchResponse(merchant_event=change(1, "a")),
        WatchResponse(merchant_event=change(2, "a", "b"), cursor="7"),
        WatchResponse(merchant_event=change(1, "old news"), cursor="8"),
    ):
        await events.apply(step)
    assert await store.cursor() == "8"
    for known in (directory, Directory(await store.added_accounts())):
        accounts = known.all_of(merchant.merchant_id, False, merchant.processor_accounts)
        assert [a.processor_account_id for a in accounts] == [*DEMO_ACCOUNTS, "a", "b"]
        assert accounts[-1].processor == "amazon_pay"
        assert accounts[-1].fees["EUR"].of(1000) == 40
        assert known.all_of(merchant.merchant_id, True, ()) == ()


def nobody(request: WatchRequest) -> AsyncIterator[WatchResponse]:
    raise AssertionError("nothing is watched here")


async def test_the_stream_is_followed_from_the_stored_cursor_and_learned_once(
    store: SqliteDecisions, river: RiverPolicy, context: Context, directory: Directory
) -> None:
    log = [
        event(context, (FIRST, Attempt.STATUS_STARTED)),
        event(context, (FIRST, Attempt.STATUS_DECLINED)),
        event(context, (FIRST, Attempt.STATUS_DECLINED), (SECOND, Attempt.STATUS_SUCCEEDED)),
    ]
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
        events = PaymentEvents(watch, store, Learner(river, store), directory)
        following = asyncio.create_task(events.follow())
        await caught_up.wait()
        caught_up.clear()
        following.cancel()
        await asyncio.wait([following])

    assert asked == ["", "3"]
    assert await store.cursor() == "3"
    assert [(s.processor_account_id, s.outcome) for _, s in await store.after(0)] == [
        (FIRST, Outcome.DECLINED),
        (SECOND, Outcome.SUCCEEDED),
    ]
    assert river.version == "river-linucb-2"
