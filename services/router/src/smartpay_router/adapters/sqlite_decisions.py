"""Decisions, outcomes and the event cursor in one SQLite file, so that they change together."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.domain.accounts import AddedAccount, AddedAccounts, AddedFee
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import Context
from smartpay_router.domain.decision import (
    Decision,
    Tenant,
    bound,
    not_found,
    repeated,
    reported,
)
from smartpay_router.domain.eligibility import Exclusion
from smartpay_router.domain.outcome import Outcome, Sample
from smartpay_router.domain.route import RankedAccount, Route

MIGRATIONS = (
    """
    CREATE TABLE decisions (
        decision_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        amount_minor INTEGER NOT NULL,
        currency TEXT NOT NULL,
        instrument_hash TEXT NOT NULL,
        route TEXT NOT NULL,
        payment_id TEXT NOT NULL,
        created_us INTEGER NOT NULL,
        expires_us INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX decisions_by_payment ON decisions (merchant_id, livemode, payment_id)
        WHERE payment_id <> '';
    CREATE INDEX decisions_by_age ON decisions (created_us);
    CREATE TABLE outcomes (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        decision_id TEXT NOT NULL,
        attempt_index INTEGER NOT NULL,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        processor_account_id TEXT NOT NULL,
        outcome TEXT NOT NULL,
        context_schema TEXT NOT NULL,
        context TEXT NOT NULL,
        UNIQUE (decision_id, attempt_index)
    ) STRICT;
    CREATE TABLE event_cursor (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        cursor TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE added_accounts (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        accounts TEXT NOT NULL,
        PRIMARY KEY (merchant_id, livemode)
    ) STRICT
    """,
)

PAGE_OUTCOMES_MAX = 1000  # outcomes read at once; learning a page holds the loop some 40 ms
FORGOTTEN_PER_WRITE = 2  # more than one new decision brings, so that the table ever shrinks
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SqliteDecisions:
    """The ports `Decisions` and `OutcomeLog`, and the cursor of the payments' events.

    Args:
        store: the open file.
        retention: how long a decision is kept; outcomes are kept for good, they are the truth.
    """

    def __init__(self, store: SqliteStore, retention: timedelta) -> None:
        self._store = store
        self._retention = retention

    @classmethod
    async def open(cls, path: Path, retention: timedelta) -> SqliteDecisions:
        """Opens or creates the file."""
        return cls(await SqliteStore.open(path, MIGRATIONS), retention)

    async def close(self) -> None:
        """Finishes what is queued and closes the file."""
        await self._store.close()

    async def keep(self, made: Decision, charge: Charge) -> Decision:
        """Stores a new decision, or answers the one its payment already has."""

        def work(db: sqlite3.Connection) -> Decision:
            if made.payment_id:
                stored = _of_payment(db, made.tenant, made.payment_id)
                if stored is not None:
                    return repeated(stored, charge)
            _forget(db, made.created_at - self._retention)
            db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    made.decision_id,
                    made.tenant.merchant_id,
                    made.tenant.livemode,
                    made.amount_minor,
                    made.currency,
                    made.instrument_hash,
                    json.dumps(asdict(made.route), separators=(",", ":")),
                    made.payment_id,
                    _microseconds(made.created_at),
                    _microseconds(made.expires_at),
                ),
            )
            return made

        return await self._store.write(work)

    async def bind(
        self, decision_id: str, tenant: Tenant, payment_id: str, charge: Charge, at: datetime
    ) -> Decision:
        """Gives a decision to a payment for good; repeating it answers the same."""

        def work(db: sqlite3.Connection) -> Decision:
            earlier = _of_payment(db, tenant, payment_id)
            if earlier is not None:
                if earlier.decision_id != decision_id:
                    raise idempotency_key_reused()
                return repeated(earlier, charge)
            reported_on = db.execute(
                "SELECT 1 FROM outcomes WHERE decision_id = ? LIMIT 1", (decision_id,)
            ).fetchone()
            decision = bound(
                _of_tenant(db, tenant, decision_id),
                payment_id,
                charge,
                at,
                reported_on=reported_on is not None,
            )
            db.execute(
                "UPDATE decisions SET payment_id = ? WHERE decision_id = ?",
                (payment_id, decision_id),
            )
            return decision

        return await self._store.write(work)

    async def get(self, decision_id: str, tenant: Tenant) -> Decision:
        """Reads a decision of the tenant; raises Refusal DECISION_NOT_FOUND."""
        return await self._store.read(lambda db: _of_tenant(db, tenant, decision_id))

    async def report(
        self,
        decision_id: str,
        tenant: Tenant,
        attempt_index: int,
        processor_account_id: str,
        outcome: Outcome,
    ) -> None:
        """Logs an outcome told from outside, once per attempt."""

        def work(db: sqlite3.Connection) -> None:
            sample = reported(
                _of_tenant(db, tenant, decision_id), attempt_index, processor_account_id, outcome
            )
            if _append(db, sample):
                return
            row = db.execute(
                "SELECT processor_account_id, outcome FROM outcomes"
                " WHERE decision_id = ? AND attempt_index = ?",
                (decision_id, attempt_index),
            ).fetchone()
            if tuple(row) != (processor_account_id, outcome):
                raise Refusal(
                    Kind.INVALID_ARGUMENT,
                    "IDEMPOTENCY_KEY_REUSED",
                    "This attempt of the decision was told before with another outcome.",
                    remedy="Count attempts from 0 and tell each one's final outcome once.",
                    field="attempt_index",
                )

        await self._store.write(work)

    async def take_in(self, samples: Sequence[Sample], cursor: str) -> int:
        """Logs one event's outcomes and the cursor behind it; answers how many were new."""

        def work(db: sqlite3.Connection) -> int:
            db.execute("INSERT OR REPLACE INTO event_cursor VALUES (1, ?)", (cursor,))
            return sum(_append(db, sample) for sample in samples)

        return await self._store.write(work)

    async def learn_accounts(self, told: AddedAccounts, cursor: str) -> None:
        """Stores what a merchant's change told, if it is news, and the cursor behind it."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO event_cursor VALUES (1, ?)", (cursor,))
            db.execute(
                "INSERT INTO added_accounts VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET sequence = excluded.sequence,"
                " accounts = excluded.accounts WHERE excluded.sequence > sequence",
                (
                    told.merchant_id,
                    told.livemode,
                    told.sequence,
                    json.dumps([asdict(account) for account in told.accounts]),
                ),
            )

        await self._store.write(work)

    async def added_accounts(self) -> list[AddedAccounts]:
        """Reads the accounts that merchants have added."""

        def query(db: sqlite3.Connection) -> list[AddedAccounts]:
            return [
                AddedAccounts(
                    row["merchant_id"],
                    bool(row["livemode"]),
                    row["sequence"],
                    tuple(_added(account) for account in json.loads(row["accounts"])),
                )
                for row in db.execute("SELECT * FROM added_accounts")
            ]

        return await self._store.read(query)

    async def cursor(self) -> str:
        """Answers where to go on reading the payments' events; "" at the first start."""

        def query(db: sqlite3.Connection) -> str:
            row = db.execute("SELECT cursor FROM event_cursor").fetchone()
            return "" if row is None else str(row["cursor"])

        return await self._store.read(query)

    async def after(self, position: int) -> Sequence[tuple[int, Sample]]:
        """Reads the next page of the outcome log, oldest first."""

        def query(db: sqlite3.Connection) -> list[tuple[int, Sample]]:
            rows = db.execute(
                "SELECT * FROM outcomes WHERE position > ? ORDER BY position LIMIT ?",
                (position, PAGE_OUTCOMES_MAX),
            )
            return [(row["position"], _sample(row)) for row in rows]

        return await self._store.read(query)


def _of_tenant(db: sqlite3.Connection, tenant: Tenant, decision_id: str) -> Decision:
    row = db.execute(
        "SELECT * FROM decisions WHERE decision_id = ? AND merchant_id = ? AND livemode = ?",
        (decision_id, tenant.merchant_id, tenant.livemode),
    ).fetchone()
    if row is None:
        raise not_found()
    return _decision(row)


def _of_payment(db: sqlite3.Connection, tenant: Tenant, payment_id: str) -> Decision | None:
    # The last condition lets SQLite prove that the partial index covers the query.
    row = db.execute(
        "SELECT * FROM decisions WHERE merchant_id = ? AND livemode = ? AND payment_id = ?"
        " AND payment_id <> ''",
        (tenant.merchant_id, tenant.livemode, payment_id),
    ).fetchone()
    return None if row is None else _decision(row)


def _forget(db: sqlite3.Connection, before: datetime) -> None:
    db.execute(
        "DELETE FROM decisions WHERE decision_id IN (SELECT decision_id FROM decisions"
        " WHERE created_us < ? ORDER BY created_us LIMIT ?)",
        (_microseconds(before), FORGOTTEN_PER_WRITE),
    )


def _append(db: sqlite3.Connection, sample: Sample) -> bool:
    """Logs a sample unless its attempt stands there already; tells whether it did."""
    cursor = db.execute(
        "INSERT OR IGNORE INTO outcomes (decision_id, attempt_index, merchant_id, livemode,"
        " processor_account_id, outcome, context_schema, context) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            sample.decision_id,
            sample.attempt_index,
            sample.merchant_id,
            sample.livemode,
            sample.processor_account_id,
            sample.outcome,
            sample.context.schema,
            json.dumps(sample.context.values),
        ),
    )
    return cursor.rowcount == 1


def _added(account: dict[str, Any]) -> AddedAccount:
    fees = {currency: AddedFee(**fee) for currency, fee in account["fees"].items()}
    return AddedAccount(**{**account, "fees": fees})


def _sample(row: sqlite3.Row) -> Sample:
    return Sample(
        decision_id=row["decision_id"],
        attempt_index=row["attempt_index"],
        merchant_id=row["merchant_id"],
        livemode=bool(row["livemode"]),
        processor_account_id=row["processor_account_id"],
        outcome=Outcome(row["outcome"]),
        context=Context(row["context_schema"], tuple(json.loads(row["context"]))),
    )


def _decision(row: sqlite3.Row) -> Decision:
    route = json.loads(row["route"])
    return Decision(
        decision_id=row["decision_id"],
        tenant=Tenant(row["merchant_id"], bool(row["livemode"])),
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        instrument_hash=row["instrument_hash"],
        route=Route(
            ranking=tuple(
                RankedAccount(**{**ranked, "reasons": tuple(ranked["reasons"])})
                for ranked in route["ranking"]
            ),
            excluded=tuple(Exclusion(**excluded) for excluded in route["excluded"]),
            policy_version=route["policy_version"],
            explored=route["explored"],
            context=Context(route["context"]["schema"], tuple(route["context"]["values"])),
        ),
        payment_id=row["payment_id"],
        created_at=_EPOCH + row["created_us"] * _MICROSECOND,
        expires_at=_EPOCH + row["expires_us"] * _MICROSECOND,
    )


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
