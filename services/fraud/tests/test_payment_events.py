"""Payments' events teach: declines at once, frauds by refund, each once."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.payments.v1.customers_pb2 import CustomerEvent
from smartpay.payments.v1.payment_pb2 import Attempt, Dispute, Payment, PaymentEvent, Refund
from smartpay_chassis.testing import DEMO_MERCHANT
from smartpay_fraud.adapters.payment_events import PaymentEvents, claims_of
from smartpay_fraud.adapters.sqlite_audit import SqliteAudit
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.adapters.sqlite_reviews import SqliteReviews
from smartpay_fraud.domain.assessment import Assessment, Claim, Finding
from smartpay_fraud.domain.features import FEATURE_INDEX, Vector
from smartpay_fraud.domain.reviews import State
from smartpay_fraud.domain.scoring import History, Scoring
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

MakeScoring = Callable[[History], Scoring]

MERCHANT = DEMO_MERCHANT.merchant_id
KEY = TransactionKey(MERCHANT, False, "pay_d1" + "0" * 24)
A_TRANSACTION = Transaction(*KEY, amount_minor=1_999, currency_code="USD", device_id="device")


def remembered(scoring: Scoring) -> Vector:
    """The features of the same payment once more."""
    memory: Any = scoring._memory
    row: Vector = memory._store.score_view(A_TRANSACTION, 200_000).row
    return row


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


def disputed(reason: str, status: Dispute.Status.ValueType) -> PaymentEvent:
    dispute = Dispute(
        dispute_id="dis_1", reason=reason, status=status, create_time=at(70), update_time=at(80)
    )
    payment = Payment(payment_id=KEY.transaction_id, disputes=[dispute])
    return PaymentEvent(merchant_id=MERCHANT, time=at(100), payment=payment)


@pytest.mark.parametrize(
    ("status", "finding", "known_ms"),
    [
        (Dispute.STATUS_NEEDS_RESPONSE, Finding.FRAUD, 70_000),
        (Dispute.STATUS_LOST, Finding.FRAUD, 70_000),
        (Dispute.STATUS_WON, Finding.LEGITIMATE, 80_000),
    ],
)
def test_a_dispute_for_fraud_is_fraud_until_it_is_won(
    status: Dispute.Status.ValueType, finding: Finding, known_ms: int
) -> None:
    (claim,) = claims_of(disputed("fraudulent", status))
    assert claim == Claim(KEY, "dispute:dis_1", finding, 100_000, known_ms)


def test_a_quarrel_about_the_goods_says_nothing_about_fraud() -> None:
    assert claims_of(disputed("product_not_received", Dispute.STATUS_LOST)) == []


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
        events = PaymentEvents(
            channel, scoring, sqlite_history, SqliteReviews(sqlite_history.store)
        )
        for number, sequence in enumerate((1, 2, 1)):
            step = payments_pb2.WatchResponse(event=an_event(sequence), cursor=str(number))
            await events.apply(step)
        await events.apply(payments_pb2.WatchResponse(cursor="caught", caught_up=True))
    row = remembered(scoring)
    assert row[FEATURE_INDEX["device_declines_1h"]] == 1
    assert row[FEATURE_INDEX["device_known_frauds"]] == 1
    assert await sqlite_history.cursor() == "caught"


def moved(status: Payment.Status.ValueType, sequence: int) -> payments_pb2.WatchResponse:
    payment = Payment(payment_id=KEY.transaction_id, status=status)
    event = PaymentEvent(
        merchant_id=MERCHANT, sequence=sequence, time=at(100 + sequence), payment=payment
    )
    return payments_pb2.WatchResponse(event=event, cursor=str(sequence))


async def test_a_payment_decided_in_payments_closes_its_review(
    make_scoring: MakeScoring, sqlite_history: SqliteHistory
) -> None:
    reviews = SqliteReviews(sqlite_history.store)
    assessment = Assessment(
        A_TRANSACTION, Verdict.REVIEW, 0.3, (), "trees-0", 1, 1_000, opens_review=True
    )
    await sqlite_history.add_all([assessment])
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:
        scoring = make_scoring(sqlite_history)
        events = PaymentEvents(channel, scoring, sqlite_history, reviews)
        await events.apply(moved(Payment.STATUS_IN_REVIEW, 1))
        held = await reviews.of_transaction(KEY)
        assert held is not None
        assert (held.state, held.held) == (State.OPEN, True)
        for _ in range(2):
            await events.apply(moved(Payment.STATUS_CANCELED, 2))
    closed = await reviews.of_transaction(KEY)
    assert closed is not None
    assert (closed.state, closed.close_reason, closed.end_ms) == (State.CLOSED, "canceled", 102_000)
    records, _ = await SqliteAudit(sqlite_history.store).page(
        MERCHANT, False, "", 10, subject_id=closed.review_id
    )
    assert [record.actor for record in records] == ["system:payments"] * 2


async def test_an_erased_customer_is_forgotten_once(
    make_scoring: MakeScoring, sqlite_history: SqliteHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = make_scoring(sqlite_history)
    named = replace(A_TRANSACTION, customer_id="ada")
    await scoring.score(named, 80_000)
    key = hashlib.sha256(f"{MERCHANT}\ntest\nada".encode()).hexdigest()
    erased = CustomerEvent(
        type="smartpay.customer.erased.v1",
        merchant_id=MERCHANT,
        customer_key=key,
        time=at(100),
        subject="era_1",
    )
    forgotten: list[tuple[str, bool, str]] = []

    async def forget(*whom: Any) -> None:
        forgotten.append(whom)

    monkeypatch.setattr(scoring, "forget", forget)
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:
        reviews = SqliteReviews(sqlite_history.store)
        events = PaymentEvents(channel, scoring, sqlite_history, reviews)
        for _ in range(2):
            await events.apply(payments_pb2.WatchResponse(customer_event=erased, cursor="7"))
    assert forgotten == [(MERCHANT, False, "ada")]
    kept = (await sqlite_history.find_all([KEY]))[KEY].transaction
    assert (kept.customer_id, kept.device_id, kept.amount_minor) == ("", "", 1_999)
    assert await sqlite_history.cursor() == "7"


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
        following = asyncio.create_task(
            PaymentEvents(
                channel, scoring, sqlite_history, SqliteReviews(sqlite_history.store)
            ).run()
        )
        async with asyncio.timeout(30):
            while await sqlite_history.cursor() != "1":
                await asyncio.sleep(0.01)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
    await server.stop(None)
    assert payments.cursors == ["0"]
    row = remembered(scoring)
    assert row[FEATURE_INDEX["device_declines_1h"]] == 1
