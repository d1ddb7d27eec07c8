"""Reads Amazon Pay's objects: decimal amounts, states, reason codes, and what they mean to us.

States and reason codes: https://developer.amazon.com/docs/amazon-pay-api-v2/charge.html and
https://developer.amazon.com/docs/amazon-pay-api-v2/refund.html.
"""

from __future__ import annotations

import re
from typing import Any

from smartpay_payments.domain.currencies import decimal_text, minor_units_of
from smartpay_payments.domain.declines import is_soft
from smartpay_payments.domain.eligibility import no_eligible_account
from smartpay_payments.domain.payment import Payment, RefundStatus
from smartpay_payments.domain.processor import (
    Canceled,
    Charged,
    Declined,
    NotKnown,
    Outcome,
    Pending,
    RefundOutcome,
)

Json = dict[str, Any]

# https://developer.amazon.com/docs/amazon-pay-checkout/multi-currency-integration.html: what
# Amazon Pay charges in.
CURRENCIES = frozenset(
    {"AUD", "CHF", "DKK", "EUR", "GBP", "HKD", "JPY", "NOK", "NZD", "SEK", "USD", "ZAR"}
)
# What a bank or Amazon says of the buyer; everything else Amazon refuses speaks of the request.
DECLINES = frozenset(
    {
        "AmazonRejected",
        "HardDeclined",
        "MFANotCompleted",
        "PaymentMethodNotAllowed",
        "ProcessingFailure",
        "SoftDeclined",
        "TransactionTimedOut",
    }
)


def snake_case(reason_code: str) -> str:
    """Writes a reason code of Amazon's as ours are written: SoftDeclined is soft_declined."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", reason_code).lower()


def price(minor: int, currency: str) -> dict[str, str]:
    """Writes an amount as Amazon Pay wants it: a decimal text with its currency.

    Raises:
        Refusal: Amazon Pay does not charge in the currency.
    """
    if currency not in CURRENCIES:
        raise no_eligible_account("amount.currency_code")
    return {"amount": decimal_text(minor, currency), "currencyCode": currency}


def minor_units(found: object, currency: str) -> int:
    """Reads an amount in a currency; nothing is zero.

    Raises:
        ValueError: it is no amount, not in this currency, or not a whole number of minor units.
    """
    if found is None:
        return 0
    if not isinstance(found, dict) or found.get("currencyCode") != currency:
        raise ValueError("not an amount in the payment's currency")
    amount = found.get("amount")
    if not isinstance(amount, str) or currency not in CURRENCIES:
        raise ValueError("not a decimal text")
    units = minor_units_of(amount, currency)
    if units < 0:
        raise ValueError("less than nothing")
    return units


def state_of(item: Json) -> str:
    """Reads the state of a session, charge or refund; "" when there is none."""
    return _status(item, "state")


def reason_of(item: Json) -> str:
    """Reads why it is in that state; "" when Amazon does not say."""
    return _status(item, "reasonCode")


def _status(item: Json, name: str) -> str:
    details = item.get("statusDetails")
    found = details.get(name) if isinstance(details, dict) else None
    return found if isinstance(found, str) else ""


def declined(reason_code: str, charge_id: str = "") -> Declined | None:
    """Reads a reason code as a decline; None when it speaks of something else."""
    if reason_code not in DECLINES:
        return None
    code = snake_case(reason_code)
    return Declined(code, is_soft(code), charge_id)


def charge_outcome(payment: Payment, charge: Json) -> Outcome:
    """Reads what a charge's state means for the story."""
    charge_id = charge.get("chargeId")
    if not isinstance(charge_id, str):
        return NotKnown("unreadable_answer")
    metadata = charge.get("merchantMetadata")
    reference = metadata.get("merchantReferenceId") if isinstance(metadata, dict) else None
    if reference not in (None, payment.payment_id):
        return NotKnown("charge_of_another_payment")
    currency = payment.order.amount.currency_code
    try:
        authorized = minor_units(charge.get("chargeAmount"), currency)
        captured = minor_units(charge.get("captureAmount"), currency)
        refunded = minor_units(charge.get("refundedAmount"), currency)
    except ValueError:
        return NotKnown("unreadable_answer", charge_id)
    match state_of(charge):
        case "Captured":
            return Charged(charge_id, authorized, captured, refunded_minor=refunded)
        case "Authorized":
            return Charged(charge_id, authorized, 0)
        case "AuthorizationInitiated":
            return Pending(charge_id, "authorization_pending")
        case "CaptureInitiated":
            return Pending(charge_id, "capture_pending")
        case "Canceled":
            return Canceled(charge_id)
        case "Declined":
            reason = reason_of(charge)
            return declined(reason, charge_id) or Declined("declined", False, charge_id)
        case _:
            return NotKnown("unknown_state", charge_id)


def refund_outcome(refund: Json) -> RefundOutcome:
    """Reads how a refund stands; all refunds at Amazon are asynchronous."""
    refund_id = refund.get("refundId")
    if not isinstance(refund_id, str):
        return RefundOutcome(RefundStatus.UNKNOWN)
    match state_of(refund):
        case "RefundInitiated":
            return RefundOutcome(RefundStatus.PENDING, refund_id)
        case "Refunded":
            return RefundOutcome(RefundStatus.SUCCEEDED, refund_id)
        case "Declined":
            code = snake_case(reason_of(refund)) or "declined"
            return RefundOutcome(RefundStatus.FAILED, refund_id, code)
        case _:
            return RefundOutcome(RefundStatus.UNKNOWN, refund_id)
