import asyncio
import sqlite3

import pytest

from smartpay_chassis.sqlite import SqliteStore

SCHEMA = ["CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT UNIQUE)"]


def insert(text):
    def work(connection: sqlite3.Connection) -> int:
        return connection.execute("INSERT INTO note (text) VALUES (?)", (text,)).lastrowid

    return work


def count(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT count(*) FROM note").fetchone()[0]


async def test_what_was_answered_is_there_after_reopening(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    await asyncio.gather(*(store.write(insert(str(n))) for n in range(500)))
    assert await store.read(count) == 500
    await store.close()
    again = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    assert await again.read(count) == 500
    await again.close()


async def test_a_unit_that_fails_is_undone_alone(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db", SCHEMA)

    def insert_then_fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO note (text) VALUES ('half')")
        raise ValueError("no")

    results = await asyncio.gather(
        store.write(insert("a")),
        store.write(insert_then_fail),
        store.write(insert("a")),
        store.write(insert("b")),
        return_exceptions=True,
    )
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], sqlite3.IntegrityError)
    assert await store.read(count) == 2
    await store.close()


async def test_migrations_are_applied_once_and_in_order(tmp_path):
    await (await SqliteStore.open(tmp_path / "s.db", SCHEMA)).close()
    more = [*SCHEMA, "ALTER TABLE note ADD COLUMN colour TEXT"]
    for _ in range(2):
        store = await SqliteStore.open(tmp_path / "s.db", more)
        await store.write(lambda c: c.execute("INSERT INTO note (colour) VALUES ('red')"))
        await store.close()


async def test_readers_cannot_write(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await store.read(insert("x"))
    await store.close()


async def test_callers_that_go_away_do_not_stop_the_writer(tmp_path):
    store = await SqliteStore.open(tmp_path / "s.db", SCHEMA)
    for n in range(200):
        tasks = [asyncio.create_task(store.write(insert(f"{n}-{m}"))) for m in range(3)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await store.write(insert("after"))
    texts = await store.read(lambda c: [r["text"] for r in c.execute("SELECT text FROM note")])
    assert "after" in texts
    await store.close()
