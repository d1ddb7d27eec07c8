"""A verified bundle at work: a lone row on the event loop, a large batch in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.adapters.model_bundle import ModelBundle
from smartpay_fraud.domain.graph import MessageWeights
from smartpay_fraud.domain.models import Inference
from smartpay_fraud.domain.verdict import Calibration, Costs

T = TypeVar("T")

INLINE_ROWS_MAX = 64
"""Rows scored on the event loop: up to here handing over costs more than the run itself."""


class LocalModel:
    """Scores and explains in this process.

    Args:
        bundle: verified.
        thread: an executor of ONE thread, shared by all models of the process: two of them at
            work at once would only take each other's core.
        loaded: when it was loaded.
    """

    def __init__(self, bundle: ModelBundle, thread: Executor, loaded: datetime) -> None:
        self.bundle = bundle
        self.loaded = loaded
        self._thread = thread

    @property
    def version(self) -> str:
        """Names the bundle."""
        return self.bundle.version

    @property
    def calibration(self) -> Calibration:
        """Turns its margins into probabilities."""
        return self.bundle.calibration

    @property
    def costs(self) -> Costs:
        """The costs it was shipped with."""
        return self.bundle.costs

    @property
    def weights(self) -> MessageWeights | None:
        """How it reads the graph; None when it does not."""
        return self.bundle.weights

    async def infer(self, rows: NDArray[np.float32], graph: NDArray[np.float32]) -> Inference:
        """Scores base rows with their graph rows."""
        infer = self.bundle.engine.infer
        margins, columns = (
            infer(rows, graph)
            if len(rows) <= INLINE_ROWS_MAX
            else await self._elsewhere(lambda: infer(rows, graph))
        )
        return Inference(margins, self.bundle.stack(rows, columns))

    async def explain(self, stack: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each column added to each margin."""
        contributions = self.bundle.attribution.contributions
        if len(stack) <= INLINE_ROWS_MAX:
            return contributions(stack)
        return await self._elsewhere(lambda: contributions(stack))

    async def _elsewhere(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
