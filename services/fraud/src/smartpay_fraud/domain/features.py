"""The one place where features are computed, for training by replay and for serving alike.

Score first, then append: a payment never sees itself in its own history. Counts, sums and distinct
counts are exact over the window (now - length, now]; a label counts from the moment it is known.
A missing input yields NaN for everything that needs it, which the trees route as "not known".

Devices, cards and customers are remembered per merchant and mode, because their names are the
merchant's own and mean nothing elsewhere. Only the network (the payer's public address) is shared
by all merchants of one mode: it means the same for everybody, and card testers hop merchants.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.activity import (
    EVENTS_PER_POPULATION,
    Activity,
    Payment,
    Population,
    log_amount_of,
)
from smartpay_fraud.domain.transaction import Transaction, network_of, reference_cents

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
MEMORY_MS = 30 * DAY_MS
"""The longest window: what is older than 30 days says little about today's payment."""

DEFINITIONS_VERSION = 1
"""Raise it when a feature changes its meaning but not its name: old models must then not load."""

Vector = NDArray[np.float32]

FEATURES: tuple[str, ...] = (
    "amount",
    "hour",
    "customer_count_1h",
    "customer_count_24h",
    "customer_count_7d",
    "customer_count_30d",
    "customer_spend_24h",
    "customer_amount_z",
    "customer_amount_ratio",
    "customer_idle",
    "customer_age",
    "customer_cards_24h",
    "customer_devices_24h",
    "customer_new_card",
    "customer_new_device",
    "customer_new_network",
    "customer_declines_24h",
    "customer_known_frauds",
    "card_count_10m",
    "card_count_1h",
    "card_count_24h",
    "card_spend_24h",
    "card_amount_z",
    "card_idle",
    "card_age",
    "card_customers_24h",
    "card_devices_24h",
    "card_declines_24h",
    "card_known_frauds",
    "device_count_10m",
    "device_count_1h",
    "device_count_24h",
    "device_cards_10m",
    "device_cards_1h",
    "device_cards_24h",
    "device_customers_24h",
    "device_tiny_1h",
    "device_amount_z",
    "device_idle",
    "device_age",
    "device_declines_1h",
    "device_declines_24h",
    "device_known_frauds",
    "network_count_10m",
    "network_count_1h",
    "network_count_24h",
    "network_cards_1h",
    "network_cards_24h",
    "network_customers_1h",
    "network_tiny_1h",
    "network_tiny_share_1h",
    "network_amount_z",
    "network_age",
    "network_declines_1h",
    "network_decline_share_1h",
    "network_known_frauds",
    "network_known_fraud_rate",
    "merchant_count_10m",
    "merchant_count_1h",
    "merchant_tiny_share_1h",
    "merchant_amount_z",
    "merchant_age",
    "merchant_decline_share_1h",
    "merchant_known_frauds",
    "merchant_known_fraud_rate",
)
"""Names of the columns, in the model's order. Times are log(1 + seconds), sums log(1 + USD)."""

FEATURE_INDEX = {name: index for index, name in enumerate(FEATURES)}

_NAN = math.nan
_UNKNOWN_CUSTOMER = [_NAN] * 16
_UNKNOWN_CARD = [_NAN] * 11
_UNKNOWN_DEVICE = [_NAN] * 14
_UNKNOWN_NETWORK = [_NAN] * 14
_LABELS_PRIOR = 4  # labels that an unproven entity is assumed to have, all legitimate


class Entities(NamedTuple):
    """The names under which the parts of one payment are remembered; None when not given."""

    customer: Hashable | None
    card: Hashable | None
    device: Hashable | None
    network: Hashable | None
    merchant: Hashable


def schema_hash() -> str:
    """Ties a model to these columns in this order with this meaning (SHA-256, hex)."""
    text = f"{DEFINITIONS_VERSION}\n" + "\n".join(FEATURES)
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureStore:
    """What the service remembers of past payments, and the features of the next one.

    One writer only: call it from one thread. Memory is bounded per entity and per kind of entity.
    """

    def __init__(self, events_max: int = EVENTS_PER_POPULATION) -> None:
        self._customers = Population(events_max)
        self._cards = Population(events_max)
        self._devices = Population(events_max)
        self._networks = Population(events_max)
        self._merchants = Population(events_max)

    def score_view(self, transaction: Transaction, now_ms: int) -> Vector:
        """The features of a payment as of now, from what was remembered before it.

        Returns a float32 vector with one value per name in FEATURES.
        """
        payment = _payment(transaction, now_ms)
        entities = _entities(transaction)
        row: list[float] = [
            math.log1p(payment.cents / 100),
            float(now_ms // HOUR_MS % 24),
        ]
        if entities.customer is None:
            row += _UNKNOWN_CUSTOMER
        else:
            row += _customer_view(self._customers.find(entities.customer), payment)
        if entities.card is None:
            row += _UNKNOWN_CARD
        else:
            row += _card_view(self._cards.find(entities.card), payment)
        if entities.device is None:
            row += _UNKNOWN_DEVICE
        else:
            row += _device_view(self._devices.find(entities.device), payment)
        if entities.network is None:
            row += _UNKNOWN_NETWORK
        else:
            row += _network_view(self._networks.find(entities.network), payment)
        row += _merchant_view(self._merchants.find(entities.merchant), payment)
        return np.array(row, dtype=np.float32)

    def append(self, transaction: Transaction, now_ms: int) -> None:
        """Remembers a payment once its features were taken."""
        payment = _payment(transaction, now_ms)
        for population, key in self._parts(_entities(transaction)):
            population.append(key, payment)

    def decline(self, transaction: Transaction, known_ms: int) -> None:
        """Remembers that the processor declined a scored payment."""
        for population, key in self._parts(_entities(transaction)):
            activity = population.recall(key)
            if activity is not None:
                activity.decline(known_ms)

    def block(self, transaction: Transaction, known_ms: int) -> None:
        """Remembers that we blocked a payment: a decline of its card and its device only.

        A network, a merchant or a customer must not become suspect by our own verdicts, or one
        mistake would breed the next.
        """
        entities = _entities(transaction)
        for population, key in ((self._cards, entities.card), (self._devices, entities.device)):
            activity = None if key is None else population.recall(key)
            if activity is not None:
                activity.decline(known_ms)

    def label(self, transaction: Transaction, fraudulent: bool, known_ms: int) -> None:
        """Remembers what a scored payment turned out to be; features count it from `known_ms`."""
        for population, key in self._parts(_entities(transaction)):
            activity = population.recall(key)
            if activity is not None:
                activity.label(transaction.key, fraudulent, known_ms)

    def _parts(self, entities: Entities) -> list[tuple[Population, Hashable]]:
        parts: list[tuple[Population, Hashable]] = [(self._merchants, entities.merchant)]
        if entities.customer is not None:
            parts.append((self._customers, entities.customer))
        if entities.card is not None:
            parts.append((self._cards, entities.card))
        if entities.device is not None:
            parts.append((self._devices, entities.device))
        if entities.network is not None:
            parts.append((self._networks, entities.network))
        return parts


def _entities(transaction: Transaction) -> Entities:
    merchant, livemode = transaction.merchant_id, transaction.livemode
    network = network_of(transaction.ip_address)
    return Entities(
        (merchant, livemode, transaction.customer_id) if transaction.customer_id else None,
        (merchant, livemode, transaction.instrument_id) if transaction.instrument_id else None,
        (merchant, livemode, transaction.device_id) if transaction.device_id else None,
        (livemode, network) if network else None,
        (merchant, livemode),
    )


def _payment(transaction: Transaction, now_ms: int) -> Payment:
    cents = reference_cents(transaction.amount_minor, transaction.currency_code)
    return Payment(
        now_ms,
        cents,
        log_amount_of(cents),
        transaction.instrument_id,
        transaction.device_id,
        transaction.customer_id,
        network_of(transaction.ip_address),
    )


def _customer_view(activity: Activity, payment: Payment) -> list[float]:
    now = payment.time_ms
    events = activity.events
    count = len(events)
    day = activity.since(now - DAY_MS)
    z, ratio = activity.habit(payment.log_amount)
    today = events[day:]
    cards = {event.instrument for event in today}
    cards.add(payment.instrument)
    cards.discard("")
    devices = {event.device for event in today}
    devices.add(payment.device)
    devices.discard("")
    new_card = new_device = new_network = _NAN
    if payment.instrument:
        new_card = float(count and all(e.instrument != payment.instrument for e in events))
    if payment.device:
        new_device = float(count and all(e.device != payment.device for e in events))
    if payment.network:
        new_network = float(count and all(e.network != payment.network for e in events))
    return [
        count - activity.since(now - HOUR_MS),
        count - day,
        count - activity.since(now - 7 * DAY_MS),
        count - activity.since(now - MEMORY_MS),
        _spend(activity, day),
        z,
        ratio,
        _idle(activity, now),
        _age(activity, now),
        len(cards),
        len(devices),
        new_card,
        new_device,
        new_network,
        activity.declines_since(now - DAY_MS, now),
        activity.known(now)[0],
    ]


def _card_view(activity: Activity, payment: Payment) -> list[float]:
    now = payment.time_ms
    events = activity.events
    count = len(events)
    day = activity.since(now - DAY_MS)
    today = events[day:]
    customers = {event.customer for event in today}
    customers.add(payment.customer)
    customers.discard("")
    devices = {event.device for event in today}
    devices.add(payment.device)
    devices.discard("")
    return [
        count - activity.since(now - 10 * MINUTE_MS),
        count - activity.since(now - HOUR_MS),
        count - day,
        _spend(activity, day),
        activity.habit(payment.log_amount)[0],
        _idle(activity, now),
        _age(activity, now),
        len(customers),
        len(devices),
        activity.declines_since(now - DAY_MS, now),
        activity.known(now)[0],
    ]


def _device_view(activity: Activity, payment: Payment) -> list[float]:
    now = payment.time_ms
    events = activity.events
    count = len(events)
    minutes = activity.since(now - 10 * MINUTE_MS)
    hour = activity.since(now - HOUR_MS)
    day = activity.since(now - DAY_MS)
    customers = {event.customer for event in events[day:]}
    customers.add(payment.customer)
    customers.discard("")
    # Three nested windows: each wider set grows from the narrower one.
    cards = {event.instrument for event in events[minutes:]}
    cards.add(payment.instrument)
    cards.discard("")
    cards_10m = len(cards)
    cards.update(event.instrument for event in events[hour:minutes] if event.instrument)
    cards_1h = len(cards)
    cards.update(event.instrument for event in events[day:hour] if event.instrument)
    return [
        count - minutes,
        count - hour,
        count - day,
        cards_10m,
        cards_1h,
        len(cards),
        len(customers),
        _tiny(activity, hour),
        activity.habit(payment.log_amount)[0],
        _idle(activity, now),
        _age(activity, now),
        activity.declines_since(now - HOUR_MS, now),
        activity.declines_since(now - DAY_MS, now),
        activity.known(now)[0],
    ]


def _network_view(activity: Activity, payment: Payment) -> list[float]:
    now = payment.time_ms
    events = activity.events
    count = len(events)
    hour = activity.since(now - HOUR_MS)
    day = activity.since(now - DAY_MS)
    recent = events[hour:]
    customers = {event.customer for event in recent}
    customers.add(payment.customer)
    customers.discard("")
    cards = {event.instrument for event in recent}
    cards.add(payment.instrument)
    cards.discard("")
    cards_1h = len(cards)
    cards.update(event.instrument for event in events[day:hour] if event.instrument)
    tiny = _tiny(activity, hour)
    declines = activity.declines_since(now - HOUR_MS, now)
    frauds, legitimate = activity.known(now)
    return [
        count - activity.since(now - 10 * MINUTE_MS),
        count - hour,
        count - day,
        cards_1h,
        len(cards),
        len(customers),
        tiny,
        _share(tiny, count - hour),
        activity.habit(payment.log_amount)[0],
        _age(activity, now),
        declines,
        _share(declines, count - hour),
        frauds,
        frauds / (frauds + legitimate + _LABELS_PRIOR),
    ]


def _merchant_view(activity: Activity, payment: Payment) -> list[float]:
    now = payment.time_ms
    count = len(activity.events)
    hour = activity.since(now - HOUR_MS)
    frauds, legitimate = activity.known(now)
    return [
        count - activity.since(now - 10 * MINUTE_MS),
        count - hour,
        _share(_tiny(activity, hour), count - hour),
        activity.habit(payment.log_amount)[0],
        _age(activity, now),
        _share(activity.declines_since(now - HOUR_MS, now), count - hour),
        frauds,
        frauds / (frauds + legitimate + _LABELS_PRIOR),
    ]


def _spend(activity: Activity, index: int) -> float:
    if index == len(activity.events):
        return 0.0
    cents = activity.events[-1].cents - activity.totals_before(index).cents
    return math.log1p(cents / 100)


def _tiny(activity: Activity, index: int) -> int:
    if index == len(activity.events):
        return 0
    return activity.events[-1].tiny - activity.totals_before(index).tiny


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _idle(activity: Activity, now_ms: int) -> float:
    if not activity.events:
        return _NAN
    return math.log1p(max(0, now_ms - activity.events[-1].time_ms) / 1000)


def _age(activity: Activity, now_ms: int) -> float:
    if activity.first_ms is None:
        return 0.0
    return math.log1p(max(0, now_ms - activity.first_ms) / 1000)
