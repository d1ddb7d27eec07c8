"""One unit of work, four inserts as a payment's first commit, by the ways SQLite can commit it."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from functools import partial
from pathlib import Path

from smartpay_chassis.sqlite import SqliteStore

CALLERS = 64
DOCUMENT = b"x" * 1200
"""As large as a stored payment."""
TABLES = """
CREATE TABLE payment (id TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE claim (id TEXT PRIMARY KEY, hash TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (position INTEGER PRIMARY KEY AUTOINCREMENT, document BLOB NOT NULL);
CREATE TABLE ledger (id TEXT, account TEXT, minor INTEGER, PRIMARY KEY (id, account))
WITHOUT ROWID;
"""


def unit_of(number: int, connection: sqlite3.Connection) -> None:
    """Writes one payment: the same rows on every engine."""
    name = f"pay_{number:020d}"
    connection.execute("INSERT INTO payment VALUES (?, ?)", (name, DOCUMENT))
    connection.execute("INSERT INTO claim VALUES (?, ?)", (name, "hash"))
    connection.execute("INSERT INTO event (document) VALUES (?)", (DOCUMENT,))
    connection.execute("INSERT INTO ledger VALUES (?, ?, ?)", (name, "merchant", -1999))


async def group_commit_rate(path: Path, seconds: float) -> float:
    """Answers units a second of our store with CALLERS writing, each answered after its fsync."""
    store = await SqliteStore.open(path, [TABLES])
    numbers = itertools.count()
    done = 0
    ends = time.monotonic() + seconds

    async def caller() -> None:
        nonlocal done
        while time.monotonic() < ends:
            number = next(numbers)
            await store.write(partial(unit_of, number))
            done += 1

    started = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    took = time.monotonic() - started
    await store.close()
    return done / took


def single_commit_rate(path: Path, seconds: float) -> float:
    """Answers units a second with one transaction and one fsync each, as tutorials write it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.executescript(TABLES)
    started = time.monotonic()
    done = 0
    while time.monotonic() - started < seconds:
        connection.execute("BEGIN IMMEDIATE")
        unit_of(done, connection)
        connection.execute("COMMIT")
        done += 1
    took = time.monotonic() - started
    connection.close()
    return done / took
