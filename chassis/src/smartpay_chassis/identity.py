"""Who calls, and for whom: read only from what the sidecar vouches for."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from smartpay.access.v1.access_pb2 import RequestContext
from smartpay_chassis.merchants import Merchant, Merchants
from smartpay_chassis.refusals import Kind, Refusal

EDGE = "edge"
GROUP_PREFIX = "merchant/"
# The sidecar replaces this header on every call (SANITIZE_SET), so its text is Envoy's own.
_PEER = re.compile(r"URI=spiffe://smartpay/(?P<environment>[a-z]+)/(?P<service>[a-z]+)")


KEPT_CLAIMS = 1_024
"""Payloads whose reading is remembered, about 1 KiB each: a client sends one token many times."""


@dataclass(frozen=True)
class Principal:
    """For whom a call is made."""

    merchant: Merchant
    subject: str


def peer_service(forwarded_client_cert: str, environment: str) -> str:
    """Names the calling service by its certificate; raises Refusal when there is none of ours."""
    match = _PEER.search(forwarded_client_cert)
    if match is None or match["environment"] != environment:
        raise _denied("The caller shows no certificate of this mesh.")
    return match["service"]


def user_principal(payload: str, chosen_merchant: str | None, merchants: Merchants) -> Principal:
    """Reads the merchant out of the access token's payload, as the edge verified it.

    Args:
        payload: x-jwt-payload, base64url of the claims.
        chosen_merchant: the SmartPay-Merchant header, for people of several merchants; None when
            absent. An empty one chooses nobody: a caller who sent it meant somebody.
        merchants: the mounted table.

    Raises:
        Refusal: UNAUTHENTICATED without claims; PERMISSION_DENIED MERCHANT_REQUIRED when they
            lead to no merchant, or to several.
    """
    claims = _claims(payload)
    if claims is None:
        raise Refusal(
            Kind.UNAUTHENTICATED,
            "TOKEN_REFUSED",
            "The call carries no verified token.",
            remedy="Send a Cognito access token as Authorization: Bearer.",
        )
    client_id = str(claims.get("client_id", ""))
    subject = str(claims.get("sub", "") or client_id)
    groups = claims.get("cognito:groups") or []
    of_groups = [g[len(GROUP_PREFIX) :] for g in groups if str(g).startswith(GROUP_PREFIX)]
    candidates = [m for g in of_groups if (m := _entry(merchants, g, client_id)) is not None]
    of_client = merchants.of_client(client_id)
    if not groups and of_client is not None:
        candidates = [of_client]
    if chosen_merchant is not None:
        candidates = [m for m in candidates if m.merchant_id == chosen_merchant]
    if len(candidates) != 1:
        raise Refusal(
            Kind.PERMISSION_DENIED,
            "MERCHANT_REQUIRED",
            "The token leads to no merchant here, or to several.",
            remedy="Use a token of one merchant, or choose one of yours by SmartPay-Merchant.",
            field="smartpay-merchant",
        )
    return Principal(candidates[0], subject)


@functools.lru_cache(maxsize=KEPT_CLAIMS)
def _claims(payload: str) -> Mapping[str, Any] | None:
    """Reads a payload; None when it is none. Whether it is valid now, the edge has asked."""
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def _entry(merchants: Merchants, merchant_id: str, client_id: str) -> Merchant | None:
    """Finds the entry a person works in: the client that signed them in is test or live."""
    entries = [m for m in merchants.merchants if m.merchant_id == merchant_id]
    of_client = merchants.of_client(client_id)
    live = of_client.livemode if of_client is not None else False
    return next((m for m in entries if m.livemode == live), None)


def service_context(encoded: bytes, merchants: Merchants) -> tuple[Principal, RequestContext]:
    """Reads for which merchant another service calls.

    Raises:
        Refusal: PERMISSION_DENIED when the context is missing, damaged or names nobody.
    """
    context = RequestContext()
    try:
        context.ParseFromString(encoded)
    except DecodeError:
        raise _denied("The request context can't be read.") from None
    merchant = merchants.get(context.merchant_id, context.livemode)
    if merchant is None:
        raise _denied("The request context names no merchant of this cell.")
    return Principal(merchant, ""), context


def text_metadata(metadata: Mapping[str, str | bytes], name: str) -> str:
    """Reads one text of the metadata; "" when absent."""
    value = metadata.get(name, "")
    return value if isinstance(value, str) else ""


def binary_metadata(metadata: Mapping[str, str | bytes], name: str) -> bytes:
    """Reads one binary value of the metadata; empty when absent."""
    value = metadata.get(name, b"")
    return value if isinstance(value, bytes) else b""


def _denied(message: str) -> Refusal:
    return Refusal(
        Kind.PERMISSION_DENIED,
        "ACCESS_DENIED",
        message,
        remedy="Call through your sidecar, with a method your service may use.",
    )
