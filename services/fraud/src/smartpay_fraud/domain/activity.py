"""What one card, device, customer, network or merchant did lately, in bounded memory."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

EVENTS_PER_ENTITY = 256
"""Payments remembered per entity: past 256 a velocity says "very many" and needs no exact figure,
and distinct counts stay a few microseconds. Counts are exact up to it and stand still at it."""

MARKS_PER_ENTITY = 64
"""Declines and labels remembered per entity: more of them change no decision."""

EVENTS_PER_POPULATION = 200_000
"""Payments remembered per kind of entity, about 60 MB; the longest unused entity goes first."""

TINY_CENTS = 500
"""Up to 5 USD a payment is cheap enough for trying whether a stolen card works."""

_SPREAD_PRIOR = 0.16  # variance of log amounts assumed before a habit is known (sd 0.4)
_SPREAD_PRIOR_WEIGHT = 3  # payments that the assumption weighs as much as
_LOG_UNIT = 1000  # log amounts are kept in whole thousandths, so that running sums stay exact


class Event(NamedTuple):
    """One remembered payment with running totals, itself included, so that a window is two reads.

    The time stands first: bisect orders events by it.
    """

    time_ms: int
    cents: int
    log_sum: int
    square_sum: int
    tiny: int
    instrument: str
    device: str
    customer: str
    network: str


_NOTHING = Event(0, 0, 0, 0, 0, "", "", "", "")


class Payment(NamedTuple):
    """What every entity of one payment remembers of it."""

    time_ms: int
    cents: int
    log_amount: int
    instrument: str
    device: str
    customer: str
    network: str


def log_amount_of(cents: int) -> int:
    """An amount's natural logarithm in whole thousandths: amounts vary by ratio, not by sum."""
    return round(math.log(cents) * _LOG_UNIT)


class Activity:
    """One entity's payments in order of time, with its declines and its labels.

    Labels carry the time at which they became known and count only from then on, so that training
    by replay sees exactly what serving would have seen.
    """

    __slots__ = ("_before", "declines", "events", "first_ms", "frauds", "legitimate")

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.first_ms: int | None = None
        self.declines: list[int] = []
        self.frauds: list[tuple[int, Hashable]] = []
        self.legitimate: list[tuple[int, Hashable]] = []
        self._before = _NOTHING  # running totals of the events that were forgotten

    def append(self, payment: Payment) -> int:
        """Remembers a payment after it was scored; returns by how many events memory grew."""
        events = self.events
        last = events[-1] if events else self._before
        # A clock that steps back must not break the order that the windows search by.
        time_ms = max(payment.time_ms, last.time_ms)
        if self.first_ms is None:
            self.first_ms = time_ms
        log_amount = payment.log_amount
        events.append(
            Event(
                time_ms,
                last.cents + payment.cents,
                last.log_sum + log_amount,
                last.square_sum + log_amount * log_amount,
                last.tiny + (payment.cents <= TINY_CENTS),
                payment.instrument,
                payment.device,
                payment.customer,
                payment.network,
            )
        )
        if len(events) <= EVENTS_PER_ENTITY:
            return 1
        self._before = events[0]
        del events[0]
        return 0

    def since(self, after_ms: int) -> int:
        """The index of the first event later than `after_ms`; a window runs from it to the end."""
        return bisect_left(self.events, (after_ms + 1,))

    def totals_before(self, index: int) -> Event:
        """The running totals of everything before an index."""
        return self.events[index - 1] if index else self._before

    def habit(self, log_amount: int) -> tuple[float, float]:
        """How far an amount lies from the entity's own: (standard deviations, log ratio).

        A short history borrows a common spread, so two equal payments are no iron habit.
        """
        events = self.events
        count = len(events)
        if not count:
            return math.nan, math.nan
        last, before = events[-1], self._before
        log_sum = last.log_sum - before.log_sum
        mean = log_sum / count
        squares = (last.square_sum - before.square_sum) - log_sum * log_sum / count
        prior = _SPREAD_PRIOR * _LOG_UNIT * _LOG_UNIT * _SPREAD_PRIOR_WEIGHT
        spread = math.sqrt((max(squares, 0.0) + prior) / (count + _SPREAD_PRIOR_WEIGHT))
        return (log_amount - mean) / spread, (log_amount - mean) / _LOG_UNIT

    def declines_since(self, after_ms: int, now_ms: int) -> int:
        """Payments declined or blocked later than `after_ms`, as known at `now_ms`."""
        marks = self.declines
        if not marks:
            return 0
        return bisect_right(marks, now_ms) - bisect_right(marks, after_ms)

    def decline(self, known_ms: int) -> None:
        """Remembers that a payment was declined or blocked."""
        insort(self.declines, known_ms)
        del self.declines[:-MARKS_PER_ENTITY]

    def label(self, key: Hashable, fraudulent: bool, known_ms: int) -> None:
        """Remembers what a payment turned out to be; a later word replaces an earlier one."""
        for marks in (self.frauds, self.legitimate):
            marks[:] = [mark for mark in marks if mark[1] != key]
        marks = self.frauds if fraudulent else self.legitimate
        insort(marks, (known_ms, key), key=_known_ms)
        del marks[:-MARKS_PER_ENTITY]

    def known(self, now_ms: int) -> tuple[int, int]:
        """How many payments are known, at this time, to have been (fraud, legitimate)."""
        frauds, legitimate = self.frauds, self.legitimate
        return (
            bisect_right(frauds, now_ms, key=_known_ms) if frauds else 0,
            bisect_right(legitimate, now_ms, key=_known_ms) if legitimate else 0,
        )


def _known_ms(mark: tuple[int, Hashable]) -> int:
    return mark[0]


NEWCOMER = Activity()
"""Stands for an entity never seen; nobody may append to it."""


class Population:
    """All entities of one kind, the least recently used forgotten first."""

    def __init__(self, events_max: int = EVENTS_PER_POPULATION) -> None:
        self._activities: OrderedDict[Hashable, Activity] = OrderedDict()
        self._events_max = events_max
        self._events = 0

    def __len__(self) -> int:
        return len(self._activities)

    @property
    def events(self) -> int:
        """Payments remembered by all entities together."""
        return self._events

    def find(self, key: Hashable) -> Activity:
        """Looks an entity up; one never seen is a newcomer."""
        return self._activities.get(key, NEWCOMER)

    def recall(self, key: Hashable) -> Activity | None:
        """Looks an entity up to write a mark on it; a forgotten one takes no mark."""
        return self._activities.get(key)

    def append(self, key: Hashable, payment: Payment) -> None:
        """Remembers a payment of an entity, forgetting the longest unused when memory is full."""
        activities = self._activities
        activity = activities.get(key)
        if activity is None:
            activity = activities[key] = Activity()
        else:
            activities.move_to_end(key)
        self._events += activity.append(payment)
        while self._events > self._events_max and len(activities) > 1:
            _, forgotten = activities.popitem(last=False)
            self._events -= len(forgotten.events)
