"""Stripe's idempotency keys, as docs.stripe.com/api/idempotent_requests tells them.

A key belongs to an account. The first answer is kept once execution began, whatever its status
(a stored 500 is answered for ever: the burnt key). Refusals before execution (401, 429, invalid
parameters, a key in use) are not kept. Keys die after 24 hours.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from smartpay_sandbox.stripe_refusals import invalid, key_in_use, key_reused

LIFE_SECONDS = 24 * 3600
"""Stripe prunes keys after at least 24 hours; the sandbox at once, so that late replays show."""
KEY_LENGTH_MAX = 255
"""Stripe's published limit."""


@dataclass(frozen=True)
class StoredAnswer:
    """The first answer under a key, with what identifies the request it belongs to."""

    fingerprint: str
    status: int
    body: str
    request_id: str
    created: int


def fingerprint_of(path: str, form: Mapping[str, Any]) -> str:
    """Identify a request by endpoint and parameters, whatever their order."""
    canonical = json.dumps([path, form], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class KeyRing:
    """The keys of one account: answers kept, requests under way, and how often each was seen."""

    def __init__(self) -> None:
        self.answers: dict[str, StoredAnswer] = {}
        self.seen: Counter[str] = Counter()
        self.replayed: Counter[str] = Counter()
        self._under_way: set[str] = set()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold the key while its request runs.

        Raises:
            StripeRefusalError: 409 if another request holds it, 400 if it is too long.
        """
        if len(key) > KEY_LENGTH_MAX:
            raise invalid(f"Idempotency keys have at most {KEY_LENGTH_MAX} characters.")
        self.seen[key] += 1
        if key in self._under_way:
            raise key_in_use(key)
        self._under_way.add(key)
        try:
            yield
        finally:
            self._under_way.discard(key)

    def recall(self, key: str, fingerprint: str, now: int) -> StoredAnswer | None:
        """Return the answer kept under a living key.

        Raises:
            StripeRefusalError: 400 idempotency_error if the key belongs to another request.
        """
        stored = self.answers.get(key)
        if stored is None or now - stored.created >= LIFE_SECONDS:
            return None
        if stored.fingerprint != fingerprint:
            raise key_reused(key)
        self.replayed[key] += 1
        return stored

    def dump(self) -> dict[str, Any]:
        """List every key seen, with counts and the status kept (null: nothing was kept)."""
        return {
            key: {
                "seen": self.seen[key],
                "replayed": self.replayed[key],
                "status": self.answers[key].status if key in self.answers else None,
                "created": self.answers[key].created if key in self.answers else None,
            }
            for key in {**self.answers, **self.seen}
        }
