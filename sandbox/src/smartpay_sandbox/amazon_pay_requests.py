"""Which operations of Amazon Pay's API v2 the sandbox serves, and what their bodies may hold.

From developer.amazon.com/docs/amazon-pay-api-v2 (checkout-session, charge-permission, charge,
refund, reports). A field that Amazon knows and the sandbox does not simulate is refused by name:
taking it silently would let an integration pass here and fail there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl

from smartpay_sandbox import amazon_pay_reports as reports
from smartpay_sandbox.amazon_pay_account import AmazonPayAccount, Answer
from smartpay_sandbox.amazon_pay_checkout import CHECKOUT
from smartpay_sandbox.amazon_pay_objects import Json
from smartpay_sandbox.amazon_pay_refusals import (
    AmazonPayRefusalError,
    invalid,
    missing,
    unrecognized,
)

Shape = Mapping[str, Any]
"""A field's name and what it holds: a type, a tuple of texts to choose from, or a Shape."""

_PRICE: Shape = {"amount": str, "currencyCode": str}
_METADATA: Shape = {
    "merchantReferenceId": str,
    "merchantStoreName": str,
    "noteToBuyer": str,
    "customInformation": str,
}
_WEB: Shape = {
    "checkoutReviewReturnUrl": str,
    "checkoutResultReturnUrl": str,
    "checkoutCancelUrl": str,
    "checkoutMode": ("ProcessOrder",),
}
_PAYMENT: Shape = {
    "paymentIntent": ("Confirm", "Authorize", "AuthorizeWithCapture"),
    "canHandlePendingAuthorization": bool,
    "chargeAmount": _PRICE,
    "totalOrderAmount": _PRICE,
    "softDescriptor": str,
    "presentmentCurrency": str,
}
_RECURRING: Shape = {
    "frequency": {"unit": ("Year", "Month", "Week", "Day", "Variable"), "value": str},
    "amount": _PRICE,
}
LENGTHS_MAX = {
    "softDescriptor": 16,
    "merchantReferenceId": 256,
    "merchantStoreName": 50,
    "noteToBuyer": 255,
    "customInformation": 4096,
    "cancellationReason": 255,
    "closureReason": 255,
}
"""Amazon's published limits, in characters."""


class Command(Protocol):
    """Runs one operation; the URL is the simulator's own, the code what is simulated."""

    def __call__(
        self, account: AmazonPayAccount, object_id: str, params: Json, url: str, code: str, /
    ) -> Answer:
        """Return the answer, or raise AmazonPayRefusalError."""
        ...


@dataclass(frozen=True)
class Operation:
    """One operation: what its body may and must hold, and what it does."""

    command: Command
    shape: Shape = field(default_factory=dict)
    required: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    """Simulation codes (x-amz-pay-simulation-code) the operation understands."""
    filters: tuple[str, ...] = ()
    """Names of the query that it understands."""

    def read_query(self, query: str) -> Json:
        """Read what the query says.

        Raises:
            AmazonPayRefusalError: 400 naming the field.
        """
        found = dict(parse_qsl(query, keep_blank_values=True))
        for name in found:
            if name not in self.filters:
                raise unrecognized(name)
        return found

    def read(self, body: bytes) -> Json:
        """Read a body.

        Raises:
            AmazonPayRefusalError: 400 naming the field.
        """
        if not body:
            params: Any = {}
        else:
            try:
                params = json.loads(body)
            except (ValueError, UnicodeDecodeError) as cause:
                raise AmazonPayRefusalError(
                    400, "InvalidRequestFormat", "The body is not JSON."
                ) from cause
        _check(self.shape, params, "")
        for name in self.required:
            if name not in params:
                raise missing(name)
        return dict(params)


def _check(shape: Shape, found: object, path: str) -> None:
    if not isinstance(found, dict):
        raise invalid(path or "body", "must be an object")
    for name, value in found.items():
        wanted = shape.get(name)
        where = f"{path}{name}"
        if wanted is None:
            raise unrecognized(where)
        if isinstance(wanted, Mapping):
            _check(wanted, value, f"{where}.")
            if wanted is _PRICE and set(value) != set(_PRICE):
                raise missing(f"{where}.{min(set(_PRICE) - set(value))}")
        elif isinstance(wanted, tuple):
            if value not in wanted:
                raise invalid(where, f"must be one of {', '.join(wanted)}")
        elif not isinstance(value, wanted):
            raise invalid(where, f"must be a {wanted.__name__}")
        elif isinstance(value, str) and len(value) > LENGTHS_MAX.get(name, 1000):
            raise invalid(where, f"has more than {LENGTHS_MAX.get(name, 1000)} characters")


OPERATIONS: dict[tuple[str, str, bool, str], Operation] = {
    ("POST", "checkoutSessions", False, ""): Operation(
        lambda account, _, params, url, __: account.create_session(params, url + CHECKOUT),
        {
            "webCheckoutDetails": _WEB,
            "storeId": str,
            "chargePermissionType": ("OneTime", "Recurring", "PaymentMethodOnFile"),
            "paymentDetails": _PAYMENT,
            "recurringMetadata": _RECURRING,
            "merchantMetadata": _METADATA,
        },
        ("webCheckoutDetails", "storeId"),
    ),
    ("GET", "checkoutSessions", True, ""): Operation(
        lambda account, found, _, __, ___: account.get_session(found)
    ),
    ("PATCH", "checkoutSessions", True, ""): Operation(
        lambda account, found, params, url, _: account.update_session(
            found, params, url + CHECKOUT
        ),
        {"webCheckoutDetails": _WEB, "paymentDetails": _PAYMENT, "merchantMetadata": _METADATA},
    ),
    ("POST", "checkoutSessions", True, "complete"): Operation(
        lambda account, found, params, _, code: account.complete_session(found, params, code),
        {"chargeAmount": _PRICE, "totalOrderAmount": _PRICE},
        codes=("BuyerCanceled", "AmazonCanceled", "Declined", "AuthorizationInitiated"),
    ),
    ("GET", "chargePermissions", True, ""): Operation(
        lambda account, found, _, __, ___: account.get_permission(found)
    ),
    ("DELETE", "chargePermissions", True, "close"): Operation(
        lambda account, found, params, _, __: account.close_permission(found, params),
        {"closureReason": str, "cancelPendingCharges": bool},
        ("closureReason",),
    ),
    ("POST", "charges", False, ""): Operation(
        lambda account, _, params, __, code: account.create_charge(params, code),
        {
            "chargePermissionId": str,
            "chargeAmount": _PRICE,
            "captureNow": bool,
            "softDescriptor": str,
            "canHandlePendingAuthorization": bool,
            "merchantMetadata": _METADATA,
            "chargeInitiator": ("CITU", "CITR", "MITU", "MITR"),
        },
        ("chargePermissionId", "chargeAmount"),
        (
            "SoftDeclined",
            "HardDeclined",
            "AmazonRejected",
            "TransactionTimedOut",
            "ProcessingFailure",
            "AuthorizationInitiated",
        ),
    ),
    ("GET", "charges", True, ""): Operation(
        lambda account, found, _, __, ___: account.get_charge(found)
    ),
    ("POST", "charges", True, "capture"): Operation(
        lambda account, found, params, _, code: account.capture_charge(found, params, code),
        {"captureAmount": _PRICE, "softDescriptor": str},
        ("captureAmount",),
        ("CaptureInitiated", "AmazonRejected", "ProcessingFailure"),
    ),
    ("DELETE", "charges", True, "cancel"): Operation(
        lambda account, found, params, _, __: account.cancel_charge(found, params),
        {"cancellationReason": str},
        ("cancellationReason",),
    ),
    ("POST", "refunds", False, ""): Operation(
        lambda account, _, params, __, code: account.create_refund(params, code),
        {"chargeId": str, "refundAmount": _PRICE, "softDescriptor": str},
        ("chargeId", "refundAmount"),
        ("RefundDeclined",),
    ),
    ("GET", "refunds", True, ""): Operation(
        lambda account, found, _, __, ___: account.get_refund(found)
    ),
    ("POST", "reports", False, ""): Operation(
        lambda account, _, params, __, ___: reports.create_report(account, params),
        {"reportType": str, "startTime": str, "endTime": str},
        ("reportType", "startTime", "endTime"),
    ),
    ("GET", "reports", False, ""): Operation(
        lambda account, _, params, __, ___: reports.get_reports(account, params),
        filters=(
            "reportTypes",
            "processingStatuses",
            "createdSince",
            "createdUntil",
            "pageSize",
            "nextToken",
        ),
    ),
    ("GET", "reports", True, ""): Operation(
        lambda account, found, _, __, ___: reports.get_report(account, found)
    ),
    ("GET", "report-documents", True, ""): Operation(
        lambda account, found, _, url, __: reports.get_document(account, found, url)
    ),
}
"""(method, collection, names an object, action) -> operation."""
