"""Stripe's customers, and how a card is saved for them: attached, or set up by a SetupIntent.

Rules: docs.stripe.com/payments/save-and-reuse and docs.stripe.com/testing. A card that declines
can't be attached, but for the one whose charges alone decline; a card that asks for 3-D Secure
unless it was set up is set up by the payer's passing it once.
"""

from __future__ import annotations

from smartpay_sandbox import stripe_objects as objects
from smartpay_sandbox.stripe_account import Answer, StripeAccount, check_metadata
from smartpay_sandbox.stripe_cards import CARD_BY_FINGERPRINT, NO_AUTHENTICATION, Decline, TestCard
from smartpay_sandbox.stripe_objects import Json
from smartpay_sandbox.stripe_refusals import invalid, missing

ATTACHES_AND_DECLINES = "0341"
"""Last digits of the card that can be attached, and whose charges decline."""


def create_customer(account: StripeAccount, params: Json) -> Answer:
    """Create a customer."""
    check_metadata(params)
    return Answer(200, account.put(objects.customer(account.clock(), params)))


def retrieve_customer(account: StripeAccount, customer_id: str) -> Answer:
    """Read a customer."""
    found = account.find("customer", customer_id)
    if found.get("deleted"):
        raise invalid("The sandbox does not simulate reading a deleted customer.")
    return Answer(200, found)


def delete_customer(account: StripeAccount, customer_id: str) -> Answer:
    """Delete a customer for good and detach its cards."""
    customer = _customer(account, customer_id, "id", 404)
    for method in account.every("payment_method"):
        if method["customer"] == customer_id:
            account.put(method, customer=None)
    personal = dict.fromkeys(("email", "name", "description", "phone"))
    account.put(customer, **personal, metadata={}, deleted=True)
    return Answer(200, _tombstone(customer))


def _tombstone(customer: Json) -> Json:
    return {"id": customer["id"], "object": "customer", "deleted": True}


def _customer(account: StripeAccount, customer_id: str, param: str, status: int) -> Json:
    found = account.find("customer", customer_id, param, status)
    if found.get("deleted"):
        raise missing("customer", customer_id, param, status)
    return found


def attach(account: StripeAccount, method_id: str, params: Json) -> Answer:
    """Tie a card to a customer."""
    customer = _customer(account, params["customer"], "customer", 400)
    method = account.method(method_id)
    return _attached(account, method, customer["id"])


def check_customer(params: Json) -> None:
    """Demand a customer to attach to; the other kind of account is not simulated.

    Raises:
        StripeRefusalError: 400 naming the parameter.
    """
    if "customer" not in params:
        raise invalid("Missing required param: customer.", "parameter_missing", "customer")


def _attached(account: StripeAccount, method: Json, customer_id: str) -> Answer:
    if method["customer"] not in (None, customer_id):
        raise invalid(
            "The payment method you provided has already been attached to a customer.",
            "payment_method_already_attached",
        )
    card = _card(method)
    if card.decline is not None and card.last4 != ATTACHES_AND_DECLINES:
        return Answer(402, {"error": _declined(card.decline, method)})
    return Answer(200, account.put(method, customer=customer_id))


def detach(account: StripeAccount, method_id: str) -> Answer:
    """Untie a card from its customer."""
    method = account.find("payment_method", method_id, "payment_method")
    if method["customer"] is None:
        raise invalid(
            "The payment method you provided is not attached to a customer so detachment is "
            "impossible."
        )
    return Answer(200, account.put(method, customer=None))


def create_setup(account: StripeAccount, params: Json, authenticate_url: str) -> Answer:
    """Create a SetupIntent, and confirm it when asked to."""
    check_metadata(params)
    if "customer" in params:
        _customer(account, params["customer"], "customer", 400)
    method = account.method(params["payment_method"]) if "payment_method" in params else None
    intent = account.put(objects.setup_intent(account.clock(), method, params))
    if not params.get("confirm", False):
        return Answer(200, intent)
    if method is None:
        raise invalid(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            "setup_intent_unexpected_state",
        )
    if _card(method).authentication != NO_AUTHENTICATION:
        back = params.get("return_url")
        action = objects.redirect(authenticate_url + intent["id"], back)
        waiting = account.put(intent, status="requires_action", next_action=action)
        return Answer(200, waiting)
    return _set_up(account, intent, method)


def authenticate_setup(account: StripeAccount, intent_id: str, succeeded: bool) -> Json:
    """Take the payer's answer to a 3-D Secure challenge and return the SetupIntent after it."""
    intent = account.find("setup_intent", intent_id)
    if intent["status"] != "requires_action":
        raise invalid(
            f"This SetupIntent has a status of {intent['status']}.",
            "setup_intent_unexpected_state",
            setup_intent=intent,
        )
    method = account.find("payment_method", intent["payment_method"])
    if not succeeded:
        failure = objects.setup_authentication_error(method)
        return account.put(
            intent,
            status="requires_payment_method",
            next_action=None,
            payment_method=None,
            last_setup_error=failure,
        )
    _set_up(account, intent, method)
    return account.find("setup_intent", intent_id)


def _set_up(account: StripeAccount, intent: Json, method: Json) -> Answer:
    answer = Answer(200, method)
    if intent["customer"] is not None:
        answer = _attached(account, method, intent["customer"])
    if answer.status != 200:
        failure = answer.body["error"]
        failed = account.put(
            intent,
            status="requires_payment_method",
            payment_method=None,
            next_action=None,
            last_setup_error=failure,
        )
        return Answer(402, {"error": {**failure, "setup_intent": failed}})
    return Answer(200, account.put(intent, status="succeeded", next_action=None))


def _card(method: Json) -> TestCard:
    return CARD_BY_FINGERPRINT[method["card"]["fingerprint"]]


def _declined(decline: Decline, method: Json) -> Json:
    failure = objects.decline_error(decline, "", method)
    del failure["charge"]
    return failure
