"""Which Stripe endpoints the sandbox serves, with the SDK annotations each is held to.

A parameter that Stripe knows and the sandbox does not simulate is refused by name: taking it
silently would let an integration pass here and fail there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import stripe
from stripe.params._balance_transaction_list_params import BalanceTransactionListParams
from stripe.params._balance_transaction_retrieve_params import BalanceTransactionRetrieveParams
from stripe.params._charge_list_params import ChargeListParams
from stripe.params._charge_retrieve_params import ChargeRetrieveParams
from stripe.params._customer_create_params import CustomerCreateParams
from stripe.params._customer_delete_params import CustomerDeleteParams
from stripe.params._customer_retrieve_params import CustomerRetrieveParams
from stripe.params._dispute_close_params import DisputeCloseParams
from stripe.params._dispute_list_params import DisputeListParams
from stripe.params._dispute_retrieve_params import DisputeRetrieveParams
from stripe.params._dispute_update_params import DisputeUpdateParams
from stripe.params._payment_intent_cancel_params import PaymentIntentCancelParams
from stripe.params._payment_intent_capture_params import PaymentIntentCaptureParams
from stripe.params._payment_intent_confirm_params import PaymentIntentConfirmParams
from stripe.params._payment_intent_create_params import PaymentIntentCreateParams
from stripe.params._payment_intent_list_params import PaymentIntentListParams
from stripe.params._payment_intent_retrieve_params import PaymentIntentRetrieveParams
from stripe.params._payment_method_attach_params import PaymentMethodAttachParams
from stripe.params._payment_method_create_params import PaymentMethodCreateParams
from stripe.params._payment_method_detach_params import PaymentMethodDetachParams
from stripe.params._payment_method_retrieve_params import PaymentMethodRetrieveParams
from stripe.params._payout_create_params import PayoutCreateParams
from stripe.params._payout_list_params import PayoutListParams
from stripe.params._payout_retrieve_params import PayoutRetrieveParams
from stripe.params._refund_create_params import RefundCreateParams
from stripe.params._refund_list_params import RefundListParams
from stripe.params._refund_retrieve_params import RefundRetrieveParams
from stripe.params._setup_intent_create_params import SetupIntentCreateParams
from stripe.params._setup_intent_retrieve_params import SetupIntentRetrieveParams

from smartpay_sandbox import stripe_setup
from smartpay_sandbox.stripe_account import Answer, StripeAccount, check_create_intent
from smartpay_sandbox.stripe_disputes import close_dispute, update_dispute
from smartpay_sandbox.stripe_objects import Json
from smartpay_sandbox.stripe_payouts import create_payout, retrieve_payout
from smartpay_sandbox.stripe_refusals import invalid, unauthorized
from smartpay_sandbox.stripe_schema import Annotation

EXPAND_DEPTH_MAX = 4
"""Stripe's published limit for `expand`."""

_EXPANDABLE = {
    "payment_intent": {"latest_charge": "charge", "payment_method": "payment_method"},
    "charge": {"balance_transaction": "balance_transaction", "payment_intent": "payment_intent"},
    "refund": {
        "balance_transaction": "balance_transaction",
        "charge": "charge",
        "payment_intent": "payment_intent",
    },
    "payment_method": {"customer": "customer"},
    "balance_transaction": {"source": ""},
    "payout": {"balance_transaction": "balance_transaction"},
    "dispute": {"charge": "charge", "payment_intent": "payment_intent"},
    "customer": {},
    "deleted_customer": {},
    "setup_intent": {"customer": "customer", "payment_method": "payment_method"},
}
_KIND_OF_ID = {"ch": "charge", "dp": "dispute", "po": "payout", "re": "refund"}
"""Where only the id tells what it is the id of."""


class Command(Protocol):
    """Runs one request on its account; the URL is where a payer authenticates an intent."""

    def __call__(
        self, account: StripeAccount, object_id: str, params: Json, authenticate_url: str, /
    ) -> Answer:
        """Return the answer, or raise StripeRefusalError."""
        ...


@dataclass(frozen=True)
class Route:
    """One endpoint: its parameters and answers in the SDK's words, and what it does."""

    params: type
    kind: str
    simulated: frozenset[str]
    command: Command
    is_list: bool = False
    precheck: Callable[[Json], None] | None = None

    @property
    def answers(self) -> Annotation:
        """The annotation that every answer of this endpoint fits."""
        shape = _SHAPES[self.kind]
        return stripe.ListObject[shape] if self.is_list else shape  # type: ignore[valid-type]

    def check(self, params: Json) -> Json:
        """Check what Stripe checks before it executes, and that the sandbox simulates it.

        Raises:
            StripeRefusalError: 400 naming the parameter.
        """
        for name in params:
            if name not in self.simulated and name != "expand":
                raise invalid(
                    f"The sandbox does not simulate {name}; leave it out here.", param=name
                )
        for path in params.get("expand", ()):
            self._check_expand(path)
        if self.precheck is not None:
            self.precheck(params)
        return params

    def _check_expand(self, path: str) -> None:
        steps = path.split(".")
        if self.is_list:
            if steps[0] != "data" or len(steps) == 1:
                raise invalid(f"This property cannot be expanded ({path}).", param="expand")
            steps = steps[1:]
        kind: str | None = self.kind
        for step in steps:
            kind = _EXPANDABLE[kind].get(step) if kind is not None else None
        if kind is None or len(steps) > EXPAND_DEPTH_MAX:
            raise invalid(f"This property cannot be expanded ({path}).", param="expand")

    def expand(self, account: StripeAccount, body: Json, paths: Sequence[str]) -> Json:
        """Replace ids by their objects along each path that `check` let pass."""
        for path in paths:
            steps = path.split(".")
            if self.is_list:
                data = [_expanded(account, item, steps[1:]) for item in body["data"]]
                body = {**body, "data": data}
            else:
                body = _expanded(account, body, steps)
        return body


def _expanded(account: StripeAccount, item: Json, steps: Sequence[str]) -> Json:
    if not steps or item[steps[0]] is None:
        return item
    inner = item[steps[0]]
    if isinstance(inner, str):
        kind = _EXPANDABLE[item["object"]][steps[0]] or _KIND_OF_ID[inner.partition("_")[0]]
        inner = account.find(kind, inner)
    return {**item, steps[0]: _expanded(account, inner, steps[1:])}


def secret_key_of(authorization: str) -> str:
    """Read the secret key from Bearer or Basic credentials (the key is the user name).

    Raises:
        StripeRefusalError: 401 if there is none.
    """
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError) as cause:
            raise unauthorized("The Authorization header is not valid Basic auth.") from cause
    raise unauthorized(
        "You did not provide an API key. Use Bearer auth, or Basic auth with the key as user name."
    )


_SHAPES: dict[str, Annotation] = {
    "payment_intent": stripe.PaymentIntent,
    "charge": stripe.Charge,
    "refund": stripe.Refund,
    "payment_method": stripe.PaymentMethod,
    "balance_transaction": stripe.BalanceTransaction,
    "customer": stripe.Customer,
    # The SDK has no class for it: {"id", "object", "deleted"}.
    "deleted_customer": dict[str, Any],
    "setup_intent": stripe.SetupIntent,
    "payout": stripe.Payout,
    "dispute": stripe.Dispute,
}


def _listing(params: type, kind: str, *filters: str) -> Route:
    url = f"/v1/{kind}s"
    return Route(
        params,
        kind,
        frozenset(("created", "limit", "starting_after", *filters)),
        lambda account, _, read, __: account.list_objects(kind, url, read),
        is_list=True,
    )


def _reading(params: type, kind: str, param: str) -> Route:
    return Route(
        params,
        kind,
        frozenset(),
        lambda account, object_id, _, __: account.retrieve(kind, object_id, param),
    )


ROUTES: dict[tuple[str, str, bool, str], Route] = {
    ("POST", "payment_intents", False, ""): Route(
        PaymentIntentCreateParams,
        "payment_intent",
        frozenset(
            (
                "allowed_payment_method_types",
                "amount",
                "automatic_payment_methods",
                "capture_method",
                "confirm",
                "currency",
                "customer",
                "description",
                "error_on_requires_action",
                "metadata",
                "off_session",
                "payment_method",
                "receipt_email",
                "return_url",
                "setup_future_usage",
                "statement_descriptor",
                "statement_descriptor_suffix",
            )
        ),
        lambda account, _, params, url: account.create_intent(params, url),
        precheck=check_create_intent,
    ),
    ("GET", "payment_intents", False, ""): _listing(PaymentIntentListParams, "payment_intent"),
    ("GET", "payment_intents", True, ""): _reading(
        PaymentIntentRetrieveParams, "payment_intent", "intent"
    ),
    ("POST", "payment_intents", True, "confirm"): Route(
        PaymentIntentConfirmParams,
        "payment_intent",
        frozenset(("error_on_requires_action", "off_session", "payment_method", "return_url")),
        lambda account, intent_id, params, url: account.confirm_intent(intent_id, params, url),
    ),
    ("POST", "payment_intents", True, "capture"): Route(
        PaymentIntentCaptureParams,
        "payment_intent",
        frozenset(("amount_to_capture", "metadata")),
        lambda account, intent_id, params, _: account.capture_intent(intent_id, params),
    ),
    ("POST", "payment_intents", True, "cancel"): Route(
        PaymentIntentCancelParams,
        "payment_intent",
        frozenset(("cancellation_reason",)),
        lambda account, intent_id, params, _: account.cancel_intent(intent_id, params),
    ),
    ("POST", "refunds", False, ""): Route(
        RefundCreateParams,
        "refund",
        frozenset(("amount", "charge", "metadata", "payment_intent", "reason")),
        lambda account, _, params, __: account.create_refund(params),
    ),
    ("GET", "refunds", False, ""): _listing(RefundListParams, "refund", "charge", "payment_intent"),
    ("GET", "refunds", True, ""): _reading(RefundRetrieveParams, "refund", "refund"),
    ("POST", "payment_methods", False, ""): Route(
        PaymentMethodCreateParams,
        "payment_method",
        frozenset(("billing_details", "card", "metadata", "type")),
        lambda account, _, params, __: account.create_payment_method(params),
    ),
    ("POST", "payment_methods", True, "attach"): Route(
        PaymentMethodAttachParams,
        "payment_method",
        frozenset(("customer",)),
        lambda account, method_id, params, _: stripe_setup.attach(account, method_id, params),
        precheck=stripe_setup.check_customer,
    ),
    ("POST", "payment_methods", True, "detach"): Route(
        PaymentMethodDetachParams,
        "payment_method",
        frozenset(),
        lambda account, method_id, _, __: stripe_setup.detach(account, method_id),
    ),
    ("POST", "customers", False, ""): Route(
        CustomerCreateParams,
        "customer",
        frozenset(("description", "email", "metadata", "name")),
        lambda account, _, params, __: stripe_setup.create_customer(account, params),
    ),
    ("GET", "customers", True, ""): Route(
        CustomerRetrieveParams,
        "customer",
        frozenset(),
        lambda account, customer_id, _, __: stripe_setup.retrieve_customer(account, customer_id),
    ),
    ("DELETE", "customers", True, ""): Route(
        CustomerDeleteParams,
        "deleted_customer",
        frozenset(),
        lambda account, customer_id, _, __: stripe_setup.delete_customer(account, customer_id),
    ),
    ("POST", "setup_intents", False, ""): Route(
        SetupIntentCreateParams,
        "setup_intent",
        frozenset(
            (
                "allowed_payment_method_types",
                "automatic_payment_methods",
                "confirm",
                "customer",
                "description",
                "metadata",
                "payment_method",
                "return_url",
                "usage",
            )
        ),
        lambda account, _, params, url: stripe_setup.create_setup(account, params, url),
    ),
    ("GET", "setup_intents", True, ""): _reading(SetupIntentRetrieveParams, "setup_intent", "id"),
    ("GET", "payment_methods", True, ""): Route(
        PaymentMethodRetrieveParams,
        "payment_method",
        frozenset(),
        lambda account, method_id, _, __: account.retrieve_payment_method(method_id),
    ),
    ("GET", "charges", False, ""): _listing(ChargeListParams, "charge", "payment_intent"),
    ("GET", "charges", True, ""): _reading(ChargeRetrieveParams, "charge", "charge"),
    ("GET", "balance_transactions", True, ""): _reading(
        BalanceTransactionRetrieveParams, "balance_transaction", "id"
    ),
    ("GET", "balance_transactions", False, ""): _listing(
        BalanceTransactionListParams, "balance_transaction", "currency", "source", "type"
    ),
    ("POST", "payouts", False, ""): Route(
        PayoutCreateParams,
        "payout",
        frozenset(
            (
                "amount",
                "currency",
                "description",
                "destination",
                "metadata",
                "statement_descriptor",
            )
        ),
        lambda account, _, params, __: create_payout(account, params),
    ),
    ("GET", "disputes", False, ""): _listing(
        DisputeListParams, "dispute", "charge", "payment_intent"
    ),
    ("GET", "disputes", True, ""): _reading(DisputeRetrieveParams, "dispute", "dispute"),
    ("POST", "disputes", True, ""): Route(
        DisputeUpdateParams,
        "dispute",
        frozenset(("evidence", "metadata", "submit")),
        lambda account, dispute_id, params, _: update_dispute(account, dispute_id, params),
    ),
    ("POST", "disputes", True, "close"): Route(
        DisputeCloseParams,
        "dispute",
        frozenset(),
        lambda account, dispute_id, _, __: close_dispute(account, dispute_id),
    ),
    ("GET", "payouts", False, ""): _listing(PayoutListParams, "payout", "status"),
    ("GET", "payouts", True, ""): Route(
        PayoutRetrieveParams,
        "payout",
        frozenset(),
        lambda account, payout_id, _, __: retrieve_payout(account, payout_id),
    ),
}
"""(method, collection, names an object, action) -> endpoint."""
