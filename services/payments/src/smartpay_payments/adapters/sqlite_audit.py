"""The audit trail in the embedded store: appended with the change it tells of, never touched."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

import msgspec

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.domain.audit import AuditRecord

MIGRATIONS = [
    """
    CREATE TABLE audit (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        time TEXT NOT NULL,
        actor TEXT NOT NULL,
        action TEXT NOT NULL,
        subject_id TEXT NOT NULL,
        document BLOB NOT NULL
    );
    CREATE INDEX audit_by_merchant ON audit (merchant_id, livemode, position);
    CREATE INDEX audit_by_subject ON audit (merchant_id, livemode, subject_id, position);
    CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit
    BEGIN
        SELECT raise(ABORT, 'audit records are never changed');
    END;
    CREATE TRIGGER audit_is_never_removed BEFORE DELETE ON audit
    BEGIN
        SELECT raise(ABORT, 'audit records are never removed');
    END;
    """,
]

LATER_MIGRATIONS = [
    "CREATE INDEX audit_by_time ON audit (merchant_id, livemode, time);",
]

_decode = msgspec.json.Decoder(AuditRecord).decode
_encode = msgspec.json.Encoder().encode


def append_audit(connection: sqlite3.Connection, record: AuditRecord) -> None:
    """Appends a record; call it within the unit of work that makes the change."""
    connection.execute(
        "INSERT INTO audit (merchant_id, livemode, time, actor, action, subject_id, document)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            record.merchant_id,
            record.livemode,
            _text(record.time),
            record.actor,
            record.action,
            record.subject_id,
            _encode(record),
        ),
    )


class SqliteAudit:
    """Reads the audit trail."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def page(
        self,
        merchant_id: str,
        livemode: bool,
        after: str,
        size: int,
        *,
        subject_id: str = "",
        actor: str = "",
        action: str = "",
        time_from: datetime | None = None,
        time_before: datetime | None = None,
    ) -> tuple[list[AuditRecord], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end.

        Args:
            merchant_id: the tenant.
            livemode: the tenant's mode.
            after: the position that the page before answered; "" for the first page.
            size: how many at most.
            subject_id: only of this subject; "" for all.
            actor: only by this actor; "" for all.
            action: only this action; "" for all.
            time_from: only from this moment on.
            time_before: only before this moment.
        """
        filters = {"subject_id": subject_id, "actor": actor, "action": action}
        where = "".join(f" AND {name} = :{name}" for name, wanted in filters.items() if wanted)
        moments = {
            "from": time_from and _text(time_from),
            "before": time_before and _text(time_before),
        }
        if time_from is not None:
            where += " AND time >= :from"
        if time_before is not None:
            where += " AND time < :before"
        if after:
            where += " AND position < :after"

        def query(connection: sqlite3.Connection) -> tuple[list[AuditRecord], str]:
            rows = connection.execute(
                "SELECT position, document FROM audit"
                f" WHERE merchant_id = :merchant_id AND livemode = :livemode{where}"
                " ORDER BY position DESC LIMIT :size + 1",
                {
                    **filters,
                    **moments,
                    "merchant_id": merchant_id,
                    "livemode": livemode,
                    # A position that nobody was given shows nothing.
                    "after": int(after) if after.isdecimal() else 0,
                    "size": size,
                },
            ).fetchall()
            records = [_decode(row["document"]) for row in rows[:size]]
            return records, str(rows[size - 1]["position"]) if len(rows) > size else ""

        return await self._store.read(query)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
