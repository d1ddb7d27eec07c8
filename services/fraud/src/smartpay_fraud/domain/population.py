"""All entities of one kind in bounded memory, the longest unused forgotten first."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import attrgetter

from smartpay_fraud.domain.activity import EVENTS_PER_ENTITY, Activity, Payment

EVENTS_PER_POPULATION = 400_000
"""Payments held per kind of entity; the longest unused entity goes first. A full memory of all
kinds takes about 650 MB: measured 1.6 kB for a payment between busy entities, 6 kB for one whose
entities are all new."""

EVENTS_PER_NEWCOMER = 4
"""An entity alone takes the memory of four more payments, so it counts as much."""


def _no_values(payment: Payment) -> tuple[str, ...]:
    return ()


class Population:
    """All entities of one kind, the least recently used forgotten first.

    Attributes:
        columns: attributes of payments whose distinct values count for this kind.
        tally: what else of a payment is summed for this kind, if anything.
        has_spend: whether the amounts are.
        newcomer: stands for an entity never seen; nobody may append to it.
    """

    def __init__(
        self,
        columns: tuple[str, ...] = (),
        tally: Callable[[Payment], int] | None = None,
        events_max: int = EVENTS_PER_POPULATION,
        events_per_entity: int = EVENTS_PER_ENTITY,
        *,
        has_spend: bool = False,
    ) -> None:
        self._activities: OrderedDict[Hashable, Activity] = OrderedDict()
        self.columns = columns
        # attrgetter answers a bare value for one name and refuses none; no kind has one.
        self._values: Callable[[Payment], tuple[str, ...]] = (
            attrgetter(*columns) if columns else _no_values
        )
        self.tally = tally
        self.has_spend = has_spend
        self._events_max = events_max
        self._events_per_entity = events_per_entity
        self._events = 0
        self.newcomer = Activity(len(columns))

    def __len__(self) -> int:
        return len(self._activities)

    def __iter__(self) -> Iterator[tuple[Hashable, Activity]]:
        return iter(self._activities.items())

    @property
    def events(self) -> int:
        """Payments held of all entities together."""
        return self._events

    def find(self, key: Hashable) -> Activity:
        """Looks an entity up; one never seen is a newcomer."""
        return self._activities.get(key, self.newcomer)

    def recall(self, key: Hashable) -> Activity | None:
        """Looks an entity up to write a mark on it; a forgotten one takes no mark."""
        return self._activities.get(key)

    def forget(self, key: Hashable) -> Activity:
        """Takes an entity out of memory and hands over what was remembered of it."""
        activity = self._activities.pop(key, self.newcomer)
        self._events -= activity.held
        return activity

    def erase(self, column: str, whose: Callable[[Payment], bool]) -> list[Payment]:
        """Blanks a column wherever certain payments are held, and hands those payments over."""
        found = []
        for activity in self._activities.values():
            numbers = [number for number, held in enumerate(activity.payments) if whose(held)]
            found += [activity.payments[number] for number in numbers]
            if column in self.columns:
                for number in numbers:
                    activity.columns[self.columns.index(column)][number] = ""
        return found

    def append(self, key: Hashable, activity: Activity, payment: Payment) -> Activity:
        """Remembers a payment of an entity, forgetting the longest unused when memory is full.

        `activity` is what `find` has just said of the key.
        """
        activities = self._activities
        if activity is self.newcomer:
            activity = activities[key] = Activity(len(self.columns))
        else:
            activities.move_to_end(key)
        tally = self.tally
        self._events += activity.append(
            payment,
            payment.cents if self.has_spend else None,
            None if tally is None else tally(payment),
            self._values(payment),
            self._events_per_entity,
        )
        while (
            self._events + EVENTS_PER_NEWCOMER * len(activities) > self._events_max
            and len(activities) > 1
        ):
            _, forgotten = activities.popitem(last=False)
            self._events -= forgotten.held
        return activity

    def refill(self, activity: Activity, times: Sequence[int], payments: list[Payment]) -> None:
        """Gives an activity back what it held, apart from its marks; totals are worked out anew."""
        activity.times, activity.payments = array("q", times), payments
        if len(times) != len(payments):
            raise ValueError("as many times as payments are needed")
        spend, tally = activity.spend_before, activity.tally_before
        for payment in payments:
            if self.has_spend:
                spend += payment.cents
                activity.spend.append(spend)
            if self.tally is not None:
                tally += self.tally(payment)
                activity.tally.append(tally)
            for column, value in zip(activity.columns, self._values(payment), strict=True):
                column.append(value)

    def restore(self, key: Hashable, activity: Activity) -> None:
        """Takes an entity back, as the most recently used one."""
        self._activities[key] = activity
        self._events += activity.held
