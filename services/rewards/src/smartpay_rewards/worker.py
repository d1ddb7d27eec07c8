"""The work: what is due is asked of the chain first, then settled, sent, parked or canceled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from smartpay_rewards.domain.issuance import (
    RECEIPT_FOREIGN,
    REFUSALS_MAX,
    AlreadyMarkedError,
    Chain,
    ChainIdentity,
    ChainRefusedError,
    ChainUnsureError,
    Minted,
    MintOrder,
    ReceiptForeignError,
    Reward,
    RewardStore,
    Rules,
    Step,
    WrongChainError,
    backoff,
    canceled,
    difference,
    finalized,
    next_step,
    parked,
    postponed,
    sent,
)

log = structlog.get_logger()


@dataclass(frozen=True)
class Pace:
    """How fast the worker goes.

    Attributes:
        poll: how often finality is looked for.
        accepted_patience: how long an accepted transaction may take to be final before another
            is sent; longer than a cluster's usual 13 seconds, because repeating costs a call.
        retry_first: wait after the first failure, doubled each time.
        retry_longest: so that a chain that was away for a day is found again soon.
        batch_max: rewards per round; one getMultipleAccounts call asks for 100 receipts.
        in_flight_max: transactions on their way at once, so that a node does not limit us.
    """

    poll: timedelta = timedelta(milliseconds=500)
    accepted_patience: timedelta = timedelta(seconds=20)
    retry_first: timedelta = timedelta(seconds=1)
    retry_longest: timedelta = timedelta(seconds=60)
    batch_max: int = 100
    in_flight_max: int = 16


class Worker:
    """Moves rewards on until they are final. One per process; more would harm nothing.

    Args:
        store: the work list.
        chain: the chain.
        clock: the time as an aware datetime.
        rules: to renew parked rewards after a restart, by the terms then in force.
        pace: how fast.
        genesis_hash: the chain this deployment was configured for; "" trusts the first one seen.
    """

    def __init__(
        self,
        store: RewardStore,
        chain: Chain,
        rules: Rules,
        clock: Callable[[], datetime],
        pace: Pace,
        genesis_hash: str = "",
    ) -> None:
        self._store = store
        self._chain = chain
        self._rules = rules
        self._clock = clock
        self._pace = pace
        self._genesis_hash = genesis_hash
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Say that there is something new, so that nobody waits for the next round."""
        self._woken.set()

    async def run(self) -> None:
        """Work for ever. Raises WrongChainError when the store belongs to another chain."""
        await self._recognize_patiently()
        await self._store.resume(lambda reward: self._rules.resumed(reward, self._clock()))
        failures = 0
        while True:
            self._woken.clear()
            try:
                found = await self.round()
                failures = 0
            except ChainUnsureError as error:
                failures += 1
                found = 0
                log.warning("chain away", error=str(error), failures=failures)
            if found < self._pace.batch_max:
                await self._rest(failures)

    async def _rest(self, failures: int) -> None:
        if failures:
            # A chain that is away is not asked more often because more work arrives.
            pause = backoff(failures, self._pace.retry_first, self._pace.retry_longest)
            await asyncio.sleep(pause.total_seconds())
            return
        try:
            async with asyncio.timeout(self._pace.poll.total_seconds()):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _recognize_patiently(self) -> None:
        failures = 0
        while True:
            try:
                await self.recognize()
                return
            except ChainUnsureError as error:
                failures += 1
                log.warning("chain away", error=str(error), failures=failures)
                await self._rest(failures)

    async def recognize(self) -> ChainIdentity:
        """Make sure that this is the chain the store belongs to.

        Raises:
            WrongChainError: it is another one; minting on it would pay everybody again.
        """
        seen = await self._chain.identity()
        if self._genesis_hash and seen.genesis_hash != self._genesis_hash:
            raise WrongChainError(
                f"SOLANA_RPC_URL leads to the chain {seen.genesis_hash}, but REWARDS_GENESIS_HASH "
                "names another; correct one of them."
            )
        pinned = await self._store.pin(seen)
        differing = difference(pinned, seen)
        if differing:
            raise WrongChainError(
                f"The rewards store belongs to another chain or key: {', '.join(differing)} "
                "changed. Restore the settings, or move the store away to begin on a new chain."
            )
        return seen

    async def round(self) -> int:
        """Look at what is due once; answers how many rewards that were."""
        rewards = await self._store.due(self._clock(), self._pace.batch_max)
        if not rewards:
            return 0
        marked = await self._chain.marked([each.key.payment_id for each in rewards])
        own = {r.signature for r in rewards if r.signature and r.key.payment_id in marked}
        landed = await self._chain.landed(own) if own else frozenset[str]()
        places = asyncio.Semaphore(self._pace.in_flight_max)

        async def move(reward: Reward) -> None:
            async with places:
                await self._move(reward, reward.key.payment_id in marked, landed)

        async with asyncio.TaskGroup() as group:
            for reward in rewards:
                group.create_task(move(reward))
        return len(rewards)

    async def _move(self, reward: Reward, marked: bool, landed: frozenset[str]) -> None:
        now = self._clock()
        step = next_step(reward, marked, now)
        try:
            if step is Step.SETTLE:
                await self._settle(reward, reward.signature in landed, now)
            elif step is Step.SEND:
                await self._send(reward, now)
            elif step is Step.PARK:
                log.warning("reward parked", payment_id=reward.key.payment_id, why=reward.hold)
                await self._replace(reward, parked(reward, reward.hold))
            elif step is Step.CANCEL:
                await self._replace(reward, canceled(reward))
            else:
                await self._look_later(reward, now)
        except ChainUnsureError as error:
            log.info("chain unsure", payment_id=reward.key.payment_id, error=str(error))
            await self._look_later(reward, now)

    async def _settle(self, reward: Reward, ours: bool, now: datetime) -> None:
        """End a reward whose receipt is final, with what the chain says was minted."""
        minted: Minted | None = Minted(reward.signature, reward.wallet, reward.token_base_units)
        if not ours:
            # Minted by a transaction this store does not know, as after a loss of the store.
            try:
                minted = await self._chain.minted(reward.key.payment_id)
            except ReceiptForeignError:
                log.error("receipt without a mint", payment_id=reward.key.payment_id)
                await self._replace(reward, parked(reward, RECEIPT_FOREIGN))
                return
        if minted is None:
            await self._look_later(reward, now)
            return
        if await self._replace(reward, finalized(reward, minted, now)):
            log.info("reward final", payment_id=reward.key.payment_id, signature=minted.signature)

    async def _send(self, reward: Reward, now: datetime) -> None:
        """Record a transaction, then send it: nothing is sent that is not known here."""
        order = MintOrder(reward.key.payment_id, reward.wallet, reward.token_base_units)
        prepared = await self._chain.prepare(order)
        recorded = sent(
            reward,
            prepared.signature,
            look_time=now + self._pace.poll,
            resend_time=now + self._pace.accepted_patience,
        )
        if not await self._replace(reward, recorded):
            return
        try:
            await self._chain.submit(prepared)
        except AlreadyMarkedError:
            # Not final yet, or this node lags: the next looks will find it.
            log.info("reward minted before", payment_id=reward.key.payment_id)
        except ChainUnsureError as error:
            log.info("mint unsure", payment_id=reward.key.payment_id, error=str(error))
            await self._retry_later(recorded, now)
        except ChainRefusedError as error:
            log.warning("mint refused", payment_id=reward.key.payment_id, error=error.reason)
            if error.by_rule and recorded.attempts >= REFUSALS_MAX:
                await self._replace(recorded, parked(recorded, error.reason))
            else:
                await self._retry_later(recorded, now)

    async def _retry_later(self, reward: Reward, now: datetime) -> None:
        wait = backoff(reward.attempts, self._pace.retry_first, self._pace.retry_longest)
        await self._replace(reward, postponed(reward, now + wait, now + wait))

    async def _look_later(self, reward: Reward, now: datetime) -> None:
        """Look again: soon when it is young, seldom when it takes long."""
        waited = now - reward.create_time
        wait = min(max(self._pace.poll, waited / 4), self._pace.retry_longest)
        await self._replace(reward, postponed(reward, now + wait))

    async def _replace(self, old: Reward, new: Reward) -> bool:
        """Write a reward if nobody changed it meanwhile; answers whether it was written."""
        changed = await self._store.change(
            old.key, lambda existing: new if existing == old else existing
        )
        return changed.reward == new
