"""The log of events as services read it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from smartpay.payments.v1 import payment_pb2, payments_pb2
from smartpay_chassis.testing import (
    DEMO_MERCHANT,
    as_merchant,
)
from smartpay_payments.server import watch


async def until(condition: Any) -> None:
    """Waits for what must come."""
    while not condition():
        await asyncio.sleep(0.001)


async def test_watch_tells_every_version_in_order_and_goes_on_after_a_cursor(
    house: Any,
) -> None:
    payment = (await house.pay(device_id="device", ip_address="192.0.2.1")).payment
    await house.refund(payment.payment_id)

    steps = await house.log()

    events = [s.event for s in steps if s.HasField("event")]
    assert [e.type for e in events] == [
        "smartpay.payment.processing.v1",
        "smartpay.payment.succeeded.v1",
        "smartpay.refund.pending.v1",
        "smartpay.refund.succeeded.v1",
    ]
    assert [e.sequence for e in events] == [1, 2, 3, 4]
    assert len({e.id for e in events}) == 4
    paid = events[1]
    assert paid.payment == payment
    assert (paid.subject, paid.merchant_id) == (payment.payment_id, DEMO_MERCHANT.merchant_id)
    assert (paid.device_id, paid.ip_address) == ("device", "192.0.2.1")
    assert paid.reward_mark == payment_pb2.REWARD_MARK_RECEIPT
    rest = await house.log(steps[1].cursor)
    assert [s.event.sequence for s in rest if s.HasField("event")] == [3, 4]
    assert [s.caught_up for s in await house.log(steps[-1].cursor)] == [True]


async def test_a_watcher_that_has_caught_up_hears_of_the_next_commit(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_HEARTBEAT_SECONDS", 3600)
    stream = house.watch()
    assert (await stream.read()).caught_up
    await house.pay()
    assert (await stream.read()).event.type == "smartpay.payment.processing.v1"
    stream.cancel()


async def test_a_watcher_hears_of_a_commit_made_between_reading_and_waiting(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_HEARTBEAT_SECONDS", 3600)
    read = house.story.payments.log_after

    async def read_then_commit(position: int, limit: int) -> Any:
        found = await read(position, limit)
        house.story.payments.log_after = read
        await house.story.create()
        return found

    house.story.payments.log_after = read_then_commit
    stream = house.watch()
    assert (await stream.read()).caught_up
    assert (await stream.read()).event.sequence == 1
    stream.cancel()


async def test_watchers_who_wait_for_the_same_commit_share_one_read(house: Any) -> None:
    await house.story.create()
    read, reads = house.story.payments.log_after, []

    async def counted(position: int, limit: int) -> Any:
        reads.append(position)
        return await read(position, limit)

    house.story.payments.log_after = counted
    committed = house.story.payments.next_commit()
    first, second = await asyncio.gather(
        house.servicer.streams.steps_after(0, committed),
        house.servicer.streams.steps_after(0, committed),
    )
    assert first is second
    assert reads == [0]
    later, _ = await asyncio.gather(
        house.servicer.streams.steps_after(0, asyncio.Event()),
        house.servicer.streams.steps_after(0, committed),
    )
    assert later == first, "who waits for another commit reads anew, and sees the same"
    assert reads == [0, 0, 0]


async def test_a_cursor_before_the_kept_events_is_out_of_range(house: Any) -> None:
    await house.pay("old")
    first = (await house.log())[0]
    house.story.clock.advance(days=31)
    await house.pay("new")
    await house.story.payments.forget_events(house.story.clock() - timedelta(days=30))
    refused = await house.refused(house.watch(first.cursor).read())
    assert (refused["code"], refused["reason"]) == ("OUT_OF_RANGE", "CURSOR_EXPIRED")
    kept = [s.event.sequence for s in await house.log() if s.HasField("event")]
    assert kept == [1, 2], "an empty cursor starts at the oldest event that is kept"


async def test_a_cursor_of_a_log_that_is_gone_is_out_of_range(house: Any) -> None:
    refused = await house.refused(house.watch(watch._cursor_of(7)).read())
    assert refused["reason"] == "CURSOR_EXPIRED"


@pytest.mark.parametrize("cursor", ["garbage!", "AAAA", "é", "MSAwIC01", "MSAwIHg=", "MSAwIA=="])
async def test_a_cursor_of_one_s_own_making_is_refused(house: Any, cursor: str) -> None:
    refused = await house.refused(house.watch(cursor).read())
    assert (refused["code"], refused["reason"], refused["field"]) == (
        "INVALID_ARGUMENT",
        "CURSOR_INVALID",
        "cursor",
    )


async def test_too_many_watchers_are_refused_and_a_place_comes_free(house: Any) -> None:
    first, second = house.watch(), house.watch()
    assert (await first.read()).caught_up
    assert (await second.read()).caught_up
    refused = await house.refused(house.watch().read())
    assert refused["code"] == "RESOURCE_EXHAUSTED"
    first.cancel()
    await until(lambda: house.servicer.streams._watchers_free == 1)
    third = house.watch()
    assert (await third.read()).caught_up
    second.cancel()
    third.cancel()


async def test_only_services_may_watch(house: Any) -> None:
    stream = house.stub.Watch(payments_pb2.WatchRequest(), metadata=as_merchant())
    assert (await house.refused(stream.read()))["code"] == "PERMISSION_DENIED"
