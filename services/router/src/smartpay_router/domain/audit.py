"""The audit trail: who changed what about routing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VALUE_LETTERS_MAX = 400
"""Longer values are cut, so that a record stays small; the version itself is kept whole."""


@dataclass(frozen=True, slots=True)
class Change:
    """One field's value before and after; "" where there is none."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One change of one thing, and who made it.

    Attributes:
        audit_id: ours: aud_, the cell, 24 characters.
        merchant_id: whose thing it is.
        livemode: real money or test.
        time_ms: when, in milliseconds since the epoch.
        actor: subject of the token, or the calling service.
        action: service and method.
        subject_id: what was changed.
        request_id: of the call.
        changes: what changed, by field.
    """

    audit_id: str
    merchant_id: str
    livemode: bool
    time_ms: int
    actor: str
    action: str
    subject_id: str
    request_id: str
    changes: tuple[Change, ...]


def changes_between(
    before: Mapping[str, object], after: Mapping[str, object]
) -> tuple[Change, ...]:
    """Lists the facts that differ, by name."""
    return tuple(
        Change(name, _text(before.get(name)), _text(after.get(name)))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)[:VALUE_LETTERS_MAX]
