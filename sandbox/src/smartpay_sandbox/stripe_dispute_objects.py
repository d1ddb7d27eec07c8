"""A dispute of a charge as it looks on the wire, and the money it moves."""

from __future__ import annotations

from smartpay_sandbox.stripe_objects import Json, balance_transaction, new_id

FEE = 1500
"""What Stripe charges for a dispute in the United States, in cents; used for every currency."""
EVIDENCE_SECONDS = 9 * 24 * 3600
"""How long evidence is taken; networks give one to three weeks."""
_EVIDENCE = (
    "access_activity_log",
    "appeal",
    "billing_address",
    "cancellation_policy",
    "cancellation_policy_disclosure",
    "cancellation_rebuttal",
    "customer_communication",
    "customer_email_address",
    "customer_name",
    "customer_purchase_ip",
    "customer_signature",
    "duplicate_charge_documentation",
    "duplicate_charge_explanation",
    "duplicate_charge_id",
    "product_description",
    "receipt",
    "refund_policy",
    "refund_policy_disclosure",
    "refund_refusal_explanation",
    "service_date",
    "service_documentation",
    "shipping_address",
    "shipping_carrier",
    "shipping_date",
    "shipping_documentation",
    "shipping_tracking_number",
    "uncategorized_file",
    "uncategorized_text",
)


def dispute(charge: Json, reason: str, amount: int, created: int) -> Json:
    """Build a dispute that was just opened and waits for evidence."""
    return {
        "id": new_id("dp"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge["id"],
        "created": created,
        "currency": charge["currency"],
        "enhanced_eligibility_types": [],
        "evidence": {**dict.fromkeys(_EVIDENCE), "enhanced_evidence": {}},
        "evidence_details": {
            "due_by": created + EVIDENCE_SECONDS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
            "submission_method": "not_submitted",
        },
        "intended_submission_method": None,
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "network_reason_code": "10.4",
        "payment_intent": charge["payment_intent"],
        "payment_method_details": {
            "card": {
                "brand": charge["payment_method_details"]["card"]["brand"],
                "case_type": "chargeback",
                "network": charge["payment_method_details"]["card"]["brand"],
                "network_reason_code": "10.4",
            },
            "type": "card",
        },
        "reason": reason,
        "status": "needs_response",
    }


def moved(disputed: Json, amount: int, created: int) -> Json:
    """Build what a dispute takes (with its fee) or, won, gives back."""
    fee = FEE if amount < 0 else 0
    details = {
        "amount": fee,
        "application": None,
        "currency": disputed["currency"],
        "description": "Dispute fee",
        "type": "stripe_fee",
    }
    return {
        **balance_transaction(disputed, "adjustment", amount, created),
        "fee": fee,
        "fee_details": [details] if fee else [],
        "net": amount - fee,
        "reporting_category": "dispute" if amount < 0 else "dispute_reversal",
    }
