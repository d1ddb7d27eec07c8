"""The embedded store of reviews: opened with the score, decided once, told until it is heard."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from smartpay_chassis.ids import derive
from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.adapters.sqlite_assessments import FOUND_OUT, PAYMENT, transaction_of
from smartpay_fraud.adapters.sqlite_audit import insert_record
from smartpay_fraud.adapters.sqlite_traces import part_prints, trace_all
from smartpay_fraud.domain.assessment import Assessment, Finding
from smartpay_fraud.domain.audit import AuditRecord
from smartpay_fraud.domain.reviews import Delivery, Related, Resolution, Review, State
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

RELATED_MAX = 20
"""Transactions shown beside a review: a screen of them."""

_PARTS = {
    "customer_id": "customer_id",
    "instrument_id": "instrument_fingerprint",
    "device_id": "device_id",
    "ip_address": "ip_address",
}
_RELATED = (
    f"SELECT {PAYMENT}, a.verdict, a.score, a.scored_ms, {FOUND_OUT}"
    " FROM traces JOIN assessments a ON a.number = traces.rowid"
    " WHERE traces MATCH ? AND a.transaction_id != ? ORDER BY traces.rowid DESC LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Due:
    """A decision that is to be told now, and how often that was tried."""

    review: Review
    tries: int


class SqliteReviews:
    """Keeps reviews. Every change is stored with its audit record, in one transaction."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def get(self, merchant_id: str, livemode: bool, review_id: str) -> Review | None:
        """Reads one review of one merchant."""
        return await self._one(
            "review_id = ? AND merchant_id = ? AND livemode = ?",
            (review_id, merchant_id, livemode),
        )

    async def of_transaction(self, key: TransactionKey) -> Review | None:
        """Reads the review of a transaction."""
        return await self._one("merchant_id = ? AND livemode = ? AND transaction_id = ?", key)

    async def page(
        self,
        merchant_id: str,
        livemode: bool,
        after: str,
        size: int,
        *,
        state: State | None = None,
        assignee: str = "",
        unassigned: bool = False,
        before_ms: int | None = None,
    ) -> tuple[list[Review], str]:
        """Reads a page, oldest first, and the position to go on after; "" at the end."""
        conditions: list[str] = ["merchant_id = ?", "livemode = ?"]
        values: list[object] = [merchant_id, livemode]
        for condition, value in (
            ("number > CAST(? AS INTEGER)", after or None),
            ("state = ?", state and state.value),
            ("assignee = ?", "" if unassigned else None),
            ("assignee = ?", assignee or None),
            ("create_ms < ?", before_ms),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        sql = f"SELECT * FROM reviews WHERE {' AND '.join(conditions)} ORDER BY number LIMIT ?"
        rows = await self._store.read(lambda c: c.execute(sql, (*values, size + 1)).fetchall())
        position = str(rows[size - 1]["number"]) if len(rows) > size else ""
        return [_review(row) for row in rows[:size]], position

    async def save(self, review: Review, record: AuditRecord, due_ms: int | None = None) -> bool:
        """Stores a review's next version; answers False when somebody else was faster.

        Args:
            review: the next version.
            record: who changed it.
            due_ms: when to tell the decision; None when there is nothing (more) to tell.
        """

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE reviews SET state = ?, assignee = ?, resolution = ?, note = ?,"
                " resolve_actor = ?, close_reason = ?, delivery = ?, held = ?, end_ms = ?,"
                " version = ?, due_ms = ?, tries = 0 WHERE review_id = ? AND version = ?",
                (
                    review.state.value,
                    review.assignee,
                    review.resolution and review.resolution.value,
                    review.note,
                    review.resolve_actor,
                    review.close_reason,
                    review.delivery and review.delivery.value,
                    review.held,
                    review.end_ms,
                    review.version,
                    due_ms,
                    review.review_id,
                    review.version - 1,
                ),
            )
            if changed.rowcount:
                insert_record(connection, record)
            return changed.rowcount == 1

        return await self._store.write(work)

    async def due(self, now_ms: int, limit: int) -> list[Due]:
        """Reads decisions that are to be told by now, longest due first."""
        sql = "SELECT * FROM reviews WHERE due_ms <= ? ORDER BY due_ms LIMIT ?"
        rows = await self._store.read(lambda c: c.execute(sql, (now_ms, limit)).fetchall())
        return [Due(_review(row), row["tries"]) for row in rows]

    async def settle(self, review_id: str) -> None:
        """Says that a decision needs no telling any more."""
        await self._store.write(
            lambda c: (
                c.execute(
                    "UPDATE reviews SET due_ms = NULL WHERE review_id = ?", (review_id,)
                ).rowcount
            )
        )

    async def postpone(self, review_id: str, due_ms: int) -> None:
        """Says when to tell a decision again."""
        await self._store.write(
            lambda c: (
                c.execute(
                    "UPDATE reviews SET due_ms = ?, tries = tries + 1 WHERE review_id = ?",
                    (due_ms, review_id),
                ).rowcount
            )
        )

    async def related(self, transaction: Transaction) -> list[Related]:
        """Reads the latest transactions that share a part with this one, newest first."""
        wanted = " OR ".join(part_prints(transaction))
        if not wanted:
            return []

        def query(connection: sqlite3.Connection) -> list[Related]:
            rows = connection.execute(_RELATED, (wanted, transaction.transaction_id, RELATED_MAX))
            return [_related(row, transaction) for row in rows]

        await self._store.write(trace_all)
        return await self._store.read(query)

    async def _one(self, condition: str, values: Sequence[object]) -> Review | None:
        sql = f"SELECT * FROM reviews WHERE {condition}"
        row = await self._store.read(lambda c: c.execute(sql, values).fetchone())
        return _review(row) if row else None


def insert_review(connection: sqlite3.Connection, assessment: Assessment) -> None:
    """Opens a review within the write that stores its score."""
    key, transaction = assessment.transaction.key, assessment.transaction
    mode = "live" if key.livemode else "test"
    connection.execute(
        "INSERT INTO reviews (review_id, merchant_id, livemode, transaction_id, state,"
        " amount_minor, currency_code, score, create_ms) VALUES (?, ?, ?, ?, 'OPEN', ?, ?, ?, ?)",
        (
            derive("rev", key.merchant_id[4:6], key.merchant_id, mode, key.transaction_id),
            *key,
            transaction.amount_minor,
            transaction.currency_code,
            assessment.score,
            assessment.scored_ms,
        ),
    )


def _related(row: sqlite3.Row, transaction: Transaction) -> Related:
    other = transaction_of(row)
    return Related(
        transaction=other,
        verdict=Verdict(row["verdict"]),
        score=row["score"],
        scored_ms=row["scored_ms"],
        finding=Finding(row["finding"]) if row["finding"] else None,
        shared=tuple(
            told
            for name, told in _PARTS.items()
            if getattr(other, name) == getattr(transaction, name) != ""
        ),
    )


def _review(row: sqlite3.Row) -> Review:
    return Review(
        review_id=row["review_id"],
        merchant_id=row["merchant_id"],
        livemode=bool(row["livemode"]),
        transaction_id=row["transaction_id"],
        state=State(row["state"]),
        amount_minor=row["amount_minor"],
        currency_code=row["currency_code"],
        score=row["score"],
        create_ms=row["create_ms"],
        assignee=row["assignee"],
        resolution=Resolution(row["resolution"]) if row["resolution"] else None,
        note=row["note"],
        resolve_actor=row["resolve_actor"],
        close_reason=row["close_reason"],
        delivery=Delivery(row["delivery"]) if row["delivery"] else None,
        held=bool(row["held"]),
        end_ms=row["end_ms"],
        version=row["version"],
    )
