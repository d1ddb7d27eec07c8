"""Replicas share one order: whatever the log, each payment counts once and everywhere."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_fraud.adapters.redis_log import RedisLog
from smartpay_fraud.domain.assessment import Finding, Happening
from smartpay_fraud.domain.features import FEATURE_INDEX, HOUR_MS, FeatureStore
from smartpay_fraud.domain.memory import LocalMemory, Memory, Sighting
from smartpay_fraud.domain.replicated_memory import (
    START,
    Entry,
    LogUnavailableError,
    Page,
    Position,
    ReplicatedMemory,
    SharedLog,
    Snapshot,
)
from smartpay_fraud.domain.transaction import Transaction
from smartpay_sandbox.redis_server import RedisServer, programs

NOON = 1_767_268_800_000
PAYMENT = Transaction(
    merchant_id="mer",
    livemode=False,
    transaction_id="t0",
    amount_minor=5_000,
    currency_code="USD",
    customer_id="customer",
    instrument_id="card",
    device_id="device",
    ip_address="203.0.113.7",
)


class LogInMemory:
    """A log that loses answers, data or its end when told to."""

    def __init__(self) -> None:
        self.epoch = "first"
        self.entries: list[tuple[Position, bytes]] = []
        self.names: set[str] = set()
        self.trimmed = START
        self.kept: Snapshot | None = None
        self.away = False
        self.loses_answers = False
        self.page_max = 3
        self._time_ms = 0

    async def append(self, entries: Sequence[Entry], after: Position) -> Page:
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailableError("away")
        own: list[Position | None] = []
        for entry in entries:
            if entry.name in self.names:
                own.append(None)
                continue
            self.names.add(entry.name)
            self._time_ms += 1
            position = Position(self._time_ms, 0)
            self.entries.append((position, entry.body))
            own.append(position)
        if self.loses_answers:
            raise LogUnavailableError("answer lost")
        found = [(p, body) for p, body in self.entries if p > after]
        page = found[: self.page_max]
        return Page(self.epoch, self.trimmed, page, own, len(page) == len(found))

    async def read(self, after: Position) -> Page:
        return await self.append([], after)

    async def wait(self, after: Position) -> None:
        await asyncio.sleep(0)

    async def lease(self) -> bool:
        return True

    async def save(self, snapshot: Snapshot) -> None:
        if self.kept is not None:
            self.trimmed = self.kept.position
            self.entries = [each for each in self.entries if each[0] > self.trimmed]
        self.kept = snapshot

    async def load(self) -> Snapshot | None:
        return self.kept


@pytest.fixture(params=programs())
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, programs()[request.param])
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["in memory", *programs()])
async def make_log(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[[], SharedLog]]:
    """Each call is another replica's connection to the same log."""
    if request.param == "in memory":
        shared = LogInMemory()
        yield lambda: shared
        return
    server = RedisServer(tmp_path, programs()[request.param])
    await asyncio.to_thread(server.start)
    opened: list[RedisLog] = []

    def connect() -> SharedLog:
        opened.append(RedisLog(server.url, timeout_seconds=5))
        return opened[-1]

    yield connect
    for each in opened:
        await each.close()
    server.kill()


@pytest.fixture(params=["local", "replicated"])
def make_memory(
    request: pytest.FixtureRequest,
) -> Callable[[], Awaitable[Memory]]:
    async def make() -> Memory:
        if request.param == "local":
            return LocalMemory(FeatureStore())
        return await a_replica(LogInMemory())

    return make


async def a_replica(log: SharedLog) -> ReplicatedMemory:
    memory = ReplicatedMemory(log)
    await memory.open()
    return memory


def paying(number: int, **changes: Any) -> Transaction:
    return replace(PAYMENT, transaction_id=f"t{number}", **changes)


def count_of(sighting: Sighting) -> float:
    return float(sighting.view.row[FEATURE_INDEX["card_count_1h"]])


# -- what every memory promises


async def test_a_payment_sees_those_before_it_and_not_itself(
    make_memory: Callable[[], Awaitable[Memory]],
) -> None:
    memory = await make_memory()
    seen = await memory.observe([(paying(n), NOON + n) for n in range(5)])
    assert [count_of(each) for each in seen] == [0, 1, 2, 3, 4]


async def test_a_repeat_before_it_is_settled_gets_the_first_sighting(
    make_memory: Callable[[], Awaitable[Memory]],
) -> None:
    memory = await make_memory()
    (first,) = await memory.observe([(PAYMENT, NOON)])
    (again,) = await memory.observe([(PAYMENT, NOON + 9)])
    assert again.at_ms == first.at_ms
    np.testing.assert_array_equal(again.view.row, first.view.row)
    (other,) = await memory.observe([(paying(1), NOON + 10)])
    assert count_of(other) == 1


async def test_what_is_learned_counts_for_the_next_payment(
    make_memory: Callable[[], Awaitable[Memory]],
) -> None:
    memory = await make_memory()
    await memory.observe([(PAYMENT, NOON)])
    await memory.learn(
        [
            Happening(PAYMENT, NOON + 1, Finding.DECLINED),
            Happening(PAYMENT, NOON + 2, Finding.FRAUD),
        ]
    )
    (seen,) = await memory.observe([(paying(1), NOON + 3)])
    assert seen.view.row[FEATURE_INDEX["card_declines_24h"]] == 1
    assert seen.view.row[FEATURE_INDEX["card_known_frauds"]] == 1


async def test_a_forgotten_customer_is_new_again(
    make_memory: Callable[[], Awaitable[Memory]],
) -> None:
    memory = await make_memory()
    await memory.observe([(PAYMENT, NOON)])
    await memory.forget("mer", False, "customer")
    (seen,) = await memory.observe([(paying(1), NOON + 3)])
    assert seen.view.row[FEATURE_INDEX["customer_count_24h"]] == 0


# -- what replicas promise each other, on each log


async def test_a_payment_at_one_replica_is_in_the_next_view_of_another(
    make_log: Callable[[], SharedLog],
) -> None:
    left, right = await a_replica(make_log()), await a_replica(make_log())
    await left.observe([(paying(0), NOON)])
    (seen,) = await right.observe([(paying(1), NOON + 1)])
    assert count_of(seen) == 1


async def test_replicas_that_race_for_one_payment_count_it_once(
    make_log: Callable[[], SharedLog],
) -> None:
    replicas = [await a_replica(make_log()) for _ in range(4)]
    answers = await asyncio.gather(*(each.observe([(PAYMENT, NOON)]) for each in replicas * 4))
    assert {count_of(seen) for (seen,) in answers} == {0}
    for number, replica in enumerate(replicas, start=1):
        (seen,) = await replica.observe([(paying(number), NOON + number)])
        assert count_of(seen) == number


async def test_any_interleaving_of_three_replicas_gives_the_features_of_one(
    make_log: Callable[[], SharedLog],
) -> None:
    seed = 20_260_101
    draw = random.Random(seed)
    replicas = [await a_replica(make_log()) for _ in range(3)]
    alone = LocalMemory(FeatureStore())
    known: list[Transaction] = []
    for number in range(150):
        now = NOON + number * 60_000
        replica = draw.choice(replicas)
        if known and draw.random() < 0.3:
            finding = draw.choice((Finding.DECLINED, Finding.FRAUD, Finding.BLOCKED))
            news = [Happening(draw.choice(known), now, finding)]
            await replica.learn(news)
            await alone.learn(news)
            continue
        visits = [
            (
                paying(
                    number * 10 + part,
                    customer_id=draw.choice("abc"),
                    instrument_id=draw.choice("vwx"),
                    device_id=draw.choice(("", "p", "q")),
                ),
                now,
            )
            for part in range(draw.randrange(1, 5))
        ]
        known += [transaction for transaction, _ in visits]
        for shared, own in zip(
            await replica.observe(visits), await alone.observe(visits), strict=True
        ):
            np.testing.assert_array_equal(shared.view.row, own.view.row, f"seed {seed}")


@pytest.mark.parametrize("snapshots", [1, 3], ids=["nothing trimmed yet", "trimmed"])
async def test_a_newcomer_knows_all_from_the_snapshot_and_what_came_after(
    make_log: Callable[[], SharedLog], snapshots: int
) -> None:
    log = make_log()
    veteran = await a_replica(log)
    for part in range(snapshots):
        await veteran.observe([(paying(part * 10 + n), NOON + n) for n in range(10)])
        await veteran.snapshot()
    await veteran.observe([(paying(99), NOON + 99)])
    newcomer = await a_replica(make_log())
    (seen,) = await newcomer.observe([(paying(100), NOON + 100)])
    assert count_of(seen) == snapshots * 10 + 1
    assert newcomer.position > veteran.position


async def test_a_replica_left_behind_the_trimmed_log_goes_on_from_the_snapshot(
    make_log: Callable[[], SharedLog],
) -> None:
    veteran, sleeper = await a_replica(make_log()), await a_replica(make_log())
    for part in range(4):
        await veteran.observe([(paying(part * 10 + n), NOON + n) for n in range(10)])
        await veteran.snapshot()
    (seen,) = await sleeper.observe([(paying(100), NOON + 100)])
    assert count_of(seen) == 40


async def test_findings_wait_while_the_log_is_away_and_count_once_after() -> None:
    log = LogInMemory()
    memory, other = await a_replica(log), await a_replica(log)
    await memory.observe([(PAYMENT, NOON)])
    log.away = True
    await memory.learn([Happening(PAYMENT, NOON + 1, Finding.DECLINED)])
    log.away = False
    log.loses_answers = True
    await memory.learn([])
    log.loses_answers = False
    await memory.learn([])
    for replica, number in ((memory, 1), (other, 2)):
        (seen,) = await replica.observe([(paying(number), NOON + number)])
        assert seen.view.row[FEATURE_INDEX["card_declines_24h"]] == 1


async def test_an_append_without_answer_counts_once_and_its_repeat_gets_the_first_view() -> None:
    log = LogInMemory()
    memory = await a_replica(log)
    log.loses_answers = True
    with pytest.raises(Refusal, match="does not answer"):
        await memory.observe([(PAYMENT, NOON)])
    log.loses_answers = False
    (other,) = await memory.observe([(paying(1), NOON + 1)])
    (seen,) = await memory.observe([(PAYMENT, NOON + 2)])
    assert (count_of(seen), seen.at_ms) == (0, NOON)
    assert count_of(other) == 1


async def test_a_log_that_lost_its_data_counts_nothing_twice() -> None:
    log = LogInMemory()
    left, right = await a_replica(log), await a_replica(log)
    await right.observe([(paying(1), NOON)])
    await left.observe([(PAYMENT, NOON + 1)])
    log.entries.clear()
    log.names.clear()
    log.epoch = "second"
    # The caller never heard the answer and asks again, at the other replica.
    await right.observe([(PAYMENT, NOON)])
    for replica, number in ((left, 2), (right, 3)):
        (seen,) = await replica.observe([(paying(number), NOON + number)])
        assert count_of(seen) == number


async def test_a_log_that_lost_its_end_is_read_again_without_counting_twice() -> None:
    log = LogInMemory()
    left, right = await a_replica(log), await a_replica(log)
    await left.observe([(paying(n), NOON + n) for n in range(4)])
    await right.observe([(paying(4), NOON + 4)])
    del log.entries[-2:]
    log._time_ms -= 2
    (seen,) = await right.observe([(paying(5), NOON + 5)])
    assert count_of(seen) == 5


# -- a real server that is killed


async def test_redis_killed_under_load_and_back_counts_nothing_twice(server: RedisServer) -> None:
    logs = [RedisLog(server.url, timeout_seconds=1) for _ in range(2)]
    replicas = [await a_replica(log) for log in logs]
    failed = 0
    reasons: set[str] = set()

    async def pay(number: int) -> None:
        nonlocal failed
        for attempt in range(400):
            try:
                await replicas[(number + attempt) % 2].observe([(paying(number), NOON + number)])
                return
            except Refusal as refusal:
                reasons.add(refusal.reason)
                failed += 1
                await asyncio.sleep(0.05)
        raise AssertionError("the server never came back")

    async def load() -> None:
        for start in range(0, 200, 8):
            await asyncio.gather(*(pay(start + part) for part in range(8)))

    task = asyncio.create_task(load())
    while replicas[0].position == START:
        await asyncio.sleep(0)
    server.kill()
    await asyncio.sleep(0.2)
    await asyncio.to_thread(server.start)
    await task
    assert failed > 0
    assert reasons == {"MEMORY_UNAVAILABLE"}
    for number, replica in enumerate(replicas, start=200):
        (seen,) = await replica.observe([(paying(number), NOON + HOUR_MS // 2)])
        assert count_of(seen) == number
    for log in logs:
        await log.close()


async def test_redis_back_without_its_data_gets_it_from_those_who_know(
    server: RedisServer,
) -> None:
    log = RedisLog(server.url, timeout_seconds=1)
    veteran = await a_replica(log)
    await veteran.observe([(paying(n), NOON + n) for n in range(20)])
    server.kill()
    await asyncio.to_thread(lambda: server.start(keeps_data=False))
    keeping = asyncio.create_task(veteran.keep_up(retry_seconds=0.05))
    while await log.load() is None:
        await asyncio.sleep(0.05)
    keeping.cancel()
    other = RedisLog(server.url, timeout_seconds=1)
    newcomer = await a_replica(other)
    (seen,) = await newcomer.observe([(paying(20), NOON + 20)])
    assert count_of(seen) == 20
    await log.close()
    await other.close()
