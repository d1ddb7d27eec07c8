"""Amazon Pay's objects as they stand on the wire (API v2), and its decimal amounts.

Fields that start with an underscore are the sandbox's own memory of an object; `public` leaves
them out of every answer.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from smartpay_sandbox.amazon_pay_refusals import (
    AmazonPayRefusalError,
    amount_mismatch,
    currency_mismatch,
    invalid,
    missing,
)

Json = dict[str, Any]

EXPONENTS = {
    **dict.fromkeys(("USD", "EUR", "GBP", "AUD", "CHF", "DKK", "HKD", "NOK", "NZD", "SEK"), 2),
    "ZAR": 2,
    "JPY": 0,
}
"""Decimal places of the currencies Amazon Pay presents."""
SESSION_SECONDS = 24 * 3600
"""A Checkout Session that nobody completed is canceled after this."""
SESSION_KEPT_SECONDS = 30 * 24 * 3600
"""Amazon deletes Checkout Sessions after this."""
CHARGE_SECONDS = 30 * 24 * 3600
"""An authorization that nobody captured is canceled after this."""
PERMISSION_SECONDS = {"OneTime": 180 * 24 * 3600, "Recurring": 396 * 24 * 3600}
"""How long buyers agree to be charged; a saved wallet does so until somebody closes it."""

_AMOUNT = re.compile(r"\d{1,12}(\.\d+)?")


def public(item: Json) -> Json:
    """Answer the object without the sandbox's own memory of it."""
    return {name: value for name, value in item.items() if not name.startswith("_")}


def timestamp(seconds: float) -> str:
    """Write a time as Amazon Pay does."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")


def price(minor_units: int, currency: str) -> Json:
    """Write whole minor units as a decimal string with its currency."""
    places = EXPONENTS[currency]
    whole, part = divmod(minor_units, 10**places)
    return {
        "amount": f"{whole}.{part:0{places}d}" if places else str(whole),
        "currencyCode": currency,
    }


def minor_units(found: Mapping[str, str], parameter: str, currency: str = "") -> int:
    """Read a price as whole minor units.

    Args:
        found: amount and currencyCode.
        parameter: names the price in a refusal.
        currency: what it must be in, if anything.

    Raises:
        AmazonPayRefusalError: if it is no positive amount of the currency.
    """
    if found["currencyCode"] not in EXPONENTS:
        raise invalid(f"{parameter}.currencyCode", "not a currency of Amazon Pay")
    if currency and found["currencyCode"] != currency:
        raise currency_mismatch()
    places = EXPONENTS[found["currencyCode"]]
    if not _AMOUNT.fullmatch(found["amount"]):
        raise invalid(f"{parameter}.amount", "must be a decimal number")
    whole, _, part = found["amount"].partition(".")
    if len(part) > places:
        raise invalid(f"{parameter}.amount", f"has more than {places} decimals")
    units: int = int(whole) * 10**places + int(part.ljust(places, "0") or "0")
    if units == 0:
        raise invalid(f"{parameter}.amount", "must be more than zero")
    return units


def status(state: str, now: float, reason: str | None = None) -> Json:
    """Write statusDetails of a session, charge or refund."""
    return {
        "state": state,
        "reasonCode": reason,
        "reasonDescription": None,
        "lastUpdatedTimestamp": timestamp(now),
    }


def permission_status(state: str, now: float, *reasons: str) -> Json:
    """Write statusDetails of a Charge Permission, which may have several reasons."""
    return {
        "state": state,
        "reasons": [{"reasonCode": r, "reasonDescription": ""} for r in reasons] or None,
        "lastUpdatedTimestamp": timestamp(now),
    }


def session(now: float, params: Json) -> Json:
    """Build a Checkout Session in state Open."""
    web = params.get("webCheckoutDetails", {})
    return {
        "checkoutSessionId": str(uuid.uuid4()),
        "webCheckoutDetails": {
            "checkoutReviewReturnUrl": web.get("checkoutReviewReturnUrl"),
            "checkoutResultReturnUrl": web.get("checkoutResultReturnUrl"),
            "checkoutCancelUrl": web.get("checkoutCancelUrl"),
            "checkoutMode": web.get("checkoutMode"),
            "amazonPayRedirectUrl": None,
        },
        "productType": "PayOnly",
        "chargePermissionType": params.get("chargePermissionType", "OneTime"),
        "recurringMetadata": params.get("recurringMetadata"),
        "paymentDetails": _payment_details(params.get("paymentDetails", {})),
        "merchantMetadata": merchant_metadata(params),
        "buyer": None,
        "billingAddress": None,
        "paymentPreferences": [None],
        "statusDetails": status("Open", now),
        "shippingAddress": None,
        "platformId": None,
        "chargePermissionId": None,
        "chargeId": None,
        "constraints": [],
        "creationTimestamp": timestamp(now),
        "expirationTimestamp": timestamp(now + SESSION_SECONDS),
        "storeId": params["storeId"],
        "releaseEnvironment": "Sandbox",
        "_created": now,
        "_card": None,
        "_moves": {"at": now + SESSION_SECONDS, "to": "Expired"},
    }


def _payment_details(given: Json) -> Json:
    return {
        "paymentIntent": given.get("paymentIntent"),
        "canHandlePendingAuthorization": given.get("canHandlePendingAuthorization", False),
        "chargeAmount": given.get("chargeAmount"),
        "totalOrderAmount": given.get("totalOrderAmount"),
        "softDescriptor": given.get("softDescriptor"),
        "presentmentCurrency": given.get("presentmentCurrency"),
        "allowOvercharge": None,
        "extendExpiration": None,
    }


def merchant_metadata(params: Json) -> Json:
    """Write merchantMetadata with every field, as Amazon does."""
    given = params.get("merchantMetadata") or {}
    names = ("merchantReferenceId", "merchantStoreName", "noteToBuyer", "customInformation")
    return {name: given.get(name) for name in names}


def permission(now: float, kind: str, limit: Json | None, card: str, metadata: Json) -> Json:
    """Build a Charge Permission in state Chargeable."""
    number = f"{secrets.randbelow(10**7):07d}-{secrets.randbelow(10**7):07d}"
    life = PERMISSION_SECONDS.get(kind)
    return {
        "chargePermissionId": f"S01-{number}",
        "chargePermissionReferenceId": None,
        "chargePermissionType": kind,
        "buyer": {"buyerId": "amzn1.account.SANDBOX", "name": None, "email": None},
        "paymentPreferences": [{"paymentDescriptor": f"Visa ****{card} (Amazon Pay)"}],
        "statusDetails": permission_status("Chargeable", now),
        "limits": {"amountLimit": limit, "amountBalance": limit},
        "merchantMetadata": metadata,
        "platformId": None,
        "creationTimestamp": timestamp(now),
        "expirationTimestamp": None if life is None else timestamp(now + life),
        "presentmentCurrency": limit and limit["currencyCode"],
        "releaseEnvironment": "Sandbox",
        "_card": card,
        "_expires": None if life is None else now + life,
    }


def charge(now: float, permission_id: str, params: Json, metadata: Json) -> Json:
    """Build a Charge in state Authorized."""
    currency = params["chargeAmount"]["currencyCode"]
    return {
        "chargeId": f"{permission_id}-C{secrets.randbelow(10**6):06d}",
        "chargePermissionId": permission_id,
        "chargeAmount": price(minor_units(params["chargeAmount"], "chargeAmount"), currency),
        "captureAmount": None,
        "refundedAmount": None,
        "convertedAmount": None,
        "conversionRate": None,
        "channel": "Web",
        "chargeInitiator": params.get("chargeInitiator"),
        "softDescriptor": params.get("softDescriptor"),
        "merchantMetadata": metadata,
        "platformId": None,
        "statusDetails": status("Authorized", now),
        "creationTimestamp": timestamp(now),
        "expirationTimestamp": timestamp(now + CHARGE_SECONDS),
        "releaseEnvironment": "Sandbox",
        "_authorized": now,
        "_captured": 0,
        "_refunding": 0,
        "_capture_now": params.get("captureNow", False),
    }


def refund(now: float, found: Json, units: int, params: Json) -> Json:
    """Build a Refund in state RefundInitiated; all refunds at Amazon are asynchronous."""
    currency = found["chargeAmount"]["currencyCode"]
    return {
        "refundId": f"{found['chargePermissionId']}-R{secrets.randbelow(10**6):06d}",
        "chargeId": found["chargeId"],
        "refundAmount": price(units, currency),
        "softDescriptor": params.get("softDescriptor"),
        "creationTimestamp": timestamp(now),
        "statusDetails": status("RefundInitiated", now),
        "releaseEnvironment": "Sandbox",
        "_units": units,
    }


def check_payment(payment: Json) -> None:
    """Check the amounts of paymentDetails, and that its parts go together.

    Raises:
        AmazonPayRefusalError: 400.
    """
    for name in ("chargeAmount", "totalOrderAmount"):
        if name in payment:
            minor_units(payment[name], f"paymentDetails.{name}")
    waits = payment.get("canHandlePendingAuthorization", False)
    if waits and payment.get("paymentIntent") == "AuthorizeWithCapture":
        raise AmazonPayRefusalError(
            400,
            "InvalidParameterCombination",
            "canHandlePendingAuthorization goes with paymentIntent Authorize only.",
        )


def check_agreed(agreed: Json, params: Json) -> None:
    """Check that a completion names what the buyer agreed to.

    Raises:
        AmazonPayRefusalError: 400 or 409.
    """
    if "chargeAmount" not in params:
        raise missing("chargeAmount")
    given = params["chargeAmount"]
    if given["currencyCode"] != agreed["currencyCode"]:
        raise currency_mismatch()
    if minor_units(given, "chargeAmount") != minor_units(agreed, "chargeAmount"):
        raise amount_mismatch()
