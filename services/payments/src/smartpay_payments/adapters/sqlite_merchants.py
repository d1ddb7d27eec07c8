"""What merchants changed of their settings and accounts, in the embedded store.

Each change is one unit of work: the profile's next version, its event in the one log, and the
audit record.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.sqlite_audit import append_audit
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.events import MERCHANT_UPDATED
from smartpay_payments.domain.merchants import Profile

MIGRATIONS = [
    """
    CREATE TABLE merchant_profile (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        version INTEGER NOT NULL,
        document BLOB NOT NULL,
        PRIMARY KEY (merchant_id, livemode)
    ) WITHOUT ROWID;
    """,
]

_decode = msgspec.json.Decoder(Profile).decode
_encode = msgspec.json.Encoder().encode


class SqliteMerchants:
    """Stores profiles by compare-and-set.

    Args:
        store: the file.
        wake_watchers: called after each change, so that watchers of the log read on.
    """

    def __init__(self, store: SqliteStore, wake_watchers: Callable[[], None]) -> None:
        self._store = store
        self._wake_watchers = wake_watchers

    async def all(self) -> list[Profile]:
        """Reads every profile that was ever changed."""

        def query(connection: sqlite3.Connection) -> list[Profile]:
            rows = connection.execute("SELECT document FROM merchant_profile")
            return [_decode(row["document"]) for row in rows]

        return await self._store.read(query)

    async def save(self, profile: Profile, record: AuditRecord) -> bool:
        """Stores the next version of a profile; answers False when somebody else was faster."""
        # The table's part is the operator's: it is read anew with each start.
        stored = replace(profile, table_accounts=())
        document = _encode(stored)

        def work(connection: sqlite3.Connection) -> bool:
            key = (profile.merchant_id, profile.livemode)
            if profile.version == 1:
                changed = connection.execute(
                    "INSERT OR IGNORE INTO merchant_profile VALUES (?, ?, 1, ?)", (*key, document)
                ).rowcount
            else:
                changed = connection.execute(
                    "UPDATE merchant_profile SET version = ?, document = ?"
                    " WHERE merchant_id = ? AND livemode = ? AND version = ?",
                    (profile.version, document, *key, profile.version - 1),
                ).rowcount
            if not changed:
                return False
            assert profile.update_time is not None  # each change sets it
            connection.execute(
                "INSERT INTO event (payment_id, version, type, time, document)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    f"{profile.merchant_id}:{'live' if profile.livemode else 'test'}",
                    profile.version,
                    MERCHANT_UPDATED,
                    _text(profile.update_time),
                    document,
                ),
            )
            append_audit(connection, record)
            return True

        saved = await self._store.write(work)
        self._wake_watchers()
        return saved


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
