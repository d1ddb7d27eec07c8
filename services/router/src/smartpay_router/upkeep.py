"""What goes on beside the calls: snapshots, other replicas' news, and giving up what never came."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from smartpay_router.domain.learning import Learning, OutcomeLog
from smartpay_router.domain.replicas import Replica

SHARE_MAX = 0.05
"""Share of the time that one kind of upkeep may take: with thousands of accounts a snapshot takes
longer than with three, and is then taken less often."""


@dataclass(frozen=True)
class Rhythm:
    """How often what is done, in seconds.

    Attributes:
        pulse_seconds: between exchanges of the breakers' evidence. At 20 payments a second and
            replica it is five payments, with which 16 replicas notice an outage as one does.
        exchange_seconds: between exchanges of what was learned at most, which is also how much of
            the log a start reads again.
        sweep_seconds: between sweeps of what is overdue; nothing waits for them.
        silent_seconds: after how long without a sign of life a replica is retired.
        retention_seconds: how long outcomes are kept once a snapshot contains them.
    """

    pulse_seconds: float = 0.25
    exchange_seconds: float = 2.0
    sweep_seconds: float = 60.0
    silent_seconds: float = 3_600.0
    retention_seconds: float = 30 * 86_400.0


class Upkeep:
    """Runs the three rhythms until one of them fails, which is meant to stop the process.

    Args:
        learning: what is learned here.
        outcomes: the log.
        replica: this process among others; None for a learner whose sums can't be added up.
        rhythm: how often what is done.
        clock: answers the present, in seconds since the epoch of UTC.
    """

    def __init__(
        self,
        learning: Learning,
        outcomes: OutcomeLog,
        replica: Replica | None,
        rhythm: Rhythm,
        clock: Callable[[], float],
    ) -> None:
        self._learning = learning
        self._outcomes = outcomes
        self._replica = replica
        self._rhythm = rhythm
        self._clock = clock

    async def run(self) -> None:
        """Runs for ever; raises FencedError when another process has this replica's name."""
        async with asyncio.TaskGroup() as group:
            group.create_task(_repeat(self._rhythm.sweep_seconds, self.sweep))
            if self._replica is not None:
                group.create_task(
                    _repeat(
                        self._rhythm.exchange_seconds, self._replica.exchange, self._replica.news
                    )
                )
                group.create_task(_repeat(self._rhythm.pulse_seconds, self._replica.pulse))

    async def sweep(self) -> None:
        """Gives up what is overdue, and drops what is old and contained in a snapshot."""
        now = self._clock()
        await self._learning.sweep(now)
        if self._replica is None:
            return  # such a learner knows nothing but its log
        await self._replica.retire_the_gone(self._rhythm.silent_seconds)
        before = now - self._rhythm.retention_seconds
        while await self._outcomes.forget(before, self._replica.published_position):
            pass


async def _repeat(
    pause_seconds: float,
    work: Callable[[], Awaitable[object]],
    sooner: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Does some work again and again, for no more than a small share of the time.

    Args:
        pause_seconds: between two times, unless the work took long.
        work: what to do.
        sooner: returns when the work should not wait until the pause is over.
    """
    took = 0.0
    while True:
        rest = took / SHARE_MAX
        if sooner is None:
            await asyncio.sleep(max(pause_seconds, rest))
        else:
            await asyncio.sleep(rest)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds - rest):
                    await sooner()
        began = time.perf_counter()
        await work()
        took = time.perf_counter() - began
