"""Refusals: the only errors a caller is meant to see. Pure, so that a domain may raise them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

ERROR_DOMAIN = "smartpay.dev"


class Kind(StrEnum):
    """How a refusal is meant; the names are gRPC's canonical status codes."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    ABORTED = "ABORTED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    INTERNAL = "INTERNAL"


class Refusal(Exception):  # noqa: N818 - the word of the house
    """A call that will not be done, with a reason a machine can switch on.

    Attributes:
        kind: the canonical status.
        reason: a value of the service's or the shared `ErrorReason`, without its prefix.
        message: one sentence for a person; never a secret, never the value that was refused.
        remedy: one sentence on what to do.
        field: path of the field at fault, in the contract's names; None when there is none.
        facts: the variable parts, as texts.
    """

    def __init__(
        self,
        kind: Kind,
        reason: str,
        message: str,
        *,
        remedy: str,
        field: str | None = None,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.field = field
        self.facts = dict(facts or {})
        self.violations: tuple[Violation, ...] = ()


class Violation:
    """One broken rule of the contract: where and why.

    Attributes:
        field: path in the contract's names, for instance "amount.currency_code".
        message: what the field must be.
        rule: the rule's id, for instance "string.max_len".
    """

    def __init__(self, field: str, message: str, rule: str) -> None:
        self.field = field
        self.message = message
        self.rule = rule


def invalid_fields(violations: tuple[Violation, ...]) -> Refusal:
    """Refuses a message that breaks the contract, naming each field at fault."""
    first = violations[0]
    refusal = Refusal(
        Kind.INVALID_ARGUMENT,
        "FIELD_INVALID",
        f"{first.field or 'The request'}: {first.message}.",
        remedy="Correct the fields named in the error and send the request again.",
        field=first.field,
    )
    refusal.violations = violations
    return refusal


def missing_idempotency_key() -> Refusal:
    """Refuses a call that moves money without saying what makes it the same call again."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "IDEMPOTENCY_KEY_REQUIRED",
        "The Idempotency-Key header is missing or is not 1 to 255 printable characters.",
        remedy="Send a fresh Idempotency-Key per payment you intend, the same one when repeating.",
        field="idempotency-key",
    )


def idempotency_key_reused() -> Refusal:
    """Refuses a key or id that was used before with other input."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "IDEMPOTENCY_KEY_REUSED",
        "The idempotency key was used before with another request.",
        remedy="Use a fresh key for a new request, or repeat the first request unchanged.",
        field="idempotency-key",
    )


def idempotency_key_in_flight() -> Refusal:
    """Refuses a repeat that came before the first call was answered."""
    return Refusal(
        Kind.ABORTED,
        "IDEMPOTENCY_KEY_IN_FLIGHT",
        "The first request with this idempotency key is still being worked on.",
        remedy="Wait a second and repeat the same request with the same key.",
        field="idempotency-key",
    )
