"""What is written is read back exactly, and nothing else is read."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from smartpay_fraud.domain import features, graph
from smartpay_fraud.domain.features import DAY_MS, FeatureStore
from smartpay_fraud.domain.snapshot import MAGIC, SnapshotError
from smartpay_fraud.domain.transaction import Transaction

NOON = 1_767_268_800_000
START = len(MAGIC) + 32 + 8
"""Where the header begins."""


def a_stream(count: int, seed: int) -> list[tuple[Transaction, int]]:
    draw = np.random.default_rng(seed)
    stream = []
    for number in range(count):
        parts = [f"{name}{draw.integers(20)}" for name in ("c", "k", "d")]
        parts[number % 3] = parts[number % 3] if number % 7 else ""
        stream.append(
            (
                Transaction(
                    "mer",
                    number % 5 > 0,
                    f"{seed}-{number}",
                    int(draw.integers(50, 90_000)),
                    ("USD", "EUR")[number % 2],
                    customer_id=parts[0],
                    instrument_id=parts[1],
                    device_id=parts[2],
                    ip_address=f"8.8.8.{draw.integers(9)}",
                    terminal_id=("", "till")[number % 2],
                    merchant_category="5411",
                    country="DE",
                ),
                NOON + number * 1_800_000,
            )
        )
    return stream


@pytest.fixture(scope="module")
def store() -> FeatureStore:
    """A memory with everything in it: hot places, labels of all kinds, words still to come."""
    store = FeatureStore()
    for number, (transaction, now) in enumerate(a_stream(2_400, 1)):
        store.append(transaction, now)
        if number % 10 == 0:
            store.decline(transaction, now + 2_000)
        if number % 12 == 0:
            store.label(transaction, number % 5 == 0, now + number % 9 * DAY_MS)
        if number % 60 == 0:
            store.label(transaction, False, now + 11 * DAY_MS)
    return store


@pytest.fixture(scope="module")
def dump(store: FeatureStore) -> bytes:
    return store.dump()


def test_a_loaded_store_goes_on_exactly_as_the_dumped_one(dump: bytes) -> None:
    weights = np.random.default_rng(2).normal(
        size=(len(graph.GRAPH_KINDS), len(graph.SLOT), graph.HIDDEN)
    )
    stores = FeatureStore.load(dump), FeatureStore.load(dump)
    loaded, twice = stores[0], FeatureStore.load(stores[1].dump())
    for each in (loaded, twice):
        each.use_graph(graph.MessageWeights(weights.astype(np.float32)))
    for transaction, now in a_stream(300, 7):
        now += 50 * DAY_MS
        views = [each.score_view(transaction, now) for each in (loaded, twice)]
        for one, other in zip(*views, strict=True):
            np.testing.assert_array_equal(one, other)
        for each in (loaded, twice):
            each.append(transaction, now)
            each.label(transaction, True, now + DAY_MS)
    assert loaded.dump() == twice.dump()


def test_the_loaded_views_are_those_of_the_store_that_was_never_stopped() -> None:
    through, stopped = FeatureStore(), FeatureStore()
    for number, (transaction, now) in enumerate(a_stream(900, 3)):
        views = [each.score_view(transaction, now) for each in (through, stopped)]
        np.testing.assert_array_equal(views[0].row, views[1].row)
        for each in (through, stopped):
            each.append(transaction, now)
            each.label(transaction, number % 4 == 0, now + number % 20 * DAY_MS)
        if number % 100 == 50:
            stopped = FeatureStore.load(stopped.dump())
    assert through.dump() == stopped.dump()


def test_dumping_changes_nothing_and_repeats_itself(store: FeatureStore, dump: bytes) -> None:
    assert store.dump() == dump
    assert FeatureStore.load(dump).dump() == dump


def test_an_empty_store_has_a_snapshot_too() -> None:
    dump = FeatureStore().dump()
    assert FeatureStore.load(dump).dump() == dump


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda dump: b"", "does not begin"),
        (lambda dump: b"PK\x03\x04" + dump[4:], "does not begin"),
        (lambda dump: dump[:-1], "not the ones"),
        (lambda dump: dump + b"\0", "not the ones"),
        (lambda dump: dump[:200] + bytes([dump[200] ^ 1]) + dump[201:], "not the ones"),
    ],
)
def test_damaged_bytes_are_refused(
    dump: bytes, damage: Callable[[bytes], bytes], complaint: str
) -> None:
    with pytest.raises(SnapshotError, match=complaint):
        FeatureStore.load(damage(dump))


def forged(dump: bytes, change: Callable[[dict[str, Any]], None], more: bytes = b"") -> bytes:
    """A snapshot whose header says something else, with a hash that fits."""
    length = int.from_bytes(dump[START - 8 : START], "little")
    header = json.loads(dump[START : START + length])
    change(header)
    text = json.dumps(header).encode()
    body = len(text).to_bytes(8, "little") + text + dump[START + length :] + more
    return MAGIC + hashlib.sha256(body).digest() + body


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["arrays"].update({"awaited": ["|O", 1]}),
        lambda header: header["arrays"].update({"awaited": ["<i8", 10**12]}),
        lambda header: header["arrays"].update({"awaited": ["<i8", -1]}),
        lambda header: header["arrays"].pop("card.times"),
        lambda header: header["texts"].clear(),
        lambda header: header["names"].pop("card"),
        lambda header: header["names"]["card"].pop(),
        lambda header: header["header"].update(schema="of another day"),
        lambda header: header["header"].pop("now_ms"),
        lambda header: header.clear(),
    ],
)
def test_what_is_not_consistent_in_itself_is_refused(
    dump: bytes, change: Callable[[dict[str, Any]], None]
) -> None:
    with pytest.raises(SnapshotError):
        FeatureStore.load(forged(dump, change))


def test_bytes_that_nobody_announced_are_refused(dump: bytes) -> None:
    with pytest.raises(SnapshotError, match="longer than it says"):
        FeatureStore.load(forged(dump, lambda header: None, b"\0" * 8))


def test_a_snapshot_of_other_features_is_refused(
    dump: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "DEFINITIONS_VERSION", features.DEFINITIONS_VERSION + 1)
    with pytest.raises(SnapshotError, match="other features"):
        FeatureStore.load(dump)
