"""Learns from the payments' events: declines at once, frauds when a refund says so.

Each claim has a name of its own ("decline:0", "refund:ref_..."), so an event that comes again,
or a whole log that is read again, changes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.payments.v1.payment_pb2 import Attempt, PaymentEvent, Refund
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceStub
from smartpay_chassis.event_log import follow
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.domain.scoring import Claim, Finding, Scoring
from smartpay_fraud.domain.transaction import TransactionKey


class PaymentEvents:
    """Follows the payments' event log for ever and tells the scoring what it says."""

    def __init__(self, channel: grpc.aio.Channel, scoring: Scoring, history: SqliteHistory) -> None:
        self._stub = PaymentsServiceStub(channel)
        self._scoring = scoring
        self._history = history

    async def run(self) -> None:
        """Follows until cancelled; reconnects by itself, and stops when it can't store."""
        await follow(self._watch, self._history.cursor, self.apply, name="payments")

    async def apply(self, step: WatchResponse) -> None:
        """Stores what one step says together with its cursor."""
        claims = claims_of(step.event) if step.HasField("event") else []
        await self._scoring.learn(claims, step.cursor)

    async def _watch(self, cursor: str) -> AsyncIterator[WatchResponse]:
        async for step in self._stub.Watch(WatchRequest(cursor=cursor)):
            yield step


def claims_of(event: PaymentEvent) -> list[Claim]:
    """What an event says about its payment's honesty; mostly nothing.

    Our own blocks are not among it: they were counted when they were decided.
    """
    payment = event.payment
    key = TransactionKey(event.merchant_id, event.livemode, payment.payment_id)
    heard_ms = event.time.ToMilliseconds()
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
    return claims


def _milliseconds(time: Timestamp) -> int | None:
    return time.ToMilliseconds() if time.seconds else None
