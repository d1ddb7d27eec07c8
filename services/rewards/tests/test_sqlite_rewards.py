from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_rewards.adapters.sqlite_rewards import SqliteRewards
from smartpay_rewards.domain.issuance import (
    ChainIdentity,
    GrantRequest,
    Minted,
    Reward,
    RewardKey,
    Rules,
    State,
    finalized,
    parked,
    sent,
)
from smartpay_rewards.domain.reward import Refunded
from smartpay_rewards.testing import START, WALLET, a_payment, terms

RULES = Rules(terms(), WALLET, lambda wallet: True)
HOUR = timedelta(hours=1)


def a_reward(number: int = 1, **changes: object) -> Reward:
    return RULES.apply(None, a_payment(number, **changes), START)  # type: ignore[arg-type]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteRewards]:
    opened = await SqliteRewards.open(tmp_path / "rewards.sqlite")
    yield opened
    await opened.close()


async def put(store: SqliteRewards, reward: Reward) -> None:
    await store.change(reward.key, lambda _: reward)


async def test_a_reward_is_read_back_as_it_was_written(store: SqliteRewards) -> None:
    odd = START + timedelta(microseconds=123_457)
    reward = a_reward(refunds=(Refunded(odd, 7),), settle_time=odd, wallet=WALLET)
    for each in (
        reward,
        replace(reward, payment=replace(reward.payment, mark=None)),
        finalized(sent(reward, "s", odd, odd), Minted("t", WALLET, 5), odd),
        parked(reward, "because"),
    ):
        await put(store, each)
        assert await store.get(each.key) == each


async def test_another_tenant_or_mode_sees_nothing(store: SqliteRewards) -> None:
    reward = a_reward()
    await put(store, reward)
    key = reward.key
    assert await store.get(RewardKey("mer_other", key.livemode, key.payment_id)) is None
    assert await store.get(RewardKey(key.merchant_id, not key.livemode, key.payment_id)) is None
    assert await store.page("mer_other", livemode=False, after=None, limit=9) == []


async def test_reward_and_cursor_are_stored_together_or_not_at_all(store: SqliteRewards) -> None:
    def fail(existing: Reward | None) -> Reward | None:
        raise RuntimeError("decided badly")

    await store.change(a_reward(1).key, lambda _: a_reward(1), cursor="c1")
    with pytest.raises(RuntimeError, match="decided badly"):
        await store.change(a_reward(2).key, fail, cursor="c2")
    assert await store.cursor() == "c1"
    assert await store.get(a_reward(2).key) is None
    await store.save_cursor("c3")
    assert await store.cursor() == "c3"


async def test_a_new_store_starts_at_the_beginning_of_the_log(store: SqliteRewards) -> None:
    assert await store.cursor() == ""


async def test_pages_are_newest_first_and_miss_nothing(store: SqliteRewards) -> None:
    made = []
    for number in range(7):
        reward = replace(a_reward(number), create_time=START + number // 2 * HOUR)
        made.append(reward)
        await put(store, reward)
    seen: list[Reward] = []
    after = None
    while page := await store.page(made[0].key.merchant_id, False, after, 3):
        seen += page
        after = (page[-1].create_time, page[-1].key.payment_id)
    assert [each.key for each in seen] == [
        each.key
        for each in sorted(made, key=lambda r: (r.create_time, r.key.payment_id), reverse=True)
    ]


async def test_only_open_rewards_of_a_known_mark_whose_time_has_come_are_due(
    store: SqliteRewards,
) -> None:
    due = a_reward(1)
    await put(store, due)
    await put(store, replace(a_reward(2), look_time=START + HOUR))
    await put(store, a_reward(3, mark=None))
    await put(store, parked(a_reward(4), "x"))
    await put(store, finalized(a_reward(5), Minted("s", WALLET, 1), START))
    await put(store, sent(a_reward(6), "s", START - HOUR, START))
    assert [each.key.payment_id for each in await store.due(START, 9)] == [
        a_reward(6).key.payment_id,
        due.key.payment_id,
    ]
    assert len(await store.due(START, 1)) == 1


async def test_resuming_renews_what_is_sent_or_parked_only(store: SqliteRewards) -> None:
    rows = {
        State.NEW: a_reward(1),
        State.SENT: sent(a_reward(2), "s", START + HOUR, START + HOUR),
        State.PARKED: parked(a_reward(3), "x"),
        State.FINAL: finalized(a_reward(4), Minted("s", WALLET, 1), START),
    }
    for reward in rows.values():
        await put(store, reward)
    await store.resume(lambda reward: RULES.resumed(reward, START))
    assert await store.get(rows[State.FINAL].key) == rows[State.FINAL]
    assert len(await store.due(START, 9)) == 3


async def test_a_key_with_another_body_is_refused_and_changes_nothing(store: SqliteRewards) -> None:
    reward = a_reward()
    first = GrantRequest("key", "body one")
    assert not (await store.change(reward.key, lambda _: reward, request=first)).replayed
    assert (await store.change(reward.key, lambda e: e, request=first)).replayed
    other = a_reward(2)
    with pytest.raises(Refusal) as refused:
        await store.change(other.key, lambda _: other, request=GrantRequest("key", "body two"))
    assert refused.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert await store.get(other.key) is None


async def test_the_first_chain_seen_is_remembered_across_restarts(tmp_path: Path) -> None:
    first = ChainIdentity("genesis", "mint", "issuer", "digest")
    for _ in range(2):
        store = await SqliteRewards.open(tmp_path / "rewards.sqlite")
        assert await store.pin(first) == first
        assert await store.pin(replace(first, genesis_hash="other")) == first
        await store.close()
