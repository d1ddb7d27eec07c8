"""One event on its way to one endpoint: what is signed, when it is sent again, when that ends."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.webhook_endpoints import Endpoint

EXCERPT_LETTERS_MAX = 1000
"""Kept of an endpoint's answer: enough for an error message, too little for a page."""
GONE = 410
"""By Standard Webhooks an endpoint that answers so wants nothing more."""


class DeliveryStatus(StrEnum):
    """Where a delivery stands; the names are the contract's."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one endpoint. The event itself stays in the log."""

    webhook_delivery_id: str
    """Derived from event and endpoint, so that no event is delivered as two."""
    webhook_endpoint_id: str
    merchant_id: str
    livemode: bool
    payment_id: str
    version: int
    """Of the payment, which is the event's sequence."""
    event_type: str
    create_time: datetime
    status: DeliveryStatus = DeliveryStatus.PENDING
    tries: int = 0
    round_tries: int = 0
    """Tries since it was planned, or since it was sent again by hand."""
    next_try_time: datetime | None = None
    last_try_time: datetime | None = None
    response_code: int = 0
    response_excerpt: str = ""
    failure_reason: str = ""

    @property
    def event_id(self) -> str:
        """The event's id, as Watch spells it."""
        return f"evt_{self.payment_id.removeprefix('pay_')}_{self.version}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one sending."""

    code: int = 0
    """HTTP status; 0 when there was no answer."""
    excerpt: str = ""
    failure_reason: str = ""
    """Why there was no answer, for instance timeout or address_refused."""

    @property
    def is_taken(self) -> bool:
        """Tells whether the endpoint took the event."""
        return 200 <= self.code < 300


@dataclass(frozen=True, slots=True)
class Persistence:
    """How long a delivery is tried, and an endpoint put up with."""

    pauses_seconds: tuple[float, ...]
    """Between tries; after the last a delivery is given up."""
    disable_after: timedelta
    """An endpoint that has failed for so long without a break is disabled."""


def signature(secrets: Sequence[bytes], delivery_id: str, sent: datetime, body: bytes) -> str:
    """Signs as Standard Webhooks does, once per secret.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    signed = f"{delivery_id}.{int(sent.timestamp())}.".encode() + body
    return " ".join(
        f"v1,{base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()}"
        for secret in secrets
    )


def after_try(
    delivery: Delivery, reply: Reply, now: datetime, persistence: Persistence, stretch: float
) -> Delivery:
    """Answers a delivery after it was sent.

    Args:
        delivery: as it was.
        reply: what came of it.
        now: the time.
        persistence: when to send again.
        stretch: factor of the pause, around 1 and random, so that what failed together doesn't
            come back together.
    """
    tried = replace(
        delivery,
        tries=delivery.tries + 1,
        round_tries=delivery.round_tries + 1,
        last_try_time=now,
        response_code=reply.code,
        response_excerpt=reply.excerpt,
        failure_reason=reply.failure_reason,
        next_try_time=None,
    )
    if reply.is_taken:
        return replace(tried, status=DeliveryStatus.SUCCEEDED)
    if tried.round_tries > len(persistence.pauses_seconds):
        return given_up(tried)
    pause = timedelta(seconds=persistence.pauses_seconds[tried.round_tries - 1] * stretch)
    return replace(tried, next_try_time=now + pause)


def endpoint_after(
    endpoint: Endpoint, reply: Reply, now: datetime, persistence: Persistence
) -> Endpoint:
    """Answers an endpoint after something was sent there; the same one when nothing changes."""
    if reply.is_taken:
        if endpoint.failing_since_time is None:
            return endpoint
        return _changed(endpoint, failing_since_time=None)
    if reply.code == GONE:
        return _disabled(endpoint, "it answered 410 Gone", now)
    if endpoint.failing_since_time is None:
        return _changed(endpoint, failing_since_time=now)
    if now - endpoint.failing_since_time < persistence.disable_after:
        return endpoint
    last = f"status {reply.code}" if reply.code else reply.failure_reason
    since = endpoint.failing_since_time.strftime("%Y-%m-%dT%H:%M:%SZ")
    return _disabled(endpoint, f"every delivery has failed since {since}, last by {last}", now)


def given_up(delivery: Delivery) -> Delivery:
    """Answers a delivery that is not sent again by itself."""
    return replace(delivery, status=DeliveryStatus.FAILED, next_try_time=None)


def sent_again(delivery: Delivery, now: datetime) -> Delivery:
    """Answers a delivery that is to be sent anew, with the whole schedule before it."""
    return replace(
        delivery, status=DeliveryStatus.PENDING, round_tries=0, next_try_time=now, failure_reason=""
    )


def _changed(endpoint: Endpoint, failing_since_time: datetime | None) -> Endpoint:
    return replace(endpoint, failing_since_time=failing_since_time, version=endpoint.version + 1)


def _disabled(endpoint: Endpoint, why: str, now: datetime) -> Endpoint:
    return replace(
        endpoint,
        enabled=False,
        disabled_reason=why,
        update_time=now,
        version=endpoint.version + 1,
    )


def delivery_not_found() -> Refusal:
    """Refuses a delivery that is not this endpoint's, or no longer kept."""
    return Refusal(
        Kind.NOT_FOUND,
        "WEBHOOK_DELIVERY_NOT_FOUND",
        "There is no such delivery to this endpoint.",
        remedy="List the endpoint's deliveries; they are kept for some weeks.",
        field="webhook_delivery_id",
    )


def event_expired() -> Refusal:
    """Refuses to send what is no longer kept."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "EVENT_EXPIRED",
        "The event is older than events are kept.",
        remedy="Read the payment by GetPayment.",
        field="webhook_delivery_id",
    )


def endpoint_disabled() -> Refusal:
    """Refuses to send to an endpoint that gets nothing."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "WEBHOOK_ENDPOINT_DISABLED",
        "The endpoint is disabled, so nothing is sent there.",
        remedy="Enable it by UpdateWebhookEndpoint, then send again.",
        field="webhook_endpoint_id",
    )
