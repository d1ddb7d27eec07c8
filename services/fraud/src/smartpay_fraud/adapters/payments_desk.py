"""Tells payments how a review ended, so that a held payment is charged or blocked."""

from __future__ import annotations

import grpc
import structlog

from smartpay.payments.v1.payment_pb2 import Payment
from smartpay.payments.v1.payments_pb2 import ReviewPaymentRequest
from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceStub
from smartpay_chassis.channels import on_behalf_of, refusal_reason
from smartpay_fraud.domain.reviews import Answer, Resolution, Review

log = structlog.get_logger()

TELL_SECONDS = 30.0
"""Payments' own deadline: an approved payment is charged before it answers."""

_NOTE_LETTERS_MAX = 500  # the contract's


class PaymentsDesk:
    """Calls payments through the mesh, for the merchant whose review it is."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = PaymentsServiceStub(channel)

    async def tell(self, review: Review) -> Answer:
        """Tells one decision; telling it again changes nothing, because the review is the key."""
        approved = review.resolution is Resolution.APPROVE
        request = ReviewPaymentRequest(
            payment_id=review.transaction_id,
            verdict=(
                ReviewPaymentRequest.VERDICT_APPROVE
                if approved
                else ReviewPaymentRequest.VERDICT_REJECT
            ),
            note=f"{review.review_id} by {review.resolve_actor}: {review.note}"[:_NOTE_LETTERS_MAX],
        )
        metadata = (
            *on_behalf_of(review.merchant_id, review.livemode, review.review_id),
            ("idempotency-key", review.review_id),
        )
        try:
            response = await self._stub.ReviewPayment(
                request, metadata=metadata, timeout=TELL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            reason = refusal_reason(error)
            if reason == "STATUS_FORBIDS":
                return Answer.NOT_HELD
            if reason == "PAYMENT_NOT_FOUND":
                return Answer.UNKNOWN_PAYMENT
            log.warning(
                "payments could not be told of a review",
                review_id=review.review_id,
                code=error.code().name,
                reason=reason,
            )
            return Answer.AWAY
        # Answered at the deadline, with the story still to be told: asked again with the same key.
        held = response.payment.status == Payment.STATUS_IN_REVIEW
        return Answer.AWAY if held else Answer.TAKEN
