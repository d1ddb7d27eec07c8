"""The models that serve: a champion that answers, and at most one challenger that only listens."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.graph import MessageWeights
from smartpay_fraud.domain.memory import Memory
from smartpay_fraud.domain.verdict import Calibration, Costs


class Inference(NamedTuple):
    """What a model said of a batch.

    `margins` are log-odds, float64 [n]; `stack` is what its trees saw, float32 [n, columns]: the
    base row and, with a graph, the graph's embedding and logit.
    """

    margins: NDArray[np.float64]
    stack: NDArray[np.float32]


class Model(Protocol):
    """A loaded and verified model."""

    @property
    def version(self) -> str:
        """Names the bundle."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Turns its margins into probabilities."""
        ...

    @property
    def costs(self) -> Costs:
        """The costs it was shipped with, for merchants who state none."""
        ...

    @property
    def weights(self) -> MessageWeights | None:
        """How it reads the graph; None when it does not."""
        ...

    async def infer(self, rows: NDArray[np.float32], graph: NDArray[np.float32]) -> Inference:
        """Scores base rows [n, features] with their graph rows [n, GRAPH_WIDTH]."""
        ...

    async def explain(self, stack: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each column added to each margin, in log-odds, float64 [n, columns]."""
        ...


class Lineup:
    """Who serves now. Swapping is one step of the event loop: a batch sees one pair or the other.

    Memory learns of a swap in the same step, because a graph row is only worth something to the
    model whose messages it was made of.
    """

    def __init__(self, memory: Memory, champion: Model, challenger: Model | None = None) -> None:
        self._memory = memory
        self.champion = champion
        self.challenger = challenger
        self._tell()

    def crown(self, champion: Model) -> None:
        """Lets a model answer from now on; batches under way finish with the old one."""
        self.champion = champion
        self._tell()

    def challenge(self, challenger: Model | None) -> None:
        """Lets a model listen from now on, or nobody."""
        self.challenger = challenger
        self._tell()

    def _tell(self) -> None:
        self._memory.use_graph(
            self.champion.weights, self.challenger.weights if self.challenger else None
        )
