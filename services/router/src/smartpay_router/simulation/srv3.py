"""The payment industry's success-rate window: what an orchestrator without a model routes by.

Written from what juspay's decision-engine documents and does (its "SR based routing", version 3):
the last outcomes of each account under a key, full of successes at first; the best rate leads; a
share is hedged evenly; an account whose rate falls several standard errors behind the best is set
back to that distance, so that it can return. Cost-aware as its expected value is.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence

from smartpay_router.simulation.runner import Payment

WINDOW = 125
HEDGED_SHARE = 0.05
RESET_SIGMAS = 3.0
_VARIANCE_MIN = 0.09  # of one outcome, when it decides who is set back
_ZEROS_MIN = 2


class SuccessRateWindow:
    """The policy for one key: which kinds of payments have a window of their own.

    Args:
        arms: how many.
        key: names out of `Payment.kinds`; none is one window for all.
        seed: of the hedging.
    """

    def __init__(self, arms: int, key: Sequence[str], seed: int) -> None:
        self._arms = arms
        self._key = tuple(key)
        self._dice = random.Random(seed)
        self._windows: dict[tuple[int, ...], list[deque[int]]] = {}

    def choose(self, payment: Payment) -> int:
        """Answers the arm of the best expected value, or an arm drawn evenly."""
        windows = self._of(payment)
        rates = [sum(window) / WINDOW for window in windows]
        best = max(rates)
        sigma = math.sqrt(max(best * (1 - best), _VARIANCE_MIN) / WINDOW)
        for arm, rate in enumerate(rates):
            if rate < best - RESET_SIGMAS * sigma:
                windows[arm] = _window(1 - best + RESET_SIGMAS * sigma)
                rates[arm] = sum(windows[arm]) / WINDOW
        if self._dice.random() < HEDGED_SHARE:
            return self._dice.randrange(self._arms)
        values = [
            rate * (1 - fee) for rate, fee in zip(rates, payment.fee_shares.tolist(), strict=True)
        ]
        return values.index(max(values))

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Takes the outcome into the window."""
        self._of(payment)[arm].append(int(succeeded))

    def _of(self, payment: Payment) -> list[deque[int]]:
        key = tuple(payment.kinds[name] for name in self._key)
        if key not in self._windows:
            self._windows[key] = [_window(0) for _ in range(self._arms)]
        return self._windows[key]


def _window(failed_share: float) -> deque[int]:
    """A full window of which such a share failed, evenly spread."""
    outcomes = [1] * WINDOW
    if failed_share:
        zeros = min(WINDOW, max(_ZEROS_MIN, int(failed_share * WINDOW)))
        for number in range(zeros):
            outcomes[number * (WINDOW - 1) // (zeros - 1)] = 0
    return deque(outcomes, maxlen=WINDOW)
