"""Names of what happened to a payment, merchant or customer; every stored version is one event."""

from __future__ import annotations

from dataclasses import dataclass

from smartpay_payments.domain.customers import ErasedCustomer
from smartpay_payments.domain.merchants import Profile
from smartpay_payments.domain.payment import Payment

MERCHANT_UPDATED = "smartpay.merchant.updated.v1"
CUSTOMER_ERASED = "smartpay.customer.erased.v1"


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One event of the log: its place, from 1, and the payment as it was then."""

    position: int
    payment: Payment


@dataclass(frozen=True, slots=True)
class LoggedChange:
    """A merchant's change in the same log: its place, and the profile as it was then."""

    position: int
    profile: Profile


@dataclass(frozen=True, slots=True)
class LoggedErasure:
    """A customer's erasure in the same log: its place, and who was erased."""

    position: int
    erased: ErasedCustomer


Logged = LoggedEvent | LoggedChange | LoggedErasure
"""Whatever the log holds."""


def event_type(before: Payment | None, after: Payment) -> str:
    """Names the change that made a version: of the payment itself, a dispute or a refund."""
    if before is not None and before.order != after.order:
        # Nothing but an erasure changes what was asked for.
        return "smartpay.payment.erased.v1"
    if before is not None and before.status is not after.status:
        return f"smartpay.payment.{after.status.value.lower()}.v1"
    disputes = before.disputes if before is not None else ()
    for dispute in after.disputes:
        if dispute not in disputes:
            return f"smartpay.dispute.{dispute.status.value.lower()}.v1"
    known = before.refunds if before is not None else ()
    for refund in after.refunds:
        if refund not in known:
            return f"smartpay.refund.{refund.status.value.lower()}.v1"
    return f"smartpay.payment.{after.status.value.lower()}.v1"
