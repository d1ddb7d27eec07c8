"""The optimism of LinUCB: how good an account may be, given what was learned and how little.

Li et al. 2010, "A Contextual-Bandit Approach to Personalized News Article Recommendation"
(arXiv 1003.0146), with a bonus that follows the variance of a yes-or-no outcome.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from smartpay_router.domain.context import FEATURES, Context

PRIOR_SUCCESS = 0.9
"""What an account is believed to achieve before its first outcome. Near what cards achieve: with
a prior of 0 the first account that works at all would never be compared with another."""

PRIOR_WEIGHTS = tuple(5.0 if feature == "intercept" else 20.0 for feature in FEATURES)
"""How many outcomes each feature's prior weighs, in FEATURES' order. Five outcomes outvote the
prior of an account as a whole; that it behaves differently for, say, one currency takes more."""

EXPLORATION = 0.7
"""Standard errors of optimism. Chosen by simulation among 0.4 to 1.5: less may give up a good
account after early bad luck, more goes on paying for accounts known to be worse."""

_VARIANCE_FLOOR = 0.05 * 0.95  # keeps some doubt in estimates near or beyond 0 and 1


@dataclass(frozen=True)
class Estimate:
    """What a learner believes of one account for one context.

    Attributes:
        success: expected probability of success; a linear model may leave 0 to 1.
        width: standard error in units of one outcome's deviation, sqrt(x' A^-1 x); at least 0.
        outcomes: how many outcomes of this account were learned.
    """

    success: float
    width: float
    outcomes: int

    def expected(self) -> float:
        """Answers the probability of success, 0 to 1."""
        return min(1.0, max(0.0, self.success))

    def upper_bound(self) -> float:
        """Answers the probability that may optimistically be hoped for, 0 to 1."""
        spread = math.sqrt(max(_VARIANCE_FLOOR, self.expected() * (1 - self.expected())))
        return min(1.0, max(0.0, self.success + EXPLORATION * spread * self.width))


class Policy(Protocol):
    """A learner of success per account and context."""

    @property
    def version(self) -> str:
        """The learner's name and how many outcomes it has learned, for instance "linucb-12"."""
        ...

    def estimate(self, arms: Sequence[str], context: Context) -> Sequence[Estimate]:
        """Estimates each account's success in the context, in the order of `arms`."""
        ...

    def learn(self, arm: str, context: Context, reward: float) -> None:
        """Takes in one outcome: reward 1 for success, 0 for failure.

        Raises:
            ValueError: when the reward is not within 0 to 1; nothing was learned then.
        """
        ...
