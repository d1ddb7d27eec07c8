"""One Stripe account: its objects, and what may happen to an intent's money.

Rules: docs.stripe.com/payments/paymentintents/lifecycle. Commands stage their changes, so that a
refusal changes nothing; whoever runs them takes the staged objects and makes them durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from smartpay_sandbox import stripe_objects as objects
from smartpay_sandbox.stripe_amounts import check_charge, check_currency, check_positive
from smartpay_sandbox.stripe_cards import (
    AUTHENTICATION_REQUIRED,
    CARD_BY_FINGERPRINT,
    NO_AUTHENTICATION,
    PAYMENT_METHOD_ALIASES,
    TOKEN_ALIASES,
    UNLESS_SET_UP,
    Decline,
    TestCard,
)
from smartpay_sandbox.stripe_dispute_objects import dispute, moved
from smartpay_sandbox.stripe_objects import Json
from smartpay_sandbox.stripe_refusals import invalid, missing

KINDS = (
    "payment_intent",
    "charge",
    "refund",
    "payment_method",
    "balance_transaction",
    "customer",
    "setup_intent",
    "payout",
    "dispute",
)
"""The kinds of object an account keeps."""
FILTERS = ("payment_intent", "charge", "currency", "source", "status", "type")
"""The fields that lists filter on, each where Stripe lets a list have it."""
PAGE_SIZE, PAGE_SIZE_MAX = 10, 100
"""Stripe's published default and limit for lists."""
METADATA_KEYS_MAX, METADATA_KEY_LENGTH_MAX, METADATA_VALUE_LENGTH_MAX = 50, 40, 500
"""Stripe's published limits (docs.stripe.com/api/metadata)."""

_CONFIRM_ONLY = ("error_on_requires_action", "off_session", "return_url")
_CONFIRMABLE = ("requires_payment_method", "requires_confirmation", "requires_action")
_CANCELABLE = (*_CONFIRMABLE, "requires_capture", "processing")
_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "gt": int.__gt__,
    "gte": int.__ge__,
    "lt": int.__lt__,
    "lte": int.__le__,
}


class Answer(NamedTuple):
    """What a command answers: HTTP status and body; a decline is an answer, not a refusal."""

    status: int
    body: Json


class StripeAccount:
    """The objects of one account, newest last, and the commands on them."""

    def __init__(self, account_id: str, clock: Callable[[], int]) -> None:
        self.id = account_id
        self.clock = clock
        self._kept: dict[str, dict[str, Json]] = {kind: {} for kind in KINDS}
        self._staged: dict[str, Json] = {}
        self._spent: set[str] = set()

    # --- keeping ---

    def keep(self, found: Iterable[Json]) -> None:
        """Take objects as they were committed."""
        for item in found:
            self._kept[item["object"]][item["id"]] = item
            if item["object"] == "charge" and item["status"] == "succeeded":
                # A card that no customer has may be charged once.
                self._spent.add(item["payment_method"])

    def staged(self) -> list[Json]:
        """List what the last command changed and nobody committed yet."""
        return list(self._staged.values())

    def changes(self) -> list[tuple[Json | None, Json]]:
        """List what the last command changed: each object as it was kept, and as it is now."""
        return [(self._kept[i["object"]].get(i["id"]), i) for i in self._staged.values()]

    def unstage(self) -> None:
        """Forget what the last command changed."""
        self._staged = {}

    def dump(self) -> dict[str, Any]:
        """Copy out every object by kind and id."""
        return {f"{kind}s": dict(kept) for kind, kept in self._kept.items()}

    def find(self, kind: str, object_id: str, param: str = "id", status: int = 404) -> Json:
        """Read one object, staged ones first.

        Raises:
            StripeRefusalError: resource_missing, naming the parameter.
        """
        found = self._staged.get(object_id) or self._kept[kind].get(object_id)
        if found is None:
            raise missing(kind, object_id, param, status)
        return found

    def put(self, item: Json, **changes: object) -> Json:
        """Stage an object as it is to become, and return it."""
        changed = {**item, **changes}
        self._staged[changed["id"]] = changed
        return changed

    def every(self, kind: str) -> list[Json]:
        """List the committed objects of a kind, oldest first."""
        return list(self._kept[kind].values())

    # --- payment methods ---

    def create_payment_method(self, params: Json) -> Answer:
        """Turn a published test token into a PaymentMethod of this account."""
        if "type" not in params:
            raise invalid("Missing required param: type.", "parameter_missing", "type")
        if params["type"] != "card":
            raise invalid("The sandbox simulates cards only; use type=card.", param="type")
        card = params.get("card") or {}
        if "number" in card:
            raise invalid(
                "The sandbox takes no card numbers; use a published test token, "
                "for example card[token]=tok_visa.",
                param="card[number]",
            )
        if "token" not in card:
            raise invalid("Missing required param: card[token].", "parameter_missing", "card")
        if card["token"] not in TOKEN_ALIASES:
            raise missing("token", card["token"], "card[token]", status=400)
        return Answer(200, self._new_method(TOKEN_ALIASES[card["token"]], params))

    def _new_method(self, card: TestCard, params: Json) -> Json:
        check_metadata(params)
        return self.put(objects.payment_method(card, self.clock(), params))

    def method(self, method_id: str) -> Json:
        """Read a PaymentMethod of this account; an alias makes a new one, as at Stripe."""
        alias = PAYMENT_METHOD_ALIASES.get(method_id)
        if alias is not None:
            return self._new_method(alias, {})
        return self.find("payment_method", method_id, "payment_method", status=400)

    def retrieve_payment_method(self, method_id: str) -> Answer:
        """Read a PaymentMethod or a published alias."""
        if method_id in PAYMENT_METHOD_ALIASES:
            return Answer(200, self.method(method_id))
        return Answer(200, self.find("payment_method", method_id, "payment_method"))

    # --- intents ---

    def create_intent(self, params: Json, authenticate_url: str) -> Answer:
        """Create a PaymentIntent, and confirm it when asked to."""
        confirming = params.get("confirm", False)
        for name in _CONFIRM_ONLY:
            if name in params and not confirming:
                raise invalid(f"The parameter {name} needs confirm=true.", param=name)
        method = self.method(params["payment_method"]) if "payment_method" in params else None
        if "customer" in params and self.find("customer", params["customer"], "customer", 400).get(
            "deleted"
        ):
            raise missing("customer", params["customer"], "customer", 400)
        intent = objects.payment_intent(self.clock(), params["currency"].lower(), params)
        if method is not None:
            intent |= {"payment_method": method["id"], "status": "requires_confirmation"}
        intent = self.put(intent)
        return (
            self._confirm(intent, params, authenticate_url) if confirming else Answer(200, intent)
        )

    def confirm_intent(self, intent_id: str, params: Json, authenticate_url: str) -> Answer:
        """Try to pay an intent."""
        intent = self.find("payment_intent", intent_id, "intent")
        if intent["status"] == "succeeded":
            raise _unexpected(
                intent,
                "You cannot confirm this PaymentIntent because it has already succeeded after "
                "being previously confirmed.",
            )
        _demand(intent, "confirm", "confirmed", _CONFIRMABLE)
        if "payment_method" in params:
            intent = {**intent, "payment_method": self.method(params["payment_method"])["id"]}
        return self._confirm(intent, params, authenticate_url)

    def _confirm(self, intent: Json, params: Json, authenticate_url: str) -> Answer:
        if intent["payment_method"] is None:
            raise _unexpected(
                intent,
                "You cannot confirm this PaymentIntent because it's missing a payment method.",
            )
        _check_return_url(intent, params)
        method = self.find("payment_method", intent["payment_method"])
        self._demand_owner(intent, method)
        card = CARD_BY_FINGERPRINT[method["card"]["fingerprint"]]
        if self._must_authenticate(card, method, params):
            if params.get("off_session", False) or params.get("error_on_requires_action", False):
                return self._declined(intent, method, AUTHENTICATION_REQUIRED)
            url = authenticate_url + intent["id"]
            return Answer(200, self._ask_payer(intent, url, params.get("return_url")))
        return self._charged(intent, method, card.decline, authenticated=False)

    def _demand_owner(self, intent: Json, method: Json) -> None:
        """Demand that an attached card is charged for its customer, and a spent one not at all."""
        if method["customer"] is not None and intent["customer"] is None:
            raise invalid(
                f"This PaymentMethod ({method['id']}) belongs to the Customer "
                f"{method['customer']}. Please include the Customer in the `customer` parameter "
                "on the PaymentIntent.",
                "payment_intent_invalid_parameter",
                "payment_method",
            )
        if method["customer"] not in (None, intent["customer"]):
            raise invalid(
                f"The customer does not have a payment method with the ID {method['id']}. The "
                "payment method must be attached to the customer.",
                param="payment_method",
            )
        if method["customer"] is None and method["id"] in self._spent:
            raise invalid(
                "The provided PaymentMethod was previously used with a PaymentIntent without "
                "Customer attachment, shared with a connected account without Customer "
                "attachment, or was detached from a Customer. It may not be used again. To use a "
                "PaymentMethod multiple times, you must attach it to a Customer first.",
                param="payment_method",
            )

    def _must_authenticate(self, card: TestCard, method: Json, params: Json) -> bool:
        if card.authentication == UNLESS_SET_UP and params.get("off_session", False):
            return not any(
                setup["payment_method"] == method["id"] and setup["status"] == "succeeded"
                for setup in self._kept["setup_intent"].values()
            )
        return card.authentication != NO_AUTHENTICATION

    def _ask_payer(self, intent: Json, url: str, return_url: str | None) -> Json:
        action = objects.redirect(url, return_url)
        return self.put(
            intent, status="requires_action", next_action=action, last_payment_error=None
        )

    def authenticate(self, intent_id: str, succeeded: bool) -> Json:
        """Take the payer's answer to a 3-D Secure challenge and return the intent after it."""
        intent = self.find("payment_intent", intent_id, "intent")
        _demand(intent, "authenticate", "authenticated", ("requires_action",))
        method = self.find("payment_method", intent["payment_method"])
        if not succeeded:
            return self.put(
                intent,
                status="requires_payment_method",
                next_action=None,
                payment_method=None,
                last_payment_error=objects.authentication_error(method),
            )
        card = CARD_BY_FINGERPRINT[method["card"]["fingerprint"]]
        self._charged(intent, method, card.decline, authenticated=True)
        return self.find("payment_intent", intent_id)

    def _charged(
        self, intent: Json, method: Json, decline: Decline | None, authenticated: bool
    ) -> Answer:
        if decline is not None:
            return self._declined(intent, method, decline, authenticated)
        charge = self.put(objects.charge(intent, method, self.clock(), None, authenticated))
        paid = self.put(
            intent,
            status="requires_capture",
            amount_capturable=intent["amount"],
            latest_charge=charge["id"],
            next_action=None,
            last_payment_error=None,
        )
        if intent["capture_method"] != "manual":
            paid = self._captured(paid, charge, intent["amount"])
        return Answer(200, paid)

    def _declined(
        self, intent: Json, method: Json, decline: Decline, authenticated: bool = False
    ) -> Answer:
        charge = self.put(objects.charge(intent, method, self.clock(), decline, authenticated))
        failure = objects.decline_error(decline, charge["id"], method)
        declined = self.put(
            intent,
            status="requires_payment_method",
            latest_charge=charge["id"],
            payment_method=None,
            next_action=None,
            last_payment_error=failure,
        )
        return Answer(402, {"error": {**failure, "payment_intent": declined}})

    def capture_intent(self, intent_id: str, params: Json) -> Answer:
        """Take an authorised amount, or a part of it; the rest is released."""
        intent = self.find("payment_intent", intent_id, "intent")
        _demand(intent, "capture", "captured", ("requires_capture",))
        whole: int = intent["amount_capturable"]
        amount: int = params.get("amount_to_capture", whole)
        check_positive(amount, "amount_to_capture")
        if amount > whole:
            raise invalid(
                f"The amount to capture ({amount}) is greater than the amount you can capture "
                f"({whole}).",
                "amount_too_large",
                "amount_to_capture",
            )
        if "metadata" in params:
            intent = {**intent, "metadata": _merged(intent["metadata"], params)}
        charge = self.find("charge", intent["latest_charge"])
        return Answer(200, self._captured(intent, charge, amount))

    def _captured(self, intent: Json, charge: Json, amount: int) -> Json:
        moved = self.put(objects.balance_transaction(charge, "charge", amount, self.clock()))
        charge = self.put(
            charge, captured=True, amount_captured=amount, balance_transaction=moved["id"]
        )
        card = CARD_BY_FINGERPRINT[charge["payment_method_details"]["card"]["fingerprint"]]
        if card.dispute:
            self._disputed(charge, card.dispute)
        return self.put(intent, status="succeeded", amount_capturable=0, amount_received=amount)

    def _disputed(self, charge: Json, reason: str) -> None:
        """Let the payer's bank claim a charge back."""
        disputed = dispute(charge, reason, charge["amount_captured"], self.clock())
        taken = self.put(moved(disputed, -disputed["amount"], self.clock()))
        self.put(disputed, balance_transactions=[taken])
        self.put(charge, disputed=True)

    def cancel_intent(self, intent_id: str, params: Json) -> Answer:
        """End an intent that has not succeeded; an authorisation is released."""
        intent = self.find("payment_intent", intent_id, "intent")
        _demand(intent, "cancel", "canceled", _CANCELABLE)
        if intent["status"] == "requires_capture":
            charge = self.find("charge", intent["latest_charge"])
            self.put(charge, refunded=True, amount_refunded=charge["amount"])
        canceled = self.put(
            intent,
            status="canceled",
            amount_capturable=0,
            next_action=None,
            canceled_at=self.clock(),
            cancellation_reason=params.get("cancellation_reason"),
        )
        return Answer(200, canceled)

    # --- refunds ---

    def create_refund(self, params: Json) -> Answer:
        """Give captured money back; all refunds together never exceed what was captured."""
        charge = self._refundable(params)
        left = charge["amount_captured"] - charge["amount_refunded"]
        if left == 0:
            raise invalid(
                f"Charge {charge['id']} has already been refunded.", "charge_already_refunded"
            )
        amount = check_positive(params.get("amount", left), "amount")
        if amount > left:
            raise invalid(
                f"Refund amount ({amount} {charge['currency'].upper()}) is greater than "
                f"unrefunded amount on charge ({left} {charge['currency'].upper()})",
                param="amount",
            )
        refund = objects.refund(charge, amount, self.clock(), params)
        moved = objects.balance_transaction(refund, "refund", -amount, self.clock())
        self.put(
            charge,
            amount_refunded=charge["amount_refunded"] + amount,
            refunded=amount == left,
        )
        self.put(moved)
        return Answer(200, self.put(refund, balance_transaction=moved["id"]))

    def _refundable(self, params: Json) -> Json:
        named = [name for name in ("charge", "payment_intent") if name in params]
        if len(named) != 1:
            raise invalid("Give exactly one of: charge, payment_intent.", "parameter_missing")
        if named == ["charge"]:
            charge = self.find("charge", params["charge"], "charge")
        else:
            intent = self.find("payment_intent", params["payment_intent"], "payment_intent")
            if intent["status"] != "succeeded":
                raise invalid(
                    f"This PaymentIntent ({intent['id']}) does not have a successful charge to "
                    "refund."
                )
            charge = self.find("charge", intent["latest_charge"])
        if not charge["captured"]:
            raise invalid(f"Charge {charge['id']} was not captured; cancel its PaymentIntent.")
        return charge

    # --- reading ---

    def retrieve(self, kind: str, object_id: str, param: str = "id") -> Answer:
        """Read one object."""
        return Answer(200, self.find(kind, object_id, param))

    def list_objects(self, kind: str, url: str, params: Json) -> Answer:
        """List newest first, filtered by creation time and by the fields that lists filter on."""
        limit = params.get("limit", PAGE_SIZE)
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise invalid(
                f"limit must be between 1 and {PAGE_SIZE_MAX}.",
                "parameter_invalid_integer",
                "limit",
            )
        fields = {name: params[name] for name in FILTERS if name in params}
        created = params.get("created", {})
        bounds = {"gte": created, "lte": created} if isinstance(created, int) else created
        after = params.get("starting_after")
        if after is not None:
            self.find(kind, after, "starting_after", status=400)
        page: list[Json] = []
        for item in reversed(self._kept[kind].values()):
            if after is not None:
                after = None if item["id"] == after else after
            elif all(item[name] == wanted for name, wanted in fields.items()) and all(
                _COMPARISONS[sign](item["created"], bound) for sign, bound in bounds.items()
            ):
                page.append(item)
                if len(page) > limit:
                    break
        body = {"object": "list", "data": page[:limit], "has_more": len(page) > limit, "url": url}
        return Answer(200, body)


# --- rules that hold before execution, so a refusal is not kept under the key -------------------


def check_create_intent(params: Json) -> None:
    """Check what Stripe checks before it begins to create an intent.

    Raises:
        StripeRefusalError: 400 naming the parameter.
    """
    currency = check_currency(params["currency"])
    check_charge(params["amount"], currency)
    check_metadata(params)
    if params.get("allowed_payment_method_types", ["card"]) != ["card"]:
        raise invalid(
            "The sandbox simulates cards only; use card.", param="allowed_payment_method_types"
        )


def check_metadata(params: Json) -> None:
    """Check Stripe's limits of metadata.

    Raises:
        StripeRefusalError: 400 naming the parameter.
    """
    metadata = params.get("metadata") or {}
    if len(metadata) > METADATA_KEYS_MAX:
        raise invalid(f"Metadata has at most {METADATA_KEYS_MAX} keys.", param="metadata")
    for key, value in metadata.items():
        if len(key) > METADATA_KEY_LENGTH_MAX or len(value) > METADATA_VALUE_LENGTH_MAX:
            raise invalid(
                f"Metadata keys have at most {METADATA_KEY_LENGTH_MAX} characters, values "
                f"{METADATA_VALUE_LENGTH_MAX}.",
                param=f"metadata[{key[:METADATA_KEY_LENGTH_MAX]}]",
            )


def _merged(metadata: dict[str, str], params: Json) -> dict[str, str]:
    check_metadata(params)
    if params["metadata"] == "":
        return {}
    merged = metadata | params["metadata"]
    return {key: value for key, value in merged.items() if value != ""}


def _check_return_url(intent: Json, params: Json) -> None:
    """Demand a way back where the Dashboard could choose a redirecting payment method."""
    automatic = intent["automatic_payment_methods"]
    redirects = automatic["enabled"] and automatic["allow_redirects"] == "always"
    if redirects and not intent["allowed_payment_method_types"] and "return_url" not in params:
        raise invalid(
            "This PaymentIntent is configured to accept payment methods enabled in your "
            "Dashboard, and some of them might redirect your customer: provide a `return_url`, "
            "or set `automatic_payment_methods[allow_redirects]` to `never`, or name "
            "`allowed_payment_method_types`.",
            param="return_url",
        )


def _demand(intent: Json, verb: str, participle: str, allowed: tuple[str, ...]) -> None:
    if intent["status"] not in allowed:
        raise _unexpected(
            intent,
            f"You cannot {verb} this PaymentIntent because it has a status of "
            f"{intent['status']}. Only a PaymentIntent with one of the following statuses may be "
            f"{participle}: {', '.join(allowed)}.",
        )


def _unexpected(intent: Json, message: str) -> Exception:
    return invalid(message, "payment_intent_unexpected_state", payment_intent=intent)
