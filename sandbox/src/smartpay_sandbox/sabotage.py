"""The payments service with one promise broken, to prove that the judge would notice.

Each is what somebody might well have written. `crash_points.prepare` breaks one of them in a forked
process; nothing in the service's own code knows of it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from smartpay_payments.adapters.amazon_pay_processor import AmazonPayProcessor
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.payment import Attempt, AttemptStatus, Payment
from smartpay_payments.domain.processor import Declined, NotKnown, Outcome
from smartpay_payments.recovery import Recovery


@dataclass(frozen=True)
class Promise:
    """One promise, how it is broken, and what the judge then says.

    Attributes:
        break_it: breaks it in this process.
        crime: the judge's word for it.
    """

    break_it: Callable[[], None]
    crime: str


def _new_key_per_retry() -> None:
    """Breaks: a repeated charge is the same charge."""
    for processor in (StripeProcessor, AmazonPayProcessor):
        processor.charge = _under_fresh_keys(processor.charge)  # type: ignore[method-assign]


def _under_fresh_keys(charge: Callable[..., Awaitable[Outcome]]) -> Callable[..., Any]:
    async def charge_anew(self: object, payment: Payment, attempt: Attempt) -> Outcome:
        fresh = f"{attempt.processor_key[:20]}-{secrets.token_hex(4)}"
        return await charge(self, payment, replace(attempt, processor_key=fresh))

    return charge_anew


def _cascade_after_timeout() -> None:
    """Breaks: silence is no decline."""
    charge = StripeProcessor.charge

    async def charge_impatiently(
        self: StripeProcessor, payment: Payment, attempt: Attempt
    ) -> Outcome:
        outcome = await charge(self, payment, attempt)
        return Declined("timed_out", soft=True) if isinstance(outcome, NotKnown) else outcome

    StripeProcessor.charge = charge_impatiently  # type: ignore[method-assign]


def _no_attempt_stored() -> None:
    """Breaks: what is about to be sent is durable first (C1)."""
    create, save = SqlitePayments.create, SqlitePayments.save
    unwritten: dict[str, tuple[Any, ...]] = {}

    async def remember(self: SqlitePayments, payment: Payment, *rest: Any) -> Payment | None:  # noqa: ANN401
        unwritten[payment.payment_id] = (payment, *rest)
        return None

    async def write_late(self: SqlitePayments, payment: Payment, *rest: Any) -> bool:  # noqa: ANN401
        held = unwritten.pop(payment.payment_id, None)
        if held is not None:
            await create(self, *held)
        return await save(self, payment, *rest)

    SqlitePayments.create = remember  # type: ignore[assignment, method-assign]
    SqlitePayments.save = write_late  # type: ignore[assignment, method-assign]


def _stored_error_is_failure() -> None:
    """Breaks: a server error that is replayed out of a key's memory says nothing of the charge."""

    async def fail(self: StripeProcessor, payment: Payment, attempt: Attempt) -> Outcome:
        return Declined("processing_error", soft=False)

    StripeProcessor._search = fail  # type: ignore[method-assign]


def _list_then_cascade() -> None:
    """Breaks: what a list does not show yet may still come to be."""
    charge = StripeProcessor.charge

    async def look_instead(self: StripeProcessor, payment: Payment, attempt: Attempt) -> Outcome:
        if attempt.status is AttemptStatus.UNKNOWN:
            return await self._search(payment, attempt)
        return await charge(self, payment, attempt)

    StripeProcessor.charge = look_instead  # type: ignore[method-assign]


def _no_recovery() -> None:
    """Breaks: what nobody asks about again is taken up nevertheless."""

    async def sleep(self: Recovery) -> None:
        await asyncio.Event().wait()

    Recovery.run = sleep  # type: ignore[method-assign]


PROMISES = {
    "new-key-per-retry": Promise(_new_key_per_retry, "double charge"),
    "cascade-after-timeout": Promise(_cascade_after_timeout, "double charge"),
    "no-attempt-stored": Promise(_no_attempt_stored, "lost charge"),
    "stored-error-is-failure": Promise(_stored_error_is_failure, "lost charge"),
    "list-then-cascade": Promise(_list_then_cascade, "double charge"),
    "no-recovery": Promise(_no_recovery, "stuck"),
}
"""The promises by name."""
