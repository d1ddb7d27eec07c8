"""Chargebacks: a second, slower reward. What a bank claims back makes an account worth less.

They come weeks after the charge, so they are counted per day of the decision, and a day counts
only once most of its chargebacks must have come. A count per model and day in the store is the
whole state: it is exact, every replica reads the same, and nothing decays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DAY_SECONDS = 86_400

MATURE_DAYS = 45
"""A day's payments are judged so many days later. Card networks give payers up to 120 days, but
most claims of fraud come within six weeks; counting younger days would flatter whoever is new."""

WINDOW_DAYS = 120
"""How many mature days count: a season, so that an account that mended is forgiven."""

CHARGEBACKS_MIN = 20
"""Chargebacks of a mode that must have been seen before any account is judged by them: a rate of
fewer is known to less than a factor of one and a half."""

SUCCESSES_PRIOR = 2_000
"""Successes that the mode's common rate weighs against a model's own: two chargebacks' worth at
one in a thousand, which is a usual rate."""

SHARE_MAX = 2.0
"""A dispute's fee may exceed a small charge; more than twice the amount counts as twice."""


@dataclass(frozen=True)
class Chargeback:
    """What a bank claims back of one payment, as of one of its changes.

    Attributes:
        dispute_id: our id; each dispute counts once, as its newest change says.
        sequence: counts the payment's changes.
        decision_id: the decision that the payment followed.
        model: whose successes it takes back, for instance "live/stripe".
        decided_at: when the decision was made, in seconds since the epoch.
        share: what is lost, as a share of the payment, 0 to SHARE_MAX; 0 once it was won.
    """

    dispute_id: str
    sequence: int
    decision_id: str
    model: str
    decided_at: float
    share: float

    @property
    def day(self) -> int:
        """The decision's day, counted from the epoch in UTC."""
        return day_of(self.decided_at)


@dataclass(frozen=True)
class Tally:
    """What became of one model's charges within some days.

    Attributes:
        successes: charges that succeeded.
        chargebacks: of them, claimed back for fraud, or lost.
        lost_shares: what those took, in shares of their charges.
        missing: decisions whose outcome never came.
    """

    successes: int = 0
    chargebacks: int = 0
    lost_shares: float = 0.0
    missing: int = 0


def day_of(at: float) -> int:
    """Counts the days since the epoch, in UTC."""
    return int(at // DAY_SECONDS)


def window(at: float) -> tuple[int, int]:
    """Answers the first and the last day that count at a moment, both included."""
    last = day_of(at) - MATURE_DAYS
    return last - WINDOW_DAYS + 1, last


class Losses:
    """The share of a successful charge that chargebacks are expected to take, per model."""

    def __init__(self) -> None:
        self._expected: dict[str, float] = {}
        self._common: dict[str, float] = {}

    def refresh(self, tallies: Mapping[str, Tally]) -> None:
        """Takes the window's tallies in place of what was known."""
        pools: dict[str, Tally] = {}
        for model, tally in tallies.items():
            pool = pools.get(_mode(model), Tally())
            pools[_mode(model)] = Tally(
                pool.successes + tally.successes,
                pool.chargebacks + tally.chargebacks,
                pool.lost_shares + tally.lost_shares,
            )
        self._common = {
            mode: min(1.0, pool.lost_shares / max(1, pool.successes))
            for mode, pool in pools.items()
            if pool.chargebacks >= CHARGEBACKS_MIN
        }
        self._expected = {
            model: min(
                1.0,
                (tally.lost_shares + SUCCESSES_PRIOR * self._common[_mode(model)])
                / (tally.successes + SUCCESSES_PRIOR),
            )
            for model, tally in tallies.items()
            if _mode(model) in self._common
        }

    def expected(self, model: str) -> float:
        """Answers the expected loss as a share of the amount, 0 to 1; 0 until enough is known.

        A model without mature successes is expected to lose what its mode loses on average.
        """
        return self._expected.get(model, self._common.get(_mode(model), 0.0))


def _mode(model: str) -> str:
    return model.partition("/")[0]
