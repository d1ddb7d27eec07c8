"""The embedded store: SQLite with one writer that commits many units of work at once.

WAL with synchronous=FULL: an answered write survives kill -9 and power loss. One fsync serves
every unit that waited meanwhile, which is what makes it fast under load.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

from smartpay_chassis.refusals import Kind, Refusal

T = TypeVar("T")

BATCH_MAX = 256  # units per commit; bounds how long the first unit of a batch waits
QUEUE_MAX = 4096  # units waiting; beyond that a caller had better hear of it at once
BUSY_TIMEOUT_SECONDS = 10.0  # another process (backup, a developer's shell) may hold the lock
BUSY_PAUSE_SECONDS = 0.005
CACHE_KIB = 32 * 1024  # per connection; with SQLite's own 2 MiB a busy commit reads pages again
# 16 MiB of log: with SQLite's own 1000 pages one commit in twenty copies and syncs the log, while
# a longer one makes that pause, and opening after a crash, longer than it saves.
CHECKPOINT_PAGES = 4096
# Beside the writer the log is copied so often; what is left for the writer's own turn is little,
# so that no commit waits for 16 MiB to be copied and synced.
CHECKPOINT_PAUSE_SECONDS = 0.25


class _Unit(Generic[T]):
    __slots__ = ("future", "loop", "outcome", "work")

    def __init__(
        self, work: Callable[[sqlite3.Connection], T], loop: asyncio.AbstractEventLoop
    ) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[T] = loop.create_future()
        self.outcome: T | BaseException | None = None


class SqliteStore:
    """One database file. Open it with `await SqliteStore.open(...)`."""

    def __init__(self, path: Path, migrations: Sequence[str]) -> None:
        self._path = path
        # Without a lock in Python, for which loop and writer would keep waking each other.
        self._units: queue.SimpleQueue[_Unit[Any] | None] = queue.SimpleQueue()
        self._writing = self._connect()
        self._migrate(migrations)
        self._reading = self._connect()
        self._reading.execute("PRAGMA query_only=ON")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="sqlite-reader")
        self._writer = threading.Thread(
            target=self._write_for_ever, name="sqlite-writer", daemon=True
        )
        self._written = threading.Event()
        self._closing = threading.Event()
        self._checkpointing = self._connect()
        self._checkpointer = threading.Thread(
            target=self._checkpoint_for_ever, name="sqlite-checkpointer", daemon=True
        )
        self._writer.start()
        self._checkpointer.start()

    @classmethod
    async def open(cls, path: Path, migrations: Sequence[str]) -> SqliteStore:
        """Opens or creates the file and brings its schema up to the last migration.

        Args:
            path: the database file; its folder must exist.
            migrations: SQL scripts in order; the database remembers how many it has had, so
                scripts are only ever added at the end.
        """
        return await asyncio.to_thread(cls, path, migrations)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_SECONDS,
        )
        connection.row_factory = sqlite3.Row
        try:
            _write_ahead(connection)
        except sqlite3.Error:
            connection.close()
            raise
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        # What a savepoint undoes is never needed after a crash; a file for it costs more writes
        # than the commits themselves.
        connection.execute("PRAGMA temp_store=MEMORY")
        return connection

    def _migrate(self, migrations: Sequence[str]) -> None:
        applied = self._applied()
        try:
            for number, script in enumerate(migrations[applied:], start=applied + 1):
                # Several processes may open a new file at once: who has the lock looks again.
                self._writing.execute("BEGIN IMMEDIATE")
                if self._applied() < number:
                    for statement in _statements(script):
                        self._writing.execute(statement)
                    self._writing.execute(f"PRAGMA user_version={number}")
                self._writing.execute("COMMIT")
        except sqlite3.Error:
            # Or its half of a transaction would lock the file for the next opener.
            self._writing.close()
            raise

    def _applied(self) -> int:
        """Answers how many migrations the file has had."""
        (number,) = self._writing.execute("PRAGMA user_version").fetchone()
        return int(number)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs one unit of work in a transaction and answers once it is durable.

        The unit is a savepoint of a shared commit: when it raises, it alone is undone and the
        caller gets its exception. It runs in the writer's thread, once, and must not wait for
        anything. A caller that goes away before the unit's turn takes it back; later it stands.

        Raises:
            Refusal: UNAVAILABLE when too many units wait.
        """
        if self._units.qsize() >= QUEUE_MAX:
            raise Refusal(
                Kind.UNAVAILABLE,
                "UNAVAILABLE",
                "The store has too much to write.",
                remedy="Wait a moment and repeat the call with the same idempotency key.",
            )
        unit = _Unit(work, asyncio.get_running_loop())
        self._units.put(unit)
        return await unit.future

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a query on the reading connection; sees every write that was answered before."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, query, self._reading)

    async def close(self) -> None:
        """Finishes what is queued and closes the file."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._units.put(None)
        self._writer.join()
        self._closing.set()
        self._written.set()
        self._checkpointer.join()
        self._checkpointing.close()
        self._reader.shutdown()
        self._reading.close()
        self._writing.close()

    def _write_for_ever(self) -> None:
        open_ = True
        while open_:
            first = self._units.get()
            if first is None:
                return
            batch = [first]
            while len(batch) < BATCH_MAX:
                try:
                    unit = self._units.get_nowait()
                except queue.Empty:
                    break
                if unit is None:
                    open_ = False
                    break
                batch.append(unit)
            self._commit(batch)
            self._written.set()

    def _checkpoint_for_ever(self) -> None:
        while True:
            self._written.wait()
            if self._closing.wait(CHECKPOINT_PAUSE_SECONDS):
                return
            self._written.clear()
            # Passive: it waits for nobody and nobody for it, and does what can be done.
            with contextlib.suppress(sqlite3.Error):
                self._checkpointing.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _commit(self, waiting: Sequence[_Unit[Any]]) -> None:
        batch = [unit for unit in waiting if not unit.future.cancelled()]
        try:
            self._writing.execute("BEGIN IMMEDIATE")
            for unit in batch:
                self._run(unit)
            self._writing.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                self._writing.execute("ROLLBACK")
            for unit in batch:
                unit.outcome = error
        # Each loop is woken once for all its units: waking it costs more than answering.
        for loop in {unit.loop for unit in batch}:
            answered = [unit for unit in batch if unit.loop is loop]
            # A loop that was closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_answer, answered)

    def _run(self, unit: _Unit[Any]) -> None:
        self._writing.execute("SAVEPOINT unit")
        try:
            unit.outcome = unit.work(self._writing)
        except BaseException as error:
            self._writing.execute("ROLLBACK TO unit")
            unit.outcome = error
        self._writing.execute("RELEASE unit")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turns WAL on, which SQLite refuses at once, without its busy timeout, while others write.

    Only a new file is turned; who lost the race to turn it finds it done.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(BUSY_PAUSE_SECONDS)


def _answer(units: Sequence[_Unit[Any]]) -> None:
    for unit in units:
        # A caller may have gone away meanwhile; its unit stands.
        if unit.future.done():
            continue
        if isinstance(unit.outcome, StopIteration):
            # No future takes one, and the units behind it would never be answered.
            unit.future.set_exception(RuntimeError("a unit of work raised StopIteration"))
        elif isinstance(unit.outcome, BaseException):
            unit.future.set_exception(unit.outcome)
        else:
            unit.future.set_result(unit.outcome)


def _statements(script: str) -> Iterator[str]:
    """Takes a script apart; sqlite3's own way of running one would end the transaction first."""
    statement = ""
    for part in script.split(";"):
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement:
        yield statement  # SQLite says what is wrong with it
