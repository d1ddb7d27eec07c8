"""Why an account stands where it stands, in words; codes of the steering become sentences here."""

from __future__ import annotations

import math

from smartpay_router.domain.breakers import State
from smartpay_router.domain.learner import VARIANCE_FLOOR
from smartpay_router.domain.modes import ServedBy
from smartpay_router.domain.steering import Place, Reason

LOSS_SHARE_SHOWN = 0.0001
"""Less than the sentence's two digits of a percent is not worth a word."""

_BY_STATIC_ORDER = {
    ServedBy.KILL_SWITCH: "First in the static order, because the kill switch is on.",
    ServedBy.STATIC: "First in the static order, which the policy's mode serves.",
    ServedBy.SHADOW: "First in the static order; the learner only watches.",
    ServedBy.CONTROL: "First in the static order, which serves payers that are no canaries.",
    ServedBy.HOLDOUT: "First in the static order, which serves this payer to compare with.",
}

_BY_LEARNER = {
    Reason.ONLY: "It is the only account that can make this charge.",
    Reason.LEADS: "Number 1 of {count} by expected value after fees.",
    Reason.PROVEN: "Shown to be better than the first of the static order.",
    Reason.TOKEN: "Promising and not yet proven: tried on the exploration budget.",
    Reason.BASELINE_KEPT: "First in the static order; what promises more is not yet proven.",
    Reason.DRAWN: "Drawn at random to keep learning.",
    Reason.PROBE: "A probe: its processor failed, and may work again.",
    Reason.ALL_OPEN: "No processor is believed to work; this one is the least bad.",
}

_ORDERED_BY_LEARNER = (ServedBy.RULE, ServedBy.SPLIT, ServedBy.CANARY, ServedBy.LIVE)


def first_place(served_by: ServedBy, rule_id: str, place: Place | None, count: int) -> str:
    """Says why an account stands first.

    Args:
        served_by: what decided it.
        rule_id: the rule or split that did.
        place: the learner's view; None when it was not asked.
        count: how many accounts there are.
    """
    if count == 1:
        return _BY_LEARNER[Reason.ONLY]
    if served_by is ServedBy.RULE:
        return f"The rule {rule_id} prefers it."
    if served_by is ServedBy.SPLIT:
        return f"Drawn from the volume split {rule_id}."
    if place is None or served_by in _BY_STATIC_ORDER:
        return _BY_STATIC_ORDER[served_by]
    return _BY_LEARNER[Reason(place.reasons[0])].format(count=count)


def later_place(served_by: ServedBy, number: int, count: int) -> str:
    """Says why an account stands behind others; its number counts from 1."""
    by = "by expected value after fees" if served_by in _ORDERED_BY_LEARNER else "in static order"
    return f"Number {number} of {count} {by}."


def numbers(
    place: Place | None, fee_minor: int, amount_minor: int, currency: str, loss_share: float
) -> list[str]:
    """Says what is known of an account: success, costs, and whether its processor works.

    Args:
        place: the learner's view; None when it was not asked.
        fee_minor: what the account takes, in minor units.
        amount_minor: the amount.
        currency: of both.
        loss_share: the part of a success that chargebacks are expected to take back, 0 to 1.
    """
    said = []
    if place is not None:
        variance = max(place.success * (1 - place.success), VARIANCE_FLOOR)
        said.append(
            f"Expected to succeed in {place.success:.1%} of such charges,"
            f" give or take {100 * place.width * math.sqrt(variance):.1f} points."
        )
    losses = (
        f", and chargebacks may take {loss_share:.2%}" if loss_share >= LOSS_SHARE_SHOWN else ""
    )
    said.append(f"Its fee is {fee_minor} of {amount_minor} minor units {currency}{losses}.")
    if place is not None and place.breaker is not State.CLOSED:
        said.append("Its processor was failing.")
    return said
