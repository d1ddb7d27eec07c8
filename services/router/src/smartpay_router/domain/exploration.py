"""The exploration budget: what a merchant's own order may be left for on hope alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BudgetTuning:
    """What a merchant lends to learning; a token is the value of one average payment.

    Attributes:
        rate: share of what the merchant's own order is expected to bring that is lent with every
            decision. The aim is to stay within .5 % of that order; what is left of it is for what
            can't be priced, such as an account that dies while it is being tried.
        cap: tokens that can be saved up, so that good times do not pay for a long bad one.
        start: tokens at the beginning. Below 0, so that some 200 decisions nearly all follow the
            merchant's own order: of so few, one that fails is already half a percent.
    """

    rate: float = 0.001
    cap: float = 10.0
    start: float = -0.4


class Budgets:
    """Tokens per key, a merchant in one mode; a restart begins anew, which lends less."""

    def __init__(self, tuning: BudgetTuning | None = None) -> None:
        self._tuning = tuning or BudgetTuning()
        self._tokens: dict[str, float] = {}

    def tokens(self, key: str) -> float:
        """Answers what is left; below 0 when chance took more than was saved."""
        return self._tokens.get(key, self._tuning.start)

    def lend(self, key: str, value: float, rate: float | None = None) -> None:
        """Adds a decision's share.

        Args:
            key: whose budget.
            value: what the merchant's own order is expected to bring of the payment, 0 to 1.
            rate: the share lent; everybody's when None.
        """
        self.book(key, value * (self._tuning.rate if rate is None else rate))

    def book(self, key: str, gain: float) -> None:
        """Pays a choice in: what it is sure to bring more than the merchant's own order.

        Below 0 it is what the choice may cost.
        """
        self._tokens[key] = min(self._tuning.cap, self.tokens(key) + gain)


def leads_over(
    success: Sequence[float],
    left: Sequence[float],
    spread: Sequence[float],
    base: int,
    caution: float,
) -> list[float]:
    """Says by how much each account is sure to be better than the baseline, which is 0.

    In shares of the amount; below 0 it is by how much it may be worse.

    Args:
        success: what each account is expected to achieve, 0 to 1.
        left: what is left of the amount after each account's costs, as a share.
        spread: standard errors of the success.
        base: the place of the baseline.
        caution: how many standard errors are taken off.
    """
    bar, doubt = success[base] * left[base], spread[base] * left[base]
    leads = [
        mean * share - bar - caution * math.hypot(error * share, doubt)
        for mean, share, error in zip(success, left, spread, strict=True)
    ]
    leads[base] = 0.0
    return leads
