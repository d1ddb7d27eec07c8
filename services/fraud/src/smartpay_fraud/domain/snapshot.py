"""Puts what the features remember into bytes and back, exactly, so that a restart forgets nothing.

Layout: magic, SHA-256 of the rest, length of a JSON header, header, arrays one after the other.
Every array is flat and little endian. Nothing is executed and nothing is unpacked while loading;
whatever is not exactly as written here is refused.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, pairwise
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.activity import Activity, DayBuckets, Payment
from smartpay_fraud.domain.graph import EDGE_FEATURES, Ring, RingDump
from smartpay_fraud.domain.population import Population
from smartpay_fraud.domain.transaction import TransactionKey

MAGIC = b"SPFRAUD2"
"""Names the layout; another number means another layout."""

_INTEGERS, _BYTES, _FLOATS = "<i8", "|u1", "<f4"
_HASH_BYTES = 32
_LENGTH_BYTES = 8
_TEXTS = ("customer", "card", "device", "network", "terminal", "country", "currency")
_FIGURES = ("time_ms", "cents", "log_amount", "z", "word", "word_ms")
_LIFELONG = (
    "spend_before",
    "tally_before",
    "count",
    "log_sum",
    "square_sum",
    "forgotten_frauds",
    "first_fraud_ms",
)
_BUCKETS: tuple[str, ...] = tuple(DayBuckets.__slots__)
_RING = ("times_ms", "known_ms", "frauds")
_NEVER = -1
_NONE: tuple[tuple[Any, ...], ...] = ((), (), ())

Array = NDArray[Any]


class SnapshotError(ValueError):
    """The bytes are no snapshot of this feature schema; the text says what is wrong."""


class _Pages:
    """Arrays by name, and the texts and keys that they point into."""

    def __init__(self) -> None:
        self.arrays: dict[str, Array] = {}
        self._texts: dict[str, int] = {}
        self._keys: dict[Hashable, int] = {}

    def integers(self, name: str, values: Iterable[int]) -> None:
        self.arrays[name] = np.fromiter(values, _INTEGERS)

    def texts(self, name: str, values: Iterable[str]) -> None:
        numbers = self._texts
        self.integers(name, [numbers.setdefault(text, len(numbers)) for text in values])

    def keys(self, name: str, keys: Iterable[Hashable]) -> None:
        numbers = self._keys
        self.integers(name, [numbers.setdefault(key, len(numbers)) for key in keys])

    def ragged(self, name: str, lists: Sequence[Sequence[int]]) -> None:
        self.integers(f"{name}.sizes", map(len, lists))
        self.integers(name, chain.from_iterable(lists))

    def bind(self, header: Mapping[str, Any]) -> bytes:
        merchants, livemodes, transactions = zip(*self._keys, strict=True) if self._keys else _NONE
        self.texts("keys.merchant", merchants)
        self.integers("keys.livemode", livemodes)
        self.texts("keys.transaction", transactions)
        texts = list(self._texts)
        index = {name: [array.dtype.str, len(array)] for name, array in self.arrays.items()}
        told = json.dumps({**header, "texts": texts, "arrays": index}, separators=(",", ":"))
        text = told.encode()
        length = len(text).to_bytes(_LENGTH_BYTES, "little")
        body = b"".join((length, text, *(array.tobytes() for array in self.arrays.values())))
        return b"".join((MAGIC, hashlib.sha256(body).digest(), body))


class _Reader:
    """The same arrays read back, each checked against what it may hold."""

    def __init__(self, data: bytes) -> None:
        body = memoryview(data)[len(MAGIC) + _HASH_BYTES :]
        if data[: len(MAGIC)] != MAGIC:
            raise SnapshotError("it does not begin as a snapshot of this layout does")
        if hashlib.sha256(body).digest() != data[len(MAGIC) :][:_HASH_BYTES]:
            raise SnapshotError("its bytes are not the ones that were written")
        end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
        self.header: dict[str, Any] = json.loads(bytes(body[_LENGTH_BYTES:end]))
        self._texts: list[str] = self.header["texts"]
        self._arrays: dict[str, Array] = {}
        for name, (kind, size) in self.header["arrays"].items():
            if kind not in (_INTEGERS, _BYTES, _FLOATS):
                raise SnapshotError(f"array {name} has the unknown type {kind}")
            self._arrays[name] = np.frombuffer(body, kind, size, end)
            end += self._arrays[name].nbytes
        if end != len(body):
            raise SnapshotError("it is longer than it says")
        parts = (
            self.texts("keys.merchant"),
            map(bool, self.integers("keys.livemode")),
            self.texts("keys.transaction"),
        )
        self._keys = [TransactionKey(*key) for key in zip(*parts, strict=True)]

    def array(self, name: str, kind: str) -> Array:
        array = self._arrays[name]
        if array.dtype.str != kind:
            raise SnapshotError(f"array {name} is not of the type {kind}")
        return array

    def integers(self, name: str) -> list[int]:
        return self.array(name, _INTEGERS).tolist()  # type: ignore[no-any-return]

    def indexes(self, name: str, below: int) -> list[int]:
        array = self.array(name, _INTEGERS)
        if len(array) and (array.min() < 0 or array.max() >= below):
            raise SnapshotError(f"array {name} points outside of what it points into")
        return array.tolist()  # type: ignore[no-any-return]

    def texts(self, name: str) -> list[str]:
        texts = self._texts
        return [texts[number] for number in self.indexes(name, len(texts))]

    def keys(self, name: str) -> list[TransactionKey]:
        keys = self._keys
        return [keys[number] for number in self.indexes(name, len(keys))]

    def cuts(self, name: str) -> Iterator[tuple[int, int]]:
        ends = list(accumulate(self.integers(f"{name}.sizes"), initial=0))
        if any(a > b for a, b in pairwise(ends)):
            raise SnapshotError(f"array {name} has a negative size")
        return pairwise(ends)

    def ragged(self, name: str) -> list[list[int]]:
        values = self.integers(name)
        return [values[first:last] for first, last in self.cuts(name)]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing here makes cycles, and looking for them would more than double the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_uncollected()
def dump(
    populations: Mapping[str, Population], awaited: Sequence[Payment], header: Mapping[str, Any]
) -> bytes:
    """Writes everything remembered; `header` is whatever JSON the caller wants back."""
    pages = _Pages()
    payments: dict[int, Payment] = {id(payment): payment for payment in awaited}
    for population in populations.values():
        for _, activity in population:
            activity.tidy()
            payments.update((id(payment), payment) for payment in activity.payments)
    number_of = {identity: number for number, identity in enumerate(payments)}
    held = list(payments.values())
    pages.keys("payments.keys", [payment.key for payment in held])
    for name in _TEXTS:
        pages.texts(f"payments.{name}", map(attrgetter(name), held))
    for name in _FIGURES:
        pages.integers(f"payments.{name}", map(attrgetter(name), held))
    pages.integers("awaited", (number_of[id(payment)] for payment in awaited))
    names: dict[str, list[Any]] = {}
    for kind, population in populations.items():
        names[kind] = [name for name, _ in population]
        _write_kind(pages, kind, [activity for _, activity in population], number_of)
    return pages.bind({"header": header, "names": names})


def _write_kind(
    pages: _Pages, kind: str, activities: Sequence[Activity], number_of: Mapping[int, int]
) -> None:
    for name in _LIFELONG:
        pages.integers(f"{kind}.{name}", map(attrgetter(name), activities))
    firsts = (_NEVER if a.first_ms is None else a.first_ms for a in activities)
    pages.integers(f"{kind}.first_ms", firsts)
    pages.ragged(f"{kind}.times", [a.times for a in activities])
    pages.ragged(f"{kind}.payments", [[number_of[id(p)] for p in a.payments] for a in activities])
    words = b"".join(a.words or bytes(len(a.times)) for a in activities)
    pages.arrays[f"{kind}.words"] = np.frombuffer(words, _BYTES)
    for name in ("declines", "frauds", "cleared"):
        pages.ragged(f"{kind}.{name}", list(map(attrgetter(name), activities)))
    pages.keys(f"{kind}.fraud_keys", [key for a in activities for key in a.fraud_keys])
    for name in _BUCKETS:
        days = [[] if a.buckets is None else getattr(a.buckets, name) for a in activities]
        pages.ragged(f"{kind}.buckets.{name}", days)
    rings = [(Ring() if a.ring is None else a.ring).dump() for a in activities]
    pages.integers(f"{kind}.rings.before_ms", (ring.before_ms for ring in rings))
    for name in _RING:
        pages.ragged(f"{kind}.rings.{name}", list(map(attrgetter(name), rings)))
    pages.keys(f"{kind}.rings.keys", chain.from_iterable(ring.keys for ring in rings))
    flat = [ring.edges.ravel() for ring in rings]
    pages.arrays[f"{kind}.rings.edges"] = np.concatenate([*flat, []], dtype=_FLOATS)


@_uncollected()
def load(
    data: bytes, populations: Mapping[str, Population]
) -> tuple[list[Payment], dict[str, Any]]:
    """Fills empty populations from `dump`'s bytes; answers the awaited payments and the header.

    Raises:
        SnapshotError: the bytes are damaged, foreign, or not consistent in themselves.
    """
    try:
        reader = _Reader(data)
        payments = _read_payments(reader)
        awaited = [payments[at] for at in reader.indexes("awaited", len(payments))]
        names = reader.header["names"]
        if list(names) != list(populations):
            raise SnapshotError("it remembers other kinds of entities")
        for kind, population in populations.items():
            activities = _read_kind(reader, kind, population, payments)
            for name, activity in zip(names[kind], activities, strict=True):
                population.restore(tuple(name), activity)
        return awaited, reader.header["header"]
    except SnapshotError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SnapshotError("it is not consistent in itself") from error


def _read_payments(reader: _Reader) -> list[Payment]:
    figures = {name: reader.integers(f"payments.{name}") for name in _FIGURES}
    columns = (
        reader.keys("payments.keys"),
        *(figures[name] for name in ("time_ms", "cents", "log_amount")),
        *(reader.texts(f"payments.{name}") for name in _TEXTS),
        *(figures[name] for name in ("z", "word", "word_ms")),
    )
    return [Payment(*values) for values in zip(*columns, strict=True)]


def _read_kind(
    reader: _Reader, kind: str, population: Population, payments: Sequence[Payment]
) -> list[Activity]:
    times = reader.ragged(f"{kind}.times")
    activities = [Activity(len(population.columns)) for _ in times]
    reader.indexes(f"{kind}.payments", len(payments))
    words = reader.array(f"{kind}.words", _BYTES).tobytes()
    if len(words) != len(reader.integers(f"{kind}.times")):
        raise SnapshotError(f"array {kind}.words does not fit the payments")
    scalars = (*_LIFELONG, "first_ms")
    lifelong = [reader.integers(f"{kind}.{name}") for name in scalars]
    for activity, *values in zip(activities, *lifelong, strict=True):
        for name, value in zip(scalars, values, strict=True):
            setattr(activity, name, value)
        if activity.first_ms == _NEVER:
            activity.first_ms = None
    held = zip(
        activities,
        times,
        reader.ragged(f"{kind}.payments"),
        reader.cuts(f"{kind}.times"),
        strict=True,
    )
    for activity, moments, numbers, (first, last) in held:
        population.refill(activity, moments, [payments[number] for number in numbers])
        if any(words[first:last]):
            activity.words = bytearray(words[first:last])
    for name in ("declines", "frauds", "cleared"):
        for activity, marks in zip(activities, reader.ragged(f"{kind}.{name}"), strict=True):
            if marks:
                setattr(activity, name, marks)
    keys = reader.keys(f"{kind}.fraud_keys")
    for activity, (first, last) in zip(activities, reader.cuts(f"{kind}.frauds"), strict=True):
        if last > first:
            activity.fraud_keys = keys[first:last]
    for name in _BUCKETS:
        days = reader.ragged(f"{kind}.buckets.{name}")
        for activity, column in zip(activities, days, strict=True):
            if column:
                activity.buckets = activity.buckets or DayBuckets()
                setattr(activity.buckets, name, column)
    _read_rings(reader, f"{kind}.rings", activities)
    return activities


def _read_rings(reader: _Reader, name: str, activities: Sequence[Activity]) -> None:
    edges = reader.array(f"{name}.edges", _FLOATS).reshape(-1, len(EDGE_FEATURES))
    keys = reader.keys(f"{name}.keys")
    before = reader.integers(f"{name}.before_ms")
    columns = [reader.ragged(f"{name}.{column}") for column in _RING]
    held = zip(activities, before, reader.cuts(f"{name}.times_ms"), *columns, strict=True)
    for activity, before_ms, (first, last), times_ms, known_ms, frauds in held:
        if last > first:
            labels = [*map(bool, frauds)]
            activity.ring = Ring.load(
                RingDump(
                    before_ms, edges[first:last], times_ms, known_ms, labels, [*keys[first:last]]
                )
            )
