"""Payments' events teach: declines at once, frauds by refund, each once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent, Refund
from smartpay_chassis.testing import DEMO_MERCHANT
from smartpay_fraud.adapters.payment_events import PaymentEvents, claims_of
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.domain.features import FEATURE_INDEX
from smartpay_fraud.domain.scoring import Claim, Finding, History, Scoring
from smartpay_fraud.domain.transaction import Transaction, TransactionKey

MakeScoring = Callable[[History], Scoring]

MERCHANT = DEMO_MERCHANT.merchant_id
KEY = TransactionKey(MERCHANT, False, "pay_d1" + "0" * 24)
A_TRANSACTION = Transaction(*KEY, amount_minor=1_999, currency_code="USD", device_id="device")


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


def an_event(sequence: int = 1) -> PaymentEvent:
    return PaymentEvent(
        merchant_id=MERCHANT,
        livemode=False,
        sequence=sequence,
        time=at(100),
        payment=Payment(
            payment_id=KEY.transaction_id,
            attempts=[
                Attempt(attempt_index=0, status=Attempt.STATUS_DECLINED, end_time=at(90)),
                Attempt(attempt_index=1, status=Attempt.STATUS_SUCCEEDED, end_time=at(95)),
            ],
            refunds=[
                Refund(refund_id="ref_1", reason=Refund.REASON_FRAUDULENT, create_time=at(99)),
                Refund(refund_id="ref_2", reason=Refund.REASON_REQUESTED_BY_CUSTOMER),
            ],
        ),
    )


def test_only_declines_and_fraudulent_refunds_are_claims() -> None:
    assert claims_of(an_event()) == [
        Claim(KEY, "decline:0", Finding.DECLINED, 100_000, 90_000),
        Claim(KEY, "refund:ref_1", Finding.FRAUD, 100_000, 99_000),
    ]


def test_our_own_block_is_no_claim() -> None:
    blocked = PaymentEvent(payment=Payment(status=Payment.STATUS_BLOCKED))
    assert claims_of(blocked) == []


@pytest.fixture
async def sqlite_history(tmp_path: Path) -> AsyncIterator[SqliteHistory]:
    opened = await SqliteHistory.open(tmp_path / "fraud.db")
    yield opened
    await opened.close()


async def test_a_repeated_event_changes_nothing_and_the_cursor_moves(
    make_scoring: MakeScoring, sqlite_history: SqliteHistory
) -> None:
    scoring = make_scoring(sqlite_history)
    await scoring.score(A_TRANSACTION, 80_000)
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:
        events = PaymentEvents(channel, scoring, sqlite_history)
        for number, sequence in enumerate((1, 2, 1)):
            step = payments_pb2.WatchResponse(event=an_event(sequence), cursor=str(number))
            await events.apply(step)
        await events.apply(payments_pb2.WatchResponse(cursor="caught", caught_up=True))
    row = scoring._store.score_view(A_TRANSACTION, 200_000)
    assert row[FEATURE_INDEX["device_declines_1h"]] == 1
    assert row[FEATURE_INDEX["device_known_frauds"]] == 1
    assert await sqlite_history.cursor() == "caught"


class Payments(payments_pb2_grpc.PaymentsServiceServicer):
    """Streams one event after any cursor, and then waits for news that never come."""

    def __init__(self) -> None:
        self.cursors: list[str] = []

    async def Watch(
        self, request: payments_pb2.WatchRequest, context: object
    ) -> AsyncIterator[payments_pb2.WatchResponse]:
        self.cursors.append(request.cursor)
        yield payments_pb2.WatchResponse(event=an_event(), cursor="1")
        await asyncio.Event().wait()


async def test_the_stream_is_followed_from_the_stored_cursor(
    make_scoring: MakeScoring, sqlite_history: SqliteHistory, tmp_path: Path
) -> None:
    scoring = make_scoring(sqlite_history)
    await scoring.score(A_TRANSACTION, 80_000)
    await scoring.learn([], "0")
    payments = Payments()  # type: ignore[abstract]  # only Watch is called
    server = grpc.aio.server()
    payments_pb2_grpc.add_PaymentsServiceServicer_to_server(payments, server)
    address = f"unix:{tmp_path / 's'}"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        following = asyncio.create_task(PaymentEvents(channel, scoring, sqlite_history).run())
        async with asyncio.timeout(30):
            while await sqlite_history.cursor() != "1":
                await asyncio.sleep(0.01)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
    await server.stop(None)
    assert payments.cursors == ["0"]
    row = scoring._store.score_view(A_TRANSACTION, 200_000)
    assert row[FEATURE_INDEX["device_declines_1h"]] == 1
