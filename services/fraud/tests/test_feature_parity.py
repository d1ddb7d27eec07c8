"""The features that are served equal those that a second, whole-column computation finds.

The reference below shares no code with the store: it has the whole stream in columns, works on one
entity's payments at a time, and knows every label with the span in which it holds.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.activity import EVENTS_PER_ENTITY, EVENTS_PER_PLACE
from smartpay_fraud.domain.features import FEATURE_INDEX, FEATURES, FeatureStore
from smartpay_fraud.domain.transaction import Transaction, network_of, reference_cents

PAYMENTS = int(os.environ.get("FRAUD_PARITY_PAYMENTS", "20000"))
"""20,000 reach every window, cap and bucket; more only take longer (210,000: about a minute)."""

Column = Any  # an array of floats; arithmetic on arrays of anything answers no narrower type
Ints = NDArray[np.int64]

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
WEEK = 7 * DAY
FIRST_DAY = 1_767_225_600_000  # 2026-01-01
FOREVER = 1 << 60
DISTINCT = ("customer", "card", "device", "network", "terminal", "country", "currency")


@dataclass
class World:
    """A stream in columns; "" for what is not sent. Labels are spans: [known, replaced)."""

    transactions: list[Transaction]
    time: Ints
    decline: Ints  # when the processor's decline is known; -1: never
    fraud: NDArray[np.int64]  # [payments, 2]: a fraud from .. to
    cleared: NDArray[np.int64]  # [payments, 2]: called legitimate from .. to


def a_world(count: int, *, merchants: int, days: int, seed: int = 5) -> World:
    draw = np.random.default_rng(seed)
    time = FIRST_DAY + np.sort(draw.integers(0, days * DAY, count))
    customer = draw.integers(0, count // 40, count)
    merchant = customer % merchants  # names are the merchant's own

    def some(prefix: str, below: int, missing: float) -> list[str]:
        numbers = np.where(draw.random(count) < missing, -1, draw.integers(0, below, count))
        return ["" if n < 0 else f"{prefix}{n}" for n in numbers.tolist()]

    # A customer keeps to two cards and two devices, so that windows hold repeats; one payment in
    # ten is made with a card and on a device that many use.
    own = (customer * 2 + draw.integers(0, 2, count)).tolist()
    strange = draw.random(count) < 0.1
    shared_cards, shared_devices = some("shared", 40, 0.3), some("shared", 9, 0.1)
    card = [b if odd else f"k{n}" for n, b, odd in zip(own, shared_cards, strange, strict=True)]
    device = [b if odd else f"d{n}" for n, b, odd in zip(own, shared_devices, strange, strict=True)]
    terminal = some("t", count // 60 // merchants + 1, 0.6)
    network = some("8.8.", count // 40, 0.2)
    country, category = some("C", 9, 0.2), some("54", 9, 0.3)
    amount = np.maximum(1, np.exp(draw.normal(8, 1.3, count))).astype(int).tolist()
    transactions = [
        Transaction(
            merchant_id=f"m{merchant[n]}",
            livemode=True,
            transaction_id=f"x{n}",
            amount_minor=amount[n],
            currency_code=("USD", "EUR", "JPY")[n % 3 if n % 10 == 0 else 0],
            customer_id="" if n % 17 == 0 else f"c{customer[n]}",
            instrument_id=card[n],
            device_id="" if n % 13 == 0 else device[n],
            ip_address=_address(network[n]),
            terminal_id=terminal[n],
            merchant_category=category[n],
            country=country[n],
        )
        for n in range(count)
    ]
    decline = np.where(draw.random(count) < 0.05, time + 2_000, -1)
    fraud = np.full((count, 2), FOREVER)
    cleared = np.full((count, 2), FOREVER)
    bad = np.flatnonzero(draw.random(count) < 0.008)
    fraud[bad, 0] = time[bad] + draw.integers(HOUR, 20 * DAY, len(bad))
    fine = np.flatnonzero(draw.random(count) < 0.005)
    cleared[fine, 0] = time[fine] + draw.integers(HOUR, 10 * DAY, len(fine))
    # Some payments are called both: the later word holds from when it is known.
    fraud[:, 1] = np.where(cleared[:, 0] > fraud[:, 0], cleared[:, 0], FOREVER)
    cleared[:, 1] = np.where(fraud[:, 0] > cleared[:, 0], fraud[:, 0], FOREVER)
    # Who is cleared after the week was legitimate already; only the fraud's end remains of it.
    cleared[cleared[:, 0] >= time + WEEK] = FOREVER
    return World(transactions, time, decline, fraud, cleared)


def _address(network: str) -> str:
    if not network:
        return ""
    number = int(network.removeprefix("8.8."))
    return f"8.{number // 65_536}.{number // 256 % 256}.{number % 256}"


def served(world: World) -> NDArray[np.float32]:
    """The rows of a store that lives through the stream, hearing of labels long in advance."""
    store = FeatureStore()
    rows = np.empty((len(world.time), len(FEATURES)), np.float32)
    words = zip(world.time, world.decline, world.fraud, world.cleared, strict=True)
    for number, (now, declined, fraud, cleared) in enumerate(words):
        transaction, now_ms = world.transactions[number], int(now)
        rows[number] = store.score_view(transaction, now_ms).row
        store.append(transaction, now_ms)
        if declined >= 0:
            store.decline(transaction, int(declined))
        if fraud[0] < FOREVER:
            store.label(transaction, True, int(fraud[0]))
            if fraud[1] < FOREVER:
                store.label(transaction, False, int(fraud[1]))
        if cleared[0] < FOREVER:
            store.label(transaction, False, int(cleared[0]))
    return rows


@dataclass
class Entity:
    """One entity's payments: columns of the whole stream at `at`, and the queries they make."""

    at: Ints
    time: Ints
    cents: Ints
    logs: Ints
    limit: int
    values: dict[str, Ints]
    decline: Ints
    fraud: Ints
    cleared: Ints

    def __post_init__(self) -> None:
        self.n = np.arange(len(self.at))
        self.held = np.maximum(0, self.n - self.limit)

    def first(self, length: int, shift: int = 0) -> Ints:
        """Per query the first payment of the window (now - shift - length, ...]."""
        return np.searchsorted(self.time, self.time - length - shift, side="right")

    def count(self, length: int) -> Column:
        """Exact while held; short windows stand still, windows of days go on in whole days."""
        first = self.first(length)
        within = self.n - np.maximum(first, self.held)
        if length < DAY:
            return within.astype(float)
        return within + self._days(np.ones(len(self.n)), first, self.time - length)

    def spend(self, length: int) -> Column:
        first = self.first(length)
        total = np.r_[0, np.cumsum(self.cents)]
        within = total[self.n] - total[np.maximum(first, self.held)]
        return within + self._days(self.cents.astype(float), first, self.time - length)

    def _days(self, weights: Column, first: Ints, after: Ints) -> Column:
        """What is no longer held, of days that end within the window."""
        ends = (self.time // DAY + 1) * DAY
        total = np.r_[0, np.cumsum(weights)]
        begin = np.minimum(np.searchsorted(ends, after, side="right"), self.held)
        return np.where(first <= self.held, total[self.held] - total[begin], 0.0)

    def running(self, weights: Ints, length: int) -> Column:
        total = np.r_[0, np.cumsum(weights)]
        return total[self.n] - total[np.maximum(self.first(length), self.held)]

    def habit(self) -> tuple[Column, Column, Column, Column]:
        """(z, log ratio, mean, spread) of the amount against all payments before."""
        count = self.n.astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            sums = np.r_[0, np.cumsum(self.logs)][:-1]
            squares = np.r_[0, np.cumsum(self.logs * self.logs)][:-1] - sums * sums / count
            squares = np.where(count > 0, np.maximum(squares, 0), 0)
            spread = np.sqrt((squares + 0.16e6 * 3) / (count + 3))
            off = self.logs - sums / count
            return off / spread, off / 1000, sums / count / 1000, spread / 1000

    def idle(self) -> Column:
        gap = np.r_[np.nan, np.diff(self.time)]
        return np.log1p(gap / 1000)

    def age(self) -> Column:
        return np.log1p((self.time - self.time[0]) / 1000)

    def pairs(self, first: Ints) -> tuple[Ints, Ints]:
        """Every (query, earlier payment within its window)."""
        first = np.maximum(first, self.held)
        sizes = self.n - first
        query = np.repeat(self.n, sizes)
        offset = np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return query, first[query] + offset

    def distinct(self, name: str, length: int) -> Column:
        """Different values within the window, the query's own included."""
        values = self.values[name]
        query, past = self.pairs(self.first(length))
        both = np.r_[query * (1 << 32) + values[past], self.n * (1 << 32) + values]
        both = both[np.r_[values[past], values] >= 0]
        return np.bincount(np.unique(both) >> 32, minlength=len(self.n)).astype(float)

    def seen(self, name: str) -> Column:
        """How often the query's own value was there within 35 days."""
        values = self.values[name]
        query, past = self.pairs(self.first(35 * DAY))
        return np.bincount(query[values[query] == values[past]], minlength=len(self.n))

    def new(self, name: str) -> Column:
        known = self.n > np.maximum(self.first(35 * DAY), self.held)
        new = (known & (self.seen(name) == 0)).astype(float)
        return np.where(self.values[name] >= 0, new, np.nan)

    def declines(self, length: int) -> Column:
        marks = np.sort(self.decline[self.decline >= 0])
        upto = np.searchsorted(marks, self.time, side="right")
        return (upto - np.searchsorted(marks, self.time - length, side="right")).astype(float)

    def spans(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Ints, Ints]:
        """Words by query: (holds now, is a fraud, since, which payment)."""
        fraud = np.flatnonzero(self.fraud[:, 0] < FOREVER)
        cleared = np.flatnonzero(self.cleared[:, 0] < FOREVER)
        of = np.r_[fraud, cleared]
        span = np.r_[self.fraud[fraud], self.cleared[cleared]]
        now = self.time[:, None]
        holds = (span[:, 0] <= now) & (now < span[:, 1]) & (of < self.n[:, None])
        bad = np.r_[np.ones(len(fraud), bool), np.zeros(len(cleared), bool)]
        return holds, bad, span[:, 0], of

    def settled(self, length: int) -> tuple[Column, Column]:
        """Fates known within the window: a word since it is known, or a week without one."""
        now = self.time[:, None]
        holds, bad, since, of = self.spans()
        first, last = self.first(length, WEEK), self.first(0, WEEK)
        ends = (self.time // DAY + 1) * DAY
        days = np.searchsorted(ends, self.time - length - WEEK, side="right")
        upto = np.minimum(np.searchsorted(ends, self.time - WEEK, side="right"), self.held)
        days = np.where(first <= self.held, np.minimum(days, upto), upto)
        inner = np.maximum(first, self.held), np.maximum(last, self.held)
        count = (inner[1] - inner[0]) + (upto - days)
        worded = (of >= inner[0][:, None]) & (of < inner[1][:, None])
        worded |= (of >= days[:, None]) & (of < upto[:, None])
        recent = holds & (since > now - length)
        fates = count - (holds & worded).sum(1) + recent.sum(1)
        return fates.astype(float), (recent & bad).sum(1).astype(float)

    def known_frauds(self) -> Column:
        holds, bad, _, _ = self.spans()
        return (holds & bad).sum(1).astype(float)

    def rate(self) -> Column:
        count, frauds = self.settled(28 * DAY)
        return frauds / (count + 4)

    def fates(self, kind: str) -> Iterator[tuple[str, Column]]:
        yield f"{kind}_known_frauds", self.known_frauds()
        yield f"{kind}_known_fraud_rate", self.rate()
        for days in (1, 3, 7, 14, 28):
            count, frauds = self.settled(days * DAY)
            yield f"{kind}_known_{days}d", count
            yield f"{kind}_frauds_{days}d", frauds
            yield f"{kind}_fraud_share_{days}d", frauds / np.maximum(count, 1)
        last = self.first(0, WEEK)
        oldest = np.maximum(self.first(35 * DAY), self.held)
        for number in (1, 2, 3):
            at = last - number
            there, at = at >= oldest, np.maximum(at, 0)
            bad = (self.fraud[at, 0] <= self.time) & (self.time < self.fraud[at, 1])
            age = np.log1p((self.time - self.time[at]) / 1000)
            yield f"{kind}_label_{number}", np.where(there, bad, np.nan)
            yield f"{kind}_label_age_{number}", np.where(there, age, np.nan)
        holds, bad, since, _ = self.spans()
        frauds = holds & bad
        latest = np.where(frauds, since, -1).max(1, initial=-1)
        earliest = np.where(frauds, since, FOREVER).min(1, initial=FOREVER)
        some = frauds.any(1)
        for name, at in (("last", latest), ("first", earliest)):
            ages = np.log1p(np.where(some, self.time - at, 0) / 1000)
            yield f"{kind}_{name}_fraud_age", np.where(some, ages, np.nan)


def _log1p_usd(cents: Column) -> Column:
    return np.log1p(cents / 100)


def customer(e: Entity) -> Iterator[tuple[str, Column]]:
    for name, length in (("1h", HOUR), ("24h", DAY), ("7d", WEEK), ("30d", 30 * DAY)):
        yield f"customer_count_{name}", e.count(length)
    for name, length in (("24h", DAY), ("7d", WEEK), ("30d", 30 * DAY)):
        count, spend = e.count(length), e.spend(length)
        yield f"customer_spend_{name}", _log1p_usd(spend)
        with np.errstate(invalid="ignore", divide="ignore"):
            yield f"customer_amount_ratio_{name}", np.log(e.cents * count / spend)
    z, ratio, mean, spread = e.habit()
    yield from (
        ("customer_amount_z", z),
        ("customer_amount_ratio", ratio),
        ("customer_mean", mean),
        ("customer_spread", spread),
    )
    outlier = (np.rint(np.nan_to_num(z) * 1000) >= 2000).astype(np.int64)
    yield "customer_outliers_3d", e.running(outlier, 3 * DAY)
    yield "customer_outliers_14d", e.running(outlier, 14 * DAY)
    yield "customer_idle", e.idle()
    yield "customer_age", e.age()
    yield "customer_cards_24h", e.distinct("card", DAY)
    yield "customer_devices_24h", e.distinct("device", DAY)
    for name in ("card", "device", "network", "country", "currency"):
        yield f"customer_new_{name}", e.new(name)
    yield "customer_at_terminal", e.seen("terminal")
    yield "customer_declines_24h", e.declines(DAY)
    yield from e.fates("customer")


def card(e: Entity) -> Iterator[tuple[str, Column]]:
    for name, length in (("10m", 10 * MINUTE), ("1h", HOUR), ("24h", DAY)):
        yield f"card_count_{name}", e.count(length)
    yield "card_spend_24h", _log1p_usd(e.spend(DAY))
    yield "card_amount_z", e.habit()[0]
    yield "card_idle", e.idle()
    yield "card_age", e.age()
    yield "card_customers_24h", e.distinct("customer", DAY)
    yield "card_devices_24h", e.distinct("device", DAY)
    yield "card_declines_24h", e.declines(DAY)
    yield "card_known_frauds", e.known_frauds()


def device(e: Entity) -> Iterator[tuple[str, Column]]:
    for name, length in (("10m", 10 * MINUTE), ("1h", HOUR), ("24h", DAY)):
        yield f"device_count_{name}", e.count(length)
        yield f"device_cards_{name}", e.distinct("card", length)
    yield "device_customers_24h", e.distinct("customer", DAY)
    yield "device_tiny_1h", e.running((e.cents <= 500).astype(np.int64), HOUR)
    yield "device_amount_z", e.habit()[0]
    yield "device_idle", e.idle()
    yield "device_age", e.age()
    yield "device_declines_1h", e.declines(HOUR)
    yield "device_declines_24h", e.declines(DAY)
    yield "device_known_frauds", e.known_frauds()


def network(e: Entity) -> Iterator[tuple[str, Column]]:
    for name, length in (("10m", 10 * MINUTE), ("1h", HOUR), ("24h", DAY)):
        yield f"network_count_{name}", e.count(length)
    tiny, declines = e.running((e.cents <= 500).astype(np.int64), HOUR), e.declines(HOUR)
    hour = np.maximum(e.count(HOUR), 1)
    yield "network_cards_1h", e.distinct("card", HOUR)
    yield "network_cards_24h", e.distinct("card", DAY)
    yield "network_customers_1h", e.distinct("customer", HOUR)
    yield "network_tiny_1h", tiny
    yield "network_tiny_share_1h", tiny / hour
    yield "network_amount_z", e.habit()[0]
    yield "network_age", e.age()
    yield "network_declines_1h", declines
    yield "network_decline_share_1h", np.where(e.count(HOUR) > 0, declines / hour, 0)
    yield "network_known_frauds", e.known_frauds()
    yield "network_known_fraud_rate", e.rate()


def terminal(e: Entity) -> Iterator[tuple[str, Column]]:
    for name, length in (("24h", DAY), ("7d", WEEK), ("28d", 28 * DAY)):
        yield f"terminal_count_{name}", e.count(length)
    yield "terminal_amount_z", e.habit()[0]
    held = e.n - np.maximum(e.first(WEEK), e.held)
    yield "terminal_mean_z_7d", e.running(e.values["z"], WEEK) / np.maximum(held, 1) / 1000
    yield "terminal_idle", e.idle()
    yield "terminal_age", e.age()
    yield from e.fates("terminal")


def merchant(e: Entity) -> Iterator[tuple[str, Column]]:
    yield "merchant_count_10m", e.count(10 * MINUTE)
    yield "merchant_count_1h", e.count(HOUR)
    hour = e.count(HOUR)
    tiny = e.running((e.cents <= 500).astype(np.int64), HOUR)
    yield "merchant_tiny_share_1h", tiny / np.maximum(hour, 1)
    yield "merchant_amount_z", e.habit()[0]
    yield "merchant_age", e.age()
    share = e.declines(HOUR) / np.maximum(hour, 1)
    yield "merchant_decline_share_1h", np.where(hour > 0, share, 0)
    yield "merchant_known_frauds", e.known_frauds()
    yield "merchant_known_fraud_rate", e.rate()


def country(e: Entity) -> Iterator[tuple[str, Column]]:
    yield "country_known_fraud_rate", e.rate()


def category(e: Entity) -> Iterator[tuple[str, Column]]:
    yield "category_known_fraud_rate", e.rate()


def computed(world: World) -> NDArray[np.float32]:
    """The same rows from columns, one entity after the other."""
    ts = world.transactions
    rows = np.full((len(ts), len(FEATURES)), np.nan)
    cents = np.array([reference_cents(t.amount_minor, t.currency_code) for t in ts])
    logs = np.rint(np.log(cents) * 1000).astype(np.int64)
    rows[:, FEATURE_INDEX["amount"]] = np.log1p(cents / 100)
    rows[:, FEATURE_INDEX["hour"]] = world.time // HOUR % 24
    rows[:, FEATURE_INDEX["weekend"]] = (world.time // DAY + 3) % 7 >= 5
    texts = {
        "customer": [t.customer_id for t in ts],
        "card": [t.instrument_id for t in ts],
        "device": [t.device_id for t in ts],
        "network": [network_of(t.ip_address) for t in ts],
        "terminal": [t.terminal_id for t in ts],
        "country": [t.country for t in ts],
        "currency": [t.currency_code for t in ts],
        "category": [t.merchant_category for t in ts],
        "merchant": [t.merchant_id for t in ts],
    }
    values = {name: _numbered(column) for name, column in texts.items()}
    values["terminal"] = np.unique(texts["terminal"], return_inverse=True)[1]  # "" counts there
    values["z"] = np.zeros(len(ts), np.int64)
    own = values["merchant"]
    views: list[tuple[str, Callable[[Entity], Iterator[tuple[str, Column]]], Ints | None, int]] = [
        ("customer", customer, own, EVENTS_PER_ENTITY),
        ("card", card, own, EVENTS_PER_ENTITY),
        ("device", device, own, EVENTS_PER_ENTITY),
        ("network", network, None, EVENTS_PER_ENTITY),
        ("terminal", terminal, own, EVENTS_PER_PLACE),
        ("merchant", merchant, own, EVENTS_PER_PLACE),
        ("country", country, None, EVENTS_PER_ENTITY),
        ("category", category, None, EVENTS_PER_ENTITY),
    ]
    for kind, view, within, limit in views:
        names = values[kind] if within is None else values[kind] * 1_000 + within
        names = np.where(values[kind] < 0, -1, names)
        order = np.argsort(names, kind="stable")
        order = order[names[order] >= 0]
        for at in np.split(order, np.flatnonzero(np.diff(names[order])) + 1):
            e = Entity(
                at,
                world.time[at],
                cents[at],
                logs[at],
                limit,
                {name: column[at] for name, column in values.items()},
                world.decline[at],
                world.fraud[at],
                world.cleared[at],
            )
            for name, column in view(e):
                rows[at, FEATURE_INDEX[name]] = column
        if kind == "customer":
            z = rows[:, FEATURE_INDEX["customer_amount_z"]]
            values["z"] = np.rint(np.nan_to_num(z) * 1000).astype(np.int64)
    return rows.astype(np.float32)


def _numbered(texts: list[str]) -> Ints:
    """Numbers for texts, -1 for none."""
    names, numbers = np.unique(texts, return_inverse=True)
    return np.where(names[numbers] == "", -1, numbers)


def test_served_features_equal_a_computation_over_whole_columns() -> None:
    world = a_world(PAYMENTS, merchants=max(3, PAYMENTS // 10_000), days=50)
    online, offline = served(world), computed(world)
    for name, column in FEATURE_INDEX.items():
        np.testing.assert_allclose(
            online[:, column], offline[:, column], rtol=1e-6, atol=1e-6, err_msg=name
        )
        # Every column says something here, or equality would prove nothing.
        assert len(np.unique(online[:, column])) > 1, name
