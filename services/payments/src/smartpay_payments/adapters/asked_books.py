"""The books of rails that don't list all charges: each of our own attempts is asked for.

Amazon Pay reports charges only once they are settled, and a chain knows no payments. What we know
nothing of at all is found in their partial lists; see `amazon_pay_reports`, `solana_pay_books`.
"""

from __future__ import annotations

from dataclasses import replace

from smartpay_payments.domain.payment import Attempt, AttemptStatus, Payment
from smartpay_payments.domain.processor import (
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Processor,
    TransferRail,
)
from smartpay_payments.domain.reconciliation import (
    BooksUnreadableError,
    ChargeState,
    ProcessorCharge,
)


async def charge_of(
    processor: Processor, payment: Payment, attempt: Attempt
) -> ProcessorCharge | None:
    """Reads how the processor keeps one attempt; None when it never named a charge.

    Raises:
        BooksUnreadableError: no usable answer.
    """
    if not attempt.processor_payment_id:
        return None
    asked = ProcessorCharge(
        processor_account_id=attempt.processor_account_id,
        processor_payment_id=attempt.processor_payment_id,
        payment_id=payment.payment_id,
        attempt_index=attempt.attempt_index,
        state=ChargeState.OPEN,
        currency_code=payment.order.amount.currency_code,
        create_time=attempt.start_time,
    )
    if isinstance(processor, TransferRail):
        transfers = await processor.transfers(payment, attempt)
        if transfers is None:
            raise BooksUnreadableError(f"{attempt.processor_account_id}: no answer")
        received = sum(transfer.minor_units for transfer in transfers)
        state = (
            ChargeState.CAPTURED
            if received >= payment.order.amount.minor_units and _counts(attempt)
            else ChargeState.OPEN
        )
        return replace(asked, state=state, captured_minor=received, received_minor=received)
    outcome = await processor.look(payment, attempt)
    match outcome:
        case Charged():
            return replace(
                asked,
                state=ChargeState.CAPTURED if outcome.captured_minor else ChargeState.AUTHORIZED,
                authorized_minor=outcome.authorized_minor,
                captured_minor=outcome.captured_minor,
                fee_minor=outcome.fee_minor or None,
            )
        case Canceled() | Declined():
            return replace(asked, state=ChargeState.ENDED)
        case NotKnown() | NotTaken():
            raise BooksUnreadableError(f"{attempt.processor_account_id}: {outcome.why}")
        case _:
            return asked


def _counts(attempt: Attempt) -> bool:
    """Tells whether transfers to an attempt pay: what comes after its end is given back."""
    return attempt.end_time is None or attempt.status is AttemptStatus.SUCCEEDED
