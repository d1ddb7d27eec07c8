"""Learns from the payments' events: declines, frauds, decided reviews, and whom to forget.

Each claim has a name of its own ("decline:0", "refund:ref_..."), so an event that comes again,
or a whole log that is read again, changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.payments.v1.customers_pb2 import CustomerEvent
from smartpay.payments.v1.payment_pb2 import Attempt, Dispute, Payment, PaymentEvent, Refund
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceStub
from smartpay_chassis.event_log import follow
from smartpay_fraud.adapters.sqlite_audit import record_of_work
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.adapters.sqlite_reviews import SqliteReviews
from smartpay_fraud.domain.assessment import Claim, Finding
from smartpay_fraud.domain.scoring import Scoring
from smartpay_fraud.domain.transaction import TransactionKey

log = structlog.get_logger()

FRAUD_REASONS = frozenset({"fraudulent"})
"""Reasons of disputes by which a payer's bank says that somebody else paid (Stripe's word,
https://docs.stripe.com/disputes/categories); the others are quarrels about what was bought."""

_ERASED = "smartpay.customer.erased.v1"
_PREFIX = len("STATUS_")


class PaymentEvents:
    """Follows the payments' event log for ever and tells scoring and reviews what it says."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        scoring: Scoring,
        history: SqliteHistory,
        reviews: SqliteReviews,
    ) -> None:
        self._stub = PaymentsServiceStub(channel)
        self._scoring = scoring
        self._history = history
        self._reviews = reviews

    async def run(self) -> None:
        """Follows until cancelled; reconnects by itself, and stops when it can't store."""
        await follow(self._watch, self._history.cursor, self.apply, name="payments")

    async def apply(self, step: WatchResponse) -> None:
        """Takes one step in; its cursor is stored last, so that nothing is left out."""
        claims: list[Claim] = []
        if step.HasField("event"):
            claims = claims_of(step.event)
            await self._tell_review(step.event)
        elif step.HasField("customer_event") and step.customer_event.type == _ERASED:
            await self._forget(step.customer_event)
        await self._scoring.learn(claims, step.cursor)

    async def _tell_review(self, event: PaymentEvent) -> None:
        key, now_ms = _key(event), event.time.ToMilliseconds()
        status = Payment.Status.Name(event.payment.status)[_PREFIX:]
        stored = False
        while not stored:  # a person may change the review at the same moment
            review = await self._reviews.of_transaction(key)
            if review is None:
                return
            changed = review.after_payment(status, now_ms)
            if changed is review:
                return
            record = record_of_work("payments", review, changed, now_ms)
            stored = await self._reviews.save(changed, record)

    async def _forget(self, event: CustomerEvent) -> None:
        customer_id, erased = await self._history.erase(
            event.customer_key, event.time.ToMilliseconds()
        )
        if erased:
            await self._scoring.forget(event.merchant_id, event.livemode, customer_id)
            log.info("customer forgotten", erasure_id=event.subject, scores=erased)

    async def _watch(self, cursor: str) -> AsyncIterator[WatchResponse]:
        async for step in self._stub.Watch(WatchRequest(cursor=cursor)):
            yield step


def claims_of(event: PaymentEvent) -> list[Claim]:
    """What an event says about its payment's honesty; mostly nothing.

    Our own blocks are not among it: they were counted when they were decided.
    """
    payment, key, heard_ms = event.payment, _key(event), event.time.ToMilliseconds()
    claims = [
        Claim(
            key,
            f"decline:{attempt.attempt_index}",
            Finding.DECLINED,
            heard_ms,
            _milliseconds(attempt.end_time),
        )
        for attempt in payment.attempts
        if attempt.status == Attempt.STATUS_DECLINED
    ]
    claims += [
        # The merchant's word counts from when it was given, whether or not the money went back.
        Claim(
            key,
            f"refund:{refund.refund_id}",
            Finding.FRAUD,
            heard_ms,
            _milliseconds(refund.create_time),
        )
        for refund in payment.refunds
        if refund.reason == Refund.REASON_FRAUDULENT
    ]
    claims += [
        _dispute_claim(key, dispute, heard_ms)
        for dispute in payment.disputes
        if dispute.reason in FRAUD_REASONS
    ]
    return claims


def _dispute_claim(key: TransactionKey, dispute: Dispute, heard_ms: int) -> Claim:
    """The bank's word: fraud from when we learned of it, honest from when the merchant won."""
    won = dispute.status == Dispute.STATUS_WON
    return Claim(
        key,
        f"dispute:{dispute.dispute_id}",
        Finding.LEGITIMATE if won else Finding.FRAUD,
        heard_ms,
        _milliseconds(dispute.update_time if won else dispute.create_time),
    )


def _key(event: PaymentEvent) -> TransactionKey:
    return TransactionKey(event.merchant_id, event.livemode, event.payment.payment_id)


def _milliseconds(time: Timestamp) -> int | None:
    return time.ToMilliseconds() if time.seconds else None
