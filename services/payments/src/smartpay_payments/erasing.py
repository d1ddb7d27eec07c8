"""Erases customers: bounded batches beside the calls, taken up again after a crash.

There is no cursor to lose: a payment that is erased names its customer no more, so what is left
to do is what is still found.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Protocol

import structlog

from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.customers import (
    TOMBSTONE,
    Customer,
    Erasure,
    erased,
    is_settled,
)
from smartpay_payments.domain.instruments import Vault
from smartpay_payments.domain.payment import Payment

log = structlog.get_logger()

# Payments erased per step; each is a few units of work, and other writers come between.
BATCH = 20
# Erasures looked at per round.
ERASURES_PER_ROUND = 16


class ErasureStore(Protocol):
    """What an erasure reads and writes. Each method is one unit of work."""

    async def running_erasures(self, after: str, limit: int) -> list[Erasure]:
        """Reads erasures that are not done, in the order of their ids."""
        ...

    async def payments_of(
        self, merchant_id: str, livemode: bool, customer_id: str, after: str, limit: int
    ) -> list[Payment]:
        """Reads payments that name a customer, oldest first."""
        ...

    async def erase_events(self, payment_id: str, after_version: int) -> int:
        """Erases the next kept versions of a payment; answers the last of them, 0 at the end."""
        ...

    async def get(self, merchant_id: str, livemode: bool, customer_id: str) -> Customer | None:
        """Reads one customer of one merchant."""
        ...

    async def remove_instruments(self, erasure: Erasure) -> int:
        """Removes some of a customer's instruments; answers how many."""
        ...

    async def save_erasure(self, erasure: Erasure) -> None:
        """Stores how far an erasure is."""
        ...

    async def end_erasure(self, before: Erasure, after: Erasure, record: AuditRecord) -> bool:
        """Removes the customer and ends the erasure; False when more of it came meanwhile."""
        ...


class PaymentVersions(Protocol):
    """Stores a payment's next version."""

    async def store(self, before: Payment, after: Payment) -> Payment | None:
        """Stores the next version; answers None when somebody else stored theirs first."""
        ...


class Eraser:
    """Does what erasures ask for.

    Args:
        store: where customers and erasures are.
        versions: stores erased payments, each with an event, so that readers erase too.
        vaults: by processor, where customers are known too.
        processor_of: names an account's processor; "" for an account that is gone.
        record: makes the audit record of an end out of the erasure before and after.
        clock: the time, aware.
        interval_seconds: pause between two rounds.
        sleep: replaced by tests.
    """

    def __init__(
        self,
        store: ErasureStore,
        versions: PaymentVersions,
        vaults: Mapping[str, Vault],
        processor_of: Callable[[str], str],
        record: Callable[[Erasure, Erasure], AuditRecord],
        clock: Callable[[], datetime],
        interval_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._versions = versions
        self._vaults = vaults
        self._processor_of = processor_of
        self._record = record
        self._clock = clock
        self._interval = interval_seconds
        self._sleep = sleep
        self._asked = asyncio.Event()

    def wake(self) -> None:
        """Begins a round now, because an erasure was asked for."""
        self._asked.set()

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            self._asked.clear()
            await self.round()
            pause = asyncio.ensure_future(self._sleep(self._interval))
            asked = asyncio.ensure_future(self._asked.wait())
            try:
                await asyncio.wait({pause, asked}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                pause.cancel()
                asked.cancel()

    async def round(self) -> None:
        """Takes every running erasure as far as it goes now."""
        after = ""
        while erasures := await self._store.running_erasures(after, ERASURES_PER_ROUND):
            for erasure in erasures:
                try:
                    await self.erase(erasure)
                except Exception:
                    # One erasure's trouble must not keep the others waiting.
                    log.exception("erasure failed", erasure_id=erasure.erasure_id)
            after = erasures[-1].erasure_id

    async def erase(self, erasure: Erasure) -> Erasure:
        """Takes one erasure as far as it goes now."""
        erasure, waiting = await self._erase_payments(erasure)
        while await self._store.remove_instruments(erasure):
            pass
        if not await self._close_payers(erasure) or waiting:
            return erasure
        ended = replace(erasure, customer_id=TOMBSTONE, end_time=self._clock())
        if not await self._store.end_erasure(erasure, ended, self._record(erasure, ended)):
            return erasure
        log.info("customer erased", erasure_id=erasure.erasure_id, payments=ended.erased_payments)
        return ended

    async def _erase_payments(self, erasure: Erasure) -> tuple[Erasure, int]:
        """Erases what has ended; answers how far it is and how many payments must be waited for."""
        after, waiting = "", 0
        while payments := await self._store.payments_of(
            erasure.merchant_id, erasure.livemode, erasure.customer_id, after, BATCH
        ):
            done = 0
            for payment in payments:
                if is_settled(payment) and await self._erase_payment(payment):
                    done += 1
                else:
                    waiting += 1
            last = payments[-1]
            after = f"{last.create_time.strftime('%Y-%m-%dT%H:%M:%S.%fZ')} {last.payment_id}"
            if done:
                erasure = replace(erasure, erased_payments=erasure.erased_payments + done)
                await self._store.save_erasure(erasure)
        return erasure, waiting

    async def _erase_payment(self, payment: Payment) -> bool:
        """Erases a payment's kept versions, then makes the erased one its present version.

        In this order: the last step is what takes it off the list of what is left to do.
        """
        version = 0
        while version := await self._store.erase_events(payment.payment_id, version):
            pass
        return await self._versions.store(payment, erased(payment)) is not None

    async def _close_payers(self, erasure: Erasure) -> bool:
        customer = await self._store.get(erasure.merchant_id, erasure.livemode, erasure.customer_id)
        if customer is None:
            return True
        closed = await asyncio.gather(
            *(self._close_payer(account, payer) for account, payer in customer.payers.items())
        )
        return all(closed)

    async def _close_payer(self, account: str, payer: str) -> bool:
        vault = self._vaults.get(self._processor_of(account))
        # An account that is gone can't be asked; what its processor knows is its owner's affair.
        return vault is None or await vault.close_payer(account, payer)
