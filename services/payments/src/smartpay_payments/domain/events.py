"""Names of what happened to a payment; every stored version is one event."""

from __future__ import annotations

from dataclasses import dataclass

from smartpay_payments.domain.payment import Payment


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event of the log: its place, from 1, and the payment as it was then."""

    position: int
    payment: Payment


def event_type(before: Payment | None, after: Payment) -> str:
    """Names the change that made a version: of a refund, or of the payment itself."""
    known = before.refunds if before is not None else ()
    for refund in after.refunds:
        if refund not in known:
            return f"smartpay.refund.{refund.status.value.lower()}.v1"
    return f"smartpay.payment.{after.status.value.lower()}.v1"
