"""Tells genuine webhooks from others and reads them: the merchant's side of Standard Webhooks.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from smartpay_client import limits
from smartpay_client._contract import Payment
from smartpay_client.errors import WebhookRefused
from smartpay_client.wire import UnreadableError, decode, parse

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


@dataclass(frozen=True)
class WebhookEvent:
    """What happened to a payment: CloudEvents 1.0.

    Events may come twice and in any order: apply one if its sequence is newer than the last one
    applied of the same payment, and never wait for a gap.

    Attributes:
        webhook_id: The same whenever this event is sent to this endpoint.
        id: Of the event, the same for all endpoints.
        source: Where it comes from.
        type: What happened, for instance "smartpay.payment.succeeded.v1". Types may be added.
        subject: The payment's id.
        time: When it happened.
        sequence: Counts the changes of this payment from 1.
        merchant_id: The merchant.
        livemode: True for live credentials.
        payment: The whole payment after the change, without ledger and reward.
    """

    webhook_id: str
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    sequence: int
    merchant_id: str
    livemode: bool
    payment: Payment


@dataclass(frozen=True)
class _Envelope:
    """The event as it is sent; CloudEvents has names without capitals."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    sequence: int
    merchantid: str
    livemode: bool
    data: Payment


def verify(
    secrets: str | Iterable[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: datetime | None = None,
) -> WebhookEvent:
    """Reads a webhook if it is genuine and fresh.

    Args:
        secrets: the endpoint's whsec_... secret, or several while it is rotated.
        headers: of the request, in any case.
        body: of the request, byte for byte as it came.
        now: the time; the machine's when absent.

    Raises:
        WebhookRefused: answer 400 and do nothing.
        ValueError: a secret is none.
    """
    keys = [_key(secret) for secret in ([secrets] if isinstance(secrets, str) else secrets)]
    lower = {name.lower(): value for name, value in headers.items()}
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    webhook_id, sent, signatures = (lower.get(name, "") for name in names)
    if not (webhook_id and sent and signatures):
        raise _refused("HEADER_MISSING", f"It has not all of {', '.join(names)}.")
    signed = _bytes(f"{webhook_id}.{sent}.") + body
    given = [
        _bytes(value)
        for version, _, value in (each.partition(",") for each in signatures.split())
        if version == "v1"
    ]
    # All are compared, each in constant time, so that the time taken tells nothing.
    found = [
        hmac.compare_digest(base64.b64encode(hmac.digest(key, signed, hashlib.sha256)), value)
        for key in keys
        for value in given
    ]
    if not any(found):
        raise _refused("SIGNATURE_REFUSED", "No signature of it is by a secret of the endpoint.")
    seconds = time.time() if now is None else now.timestamp()
    if not _TIMESTAMP.fullmatch(sent) or (
        abs(seconds - int(sent)) > limits.WEBHOOK_TOLERANCE_SECONDS
    ):
        raise _refused("TIMESTAMP_REFUSED", "It was sent too long ago, or our clock is wrong.")
    try:
        event = decode(_Envelope, parse(body))
    except (UnreadableError, TypeError) as error:  # a TypeError names an attribute that is absent
        raise _refused("EVENT_UNREADABLE", "It is genuine and not of a known shape.") from error
    return WebhookEvent(
        webhook_id=webhook_id,
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=event.time,
        sequence=event.sequence,
        merchant_id=event.merchantid,
        livemode=event.livemode,
        payment=event.data,
    )


def _bytes(header: str) -> bytes:
    """Answers a header's bytes, even those that were no UTF-8 and that a server spelt so."""
    return header.encode("utf-8", "surrogateescape")


def _key(secret: str) -> bytes:
    prefix, _, text = secret.partition("_")
    try:
        key = base64.b64decode(text, validate=True) if prefix == "whsec" else b""
    except ValueError:
        key = b""
    if not key:
        raise ValueError("a secret is whsec_ and base64, as webhook_endpoints.create answered it")
    return key


def _refused(reason: str, detail: str) -> WebhookRefused:
    return WebhookRefused(detail, reason=reason, remedy="Answer 400 and do nothing.")
