"""Payouts of one Stripe account: its balance goes to the bank, and arrives some time later.

Rules: docs.stripe.com/api/payouts. Only payouts that are asked for; the automatic daily ones of a
live account look the same.
"""

from __future__ import annotations

from smartpay_sandbox import stripe_objects as objects
from smartpay_sandbox.stripe_account import Answer, StripeAccount, check_metadata
from smartpay_sandbox.stripe_amounts import check_currency, check_positive
from smartpay_sandbox.stripe_objects import Json, new_id
from smartpay_sandbox.stripe_refusals import invalid

ARRIVES_AFTER_SECONDS = 2 * 24 * 3600
"""Two days, the usual time of a standard payout."""
RETURNED_BY = "ba_account_closed"
"""A bank account of the sandbox's own that sends every payout back."""


def create_payout(account: StripeAccount, params: Json) -> Answer:
    """Send a part of the balance to the bank."""
    check_metadata(params)
    made = _payout(params, account.clock())
    held = sum(
        item["net"]
        for item in account.every("balance_transaction")
        if item["currency"] == made["currency"]
    )
    if made["amount"] > held:
        raise invalid(
            "You have insufficient funds in your Stripe account for this transfer.",
            "balance_insufficient",
            "amount",
        )
    moved = objects.balance_transaction(made, "payout", -made["amount"], account.clock())
    account.put(moved)
    return Answer(200, account.put(made, balance_transaction=moved["id"]))


def retrieve_payout(account: StripeAccount, payout_id: str) -> Answer:
    """Read a payout, which arrives by itself when its day has come."""
    made = account.find("payout", payout_id, "payout")
    if made["status"] != "in_transit" or account.clock() < made["arrival_date"]:
        return Answer(200, made)
    if made["destination"] != RETURNED_BY:
        return Answer(200, account.put(made, status="paid"))
    back = objects.balance_transaction(made, "payout_failure", made["amount"], account.clock())
    account.put(back)
    returned = account.put(
        made,
        status="failed",
        failure_balance_transaction=back["id"],
        failure_code="account_closed",
        failure_message="The bank account has been closed.",
    )
    return Answer(200, returned)


def _payout(params: Json, created: int) -> Json:
    return {
        "id": new_id("po"),
        "object": "payout",
        "amount": check_positive(params["amount"], "amount"),
        "application_fee": None,
        "application_fee_amount": None,
        "arrival_date": created + ARRIVES_AFTER_SECONDS,
        "automatic": False,
        "balance_transaction": None,
        "created": created,
        "currency": check_currency(params["currency"]),
        "description": params.get("description"),
        "destination": params.get("destination", "ba_standard"),
        "failure_balance_transaction": None,
        "failure_code": None,
        "failure_message": None,
        "livemode": False,
        "metadata": params.get("metadata", {}),
        "method": "standard",
        "original_payout": None,
        "payout_method": None,
        "reconciliation_status": "not_applicable",
        "reversed_by": None,
        "source_type": "card",
        "statement_descriptor": params.get("statement_descriptor"),
        "status": "in_transit",
        "trace_id": None,
        "type": "bank_account",
    }
