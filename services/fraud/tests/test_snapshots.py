"""The memory is written down by another process, while this one goes on scoring."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartpay_fraud import snapshots
from smartpay_fraud.adapters.memory_file import MemoryFile
from smartpay_fraud.adapters.redis_log import RedisLog
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.domain.features import FeatureStore
from smartpay_fraud.domain.replicated_memory import ReplicatedMemory
from smartpay_fraud.domain.scoring import Place, Scoring
from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.snapshots import taken_apart
from smartpay_sandbox.redis_server import RedisServer, programs

NOON = 1_767_268_800_000


def paying(number: int) -> Transaction:
    return Transaction("mer", False, f"t{number}", 5_000, "USD", "customer", "card", "device")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the service would keep its history."""
    for name in ("LISTEN_SOCKET", "EGRESS_SOCKET", "MERCHANTS_FILE"):
        monkeypatch.setenv(f"SMARTPAY_{name}", str(tmp_path / name))
    monkeypatch.setenv("FRAUD_STORE_PATH", str(tmp_path / "fraud.db"))
    return tmp_path / "fraud.db"


async def test_what_was_stored_since_the_last_snapshot_is_in_the_next(
    store: Path, make_scoring: Callable[..., Scoring]
) -> None:
    history = await SqliteHistory.open(store)
    kept = MemoryFile.beside(store)
    kept.save(FeatureStore().dump(), Place())
    scoring = make_scoring(history)
    for number in range(7):
        await scoring.score(paying(number), NOON + number)
    assert await taken_apart()
    found, place = kept.load()
    assert place == Place(7, 0)
    assert found.populations["customer"].events == 7
    assert {file.name for file in store.parent.glob("*.memory*")} == {"fraud.memory"}
    await history.close()


async def test_without_a_snapshot_before_it_the_service_is_told_to_take_its_own(
    store: Path,
) -> None:
    await (await SqliteHistory.open(store)).close()
    assert not await taken_apart()
    assert not MemoryFile.beside(store).read()


@pytest.fixture(params=programs())
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path, programs()[request.param])
    server.start()
    yield server
    server.kill()


async def test_a_snapshot_of_the_shared_memory_comes_out_of_the_log_alone(
    store: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_MEMORY_URL", server.url)
    monkeypatch.setenv("FRAUD_MEMORY_TIMEOUT_SECONDS", "10")
    shared = RedisLog(server.url, timeout_seconds=10)
    replica = ReplicatedMemory(shared)
    await replica.open()
    for part in (1, 2):
        await replica.observe([(paying(part * 10 + n), NOON + n) for n in range(5)])
        assert await taken_apart()
        snapshot = await shared.load()
        assert snapshot is not None
        assert snapshot.position == replica.position
        assert FeatureStore.load(snapshot.data).populations["customer"].events == part * 5
    await asyncio.to_thread(server.kill)
    assert not await taken_apart()
    await shared.close()


async def test_a_service_that_stops_takes_its_snapshots_process_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def long_lasting(*_: object, **options: int) -> subprocess.Popen[bytes]:
        started.append(start(["sleep", "600"], **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(snapshots.subprocess, "Popen", long_lasting)  # type: ignore[attr-defined]
    waiting = asyncio.create_task(taken_apart())
    async with asyncio.timeout(30):
        while not started:
            await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert started[0].poll() is not None
