"""Who serves a payer: the learner or the static order."""

from __future__ import annotations

from enum import StrEnum

from smartpay_router.domain.policy import Mode, Terms
from smartpay_router.domain.splits import PERCENT, lot
from smartpay_router.domain.tenant import Tenant


class ServedBy(StrEnum):
    """What decided the first place."""

    NOBODY = "UNSPECIFIED"
    KILL_SWITCH = "KILL_SWITCH"
    RULE = "RULE"
    SPLIT = "SPLIT"
    STATIC = "STATIC"
    SHADOW = "SHADOW"
    CONTROL = "CONTROL"
    CANARY = "CANARY"
    HOLDOUT = "HOLDOUT"
    LIVE = "LIVE"

    @property
    def is_learner(self) -> bool:
        """Tells whether the learner chose."""
        return self in (ServedBy.CANARY, ServedBy.LIVE)


COMPARED = (ServedBy.CANARY, ServedBy.CONTROL, ServedBy.LIVE, ServedBy.HOLDOUT)
"""What chance assigned, so that the learner can be compared with the static order."""


def learner_share(terms: Terms) -> float:
    """Answers for which share of the payers the learner decides, 0 to 1."""
    percent = {
        Mode.CANARY: terms.canary_percent,
        Mode.LIVE: PERCENT - terms.holdout_percent,
    }.get(terms.mode, 0)
    return percent / PERCENT


def side_of(tenant: Tenant, payer: str, terms: Terms) -> ServedBy:
    """Answers who serves a payer, by a hash: the same side for each payment.

    There is one lot per payer for all modes: who was a canary stays on the learner's side when it
    goes live, and the holdout is cut from the other end.

    Args:
        tenant: whose payer it is.
        payer: a name of the payer.
        terms: the policy's.
    """
    share = learner_share(terms)
    is_learners = share == 1 or (share > 0 and lot("payer", tenant.key, payer) < share)
    match terms.mode:
        case Mode.CANARY:
            return ServedBy.CANARY if is_learners else ServedBy.CONTROL
        case Mode.LIVE:
            return ServedBy.LIVE if is_learners else ServedBy.HOLDOUT
        case Mode.SHADOW:
            return ServedBy.SHADOW
        case Mode.STATIC:
            return ServedBy.STATIC
