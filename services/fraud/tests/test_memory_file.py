"""A restart goes on from the snapshot, and a bad snapshot costs time and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from smartpay_fraud.adapters.memory_file import MemoryFile, renew
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.adapters.sqlite_tail import SqliteTail
from smartpay_fraud.adapters.sqlite_traces import customer_key
from smartpay_fraud.domain.assessment import Claim, Finding
from smartpay_fraud.domain.features import FEATURE_INDEX, FeatureStore
from smartpay_fraud.domain.gate import Gate
from smartpay_fraud.domain.memory import LocalMemory
from smartpay_fraud.domain.scoring import Place, Scoring
from smartpay_fraud.domain.transaction import Transaction

NOON = 1_767_268_800_000


def paying(number: int) -> Transaction:
    return Transaction("mer", False, f"t{number}", 5_000, "USD", "customer", "card", "device")


def store_of(scoring: Scoring) -> LocalMemory:
    memory = scoring._memory
    assert isinstance(memory, LocalMemory)
    return memory


async def test_a_snapshot_and_what_came_after_equal_the_memory_that_was_lost(
    make_scoring: Callable[..., Scoring], history: object, tmp_path: Path
) -> None:
    first = make_scoring(history)
    kept = MemoryFile(tmp_path / "fraud.memory")
    for number in range(20):
        await first.score(paying(number), NOON + number)
    await first.label(paying(3).key, "word", Finding.FRAUD, NOON, NOON + 30)
    await first.standing_still(lambda place: kept.save(store_of(first).dump(), place))
    for number in range(20, 30):
        await first.score(paying(number), NOON + number)
    await first.learn([Claim(paying(5).key, "no", Finding.DECLINED, NOON + 40, NOON + 40)], None)

    store, after = kept.load()
    assert after == Place(20, 1)
    second = make_scoring(history)
    store_of(second).replace(store)
    assert await second.remember(0, 1_000, after) == 11
    for scoring in (first, second):
        seen = store_of(scoring).glance(paying(99), NOON + 50).view.row
        assert seen[FEATURE_INDEX["card_count_1h"]] == 30
    np.testing.assert_array_equal(
        store_of(first).glance(paying(99), NOON + 50).view.row,
        store_of(second).glance(paying(99), NOON + 50).view.row,
    )


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[SqliteHistory]:
    history = await SqliteHistory.open(tmp_path / "fraud.db")
    yield history
    await history.close()


async def test_a_snapshot_made_beside_the_service_equals_the_one_it_would_have_made(
    make_scoring: Callable[..., Scoring], stored: SqliteHistory, tmp_path: Path
) -> None:
    scoring = make_scoring(stored)
    kept, own = MemoryFile(tmp_path / "apart.memory"), MemoryFile(tmp_path / "own.memory")
    await scoring.standing_still(lambda place: kept.save(store_of(scoring).dump(), place))
    tail = SqliteTail(tmp_path / "fraud.db")
    for begin in (0, 40):  # the second goes on where the first ended
        for number in range(begin, begin + 40):
            await scoring.score(paying(number), NOON + number)
        claims = [
            Claim(paying(begin + 5).key, "no", Finding.DECLINED, NOON + 50, NOON + 50),
            Claim(paying(begin + 6).key, "word", Finding.FRAUD, NOON + 60, NOON + 60),
        ]
        await scoring.learn(claims, None)
        assert renew(kept, tail)
        await scoring.standing_still(lambda place: own.save(store_of(scoring).dump(), place))
        (apart, there), (here, end) = kept.load(), own.load()
        assert there == end
        assert apart.dump() == here.dump()
    tail.close()


async def test_a_customer_erased_after_a_snapshot_is_in_no_later_one(
    make_scoring: Callable[..., Scoring], stored: SqliteHistory, tmp_path: Path
) -> None:
    scoring = make_scoring(stored)
    kept = MemoryFile(tmp_path / "fraud.memory")
    stays = replace(paying(2), customer_id="other")
    for payment in (paying(1), stays):
        await scoring.score(payment, NOON)
    await scoring.standing_still(lambda place: kept.save(store_of(scoring).dump(), place))
    await stored.erase(customer_key("mer", False, "customer"), NOON + 1)
    # The same id again is somebody new.
    await scoring.score(paying(3), NOON + 2)
    assert b'"customer"]' in kept._path.read_bytes()
    tail = SqliteTail(tmp_path / "fraud.db")
    assert renew(kept, tail)
    tail.close()
    store, _ = kept.load()
    customers = dict(iter(store.populations["customer"]))
    assert len(customers[("mer", False, "customer")].payments) == 1
    assert len(customers[("mer", False, "other")].payments) == 1


def test_without_a_snapshot_to_go_on_from_nothing_is_made_up(tmp_path: Path) -> None:
    kept = MemoryFile(tmp_path / "fraud.memory")
    tail = SqliteTail(tmp_path / "fraud.db")
    assert not renew(kept, tail)
    tail.close()
    assert kept.read() is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: b"",
        lambda data: b'{"format": 9}\n' + data.partition(b"\n")[2],
        lambda data: b"[]\n",
        lambda data: b"\x80\x04pickle",
    ],
    ids=["cut off", "one bit", "empty", "another format", "no header", "foreign"],
)
def test_a_snapshot_that_is_not_whole_is_ignored(
    spoil: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "fraud.memory"
    kept = MemoryFile(path)
    store = FeatureStore()
    store.append(paying(0), NOON)
    kept.save(store.dump(), Place(1, 0))
    assert kept.load()[1] == Place(1, 0)
    path.write_bytes(spoil(path.read_bytes()))
    assert kept.load()[1] == Place()


async def test_a_closed_gate_waits_for_those_at_work_and_holds_the_next() -> None:
    gate, steps = Gate(), []
    leave = asyncio.Event()

    async def work(name: str, until: asyncio.Event | None = None) -> None:
        async with gate.work():
            steps.append(f"{name} in")
            if until is not None:
                await until.wait()
            steps.append(f"{name} out")

    async def look() -> None:
        async with gate.closed():
            steps.append("look")

    async with asyncio.TaskGroup() as group:
        group.create_task(work("first", leave))
        await asyncio.sleep(0)
        group.create_task(look())
        await asyncio.sleep(0)
        group.create_task(work("second"))
        await asyncio.sleep(0)
        leave.set()
    assert steps == ["first in", "first out", "look", "second in", "second out"]
