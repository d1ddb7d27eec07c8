"""The audit trail: who changed what. Secrets and personal data never enter a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from smartpay_payments.domain.payment import Payment

# A note or an id of a processor; longer values are cut, so that a record stays small.
VALUE_LETTERS_MAX = 200


@dataclass(frozen=True, slots=True)
class Change:
    """One field's value before and after; "" where there is none."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change of one thing, and who made it."""

    audit_id: str
    """Ours: aud_, the cell, 24 characters."""
    merchant_id: str
    livemode: bool
    time: datetime
    actor: str
    """Subject of the token, "service:<name>" or "system:<work>"."""
    action: str
    """Service and method without the package, or the name of our own work."""
    subject_id: str
    request_id: str
    changes: tuple[Change, ...]


Witness = Callable[[Payment | None, Payment], AuditRecord]
"""Who asked for a change: makes its record of a payment before and after."""


def facts_of(payment: Payment | None) -> dict[str, object]:
    """Answers what a record tells of a payment; nothing of one that is yet to be."""
    if payment is None:
        return {}
    return {
        "status": payment.status.value,
        "status_reason": payment.status_reason,
        "amount": f"{payment.order.amount.minor_units} {payment.order.amount.currency_code}",
        "authorized": payment.authorized_minor,
        "captured": payment.captured_minor,
        "refunded": payment.refunded_minor,
        "disputed": payment.disputed_minor,
        **{r.refund_id: f"{r.status.value} {r.amount.minor_units}" for r in payment.refunds},
        **{d.dispute_id: f"{d.status.value} {d.amount_minor}" for d in payment.disputes},
    }


def changes_between(
    before: Mapping[str, object], after: Mapping[str, object]
) -> tuple[Change, ...]:
    """Lists the facts that differ, by name. Give it only what anybody of the merchant may read.

    Args:
        before: facts by field; empty for a new thing.
        after: facts by field; empty for one that is gone.
    """
    return tuple(
        Change(name, _text(before.get(name)), _text(after.get(name)))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)[:VALUE_LETTERS_MAX]
