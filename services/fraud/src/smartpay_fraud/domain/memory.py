"""What is remembered of past payments, as replicas share it: one order, each payment once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from smartpay_fraud.domain.assessment import Finding, Happening
from smartpay_fraud.domain.features import FeatureStore, View
from smartpay_fraud.domain.graph import MessageWeights
from smartpay_fraud.domain.transaction import Transaction, TransactionKey

UNSETTLED_MAX = 10_000
"""Transactions counted but not yet stored, because the store failed or the process hurried;
about 20 MB. Past it the oldest is forgotten, and its retry counts once more."""


class Sighting(NamedTuple):
    """A transaction as it was counted: what was remembered before it, and when."""

    transaction: Transaction
    view: View
    at_ms: int


class Memory(Protocol):
    """Remembers payments in one order, whatever the number of replicas."""

    async def observe(self, visits: Sequence[tuple[Transaction, int]]) -> list[Sighting]:
        """Looks at each transaction as of everything before it, then counts it, in order.

        A transaction that was counted and not yet settled gets its first sighting and is not
        counted again. All views are computed after the last wait, so that the models of the
        moment fit them.
        """
        ...

    def settle(self, keys: Iterable[TransactionKey]) -> None:
        """Says that these are stored for good: their repeats will not come here again."""
        ...

    async def learn(self, happenings: Sequence[Happening]) -> None:
        """Takes in what became known about counted payments, and counts replayed ones."""
        ...

    async def forget(self, merchant_id: str, livemode: bool, customer_id: str) -> None:
        """Forgets a customer who asked for it; what others share with them stays counted."""
        ...

    def use_graph(
        self, weights: MessageWeights | None, shadow: MessageWeights | None = None
    ) -> None:
        """Computes views for these models from now on."""
        ...


class LocalMemory:
    """The embedded memory: one feature store in this process.

    Nothing waits between a view and its counting, so the event loop's order is the one order.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._unsettled: dict[TransactionKey, Sighting] = {}

    async def observe(self, visits: Sequence[tuple[Transaction, int]]) -> list[Sighting]:
        """Looks, then counts, one after the other."""
        return [self.sight(transaction, at_ms) for transaction, at_ms in visits]

    def settle(self, keys: Iterable[TransactionKey]) -> None:
        """Forgets the sightings of stored transactions."""
        for key in keys:
            self._unsettled.pop(key, None)

    async def learn(self, happenings: Sequence[Happening]) -> None:
        """Marks counted payments, and counts those that a restart replays."""
        for happening in happenings:
            self.take_in(happening)

    async def forget(self, merchant_id: str, livemode: bool, customer_id: str) -> None:
        """Forgets a customer in the store."""
        self.forget_now(merchant_id, livemode, customer_id)

    def forget_now(self, merchant_id: str, livemode: bool, customer_id: str) -> None:
        """Forgets a customer without waiting."""
        self._store.forget(merchant_id, livemode, customer_id)

    def dump(self) -> bytes:
        """The store as bytes; see `FeatureStore.dump`."""
        return self._store.dump()

    def replace(self, store: FeatureStore) -> None:
        """Goes on with another store, keeping the sightings that wait for a retry."""
        self._store = store

    def use_graph(
        self, weights: MessageWeights | None, shadow: MessageWeights | None = None
    ) -> None:
        """Switches the store; sightings that wait for a retry lose their graph, not their row."""
        self._store.use_graph(weights, shadow)
        for key, sighting in self._unsettled.items():
            view = View(sighting.view.row, *self._store.no_graph())
            self._unsettled[key] = sighting._replace(view=view)

    def sighting(self, key: TransactionKey) -> Sighting | None:
        """The first sighting of a transaction that is counted and not settled."""
        return self._unsettled.get(key)

    def glance(self, transaction: Transaction, at_ms: int) -> Sighting:
        """Looks and counts nothing."""
        return Sighting(transaction, self._store.score_view(transaction, at_ms), at_ms)

    def sight(self, transaction: Transaction, at_ms: int) -> Sighting:
        """Looks, then counts, once; a repeat gets the first sighting."""
        key = transaction.key
        sighting = self._unsettled.get(key)
        if sighting is None:
            view = self._store.score_view(transaction, at_ms)
            self._store.append(transaction, at_ms)
            sighting = self._unsettled[key] = Sighting(transaction, view, at_ms)
            if len(self._unsettled) > UNSETTLED_MAX:
                del self._unsettled[next(iter(self._unsettled))]
        return sighting

    def take_in(self, happening: Happening) -> None:
        """Counts or marks without looking."""
        transaction, at_ms = happening.transaction, happening.at_ms
        if happening.finding is None:
            self._store.append(transaction, at_ms)
            if happening.blocked:
                self._store.block(transaction, at_ms)
        elif happening.finding is Finding.BLOCKED:
            self._store.block(transaction, at_ms)
        elif happening.finding is Finding.DECLINED:
            self._store.decline(transaction, at_ms)
        else:
            self._store.label(transaction, happening.finding is Finding.FRAUD, at_ms)
