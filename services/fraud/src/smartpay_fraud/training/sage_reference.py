"""The graph network as its rivals would serve it: for parity tests, and for the bench.

Both rivals answer for one payment from the same tables in memory: torch gathers two hops densely,
torch-geometric runs over the whole graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smartpay_fraud.domain import graph
from smartpay_fraud.training.neighbourhood import Neighbourhood
from smartpay_fraud.training.onnx_export import OWN_MAX
from smartpay_fraud.training.replay import Replayed
from smartpay_fraud.training.sage import Edges, Sage, own_columns
from smartpay_fraud.training.stream import ABSENT, Ints

Matrix = NDArray[np.float32]

_MATURITY_DAYS = graph.MATURITY_MS / graph.DAY_MS


@dataclass(frozen=True)
class Tables:
    """A graph in memory: what every payment is, and which payments every part holds.

    Attributes:
        edges: what slots remember of payments, float32 [payments, SLOT's own columns].
        gaps: log(1 + days) since the part's payment before, float32 [kinds, payments].
        days: when payments came, in days since the first one, float64 [payments]; float32 could
            not tell a minute after a month.
        told: when their labels were told, likewise; infinite when never.
        fraud: what they turned out to be, float32 [payments].
        rings: payments of every part, ABSENT where empty, int64 [parts of all kinds + 1, RING];
            the last row is the empty ring of a part that is not given.
        first: the number of a kind's first part among `rings`, int64 [kinds].
    """

    edges: Tensor
    gaps: Tensor
    days: Tensor
    told: Tensor
    fraud: Tensor
    rings: Tensor
    first: Tensor
    first_ms: int

    def states(self, kinds: Tensor, payments: Tensor, now: float) -> Tensor:
        """The rest of a slot, as of a day: gap, present, known, fraud; one more axis, of 4."""
        told = self.told[payments] <= now
        known = told | (self.days[payments] + _MATURITY_DAYS <= now)
        fraud = told * self.fraud[payments]
        columns = [self.gaps[kinds, payments], torch.ones_like(fraud), known.float(), fraud]
        return torch.stack(columns, dim=-1)


def tables(replayed: Replayed) -> Tables:
    """The graph after the last payment of a replay."""
    around = Neighbourhood(replayed)
    first_ms = int(replayed.time_ms[0])
    payments = np.arange(len(replayed.time_ms))
    never = around.told_ms == np.iinfo(np.int64).max
    told_days = np.where(never, np.inf, (around.told_ms - first_ms) / graph.DAY_MS)
    gaps = np.zeros((len(graph.GRAPH_KINDS), len(payments)), np.float32)
    rings: list[Ints] = []
    first: list[int] = []
    for kind, name in enumerate(graph.GRAPH_KINDS):
        first.append(sum(len(ring) for ring in rings))
        if kind not in around.kinds:
            continue
        codes = replayed.parts[name]
        gaps[kind] = around.gaps(kind, payments)
        latest = np.full(codes.max() + 1, ABSENT, np.int64)
        given = codes != ABSENT
        latest[codes[given]] = payments[given]  # of equal codes numpy keeps the last
        earlier = around.neighbours(kind, latest, graph.RING - 1)
        rings.append(np.concatenate([latest[:, None], earlier], axis=1))
    return Tables(
        edges=torch.from_numpy(around.edges),
        gaps=torch.from_numpy(gaps),
        days=torch.from_numpy((replayed.time_ms - first_ms) / graph.DAY_MS),
        told=torch.from_numpy(told_days),
        fraud=torch.from_numpy(replayed.fraud.astype(np.float32)),
        rings=torch.from_numpy(np.concatenate([*rings, np.full((1, graph.RING), ABSENT)])),
        first=torch.tensor(first),
        first_ms=first_ms,
    )


class DenseTwoHop:
    """Plain torch: the target's parts, their rings, both hops, computed anew for each payment."""

    def __init__(self, sage: Sage, known: Tables) -> None:
        head = sage.head
        self._known = known
        self._counting = torch.from_numpy(sage.weights.counting)
        self._rates = -1 / torch.tensor(graph.DECAY_DAYS, dtype=torch.float32)[:, None]
        self._center, self._scale = torch.from_numpy(sage.center), torch.from_numpy(sage.scale)
        self._first = torch.from_numpy(np.concatenate([head.own, head.parts]).T.copy())
        self._bias = torch.from_numpy(head.bias)
        self._embedding, self._logit = sage.network.embedding, sage.network.logit
        self._kinds = torch.arange(len(graph.GRAPH_KINDS))

    def columns(self, row: Matrix, parts: Ints, now_ms: int) -> Tensor:
        """GRAPH_COLUMNS of one payment, float32 [17].

        `row` is float32 [features], `parts` int64 [GRAPH_KINDS] with ABSENT where not given.
        """
        with torch.inference_mode():
            return self._answer(row, parts, now_ms)

    def _answer(self, row: Matrix, parts: Ints, now_ms: int) -> Tensor:
        known = self._known
        now = (now_ms - known.first_ms) / graph.DAY_MS
        codes = torch.from_numpy(parts)
        payments = known.rings[torch.where(codes == ABSENT, -1, known.first + codes)]
        present = payments != ABSENT
        payments = payments.clamp(min=0)
        states = known.states(self._kinds[:, None], payments, now)
        slots = torch.cat([known.edges[payments], states], dim=2) * present[:, :, None]
        messages = torch.relu(torch.bmm(slots, self._counting))
        ages = (now - known.days[payments]).float()
        fading = torch.exp(ages[:, None, :] * self._rates)
        sums = torch.bmm(fading, messages).flatten(1)
        seen = torch.cat([sums, messages.amax(dim=1)], dim=1).flatten()
        own = (torch.from_numpy(row) - self._center) * self._scale
        own = own.nan_to_num(nan=0.0).clamp(-OWN_MAX, OWN_MAX)
        hidden = torch.relu(
            torch.nn.functional.linear(torch.cat([own, seen]), self._first, self._bias)
        )
        embedding = torch.relu(self._embedding(hidden))
        return torch.cat([embedding, self._logit(embedding)])


class WholeGraph:
    """torch-geometric over all edges: the first hop of every part, the second of one payment."""

    def __init__(self, sage: Sage, known: Tables) -> None:
        self._sage = sage
        self._known = known
        ends = [*known.first[1:].tolist(), len(known.rings) - 1]
        self._edges: dict[str, tuple[int, int, Tensor, Tensor]] = {}
        for kind, name in enumerate(graph.GRAPH_KINDS):
            if name in sage.network.first:
                rings = known.rings[int(known.first[kind]) : ends[kind]]
                part, slot = torch.nonzero(rings != ABSENT, as_tuple=True)
                self._edges[name] = (kind, len(rings), rings[part, slot], part)

    def columns(self, row: Matrix, parts: Ints, now_ms: int) -> Tensor:
        """GRAPH_COLUMNS of one payment, float32 [17]; arguments as for `DenseTwoHop`."""
        with torch.inference_mode():
            return self._answer(row, parts, now_ms)

    def _answer(self, row: Matrix, parts: Ints, now_ms: int) -> Tensor:
        known = self._known
        now = (now_ms - known.first_ms) / graph.DAY_MS
        sums = {}
        for name, (kind, count, payments, part) in self._edges.items():
            states = known.states(torch.tensor(kind), payments, now)
            slots = torch.cat([known.edges[payments], states], dim=1)
            ages = (now - known.days[payments]).float()
            said = self._sage.network.first[name](Edges(slots, ages, part), count)
            code = int(parts[kind])
            sums[name] = said[code][None] if code != ABSENT else torch.zeros_like(said[:1])
        own = own_columns(row[None], self._sage.center, self._sage.scale)
        return self._sage.network.reach(own, sums)[0]
