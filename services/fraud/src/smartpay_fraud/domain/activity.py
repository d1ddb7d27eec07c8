"""What one customer, card, device, network, terminal or merchant did lately, in bounded memory.

Every list of an activity has one entry per held payment, in order of time, so that a window is two
bisects. What no window can reach any more is forgotten; what an entity has too much of moves into
buckets of whole days (UTC).
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from typing import Any

from smartpay_fraud.domain.graph import MATURITY_MS, Ring
from smartpay_fraud.domain.transaction import TransactionKey

DAY_MS = 86_400_000

LABEL_DELAY_MS = MATURITY_MS
"""A payment that nobody called a fraud for a week counts as legitimate: most chargebacks that come
at all come by then (the Fraud Detection Handbook's delay), and nobody reports what is fine."""

LABEL_DAYS_MAX = 28
MEMORY_MS = LABEL_DAYS_MAX * DAY_MS + LABEL_DELAY_MS
"""35 days, the farthest that any window looks back: 28 days of labels, a week late."""

EVENTS_PER_ENTITY = 256
"""Payments held of one customer, card, device or network: past 256 a velocity says "very many" and
needs no exact figure, and distinct counts stay a few microseconds. Windows of less than a day stand
still at it; longer ones go on in days."""

EVENTS_PER_PLACE = 1_024
"""The same for terminals and merchants, which honestly are busier."""

MARKS_PER_ENTITY = 256
"""Declines and frauds dated per entity: more of them change no decision."""

TINY_CENTS = 500
"""Up to 5 USD a payment is cheap enough for trying whether a stolen card works."""

OUTLIER_Z = 2_000
"""From two standard deviations above its habit (in thousandths) a payment stands out."""

UNKNOWN, FRAUD, CLEARED = 0, 1, 2
"""What is marked on a held payment. CLEARED: called legitimate before the week was over."""

_SPREAD_PRIOR = 0.16  # variance of log amounts assumed before a habit is known (sd 0.4)
_SPREAD_PRIOR_WEIGHT = 3  # payments that the assumption weighs as much as
_LOG_UNIT = 1000  # log amounts are kept in whole thousandths, so that running sums stay exact
_PRIOR = _SPREAD_PRIOR * _LOG_UNIT * _LOG_UNIT * _SPREAD_PRIOR_WEIGHT
_LONG_AGO_MS = -(1 << 62)
# A busy place forgets a payment with every one it takes. Removing them one by one would move
# kilobytes each time, and out of the processor's cache what the next step needs.
_REMOVED_AT_ONCE = 64
_NONE: Any = ()


@dataclass(slots=True, eq=False)
class Payment:
    """One payment as all its entities remember it; they share this object.

    Attributes:
        key: the transaction's name.
        time_ms: when it was scored.
        cents: its size in US cents.
        log_amount: natural logarithm of the cents, in whole thousandths.
        z: spreads above its customer's habit, in whole thousandths; 0 when there is none.
        word: UNKNOWN, FRAUD or CLEARED, as known now.
        word_ms: since when that is known.
    """

    key: TransactionKey
    time_ms: int
    cents: int
    log_amount: int
    customer: str
    card: str
    device: str
    network: str
    terminal: str
    country: str
    currency: str
    z: int = 0
    word: int = UNKNOWN
    word_ms: int = 0


def log_amount_of(cents: int) -> int:
    """An amount's natural logarithm in whole thousandths: amounts vary by ratio, not by sum."""
    return round(math.log(cents) * _LOG_UNIT)


def tiny_of(payment: Payment) -> int:
    """1 for a payment that is cheap enough to try a card with."""
    return 1 if payment.cents <= TINY_CENTS else 0


def outlier_of(payment: Payment) -> int:
    """1 for a payment far above its customer's habit."""
    return 1 if payment.z >= OUTLIER_Z else 0


def unusual_of(payment: Payment) -> int:
    """How far a payment lies from its customer's habit, in thousandths of a spread."""
    return payment.z


class DayBuckets:
    """Payments of an entity that has more than can be held, by day: whole days in, whole days out.

    A day counts in a window that its end lies in, so a window is exact to the day. Apart from the
    days' ends every column holds running totals, the first of them from before the first day, so
    that a window's sum is one subtraction.
    """

    __slots__ = ("cents", "counts", "ends_ms", "marked")

    def __init__(self) -> None:
        self.ends_ms: list[int] = []
        self.counts: list[int] = [0]
        self.cents: list[int] = [0]
        self.marked: list[int] = [0]

    def add(self, time_ms: int, cents: int, marked: int) -> None:
        """Takes in the next older payment that can't be held, and drops what is out of reach."""
        ends_ms = self.ends_ms
        # The last day's end lies ahead of every payment of that day.
        if not ends_ms or not ends_ms[-1] - DAY_MS <= time_ms < ends_ms[-1]:
            for column in (self.counts, self.cents, self.marked):
                column.append(column[-1])
            ends_ms.append((time_ms // DAY_MS + 1) * DAY_MS)
            gone = bisect_right(ends_ms, time_ms - MEMORY_MS)
            for column in (ends_ms, self.counts, self.cents, self.marked):
                del column[:gone]
        self.counts[-1] += 1
        self.cents[-1] += cents
        self.marked[-1] += marked

    def volume(self, after_ms: int) -> tuple[int, int]:
        """Payments and US cents of days that end later."""
        day = bisect_right(self.ends_ms, after_ms)
        return self.counts[-1] - self.counts[day], self.cents[-1] - self.cents[day]

    def settled(self, after_ms: int, until_ms: int) -> int:
        """Payments without a word of their own on days that end within (after, until]."""
        last = bisect_right(self.ends_ms, until_ms)
        first = bisect_right(self.ends_ms, after_ms, 0, last)
        counts, marked = self.counts, self.marked
        return counts[last] - counts[first] - marked[last] + marked[first]

    def mark(self, time_ms: int, change: int) -> None:
        """Counts a word, or its taking back, about a payment of that time."""
        day = bisect_right(self.ends_ms, time_ms)
        if day < len(self.ends_ms) and self.ends_ms[day] - time_ms <= DAY_MS:
            for later in range(day + 1, len(self.marked)):
                self.marked[later] += change


class Activity:
    """One entity's payments in order of time, with its declines and its labels.

    Everything here is known already: what becomes known later is told later. `spend` and `tally`
    are running totals, so that a window's sum is one subtraction; `columns` hold the attributes
    whose distinct values count for this kind. What lies before the index `start` went into buckets
    and stands there with a time that no window reaches, until several are removed at once.
    """

    __slots__ = (
        "buckets",
        "cleared",
        "columns",
        "count",
        "declines",
        "first_fraud_ms",
        "first_ms",
        "forgotten_frauds",
        "fraud_keys",
        "frauds",
        "log_sum",
        "payments",
        "ring",
        "spend",
        "spend_before",
        "square_sum",
        "start",
        "tally",
        "tally_before",
        "times",
        "words",
    )

    def __init__(self, columns: int = 0) -> None:
        # Arrays, not lists: a search then reads one stretch of memory, and nothing is boxed.
        self.start = 0
        self.times = array("q")
        self.payments: list[Payment] = []
        self.spend = array("q")
        self.tally = array("q")
        self.columns: list[list[str]] = [[] for _ in range(columns)]
        self.spend_before = 0
        self.tally_before = 0
        self.first_ms: int | None = None
        # The habit is lifelong, so that it needs no window and no memory.
        self.count = 0
        self.log_sum = 0
        self.square_sum = 0
        # Most entities never get a mark; they share something empty instead of owning lists.
        self.words: bytearray | bytes = b""
        self.declines: list[int] = _NONE
        self.frauds: list[int] = _NONE
        self.fraud_keys: list[TransactionKey] = _NONE
        self.cleared: list[int] = _NONE
        self.forgotten_frauds = 0
        self.first_fraud_ms = 0
        self.buckets: DayBuckets | None = None
        self.ring: Ring | None = None

    def habit(self, log_amount: int) -> tuple[float, float]:
        """How far an amount lies from the entity's own: (standard deviations, log ratio).

        A short history borrows a common spread, so two equal payments are no iron habit.
        """
        count = self.count
        if not count:
            return math.nan, math.nan
        gap = log_amount - self.log_sum / count
        return gap / self.spread(), gap / _LOG_UNIT

    def mean(self) -> float:
        """The mean log amount (of US cents) of all payments ever; NaN before the first."""
        return self.log_sum / self.count / _LOG_UNIT if self.count else math.nan

    def spread(self) -> float:
        """The standard deviation of log amounts, in thousandths, drawn towards the common one."""
        count, log_sum = self.count, self.log_sum
        squares = self.square_sum - log_sum * log_sum / count if count else 0.0
        if squares < 0.0:
            squares = 0.0
        return math.sqrt((squares + _PRIOR) / (count + _SPREAD_PRIOR_WEIGHT))

    @property
    def held(self) -> int:
        """How many payments are held."""
        return len(self.times) - self.start

    def declines_since(self, after_ms: int) -> int:
        """Payments declined or blocked later than `after_ms`."""
        declines = self.declines
        return len(declines) - bisect_right(declines, after_ms) if declines else 0

    def known_frauds(self) -> int:
        """Payments ever called a fraud."""
        return len(self.frauds) + self.forgotten_frauds

    def settled(self, after_ms: int, now_ms: int, first: int, last: int) -> tuple[int, int]:
        """Fates that became known within (after, now]: (all, frauds).

        A fate is a word, since it is known, or a week without one. The held payments of the
        indices [first, last) are those whose week ended within the window.
        """
        count, frauds = last - first, 0
        if self.fraud_keys or self.cleared:
            frauds = len(self.frauds) - bisect_right(self.frauds, after_ms)
            count = (self.words.count(UNKNOWN, first, last) if self.words else count) + frauds
            if self.cleared:
                count += len(self.cleared) - bisect_right(self.cleared, after_ms)
        if first == self.start and self.buckets is not None:
            count += self.buckets.settled(after_ms - LABEL_DELAY_MS, now_ms - LABEL_DELAY_MS)
        return count, frauds

    def append(
        self,
        payment: Payment,
        cents: int | None,
        tally: int | None,
        values: tuple[str, ...],
        limit: int,
    ) -> int:
        """Remembers a payment after it was scored; returns by how many events memory grew.

        Without cents, or without a tally, this kind of entity keeps no such total.
        """
        times = self.times
        time_ms = payment.time_ms
        grown = 1
        if times:
            # A clock that steps back must not break the order that the windows search by.
            if time_ms < (latest_ms := times[-1]):
                time_ms = latest_ms
            start = self.start
            if times[start] <= (forgotten_ms := time_ms - MEMORY_MS):
                forgotten = bisect_right(times, forgotten_ms)
                grown -= forgotten - start
                if self.spend:
                    self.spend_before = self.spend[forgotten - 1]
                if self.tally:
                    self.tally_before = self.tally[forgotten - 1]
                self._remove(forgotten)
            elif len(times) - start >= limit:
                self._into_buckets()
                grown = 0
        elif self.first_ms is None:
            self.first_ms = time_ms
        if cents is not None:
            spend = self.spend
            spend.append((spend[-1] if spend else self.spend_before) + cents)
        if tally is not None:
            tallies = self.tally
            tallies.append((tallies[-1] if tallies else self.tally_before) + tally)
        log_amount = payment.log_amount
        self.count += 1
        self.log_sum += log_amount
        self.square_sum += log_amount * log_amount
        times.append(time_ms)
        self.payments.append(payment)
        if isinstance(self.words, bytearray):
            self.words.append(UNKNOWN)
        if values:
            for column, value in zip(self.columns, values, strict=True):
                column.append(value)
        return grown

    def decline(self, known_ms: int) -> None:
        """Remembers that a payment was declined or blocked."""
        if not self.declines:
            self.declines = []
        insort(self.declines, known_ms)
        del self.declines[:-MARKS_PER_ENTITY]

    def label(self, key: TransactionKey, payment: Payment | None, word: int, known_ms: int) -> None:
        """Remembers what a payment turned out to be; a later word replaces an earlier one.

        `payment` still carries the earlier word, and is None once it is too old to be remembered.
        """
        if key in self.fraud_keys:
            at = self.fraud_keys.index(key)
            del self.frauds[at], self.fraud_keys[at]
        if payment is not None:
            if payment.word == CLEARED:
                at = bisect_left(self.cleared, payment.word_ms)
                if at < len(self.cleared) and self.cleared[at] == payment.word_ms:
                    del self.cleared[at]
            self._mark(payment, word)
        if word == FRAUD:
            self._add_fraud(key, known_ms)
        elif word == CLEARED:
            if not self.cleared:
                self.cleared = []
            insort(self.cleared, known_ms)
            del self.cleared[:-MARKS_PER_ENTITY]

    def _find(self, payment: Payment) -> int | None:
        for at in range(bisect_left(self.times, payment.time_ms), len(self.times)):
            if self.payments[at] is payment:
                return at
        return None

    def _add_fraud(self, key: TransactionKey, known_ms: int) -> None:
        if not self.frauds:
            self.frauds, self.fraud_keys = [], []
        at = bisect_right(self.frauds, known_ms)
        self.frauds.insert(at, known_ms)
        self.fraud_keys.insert(at, key)
        if len(self.frauds) > MARKS_PER_ENTITY:
            if not self.forgotten_frauds:
                self.first_fraud_ms = self.frauds[0]
            self.forgotten_frauds += 1
            del self.frauds[0], self.fraud_keys[0]

    def _mark(self, payment: Payment, word: int) -> None:
        at = self._find(payment)
        if at is not None:
            if not isinstance(self.words, bytearray):
                self.words = bytearray(len(self.times))  # so far nothing was said of any
            self.words[at] = word
        elif self.buckets is not None and (word == UNKNOWN) != (payment.word == UNKNOWN):
            self.buckets.mark(payment.time_ms, 1 if payment.word == UNKNOWN else -1)

    def tidy(self) -> None:
        """Removes what is not held any more."""
        if self.start:
            self._remove(self.start)

    def _into_buckets(self) -> None:
        """Makes room for one payment more."""
        if self.buckets is None:
            self.buckets = DayBuckets()
        at = self.start
        cents = 0
        if self.spend:
            cents = self.spend[at] - self.spend_before
            self.spend_before = self.spend[at]
        if self.tally:
            self.tally_before = self.tally[at]
        marked = bool(self.words) and self.words[at] != UNKNOWN
        self.buckets.add(self.times[at], cents, marked)
        self.times[at] = _LONG_AGO_MS
        self.start = at + 1
        if self.start == _REMOVED_AT_ONCE:
            self._remove(self.start)

    def _remove(self, count: int) -> None:
        held: tuple[Any, ...] = (self.times, self.payments, self.spend, self.tally)
        for column in held + tuple(self.columns):
            del column[:count]
        if isinstance(self.words, bytearray):
            del self.words[:count]
        self.start = 0
