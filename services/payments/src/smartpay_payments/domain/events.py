"""Names of what happened to a payment; every stored version is one event."""

from __future__ import annotations

from smartpay_payments.domain.payment import Payment


def event_type(payment: Payment) -> str:
    """Names the change that made this version: of a refund, or of the payment itself."""
    for refund in payment.refunds:
        if refund.update_time == payment.update_time:
            return f"smartpay.refund.{refund.status.value.lower()}.v1"
    return f"smartpay.payment.{payment.status.value.lower()}.v1"
