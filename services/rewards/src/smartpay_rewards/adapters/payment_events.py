"""Follows the payments' events, and looks single payments up; both tell the same facts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.payments.v1 import payment_pb2
from smartpay.payments.v1.payments_pb2 import GetPaymentRequest, WatchRequest, WatchResponse
from smartpay_chassis.channels import on_behalf_of
from smartpay_chassis.event_log import follow
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_rewards.domain.granting import not_found
from smartpay_rewards.domain.issuance import RewardKey, RewardStore, Rules
from smartpay_rewards.domain.reward import Mark, Refunded, SettledPayment

if TYPE_CHECKING:  # the generated module has it for type checkers only
    from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceAsyncStub

log = structlog.get_logger()

_MARKS = {
    payment_pb2.REWARD_MARK_RECEIPT: Mark.RECEIPT,
    payment_pb2.REWARD_MARK_SEQUENCE: Mark.SEQUENCE,
}


class PaymentEvents:
    """Turns settled payments into rewards, each event at most once in effect.

    Args:
        payments: the payments service.
        store: keeps rewards and cursor together.
        rules: what a payment earns.
        clock: the time as an aware datetime.
        changed: called after a reward came to be or changed.
    """

    def __init__(
        self,
        payments: PaymentsServiceAsyncStub,
        store: RewardStore,
        rules: Rules,
        clock: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._payments = payments
        self._store = store
        self._rules = rules
        self._clock = clock
        self._changed = changed

    async def follow(self) -> None:
        """Follow for ever, across restarts of both sides."""
        await follow(self._open, self._store.cursor, self.apply, name="payments")

    def _open(self, cursor: str) -> AsyncIterator[WatchResponse]:
        return aiter(self._payments.Watch(WatchRequest(cursor=cursor)))

    async def apply(self, step: WatchResponse) -> None:
        """Store what one step of the stream means, with its cursor.

        An event that earns nothing leaves no trace of its own: the cursor moves on with the next
        that does, or when the log is read to its end, and reading it again does no harm.
        """
        payment = _earning(step.event) if step.HasField("event") else None
        if payment is None:
            if step.caught_up:
                await self._store.save_cursor(step.cursor)
            return
        key = RewardKey(payment.merchant_id, payment.livemode, payment.payment_id)
        await self._store.change(
            key,
            lambda existing: self._rules.apply(existing, payment, self._clock()),
            cursor=step.cursor,
        )
        self._changed()


class GrpcPayments:
    """Asks the payments service for one payment, on behalf of its merchant."""

    def __init__(self, payments: PaymentsServiceAsyncStub, timeout_seconds: float) -> None:
        self._payments = payments
        self._timeout_seconds = timeout_seconds

    async def settled(self, key: RewardKey, request_id: str) -> SettledPayment:
        """Look a payment up.

        Raises:
            Refusal: REWARD_NOT_FOUND when the merchant has no such payment; PAYMENT_NOT_SETTLED
                when it is not captured; UNAVAILABLE when payments can't be asked.
        """
        try:
            response = await self._payments.GetPayment(
                GetPaymentRequest(payment_id=key.payment_id),
                metadata=on_behalf_of(key.merchant_id, key.livemode, request_id),
                timeout=self._timeout_seconds,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise not_found() from None
            log.warning("payments away", code=error.code().name)
            raise Refusal(
                Kind.UNAVAILABLE,
                "UNAVAILABLE",
                "The payment can't be looked up at the moment.",
                remedy="Wait a moment and repeat the call with the same idempotency key.",
            ) from None
        payment = response.payment
        settled = _settled(payment, payment.update_time, None, 0)
        if settled is None:
            status = payment_pb2.Payment.Status.Name(payment.status)
            raise Refusal(
                Kind.FAILED_PRECONDITION,
                "PAYMENT_NOT_SETTLED",
                "The payment is not captured, so it has earned nothing yet.",
                remedy="Capture the payment first; its reward then comes by itself.",
                field="payment_id",
                facts={"status": status},
            )
        return settled


def _earning(event: payment_pb2.PaymentEvent) -> SettledPayment | None:
    """Read an event; None when its payment earns nothing (yet)."""
    mark = _MARKS.get(event.reward_mark)
    if mark is None:
        return None
    vesting = None
    if event.HasField("reward_vesting_seconds"):
        vesting = timedelta(seconds=event.reward_vesting_seconds)
    return _settled(event.payment, event.time, mark, event.sequence, vesting)


def _settled(
    payment: payment_pb2.Payment,
    told_time: Timestamp,
    mark: Mark | None,
    sequence: int,
    vesting: timedelta | None = None,
) -> SettledPayment | None:
    captured = payment.captured_amount
    if payment.status != payment_pb2.Payment.STATUS_SUCCEEDED or captured.minor_units <= 0:
        return None
    # Captured with the authorization: then the attempt tells when, else only this telling does.
    times = [
        attempt.end_time
        for attempt in payment.attempts
        if attempt.status == payment_pb2.Attempt.STATUS_SUCCEEDED and attempt.HasField("end_time")
    ]
    automatic = payment.capture_method == payment_pb2.CAPTURE_METHOD_AUTOMATIC
    return SettledPayment(
        merchant_id=payment.merchant_id,
        livemode=payment.livemode,
        payment_id=payment.payment_id,
        captured_minor_units=captured.minor_units,
        currency_code=captured.currency_code,
        refunds=tuple(
            Refunded(_time(refund.create_time), refund.amount.minor_units)
            for refund in payment.refunds
            if refund.status != payment_pb2.Refund.STATUS_FAILED
            # What was sent too much was never taken, and lessens nothing.
            and refund.reason != payment_pb2.Refund.REASON_OVERPAYMENT
        ),
        settle_time=_time(times[-1] if automatic and times else told_time),
        wallet=payment.reward_wallet,
        mark=mark,
        sequence=sequence,
        vesting=vesting,
    )


def _time(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
