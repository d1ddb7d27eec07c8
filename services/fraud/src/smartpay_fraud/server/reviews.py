"""Speaks the contract of reviews."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from smartpay.fraud.v1 import fraud_pb2, reviews_pb2, reviews_pb2_grpc
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_fraud.domain.assessment import Assessment, Claim, Finding
from smartpay_fraud.domain.audit import AuditRecord
from smartpay_fraud.domain.refusals import etag_mismatch, review_not_found
from smartpay_fraud.domain.reviews import Delivery, Related, Resolution, Review, State
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.messages import VERDICTS, assessment_message, moment_ms, timestamp
from smartpay_fraud.server.audit import AuditReader, actor_of, record_message, record_of_call

Context = object  # gRPC's own context is the interceptors' business

RECORDS_SHOWN = 50
"""Audit records shown with a review: more changes of hands than one review sees."""

_STATES = {
    State.OPEN: reviews_pb2.Review.STATE_OPEN,
    State.RESOLVED: reviews_pb2.Review.STATE_RESOLVED,
    State.CLOSED: reviews_pb2.Review.STATE_CLOSED,
}
_STATE_OF = {spelt: state for state, spelt in _STATES.items()}
_RESOLUTIONS = {
    Resolution.APPROVE: reviews_pb2.Review.RESOLUTION_APPROVE,
    Resolution.FRAUD: reviews_pb2.Review.RESOLUTION_FRAUD,
    Resolution.REJECT: reviews_pb2.Review.RESOLUTION_REJECT,
}
_RESOLUTION_OF = {spelt: resolution for resolution, spelt in _RESOLUTIONS.items()}
_DELIVERIES = {
    Delivery.PENDING: reviews_pb2.Review.DELIVERY_PENDING,
    Delivery.DONE: reviews_pb2.Review.DELIVERY_DONE,
    Delivery.MOOT: reviews_pb2.Review.DELIVERY_MOOT,
}
_LABELS = {
    Finding.FRAUD: fraud_pb2.LABEL_FRAUD,
    Finding.LEGITIMATE: fraud_pb2.LABEL_LEGITIMATE,
}


class ReviewStore(Protocol):
    """Keeps reviews. Every change is stored with its record, in one transaction."""

    async def get(self, merchant_id: str, livemode: bool, review_id: str) -> Review | None:
        """Reads one review of one merchant."""
        ...

    async def page(
        self,
        merchant_id: str,
        livemode: bool,
        after: str,
        size: int,
        *,
        state: State | None = None,
        assignee: str = "",
        unassigned: bool = False,
        before_ms: int | None = None,
    ) -> tuple[list[Review], str]:
        """Reads a page, oldest first, and the position to go on after; "" at the end."""
        ...

    async def save(self, review: Review, record: AuditRecord, due_ms: int | None = None) -> bool:
        """Stores a review's next version; answers False when somebody else was faster."""
        ...

    async def related(self, transaction: Transaction) -> list[Related]:
        """Reads the latest transactions that share a part with this one, newest first."""
        ...


class Scores(Protocol):
    """Reads what was scored."""

    async def find_all(
        self, keys: Collection[TransactionKey]
    ) -> Mapping[TransactionKey, Assessment]:
        """The stored assessments of these transactions."""
        ...


class ReviewsServicer(reviews_pb2_grpc.ReviewsServiceServicer):
    """Serves the review queue of the caller's merchant.

    Args:
        reviews: keeps them.
        scores: what was scored.
        audit: who did what.
        learn: takes claims into memory.
        wake_courier: called after a decision was stored.
        now_ms: the time, in milliseconds since the epoch.
    """

    def __init__(
        self,
        reviews: ReviewStore,
        scores: Scores,
        audit: AuditReader,
        learn: Callable[[Sequence[Claim], str | None], Awaitable[None]],
        wake_courier: Callable[[], None],
        now_ms: Callable[[], int],
    ) -> None:
        self._reviews = reviews
        self._scores = scores
        self._audit = audit
        self._learn = learn
        self._wake_courier = wake_courier
        self._now_ms = now_ms

    async def ListReviews(
        self, request: reviews_pb2.ListReviewsRequest, context: Context
    ) -> reviews_pb2.ListReviewsResponse:
        """Lists the reviews, oldest first."""
        call = current_call()
        before = request.create_time_before
        filters = (request.state, request.assignee, request.unassigned, before)
        bound_to = f"reviews {call.merchant_id} {call.livemode} {filters}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        reviews, position = await self._reviews.page(
            call.merchant_id,
            call.livemode,
            after,
            page_size(request.page_size),
            state=_STATE_OF.get(request.state),
            assignee=request.assignee,
            unassigned=request.unassigned,
            before_ms=moment_ms(before, "create_time_before") if before else None,
        )
        return reviews_pb2.ListReviewsResponse(
            reviews=map(_review_message, reviews),
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )

    async def GetReview(
        self, request: reviews_pb2.GetReviewRequest, context: Context
    ) -> reviews_pb2.GetReviewResponse:
        """Shows a review with all that helps to decide it."""
        call = current_call()
        review = await self._review(call, request.review_id)
        assessment = (await self._scores.find_all([review.key]))[review.key]
        related, (records, _) = await asyncio.gather(
            self._reviews.related(assessment.transaction),
            self._audit.page(
                call.merchant_id, call.livemode, "", RECORDS_SHOWN, subject_id=review.review_id
            ),
        )
        call.respond_with(headers={"etag": review.etag})
        told = assessment.transaction
        return reviews_pb2.GetReviewResponse(
            review=_review_message(review),
            assessment=assessment_message(assessment),
            transaction=reviews_pb2.ReviewedTransaction(
                customer_id=told.customer_id,
                instrument_fingerprint=told.instrument_id,
                device_id=told.device_id,
                ip_address=told.ip_address,
                terminal_id=told.terminal_id,
                merchant_category=told.merchant_category,
                country=told.country,
            ),
            related=map(_related_message, related),
            records=map(record_message, records),
        )

    async def AssignReview(
        self, request: reviews_pb2.AssignReviewRequest, context: Context
    ) -> reviews_pb2.AssignReviewResponse:
        """Gives a review to the calling person."""
        call = current_call()
        review = await self._review(call, request.review_id)
        changed = review.given_to(actor_of(call), request.etag)
        await self._save(call, review, changed)
        return reviews_pb2.AssignReviewResponse(review=_review_message(changed))

    async def UnassignReview(
        self, request: reviews_pb2.UnassignReviewRequest, context: Context
    ) -> reviews_pb2.UnassignReviewResponse:
        """Gives a review back."""
        call = current_call()
        review = await self._review(call, request.review_id)
        changed = review.given_to("", request.etag)
        await self._save(call, review, changed)
        return reviews_pb2.UnassignReviewResponse(review=_review_message(changed))

    async def ResolveReview(
        self, request: reviews_pb2.ResolveReviewRequest, context: Context
    ) -> reviews_pb2.ResolveReviewResponse:
        """Decides a review: the label counts at once, payments is told beside the call."""
        call, now_ms = current_call(), self._now_ms()
        review = await self._review(call, request.review_id)
        resolution = _RESOLUTION_OF[request.resolution]
        changed = review.resolved(resolution, request.note, actor_of(call), request.etag, now_ms)
        await self._save(call, review, changed, due_ms=now_ms)
        if claim := changed.claim():
            await self._learn([claim], None)
        self._wake_courier()
        return reviews_pb2.ResolveReviewResponse(review=_review_message(changed))

    async def _review(self, call: Call, review_id: str) -> Review:
        review = await self._reviews.get(call.merchant_id, call.livemode, review_id)
        if review is None:
            raise review_not_found()
        return review

    async def _save(
        self, call: Call, before: Review, after: Review, due_ms: int | None = None
    ) -> None:
        if after is not before:
            record = record_of_call(
                call, before.review_id, before.facts(), after.facts(), self._now_ms()
            )
            if not await self._reviews.save(after, record, due_ms):
                raise etag_mismatch()
        call.respond_with(headers={"etag": after.etag})


def _review_message(review: Review) -> reviews_pb2.Review:
    return reviews_pb2.Review(
        review_id=review.review_id,
        transaction_id=review.transaction_id,
        state=_STATES[review.state],
        amount=Money(minor_units=review.amount_minor, currency_code=review.currency_code),
        score=review.score,
        assignee=review.assignee,
        resolution=(
            _RESOLUTIONS[review.resolution]
            if review.resolution
            else reviews_pb2.Review.RESOLUTION_UNSPECIFIED
        ),
        note=review.note,
        resolve_actor=review.resolve_actor,
        close_reason=review.close_reason,
        delivery=(
            _DELIVERIES[review.delivery]
            if review.delivery
            else reviews_pb2.Review.DELIVERY_UNSPECIFIED
        ),
        create_time=timestamp(review.create_ms),
        end_time=timestamp(review.end_ms) if review.end_ms is not None else None,
        etag=review.etag,
    )


def _related_message(related: Related) -> reviews_pb2.RelatedTransaction:
    transaction = related.transaction
    return reviews_pb2.RelatedTransaction(
        transaction_id=transaction.transaction_id,
        amount=Money(minor_units=transaction.amount_minor, currency_code=transaction.currency_code),
        verdict=VERDICTS[related.verdict],
        score=related.score,
        label=_LABELS[related.finding] if related.finding else fraud_pb2.LABEL_UNSPECIFIED,
        create_time=timestamp(related.scored_ms),
        shared=related.shared,
    )
