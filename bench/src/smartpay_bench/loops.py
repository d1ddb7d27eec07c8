"""How a server is loaded: by callers that wait for their answers, or by a clock that does not.

Only the standard library, so that every rival's environment can use it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Load:
    """What a loop saw.

    Attributes:
        rate: rows answered a second.
        taken_ms: how long each call took, in ascending order.
    """

    rate: float
    taken_ms: list[float]

    def percentile_ms(self, percent: int) -> float:
        """Answers what so many of a hundred calls did not exceed."""
        return self.taken_ms[min(len(self.taken_ms) - 1, len(self.taken_ms) * percent // 100)]


async def closed_loop(call: Call, callers: int, seconds: float, *, rows: int = 1) -> Load:
    """Asks with so many callers that each ask again once they are answered.

    Args:
        call: asks once.
        callers: calls under way at once.
        seconds: how long new calls are begun.
        rows: what one call brings.
    """
    taken: list[float] = []
    start = time.monotonic()
    end = start + seconds

    async def caller() -> None:
        begun = time.monotonic()
        while begun < end:
            await call()
            now = time.monotonic()
            taken.append((now - begun) * 1_000)
            begun = now

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return Load(len(taken) * rows / (time.monotonic() - start), sorted(taken))


async def open_loop(call: Call, rate: float, seconds: float) -> Load:
    """Asks so often a second; counts from when a call was due, whether or not others have ended."""
    taken: list[float] = []

    async def one(due: float) -> None:
        await call()
        taken.append((time.monotonic() - due) * 1_000)

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            group.create_task(one(due))
    return Load(len(taken) / (time.monotonic() - start), sorted(taken))
