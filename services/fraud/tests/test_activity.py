"""Memory is bounded: by age, per entity, per kind; what can't be held goes on in whole days."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from smartpay_fraud.domain import activity
from smartpay_fraud.domain.activity import (
    CLEARED,
    DAY_MS,
    EVENTS_PER_ENTITY,
    EVENTS_PER_PLACE,
    FRAUD,
    MARKS_PER_ENTITY,
    MEMORY_MS,
    UNKNOWN,
    Activity,
    DayBuckets,
    Payment,
    log_amount_of,
)
from smartpay_fraud.domain.features import FEATURE_INDEX, FeatureStore
from smartpay_fraud.domain.population import EVENTS_PER_NEWCOMER, Population
from smartpay_fraud.domain.transaction import Transaction, TransactionKey

MIDNIGHT = 1_767_225_600_000  # 2026-01-01 00:00 UTC
HOUR_MS = 3_600_000

A_PAYMENT = Transaction(
    "mer", False, "t", 5_000, "USD", "customer", "card", "device", "203.0.113.7", "till"
)


def a_payment(time_ms: int, cents: int = 100) -> Payment:
    key = TransactionKey("mer", False, f"t{time_ms}")
    texts = ("customer", "card", "device", "network", "till", "DE", "USD")
    return Payment(key, time_ms, cents, log_amount_of(cents), *texts)


def figures(store: FeatureStore, now_ms: int, *names: str) -> list[float]:
    row = store.score_view(A_PAYMENT, now_ms).row
    return [float(row[FEATURE_INDEX[name]]) for name in names]


def test_past_its_limit_a_card_stands_still_within_the_day_and_goes_on_beyond() -> None:
    store = FeatureStore()
    for second in range(EVENTS_PER_ENTITY + 50):
        store.append(replace(A_PAYMENT, transaction_id=f"{second}"), MIDNIGHT + second * 1_000)
    short, day, spend = figures(
        store, MIDNIGHT + 400_000, "card_count_1h", "card_count_24h", "card_spend_24h"
    )
    assert short == EVENTS_PER_ENTITY
    assert day == EVENTS_PER_ENTITY + 50
    assert spend == pytest.approx(math.log1p((EVENTS_PER_ENTITY + 50) * 50), rel=1e-6)


def test_windows_that_still_lie_within_what_is_held_are_exact_for_hot_places() -> None:
    store = FeatureStore()
    for minute in range(4 * 1_440):
        store.append(replace(A_PAYMENT, transaction_id=f"{minute}"), MIDNIGHT + minute * 60_000)
    now = MIDNIGHT + 4 * DAY_MS - 60_000
    hour, day, week = figures(
        store, now, "merchant_count_1h", "terminal_count_24h", "terminal_count_7d"
    )
    assert hour == 60
    # The day's window begins before what is held: its first day counts whole.
    assert 1_440 <= day <= 2 * 1_440
    assert week == 4 * 1_440


def test_hot_places_settle_day_by_day() -> None:
    store = FeatureStore()
    for minute in range(3 * 1_440):
        store.append(replace(A_PAYMENT, transaction_id=f"{minute}"), MIDNIGHT + minute * 60_000)
    store.label(replace(A_PAYMENT, transaction_id="5"), True, MIDNIGHT + 4 * DAY_MS)
    names = ("terminal_known_1d", "terminal_known_14d", "terminal_frauds_14d")
    assert figures(store, MIDNIGHT + 8 * DAY_MS, *names) == [1_439, 1_440, 1]
    # The last day's end is held and settles payment by payment, its beginning once it is over.
    held = EVENTS_PER_PLACE
    assert figures(store, MIDNIGHT + 10 * DAY_MS - 1, names[1]) == [2 * 1_440 + held]
    store.label(replace(A_PAYMENT, transaction_id="5"), False, MIDNIGHT + 10 * DAY_MS)
    assert figures(store, MIDNIGHT + 10 * DAY_MS, *names[1:]) == [3 * 1_440, 0]


def test_memory_ends_where_no_window_reaches() -> None:
    population = Population(("card",) * 2)
    for day in range(100):
        population.append("entity", population.find("entity"), a_payment(MIDNIGHT + day * DAY_MS))
    held = population.find("entity")
    assert held.held == population.events == MEMORY_MS // DAY_MS
    assert held.count == 100
    assert held.first_ms == MIDNIGHT
    assert held.buckets is None


def test_who_comes_back_after_months_is_known_by_habit_but_fills_no_window() -> None:
    store = FeatureStore()
    for number in range(3):
        store.append(replace(A_PAYMENT, transaction_id=f"{number}"), MIDNIGHT + number)
    for number in range(3, 5):
        store.append(replace(A_PAYMENT, transaction_id=f"{number}"), MIDNIGHT + 90 * DAY_MS)
    now = MIDNIGHT + 90 * DAY_MS + 1
    names = ("customer_count_30d", "terminal_count_28d", "customer_amount_z", "card_spend_24h")
    month, places, z, spend = figures(store, now, *names)
    assert (month, places, z) == (2, 2, 0)
    assert spend == pytest.approx(math.log1p(100), rel=1e-6)
    assert figures(store, now, "customer_age")[0] > math.log(89 * 86_400)


def test_a_population_forgets_the_longest_unused_entity_first() -> None:
    population = Population(events_max=3 + 2 * EVENTS_PER_NEWCOMER)
    for key in ("a", "b", "a", "c"):
        population.append(key, population.find(key), a_payment(MIDNIGHT))
    assert population.recall("b") is None
    assert population.events == 3
    assert len(population) == 2


def test_marks_on_one_entity_are_bounded_and_the_count_of_frauds_is_not() -> None:
    marked = Activity()
    for second in range(MARKS_PER_ENTITY + 40):
        key = TransactionKey("mer", False, f"{second}")
        marked.decline(second)
        marked.label(key, None, FRAUD, second)
        marked.label(key._replace(livemode=True), None, CLEARED, second)
    for marks in (marked.declines, marked.frauds, marked.fraud_keys, marked.cleared):
        assert len(marks) == MARKS_PER_ENTITY
    assert marked.declines_since(-1) == MARKS_PER_ENTITY
    assert marked.known_frauds() == MARKS_PER_ENTITY + 40
    assert marked.first_fraud_ms == 0


def test_a_later_word_takes_the_earlier_one_back_wherever_it_was_counted() -> None:
    entity, payment = Activity(), a_payment(MIDNIGHT)
    entity.append(payment, 0, 0, (), EVENTS_PER_ENTITY)
    now = MIDNIGHT + 8 * DAY_MS
    for word, counted in ((FRAUD, (1, 1)), (CLEARED, (1, 0)), (FRAUD, (1, 1)), (UNKNOWN, (1, 0))):
        entity.label(payment.key, payment, word, MIDNIGHT + DAY_MS)
        payment.word, payment.word_ms = word, MIDNIGHT + DAY_MS
        assert entity.settled(now - 28 * DAY_MS, now, 0, 1) == counted
        assert bytes(entity.words) == bytes([word])


def test_a_word_finds_its_payment_on_its_day_when_it_is_no_longer_held() -> None:
    buckets = DayBuckets()
    for day in (0, 0, 2):
        buckets.add(MIDNIGHT + day * DAY_MS, 100, 0)
    buckets.mark(MIDNIGHT + HOUR_MS, 1)
    buckets.mark(MIDNIGHT + DAY_MS, 1)  # nothing is remembered of that day
    assert buckets.marked == [0, 1, 1]  # running totals
    assert buckets.settled(MIDNIGHT, MIDNIGHT + 3 * DAY_MS) == 2


def a_busy_life(days: int) -> Iterator[tuple[Transaction, int]]:
    """One shop where everything is new and everything is busy, a payment every two minutes."""
    draw = np.random.default_rng(8)
    for number in range(days * 720):
        fresh = f"n{number}"
        parts = [f"b{draw.integers(3)}" if draw.random() < 0.5 else fresh for _ in range(4)]
        yield (
            Transaction(
                merchant_id="mer",
                livemode=False,
                transaction_id=fresh,
                amount_minor=100,
                currency_code="USD",
                customer_id=parts[0],
                instrument_id=parts[1],
                device_id=parts[2],
                ip_address="203.0.113.7",
                terminal_id=parts[3],
            ),
            MIDNIGHT + number * 120_000,
        )


def test_memory_is_bounded_whatever_comes() -> None:
    events_max = 2_000
    store = FeatureStore(events_max)
    for transaction, now in a_busy_life(6):
        store.append(transaction, now)
        store.decline(transaction, now)
        store.label(transaction, True, now)
    for kind, population in store.populations.items():
        assert population.events + EVENTS_PER_NEWCOMER * len(population) <= events_max, kind
        place = kind in ("merchant", "terminal")
        limit = EVENTS_PER_PLACE if place else EVENTS_PER_ENTITY
        for _, entity in population:
            assert entity.held <= limit
            assert len(entity.declines) <= MARKS_PER_ENTITY
            assert len(entity.frauds) <= MARKS_PER_ENTITY
            assert entity.buckets is None or len(entity.buckets.ends_ms) <= 36
    size = len(store.dump())
    for transaction, now in a_busy_life(7):
        if now >= MIDNIGHT + 6 * DAY_MS:
            store.append(transaction, now)
    assert len(store.dump()) < 1.2 * size


def test_the_label_delay_is_the_graphs_too() -> None:
    assert activity.LABEL_DELAY_MS == 7 * DAY_MS
