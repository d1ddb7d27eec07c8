import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.payments.v1 import merchants_pb2, payment_pb2, payments_pb2
from smartpay.payments.v1.payments_pb2_grpc import (
    PaymentsServiceServicer,
    PaymentsServiceStub,
    add_PaymentsServiceServicer_to_server,
)
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import DEMO_MERCHANT, FakeClock
from smartpay_rewards.adapters.payment_events import GrpcPayments, PaymentEvents
from smartpay_rewards.adapters.sqlite_rewards import SqliteRewards
from smartpay_rewards.domain.issuance import RewardKey, Rules, State
from smartpay_rewards.domain.reward import Mark
from smartpay_rewards.testing import START, WALLET, payment_id, terms

Status = payment_pb2.Payment


def at(seconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(START + timedelta(seconds=seconds))
    return stamp


def a_payment(number: int = 1, **changes: Any) -> payment_pb2.Payment:
    fields: dict[str, Any] = {
        "payment_id": payment_id(number),
        "merchant_id": DEMO_MERCHANT.merchant_id,
        "status": Status.STATUS_SUCCEEDED,
        "captured_amount": Money(minor_units=10_000, currency_code="USD"),
        "capture_method": payment_pb2.CAPTURE_METHOD_AUTOMATIC,
        "attempts": [
            payment_pb2.Attempt(status=payment_pb2.Attempt.STATUS_DECLINED, end_time=at(1)),
            payment_pb2.Attempt(status=payment_pb2.Attempt.STATUS_SUCCEEDED, end_time=at(2)),
        ],
        "update_time": at(9),
    }
    return payment_pb2.Payment(**(fields | changes))


def a_step(
    number: int = 1,
    *,
    sequence: int = 2,
    cursor: str = "c",
    mark: payment_pb2.RewardMark.ValueType = payment_pb2.REWARD_MARK_RECEIPT,
    **changes: Any,
) -> payments_pb2.WatchResponse:
    payment = a_payment(number, **changes)
    event = payment_pb2.PaymentEvent(
        subject=payment.payment_id,
        time=at(5),
        sequence=sequence,
        merchant_id=payment.merchant_id,
        livemode=payment.livemode,
        payment=payment,
        reward_mark=mark,
    )
    return payments_pb2.WatchResponse(event=event, cursor=cursor)


def key(number: int = 1) -> RewardKey:
    return RewardKey(DEMO_MERCHANT.merchant_id, livemode=False, payment_id=payment_id(number))


class World:
    """A store, and what follows a payments service that is never called here."""

    def __init__(self, store: SqliteRewards, stub: Any = None) -> None:
        self.store = store
        self.woken = 0
        rules = Rules(terms(), WALLET, lambda wallet: True)
        self.events = PaymentEvents(stub, store, rules, FakeClock(START), self._wake)

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
async def world(tmp_path: Path) -> Any:
    store = await SqliteRewards.open(tmp_path / "rewards.sqlite")
    yield World(store)
    await store.close()


async def test_a_captured_payment_becomes_a_reward_with_the_cursor(world: World) -> None:
    await world.events.apply(a_step(cursor="c7"))
    reward = await world.store.get(key())
    assert reward is not None
    assert (reward.state, reward.token_base_units) == (State.NEW, 2_000_000)
    assert reward.payment.mark is Mark.RECEIPT
    assert reward.payment.settle_time == START + timedelta(seconds=2)
    assert await world.store.cursor() == "c7"
    assert world.woken == 1


@pytest.mark.parametrize("seconds", [0, 86_400])
async def test_a_reward_waits_as_long_as_its_merchant_has_it_and_a_restart_knows(
    world: World, seconds: int
) -> None:
    step = a_step()
    step.event.reward_vesting_seconds = seconds
    await world.events.apply(step)
    reward = await world.store.get(key())
    assert reward is not None
    assert reward.payment.vesting == timedelta(seconds=seconds)
    assert reward.look_time == max(START, START + timedelta(seconds=2 + seconds))


async def test_a_change_of_a_merchant_s_settings_moves_nothing_but_the_cursor(
    world: World,
) -> None:
    change = merchants_pb2.MerchantEvent(merchant_id=DEMO_MERCHANT.merchant_id, sequence=1)
    await world.events.apply(payments_pb2.WatchResponse(merchant_event=change))
    await world.events.apply(payments_pb2.WatchResponse(merchant_event=change, cursor="c1"))
    await world.events.apply(payments_pb2.WatchResponse(cursor="c1", caught_up=True))
    assert await world.store.get(key()) is None
    assert await world.store.cursor() == "c1"


async def test_the_same_events_again_change_nothing(world: World) -> None:
    steps = [a_step(1, sequence=2), a_step(2, sequence=2), a_step(1, sequence=3)]
    for step in steps:
        await world.events.apply(step)
    before = [await world.store.get(key(number)) for number in (1, 2)]
    for step in steps:
        await world.events.apply(step)
    assert [await world.store.get(key(number)) for number in (1, 2)] == before


async def test_what_is_not_captured_or_carries_no_mark_earns_nothing(world: World) -> None:
    await world.events.apply(a_step(1, status=Status.STATUS_FAILED))
    await world.events.apply(a_step(2, status=Status.STATUS_REQUIRES_CAPTURE))
    await world.events.apply(a_step(3, captured_amount=Money(currency_code="USD")))
    await world.events.apply(a_step(4, mark=payment_pb2.REWARD_MARK_UNSPECIFIED))
    assert [await world.store.get(key(number)) for number in (1, 2, 3, 4)] == [None] * 4
    assert world.woken == 0
    await world.events.apply(payments_pb2.WatchResponse(cursor="end", caught_up=True))
    assert await world.store.cursor() == "end"


async def test_refunds_are_told_except_failed_ones_and_those_of_overpayments(
    world: World,
) -> None:
    asked, too_much = (
        payment_pb2.Refund.REASON_REQUESTED_BY_CUSTOMER,
        payment_pb2.Refund.REASON_OVERPAYMENT,
    )
    refunds = [
        payment_pb2.Refund(
            amount=Money(minor_units=units, currency_code="USD"),
            status=status,
            reason=reason,
            create_time=at(3),
        )
        for units, status, reason in (
            (100, payment_pb2.Refund.STATUS_SUCCEEDED, asked),
            (200, payment_pb2.Refund.STATUS_FAILED, asked),
            (400, payment_pb2.Refund.STATUS_UNKNOWN, asked),
            (800, payment_pb2.Refund.STATUS_SUCCEEDED, too_much),
        )
    ]
    await world.events.apply(a_step(refunds=refunds))
    reward = await world.store.get(key())
    assert reward is not None
    assert [each.minor_units for each in reward.payment.refunds] == [100, 400]


async def test_a_manual_capture_settles_when_its_event_says(world: World) -> None:
    await world.events.apply(a_step(capture_method=payment_pb2.CAPTURE_METHOD_MANUAL))
    reward = await world.store.get(key())
    assert reward is not None
    assert reward.payment.settle_time == START + timedelta(seconds=5)


class Payments(PaymentsServiceServicer):
    """A payments service with a log, which forgets its oldest events when told."""

    def __init__(self, log: list[payments_pb2.WatchResponse]) -> None:
        self.log = log
        self.asked: list[str] = []
        self.known = {payment_id(1): a_payment(1)}

    async def Watch(self, request: Any, context: Any) -> Any:
        self.asked.append(request.cursor)
        if request.cursor == "expired":
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too old")
        for step in self.log[int(request.cursor or 0) :]:
            yield step

    async def GetPayment(self, request: Any, context: Any) -> Any:
        payment = self.known.get(request.payment_id)
        if payment is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "none")
        return payments_pb2.GetPaymentResponse(payment=payment)


@pytest.fixture
async def payments(tmp_path: Path) -> Any:
    """Serve Payments on a Unix socket and yield it with a stub."""
    steps = [a_step(number, cursor=str(number)) for number in (1, 2, 3)]
    servicer = Payments(steps)  # type: ignore[abstract]  # the other methods are never called
    server = grpc.aio.server()
    add_PaymentsServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/p")
    await server.start()
    options = [("grpc.default_authority", "test")]
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/p", options=options) as channel:
        yield servicer, PaymentsServiceStub(channel)
    await server.stop(None)


async def followed(world: World, until: RewardKey) -> None:
    task = asyncio.create_task(world.events.follow())
    async with asyncio.timeout(10):
        while await world.store.get(until) is None:
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_log_is_followed_from_the_stored_cursor_on(payments: Any, tmp_path: Path) -> None:
    servicer, stub = payments
    store = await SqliteRewards.open(tmp_path / "rewards.sqlite")
    await store.save_cursor("1")
    await followed(World(store, stub), key(3))
    assert servicer.asked[0] == "1"
    assert await store.get(key(1)) is None
    assert await store.cursor() == "3"
    await store.close()


async def test_an_expired_cursor_starts_again_from_the_oldest_event(
    payments: Any, tmp_path: Path
) -> None:
    servicer, stub = payments
    store = await SqliteRewards.open(tmp_path / "rewards.sqlite")
    await store.save_cursor("expired")
    await followed(World(store, stub), key(3))
    assert servicer.asked[:2] == ["expired", ""]
    assert await store.get(key(1)) is not None
    await store.close()


async def test_a_payment_is_looked_up_with_the_same_facts_but_no_mark(payments: Any) -> None:
    _, stub = payments
    settled = await GrpcPayments(stub, 5).settled(key(1), "request-1")
    assert (settled.captured_minor_units, settled.currency_code) == (10_000, "USD")
    assert settled.settle_time == START + timedelta(seconds=2)
    assert (settled.mark, settled.sequence) == (None, 0)


async def test_an_unknown_an_unsettled_and_an_unreachable_payment_are_refused_each_by_reason(
    payments: Any,
) -> None:
    servicer, stub = payments
    servicer.known[payment_id(2)] = a_payment(2, status=Status.STATUS_FAILED)
    lookup = GrpcPayments(stub, 5)
    with pytest.raises(Refusal) as unknown:
        await lookup.settled(key(9), "r")
    assert (unknown.value.kind, unknown.value.reason) == (Kind.NOT_FOUND, "REWARD_NOT_FOUND")
    with pytest.raises(Refusal) as unsettled:
        await lookup.settled(key(2), "r")
    assert unsettled.value.kind is Kind.FAILED_PRECONDITION
    assert unsettled.value.facts == {"status": "STATUS_FAILED"}
    options = [("grpc.default_authority", "test")]
    async with grpc.aio.insecure_channel("unix:/nowhere", options=options) as channel:
        with pytest.raises(Refusal) as away:
            await GrpcPayments(PaymentsServiceStub(channel), 5).settled(key(1), "r")
    assert away.value.kind is Kind.UNAVAILABLE
