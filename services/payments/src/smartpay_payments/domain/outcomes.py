"""What a processor's word makes of a payment. Pure: nothing here calls or stores anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from smartpay_payments.domain.patience import Patience
from smartpay_payments.domain.payment import (
    OPEN_REFUNDS,
    Attempt,
    AttemptStatus,
    Money,
    Payment,
    Refund,
    RefundReason,
    RefundStatus,
    Transfer,
    replace,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Outcome,
    Pending,
    RefundOutcome,
)
from smartpay_payments.domain.transitions import Happening, apply


def with_outcome(
    payment: Payment, attempt: Attempt, outcome: Outcome, now: datetime, patience: Patience
) -> Payment:
    """Answers the payment after what a processor said of one of its attempts.

    Args:
        payment: as stored.
        attempt: the attempt that was asked about.
        outcome: what the processor said.
        now: the time.
        patience: recovery's schedule.
    """
    match outcome:
        case Charged():
            ended = replace(
                attempt,
                status=AttemptStatus.SUCCEEDED,
                processor_payment_id=outcome.processor_payment_id,
                transfers=_united(attempt.transfers, outcome.transfers),
                end_time=now,
            )
            changed = replace(
                payment,
                attempts=payment.attempts_with(ended),
                authorized_minor=max(outcome.authorized_minor, payment.authorized_minor),
                captured_minor=outcome.captured_minor,
                fee_minor=outcome.fee_minor or payment.fee_minor,
            )
            captured = outcome.captured_minor > 0
            return apply(changed, Happening.CAPTURED if captured else Happening.AUTHORIZED)
        case ActionRequired():
            waiting = replace(
                attempt,
                status=AttemptStatus.REQUIRES_ACTION,
                processor_payment_id=outcome.processor_payment_id,
                transfers=_united(attempt.transfers, outcome.transfers),
            )
            expires = now + timedelta(seconds=patience.action_seconds)
            return replace(
                apply(payment.with_attempt(waiting), Happening.ASKED_TO_ACT),
                next_action=outcome.action,
                action_expire_time=payment.action_expire_time or expires,
            )
        case Pending():
            working = replace(
                attempt,
                status=AttemptStatus.STARTED,
                processor_payment_id=outcome.processor_payment_id,
            )
            return replace(
                apply(payment.with_attempt(working), Happening.WORKING, outcome.why),
                checks=0,
                retry_time=now + timedelta(seconds=patience.action_poll_seconds),
            )
        case Declined():
            return apply(
                payment.with_attempt(declined(attempt, outcome, now)),
                Happening.DECLINED,
                outcome.code,
            )
        case Canceled():
            return apply(payment.with_attempt(fenced(attempt, outcome, now)), Happening.CANCELED)
        case NotKnown():
            unknown = replace(
                attempt,
                status=AttemptStatus.UNKNOWN,
                processor_payment_id=outcome.processor_payment_id or attempt.processor_payment_id,
            )
            return looked_in_vain(payment.with_attempt(unknown), outcome.why, now, patience)
        case NotTaken():
            return looked_in_vain(payment, outcome.why, now, patience)


def declined(attempt: Attempt, outcome: Declined, now: datetime) -> Attempt:
    """Answers an attempt that was refused."""
    return replace(
        attempt,
        status=AttemptStatus.DECLINED,
        decline_code=outcome.code,
        soft_decline=outcome.soft,
        processor_payment_id=outcome.processor_payment_id or attempt.processor_payment_id,
        end_time=now,
    )


def fenced(attempt: Attempt, outcome: Canceled, now: datetime) -> Attempt:
    """Answers an attempt that can never succeed any more."""
    return replace(
        attempt,
        status=AttemptStatus.CANCELED,
        processor_payment_id=outcome.processor_payment_id or attempt.processor_payment_id,
        transfers=_united(attempt.transfers, outcome.transfers),
        end_time=now,
    )


def looked_in_vain(payment: Payment, why: str, now: datetime, patience: Patience) -> Payment:
    """Answers the payment after a question that nobody answered."""
    pending = payment.pending
    since = payment.last_attempt.start_time if pending is None else pending.start_time
    pause = patience.pause(payment.checks, since, now)
    if pause is None:
        return apply(payment, Happening.GAVE_UP, why)
    unknown = apply(payment, Happening.SILENT, why)
    return replace(unknown, checks=payment.checks + 1, retry_time=now + pause)


def refund_after(
    refund: Refund, outcome: RefundOutcome, now: datetime, patience: Patience
) -> Refund:
    """Answers a refund after what the processor said of it."""
    changed = replace(
        refund,
        status=outcome.status,
        processor_refund_id=outcome.processor_refund_id or refund.processor_refund_id,
        failure_code=outcome.failure_code,
        update_time=now,
        check_time=None,
    )
    if outcome.status not in OPEN_REFUNDS:
        return changed
    pause = patience.pause(refund.checks, refund.create_time, now)
    if pause is None and outcome.status is RefundStatus.UNKNOWN:
        return replace(changed, status=RefundStatus.NEEDS_REVIEW)
    if pause is None:
        # Pending is no riddle: a bank may take days.
        pause = timedelta(seconds=patience.schedule_seconds[-1])
    return replace(changed, checks=refund.checks + 1, check_time=now + pause)


# ---- rails where the payer sends the money ---------------------------------------------------


def with_transfers(payment: Payment, attempt: Attempt, transfers: Sequence[Transfer]) -> Payment:
    """Answers the payment with everything booked that came in to an attempt."""
    return payment.with_attempt(
        replace(attempt, transfers=_united(attempt.transfers, tuple(transfers)))
    )


def with_overpayments_refunded(
    payment: Payment,
    now: datetime,
    refund_id_of: Callable[[Transfer], str],
    dust_minor: int,
) -> Payment:
    """Adds a refund for each transfer, or part of one, that exceeds what is captured.

    While a payment still waits for the payer its transfers are part of it, not too much.

    Args:
        payment: with all transfers booked.
        now: the time.
        refund_id_of: derives the id of a transfer's refund, so that it is made once.
        dust_minor: up to this amount a refund would cost more than it gives back.
    """
    refunded = {r.transfer_id for r in payment.refunds}
    currency = payment.order.amount.currency_code
    for attempt in payment.attempts:
        if attempt.end_time is None:
            continue
        kept = payment.captured_minor if attempt.status is AttemptStatus.SUCCEEDED else 0
        for transfer in attempt.transfers:
            surplus = max(0, transfer.minor_units - kept)
            kept = max(0, kept - transfer.minor_units)
            if surplus <= dust_minor or transfer.transfer_id in refunded:
                continue
            payment = payment.with_refund(
                Refund(
                    refund_id=refund_id_of(transfer),
                    amount=Money(surplus, currency),
                    reason=RefundReason.OVERPAYMENT,
                    status=RefundStatus.PENDING,
                    create_time=now,
                    update_time=now,
                    check_time=now,
                    attempt_index=attempt.attempt_index,
                    transfer_id=transfer.transfer_id,
                )
            )
    return payment


def _united(booked: tuple[Transfer, ...], seen: tuple[Transfer, ...]) -> tuple[Transfer, ...]:
    """Joins transfers by id in the order in which they were seen; what is booked stays."""
    known = {t.transfer_id for t in booked}
    return (*booked, *(t for t in seen if t.transfer_id not in known))
