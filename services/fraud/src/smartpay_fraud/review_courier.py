"""Carries what people decided to where it counts: the memory as a label, payments as an order.

A decision is stored as due and stays so until it was heard, whatever fails or restarts meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import structlog

from smartpay_fraud.adapters.sqlite_audit import record_of_work
from smartpay_fraud.adapters.sqlite_reviews import SqliteReviews
from smartpay_fraud.domain.assessment import Claim
from smartpay_fraud.domain.reviews import Answer, Delivery, Review

log = structlog.get_logger()

PAUSES_SECONDS = (1, 5, 30, 120, 600)
"""Between tries; the last one for ever: payments may be away for long, a held payment waits."""

UNKNOWN_PAYMENT_MS = 15 * 60_000
"""So long a payment may be unknown: it is scored before payments stores it. After that, the
merchant scored something of its own that looks like a payment."""

DUE_AT_ONCE = 32
"""Decisions read at a time."""

LOOK_SECONDS = 5.0
"""Between looks for what is due again; a new decision is carried at once."""


class Desk(Protocol):
    """Where payments hears of a decision."""

    async def tell(self, review: Review) -> Answer:
        """Tells one decision."""
        ...


class ReviewCourier:
    """Tells decisions until they are heard.

    Args:
        reviews: what is due.
        desk: payments.
        learn: takes claims into memory; a repeated one changes nothing.
        now_ms: the time, in milliseconds since the epoch.
    """

    def __init__(
        self,
        reviews: SqliteReviews,
        desk: Desk,
        learn: Callable[[Sequence[Claim], str | None], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._reviews = reviews
        self._desk = desk
        self._learn = learn
        self._now_ms = now_ms
        self._awake = asyncio.Event()

    def wake(self) -> None:
        """Says that there is a new decision."""
        self._awake.set()

    async def run(self) -> None:
        """Carries for ever."""
        while True:
            self._awake.clear()
            if not await self.carry():
                try:
                    await asyncio.wait_for(self._awake.wait(), LOOK_SECONDS)
                except TimeoutError:
                    continue

    async def carry(self) -> int:
        """Carries what is due now; answers how many decisions that were."""
        due = await self._reviews.due(self._now_ms(), DUE_AT_ONCE)
        for each in due:
            await self._carry(each.review, each.tries)
        return len(due)

    async def _carry(self, review: Review, tries: int) -> None:
        if claim := review.claim():
            await self._learn([claim], None)
        if review.delivery is not Delivery.PENDING:
            await self._reviews.settle(review.review_id)
            return
        answer, now_ms = await self._desk.tell(review), self._now_ms()
        young = now_ms - review.create_ms < UNKNOWN_PAYMENT_MS
        if answer is Answer.AWAY or (answer is Answer.UNKNOWN_PAYMENT and young):
            pause = PAUSES_SECONDS[min(tries, len(PAUSES_SECONDS) - 1)]
            await self._reviews.postpone(review.review_id, now_ms + pause * 1000)
            return
        heard = review.delivered(Delivery.DONE if answer is Answer.TAKEN else Delivery.MOOT)
        await self._reviews.save(heard, record_of_work("payments", review, heard, now_ms))
        log.info("review told", review_id=review.review_id, answer=answer.value)
