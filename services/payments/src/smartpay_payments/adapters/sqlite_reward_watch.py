"""Which captured payments' rewards are not booked yet, in the embedded store."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.sqlite_ledger import post, time_text
from smartpay_payments.domain.ledger import REWARD_CURRENCY, LedgerEntry, reward_legs

MIGRATIONS = [
    """
    CREATE TABLE reward_watch (
        payment_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        since TEXT NOT NULL,
        look_time TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX reward_watch_by_time ON reward_watch (look_time);
    """,
]


@dataclass(frozen=True, slots=True)
class Watched:
    """A payment whose reward is awaited."""

    payment_id: str
    merchant_id: str
    livemode: bool
    since: datetime


class SqliteRewardWatch:
    """The port `RewardWatch` in one SQLite file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def due(self, now: datetime, limit: int) -> list[Watched]:
        """Reads whose reward is to be asked for, longest waiting first."""

        def query(connection: sqlite3.Connection) -> list[Watched]:
            rows = connection.execute(
                "SELECT * FROM reward_watch WHERE look_time <= ? ORDER BY look_time LIMIT ?",
                (time_text(now), limit),
            )
            return [
                Watched(
                    row["payment_id"],
                    row["merchant_id"],
                    bool(row["livemode"]),
                    datetime.fromisoformat(row["since"]),
                )
                for row in rows
            ]

        return await self._store.read(query)

    async def postpone(self, payment_id: str, until: datetime) -> None:
        """Plans the next question."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE reward_watch SET look_time = ? WHERE payment_id = ?",
                (time_text(until), payment_id),
            )

        await self._store.write(work)

    async def end(self, watched: Watched, base_units: int, now: datetime) -> None:
        """Books what was granted, if anything, and waits no longer; one unit of work."""

        def work(connection: sqlite3.Connection) -> None:
            waited = connection.execute(
                "DELETE FROM reward_watch WHERE payment_id = ?", (watched.payment_id,)
            ).rowcount
            if not waited or not base_units:
                return
            entries = [
                LedgerEntry("reward", account, units, REWARD_CURRENCY, now)
                for account, units in reward_legs(watched.merchant_id, base_units).items()
            ]
            post(connection, watched.merchant_id, watched.livemode, watched.payment_id, entries)

        await self._store.write(work)
