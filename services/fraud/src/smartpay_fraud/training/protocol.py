"""The published protocol: who is trained on which days, and who is judged on which payments.

Le Borgne et al., Fraud Detection Handbook, chapters 3 and 5: train on 7 days, wait 7 days for the
labels, test on 7 days; cards known to be compromised leave the test set day by day. Days count from
the stream's first day.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.training import metrics
from smartpay_fraud.training.stream import Flags, Ints, Stream

WEEK = 7
DELAY_DAYS = 7

TEST_STARTS = (115, 122, 129, 136)
"""First training days of the four published runs (2018-07-25 and the three Wednesdays after)."""

VALIDATION_STARTS = (73, 80, 87, 94)
"""Runs whose last test day lies before the first published training day: parameters are chosen
here and nowhere else."""


class ProtocolError(Exception):
    """The data cannot be judged by the protocol; the text says why and what to do."""


@dataclass(frozen=True)
class Fold:
    """One run of the protocol, by its first training day; windows are [first, last) in days."""

    start: int

    @property
    def strict(self) -> tuple[int, int]:
        """The published training window: one week."""
        return self.start, self.start + WEEK

    @property
    def long(self) -> tuple[int, int]:
        """The same week and the four before it."""
        return max(0, self.start - 4 * WEEK), self.start + WEEK

    @property
    def graph(self) -> tuple[int, int]:
        """Seven weeks that end where the long window begins: stacked models never share a day."""
        return max(0, self.start - 11 * WEEK), max(0, self.start - 4 * WEEK)

    @property
    def test(self) -> tuple[int, int]:
        """The week judged."""
        first = self.start + WEEK + DELAY_DAYS
        return first, first + WEEK


@dataclass(frozen=True)
class Figures:
    """What one test week says of a model."""

    auc: float
    ap: float
    cp100: float


def within(day: Ints, window: tuple[int, int]) -> Flags:
    """Marks the payments of a window of days."""
    return np.asarray((day >= window[0]) & (day < window[1]))


def judged(stream: Stream, fold: Fold) -> Flags:
    """Marks the payments a fold is judged on, bool [payments].

    Before test day k, a customer is known to be compromised when it had a fraud in the training
    week or on a day whose labels have arrived since; its payments of that day are left out.
    """
    day, chosen = stream.day, np.zeros(len(stream), np.bool_)
    frauds = np.flatnonzero(stream.fraud)
    for test_day in range(*fold.test):
        known_until = test_day - DELAY_DAYS
        known = frauds[(day[frauds] >= fold.start) & (day[frauds] < known_until)]
        today = np.flatnonzero(day == test_day)
        chosen[today] = ~np.isin(stream.customer[today], stream.customer[known])
    return chosen


def figures(stream: Stream, fold: Fold, scores: NDArray[np.float64]) -> Figures:
    """Judges scores (one per payment of the whole stream; any scale) on a fold's test week."""
    of = judged(stream, fold)
    fraud, seen = stream.fraud[of], scores[of]
    return Figures(
        auc=metrics.roc_auc(fraud, seen),
        ap=metrics.average_precision(fraud, seen),
        cp100=metrics.card_precision(fraud, seen, stream.customer[of], stream.day[of]),
    )


def mean(weeks: list[Figures]) -> Figures:
    """The mean of several weeks."""
    return Figures(*np.mean([astuple(week) for week in weeks], axis=0).tolist())


def check(stream: Stream) -> None:
    """Refuses a stream that the four weeks can't be judged on.

    Raises:
        ProtocolError: too few days, or a week without a fraud to learn or to find.
    """
    needed = Fold(TEST_STARTS[-1]).test[1]
    days = int(stream.day[-1]) + 1 if len(stream) else 0
    if days < needed:
        raise ProtocolError(
            f"timestamp: the payments cover {days} days, the protocol's last test week ends on "
            f"day {needed}; give a stream of at least {needed} days."
        )
    for start in TEST_STARTS:
        fold = Fold(start)
        windows = (
            ("training week", within(stream.day, fold.strict)),
            ("test week", judged(stream, fold)),
        )
        for name, of in windows:
            frauds = int(stream.fraud[of].sum())
            if not 0 < frauds < int(of.sum()):
                first = fold.start if name == "training week" else fold.test[0]
                raise ProtocolError(
                    f"is_fraud: the {name} from day {first} has {frauds} frauds among "
                    f"{int(of.sum())} payments; both kinds are needed, give a fuller stream."
                )
