"""Outcomes that wait until it is clear whether they are an outage's.

Held back, not taken back: so nothing ever has to be unlearned, and what a replica has learned
only grows.
"""

from __future__ import annotations

from collections.abc import KeysView, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartpay_router.domain.learner import Arm


@dataclass(frozen=True, slots=True)
class Held:
    """One outcome on its way to the learner.

    Attributes:
        values: the context of the decision, shape [d].
        reward: what the learner will hear, 0 to 1.
        decided_at: when the decision fell, in seconds.
        pulled: whether a pull waits for it.
    """

    values: NDArray[np.float64]
    reward: float
    decided_at: float
    pulled: bool = False


class HeldBack:
    """The outcomes that wait, per account, oldest first; never more than so many of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[Arm, list[Held]] = {}

    def __contains__(self, arm: Arm) -> bool:
        return arm in self._waiting

    @property
    def arms(self) -> KeysView[Arm]:
        """The accounts of which something waits; a view that follows what is held and let go."""
        return self._waiting.keys()

    def hold(self, arm: Arm, outcomes: Sequence[Held]) -> list[Held]:
        """Lets outcomes wait; answers the oldest when there are too many."""
        waiting = self._waiting.setdefault(arm, [])
        waiting += outcomes
        surplus = max(0, len(waiting) - self._most)
        ripe, waiting[:surplus] = waiting[:surplus], []
        return ripe

    def let_go(self, arm: Arm) -> list[Held]:
        """Answers what waits of an account, which then waits no more."""
        return self._waiting.pop(arm, [])

    def of(self, model: str) -> list[Arm]:
        """Answers the accounts of a processor of which something waits."""
        return [arm for arm in self._waiting if arm.model == model]

    def state(self) -> list[Any]:
        """Answers what waits, as JSON can hold it."""
        return [
            [arm.account, arm.model, [[h.values.tolist(), h.reward, h.decided_at] for h in waiting]]
            for arm, waiting in self._waiting.items()
        ]

    def restore(self, state: Sequence[Any]) -> None:
        """Goes on from what `state` answered; pulls that waited then are not known any more.

        Raises:
            TypeError: when it is no such state; nothing was changed then.
            ValueError: likewise.
        """
        self._waiting = {
            Arm(account, model): [
                Held(np.array(values), float(reward), float(decided_at))
                for values, reward, decided_at in waiting
            ]
            for account, model, waiting in state
        }
