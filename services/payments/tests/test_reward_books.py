"""Rewards become a liability once they are minted, and are asked for until then."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from smartpay.rewards.v1 import rewards_pb2
from smartpay_chassis.testing import DEMO_MERCHANT
from smartpay_payments.adapters.sqlite_ledger import SqliteLedger
from smartpay_payments.adapters.sqlite_reward_watch import SqliteRewardWatch
from smartpay_payments.adapters.sqlite_verification import verify_store
from smartpay_payments.domain.payment import CaptureMethod, Payment
from smartpay_payments.reward_books import WATCHED_AT_MOST, RewardBooks

R = rewards_pb2.Reward
MERCHANT = DEMO_MERCHANT.merchant_id


class Rewards:
    def __init__(self) -> None:
        self.answer: rewards_pb2.Reward | None = R()
        self.asked: list[str] = []

    async def reward(self, payment: Payment) -> rewards_pb2.Reward | None:
        self.asked.append(payment.payment_id)
        return self.answer


class Desk:
    def __init__(self, story: Any) -> None:
        self.story, self.rewards = story, Rewards()
        self.books = RewardBooks(
            SqliteRewardWatch(story.store), story.payments, self.rewards, story.clock, 1.0
        )

    async def balances(self) -> dict[str, int]:
        return {
            b.account.partition(":")[0]: b.minor_units
            for b in await SqliteLedger(self.story.store).balances(MERCHANT, False)
            if b.currency_code == "REWARD"
        }


@pytest.fixture
def desk(story: Any) -> Desk:
    return Desk(story)


async def test_a_minted_reward_is_booked_once(desk: Desk) -> None:
    await desk.story.create()
    desk.rewards.answer = R(status=R.STATUS_FINAL, token_base_units=1_000_000)
    assert await desk.books.step() == 1
    desk.story.clock.advance(days=2)
    assert await desk.books.step() == 0
    assert await desk.balances() == {"rewards": 1_000_000, "reward_liability": -1_000_000}
    assert verify_store(desk.story.path).findings == ()


@pytest.mark.parametrize("answer", [None, R(), R(status=R.STATUS_NEW), R(status=R.STATUS_PARKED)])
async def test_a_reward_that_is_not_final_is_asked_for_ever_more_seldom(
    desk: Desk, answer: rewards_pb2.Reward | None
) -> None:
    await desk.story.create()
    desk.rewards.answer = answer
    for _ in range(7 * 24 * 60):
        await desk.books.step()
        desk.story.clock.advance(minutes=1)
    assert 8 < len(desk.rewards.asked) < 25
    desk.rewards.answer = R(status=R.STATUS_FINAL, token_base_units=5)
    desk.story.clock.advance(days=1)
    await desk.books.step()
    assert await desk.balances() == {"rewards": 5, "reward_liability": -5}


async def test_a_canceled_reward_is_not_booked_nor_awaited(desk: Desk) -> None:
    await desk.story.create()
    desk.rewards.answer = R(status=R.STATUS_CANCELED, token_base_units=5)
    await desk.books.step()
    desk.story.clock.advance(days=2)
    await desk.books.step()
    assert len(desk.rewards.asked) == 1
    assert await desk.balances() == {}


async def test_what_never_comes_is_given_up(desk: Desk) -> None:
    await desk.story.create()
    desk.story.clock.now += WATCHED_AT_MOST + timedelta(days=1)
    await desk.books.step()
    desk.story.clock.advance(days=2)
    assert await desk.books.step() == 0


async def test_only_what_is_captured_is_awaited(desk: Desk) -> None:
    payment = await desk.story.create(capture_method=CaptureMethod.MANUAL)
    assert await desk.books.step() == 0
    await desk.story.capture(payment)
    assert await desk.books.step() == 1
