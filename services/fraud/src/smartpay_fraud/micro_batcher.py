"""Scores rows that arrive together in one run of the model, and a lone row at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import Vector
from smartpay_fraud.domain.refusals import scoring_queue_full

Margins = Callable[[NDArray[np.float32]], NDArray[np.float64]]


class MicroBatcher:
    """Work-conserving: it never waits for company, it only takes along what is already there.

    A row submitted to an idle batcher runs in the event loop's next turn; rows that arrive before
    that turn, because the loop was busy, share the run. Single runs take microseconds, so they
    stay on the loop: handing them to a thread would cost more than the run itself.
    """

    def __init__(self, margins: Margins, *, rows_max: int, queue_max: int) -> None:
        self._margins = margins
        self._rows_max = rows_max
        self._queue_max = queue_max
        self._waiting: deque[tuple[Vector, asyncio.Future[float]]] = deque()
        self._scheduled = False

    def submit(self, row: Vector) -> asyncio.Future[float]:
        """Promises the margin of one row.

        Raises:
            Refusal: RESOURCE_EXHAUSTED SCORING_QUEUE_FULL, before anything was done.
        """
        if len(self._waiting) >= self._queue_max:
            raise scoring_queue_full()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = loop.create_future()
        self._waiting.append((row, future))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._run)
        return future

    def _run(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._rows_max, len(self._waiting)))]
        # More than one batch waits: let the loop breathe between them.
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._run)
        wanted = [(row, future) for row, future in batch if not future.done()]
        if not wanted:
            return
        try:
            margins = self._margins(np.array([row for row, _ in wanted])).tolist()
        except Exception as error:  # each caller must hear of it; the batcher lives on
            for _, future in wanted:
                future.set_exception(error)
            return
        for (_, future), margin in zip(wanted, margins, strict=True):
            future.set_result(margin)
