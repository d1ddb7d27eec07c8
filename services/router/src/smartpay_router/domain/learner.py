"""What ranks need of a learner: estimates per arm, and somewhere to tell what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from smartpay_router.domain.schema import Values

VARIANCE_FLOOR = 0.02 * 0.98
"""What one outcome's variance is at least taken for. It keeps some doubt in estimates near or
beyond 0 and 1; cards' best accounts fail about one payment in fifty."""


class Arm(NamedTuple):
    """One account to choose, and the model whose outcomes it shares.

    Attributes:
        account: the processor account.
        model: in production mode and processor, for instance "live/stripe".
    """

    account: str
    model: str


# As arrays, since NumPy converts a plain number at every call.
_ZERO, _ONE = np.zeros(()), np.ones(())


class Estimates(NamedTuple):
    """What a learner believes of some arms, in the order in which they were asked for.

    Attributes:
        success: expected probability of success, shape [k] or [n, k]; may leave 0 to 1.
        width: standard error in units of one outcome's deviation, sqrt(x' A^-1 x); same shape.
        spread: standard error of the success; narrow where outcomes hardly differ; same shape.
        outcomes: how many outcomes of the very account were learned, k of them.
    """

    success: Values
    width: Values
    spread: Values
    outcomes: Sequence[int]

    @classmethod
    def of(cls, success: Values, width: Values, outcomes: Sequence[int]) -> Estimates:
        """Answers estimates whose spread is that of outcomes that are 0 or 1."""
        # Beyond 0 and 1 the product is negative, so the floor holds there as well.
        variance = np.maximum(success * (1.0 - success), VARIANCE_FLOOR)
        return cls(success, width, np.sqrt(variance) * width, outcomes)

    def expected(self) -> Values:
        """Answers probabilities of success, 0 to 1."""
        return np.minimum(np.maximum(self.success, _ZERO), _ONE)

    def upper(self, exploration: float) -> Values:
        """Answers what may optimistically be hoped for, 0 to 1."""
        return np.minimum(np.maximum(self.success + exploration * self.spread, _ZERO), _ONE)

    def lower(self, exploration: float) -> Values:
        """Answers what may be counted on, 0 to 1."""
        return np.minimum(np.maximum(self.success - exploration * self.spread, _ZERO), _ONE)


class Knowledge(NamedTuple):
    """How much is known of one account by its own outcomes.

    Attributes:
        outcomes: how many there were.
        effective_outcomes: their weights' sum, as those of long ago count less.
        effective_successes: the same of rewards.
    """

    outcomes: int
    effective_outcomes: float
    effective_successes: float


class Learner(Protocol):
    """What ranks need of a learner. Times are seconds since the epoch of UTC."""

    @property
    def version(self) -> str:
        """Names the learner and the meaning of its contexts; tells nothing of what it learned."""
        ...

    def estimates(
        self, arms: Sequence[Arm], values: Sequence[float] | Values, at: float
    ) -> Estimates:
        """Estimates each arm's success for a context of shape [d].

        Raises:
            ValueError: when the values do not fit the schema.
        """
        ...

    def estimates_many(
        self, arms: Sequence[Arm], matrix: Sequence[Sequence[float]] | Values, at: float
    ) -> Estimates:
        """Estimates each arm's success for contexts of shape [n, d]; answers of shape [n, k].

        Raises:
            ValueError: when the values do not fit the schema.
        """
        ...

    def pull(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        """Counts a decision for an arm as if its outcome were known, in the width only."""
        ...

    def release(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        """Takes a decision back, as its outcome has come or will not; `at` is when it was made."""
        ...

    def learn(
        self, arm: Arm, values: Sequence[float] | Values, reward: float, decided_at: float
    ) -> None:
        """Takes in one outcome: reward 1 for success, 0 for failure.

        Raises:
            ValueError: when the reward is not within 0 to 1, or the values or the time make no
                sense; nothing was learned then.
        """
        ...
