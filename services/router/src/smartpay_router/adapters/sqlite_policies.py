"""Routing policies, every version of them, and the audit trail of their changes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict
from typing import Any

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.domain.audit import AuditRecord, Change
from smartpay_router.domain.policy import (
    FIRST_POLICY,
    Mode,
    PolicyBook,
    RoutingPolicy,
    Terms,
    etag_mismatch,
)
from smartpay_router.domain.rules import AccountLimit, Action, AmountRange, Condition, Rule
from smartpay_router.domain.splits import Share, Split

_FILTERS = "(? = '' OR subject_id = ?) AND (? = '' OR actor = ?) AND (? = '' OR action = ?)"


class SqlitePolicies:
    """Keeps policies and tells the book in force; other replicas see a change when they look.

    Args:
        store: the open file.
        book: the policies in force.
    """

    def __init__(self, store: SqliteStore, book: PolicyBook) -> None:
        self._store = store
        self._book = book
        self._seen = 0

    async def catch_up(self) -> None:
        """Puts in force what was stored since the last look, by whatever replica."""
        rows = await self._store.read(
            lambda db: db.execute(
                "SELECT rowid, * FROM routing_policies WHERE rowid > ? ORDER BY rowid",
                (self._seen,),
            ).fetchall()
        )
        for row in rows:
            self._seen = row["rowid"]
            self._book.put(row["merchant_id"], bool(row["livemode"]), _policy(row))

    async def put(
        self, merchant_id: str, livemode: bool, policy: RoutingPolicy, record: AuditRecord
    ) -> None:
        """Stores the next version with its record, and puts it in force.

        Raises:
            Refusal: ETAG_MISMATCH when somebody else was faster.
        """

        def work(db: sqlite3.Connection) -> None:
            row = db.execute(
                "SELECT max(version) AS newest FROM routing_policies"
                " WHERE merchant_id = ? AND livemode = ?",
                (merchant_id, livemode),
            ).fetchone()
            if policy.version != (row["newest"] or FIRST_POLICY.version) + 1:
                raise etag_mismatch()
            db.execute(
                "INSERT INTO routing_policies VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    merchant_id,
                    livemode,
                    policy.version,
                    json.dumps(asdict(policy.terms)),
                    policy.note,
                    policy.created_ms,
                    policy.actor,
                ),
            )
            _insert_record(db, record)

        await self._store.write(work)
        self._book.put(merchant_id, livemode, policy)

    async def version(self, merchant_id: str, livemode: bool, version: int) -> RoutingPolicy | None:
        """Reads one version; None when there never was such a one."""
        if version == FIRST_POLICY.version:
            return FIRST_POLICY
        row = await self._store.read(
            lambda db: db.execute(
                "SELECT * FROM routing_policies"
                " WHERE merchant_id = ? AND livemode = ? AND version = ?",
                (merchant_id, livemode, version),
            ).fetchone()
        )
        return None if row is None else _policy(row)

    async def page(
        self, merchant_id: str, livemode: bool, before: int, size: int
    ) -> list[RoutingPolicy]:
        """Reads versions older than `before`, newest first, without what all begin with."""
        rows = await self._store.read(
            lambda db: db.execute(
                "SELECT * FROM routing_policies WHERE merchant_id = ? AND livemode = ?"
                " AND version < ? ORDER BY version DESC LIMIT ?",
                (merchant_id, livemode, before, size),
            ).fetchall()
        )
        return [_policy(row) for row in rows]

    async def page_of_records(
        self,
        merchant_id: str,
        livemode: bool,
        before: int,
        size: int,
        *,
        subject_id: str = "",
        actor: str = "",
        action: str = "",
    ) -> tuple[list[AuditRecord], int]:
        """Reads a page of the trail, newest first, and where to go on; 0 at the end."""
        rows = await self._store.read(
            lambda db: db.execute(
                "SELECT * FROM routing_audit WHERE merchant_id = ? AND livemode = ?"
                f" AND number < ? AND {_FILTERS} ORDER BY number DESC LIMIT ?",
                (
                    *(merchant_id, livemode, before),
                    *(subject_id, subject_id, actor, actor, action, action),
                    size + 1,
                ),
            ).fetchall()
        )
        shown = rows[:size]
        return [_record(row) for row in shown], shown[-1]["number"] if len(rows) > size else 0


def _insert_record(db: sqlite3.Connection, record: AuditRecord) -> None:
    db.execute(
        "INSERT INTO routing_audit (audit_id, merchant_id, livemode, time_ms, actor, action,"
        " subject_id, request_id, changes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.audit_id,
            record.merchant_id,
            record.livemode,
            record.time_ms,
            record.actor,
            record.action,
            record.subject_id,
            record.request_id,
            json.dumps([asdict(change) for change in record.changes]),
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
        changes=tuple(Change(**change) for change in json.loads(row["changes"])),
    )


def _policy(row: sqlite3.Row) -> RoutingPolicy:
    return RoutingPolicy(
        version=row["version"],
        terms=_terms(json.loads(row["terms"])),
        note=row["note"],
        created_ms=row["created_ms"],
        actor=row["actor"],
    )


def _terms(stored: dict[str, Any]) -> Terms:
    return Terms(
        **{
            **stored,
            "mode": Mode(stored["mode"]),
            "static_order": tuple(stored["static_order"]),
            "rules": tuple(
                Rule(
                    **{
                        **rule,
                        "action": Action(rule["action"]),
                        "accounts": tuple(rule["accounts"]),
                        "condition": _condition(rule["condition"]),
                    }
                )
                for rule in stored["rules"]
            ),
            "splits": tuple(
                Split(
                    **{
                        **split,
                        "shares": tuple(Share(**share) for share in split["shares"]),
                        "condition": _condition(split["condition"]),
                    }
                )
                for split in stored["splits"]
            ),
            "limits": tuple(
                AccountLimit(
                    limit["processor_account_id"],
                    tuple(AmountRange(**amount) for amount in limit["amounts"]),
                    tuple(limit["countries"]),
                )
                for limit in stored["limits"]
            ),
        }
    )


def _condition(stored: dict[str, Any]) -> Condition:
    asked: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()}
    return Condition(**asked)
