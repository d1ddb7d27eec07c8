"""The worker's own loop: it starts, waits for a chain that is away, wakes, and stops loudly."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from smartpay_rewards.domain.issuance import RewardKey, State, WrongChainError
from smartpay_rewards.testing import WALLET, a_payment
from smartpay_rewards.worker import Pace, Worker

QUICK = Pace(poll=timedelta(milliseconds=5), retry_first=timedelta(milliseconds=5))
PAYMENT = a_payment()
KEY = RewardKey(PAYMENT.merchant_id, PAYMENT.livemode, PAYMENT.payment_id)


async def final(world: Any, store: Any) -> Any:
    async with asyncio.timeout(10):
        while True:
            reward = await store.get(KEY)
            if reward is not None and reward.state is State.FINAL:
                return reward
            world.clock.advance(seconds=1)
            await asyncio.sleep(0.01)


async def test_it_waits_for_a_chain_that_is_away_and_then_works(world: Any) -> None:
    store, chain = await world.store(), world.chain()
    await world.deliver(store, chain, [PAYMENT])
    world.simulator.set_faults([{"kind": "error_before", "method": "*", "times": 5}])
    worker = Worker(store, chain, world.rules(chain), world.clock, QUICK)
    task = asyncio.create_task(worker.run())
    reward = await final(world, store)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reward.token_base_units == 2_000_000


async def test_a_worker_that_sleeps_long_is_woken_by_new_work(world: Any) -> None:
    store, chain = await world.store(), world.chain()
    slow = Pace(poll=timedelta(hours=1))
    worker = Worker(store, chain, world.rules(chain), world.clock, slow)
    task = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    await world.deliver(store, chain, [PAYMENT])
    async with asyncio.timeout(10):
        while (await store.get(KEY)).attempts == 0:
            worker.wake()
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_wrong_chain_ends_it(world: Any) -> None:
    store, chain = await world.store(), world.chain()
    worker = Worker(store, chain, world.rules(chain), world.clock, QUICK, "another chain")
    with pytest.raises(WrongChainError):
        await worker.run()


async def test_a_mint_that_does_not_exist_is_refused_with_the_remedy(world: Any) -> None:
    world.mint = WALLET
    store, chain = await world.store(), world.chain()
    with pytest.raises(WrongChainError, match=r"does not exist.*smartpay_rewards\.deploy"):
        await world.worker(store, chain).recognize()


async def test_a_reward_refunded_within_its_vesting_is_canceled_unless_it_was_minted(
    world: Any,
) -> None:
    store, chain = await world.store(), world.chain()
    await world.deliver(store, chain, [PAYMENT])
    await store.change(KEY, lambda r: r and _emptied(r))
    await world.finish(store, world.worker(store, chain))
    assert (await store.get(KEY)).state is State.CANCELED

    minted = await world.store()
    await world.deliver(minted, chain, [PAYMENT])
    await world.finish(minted, world.worker(minted, chain))
    replayed = await world.store()
    await world.deliver(replayed, chain, [PAYMENT])
    await replayed.change(KEY, lambda r: r and _emptied(r))
    await world.finish(replayed, world.worker(replayed, chain))
    reward = await replayed.get(KEY)
    assert (reward.state, reward.token_base_units) == (State.FINAL, 2_000_000)


def _emptied(reward: Any) -> Any:
    return replace(reward, token_base_units=0)
