"""The embedded index of payments: one row per payment, one per refund, figures as integers.

Every statement that reads begins its WHERE with the tenant; there is one place that writes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from smartpay_assistant.domain.metrics import (
    APPROVED,
    DECIDED,
    NOT_TRIED,
    REFUND_METRICS,
    Dimension,
    Filters,
    Grain,
    Metric,
    MetricQuery,
    Tally,
)
from smartpay_assistant.domain.payment import (
    Attempt,
    Excluded,
    FraudSaid,
    PaymentRecord,
    Ranked,
    Refund,
    Route,
    Tenant,
)
from smartpay_chassis.sqlite import SqliteStore

PAYMENTS_BEHIND_MAX = 20  # the contract's bound on Citation.payment_ids

MIGRATIONS = (
    """
    CREATE TABLE payments (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        payment_id TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        status TEXT NOT NULL,
        reason TEXT NOT NULL,
        currency TEXT NOT NULL,
        amount_minor INTEGER NOT NULL,
        captured_minor INTEGER NOT NULL,
        processor TEXT NOT NULL,
        processor_account TEXT NOT NULL,
        created TEXT NOT NULL,
        day TEXT NOT NULL,
        decided_by TEXT NOT NULL,
        PRIMARY KEY (merchant_id, livemode, payment_id)
    ) STRICT;
    CREATE INDEX payments_by_day ON payments (merchant_id, livemode, day);
    CREATE INDEX payments_by_age ON payments (merchant_id, livemode, created, payment_id);
    CREATE TABLE refunds (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        payment_id TEXT NOT NULL,
        refund_id TEXT NOT NULL,
        amount_minor INTEGER NOT NULL,
        status TEXT NOT NULL,
        day TEXT NOT NULL,
        PRIMARY KEY (merchant_id, livemode, payment_id, refund_id)
    ) STRICT;
    CREATE INDEX refunds_by_day ON refunds (merchant_id, livemode, day);
    CREATE TABLE progress (
        stream TEXT PRIMARY KEY,
        cursor TEXT NOT NULL,
        caught_up INTEGER NOT NULL
    ) STRICT
    """,
)
_STREAM = "payments"

_FROM_PAYMENTS = "payments p"
_FROM_REFUNDS = "refunds r JOIN payments p USING (merchant_id, livemode, payment_id)"
_COLUMNS = {
    Dimension.CURRENCY: "p.currency",
    Dimension.PROCESSOR: "p.processor",
    Dimension.PROCESSOR_ACCOUNT: "p.processor_account",
    Dimension.STATUS: "p.status",
}


class _Measure(NamedTuple):
    """How a metric is counted: what is summed, over which of the rows."""

    summed: str
    counted: str


def _one_of(column: str, values: frozenset[str]) -> str:
    # Only for constants of the domain; what a question brings is always a parameter.
    quoted = ", ".join(f"'{value}'" for value in sorted(values))
    return f"{column} IN ({quoted})"


_MEASURES = {
    Metric.VOLUME: _Measure("p.captured_minor", "p.captured_minor > 0"),
    Metric.AVERAGE: _Measure("p.captured_minor", "p.captured_minor > 0"),
    Metric.COUNT: _Measure("1", "TRUE"),
    Metric.APPROVAL_RATE: _Measure(_one_of("p.status", APPROVED), _one_of("p.status", DECIDED)),
    Metric.FRAUD_BLOCKS: _Measure("1", "p.status = 'blocked'"),
    Metric.REFUNDS_AMOUNT: _Measure("r.amount_minor", "r.status = 'succeeded'"),
    Metric.REFUNDS_COUNT: _Measure("1", "r.status = 'succeeded'"),
}


class SqlitePaymentIndex:
    """Projects payments from events and counts them; one file, one machine."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, path: Path) -> SqlitePaymentIndex:
        """Opens or creates the index file; its folder must exist."""
        return cls(await SqliteStore.open(path, MIGRATIONS))

    async def close(self) -> None:
        """Closes the file."""
        await self._store.close()

    async def cursor(self) -> str:
        """Answers the cursor of the last step that was applied; empty before the first."""
        row = await self._store.read(
            lambda db: db.execute(
                "SELECT cursor FROM progress WHERE stream = ?", (_STREAM,)
            ).fetchone()
        )
        return str(row["cursor"]) if row else ""

    async def ready(self) -> bool:
        """Tells whether the log's end was once reached: before that, sums would be too small."""
        row = await self._store.read(
            lambda db: db.execute(
                "SELECT caught_up FROM progress WHERE stream = ?", (_STREAM,)
            ).fetchone()
        )
        return bool(row and row["caught_up"])

    async def apply(self, record: PaymentRecord | None, cursor: str, caught_up: bool) -> None:
        """Stores one step of the event log, its effect and its cursor in one transaction.

        Args:
            record: the payment after the event; None when the step only says how far it is.
            cursor: where the log goes on.
            caught_up: whether the log holds nothing newer.
        """

        def unit(db: sqlite3.Connection) -> None:
            if record is not None and _is_newer(db, record):
                _store(db, record)
            db.execute(
                "INSERT INTO progress (stream, cursor, caught_up) VALUES (?, ?, ?) "
                "ON CONFLICT (stream) DO UPDATE SET cursor = excluded.cursor, "
                "caught_up = max(caught_up, excluded.caught_up)",
                (_STREAM, cursor, caught_up),
            )

        await self._store.write(unit)

    async def tallies(
        self, tenant: Tenant, query: MetricQuery, rows_max: int
    ) -> Mapping[Metric, Sequence[Tally]]:
        """Counts each metric per group, at most rows_max + 1 groups, in one snapshot."""

        def read(db: sqlite3.Connection) -> dict[Metric, list[Tally]]:
            with _snapshot(db):
                return {
                    metric: _tally(db, tenant, query, metric, rows_max + 1)
                    for metric in query.metrics
                }

        return await self._store.read(read)

    async def newest(self, tenant: Tenant, filters: Filters, limit: int) -> Sequence[PaymentRecord]:
        """Finds the newest payments that pass the filters."""
        where, values = _where(tenant, filters, "p.day")
        statement = (
            f"SELECT * FROM payments p WHERE {where} "
            "ORDER BY p.created DESC, p.payment_id DESC LIMIT ?"
        )
        rows = await self._store.read(lambda db: db.execute(statement, (*values, limit)).fetchall())
        return [_payment(row) for row in rows]

    async def payment(self, tenant: Tenant, payment_id: str) -> PaymentRecord | None:
        """Finds one payment of the tenant; None for unknown ones and those of others."""
        where, values = _where(tenant, Filters(), "p.day")
        row = await self._store.read(
            lambda db: db.execute(
                f"SELECT * FROM payments p WHERE {where} AND p.payment_id = ?",
                (*values, payment_id),
            ).fetchone()
        )
        return _payment(row) if row else None


@contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Lets several statements see the same moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


def _is_newer(db: sqlite3.Connection, record: PaymentRecord) -> bool:
    row = db.execute(
        "SELECT sequence FROM payments WHERE merchant_id = ? AND livemode = ? AND payment_id = ?",
        (*record.tenant, record.payment_id),
    ).fetchone()
    return row is None or record.sequence > row["sequence"]


def _store(db: sqlite3.Connection, record: PaymentRecord) -> None:
    attempt = record.deciding_attempt
    created = record.created.astimezone(UTC)
    db.execute(
        "INSERT OR REPLACE INTO payments VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *record.tenant,
            record.payment_id,
            record.sequence,
            record.status,
            record.reason,
            record.currency,
            record.amount_minor,
            record.captured_minor,
            attempt.processor if attempt else NOT_TRIED,
            attempt.processor_account_id if attempt else NOT_TRIED,
            created.isoformat(timespec="microseconds"),
            created.date().isoformat(),
            _decided_by(record),
        ),
    )
    key = (*record.tenant, record.payment_id)
    db.execute("DELETE FROM refunds WHERE merchant_id = ? AND livemode = ? AND payment_id = ?", key)
    db.executemany(
        "INSERT INTO refunds VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *key,
                refund.refund_id,
                refund.amount_minor,
                refund.status,
                refund.created.astimezone(UTC).date().isoformat(),
            )
            for refund in record.refunds
        ],
    )


def _where(tenant: Tenant, filters: Filters, day: str) -> tuple[str, list[object]]:
    """Writes the condition of a read: the tenant first and always, then the filters."""
    parts = ["p.merchant_id = ?", "p.livemode = ?"]
    values: list[object] = [tenant.merchant_id, tenant.livemode]
    for column, chosen in (
        ("p.status", filters.statuses),
        ("p.currency", filters.currencies),
        ("p.processor", filters.processors),
        ("p.processor_account", filters.processor_accounts),
    ):
        if chosen:
            parts.append(f"{column} IN ({', '.join('?' * len(chosen))})")
            values.extend(sorted(chosen))
    if filters.period is not None:
        parts.append(f"{day} BETWEEN ? AND ?")
        values.extend((filters.period.first.isoformat(), filters.period.last.isoformat()))
    return " AND ".join(parts), values


def _tally(
    db: sqlite3.Connection, tenant: Tenant, query: MetricQuery, metric: Metric, limit: int
) -> list[Tally]:
    """Counts per payment first, so that the newest payments behind each group are known too."""
    summed, counted = _MEASURES[metric]
    of_refunds = metric in REFUND_METRICS
    day = "r.day" if of_refunds else "p.day"
    keys = [_COLUMNS[dimension] for dimension in query.split]
    if query.grain is Grain.DAY:
        keys.append(day)
    names = [f"k{number}" for number in range(len(keys))]
    where, values = _where(tenant, query.filters, day)
    selected = "".join(f"{key} AS {name}, " for key, name in zip(keys, names, strict=True))
    listed = "".join(f"{name}, " for name in names)
    grouped = f"GROUP BY {', '.join(names)}" if names else ""
    parted = f"PARTITION BY {', '.join(names)}" if names else ""
    statement = f"""
        WITH each AS (
            SELECT {selected}p.payment_id AS payment_id, p.created AS created,
                SUM({summed}) AS top, COUNT(*) AS bottom
            FROM {_FROM_REFUNDS if of_refunds else _FROM_PAYMENTS}
            WHERE {where} AND {counted}
            GROUP BY {listed}p.payment_id
        ),
        placed AS (
            SELECT *, ROW_NUMBER() OVER ({parted} ORDER BY created DESC, payment_id) AS place
            FROM each
        )
        SELECT {listed}COALESCE(SUM(top), 0) AS top, COALESCE(SUM(bottom), 0) AS bottom,
            GROUP_CONCAT(CASE WHEN place <= {PAYMENTS_BEHIND_MAX} THEN payment_id END) AS behind
        FROM placed {grouped} LIMIT ?
    """
    return [
        Tally(
            tuple(str(row[name]) for name in names),
            row["top"],
            row["bottom"],
            tuple(sorted(row["behind"].split(","))) if row["behind"] else (),
        )
        for row in db.execute(statement, (*values, limit))
    ]


def _decided_by(record: PaymentRecord) -> str:
    """What explains a payment, as JSON; columns hold what is counted and filtered by."""
    parts = {
        "fraud": asdict(record.fraud) if record.fraud else None,
        "route": asdict(record.route) if record.route else None,
        "attempts": [asdict(attempt) for attempt in record.attempts],
        "refunds": [
            {**asdict(refund), "created": refund.created.isoformat()} for refund in record.refunds
        ],
    }
    return json.dumps(parts, separators=(",", ":"))


def _payment(row: sqlite3.Row) -> PaymentRecord:
    parts: dict[str, Any] = json.loads(row["decided_by"])
    fraud, route = parts["fraud"], parts["route"]
    return PaymentRecord(
        tenant=Tenant(row["merchant_id"], bool(row["livemode"])),
        payment_id=row["payment_id"],
        sequence=row["sequence"],
        status=row["status"],
        reason=row["reason"],
        currency=row["currency"],
        amount_minor=row["amount_minor"],
        captured_minor=row["captured_minor"],
        created=datetime.fromisoformat(row["created"]),
        fraud=FraudSaid(**{**fraud, "reasons": tuple(fraud["reasons"])}) if fraud else None,
        route=Route(
            tuple(Ranked(**{**r, "reasons": tuple(r["reasons"])}) for r in route["ranking"]),
            tuple(Excluded(**excluded) for excluded in route["excluded"]),
            route["policy_version"],
            route["explored"],
        )
        if route
        else None,
        attempts=tuple(Attempt(**attempt) for attempt in parts["attempts"]),
        refunds=tuple(
            Refund(**{**refund, "created": datetime.fromisoformat(refund["created"])})
            for refund in parts["refunds"]
        ),
    )
