"""The negative controls: a service that breaks a promise must be caught, each time.

Each control has the trouble that its sabotage can't stand, and little else, so that it is short.
The same trouble without the sabotage must leave nothing to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smartpay_sandbox.chaos_orders import ORDERS, card_charged
from smartpay_sandbox.chaos_round import RANDOM, Kill, Plan
from smartpay_sandbox.sabotage import PROMISES

CARDS = tuple(o for o in ORDERS if o.story is card_charged)
ORDERS_MIN = 40
SETTLE_SECONDS = 8.0  # several of recovery's pauses
STUCK = "stuck"  # what is stuck only the end of patience tells

Rules = Sequence[Mapping[str, Any]]
_CHARGES = {"method": "POST", "path_prefix": "/v1/payment_intents"}
_LOST: Rules = ({"kind": "drop_after_commit", "probability": 0.4, **_CHARGES},)
_BURNT: Rules = ({"kind": "error_after", "probability": 0.4, **_CHARGES},)
_SLOW: Rules = (
    # Taken only after the service has looked for it.
    {"kind": "slow", "when": "before", "delay_ms": 6000, "probability": 0.3, **_CHARGES},
)


@dataclass(frozen=True)
class Control:
    """The trouble in which a broken promise shows.

    Attributes:
        stripe: what Stripe does wrong.
        kills: how lives end.
        gives_up: share of the callers who never come back after the first error.
    """

    stripe: Rules = ()
    kills: Sequence[Kill] = ()
    gives_up: float = 1 / 3


CONTROLS = {
    "new-key-per-retry": Control(_LOST),
    "cascade-after-timeout": Control(_LOST),
    # Callers who come back would repeat the charge under its key, and store it then.
    "no-attempt-stored": Control(kills=[Kill("after_call", "stripe")] * 3, gives_up=1.0),
    "stored-error-is-failure": Control(_BURNT),
    "list-then-cascade": Control(_SLOW),
    # And they would do recovery's work.
    "no-recovery": Control(_LOST, kills=[Kill(RANDOM)], gives_up=1.0),
}
"""By the name of the promise."""


def plan_of(name: str, seed: int, *, sabotaged: bool = True) -> Plan:
    """Plans the round of a control.

    Args:
        name: the promise.
        seed: of orders, faults and moments.
        sabotaged: False leaves the service as it is, in the same trouble.
    """
    control, crime = CONTROLS[name], PROMISES[name].crime
    return Plan(
        seed=seed,
        kills=control.kills,
        orders=CARDS,
        gives_up=control.gives_up,
        orders_min=ORDERS_MIN,
        faults={"stripe": [{**rule, "seed": seed} for rule in control.stripe]},
        sabotage=name if sabotaged else "",
        settle_seconds=SETTLE_SECONDS,
        enough=(lambda found: crime != STUCK and is_caught(name, found))
        if sabotaged
        else (lambda found: not found),
    )


def is_caught(name: str, violations: Sequence[str]) -> bool:
    """Tells whether the judge has seen the crime."""
    return any(v.startswith(f"{PROMISES[name].crime}:") for v in violations)
