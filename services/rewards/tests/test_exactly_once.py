"""The money test: a real SVM, an unmodified client, lost answers, lies, crashes, lost stores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from solders.instruction import Instruction

from smartpay_rewards.adapters.solana_chain import SolanaChain
from smartpay_rewards.domain.issuance import (
    REFUSALS_MAX,
    Chain,
    MintOrder,
    Prepared,
    Reward,
    State,
    WrongChainError,
)
from smartpay_rewards.domain.reward import SettledPayment
from smartpay_rewards.testing import RECEIPT_KEY, WALLET, a_payment

if TYPE_CHECKING:
    from smartpay_rewards.adapters.sqlite_rewards import SqliteRewards

PAYMENTS = [a_payment(number, captured_minor_units=5_000 + number) for number in range(16)]
TROUBLE = [
    {"kind": "error_before", "probability": 0.15, "seed": 1},
    {"kind": "error_after", "probability": 0.25, "seed": 2},
    {"kind": "drop_after_commit", "probability": 0.15, "seed": 3},
    {"kind": "stale_reads", "probability": 0.3, "seed": 4},
    {"kind": "stale_reads", "method": "getMultipleAccounts", "probability": 0.3, "seed": 5},
    {"kind": "stale_reads", "method": "getSignaturesForAddress", "probability": 0.3, "seed": 6},
    {"kind": "stale_reads", "method": "getTransaction", "probability": 0.3, "seed": 7},
]


class Crash(BaseException):
    """The process dies here: no handler may run on its behalf."""


class CrashingChain(SolanaChain):
    """Dies now and then before or after it sent."""

    dice = Random(11)

    async def submit(self, prepared: Prepared) -> None:
        if self.dice.random() < 0.1:
            raise Crash
        await super().submit(prepared)
        if self.dice.random() < 0.1:
            raise Crash


class NaiveChain(SolanaChain):
    """The negative control: signs, sends, and believes what it was answered. No receipt."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._paid_by: dict[str, str] = {}
        self._answered: set[str] = set()

    def _instructions(self, order: MintOrder, receipt_lamports: int) -> list[Instruction]:
        return super()._instructions(order, receipt_lamports)[1:]

    async def prepare(self, order: MintOrder) -> Prepared:
        prepared = await super().prepare(order)
        self._paid_by[prepared.signature] = order.payment_id
        return prepared

    async def submit(self, prepared: Prepared) -> None:
        await super().submit(prepared)
        self._answered.add(self._paid_by[prepared.signature])

    async def marked(self, payment_ids: Sequence[str]) -> frozenset[str]:
        return frozenset(payment_ids) & self._answered


def judge(world: Any, payments: Sequence[SettledPayment]) -> dict[str, int]:
    """Count by the chain's own books how often each reward was minted."""
    memos = world.simulator.dump()["memos"]
    times = [memos.get(payment.payment_id, 0) for payment in payments]
    return {
        "exact": times.count(1),
        "missing": times.count(0),
        "double": sum(1 for each in times if each > 1),
    }


def supply(world: Any) -> int:
    return int(world.simulator.dump()["mints"][world.mint]["supply"])


async def all_rewards(store: SqliteRewards) -> list[Reward]:
    merchant = PAYMENTS[0].merchant_id
    return await store.page(merchant, livemode=False, after=None, limit=1000)


ALL_EXACT = {"exact": len(PAYMENTS), "missing": 0, "double": 0}
OWED = sum((5_000 + number) * 200 for number in range(16))


async def test_each_reward_is_minted_once_and_final(world: Any) -> None:
    store, chain = await world.store(), world.chain()
    await world.deliver(store, chain, PAYMENTS)
    await world.finish(store, world.worker(store, chain))
    assert judge(world, PAYMENTS) == ALL_EXACT
    assert supply(world) == OWED
    rewards = await all_rewards(store)
    assert {each.state for each in rewards} == {State.FINAL}
    assert {each.attempts for each in rewards} == {1}


async def live_through_crashes(world: Any, store: SqliteRewards) -> int:
    """Run workers one after the other, each until it dies, until everything is done."""
    CrashingChain.dice = Random(11)
    for lives in range(1, 200):
        chain = world.chain(CrashingChain)
        await store.resume(partial(world.rules(chain).resumed, now=world.clock()))
        try:
            await world.finish(store, world.worker(store, chain))
        except* Crash:
            world.clock.advance(seconds=1)
        else:
            return lives
    raise AssertionError("it never came through")


async def test_lost_answers_lies_and_crashes_mint_nothing_twice_and_lose_nothing(
    world: Any,
) -> None:
    store = await world.store()
    await world.deliver(store, world.chain(), PAYMENTS)
    world.simulator.set_faults(TROUBLE)
    assert await live_through_crashes(world, store) > 1
    assert judge(world, PAYMENTS) == ALL_EXACT
    assert supply(world) == OWED
    rewards = await all_rewards(store)
    assert {each.state for each in rewards} == {State.FINAL}
    assert max(each.attempts for each in rewards) > 1


async def test_a_wiped_store_and_replayed_events_mint_nothing_and_restore_every_row(
    world: Any,
) -> None:
    store, chain = await world.store(), world.chain()
    await world.deliver(store, chain, PAYMENTS)
    await world.finish(store, world.worker(store, chain))
    before = {each.key: each for each in await all_rewards(store)}
    supply_before, landed_before = supply(world), world.simulator.dump()["transactions"]

    wiped = await world.store()
    await world.deliver(wiped, chain, PAYMENTS)
    await world.finish(wiped, world.worker(wiped, chain))

    assert supply(world) == supply_before
    assert world.simulator.dump()["transactions"] == landed_before
    restored = {each.key: each for each in await all_rewards(wiped)}
    assert restored.keys() == before.keys()
    for key, reward in restored.items():
        assert reward.state is State.FINAL
        assert reward.signature == before[key].signature
        assert reward.token_base_units == before[key].token_base_units


async def test_a_store_wiped_before_finality_mints_nothing_twice(world: Any) -> None:
    first, chain = await world.store(), world.chain()
    await world.deliver(first, chain, PAYMENTS)
    await world.worker(first, chain).round()  # sent, and not final: the clock stands still
    second, other = await world.store(), world.chain()
    await world.deliver(second, other, PAYMENTS)
    await world.finish(second, world.worker(second, other))
    assert judge(world, PAYMENTS) == ALL_EXACT
    sent = {each.key: each.signature for each in await all_rewards(first)}
    assert {each.key: each.signature for each in await all_rewards(second)} == sent


async def test_two_workers_that_share_nothing_mint_each_reward_once(world: Any) -> None:
    stores = [await world.store(), await world.store()]
    workers = []
    for store in stores:
        chain: Chain = world.chain()
        await world.deliver(store, chain, PAYMENTS)
        workers.append(world.worker(store, chain))
    await asyncio.gather(*(worker.round() for worker in workers))
    for store, worker in zip(stores, workers, strict=True):
        await world.finish(store, worker)
    assert judge(world, PAYMENTS) == ALL_EXACT
    one, two = [{r.key: r.signature for r in await all_rewards(each)} for each in stores]
    assert one == two


LOST_ANSWERS = [{"kind": "error_after", "times": len(PAYMENTS)}]


async def test_when_every_first_answer_is_lost_each_reward_is_minted_once(world: Any) -> None:
    store, chain = await world.store(), world.chain()
    await world.deliver(store, chain, PAYMENTS)
    world.simulator.set_faults(LOST_ANSWERS)
    await world.finish(store, world.worker(store, chain))
    assert judge(world, PAYMENTS) == ALL_EXACT
    assert supply(world) == OWED


async def test_without_the_receipt_the_same_check_finds_every_reward_minted_twice(
    world: Any,
) -> None:
    # A fresh blockhash each time: with the old one the repeat would be the same transaction.
    store, chain = await world.store(), world.chain(NaiveChain, blockhash_seconds=0)
    await world.deliver(store, chain, PAYMENTS)
    world.simulator.set_faults(LOST_ANSWERS)
    await world.finish(store, world.worker(store, chain))
    assert judge(world, PAYMENTS)["double"] == len(PAYMENTS)
    assert supply(world) == 2 * OWED


async def test_without_the_receipt_a_wiped_store_pays_everybody_again(world: Any) -> None:
    for _ in range(2):
        store, chain = await world.store(), world.chain(NaiveChain)
        await world.deliver(store, chain, PAYMENTS)
        await world.finish(store, world.worker(store, chain))
    assert judge(world, PAYMENTS)["double"] == len(PAYMENTS)


async def test_what_the_chain_says_wins_over_what_the_settings_say_now(world: Any) -> None:
    first, chain = await world.store(), world.chain()
    await world.deliver(first, chain, [a_payment(1, captured_minor_units=10_000)])
    await world.finish(first, world.worker(first, chain))
    second = await world.store()
    changed = a_payment(1, captured_minor_units=50_000, wallet=str(WALLET))
    await world.deliver(second, chain, [changed])
    await world.finish(second, world.worker(second, chain))
    [reward] = await all_rewards(second)
    assert (reward.state, reward.token_base_units) == (State.FINAL, 2_000_000)


async def test_a_receipt_that_minted_nothing_parks_the_reward(world: Any) -> None:
    chain = world.chain()
    receipt = chain.receipt_address(PAYMENTS[0].payment_id)
    await world.rpc.call(str, "requestAirdrop", receipt, 890_880)
    world.clock.advance(seconds=5)
    store = await world.store()
    await world.deliver(store, chain, PAYMENTS[:1])
    await world.finish(store, world.worker(store, chain))
    [reward] = await all_rewards(store)
    assert reward.state is State.PARKED
    assert reward.hold.startswith("RECEIPT_FOREIGN")
    assert supply(world) == 0


class GreedyChain(SolanaChain):
    """Asks for more than the token program can count, so that its rule refuses."""

    def _instructions(self, order: MintOrder, receipt_lamports: int) -> list[Instruction]:
        if order.payment_id == PAYMENTS[0].payment_id:
            order = MintOrder(order.payment_id, order.wallet, 2**64 - 1)
        return super()._instructions(order, receipt_lamports)


async def test_what_a_program_refuses_is_parked_after_a_few_tries_and_holds_up_nobody(
    world: Any,
) -> None:
    store, chain = await world.store(), world.chain(GreedyChain)
    await world.deliver(store, chain, PAYMENTS[1:2])
    await world.finish(store, world.worker(store, chain))
    await world.deliver(store, chain, PAYMENTS[:1] + PAYMENTS[2:3])
    await world.finish(store, world.worker(store, chain))
    states = {each.key.payment_id: each for each in await all_rewards(store)}
    parked = states.pop(PAYMENTS[0].payment_id)
    assert (parked.state, parked.attempts) == (State.PARKED, REFUSALS_MAX)
    assert parked.hold.startswith("CHAIN_REFUSED: {'InstructionError': [2,")
    assert {each.state for each in states.values()} == {State.FINAL}
    # The operator repaired it: a restart tries again.
    repaired = world.chain()
    await store.resume(partial(world.rules(repaired).resumed, now=world.clock()))
    await world.finish(store, world.worker(store, repaired))
    assert judge(world, PAYMENTS[:3]) == {"exact": 3, "missing": 0, "double": 0}


async def test_another_chain_or_another_key_under_the_same_store_is_refused(world: Any) -> None:
    store, chain = await world.store(), world.chain()
    await world.worker(store, chain).recognize()
    await world.worker(store, world.chain()).recognize()
    stranger = world.chain(receipt_key=RECEIPT_KEY[::-1])
    with pytest.raises(WrongChainError, match="receipt_key_digest"):
        await world.worker(store, stranger).recognize()
    with pytest.raises(WrongChainError, match="REWARDS_GENESIS_HASH"):
        await world.worker(store, chain, genesis_hash="another").recognize()
