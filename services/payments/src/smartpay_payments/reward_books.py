"""Books rewards once they are minted: what was granted to payers is the merchant's liability.

Rewards is asked, payment by payment, soon after the capture and then ever more seldom: a reward
may vest for weeks, and only what is final is booked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Protocol

from smartpay.rewards.v1 import rewards_pb2
from smartpay_payments.adapters.sqlite_reward_watch import Watched
from smartpay_payments.domain.payment import Payment

ASKED_AT_ONCE = 16  # far below what rewards serves; nobody waits for these answers
PAUSE_FIRST, PAUSE_LONGEST = timedelta(minutes=1), timedelta(days=1)
# Longer than any vesting; then the reward was parked for good, or never made.
WATCHED_AT_MOST = timedelta(days=180)


class RewardReader(Protocol):
    """Asks rewards."""

    async def reward(self, payment: Payment) -> rewards_pb2.Reward | None:
        """Reads the reward; an empty one when there is none, None when rewards is away."""
        ...


class RewardWatch(Protocol):
    """Keeps whose reward is awaited."""

    async def due(self, now: datetime, limit: int) -> list[Watched]:
        """Reads whose reward is to be asked for."""
        ...

    async def postpone(self, payment_id: str, until: datetime) -> None:
        """Plans the next question."""
        ...

    async def end(self, watched: Watched, base_units: int, now: datetime) -> None:
        """Books what was granted, if anything, and waits no longer."""
        ...


class PaymentReader(Protocol):
    """Reads payments."""

    async def get(self, merchant_id: str, livemode: bool, payment_id: str) -> Payment | None:
        """Reads one payment of one merchant."""
        ...


class RewardBooks:
    """Asks and books, beside the calls.

    Args:
        watch: whose reward is awaited.
        payments: the payments.
        rewards: asks rewards.
        clock: the time, aware.
        interval_seconds: pause when nothing is due.
        sleep: replaced by tests.
    """

    def __init__(
        self,
        watch: RewardWatch,
        payments: PaymentReader,
        rewards: RewardReader,
        clock: Callable[[], datetime],
        interval_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._watch = watch
        self._payments = payments
        self._rewards = rewards
        self._clock = clock
        self._interval = interval_seconds
        self._sleep = sleep

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            if not await self.step():
                await self._sleep(self._interval)

    async def step(self) -> int:
        """Asks for what is due now; answers how many rewards that were."""
        due = await self._watch.due(self._clock(), ASKED_AT_ONCE)
        await asyncio.gather(*(self._look(watched) for watched in due))
        return len(due)

    async def _look(self, watched: Watched) -> None:
        payment = await self._payments.get(
            watched.merchant_id, watched.livemode, watched.payment_id
        )
        reward = None if payment is None else await self._rewards.reward(payment)
        now = self._clock()
        status = rewards_pb2.Reward.STATUS_UNSPECIFIED if reward is None else reward.status
        if reward is not None and status == rewards_pb2.Reward.STATUS_FINAL:
            await self._watch.end(watched, reward.token_base_units, now)
        elif status == rewards_pb2.Reward.STATUS_CANCELED or now - watched.since > WATCHED_AT_MOST:
            await self._watch.end(watched, 0, now)
        else:
            pause = min(max(PAUSE_FIRST, (now - watched.since) / 2), PAUSE_LONGEST)
            await self._watch.postpone(watched.payment_id, now + pause)
