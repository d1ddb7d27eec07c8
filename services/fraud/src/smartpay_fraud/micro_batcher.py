"""Works on what arrives together in one run, and on a lone arrival at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from smartpay_fraud.domain.refusals import deadline_too_near, scoring_queue_full

Item = TypeVar("Item")
Answer = TypeVar("Answer")

NEVER = float("inf")
"""The deadline of a caller who waits as long as it takes."""

_SMOOTHING = 0.2  # of the newest run in the running mean: five runs forget a slow one


class _Group(NamedTuple, Generic[Item, Answer]):
    items: Sequence[Item]
    expires_at: float
    answers: asyncio.Future[list[Answer]]


class MicroBatcher(Generic[Item, Answer]):
    """Work-conserving: it never waits for company, it only takes along what is already there.

    What is submitted to an idle batcher runs in the event loop's next turn; what arrives before
    that turn, or while a run is under way, shares the next run. A group is never split.

    Args:
        work: answers a batch, one answer per item.
        rows_max: items per run, unless one group alone is larger.
        queue_max: items waiting; more are refused.
        lanes: runs under way at once: 1 on one core, more when a run mostly waits for a network.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        work: Callable[[list[Item]], Awaitable[list[Answer]]],
        *,
        rows_max: int,
        queue_max: int,
        lanes: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._rows_max = rows_max
        self._queue_max = queue_max
        self._lanes_free = lanes
        self._clock = clock
        self._waiting: deque[_Group[Item, Answer]] = deque()
        self._rows_waiting = 0
        self._run_seconds = 0.0
        self._runs: set[asyncio.Task[None]] = set()

    def submit(
        self, items: Sequence[Item], expires_at: float = NEVER
    ) -> asyncio.Future[list[Answer]]:
        """Promises the answers to a group.

        Args:
            items: what to work on; they stay together and in order.
            expires_at: when nobody waits for the answers any more, on the batcher's clock. Work
                that can't be done by then is refused before it is begun.

        Raises:
            Refusal: RESOURCE_EXHAUSTED SCORING_QUEUE_FULL, before anything was done.
        """
        if self._rows_waiting + len(items) > self._queue_max:
            raise scoring_queue_full()
        answers: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Group(items, expires_at, answers))
        self._rows_waiting += len(items)
        if self._lanes_free:
            self._lanes_free -= 1
            run = asyncio.create_task(self._drain())
            self._runs.add(run)
            run.add_done_callback(self._runs.discard)
        return answers

    async def _drain(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                if batch:
                    await self._run(batch)
                if self._waiting:
                    # Let the loop breathe between two runs.
                    await asyncio.sleep(0)
        finally:
            self._lanes_free += 1

    def _take(self) -> list[_Group[Item, Answer]]:
        """The next groups that still can be answered in time."""
        batch: list[_Group[Item, Answer]] = []
        rows = 0
        done_by = self._clock() + self._run_seconds
        while self._waiting and (not batch or rows + len(self._waiting[0].items) <= self._rows_max):
            group = self._waiting.popleft()
            self._rows_waiting -= len(group.items)
            if group.answers.done():  # its caller went away
                continue
            if group.expires_at < done_by:
                group.answers.set_exception(deadline_too_near())
                # Or one slow run would have everybody refused for ever.
                self._run_seconds *= 1 - _SMOOTHING
                continue
            batch.append(group)
            rows += len(group.items)
        return batch

    async def _run(self, batch: list[_Group[Item, Answer]]) -> None:
        began = self._clock()
        try:
            answers = await self._work([item for group in batch for item in group.items])
        except Exception as error:  # each caller must hear of it; the batcher lives on
            for group in batch:
                if not group.answers.done():
                    group.answers.set_exception(error)
            return
        first = 0
        for group in batch:
            last = first + len(group.items)
            if not group.answers.done():
                group.answers.set_result(answers[first:last])
            first = last
        self._run_seconds += _SMOOTHING * (self._clock() - began - self._run_seconds)
