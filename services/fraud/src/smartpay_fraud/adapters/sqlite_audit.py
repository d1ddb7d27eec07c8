"""The embedded audit trail; a record is stored with the change it tells of."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import astuple

from smartpay_chassis.ids import new
from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.domain.audit import AuditRecord, Change, changes_between
from smartpay_fraud.domain.reviews import Review


class SqliteAudit:
    """Reads the trail."""

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
    ) -> tuple[list[AuditRecord], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        conditions, values = ["merchant_id = ?", "livemode = ?"], [merchant_id, livemode]
        if after:
            conditions.append("number < CAST(? AS INTEGER)")
            values.append(after)
        for column, wanted in (("subject_id", subject_id), ("actor", actor), ("action", action)):
            if wanted:
                conditions.append(f"{column} = ?")
                values.append(wanted)
        sql = f"SELECT * FROM audit WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?"
        rows = await self._store.read(lambda c: c.execute(sql, (*values, size + 1)).fetchall())
        position = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return [_record(row) for row in rows[:size]], position


def record_of_work(work: str, before: Review, after: Review, now_ms: int) -> AuditRecord:
    """Makes the record of a change of a review by our own work, for instance "payments"."""
    return AuditRecord(
        audit_id=new("aud", before.merchant_id[4:6]),
        merchant_id=before.merchant_id,
        livemode=before.livemode,
        time_ms=now_ms,
        actor=f"system:{work}",
        action=work,
        subject_id=before.review_id,
        request_id="",
        changes=changes_between(before.facts(), after.facts()),
    )


def insert_record(connection: sqlite3.Connection, record: AuditRecord) -> None:
    """Stores a record within the change it tells of."""
    connection.execute(
        "INSERT INTO audit (audit_id, merchant_id, livemode, time_ms, actor, action, subject_id,"
        " request_id, changes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.audit_id,
            record.merchant_id,
            record.livemode,
            record.time_ms,
            record.actor,
            record.action,
            record.subject_id,
            record.request_id,
            json.dumps([astuple(change) for change in record.changes]),
        ),
    )


def _record(row: sqlite3.Row) -> AuditRecord:
    return AuditRecord(
        audit_id=row["audit_id"],
        merchant_id=row["merchant_id"],
        livemode=bool(row["livemode"]),
        time_ms=row["time_ms"],
        actor=row["actor"],
        action=row["action"],
        subject_id=row["subject_id"],
        request_id=row["request_id"],
        changes=tuple(Change(*change) for change in json.loads(row["changes"])),
    )
