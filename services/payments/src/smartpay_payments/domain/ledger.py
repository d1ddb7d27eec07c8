"""The double-entry ledger: every movement is a transaction whose legs sum to zero per currency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from smartpay_payments.domain.payment import NOT_PAID, Payment, RefundStatus


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One leg: debit positive, credit negative. (payment, transaction_id, account) is unique."""

    transaction_id: str
    account: str
    minor_units: int
    currency_code: str
    post_time: datetime


def processor_account(processor_account_id: str) -> str:
    """What the processor owes us, per account."""
    return f"processor:{processor_account_id}"


def merchant_account(merchant_id: str) -> str:
    """What we owe the merchant."""
    return f"merchant:{merchant_id}"


def _transaction(
    payment: Payment, transaction_id: str, debit: str, credit: str, minor: int, at: datetime
) -> tuple[LedgerEntry, LedgerEntry]:
    currency = payment.order.amount.currency_code
    return (
        LedgerEntry(transaction_id, debit, minor, currency, at),
        LedgerEntry(transaction_id, credit, -minor, currency, at),
    )


def postings(before: Payment | None, after: Payment, fee_minor: int = 0) -> Sequence[LedgerEntry]:
    """Derives what a change of a payment posts, by comparing its amounts before and after.

    Args:
        before: the payment as stored; None when it is created.
        after: the payment about to be stored.
        fee_minor: what the processor said it keeps of the capture, when it said so.
    """
    entries: list[LedgerEntry] = []
    if not after.attempts:
        return entries
    at = after.update_time
    account = after.last_attempt.processor_account_id
    processor, merchant = processor_account(account), merchant_account(after.merchant_id)
    hold, held = f"hold:{account}", f"held:{after.merchant_id}"

    def open_hold(payment: Payment | None) -> int:
        if payment is None or payment.captured_minor or payment.status in NOT_PAID:
            return 0
        return payment.authorized_minor

    newly_held = open_hold(after) - open_hold(before)
    if newly_held > 0:
        entries += _transaction(after, "authorize", hold, held, newly_held, at)
    elif newly_held < 0:
        entries += _transaction(after, "release", held, hold, -newly_held, at)
    captured = after.captured_minor - (before.captured_minor if before else 0)
    if captured:
        entries += _transaction(after, "capture", processor, merchant, captured, at)
        if fee_minor:
            entries += _transaction(after, "fee", f"fees:{account}", processor, fee_minor, at)
    known = {r.refund_id: r.status for r in before.refunds} if before else {}
    for refund in after.refunds:
        if (
            refund.status is RefundStatus.SUCCEEDED
            and known.get(refund.refund_id) is not refund.status
        ):
            entries += _transaction(
                after,
                f"refund:{refund.refund_id}",
                merchant,
                processor,
                refund.amount.minor_units,
                at,
            )
    return entries
