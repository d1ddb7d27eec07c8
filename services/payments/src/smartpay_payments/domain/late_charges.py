"""Late charges: a processor shows money for an attempt that had ended without it.

It can't happen while processors keep their word, and is paid for by somebody when they don't. So
never are two successful charges kept. While nobody else has paid the order, the payment is paid
after all; else the late charge is booked as an overpayment, and given back in full exactly once,
as a transfer is that comes too late.
"""

from __future__ import annotations

from smartpay_chassis.refusals import Refusal
from smartpay_payments.domain.audit import AuditRecord, changes_between, facts_of
from smartpay_payments.domain.outcomes import with_outcome
from smartpay_payments.domain.payment import (
    NOT_PAID,
    Attempt,
    AttemptStatus,
    CaptureMethod,
    Payment,
    Status,
    Transfer,
    replace,
)
from smartpay_payments.domain.processor import Charged
from smartpay_payments.domain.versions import Versions

CHARGED_LATE = "charged_late"
"""Why a payment stands paid that had ended without money."""
CANCELED_BY_MERCHANT = "canceled_by_merchant"
"""Why a payment is canceled that the merchant gave up: they expect no money from it any more."""
RESOLVED_NOT_CHARGED = "resolved_not_charged"
"""Why an attempt is declined that an operator gave up: a person's word, no processor's."""
_ENDED = frozenset({AttemptStatus.DECLINED, AttemptStatus.CANCELED, AttemptStatus.FAILED})


def may_be_charged_late(attempt: Attempt) -> bool:
    """Tells whether a charge of an attempt would be news: it ended without one, none is booked.

    An attempt that a processor refused without naming a charge has none.
    """
    is_known = bool(attempt.processor_payment_id) or attempt.decline_code == RESOLVED_NOT_CHARGED
    return attempt.status in _ENDED and not attempt.transfers and is_known


def takes_up(payment: Payment, captured_minor: int) -> bool:
    """Tells whether a payment that had ended is paid by a late charge, its order permitting."""
    return (
        payment.status in NOT_PAID
        and payment.status_reason != CANCELED_BY_MERCHANT
        and captured_minor == payment.order.amount.minor_units
    )


def gives_back(payment: Payment) -> bool:
    """Tells whether a late charge is too much, whatever its amount."""
    return payment.status is Status.SUCCEEDED or payment.status_reason == CANCELED_BY_MERCHANT


class LateCharges:
    """Looks for late charges, and books what it finds.

    Args:
        versions: stores what becomes of payments.
    """

    def __init__(self, versions: Versions) -> None:
        self._versions = versions

    async def look(self, payment: Payment) -> Payment:
        """Asks about each attempt that ended without money.

        Call it when something points there: a notice, or a break that reconciliation found.
        """
        if payment.status is Status.NEEDS_REVIEW:
            return await self._look_for_reviewer(payment)
        if payment.status not in {Status.SUCCEEDED, Status.FAILED, Status.CANCELED}:
            return payment
        for index in range(len(payment.attempts)):
            # Read anew each time: what was booked for one changes what is right for the next.
            attempt = payment.attempts[index]
            # A rail where payers send by themselves is watched as a matter of course.
            if attempt.processor in self._versions.transfer_rails:
                continue
            if not may_be_charged_late(attempt):
                continue
            outcome = await self._versions.processors[attempt.processor].look(payment, attempt)
            # What somebody gave back at the processor is for a person to make sense of.
            if isinstance(outcome, Charged) and not outcome.refunded_minor:
                payment = await self._book(payment, attempt, outcome)
        return payment

    async def _look_for_reviewer(self, payment: Payment) -> Payment:
        """Spares a person the review when the processor itself shows the money."""
        attempt = payment.last_attempt
        outcome = await self._versions.processors[attempt.processor].look(payment, attempt)
        if not isinstance(outcome, Charged) or not outcome.captured_minor or outcome.refunded_minor:
            return payment
        clock, patience = self._versions.clock, self._versions.patience
        paid = with_outcome(replace(payment, pending=None), attempt, outcome, clock(), patience)
        return await self._store(payment, paid) or await self._versions.winner(payment)

    async def _book(self, payment: Payment, attempt: Attempt, charged: Charged) -> Payment:
        """Takes a late charge for the payment, or gives it back.

        Answers the payment unchanged when the amount is not its own: then a person decides.
        """
        if not charged.captured_minor:
            return await self._book_hold(payment, attempt, charged)
        surplus = gives_back(payment)
        if takes_up(payment, charged.captured_minor):
            try:
                return await self._take_up(payment, attempt, charged)
            except Refusal as refusal:
                if refusal.reason != "ORDER_ALREADY_PAID":
                    raise
                surplus = True
        if not surplus:
            return payment
        late = Transfer(charged.processor_payment_id, charged.captured_minor, payer="")
        booked = payment.with_attempt(
            replace(attempt, processor_payment_id=charged.processor_payment_id, transfers=(late,))
        )
        return await self._store(payment, booked) or await self._versions.winner(payment)

    async def _book_hold(self, payment: Payment, attempt: Attempt, charged: Charged) -> Payment:
        """Lets the merchant capture a late authorization, or gives it up at the processor."""
        fits = (
            payment.order.capture_method is CaptureMethod.MANUAL
            and attempt.attempt_index == payment.last_attempt.attempt_index
            and takes_up(payment, charged.authorized_minor)
        )
        if fits:
            try:
                return await self._take_up(payment, attempt, charged)
            except Refusal as refusal:
                if refusal.reason != "ORDER_ALREADY_PAID":
                    raise
        held = replace(attempt, processor_payment_id=charged.processor_payment_id)
        processor = self._versions.processors[attempt.processor]
        # Nothing was taken, so nothing is booked; a hold that stays is looked at again.
        await processor.cancel(payment, held, f"{attempt.processor_key}-late")
        return payment

    async def _take_up(self, payment: Payment, attempt: Attempt, charged: Charged) -> Payment:
        """Stores the payment as paid after all; raises Refusal ORDER_ALREADY_PAID."""
        clock, patience = self._versions.clock, self._versions.patience
        cleared = replace(attempt, decline_code="", soft_decline=False)
        paid = replace(
            with_outcome(payment, cleared, charged, clock(), patience),
            status_reason=CHARGED_LATE,
        )
        return await self._store(payment, paid) or await self._versions.winner(payment)

    async def _store(self, before: Payment, after: Payment) -> Payment | None:
        return await self._versions.store(before, after, None, self._witness)

    def _witness(self, before: Payment | None, after: Payment) -> AuditRecord:
        """Tells the audit trail what nobody asked for."""
        version = f"{after.version}"
        return AuditRecord(
            audit_id=self._versions.derive_id("aud", after.cell, after.payment_id, version),
            merchant_id=after.merchant_id,
            livemode=after.livemode,
            time=after.update_time,
            actor="system:recovery",
            action="late_charge",
            subject_id=after.payment_id,
            request_id="",
            changes=changes_between(facts_of(before), facts_of(after)),
        )
