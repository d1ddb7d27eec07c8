"""The audit trail: who changed what about fraud decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VALUE_LETTERS_MAX = 400
"""Longer values are cut, so that a record stays small; a note has at most so many."""


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
        time_ms: when.
        actor: subject of the token, or "system:<work>".
        action: service and method, or the name of our own work.
        subject_id: what was changed.
        request_id: of the call; "" when there was none.
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
    """Lists the facts that differ, by name.

    Args:
        before: facts by field; empty for a new thing.
        after: facts by field; empty for one that is gone.
    """
    return tuple(
        Change(name, _text(before.get(name)), _text(after.get(name)))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )


def _text(value: object) -> str:
    return "" if value is None else str(value)[:VALUE_LETTERS_MAX]
