"""Reads Stripe's events. Rules: https://docs.stripe.com/webhooks#verify-manually."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from smartpay_payments.domain.webhooks import (
    Notice,
    Topic,
    WebhookAccount,
    body_malformed,
    is_of_now,
    signature_refused,
)

SIGNATURE_HEADER = "stripe-signature"
SIGNATURES_MAX = 16
"""Stripe signs once per secret, of which an endpoint has two at most while it rotates."""
_TIME_DIGITS_MAX = 12

# What is not listed concerns no payment, and is taken without effect: endpoints may get all types.
TOPICS: Mapping[str, Topic] = {
    "payment_intent.amount_capturable_updated": Topic.CHARGE,
    "payment_intent.canceled": Topic.DECLINE,
    "payment_intent.payment_failed": Topic.DECLINE,
    "payment_intent.processing": Topic.CHARGE,
    "payment_intent.requires_action": Topic.CHARGE,
    "payment_intent.succeeded": Topic.CHARGE,
    "charge.captured": Topic.CHARGE,
    "charge.expired": Topic.DECLINE,
    "charge.failed": Topic.DECLINE,
    "charge.pending": Topic.CHARGE,
    "charge.succeeded": Topic.CHARGE,
    "charge.updated": Topic.FEE,
    "charge.refunded": Topic.REFUND,
    "charge.refund.updated": Topic.REFUND,
    "refund.created": Topic.REFUND,
    "refund.failed": Topic.REFUND,
    "refund.updated": Topic.REFUND,
    "charge.dispute.closed": Topic.DISPUTE,
    "charge.dispute.created": Topic.DISPUTE,
    "charge.dispute.funds_reinstated": Topic.DISPUTE,
    "charge.dispute.funds_withdrawn": Topic.DISPUTE,
    "charge.dispute.updated": Topic.DISPUTE,
}


class _Subject(msgspec.Struct):
    """The object an event is about: an intent, or what names its intent."""

    id: str = ""
    object: str = ""
    metadata: dict[str, str] | None = None
    payment_intent: str | None = None


class _Data(msgspec.Struct):
    object: dict[str, Any]


class _Event(msgspec.Struct):
    id: str
    type: str
    livemode: bool
    data: _Data
    account: str | None = None
    """Only in events of accounts connected to ours, none of which is a merchant's here."""


_decode = msgspec.json.Decoder(_Event).decode


class StripeNotices:
    """The port `NoticeReader` for Stripe.

    Args:
        clock: the time, aware.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock

    async def read(
        self, account: WebhookAccount, headers: Mapping[str, str], body: bytes
    ) -> Notice:
        """Checks signature, time and mode, and reads the event."""
        self._verify(account, headers.get(SIGNATURE_HEADER, ""), body)
        try:
            event = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise body_malformed() from None
        if event.livemode is not account.livemode or event.account is not None:
            raise signature_refused()
        topic = TOPICS.get(event.type)
        if topic is None:
            return Notice(event.id, event.type, None)
        try:
            subject = msgspec.convert(event.data.object, _Subject)
        except msgspec.ValidationError:
            raise body_malformed() from None
        intent = subject.id if subject.object == "payment_intent" else subject.payment_intent
        return Notice(
            event_id=event.id,
            event_type=event.type,
            topic=topic,
            payment_id=(subject.metadata or {}).get("payment_id", ""),
            processor_payment_id=intent or "",
        )

    def _verify(self, account: WebhookAccount, header: str, body: bytes) -> None:
        stamp, signatures = _parts(header)
        if not stamp or not signatures:
            raise signature_refused()
        signed = stamp.encode() + b"." + body
        genuine = False
        # No early end: how long it takes tells nothing about which secret fits.
        for secret in account.secrets:
            wanted = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
            for signature in signatures:
                genuine |= hmac.compare_digest(wanted.encode(), signature.encode())
        if not genuine or not is_of_now(datetime.fromtimestamp(int(stamp), UTC), self._clock()):
            raise signature_refused()


def _parts(header: str) -> tuple[str, list[str]]:
    """Reads "t=<seconds>,v1=<hex>,v1=<hex>"; older schemes are not looked at."""
    stamp, signatures = "", []
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name == "t" and value.isascii() and value.isdigit() and len(value) < _TIME_DIGITS_MAX:
            stamp = value
        elif name == "v1" and value.isascii():
            signatures.append(value)
    return stamp, signatures[:SIGNATURES_MAX]
