"""A restart goes on from the snapshot, and a bad snapshot costs time and nothing else."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from smartpay_fraud.adapters.memory_file import MemoryFile
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
