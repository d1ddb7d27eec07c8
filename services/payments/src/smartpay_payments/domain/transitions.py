"""The state machine of payments as one table: (status, happening) -> (status, effects).

Pure: nothing here calls anybody. The saga looks up what may follow, and does what the effects
say; a happening that is not in the table for a status is a bug and raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from smartpay_payments.domain.payment import Payment, RewardMark, Status, replace


class Happening(StrEnum):
    """What can happen to a payment: a merchant's command, a processor's word, or time."""

    AMEND = "amend"
    """The merchant asks for something else before anything is charged."""
    CONFIRM = "confirm"
    """The merchant lets it be charged, or the payer chose a rail: an attempt is stored."""
    HOLD = "hold"
    """Fraud wants a person to look first."""
    APPROVE = "approve"
    """That person lets it be charged: an attempt is stored."""
    BLOCK = "block"
    """Fraud, or the person who looked, refuses it."""
    AUTHORIZED = "authorized"
    CAPTURED = "captured"
    ASKED_TO_ACT = "asked_to_act"
    """The processor wants the payer to act."""
    WORKING = "working"
    """The processor says that it is still at work."""
    DECLINED = "declined"
    CASCADED = "cascaded"
    """Softly declined or fenced, and the next attempt is stored in the same commit."""
    OFFERED = "offered"
    """Declined on this rail, and the payer may choose another."""
    CANCELED = "canceled"
    """Given up at the processor: it can never succeed."""
    SILENT = "silent"
    """No usable answer: the charge may exist, or not."""
    GAVE_UP = "gave_up"
    """Recovery has asked as long as it was told to."""
    CAPTURE = "capture"
    """The merchant takes authorized money: the command is stored."""
    CANCEL = "cancel"
    """The merchant gives the payment up: the command is stored."""
    DROPPED = "dropped"
    """Given up, by the merchant or by time, before any processor was asked."""


class Effect(StrEnum):
    """What a step makes the saga do."""

    CALL = "call"
    """Call the processor once the step is stored."""
    STOP_WAITING = "stop_waiting"
    """The payer has nothing to do any more."""
    STOP_LOOKING = "stop_looking"
    """The outcome is known: recovery plans no more looks for it."""
    FREE_ORDER = "free_order"
    """No money was taken or can be: the merchant's order id may be used again."""
    HOLD_ORDER = "hold_order"
    """Money was taken after all: the order id is held again, or the step can't be."""
    MARK_REWARD = "mark_reward"
    """The kind of the reward's mark is fixed with this step, for ever."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a happening leads."""

    status: Status
    effects: frozenset[Effect]


def _step(status: Status, *effects: Effect) -> Step:
    return Step(status, frozenset(effects))


_SENT = _step(Status.PROCESSING, Effect.CALL, Effect.STOP_WAITING)
_KNOWN = (Effect.STOP_WAITING, Effect.STOP_LOOKING)
_CAPTURED = _step(Status.SUCCEEDED, *_KNOWN, Effect.MARK_REWARD)
_AUTHORIZED = _step(Status.REQUIRES_CAPTURE, *_KNOWN)
_FAILED = _step(Status.FAILED, *_KNOWN, Effect.FREE_ORDER)
_CANCELED = _step(Status.CANCELED, *_KNOWN, Effect.FREE_ORDER)
_BLOCKED = _step(Status.BLOCKED, *_KNOWN, Effect.FREE_ORDER)
_TO_ACT = _step(Status.REQUIRES_ACTION, Effect.STOP_LOOKING)
_OFFERED = _step(Status.REQUIRES_CONFIRMATION, *_KNOWN)
_SILENT = _step(Status.UNKNOWN)
_PERSON = _step(Status.NEEDS_REVIEW, *_KNOWN)
_CAPTURED_LATE = _step(Status.SUCCEEDED, *_KNOWN, Effect.MARK_REWARD, Effect.HOLD_ORDER)
_AUTHORIZED_LATE = _step(Status.REQUIRES_CAPTURE, *_KNOWN, Effect.HOLD_ORDER)

# What a processor may turn out to have done, wherever a call was on its way.
_OUTCOMES = {
    Happening.AUTHORIZED: _AUTHORIZED,
    Happening.CAPTURED: _CAPTURED,
    Happening.ASKED_TO_ACT: _TO_ACT,
    Happening.WORKING: _step(Status.PROCESSING),
    Happening.DECLINED: _FAILED,
    Happening.CASCADED: _SENT,
    Happening.OFFERED: _OFFERED,
    Happening.CANCELED: _CANCELED,
    Happening.SILENT: _SILENT,
    Happening.GAVE_UP: _PERSON,
}
# What a payment can be when it is first stored.
BEGINNINGS = frozenset(
    {Status.REQUIRES_CONFIRMATION, Status.IN_REVIEW, Status.PROCESSING, Status.BLOCKED}
)
TABLE: dict[tuple[Status, Happening], Step] = {
    **{((Status.PROCESSING), happening): step for happening, step in _OUTCOMES.items()},
    **{((Status.UNKNOWN), happening): step for happening, step in _OUTCOMES.items()},
    (Status.REQUIRES_CONFIRMATION, Happening.AMEND): _step(Status.REQUIRES_CONFIRMATION),
    (Status.REQUIRES_CONFIRMATION, Happening.CONFIRM): _SENT,
    (Status.REQUIRES_CONFIRMATION, Happening.HOLD): _step(Status.IN_REVIEW, Effect.STOP_WAITING),
    (Status.REQUIRES_CONFIRMATION, Happening.BLOCK): _BLOCKED,
    (Status.REQUIRES_CONFIRMATION, Happening.DROPPED): _CANCELED,
    (Status.IN_REVIEW, Happening.APPROVE): _SENT,
    (Status.IN_REVIEW, Happening.BLOCK): _BLOCKED,
    (Status.IN_REVIEW, Happening.DROPPED): _CANCELED,
    # The payer acted, or did not, or chose another rail (cascaded, after a fence).
    (Status.REQUIRES_ACTION, Happening.ASKED_TO_ACT): _TO_ACT,
    (Status.REQUIRES_ACTION, Happening.AUTHORIZED): _AUTHORIZED,
    (Status.REQUIRES_ACTION, Happening.CAPTURED): _CAPTURED,
    (Status.REQUIRES_ACTION, Happening.WORKING): _step(Status.PROCESSING, Effect.STOP_WAITING),
    (Status.REQUIRES_ACTION, Happening.DECLINED): _FAILED,
    (Status.REQUIRES_ACTION, Happening.CASCADED): _SENT,
    (Status.REQUIRES_ACTION, Happening.OFFERED): _OFFERED,
    (Status.REQUIRES_ACTION, Happening.CANCELED): _CANCELED,
    (Status.REQUIRES_ACTION, Happening.CANCEL): _SENT,
    # An authorization may lapse, or be captured by other hands than ours.
    (Status.REQUIRES_CAPTURE, Happening.CAPTURE): _SENT,
    (Status.REQUIRES_CAPTURE, Happening.CANCEL): _SENT,
    (Status.REQUIRES_CAPTURE, Happening.CAPTURED): _CAPTURED,
    (Status.REQUIRES_CAPTURE, Happening.CANCELED): _CANCELED,
    # An operator decides with evidence, or the processor speaks after all.
    (Status.NEEDS_REVIEW, Happening.CAPTURED): _CAPTURED,
    (Status.NEEDS_REVIEW, Happening.AUTHORIZED): _AUTHORIZED,
    (Status.NEEDS_REVIEW, Happening.DECLINED): _FAILED,
    (Status.NEEDS_REVIEW, Happening.CANCELED): _CANCELED,
    # A processor shows money where there was to be none; see `late_charges`.
    (Status.FAILED, Happening.CAPTURED): _CAPTURED_LATE,
    (Status.FAILED, Happening.AUTHORIZED): _AUTHORIZED_LATE,
    (Status.CANCELED, Happening.CAPTURED): _CAPTURED_LATE,
    (Status.CANCELED, Happening.AUTHORIZED): _AUTHORIZED_LATE,
}
# Which status may follow which.
NEXT: dict[Status, frozenset[Status]] = {
    status: frozenset(step.status for (origin, _), step in TABLE.items() if origin is status)
    for status in Status
}


def apply(payment: Payment, happening: Happening, reason: str = "") -> Payment:
    """Answers the payment after a happening.

    Args:
        payment: as stored, with its attempt already brought up to date.
        happening: what happened.
        reason: why the payment stands where it then stands; empty when the status says it all.

    Raises:
        ValueError: the table has no such step.
    """
    step = TABLE.get((payment.status, happening))
    if step is None:
        raise ValueError(
            f"{payment.payment_id}: {happening.value} can't happen in {payment.status}"
        )
    changes: dict[str, Any] = {"status": step.status, "status_reason": reason}
    if Effect.STOP_WAITING in step.effects:
        changes |= {"next_action": None, "action_expire_time": None}
    if Effect.STOP_LOOKING in step.effects:
        changes |= {"checks": 0, "retry_time": None}
    if Effect.MARK_REWARD in step.effects and payment.earns_reward:
        changes["reward_mark"] = RewardMark.RECEIPT
    return replace(payment, **changes)


def calls_processor(status: Status, happening: Happening) -> bool:
    """Tells whether a step sends something to a processor."""
    return Effect.CALL in TABLE[status, happening].effects
