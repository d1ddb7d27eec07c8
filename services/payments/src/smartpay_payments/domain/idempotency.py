"""Idempotency: a key leads to one id for ever, and to one request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


def request_hash(serialized: bytes) -> str:
    """Hashes the canonical form of a request; two requests are the same when this is."""
    return hashlib.sha256(serialized).hexdigest()


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key as stored: which operation it made, and of which request."""

    operation_id: str
    """Derived from merchant, livemode, operation and key."""
    payment_id: str
    request_hash: str
