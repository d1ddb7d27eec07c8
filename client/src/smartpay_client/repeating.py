"""When a call is made again, and how long it waits before."""

from __future__ import annotations

from smartpay_client import limits
from smartpay_client.errors import (
    DeadlineExceeded,
    RateLimited,
    ServerFault,
    SmartPayError,
    Unavailable,
)
from smartpay_client.method import Method
from smartpay_client.plan import Lost

IN_FLIGHT = "IDEMPOTENCY_KEY_IN_FLIGHT"


def backoff(tries: int, asked_for: float | None, chance: float) -> float:
    """Answers a pause in seconds: a random share of a doubling bound ("full jitter").

    From "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        tries: made so far, from 1.
        asked_for: Retry-After in seconds; the pause is never shorter.
        chance: from 0 to 1.
    """
    bound = min(limits.PAUSE_SECONDS_MAX, limits.PAUSE_SECONDS * 2.0 ** (tries - 1))
    return (asked_for or 0.0) + bound * chance


def is_worth_repeating(method: Method, failure: SmartPayError, reply: object) -> bool:
    """Tells whether another try can help and harms nothing.

    Args:
        method: what was called.
        failure: how it failed.
        reply: what the transport said.
    """
    if isinstance(reply, Lost) and reply.hopeless:
        return False
    if failure.reason == IN_FLIGHT or isinstance(failure, RateLimited):
        return True  # refused before anything was done
    if isinstance(reply, Lost) and not reply.reached:
        return True
    return method.may_repeat and isinstance(failure, Unavailable | DeadlineExceeded | ServerFault)
