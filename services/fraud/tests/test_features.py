"""Features are exact, see only the past, and keep merchants apart."""

import gc
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from smartpay_fraud.domain import graph
from smartpay_fraud.domain.features import (
    DAY_MS,
    FEATURE_INDEX,
    FEATURES,
    HOUR_MS,
    MINUTE_MS,
    FeatureStore,
    Vector,
)
from smartpay_fraud.domain.transaction import Transaction, network_of, reference_cents

NOON = 1_767_268_800_000  # 2026-01-01 12:00 UTC

A_PAYMENT = Transaction(
    merchant_id="mer",
    livemode=False,
    transaction_id="t",
    amount_minor=5_000,
    currency_code="USD",
    customer_id="customer",
    instrument_id="card",
    device_id="device",
    ip_address="203.0.113.7",
)


def value(row: Vector, name: str) -> float:
    return float(row[FEATURE_INDEX[name]])


def a_stream(count: int) -> list[tuple[Transaction, int]]:
    """Payments of few entities within two days, so that every window holds something."""
    draw = random.Random(11)
    now = NOON
    stream = []
    for number in range(count):
        now += draw.choice((500, 40_000, 200_000, 900_000))
        stream.append(
            (
                Transaction(
                    merchant_id=f"mer{draw.randrange(2)}",
                    livemode=draw.random() < 0.7,
                    transaction_id=f"t{number}",
                    amount_minor=draw.randrange(50, 30_000),
                    currency_code=draw.choice(("USD", "EUR", "JPY")),
                    customer_id=draw.choice(("", "a", "b", "c")),
                    instrument_id=draw.choice(("", "v", "w", "x", "y")),
                    device_id=draw.choice(("", "p", "q")),
                    ip_address=draw.choice(("", "8.8.8.8", "2001:db8::1", "10.0.0.1")),
                ),
                now,
            )
        )
    return stream


def counted_by_hand(
    past: list[tuple[Transaction, int]],
    declines: list[tuple[Transaction, int]],
    transaction: Transaction,
    now: int,
) -> dict[str, float]:
    """The same features by brute force over the whole past, sharing no code with the store."""
    same = [
        (t, at)
        for t, at in past
        if (t.merchant_id, t.livemode) == (transaction.merchant_id, transaction.livemode)
    ]
    expected: dict[str, float] = {}

    def within(events: list[tuple[Transaction, int]], length: int) -> list[Transaction]:
        return [t for t, at in events if now - length < at <= now]

    def distinct(events: list[Transaction], name: str) -> int:
        return len({getattr(t, name) for t in [*events, transaction]} - {""})

    if transaction.customer_id:
        mine = [(t, at) for t, at in same if t.customer_id == transaction.customer_id]
        today = within(mine, DAY_MS)
        cents = sum(reference_cents(t.amount_minor, t.currency_code) for t in today)
        expected["customer_count_1h"] = len(within(mine, HOUR_MS))
        expected["customer_count_24h"] = len(today)
        expected["customer_spend_24h"] = math.log1p(cents / 100)
        expected["customer_cards_24h"] = distinct(today, "instrument_id")
        expected["customer_devices_24h"] = distinct(today, "device_id")
        expected["customer_declines_24h"] = len(
            [
                t
                for t, at in declines
                if (t.merchant_id, t.livemode) == (transaction.merchant_id, transaction.livemode)
                and t.customer_id == transaction.customer_id
                and now - DAY_MS < at <= now
            ]
        )
        expected["customer_idle"] = math.log1p((now - mine[-1][1]) / 1000) if mine else math.nan
        if transaction.device_id:
            seen = transaction.device_id in {t.device_id for t, _ in mine}
            expected["customer_new_device"] = float(bool(mine) and not seen)
    if transaction.instrument_id:
        mine = [(t, at) for t, at in same if t.instrument_id == transaction.instrument_id]
        expected["card_count_10m"] = len(within(mine, 10 * MINUTE_MS))
        expected["card_customers_24h"] = distinct(within(mine, DAY_MS), "customer_id")
    if transaction.device_id:
        mine = [(t, at) for t, at in same if t.device_id == transaction.device_id]
        hour = within(mine, HOUR_MS)
        expected["device_cards_10m"] = distinct(within(mine, 10 * MINUTE_MS), "instrument_id")
        expected["device_cards_1h"] = distinct(hour, "instrument_id")
        expected["device_cards_24h"] = distinct(within(mine, DAY_MS), "instrument_id")
        expected["device_tiny_1h"] = sum(
            reference_cents(t.amount_minor, t.currency_code) <= 500 for t in hour
        )
    if transaction.ip_address in ("8.8.8.8", "2001:db8::1"):
        mine = [
            (t, at)
            for t, at in past
            if t.livemode == transaction.livemode and t.ip_address == transaction.ip_address
        ]
        hour = within(mine, HOUR_MS)
        expected["network_count_1h"] = len(hour)
        expected["network_cards_1h"] = distinct(hour, "instrument_id")
        expected["network_customers_1h"] = distinct(hour, "customer_id")
    expected["merchant_count_1h"] = len(within(same, HOUR_MS))
    return expected


def test_every_window_agrees_with_counting_by_hand() -> None:
    store = FeatureStore()
    past: list[tuple[Transaction, int]] = []
    declines: list[tuple[Transaction, int]] = []
    compared = 0
    for number, (transaction, now) in enumerate(a_stream(400)):
        row = store.score_view(transaction, now).row
        for name, expected in counted_by_hand(past, declines, transaction, now).items():
            assert value(row, name) == pytest.approx(expected, rel=1e-6, nan_ok=True), name
            compared += 1
        store.append(transaction, now)
        past.append((transaction, now))
        if number % 7 == 0:
            store.decline(transaction, now + 2_000)
            declines.append((transaction, now + 2_000))
    assert compared > 3_000


def test_a_habit_is_the_mean_and_spread_of_the_own_past() -> None:
    store = FeatureStore()
    amounts = [1_000, 2_000, 3_000, 1_500, 2_500]
    for number, amount in enumerate(amounts):
        store.append(replace(A_PAYMENT, amount_minor=amount), NOON + number * HOUR_MS)
    row = store.score_view(replace(A_PAYMENT, amount_minor=9_000), NOON + DAY_MS).row
    logs = np.log(amounts)
    spread = math.sqrt((((logs - logs.mean()) ** 2).sum() + 3 * 0.16) / (len(logs) + 3))
    expected = (math.log(9_000) - logs.mean()) / spread
    assert value(row, "customer_amount_z") == pytest.approx(expected, rel=1e-3)


def test_a_label_counts_only_from_the_moment_it_is_known() -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON)
    untouched = FeatureStore()
    untouched.append(A_PAYMENT, NOON)
    known_ms = NOON + 7 * DAY_MS
    store.label(A_PAYMENT, True, known_ms)
    before, after = known_ms - 1, known_ms
    np.testing.assert_array_equal(
        store.score_view(A_PAYMENT, before).row, untouched.score_view(A_PAYMENT, before).row
    )
    known = store.score_view(A_PAYMENT, after).row
    for name in ("customer", "card", "device", "network", "merchant"):
        assert value(known, f"{name}_known_frauds") == 1


def test_a_later_word_on_a_payment_replaces_the_earlier_one() -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON)
    store.label(A_PAYMENT, True, NOON + 1)
    store.label(A_PAYMENT, False, NOON + 2)
    assert value(store.score_view(A_PAYMENT, NOON + 3).row, "card_known_frauds") == 0


def test_a_payment_does_not_see_itself() -> None:
    row = FeatureStore().score_view(A_PAYMENT, NOON).row
    assert value(row, "customer_count_1h") == 0
    assert value(row, "device_cards_10m") == 1
    assert value(row, "customer_new_device") == 0


def test_a_missing_input_leaves_only_its_own_features_unknown() -> None:
    bare = replace(A_PAYMENT, customer_id="", instrument_id="", device_id="", ip_address="")
    row = FeatureStore().score_view(bare, NOON).row
    known = {name for name in FEATURES if not math.isnan(value(row, name))}
    assert {"amount", "hour", "weekend", "merchant_age", "terminal_count_7d"} <= known
    assert all(name.startswith(("merchant_", "terminal_")) or "_" not in name for name in known)


def test_merchants_and_modes_share_nothing_but_the_network() -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON)
    stranger = store.score_view(replace(A_PAYMENT, merchant_id="other"), NOON + 1).row
    live = store.score_view(replace(A_PAYMENT, livemode=True), NOON + 1).row
    for name in ("customer_count_1h", "card_count_1h", "device_count_1h", "merchant_count_1h"):
        assert value(stranger, name) == 0
        assert value(live, name) == 0
    assert value(stranger, "network_count_1h") == 1
    assert value(live, "network_count_1h") == 0


def test_our_own_block_marks_the_card_and_the_device_only() -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON)
    store.block(A_PAYMENT, NOON)
    row = store.score_view(A_PAYMENT, NOON + 1).row
    assert value(row, "card_declines_24h") == 1
    assert value(row, "device_declines_1h") == 1
    assert value(row, "customer_declines_24h") == 0
    assert value(row, "network_declines_1h") == 0
    assert value(row, "merchant_decline_share_1h") == 0


def test_flipping_every_label_not_yet_known_changes_no_feature() -> None:
    stream = a_stream(600)
    known, unknown = FeatureStore(), FeatureStore()
    weights = graph.MessageWeights(
        np.random.default_rng(3)
        .normal(size=(len(graph.GRAPH_KINDS), len(graph.SLOT), graph.HIDDEN))
        .astype(np.float32)
    )
    for store in (known, unknown):
        store.use_graph(weights)
    flipped = 0
    for number, (transaction, now) in enumerate(stream):
        rows = [store.score_view(transaction, now) for store in (known, unknown)]
        for one, other in zip(*rows, strict=True):
            np.testing.assert_array_equal(one, other)
        for store in (known, unknown):
            store.append(transaction, now)
        if number < 300:
            # Half of the labels become known within the stream, and are told the same to both.
            known_ms = now + (number % 2) * 365 * DAY_MS + HOUR_MS
            late = known_ms > stream[-1][1]
            known.label(transaction, number % 3 == 0, known_ms)
            unknown.label(transaction, (number % 3 == 0) ^ late, known_ms)
            flipped += late
    assert flipped == 150
    merchant = value(known.score_view(*stream[-1]).row, "merchant_known_frauds")
    assert merchant > 5
    after = stream[-1][1] + 366 * DAY_MS
    one, other = (store.score_view(stream[-1][0], after).row for store in (known, unknown))
    assert not np.array_equal(one, other, equal_nan=True)


def test_a_payment_without_a_word_counts_as_legitimate_after_a_week() -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON)
    week = 7 * DAY_MS
    for now, settled in ((week - 1, 0), (week, 1), (week + DAY_MS, 0)):
        row = store.score_view(A_PAYMENT, NOON + now).row
        assert value(row, "customer_known_1d") == settled
    row = store.score_view(A_PAYMENT, NOON + week).row
    assert value(row, "customer_label_1") == 0
    assert value(row, "customer_fraud_share_28d") == 0


@pytest.mark.parametrize("days", [2, 9])
def test_a_word_settles_a_payment_when_it_is_known_be_it_early_or_late(days: int) -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON)
    store.label(A_PAYMENT, True, NOON + days * DAY_MS)
    row = store.score_view(A_PAYMENT, NOON + days * DAY_MS).row
    assert value(row, "terminal_known_1d") == 1
    assert value(row, "terminal_frauds_1d") == 1
    assert value(row, "terminal_fraud_share_28d") == 1
    assert value(row, "terminal_last_fraud_age") == 0
    later = store.score_view(A_PAYMENT, NOON + (days + 3) * DAY_MS).row
    assert value(later, "terminal_known_3d") == 0
    assert value(later, "terminal_known_28d") == 1


def test_a_payment_without_a_terminal_is_at_its_merchant() -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON)
    store.append(replace(A_PAYMENT, terminal_id="till"), NOON + 1)
    bare = store.score_view(A_PAYMENT, NOON + 2).row
    till = store.score_view(replace(A_PAYMENT, terminal_id="till"), NOON + 2).row
    assert value(bare, "terminal_count_24h") == value(till, "terminal_count_24h") == 1
    assert value(bare, "merchant_count_1h") == 2


def test_a_new_country_or_currency_stands_out_only_with_a_known_customer() -> None:
    store = FeatureStore()
    at_home = replace(A_PAYMENT, country="DE")
    assert value(store.score_view(at_home, NOON).row, "customer_new_country") == 0
    store.append(at_home, NOON)
    abroad = replace(A_PAYMENT, country="NG", currency_code="EUR")
    row = store.score_view(abroad, NOON + 1).row
    assert value(row, "customer_new_country") == 1
    assert value(row, "customer_new_currency") == 1
    unsaid = store.score_view(A_PAYMENT, NOON + 1).row
    assert math.isnan(value(unsaid, "customer_new_country"))


def test_appending_without_a_look_before_remembers_the_same() -> None:
    looked, unlooked = FeatureStore(), FeatureStore()
    for transaction, now in a_stream(200):
        looked.score_view(transaction, now)
        looked.append(transaction, now)
        unlooked.append(transaction, now)
    assert looked.dump() == unlooked.dump()


def test_an_edge_of_a_second_ago_is_in_the_next_view() -> None:
    store = FeatureStore()
    weights = np.ones((len(graph.GRAPH_KINDS), len(graph.SLOT), graph.HIDDEN), np.float32)
    store.use_graph(graph.MessageWeights(weights))
    assert not store.score_view(A_PAYMENT, NOON).graph.any()
    store.append(A_PAYMENT, NOON)
    view = store.score_view(A_PAYMENT, NOON + 1_000)
    assert view.graph.any()
    assert not len(view.shadow)


def test_a_challenger_sees_the_same_payments_through_its_own_weights() -> None:
    store = FeatureStore()
    weights = np.ones((len(graph.GRAPH_KINDS), len(graph.SLOT), graph.HIDDEN), np.float32)
    store.use_graph(graph.MessageWeights(weights), graph.MessageWeights(2 * weights))
    store.append(A_PAYMENT, NOON)
    view = store.score_view(A_PAYMENT, NOON + 1_000)
    assert view.shadow.shape == view.graph.shape
    assert view.shadow.max() > view.graph.max()
    store.use_graph(None)
    view = store.score_view(A_PAYMENT, NOON + 1_000)
    assert not view.graph.any()
    assert not len(view.shadow)


def test_a_forgotten_customer_leaves_counts_but_no_name() -> None:
    store = FeatureStore()
    for number in range(3):
        store.append(replace(A_PAYMENT, transaction_id=f"t{number}"), NOON + number)
    store.append(replace(A_PAYMENT, customer_id="other", transaction_id="o"), NOON + 4)
    store.append(replace(A_PAYMENT, merchant_id="elsewhere"), NOON + 4)
    store.label(A_PAYMENT, True, NOON + DAY_MS)
    assert store.dump().count(b'"customer"') > FeatureStore().dump().count(b'"customer"')
    store.forget("mer", False, "customer")
    store.forget("elsewhere", False, "customer")
    assert store.dump().count(b'"customer"') == FeatureStore().dump().count(b'"customer"')
    row = store.score_view(A_PAYMENT, NOON + 5).row
    assert value(row, "customer_count_24h") == 0
    assert value(row, "card_count_24h") == 4
    assert value(row, "card_customers_24h") == 2  # the other one, and the one who comes anew
    store.forget("mer", False, "nobody")


def test_what_is_remembered_holds_no_cycles_so_that_forgetting_alone_frees_it() -> None:
    store = FeatureStore(events_max=50)
    store.use_graph(
        graph.MessageWeights(
            np.ones((len(graph.GRAPH_KINDS), len(graph.SLOT), graph.HIDDEN), np.float32)
        )
    )
    gc.collect()
    gc.disable()  # the service sets memory aside: what this leaves behind would stay for good
    try:
        for number, (transaction, now) in enumerate(a_stream(400)):
            store.score_view(transaction, now)
            store.append(transaction, now)
            store.label(transaction, number % 3 == 0, now + HOUR_MS)
            store.decline(transaction, now)
        store.forget("mer0", True, "a")
        del store
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_clock_that_steps_back_keeps_the_windows_right() -> None:
    store = FeatureStore()
    store.append(A_PAYMENT, NOON + HOUR_MS)
    store.append(A_PAYMENT, NOON)
    row = store.score_view(A_PAYMENT, NOON + HOUR_MS + 1).row
    assert value(row, "customer_count_1h") == 2


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("10.1.2.3", ""),
        ("127.0.0.1", ""),
        ("fe80::1", ""),
        ("not an address", ""),
        ("", ""),
    ],
)
def test_an_address_names_its_network_only_if_it_is_public(address: str, network: str) -> None:
    assert network_of(address) == network


def test_all_addresses_of_one_ipv6_subscriber_are_one_network() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("amount", "currency", "cents"),
    [(1_999, "USD", 1_999), (10_000, "JPY", 6_700), (1, "VND", 1), (1_000_000, "USDC", 100)],
)
def test_amounts_of_all_currencies_lie_on_one_scale(amount: int, currency: str, cents: int) -> None:
    assert reference_cents(amount, currency) == cents
