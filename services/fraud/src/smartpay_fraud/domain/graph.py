"""What a graph neural network sees around a payment: the latest payments of each of its parts.

Payments and their parts (customer, terminal, card, device, network) form a graph whose edges carry
a time. The network's first hop turns every remembered payment of a part into a message; its second
hop brings the sums and the maximum of the parts' messages to the new payment. A message does not
depend on the payment that asks, so a ring keeps the sums ready, and because they fade by exact
exponentials any later moment is one multiplication away. No id is learned: a part seen for the
first time works at once (GraphSAGE, Hamilton et al. 2017, arXiv:1706.02216).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

DEFINITIONS_VERSION = 1
"""Raise it when a slot's meaning changes but no name does: old graph models must then not load."""

GRAPH_KINDS: tuple[str, ...] = ("customer", "terminal", "card", "device", "network")
"""The parts of a payment that keep rings, in the order of every array's first axis."""

RING = 20
"""Payments that a ring holds; GraphSAGE's authors found little gain past 25 neighbours."""

HIDDEN = 16
"""Numbers in a message."""

DECAY_DAYS: tuple[float, ...] = (1.0, 7.0, 28.0)
"""Time constants of the fading sums: a day, the wait for labels, the longest feature window. Three
exponentials draw profiles over age well enough: six gained nothing on validation weeks."""

DAY_MS = 86_400_000
MATURITY_MS = 7 * DAY_MS
"""A payment that nobody called a fraud for a week counts as legitimate from then on."""

_NEVER_MS = 1 << 62
# Past five units a value says "very much", and no outlier may drown the rest.
_SQUASHED_MIN, _SQUASHED_MAX = np.float32(-5), np.float32(5)


class _Squash(NamedTuple):
    """Brings a column to about [-2, 2]: fixed numbers, so that slots outlive a change of model."""

    center: float
    scale: float


_EDGES: dict[str, _Squash] = {
    "amount": _Squash(4.0, 0.5),
    "hour": _Squash(12.0, 1 / 6),
    "customer_amount_z": _Squash(0.0, 0.5),
    "customer_amount_ratio": _Squash(0.0, 1.0),
    "customer_known_fraud_rate": _Squash(0.0, 4.0),
    "terminal_known_fraud_rate": _Squash(0.0, 4.0),
    "network_known_fraud_rate": _Squash(0.0, 4.0),
    "card_known_frauds": _Squash(0.0, 1.0),
    "device_cards_24h": _Squash(1.0, 0.5),
    "customer_new_device": _Squash(0.0, 1.0),
}

EDGE_FEATURES: tuple[str, ...] = tuple(_EDGES)
"""Columns of a payment's own feature row that its slots remember, as they were when it came."""

_CENTER = np.array([squash.center for squash in _EDGES.values()], np.float32)
_SCALE = np.array([squash.scale for squash in _EDGES.values()], np.float32)

SLOT: tuple[str, ...] = (*EDGE_FEATURES, "gap", "present", "known", "fraud")
"""Columns of a slot: the squashed row, log(1 + days) since the part's payment before, 1, is its
label known, was it a fraud. A slot of zeros is an empty one and sends an empty message."""

_GAP = len(EDGE_FEATURES)
_PRESENT = _GAP + 1

# States of a place in a ring, 0 being an empty one, and what its slot says of it.
_UNKNOWN, _LEGITIMATE, _FRAUD = 1, 2, 3
_UNTOLD = bytes([_UNKNOWN])
_STATES = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], np.float32)

_FLOAT = np.dtype("<f4")
_HELD = np.dtype([("edges", _FLOAT, _GAP), ("time_ms", "<i8")])
_RING_BYTES = RING * _HELD.itemsize
_PACK_TIME = Struct("<q").pack
_NOT_KNOWN = b"\xff"  # a float of such bytes is a NaN, which is squashed to 0

MESSAGE_WIDTH = HIDDEN + 1  # the last number is 1 for every payment: its sums are counts
SUMS_WIDTH = len(DECAY_DAYS) * MESSAGE_WIDTH
PART_WIDTH = SUMS_WIDTH + MESSAGE_WIDTH
"""Numbers per part: the fading sums of its messages and counts, and the greatest message."""

GRAPH_WIDTH = len(GRAPH_KINDS) * PART_WIDTH
"""Numbers in a graph row."""

EMBEDDING = 16
GRAPH_COLUMNS: tuple[str, ...] = (*(f"graph_{n}" for n in range(EMBEDDING)), "graph_logit")
"""What the network adds to the trees' row: where the payment lies among others, and its score."""

_RATES_DAYS = (-1 / np.array(DECAY_DAYS)).astype(np.float32)
_FADING = np.concatenate([np.repeat(_RATES_DAYS, MESSAGE_WIDTH), np.zeros(MESSAGE_WIDTH)])
_FADING = _FADING.astype(np.float32)  # per number of a part; the maximum does not fade
_NOTHING = np.zeros(PART_WIDTH, np.float32)


def graph_hash() -> str:
    """Ties a graph model to slots, rings and sums of this shape and meaning (SHA-256, hex)."""
    meaning = (DEFINITIONS_VERSION, GRAPH_KINDS, RING, HIDDEN, DECAY_DAYS, MATURITY_MS, _EDGES)
    return hashlib.sha256(repr(meaning).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class MessageWeights:
    """The first hop: message = relu(slot @ weights), one matrix per kind of part.

    `weights` is float32 [GRAPH_KINDS, SLOT, HIDDEN]; the row of `present` is the bias.
    """

    weights: Vector

    def __post_init__(self) -> None:
        """Refuses weights that do not fit the slots."""
        expected = (len(GRAPH_KINDS), len(SLOT), HIDDEN)
        if self.weights.shape != expected or self.weights.dtype != np.float32:
            raise ValueError(
                f"message weights are {self.weights.dtype} {self.weights.shape}, "
                f"not float32 {expected}: train the graph model anew"
            )
        if not np.isfinite(self.weights).all():
            raise ValueError("message weights are not all finite: train the graph model anew")

    @cached_property
    def counting(self) -> Vector:
        """The weights with one more column, which passes `present` on: its sums are counts."""
        column = np.zeros((len(GRAPH_KINDS), len(SLOT), 1), np.float32)
        column[:, _PRESENT] = 1.0
        return np.concatenate([self.weights, column], axis=2)

    @cached_property
    def fingerprint(self) -> str:
        """Tells two models' messages apart (SHA-256, hex)."""
        return hashlib.sha256(self.weights.tobytes()).hexdigest()


class Settled(NamedTuple):
    """A part's sums as one model sees them, true at one moment; and as another model does."""

    weights: MessageWeights
    time_ms: int
    sums: Vector
    other: Settled | None


class RingDump(NamedTuple):
    """A ring as it is kept, oldest payment first.

    Attributes:
        before_ms: when the last payment came that is not held any more; -1 when there is none.
        edges: the payments' own EDGE_FEATURES as they came, float32 [payments, EDGE_FEATURES].
        times_ms: when they came.
        known_ms: since when, or from when on, their labels are known.
        frauds: what the labels say.
        keys: their names.
    """

    before_ms: int
    edges: Vector
    times_ms: list[int]
    known_ms: list[int]
    frauds: list[bool]
    keys: list[Hashable]


class Held(NamedTuple):
    """A payment as rings hold it, one tuple for all of them until they learn different things.

    `packed` are its own EDGE_FEATURES and its time, as matrices are made of them.
    """

    packed: bytes
    time_ms: int
    key: Hashable
    known_ms: int
    fraud: bool


def _held(edges: bytes, time_ms: int, key: Hashable) -> Held:
    return Held(edges + _PACK_TIME(time_ms), time_ms, key, time_ms + MATURITY_MS, False)


class Ring:
    """The latest payments of one part, oldest first, and their sums while nothing changes.

    A payment costs a list entry; matrices are made only when a model asks.
    """

    __slots__ = ("_before_ms", "_held", "_states", "due_ms", "settled")

    def __init__(self) -> None:
        self._held: list[Held] = []
        self._states = b""  # of the payments that were there when labels were last looked at
        self._before_ms = -1  # when the last payment came that is not held any more, if any
        self.settled: Settled | None = None
        self.due_ms = _NEVER_MS  # when the next label becomes known

    def __len__(self) -> int:
        return len(self._held)

    @property
    def slots(self) -> Vector:
        """What is remembered of the payments, float32 [payments, SLOT]."""
        slots: Vector = _slots([self])[0][0, : len(self)]
        return slots

    @property
    def states(self) -> bytes:
        """Of each payment, what is known of its label."""
        return self._states.ljust(len(self._held), _UNTOLD)

    def append(self, payment: Held) -> None:
        """Remembers a payment; the next score sees it."""
        held = self._held
        if held:
            # A clock that steps back must not make a payment younger than the present.
            if payment.time_ms < (latest_ms := held[-1].time_ms):
                edges = payment.packed[: -_HELD["time_ms"].itemsize]
                payment = _held(edges, latest_ms, payment.key)
            if len(held) == RING:
                self._before_ms = held[0].time_ms
                self._states = self._states[1:]
                del held[0]
        held.append(payment)
        if payment.known_ms < self.due_ms:
            self.due_ms = payment.known_ms
        self.settled = None

    def label(self, key: Hashable, fraudulent: bool, known_ms: int) -> None:
        """Remembers what a payment turned out to be, if the ring still holds it."""
        for slot, payment in enumerate(self._held):
            if payment.key == key:
                self._held[slot] = payment._replace(fraud=fraudulent, known_ms=known_ms)
                self.due_ms = 0
                return

    def settle(self, now_ms: int) -> None:
        """Lets labels count from the moment they are known."""
        states = bytes(
            [
                (_FRAUD if payment.fraud else _LEGITIMATE)
                if payment.known_ms <= now_ms
                else _UNKNOWN
                for payment in self._held
            ]
        )
        if states != self.states:
            self._states = states
            self.settled = None
        later = (payment.known_ms for payment in self._held if payment.known_ms > now_ms)
        self.due_ms = min(later, default=_NEVER_MS)

    def dump(self) -> RingDump:
        """Everything that must be kept, oldest first."""
        held = np.frombuffer(b"".join([payment.packed for payment in self._held]), _HELD)
        return RingDump(
            self._before_ms,
            held["edges"],
            held["time_ms"].tolist(),
            [payment.known_ms for payment in self._held],
            [payment.fraud for payment in self._held],
            [payment.key for payment in self._held],
        )

    @classmethod
    def load(cls, told: RingDump) -> Ring:
        """The ring that `dump` told of; raises ValueError when its columns do not agree."""
        before_ms, edges, times_ms, known_ms, frauds, keys = told
        count = len(keys)
        if (
            edges.shape != (count, len(EDGE_FEATURES))
            or count > RING
            or {len(times_ms), len(known_ms), len(frauds)} != {count}
        ):
            raise ValueError("a ring's columns differ in length: take an older snapshot")
        ring = cls()
        ring._before_ms = before_ms
        told_of = zip(edges, times_ms, keys, known_ms, frauds, strict=True)
        ring._held = [
            _held(row.astype(_FLOAT).tobytes(), time_ms, key)._replace(known_ms=known, fraud=fraud)
            for row, time_ms, key, known, fraud in told_of
        ]
        ring.due_ms = 0
        return ring


Rings = Sequence[Ring | None]
"""A payment's rings in the order of GRAPH_KINDS; None for a part not given or never seen."""


def squash(edges: Vector) -> Vector:
    """EDGE_FEATURES of rows, float32 [..., EDGE_FEATURES], as slots remember them; NaN becomes 0.

    What is beyond five units counts as five.
    """
    squashed: Vector = edges - _CENTER
    squashed *= _SCALE
    squashed[np.isnan(squashed)] = 0.0
    # Not np.clip, which takes three times as long for one payment.
    np.maximum(squashed, _SQUASHED_MIN, out=squashed)
    np.minimum(squashed, _SQUASHED_MAX, out=squashed)
    return squashed


def remember(
    rings: Rings, edges: Vector, now_ms: int, key: Hashable, weights: MessageWeights | None
) -> None:
    """Appends a payment to its rings and makes their sums ready for the next score.

    `edges` are the payment's own EDGE_FEATURES, float32, NaN where not known.
    """
    payment = _held(edges.tobytes(), now_ms, key)
    for ring in rings:
        if ring is not None:
            ring.append(payment)
    if weights is not None:
        _settle(rings, now_ms, weights)


def view(rings: Rings, now_ms: int, weights: MessageWeights) -> Vector:
    """The graph row of a payment as of now, float32 [GRAPH_WIDTH]."""
    parts = _settle(rings, now_ms, weights)
    # A clock that steps back must not let sums grow.
    elapsed = np.array(
        [(now_ms - at) / DAY_MS if now_ms > (at := part.time_ms) else 0.0 for part in parts],
        np.float32,
    )
    row: Vector = np.exp(np.multiply.outer(elapsed, _FADING)).ravel()
    row *= np.concatenate([part.sums for part in parts])
    return row


def _settle(rings: Rings, now_ms: int, weights: MessageWeights) -> list[Settled]:
    parts = [Settled(weights, now_ms, _NOTHING, None)] * len(GRAPH_KINDS)
    stale: list[tuple[int, Ring]] = []
    for kind, ring in enumerate(rings):
        if ring is None:
            continue
        if now_ms >= ring.due_ms:
            ring.settle(now_ms)
        settled = ring.settled
        while settled is not None and settled.weights is not weights:
            settled = settled.other
        if settled is not None:
            parts[kind] = settled
        else:
            stale.append((kind, ring))
    if stale:
        for (kind, ring), sums in zip(stale, _sums(stale, now_ms, weights), strict=True):
            # One other is kept, the challenger beside the champion; models come and go.
            other = ring.settled and ring.settled._replace(other=None)
            ring.settled = parts[kind] = Settled(weights, now_ms, sums, other)
    return parts


def _sums(stale: list[tuple[int, Ring]], now_ms: int, weights: MessageWeights) -> Vector:
    slots, times_ms = _slots([ring for _, ring in stale])
    ages_days = (np.maximum(now_ms - times_ms, 0) / DAY_MS).astype(np.float32)
    every = len(stale) == len(GRAPH_KINDS)
    counting = weights.counting if every else weights.counting[[kind for kind, _ in stale]]
    return sums_of(slots, ages_days, counting)


def _slots(rings: Sequence[Ring]) -> tuple[Vector, NDArray[np.int64]]:
    """What rings hold: slots, float32 [rings, RING, SLOT], and times [rings, RING]."""
    shape = (len(rings), RING)
    together = b"".join(
        [
            b"".join([payment.packed for payment in ring._held]).ljust(_RING_BYTES, _NOT_KNOWN)
            for ring in rings
        ]
    )
    held = np.frombuffer(together, _HELD).reshape(shape)
    told = b"".join([ring.states.ljust(RING, b"\0") for ring in rings])
    states = np.frombuffer(told, np.uint8).reshape(shape)
    times_ms = held["time_ms"]
    slots = np.empty((*shape, len(SLOT)), np.float32)
    slots[:, :, :_GAP] = squash(held["edges"])
    slots[:, :, _PRESENT:] = _STATES.take(states, axis=0)
    gaps_ms = np.zeros(shape)
    np.subtract(times_ms[:, 1:], times_ms[:, :-1], out=gaps_ms[:, 1:])
    for number, ring in enumerate(rings):
        if ring._before_ms >= 0:
            gaps_ms[number, 0] = ring._held[0].time_ms - ring._before_ms
    gaps_ms *= slots[:, :, _PRESENT]
    slots[:, :, _GAP] = np.log1p(gaps_ms / DAY_MS)
    return slots, times_ms


def sums_of(slots: Vector, ages_days: Vector, counting: Vector) -> Vector:
    """The first hop: what many rings say together.

    `slots` are float32 [rings, RING, SLOT], `ages_days` float32 [rings, RING], `counting` one
    matrix of `MessageWeights.counting` for all, or one per ring. Returns float32 [rings,
    PART_WIDTH].
    """
    messages = np.matmul(slots, counting)
    np.maximum(messages, 0.0, out=messages)
    fading = np.exp(ages_days[:, None] * _RATES_DAYS[:, None])
    sums = np.empty((len(slots), PART_WIDTH), np.float32)
    sums[:, :SUMS_WIDTH] = np.matmul(fading, messages).reshape(len(slots), SUMS_WIDTH)
    np.maximum.reduce(messages, axis=1, out=sums[:, SUMS_WIDTH:])
    return sums
