"""Stripe's objects as they look on the wire, unexpanded; every field that Stripe always sends."""

from __future__ import annotations

import uuid
from typing import Any

from smartpay_sandbox.stripe_amounts import fee_of
from smartpay_sandbox.stripe_cards import Decline, TestCard
from smartpay_sandbox.stripe_refusals import error

Json = dict[str, Any]

CARD_EXPIRY = (12, 2034)
"""Month and year on every test card; far enough ahead to outlive this project's tests."""
PAYOUT_DELAY_SECONDS = 2 * 24 * 3600
"""A charge becomes available two days later, Stripe's standard in the United States."""


def new_id(prefix: str) -> str:
    """Make an id as Stripe's look: a prefix and 24 characters."""
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def _no_address() -> Json:
    return dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


def _billing(given: Json | None) -> Json:
    given = given or {}
    found: Json = {name: given.get(name) for name in ("email", "name", "phone", "tax_id")}
    return {"address": _no_address() | (given.get("address") or {}), **found}


def payment_method(card: TestCard, created: int, params: Json) -> Json:
    """Build a card PaymentMethod."""
    month, year = CARD_EXPIRY
    return {
        "id": new_id("pm"),
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": _billing(params.get("billing_details")),
        "card": {
            "brand": card.brand,
            "checks": {
                "address_line1_check": None,
                "address_postal_code_check": None,
                "cvc_check": "unchecked",
            },
            "country": card.country,
            "display_brand": _display_brand(card),
            "exp_month": month,
            "exp_year": year,
            "fingerprint": card.fingerprint,
            "funding": card.funding,
            "generated_from": None,
            "last4": card.last4,
            "networks": {"available": [card.brand], "preferred": None},
            "regulated_status": "unregulated",
            "three_d_secure_usage": {"supported": True},
            "wallet": None,
        },
        "created": created,
        "customer": None,
        "customer_account": None,
        "livemode": False,
        "metadata": params.get("metadata", {}),
        "type": "card",
    }


def _display_brand(card: TestCard) -> str:
    return {"amex": "american_express", "diners": "diners_club", "unionpay": "union_pay"}.get(
        card.brand, card.brand
    )


def customer(created: int, params: Json) -> Json:
    """Build a customer."""
    return {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": created,
        "currency": None,
        "customer_account": None,
        "default_source": None,
        "delinquent": False,
        "description": params.get("description"),
        "discount": None,
        "email": params.get("email"),
        "invoice_prefix": uuid.uuid4().hex[:8].upper(),
        "invoice_settings": dict.fromkeys(
            ("custom_fields", "default_payment_method", "footer", "rendering_options")
        ),
        "livemode": False,
        "metadata": params.get("metadata", {}),
        "name": params.get("name"),
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }


def setup_intent(created: int, method: Json | None, params: Json) -> Json:
    """Build an unconfirmed SetupIntent from read create parameters."""
    intent_id = new_id("seti")
    automatic = params.get("automatic_payment_methods")
    if automatic is None or automatic["enabled"]:
        automatic = {"allow_redirects": "always", "enabled": True, **(automatic or {})}
    return {
        "id": intent_id,
        "object": "setup_intent",
        "allowed_payment_method_types": params.get("allowed_payment_method_types"),
        "application": None,
        "automatic_payment_methods": automatic,
        "cancellation_reason": None,
        "client_secret": f"{intent_id}_secret_{uuid.uuid4().hex[:25]}",
        "created": created,
        "customer": params.get("customer"),
        "customer_account": None,
        "description": params.get("description"),
        "excluded_payment_method_types": None,
        "flow_directions": None,
        "last_setup_error": None,
        "latest_attempt": None,
        "livemode": False,
        "mandate": None,
        "metadata": params.get("metadata", {}),
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None if method is None else method["id"],
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "single_use_mandate": None,
        "status": "requires_payment_method" if method is None else "requires_confirmation",
        "usage": params.get("usage", "off_session"),
    }


def redirect(url: str, return_url: str | None) -> Json:
    """Build what a payer must do for 3-D Secure."""
    if return_url is None:  # without a way back Stripe leaves the redirect to its own SDKs
        sdk = {"type": "three_d_secure_redirect", "stripe_js": url}
        return {"type": "use_stripe_sdk", "use_stripe_sdk": sdk}
    return {
        "type": "redirect_to_url",
        "redirect_to_url": {"return_url": return_url, "url": url},
    }


def payment_intent(created: int, currency: str, params: Json) -> Json:
    """Build an unconfirmed PaymentIntent from read create parameters."""
    intent_id = new_id("pi")
    automatic = params.get("automatic_payment_methods")
    if automatic is None or automatic["enabled"]:  # enabled is the default since 2023-08-16
        automatic = {"allow_redirects": "always", "enabled": True, **(automatic or {})}
    return {
        "id": intent_id,
        "object": "payment_intent",
        "allowed_payment_method_types": params.get("allowed_payment_method_types"),
        "amount": params["amount"],
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": automatic,
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": params.get("capture_method", "automatic_async"),
        "client_secret": f"{intent_id}_secret_{uuid.uuid4().hex[:25]}",
        "confirmation_method": "automatic",
        "created": created,
        "currency": currency,
        "customer": params.get("customer"),
        "customer_account": None,
        "description": params.get("description"),
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "metadata": params.get("metadata", {}),
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": None,
        "payment_method_configuration_details": None,
        "payment_method_options": {
            "card": {
                "installments": None,
                "mandate_options": None,
                "network": None,
                "request_three_d_secure": "automatic",
            }
        },
        "payment_method_types": ["card"],
        "processing": None,
        "receipt_email": params.get("receipt_email"),
        "review": None,
        "setup_future_usage": params.get("setup_future_usage"),
        "shipping": params.get("shipping"),
        "source": None,
        "statement_descriptor": params.get("statement_descriptor"),
        "statement_descriptor_suffix": params.get("statement_descriptor_suffix"),
        "status": "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
    }


def charge(
    intent: Json, method: Json, created: int, decline: Decline | None, authenticated: bool
) -> Json:
    """Build one Charge: an authorisation not yet captured, or a failed try."""
    card = method["card"]
    return {
        "id": new_id("ch"),
        "object": "charge",
        "amount": intent["amount"],
        "amount_captured": 0,
        "amount_refunded": 0,
        "application": None,
        "application_fee": None,
        "application_fee_amount": None,
        "balance_transaction": None,
        "billing_details": method["billing_details"],
        "calculated_statement_descriptor": _descriptor(intent),
        "captured": False,
        "created": created,
        "currency": intent["currency"],
        "customer": intent["customer"],
        "description": intent["description"],
        "disputed": False,
        "failure_balance_transaction": None,
        "failure_code": decline.code if decline else None,
        "failure_message": decline.message if decline else None,
        "fraud_details": {},
        "livemode": False,
        "metadata": intent["metadata"],
        "on_behalf_of": None,
        "outcome": _outcome(decline),
        "paid": decline is None,
        "payment_intent": intent["id"],
        "payment_method": method["id"],
        "payment_method_details": {
            "card": {
                "amount_authorized": None if decline else intent["amount"],
                "authorization_code": None if decline else uuid.uuid4().hex[:6].upper(),
                "brand": card["brand"],
                "checks": card["checks"],
                "country": card["country"],
                "exp_month": card["exp_month"],
                "exp_year": card["exp_year"],
                "extended_authorization": {"status": "disabled"},
                "fingerprint": card["fingerprint"],
                "funding": card["funding"],
                "incremental_authorization": {"status": "unavailable"},
                "installments": None,
                "last4": card["last4"],
                "mandate": None,
                "multicapture": {"status": "unavailable"},
                "network": card["brand"],
                "network_token": {"used": False},
                "network_transaction_id": None if decline else str(uuid.uuid4().int)[:15],
                "overcapture": {
                    "maximum_amount_capturable": intent["amount"],
                    "status": "unavailable",
                },
                "regulated_status": card["regulated_status"],
                "three_d_secure": _three_d_secure() if authenticated else None,
                "wallet": None,
            },
            "type": "card",
        },
        "radar_options": {},
        "receipt_email": intent["receipt_email"],
        "receipt_number": None,
        "receipt_url": None,
        "refunded": False,
        "review": None,
        "shipping": intent["shipping"],
        "source": None,
        "source_transfer": None,
        "statement_descriptor": intent["statement_descriptor"],
        "statement_descriptor_suffix": intent["statement_descriptor_suffix"],
        "status": "failed" if decline else "succeeded",
        "transfer_data": None,
        "transfer_group": None,
    }


def _descriptor(intent: Json) -> str:
    suffix = intent["statement_descriptor_suffix"]
    return f"SANDBOX* {suffix}"[:22] if suffix else "SANDBOX"


def _three_d_secure() -> Json:
    return {
        "authentication_flow": "challenge",
        "electronic_commerce_indicator": "05",
        "exemption_indicator": None,
        "result": "authenticated",
        "result_reason": None,
        "transaction_id": str(uuid.uuid4()),
        "version": "2.2.0",
    }


def _outcome(decline: Decline | None) -> Json:
    if decline is None:
        return {
            "advice_code": None,
            "network_advice_code": None,
            "network_decline_code": None,
            "network_status": "approved_by_network",
            "reason": None,
            "risk_level": "normal",
            "seller_message": "Payment complete.",
            "type": "authorized",
        }
    return {
        "advice_code": decline.advice_code,
        "network_advice_code": None,
        "network_decline_code": decline.network_decline_code,
        "network_status": "not_sent_to_network" if decline.blocked else "declined_by_network",
        "reason": "highest_risk_level" if decline.blocked else decline.decline_code or decline.code,
        "risk_level": "highest" if decline.blocked else "normal",
        "seller_message": "The sandbox declined this test card as its name asks.",
        "type": "blocked" if decline.blocked else "issuer_declined",
    }


def decline_error(decline: Decline, charge_id: str, method: Json) -> Json:
    """Build the `last_payment_error` of a declined charge; the 402 adds the intent to it."""
    return error(
        "card_error",
        decline.message,
        decline.code,
        advice_code=decline.advice_code,
        charge=charge_id,
        decline_code=decline.decline_code,
        network_decline_code=decline.network_decline_code,
        payment_method=method,
    )


def authentication_error(method: Json) -> Json:
    """Build the `last_payment_error` of a payer who failed 3-D Secure."""
    return error(
        "invalid_request_error",
        "The provided PaymentMethod has failed authentication. "
        "Use a new PaymentMethod to attempt this PaymentIntent again.",
        "payment_intent_authentication_failure",
        payment_method=method,
    )


def setup_authentication_error(method: Json) -> Json:
    """Build the `last_setup_error` of a payer who failed 3-D Secure."""
    return error(
        "invalid_request_error",
        "The latest attempt to set up the payment method has failed because authentication failed.",
        "setup_intent_authentication_failure",
        payment_method=method,
    )


def refund(charge: Json, amount: int, created: int, params: Json) -> Json:
    """Build a Refund that has succeeded, as refunds of test cards do at once."""
    return {
        "id": new_id("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": None,
        "charge": charge["id"],
        "created": created,
        "currency": charge["currency"],
        "destination_details": {
            "card": {
                "reference_status": "pending",
                "reference_type": "acquirer_reference_number",
                "type": "refund",
            },
            "type": "card",
        },
        "metadata": params.get("metadata", {}),
        "payment_intent": charge["payment_intent"],
        "reason": params.get("reason"),
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "succeeded",
        "transfer_reversal": None,
    }


def balance_transaction(source: Json, kind: str, amount: int, created: int) -> Json:
    """Build the movement of money behind a capture (`charge`, with its fee) or a `refund`."""
    fee = fee_of(amount) if kind == "charge" else 0
    details = {
        "amount": fee,
        "application": None,
        "currency": source["currency"],
        "description": "Stripe processing fees",
        "type": "stripe_fee",
    }
    return {
        "id": new_id("txn"),
        "object": "balance_transaction",
        "amount": amount,
        "available_on": created + PAYOUT_DELAY_SECONDS,
        "balance_type": "payments",
        "created": created,
        "currency": source["currency"],
        "description": source.get("description"),
        "exchange_rate": None,
        "fee": fee,
        "fee_details": [details] if fee else [],
        "net": amount - fee,
        "reporting_category": kind,
        "source": source["id"],
        "status": "pending",
        "type": kind,
    }
