"""The embedded store: what it answered stays, what failed is gone, and many share one commit."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from smartpay_chassis import sqlite
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.sqlite import BATCH_MAX, SqliteStore

SCHEMA = ["CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT UNIQUE)"]


def insert(text: str) -> Callable[[sqlite3.Connection], int | None]:
    def work(connection: sqlite3.Connection) -> int | None:
        return connection.execute("INSERT INTO note (text) VALUES (?)", (text,)).lastrowid

    return work


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM note").fetchone()[0])


def texts(connection: sqlite3.Connection) -> set[str]:
    return {row["text"] for row in connection.execute("SELECT text FROM note")}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    yield opened
    await opened.close()


class Occupied:
    """Keeps the writer busy with one unit of work until told to go on."""

    def __init__(self, store: SqliteStore) -> None:
        self._entered = threading.Event()
        self._gate = threading.Event()
        self._store = store

    async def __aenter__(self) -> None:
        def wait(_: sqlite3.Connection) -> None:
            self._entered.set()
            self._gate.wait()

        self._unit = asyncio.create_task(self._store.write(wait))
        await asyncio.to_thread(self._entered.wait)

    async def __aexit__(self, *_: object) -> None:
        self._gate.set()
        await self._unit


async def test_what_was_answered_is_there_after_reopening(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    await asyncio.gather(*(store.write(insert(str(n))) for n in range(500)))
    assert await store.read(count) == 500
    await store.close()
    again = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    assert await again.read(count) == 500
    await again.close()


WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from smartpay_chassis.sqlite import SqliteStore

async def main(path, schema):
    store = await SqliteStore.open(path, [schema])

    async def write(text):
        await store.write(lambda c: c.execute("INSERT INTO note (text) VALUES (?)", (text,)) and 0)
        print(text, flush=True)

    for start in itertools.count(step=50):
        await asyncio.gather(*(write(str(n)) for n in range(start, start + 50)))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    answered: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path, SCHEMA[0]], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        while len(answered) < 777:
            answered.append(writer.stdout.readline())
        writer.kill()
        answered += writer.stdout.readlines()
    # The last line may be cut off.
    told = {line.strip() for line in answered if line.endswith("\n")}
    store = await SqliteStore.open(path, SCHEMA)
    kept = await store.read(texts)
    await store.write(insert("it goes on"))
    await store.close()
    assert len(told) >= 776
    assert told <= kept
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_a_unit_that_fails_is_undone_alone(store: SqliteStore) -> None:
    def insert_then_fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO note (text) VALUES ('half')")
        raise Refusal(Kind.ABORTED, "CHANGED_MIND", "No.", remedy="Ask again.")

    results = await asyncio.gather(
        store.write(insert("a")),
        store.write(insert_then_fail),
        store.write(insert("a")),
        store.write(insert("b")),
        return_exceptions=True,
    )
    assert isinstance(results[1], Refusal)
    assert isinstance(results[2], sqlite3.IntegrityError)
    assert await store.read(texts) == {"a", "b"}


async def test_a_unit_that_raises_what_no_future_takes_leaves_nobody_waiting(
    store: SqliteStore,
) -> None:
    def exhausted(_: sqlite3.Connection) -> None:
        next(iter(()))

    async with Occupied(store):
        broken = asyncio.create_task(store.write(exhausted))
        behind = asyncio.create_task(store.write(insert("behind")))
        await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await broken
    assert await behind
    assert await store.read(texts) == {"behind"}


async def test_units_that_waited_share_a_commit(store: SqliteStore) -> None:
    statements: list[str] = []
    await store.write(lambda connection: connection.set_trace_callback(statements.append))
    async with Occupied(store):
        waiting = [
            asyncio.create_task(store.write(insert(str(n)))) for n in range(2 * BATCH_MAX + 1)
        ]
        await asyncio.sleep(0)
        statements.clear()
    await asyncio.gather(*waiting)
    await store.write(lambda connection: connection.set_trace_callback(None))
    # The occupier's own commit, and three batches of at most BATCH_MAX units.
    assert statements.count("COMMIT") - 1 == 3
    assert await store.read(count) == 2 * BATCH_MAX + 1


async def test_a_full_queue_refuses_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sqlite, "QUEUE_MAX", 3)
    store = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    async with Occupied(store):
        waiting = [asyncio.create_task(store.write(insert(str(n)))) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await store.write(insert("one too many"))
    assert caught.value.kind == Kind.UNAVAILABLE
    await asyncio.gather(*waiting)
    assert await store.read(texts) == {"0", "1", "2"}
    await store.close()


async def test_migrations_are_applied_once_and_in_order(tmp_path: Path) -> None:
    await (await SqliteStore.open(tmp_path / "s.db", SCHEMA)).close()
    more = [*SCHEMA, "ALTER TABLE note ADD COLUMN colour TEXT"]
    for _ in range(2):
        store = await SqliteStore.open(tmp_path / "s.db", more)
        await store.write(lambda c: c.execute("INSERT INTO note (colour) VALUES ('red')"))
        await store.close()


async def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with pytest.raises(sqlite3.OperationalError):
        await SqliteStore.open(path, [*SCHEMA, "CREATE TABLE half (id); CREATE TABLE half (id)"])
    store = await SqliteStore.open(path, [*SCHEMA, "CREATE TABLE half (id)"])
    await store.write(lambda c: c.execute("INSERT INTO half VALUES (1)"))
    await store.close()


async def test_many_openers_of_a_new_file_apply_each_migration_once(tmp_path: Path) -> None:
    counted = [*SCHEMA, "CREATE TABLE times (n); INSERT INTO times VALUES (1)"]
    grown = [*counted, *(f"INSERT INTO times VALUES ({n}); -- and; so on" for n in range(2, 9))]
    stores = await asyncio.gather(*(SqliteStore.open(tmp_path / "s.db", grown) for _ in range(8)))
    rows = await stores[0].read(lambda c: c.execute("SELECT n FROM times").fetchall())
    assert [row["n"] for row in rows] == list(range(1, 9))
    for store in stores:
        await store.close()


async def test_a_new_file_that_somebody_writes_to_is_waited_for(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "s.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    opening = asyncio.create_task(SqliteStore.open(tmp_path / "s.db", SCHEMA))
    await asyncio.wait([opening], timeout=0.05)
    assert not opening.done()
    other.execute("ROLLBACK")
    await (await opening).close()
    other.close()


async def test_a_migration_that_does_not_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.Error):
        await SqliteStore.open(tmp_path / "s.db", [*SCHEMA, "INSERT INTO note VALUES ('open"])


async def test_readers_cannot_write(store: SqliteStore) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await store.read(insert("x"))


async def test_a_commit_survives_power_loss_as_far_as_sqlite_can_tell(store: SqliteStore) -> None:
    def pragmas(connection: sqlite3.Connection) -> tuple[str, int]:
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        return journal, synchronous

    assert await store.write(pragmas) == ("wal", 2)  # 2 is FULL


async def test_callers_that_go_away_do_not_stop_the_writer(store: SqliteStore) -> None:
    for n in range(200):
        tasks = [asyncio.create_task(store.write(insert(f"{n}-{m}"))) for m in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await store.write(insert("after"))
    assert "after" in await store.read(texts)


async def test_a_caller_that_goes_away_in_time_takes_its_unit_back(store: SqliteStore) -> None:
    async with Occupied(store):
        task = asyncio.create_task(store.write(insert("taken back")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await store.write(insert("after"))
    assert await store.read(texts) == {"after"}
