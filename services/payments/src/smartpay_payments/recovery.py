"""Recovery: takes up payments whose outcome is open, on a schedule, until it is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from smartpay_payments.domain.eligibility import MerchantTerms
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.saga import Saga
from smartpay_payments.domain.silence import Silence

log = structlog.get_logger()

# A payment that can't be moved on, for instance of a merchant who is gone, gives way so long.
TROUBLE_PAUSE = timedelta(minutes=1)


class OpenPayments(Protocol):
    """What recovery reads from the store."""

    async def lease_due(self, now: datetime, until: datetime, limit: int) -> list[Payment]:
        """Takes payments whose time has come; until then nobody else takes them."""
        ...

    async def make_due(self, now: datetime, processor_account_id: str = "") -> int:
        """Makes every payment in doubt due, or those at one account; answers how many."""
        ...

    async def postpone(self, payment: Payment, until: datetime | None) -> None:
        """Plans the next look without a new version."""
        ...


class Recovery:
    """Runs beside the calls; a payment is only ever moved on by compare-and-set.

    Call `take_over` before the first call is served, then leave `run` running.

    Args:
        store: where open payments are found.
        saga: moves them on.
        terms_of: the merchant's rules; None when the merchant is not configured any more.
        silence: knows which accounts have begun to answer again.
        clock: the time, aware.
        interval_seconds: pause between two looks at the store.
        concurrency: payments moved on at once.
        lease_seconds: how long one look may take before another replica takes the payment up.
        sleep: replaced by tests.
    """

    def __init__(
        self,
        store: OpenPayments,
        saga: Saga,
        terms_of: Callable[[Payment], MerchantTerms | None],
        silence: Silence,
        clock: Callable[[], datetime],
        interval_seconds: float,
        concurrency: int,
        lease_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._saga = saga
        self._terms_of = terms_of
        self._silence = silence
        self._clock = clock
        self._interval = interval_seconds
        self._concurrency = concurrency
        self._lease = timedelta(seconds=lease_seconds)
        self._sleep = sleep

    async def take_over(self) -> None:
        """Makes due what an earlier process left open."""
        left_open = await self._store.make_due(self._clock())
        if left_open:
            log.info("recovery: taking up open payments", count=left_open)

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            if not await self.step():
                await self._sleep(self._interval)

    async def step(self) -> int:
        """Looks at what is due now; answers how many payments that were."""
        for account in self._silence.take_awake():
            woken = await self._store.make_due(self._clock(), account)
            log.info("recovery: an account answers again", account=account, woken=woken)
        now = self._clock()
        due = await self._store.lease_due(now, now + self._lease, self._concurrency)
        results = await asyncio.gather(
            *(self._recover(payment) for payment in due), return_exceptions=True
        )
        for payment, result in zip(due, results, strict=True):
            if isinstance(result, BaseException):
                # One payment's trouble must not keep the others waiting.
                log.error("recovery failed", payment_id=payment.payment_id, exc_info=result)
                await self._store.postpone(payment, self._clock() + TROUBLE_PAUSE)
        return len(due)

    async def _recover(self, payment: Payment) -> None:
        terms = self._terms_of(payment)
        if terms is None:
            raise LookupError(f"merchant {payment.merchant_id} is not configured")
        recovered = await self._saga.advance(payment, terms)
        log.info(
            "recovery: looked",
            payment_id=payment.payment_id,
            before=payment.status.value,
            after=recovered.status.value,
            checks=recovered.checks,
        )
