"""The one place where features are computed, for training by replay and for serving alike.

Score first, then append: a payment never sees itself in its own history. Counts, sums and distinct
counts are exact over the window (now - length, now] while an entity's payments are held, and exact
to the day beyond; a label counts from the moment it is known. A missing input yields NaN for
everything that needs it, which the trees route as "not known".

Devices, cards, customers and terminals are remembered per merchant and mode, because their names
are the merchant's own and mean nothing elsewhere. The network (the payer's public address), the
country and the category are shared by all merchants of one mode: they mean the same for everybody,
and card testers hop merchants.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import deque
from collections.abc import Hashable
from dataclasses import asdict, replace
from enum import IntEnum
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain import graph, profiles, snapshot
from smartpay_fraud.domain.activity import (
    CLEARED,
    DAY_MS,
    EVENTS_PER_PLACE,
    FRAUD,
    LABEL_DELAY_MS,
    MEMORY_MS,
    UNKNOWN,
    Activity,
    Payment,
    log_amount_of,
    outlier_of,
    tiny_of,
    unusual_of,
)
from smartpay_fraud.domain.fates import fraud_rate
from smartpay_fraud.domain.moments import HOUR_MS, MINUTE_MS, moment_of
from smartpay_fraud.domain.population import EVENTS_PER_POPULATION, Population
from smartpay_fraud.domain.transaction import (
    Transaction,
    TransactionKey,
    network_of,
    reference_cents,
)

__all__ = [
    "DAY_MS",
    "FEATURES",
    "HOUR_MS",
    "MEMORY_MS",
    "MINUTE_MS",
    "FeatureStore",
    "View",
    "parts_of",
]

DEFINITIONS_VERSION = 2
"""Raise it when a feature changes its meaning but not its name: old models must then not load."""

Vector = NDArray[np.float32]

FEATURES: tuple[str, ...] = (
    "amount",
    "hour",
    "weekend",
    *profiles.CUSTOMER,
    *profiles.CARD,
    *profiles.DEVICE,
    *profiles.NETWORK,
    *profiles.TERMINAL,
    *profiles.MERCHANT,
    *profiles.COUNTRY,
    *profiles.CATEGORY,
)
"""Names of the columns, in the model's order; `profiles` tells their units."""

FEATURE_INDEX = {name: index for index, name in enumerate(FEATURES)}

EDGE_COLUMNS = np.array([FEATURE_INDEX[name] for name in graph.EDGE_FEATURES])
"""What the graph remembers of a payment's own row, as column numbers."""

_NAN = math.nan
_UNKNOWN_CUSTOMER = [_NAN] * len(profiles.CUSTOMER)
_UNKNOWN_CARD = [_NAN] * len(profiles.CARD)
_UNKNOWN_DEVICE = [_NAN] * len(profiles.DEVICE)
_UNKNOWN_NETWORK = [_NAN] * len(profiles.NETWORK)
_THURSDAY, _SATURDAY = 3, 5  # counted from Monday; 1970-01-01 was a Thursday
_NO_GRAPH = np.zeros(graph.GRAPH_WIDTH, np.float32)
_NO_SHADOW = np.empty(0, np.float32)
for _shared in (_NO_GRAPH, _NO_SHADOW):
    _shared.setflags(write=False)
_NO_GRAPHS = (_NO_GRAPH, _NO_SHADOW)
_PACK = struct.Struct(f"={len(FEATURES)}f").pack


class Parts(NamedTuple):
    """The names under which the parts of one payment are remembered; None when not given."""

    merchant: Hashable
    terminal: Hashable
    customer: Hashable | None
    card: Hashable | None
    device: Hashable | None
    network: tuple[bool, str] | None
    country: Hashable | None
    category: Hashable | None


KINDS: tuple[str, ...] = Parts._fields
_RING_PLACES = [KINDS.index(kind) for kind in graph.GRAPH_KINDS]


class View(NamedTuple):
    """What is known of a payment before it is remembered.

    Attributes:
        row: float32, one value per name in FEATURES.
        graph: float32 [graph.GRAPH_WIDTH]; zeros while no graph model is in use.
        shadow: the same for a challenger's graph model; empty while there is none.
    """

    row: Vector
    graph: Vector
    shadow: Vector


class Word(IntEnum):
    """What can be said of a payment afterwards."""

    LEGITIMATE = 0
    FRAUD = 1
    DECLINED = 2
    BLOCKED = 3


_DECLINED_PARTS: dict[Word, tuple[str, ...]] = {
    Word.DECLINED: ("merchant", "customer", "card", "device", "network"),
    Word.BLOCKED: ("card", "device"),
}


class _Glance(NamedTuple):
    """A payment as just looked at, so that remembering it needs no second look.

    `activities` belong to `parts`, newcomers among them.
    """

    transaction: Transaction
    now_ms: int
    payment: Payment
    parts: Parts
    activities: tuple[Activity | None, ...]
    view: View


def schema_hash() -> str:
    """Ties a model to these columns in this order with this meaning (SHA-256, hex)."""
    text = f"{DEFINITIONS_VERSION}\n" + "\n".join(FEATURES)
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureStore:
    """What the service remembers of past payments, and the features of the next one.

    One writer only: call it from one thread, with times that fall back no further than clocks do.
    Memory is bounded per entity, per kind of entity, and in payments whose label is awaited.
    """

    def __init__(self, events_max: int = EVENTS_PER_POPULATION) -> None:
        place = EVENTS_PER_PLACE
        self.populations: dict[str, Population] = {
            "merchant": Population((), tiny_of, events_max, place),
            "terminal": Population((), unusual_of, events_max, place),
            "customer": Population(
                profiles.CUSTOMER_COLUMNS, outlier_of, events_max, has_spend=True
            ),
            "card": Population(profiles.CARD_COLUMNS, None, events_max, has_spend=True),
            "device": Population(profiles.DEVICE_COLUMNS, tiny_of, events_max),
            "network": Population(profiles.NETWORK_COLUMNS, tiny_of, events_max),
            "country": Population((), None, events_max),
            "category": Population((), None, events_max),
        }
        self._in_order = tuple(self.populations.values())
        self._events_max = events_max
        self._now_ms = 0
        self._awaited: deque[Payment] = deque()  # oldest first; their labels still move a window
        self._payments: dict[TransactionKey, Payment] = {}
        self._news: list[tuple[int, int, Word, Transaction]] = []  # a heap: told before known
        self._news_count = 0
        self._weights: graph.MessageWeights | None = None
        self._shadow: graph.MessageWeights | None = None
        self._glance: _Glance | None = None

    def use_graph(
        self, weights: graph.MessageWeights | None, shadow: graph.MessageWeights | None = None
    ) -> None:
        """Switches to other graph models, the champion's and the challenger's, or to none.

        What is remembered stays; messages are computed anew when they are next asked for.
        """
        self._weights = weights
        self._shadow = shadow
        self._glance = None

    def no_graph(self) -> tuple[Vector, Vector]:
        """The graph rows, champion's and challenger's, of a payment whose graph is not known."""
        return _NO_GRAPH, _NO_SHADOW if self._shadow is None else _NO_GRAPH

    def score_view(self, transaction: Transaction, now_ms: int) -> View:
        """The features of a payment as of now, from what was remembered before it."""
        return self._look_at(transaction, now_ms).view

    def append(self, transaction: Transaction, now_ms: int) -> None:
        """Remembers a payment once its features were taken."""
        glance = self._glance
        if glance is None or glance.transaction is not transaction or glance.now_ms != now_ms:
            glance = self._look_at(transaction, now_ms)
        self._glance = None
        payment = glance.payment
        self._await_label(payment)
        activities = [
            None if activity is None else population.append(name, activity, payment)
            for population, name, activity in zip(
                self._in_order, glance.parts, glance.activities, strict=True
            )
        ]
        graph.remember(
            [_ring_of(activities[place]) for place in _RING_PLACES],
            glance.view.row.take(EDGE_COLUMNS),
            now_ms,
            payment.key,
            self._weights,
        )

    def decline(self, transaction: Transaction, known_ms: int) -> None:
        """Remembers that the processor declined a scored payment."""
        self._tell(Word.DECLINED, transaction, known_ms)

    def block(self, transaction: Transaction, known_ms: int) -> None:
        """Remembers that we blocked a payment: a decline of its card and its device only.

        A network, a merchant or a customer must not become suspect by our own verdicts, or one
        mistake would breed the next.
        """
        self._tell(Word.BLOCKED, transaction, known_ms)

    def label(self, transaction: Transaction, fraudulent: bool, known_ms: int) -> None:
        """Remembers what a scored payment turned out to be; a later word replaces an earlier one.

        Features count it from `known_ms` (milliseconds since the epoch).
        """
        self._tell(Word.FRAUD if fraudulent else Word.LEGITIMATE, transaction, known_ms)

    def forget(self, merchant_id: str, livemode: bool, customer_id: str) -> None:
        """Erases a customer: its history goes, and its name in whatever else is remembered.

        Looks at everything there is (a third of a second for a full memory): erasures are rare,
        and an index for them would cost every payment.
        """
        self._glance = None
        self.populations["customer"].forget((merchant_id, livemode, customer_id))

        def theirs(payment: Payment) -> bool:
            key = payment.key
            return payment.customer == customer_id and key[:2] == (merchant_id, livemode)

        named = [payment for payment in self._awaited if theirs(payment)]
        for population in self._in_order:
            named += population.erase("customer", theirs)
        for payment in named:
            payment.customer = ""
        self._news = [
            (known_ms, number, word, replace(transaction, customer_id=""))
            if (transaction.merchant_id, transaction.livemode, transaction.customer_id)
            == (merchant_id, livemode, customer_id)
            else (known_ms, number, word, transaction)
            for known_ms, number, word, transaction in self._news
        ]

    def dump(self) -> bytes:
        """Everything remembered, as bytes that `load` turns back into an equal store."""
        news = [[*told[:3], asdict(told[3])] for told in sorted(self._news, key=lambda t: t[:2])]
        header = {
            "schema": schema_hash(),
            "graph": graph.graph_hash(),
            "now_ms": self._now_ms,
            "news_count": self._news_count,
            "news": news,
        }
        return snapshot.dump(self.populations, tuple(self._awaited), header)

    @classmethod
    def load(cls, data: bytes, events_max: int = EVENTS_PER_POPULATION) -> FeatureStore:
        """Reads a dump back; graph models are chosen anew with `use_graph`.

        Raises:
            SnapshotError: the bytes are damaged, or of other features than these.
        """
        store = cls(events_max)
        awaited, header = snapshot.load(data, store.populations)
        if header.get("schema") != schema_hash() or header.get("graph") != graph.graph_hash():
            raise snapshot.SnapshotError("it was written for other features")
        try:
            store._now_ms, store._news_count = header["now_ms"], header["news_count"]
            store._news = [
                (known_ms, number, Word(word), Transaction(**transaction))
                for known_ms, number, word, transaction in header["news"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise snapshot.SnapshotError("its news can't be read") from error
        store._awaited.extend(awaited)
        store._payments = {payment.key: payment for payment in awaited}
        return store

    def _look_at(self, transaction: Transaction, now_ms: int) -> _Glance:
        self._hear(now_ms)
        parts = parts_of(transaction)
        cents = reference_cents(transaction.amount_minor, transaction.currency_code)
        log_amount = log_amount_of(cents)
        merchants, terminals, customers, cards, devices, networks, countries, categories = (
            self._in_order
        )
        customer = None if parts.customer is None else customers.find(parts.customer)
        card = None if parts.card is None else cards.find(parts.card)
        device = None if parts.device is None else devices.find(parts.device)
        network = None if parts.network is None else networks.find(parts.network)
        terminal, merchant = terminals.find(parts.terminal), merchants.find(parts.merchant)
        country = None if parts.country is None else countries.find(parts.country)
        category = None if parts.category is None else categories.find(parts.category)
        z = ratio = _NAN
        if customer is not None:
            z, ratio = customer.habit(log_amount)
        payment = Payment(
            transaction.key,
            now_ms,
            cents,
            log_amount,
            transaction.customer_id,
            transaction.instrument_id,
            transaction.device_id,
            "" if parts.network is None else parts.network[1],
            transaction.terminal_id,
            transaction.country,
            transaction.currency_code,
            0 if z != z else round(z * 1000),
        )
        at = moment_of(now_ms)
        row: list[float] = [
            math.log1p(cents / 100),
            now_ms // HOUR_MS % 24,
            1.0 if (now_ms // DAY_MS + _THURSDAY) % 7 >= _SATURDAY else 0.0,
        ]
        if customer is None:
            row += _UNKNOWN_CUSTOMER
        elif customer is customers.newcomer:
            row += profiles.NEW_CUSTOMERS.view(payment)
        else:
            row += profiles.customer_view(customer, payment, at, z, ratio)
        if card is None:
            row += _UNKNOWN_CARD
        elif card is cards.newcomer:
            row += profiles.NEW_CARDS.view(payment)
        else:
            row += profiles.card_view(card, payment, at)
        if device is None:
            row += _UNKNOWN_DEVICE
        elif device is devices.newcomer:
            row += profiles.NEW_DEVICES.view(payment)
        else:
            row += profiles.device_view(device, payment, at)
        if network is None:
            row += _UNKNOWN_NETWORK
        elif network is networks.newcomer:
            row += profiles.NEW_NETWORKS.view(payment)
        else:
            row += profiles.network_view(network, payment, at)
        row += profiles.terminal_view(terminal, payment, at)
        row += profiles.merchant_view(merchant, payment, at)
        row += (
            _NAN if country is None else fraud_rate(country, at),
            _NAN if category is None else fraud_rate(category, at),
        )
        if self._weights is None and self._shadow is None:
            graphs = _NO_GRAPHS
        else:
            graphs = self._graph_views(
                [
                    None if part is None else part.ring
                    for part in (customer, terminal, card, device, network)
                ],
                now_ms,
            )
        # Packing takes half the time of an array made of a list.
        view = View(np.frombuffer(_PACK(*row), np.float32), *graphs)
        activities = (merchant, terminal, customer, card, device, network, country, category)
        self._glance = _Glance(transaction, now_ms, payment, parts, activities, view)
        return self._glance

    def _graph_views(self, rings: graph.Rings, now_ms: int) -> tuple[Vector, Vector]:
        weights, shadow = self._weights, self._shadow
        return (
            _NO_GRAPH if weights is None else graph.view(rings, now_ms, weights),
            _NO_SHADOW if shadow is None else graph.view(rings, now_ms, shadow),
        )

    def _await_label(self, payment: Payment) -> None:
        awaited = self._awaited
        awaited.append(payment)
        self._payments[payment.key] = payment
        too_old = payment.time_ms - MEMORY_MS
        while awaited[0].time_ms <= too_old or len(awaited) > self._events_max:
            gone = awaited.popleft()
            if self._payments.get(gone.key) is gone:
                del self._payments[gone.key]

    def _tell(self, word: Word, transaction: Transaction, known_ms: int) -> None:
        if known_ms <= self._now_ms:
            self._take_in(word, transaction, known_ms)
        else:
            self._news_count += 1
            heappush(self._news, (known_ms, self._news_count, word, transaction))

    def _hear(self, now_ms: int) -> None:
        if now_ms > self._now_ms:
            self._now_ms = now_ms
        news = self._news
        while news and news[0][0] <= now_ms:
            known_ms, _, word, transaction = heappop(news)
            self._take_in(word, transaction, known_ms)

    def _take_in(self, word: Word, transaction: Transaction, known_ms: int) -> None:
        self._glance = None
        parts = parts_of(transaction)
        if word in _DECLINED_PARTS:
            for kind in _DECLINED_PARTS[word]:
                activity = self.populations[kind].recall(getattr(parts, kind))
                if activity is not None:
                    activity.decline(known_ms)
            return
        key = transaction.key
        payment = self._payments.get(key)
        mark = UNKNOWN
        if word is Word.FRAUD:
            mark = FRAUD
        elif payment is not None and known_ms < payment.time_ms + LABEL_DELAY_MS:
            mark = CLEARED
        for population, name in zip(self._in_order, parts, strict=True):
            activity = population.recall(name)
            if activity is not None:
                activity.label(key, payment, mark, known_ms)
                if activity.ring is not None:
                    activity.ring.label(key, word is Word.FRAUD, known_ms)
        if payment is not None:
            payment.word, payment.word_ms = mark, known_ms


def _ring_of(activity: Activity | None) -> graph.Ring | None:
    """The ring of an entity that a payment was just appended to; its first payment makes it."""
    if activity is None:
        return None
    if activity.ring is None:
        activity.ring = graph.Ring()
    return activity.ring


def parts_of(transaction: Transaction) -> Parts:
    """Names the entities of a payment; without a terminal the merchant itself is one."""
    merchant, livemode = transaction.merchant_id, transaction.livemode
    customer, card, device = (
        transaction.customer_id,
        transaction.instrument_id,
        transaction.device_id,
    )
    network = network_of(transaction.ip_address)
    country, category = transaction.country, transaction.merchant_category
    return Parts(
        (merchant, livemode),
        (merchant, livemode, transaction.terminal_id),
        (merchant, livemode, customer) if customer else None,
        (merchant, livemode, card) if card else None,
        (merchant, livemode, device) if device else None,
        (livemode, network) if network else None,
        (livemode, country) if country else None,
        (livemode, category) if category else None,
    )
