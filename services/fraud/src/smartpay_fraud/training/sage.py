"""Trains the graph network: GraphSAGE over customers, terminals, cards, devices and networks.

The first hop sums what a part's latest payments say, fading with their age, and takes their
maximum; the second hop brings the parts' sums to the payment (torch-geometric's SAGEConv, one per
kind of part). GraphSAGE: Hamilton et al. 2017, arXiv:1706.02216. No id is learned, so that parts
never seen in training work at once. Needs torch; serving does not, nor does the type checker: to
it torch's classes are unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing, SAGEConv
from torch_geometric.nn.aggr import MaxAggregation, SumAggregation

from smartpay_fraud.domain import graph
from smartpay_fraud.domain.graph import GRAPH_COLUMNS, MessageWeights
from smartpay_fraud.training.neighbourhood import Neighbourhood
from smartpay_fraud.training.onnx_export import OWN_MAX, Head
from smartpay_fraud.training.replay import Replayed
from smartpay_fraud.training.stream import Flags, Ints

__all__ = ["GRAPH_COLUMNS", "PaymentSage", "Sage", "Schedule", "train_sage"]

Matrix = NDArray[np.float32]

WIDTH = 64
"""Numbers in the layer between the parts' sums and the embedding."""

_CHUNK = 4096  # payments looked at together when columns are made
_VARIES_MIN = 1e-4


class Schedule(NamedTuple):
    """How training runs; chosen on validation weeks only.

    Twice the honest payments, or a slower rate over more epochs, gained nothing there.
    """

    epochs: int = 6
    batch: int = 1024
    rate: float = 5e-3
    weight_decay: float = 1e-2
    honest_share: float = 0.25
    seed: int = 7


class Edges(NamedTuple):
    """The edges that lead into parts of one kind: payment -> part, one part per asking payment.

    Attributes:
        slots: what each edge carries, float32 [edges, SLOT].
        ages: days before the asking payment, float32 [edges].
        part: number of the part that each edge leads to, int64 [edges].
    """

    slots: Tensor
    ages: Tensor
    part: Tensor


class Surroundings(NamedTuple):
    """Payments to be scored: their own columns, and the edges of each kind around them."""

    own: Tensor
    edges: dict[str, Edges]


class FadingConv(MessagePassing):  # type: ignore[misc]
    """First hop: relu messages of payments, summed with several fadings, and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.message_of = nn.Linear(len(graph.SLOT), graph.HIDDEN, bias=False)
        self.sum, self.max = SumAggregation(), MaxAggregation()
        rates = -1 / torch.tensor(graph.DECAY_DAYS, dtype=torch.float32)
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, edges: Edges, parts: int) -> Tensor:
        """Float32 [parts, PART_WIDTH] from the edges that lead into the parts."""
        source = torch.arange(len(edges.part))
        index = torch.stack([source, edges.part])
        size = (len(source), parts)
        return self.propagate(index, slots=edges.slots, ages=edges.ages, size=size)

    def message(self, slots: Tensor, ages: Tensor) -> Tensor:
        """One message per edge with a 1 that will be counted, and its age at the end."""
        said = torch.relu(self.message_of(slots))
        return torch.cat([said, torch.ones_like(ages)[:, None], ages[:, None]], dim=1)

    def aggregate(
        self, inputs: Tensor, index: Tensor, ptr: Tensor | None = None, dim_size: int | None = None
    ) -> Tensor:
        """Sums with every fading, and the maximum, per part."""
        said, ages = inputs[:, :-1], inputs[:, -1:]
        fading = torch.exp(ages * self.rates)
        faded = (fading[:, :, None] * said[:, None, :]).flatten(1)
        return torch.cat(
            [self.sum(faded, index, ptr, dim_size), self.max(said, index, ptr, dim_size)], dim=1
        )


class PaymentSage(nn.Module):  # type: ignore[misc]
    """Two hops: payments -> parts -> the payment; an embedding and a logit come out."""

    def __init__(self, features: int, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.first = nn.ModuleDict({kind: FadingConv() for kind in kinds})
        self.second = nn.ModuleDict(
            {
                kind: SAGEConv(
                    (graph.PART_WIDTH, features), WIDTH, aggr="sum", root_weight=False, bias=False
                )
                for kind in kinds
            }
        )
        self.own = nn.Linear(features, WIDTH)
        self.embedding = nn.Linear(WIDTH, graph.EMBEDDING)
        self.logit = nn.Linear(graph.EMBEDDING, 1)

    def forward(self, around: Surroundings) -> Tensor:
        """Float32 [payments, GRAPH_COLUMNS]: the embedding, then the logit."""
        count = len(around.own)
        sums = {
            kind: conv(around.edges[kind], count)
            for kind, conv in self.first.items()
            if kind in around.edges
        }
        return self.reach(around.own, sums)

    def reach(self, own: Tensor, sums: dict[str, Tensor]) -> Tensor:
        """The second hop: from parts, whose sums are float32 [payments, PART_WIDTH] per kind."""
        leads = torch.arange(len(own)).expand(2, -1)
        hidden = self.own(own)
        for kind, said in sums.items():
            hidden = hidden + self.second[kind]((said, own), leads)
        embedding = torch.relu(self.embedding(torch.relu(hidden)))
        return torch.cat([embedding, self.logit(embedding)], dim=1)


@dataclass(frozen=True)
class Sage:
    """A trained network: torch's own for reference, and plain numbers for serving."""

    network: PaymentSage
    center: Matrix
    scale: Matrix

    def surroundings(self, around: Neighbourhood, rows: Matrix, payments: Ints) -> Surroundings:
        """What the network is shown of some payments of a replay."""
        return _surroundings(around, own_columns(rows[payments], self.center, self.scale), payments)

    @property
    def weights(self) -> MessageWeights:
        """The first hop's weights, zeros for kinds of part that training never saw."""
        weights = np.zeros((len(graph.GRAPH_KINDS), len(graph.SLOT), graph.HIDDEN), np.float32)
        for kind, conv in self.network.first.items():
            weights[graph.GRAPH_KINDS.index(kind)] = _numbers(conv.message_of.weight).T
        return MessageWeights(weights)

    @property
    def head(self) -> Head:
        """The second hop and what follows, as plain matrices for one graph row after one row."""
        parts = np.zeros((len(graph.GRAPH_KINDS), graph.PART_WIDTH, WIDTH), np.float32)
        for kind, conv in self.network.second.items():
            parts[graph.GRAPH_KINDS.index(kind)] = _numbers(conv.lin_l.weight).T
        own, embedding, logit = self.network.own, self.network.embedding, self.network.logit
        return Head(
            center=self.center,
            scale=self.scale,
            own=_numbers(own.weight).T,
            parts=parts.reshape(graph.GRAPH_WIDTH, WIDTH),
            bias=_numbers(own.bias),
            embedding=_numbers(embedding.weight).T,
            embedding_bias=_numbers(embedding.bias),
            logit=_numbers(logit.weight).T,
            logit_bias=_numbers(logit.bias),
        )

    def graph_rows(self, replayed: Replayed, payments: Ints) -> Matrix:
        """What `graph.view` would have answered, float32 [payments, GRAPH_WIDTH]."""
        return Neighbourhood(replayed).rows(payments, self.weights)

    def columns(self, replayed: Replayed, payments: Ints | None = None) -> Matrix:
        """GRAPH_COLUMNS of payments (all when None), float32 [payments, GRAPH_COLUMNS].

        The head is torch's own; the first hop is summed as serving does it.
        """
        chosen = np.arange(len(replayed.rows)) if payments is None else payments
        around, weights, width = Neighbourhood(replayed), self.weights, graph.PART_WIDTH
        columns = np.empty((len(chosen), len(GRAPH_COLUMNS)), np.float32)
        for start in range(0, len(chosen), _CHUNK):
            chunk = chosen[start : start + _CHUNK]
            seen = torch.from_numpy(around.rows(chunk, weights)).split(width, dim=1)
            sums = {kind: seen[graph.GRAPH_KINDS.index(kind)] for kind in self.network.first}
            own = own_columns(replayed.rows[chunk], self.center, self.scale)
            with torch.inference_mode():
                columns[start : start + _CHUNK] = self.network.reach(own, sums).numpy()
        return columns

    def safetensors(self) -> bytes:
        """The first hop's weights as a safetensors file; the head travels in the ONNX graph."""
        return bytes(save({"weights": self.weights.weights}))


def train_sage(
    replayed: Replayed,
    learn: Flags,
    progress: Callable[[float], None] = lambda _: None,
    schedule: Schedule | None = None,
) -> Sage:
    """Trains on the payments marked in `learn`, whose labels must be known by the time of use.

    AdamW (arXiv:1711.05101) with the one-cycle rate (arXiv:1708.07120). Equal seeds give equal
    weights on one kind of machine.
    """
    schedule = schedule or Schedule()
    rng = np.random.default_rng(schedule.seed)
    torch.set_num_threads(1)  # one thread adds in one order, so that equal data give equal weights
    torch.manual_seed(schedule.seed)
    window = np.flatnonzero(learn)
    kept = replayed.fraud[window] | (rng.random(len(window)) < schedule.honest_share)
    chosen = window[kept]
    around = Neighbourhood(replayed)
    rows = replayed.rows[chosen]
    center, scale = _standard(rows)
    kinds = tuple(graph.GRAPH_KINDS[kind] for kind in around.kinds)
    network = PaymentSage(rows.shape[1], kinds)
    steps = schedule.epochs * -(-len(chosen) // schedule.batch)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=schedule.rate, weight_decay=schedule.weight_decay
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.rate, total_steps=steps)
    own = own_columns(rows, center, scale)
    fraud = torch.from_numpy(replayed.fraud[chosen].astype(np.float32))
    step = 0
    for _ in range(schedule.epochs):
        order = rng.permutation(len(chosen))
        for start in range(0, len(order), schedule.batch):
            batch = order[start : start + schedule.batch]
            logits = network(_surroundings(around, own[batch], chosen[batch]))[:, -1]
            loss = nn.functional.binary_cross_entropy_with_logits(logits, fraud[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            step += 1
            progress(step / steps)
    network.eval()
    return Sage(network, center, scale)


def _surroundings(around: Neighbourhood, own: Tensor, payments: Ints) -> Surroundings:
    edges = {}
    for kind in around.kinds:
        slots, ages = around.slots(kind, payments)
        part, slot = np.nonzero(slots[..., graph.SLOT.index("present")])
        edges[graph.GRAPH_KINDS[kind]] = Edges(
            torch.from_numpy(slots[part, slot]),
            torch.from_numpy(ages[part, slot]),
            torch.from_numpy(part),
        )
    return Surroundings(own, edges)


def _standard(rows: Matrix) -> tuple[Matrix, Matrix]:
    present = ~np.isnan(rows)
    count = present.sum(axis=0).clip(1)
    center = np.where(present, rows, 0).sum(axis=0, dtype=np.float64) / count
    square = np.where(present, rows - center, 0) ** 2
    deviation = np.sqrt(square.sum(axis=0, dtype=np.float64) / count)
    # A column that never varied in training says nothing, whatever it holds later.
    scale = np.where(deviation > _VARIES_MIN, 1 / deviation.clip(_VARIES_MIN), 0)
    return center.astype(np.float32), scale.astype(np.float32)


def own_columns(rows: Matrix, center: Matrix, scale: Matrix) -> Tensor:
    """A payment's own columns as the network sees them, float32 [payments, features]."""
    own = np.clip((rows - center) * scale, -OWN_MAX, OWN_MAX)
    return torch.from_numpy(np.nan_to_num(own, nan=0.0))


def _numbers(parameter: Tensor) -> Matrix:
    return np.ascontiguousarray(parameter.detach().numpy())
