"""What a call can raise: one class per family, each with the edge's own words (RFC 9457).

A declined payment is no error: it is a payment whose `declined` is true.
"""

# ruff: noqa: N818 - callers read `except NotFound`

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any


@dataclass(frozen=True)
class FieldProblem:
    """One field at fault, as the edge names it: in REST's spelling, for instance captureMethod."""

    field: str
    detail: str
    reason: str = ""


class SmartPayError(Exception):
    """A call that came to no result.

    Attributes:
        status: HTTP status; 0 when no answer came.
        reason: stable code to switch on, for instance PAYMENT_NOT_FOUND; unknown ones are kept.
        detail: one sentence for a person.
        remedy: one sentence on what to do.
        field: the field at fault in REST's spelling; empty when there is none.
        fields: every field at fault, when there are several.
        request_id: finds the call in the logs behind the edge; empty when no answer came.
        retry_after: seconds the edge asked to wait; None when it did not.
        idempotency_key: of the call; repeat the same call with it and nothing happens twice.
            Empty for calls that take none.
    """

    default_reason = "UNEXPECTED"

    def __init__(
        self,
        detail: str,
        *,
        status: int = 0,
        reason: str = "",
        remedy: str = "",
        field: str = "",
        fields: tuple[FieldProblem, ...] = (),
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.reason = reason or self.default_reason
        self.detail = detail
        self.remedy = remedy
        self.field = field
        self.fields = fields
        self.request_id = request_id
        self.retry_after = retry_after
        self.idempotency_key = ""
        super().__init__(detail)

    def __str__(self) -> str:
        """Says all that a log needs, and nothing secret."""
        parts = [f"{self.reason}: {self.detail}", self.remedy]
        if self.request_id:
            parts.append(f"(status {self.status}, request {self.request_id})")
        return " ".join(part for part in parts if part)


class InvalidRequest(SmartPayError):
    """The request breaks a rule; `field` and `remedy` say which and what to do."""

    default_reason = "FIELD_INVALID"


class TokenRefused(SmartPayError):
    """The issuer refused the client, or the edge its token, even a fresh one."""

    default_reason = "TOKEN_REFUSED"


class AccessDenied(SmartPayError):
    """The token is good and does not allow this call."""

    default_reason = "ACCESS_DENIED"


class NotFound(SmartPayError):
    """No such thing of this merchant."""

    default_reason = "NOT_FOUND"


class Conflict(SmartPayError):
    """The thing's state forbids it, or somebody changed it at the same time."""

    default_reason = "FAILED_PRECONDITION"


class IdempotencyKeyReused(SmartPayError):
    """The key or id was used before with another request."""

    default_reason = "IDEMPOTENCY_KEY_REUSED"


class RateLimited(SmartPayError):
    """Too many calls, even after waiting as often as one call does."""

    default_reason = "RATE_LIMITED"


class Unavailable(SmartPayError):
    """The edge or a service behind it can't be reached; the outcome may be unknown."""

    default_reason = "UNAVAILABLE"


class DeadlineExceeded(SmartPayError):
    """The time was up before an answer came; the outcome may be unknown."""

    default_reason = "DEADLINE_EXCEEDED"


class ServerFault(SmartPayError):
    """A fault on the other side, or an answer that can't be understood."""

    default_reason = "INTERNAL"


class StreamBroken(SmartPayError):
    """A streamed answer ended before it was complete, or said itself that it failed."""

    default_reason = "STREAM_BROKEN"


class WebhookRefused(SmartPayError):
    """What came as a webhook is not genuine, too old, or unreadable: answer 400, do nothing."""

    default_reason = "SIGNATURE_REFUSED"


_BY_REASON: Mapping[str, type[SmartPayError]] = {
    "IDEMPOTENCY_KEY_REUSED": IdempotencyKeyReused,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}
_BY_STATUS: Mapping[int, type[SmartPayError]] = {
    401: TokenRefused,
    403: AccessDenied,
    404: NotFound,
    408: DeadlineExceeded,
    409: Conflict,
    429: RateLimited,
    499: DeadlineExceeded,
    502: Unavailable,
    503: Unavailable,
    504: DeadlineExceeded,
}


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> SmartPayError:
    """Makes the error of an answer; one without problem details gets its family's words.

    Args:
        status: not 2xx.
        headers: with lower-case names.
        body: application/problem+json, or whatever a proxy on the way wrote.
    """
    problem = _json_object(body)
    reason = _text(problem, "reason")
    family = _BY_REASON.get(reason) or _BY_STATUS.get(status)
    if family is None:
        family = InvalidRequest if 400 <= status < 500 else ServerFault
    return family(
        _text(problem, "detail") or f"The answer was HTTP {status} without an explanation.",
        status=status,
        reason=reason,
        remedy=_text(problem, "remedy"),
        field=_text(problem, "field"),
        fields=_fields(problem.get("errors")),
        request_id=_text(problem, "requestId") or headers.get("x-request-id", ""),
        retry_after=retry_after(headers),
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Reads Retry-After: seconds, or a date against the answer's own; RFC 9110 section 10.2.3."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one with and one without a time zone
        return None


def _fields(errors: object) -> tuple[FieldProblem, ...]:
    if not isinstance(errors, list):
        return ()
    return tuple(
        FieldProblem(_text(error, "field"), _text(error, "detail"), _text(error, "reason"))
        for error in errors
        if isinstance(error, dict)
    )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _text(problem: Mapping[str, Any], name: str) -> str:
    value = problem.get(name)
    return value if isinstance(value, str) else ""
