"""Every payment's rings at once, from the columns of a replay: what serving would have held."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain import graph
from smartpay_fraud.domain.features import EDGE_COLUMNS
from smartpay_fraud.training.replay import Replayed
from smartpay_fraud.training.stream import ABSENT, NEVER, Ints

Matrix = NDArray[np.float32]

_CHUNK = 4096  # payments looked at together: about 25 MB of slots per kind of part


class Neighbourhood:
    """Finds the slots of a payment's parts as they stood just before it.

    Equal to `graph.Ring` payment by payment, which a test shows; here for whole matrices.
    """

    def __init__(self, replayed: Replayed) -> None:
        self.edges = graph.squash(replayed.rows[:, EDGE_COLUMNS])
        told = replayed.known_ms != NEVER
        self.told_ms = np.where(told, replayed.known_ms, np.iinfo(np.int64).max)
        self._time_ms = replayed.time_ms
        self._fraud = replayed.fraud
        self._before: dict[int, Ints] = {}  # by kind: the part's payment before, or ABSENT
        for kind, name in enumerate(graph.GRAPH_KINDS):
            codes = replayed.parts.get(name)
            if codes is not None and (codes != ABSENT).any():
                self._before[kind] = _before(codes)

    @property
    def kinds(self) -> tuple[int, ...]:
        """Numbers of the kinds of part that occur at all."""
        return tuple(self._before)

    def neighbours(self, kind: int, payments: Ints, count: int = graph.RING) -> Ints:
        """The part's payments before each payment, newest first, int64 [payments, count].

        ABSENT where there are fewer.
        """
        before = self._before[kind]
        neighbours = np.empty((len(payments), count), np.int64)
        at = payments
        for slot in range(count):
            at = np.where(at == ABSENT, ABSENT, before[at])
            neighbours[:, slot] = at
        return neighbours

    def gaps(self, kind: int, payments: Ints) -> Matrix:
        """log(1 + days) since the part's payment before, 0 for its first; shaped as `payments`."""
        before = self._before[kind][payments]
        elapsed = np.where(before == ABSENT, 0, self._time_ms[payments] - self._time_ms[before])
        return np.log1p(elapsed / graph.DAY_MS).astype(np.float32)

    def slots(self, kind: int, payments: Ints) -> tuple[Matrix, Matrix]:
        """The rings of one kind, newest payment first, empty slots last.

        Returns (slots float32 [payments, RING, SLOT], ages in days float32 [payments, RING]).
        """
        neighbours = self.neighbours(kind, payments)
        present = neighbours != ABSENT
        now_ms = self._time_ms[payments, None]
        times_ms = self._time_ms[neighbours]
        told = self.told_ms[neighbours] <= now_ms
        known = told | (times_ms + graph.MATURITY_MS <= now_ms)
        slots = np.zeros((*neighbours.shape, len(graph.SLOT)), np.float32)
        slots[..., : len(graph.EDGE_FEATURES)] = self.edges[neighbours]
        states = (self.gaps(kind, neighbours), present, known, told & self._fraud[neighbours])
        for column, state in enumerate(states, start=len(graph.EDGE_FEATURES)):
            slots[..., column] = state
        slots[~present] = 0.0
        ages = np.where(present, now_ms - times_ms, 0) / graph.DAY_MS
        return slots, ages.astype(np.float32)

    def rows(self, payments: Ints, weights: graph.MessageWeights) -> Matrix:
        """The graph rows of payments, float32 [payments, GRAPH_WIDTH], as `graph.view` has them."""
        rows = np.zeros((len(payments), len(graph.GRAPH_KINDS), graph.PART_WIDTH), np.float32)
        for start in range(0, len(payments), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            for kind in self.kinds:
                slots, ages = self.slots(kind, payments[chunk])
                rows[chunk, kind] = graph.sums_of(slots, ages, weights.counting[kind])
        return rows.reshape(len(payments), graph.GRAPH_WIDTH)


def _before(codes: Ints) -> Ints:
    order = np.argsort(codes, kind="stable")
    same = (codes[order[1:]] == codes[order[:-1]]) & (codes[order[1:]] != ABSENT)
    before = np.full(len(codes), ABSENT, np.int64)
    before[order[1:]] = np.where(same, order[:-1], ABSENT)
    return before
