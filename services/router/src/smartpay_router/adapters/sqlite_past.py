"""Past decisions with what became of them; of one tenant at a time."""

from __future__ import annotations

import sqlite3

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.sqlite_decisions import decision_of
from smartpay_router.domain.comparison import Try
from smartpay_router.domain.dry_run import Past
from smartpay_router.domain.modes import COMPARED, ServedBy
from smartpay_router.domain.outcome import Outcome
from smartpay_router.domain.tenant import Tenant

FIRST = (2**62, "")
"""Before it, every decision."""

_FIRST_TRY = "o.decision_id = d.decision_id AND o.attempt_index = 0 AND o.is_final = 1"

Position = tuple[int, str]
"""Microseconds since the epoch and decision id, by which decisions are in order."""


class SqlitePast:
    """Reads decisions back; writes nothing.

    Args:
        store: the open file.
    """

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def page(
        self, tenant: Tenant, before: Position, size: int, *, ended: bool
    ) -> tuple[list[Past], Position | None]:
        """Reads decisions before a position, newest first, and where to go on; None at the end.

        Args:
            tenant: whose.
            before: where the page before ended.
            size: how many at most.
            ended: True for those only whose first try's outcome is known.
        """
        join = "JOIN" if ended else "LEFT JOIN"

        def query(db: sqlite3.Connection) -> list[sqlite3.Row]:
            return db.execute(
                "SELECT d.*, o.outcome AS outcome, o.processor_account_id AS tried"
                f" FROM decisions d {join} outcome_log o ON {_FIRST_TRY}"
                " WHERE d.merchant_id = ? AND d.livemode = ?"
                " AND (d.created_us, d.decision_id) < (?, ?)"
                " ORDER BY d.created_us DESC, d.decision_id DESC LIMIT ?",
                (tenant.merchant_id, tenant.livemode, *before, size + 1),
            ).fetchall()

        rows = await self._store.read(query)
        shown = rows[:size]
        position = (shown[-1]["created_us"], shown[-1]["decision_id"]) if rows[size:] else None
        return [_past(row) for row in shown], position

    async def outcomes(self, decision_id: str, tenant: Tenant) -> list[tuple[int, str, Outcome]]:
        """Reads what became of a decision: attempt index, account and outcome of each try."""
        rows = await self._store.read(
            lambda db: db.execute(
                "SELECT attempt_index, processor_account_id, outcome FROM outcome_log"
                " WHERE decision_id = ? AND merchant_id = ? AND livemode = ? AND is_final = 1"
                " ORDER BY attempt_index",
                (decision_id, tenant.merchant_id, tenant.livemode),
            ).fetchall()
        )
        return [
            (row["attempt_index"], row["processor_account_id"], Outcome(row["outcome"]))
            for row in rows
        ]

    async def tries(self, tenant: Tenant, version: int, since_ms: int, size: int) -> list[Try]:
        """Reads first tries of payers whom chance assigned, oldest first.

        Args:
            tenant: whose.
            version: of the policy they were decided under.
            since_ms: since when it was in force, in milliseconds since the epoch.
            size: how many at most.
        """
        marks = ", ".join("?" * len(COMPARED))

        def query(db: sqlite3.Connection) -> list[sqlite3.Row]:
            return db.execute(
                "SELECT d.route ->> '$.payer' AS payer, d.route ->> '$.served_by' AS served_by,"
                " o.outcome AS outcome, o.several_rails AS several_rails,"
                # Of the tried account, which payments may have chosen against the ranking.
                " (SELECT r.value ->> 3 FROM json_each(d.route, '$.ranking') r"
                " WHERE r.value ->> 0 = o.processor_account_id) AS fee_minor, d.amount_minor"
                f" FROM decisions d JOIN outcome_log o ON {_FIRST_TRY}"
                " WHERE d.merchant_id = ? AND d.livemode = ? AND d.created_us >= ?"
                f" AND d.route ->> '$.policy' = ? AND d.route ->> '$.served_by' IN ({marks})"
                " ORDER BY d.created_us, d.decision_id LIMIT ?",
                (
                    *(tenant.merchant_id, tenant.livemode, since_ms * 1_000, version),
                    *COMPARED,
                    size,
                ),
            ).fetchall()

        return [
            Try(
                row["payer"],
                ServedBy(row["served_by"]),
                Outcome(row["outcome"]),
                bool(row["several_rails"]),
                min(1.0, row["fee_minor"] / row["amount_minor"]),
            )
            for row in await self._store.read(query)
        ]


def _past(row: sqlite3.Row) -> Past:
    decision = decision_of(row)
    ranking = decision.route.ranking
    is_first = bool(ranking) and row["tried"] == ranking[0].processor_account_id
    return Past(decision, Outcome(row["outcome"]) if is_first and row["outcome"] else None)
