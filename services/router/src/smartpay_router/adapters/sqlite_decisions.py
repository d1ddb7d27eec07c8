"""The durable decisions, in the same file as their outcomes."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta

from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.route_documents import route_document, route_of
from smartpay_router.adapters.sqlite_outcomes import append, packed
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.decision import (
    Decision,
    bound,
    not_found,
    repeated,
    reported,
)
from smartpay_router.domain.outcome import Outcome, arm_of
from smartpay_router.domain.tenant import Tenant

FORGOTTEN_PER_WRITE = 2  # more than one new decision brings, so that the table ever shrinks
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SqliteDecisions:
    """The port `Decisions` on the router's file.

    Args:
        store: the open file; replicas of one machine may share it.
        owner: this replica's name; it waits for the outcomes of what it decides.
        retention: how long a decision is kept.
    """

    def __init__(self, store: SqliteStore, owner: str, retention: timedelta) -> None:
        self._store = store
        self._owner = owner
        self._retention = retention

    async def keep(self, made: Decision, charge: Charge) -> Decision:
        """Stores a new decision, or answers the one its payment already has."""
        document = route_document(made.route)

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
                    document,
                    made.payment_id,
                    _microseconds(made.created_at),
                    _microseconds(made.expires_at),
                ),
            )
            self._wait_for(db, made)
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
                "SELECT 1 FROM outcome_log WHERE decision_id = ? LIMIT 1", (decision_id,)
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
        at: datetime,
    ) -> None:
        """Logs an outcome told from outside, once per attempt."""

        def work(db: sqlite3.Connection) -> None:
            sample = reported(
                _of_tenant(db, tenant, decision_id),
                attempt_index,
                processor_account_id,
                outcome,
                at,
            )
            if append(db, sample, self._owner):
                return
            row = db.execute(
                "SELECT processor_account_id, outcome FROM outcome_log"
                " WHERE decision_id = ? AND attempt_index = ? AND is_final = 1",
                (decision_id, attempt_index),
            ).fetchone()
            # None: the decision is older than what the log still holds, and counts no more.
            if row is not None and tuple(row) != (processor_account_id, outcome):
                raise Refusal(
                    Kind.INVALID_ARGUMENT,
                    "IDEMPOTENCY_KEY_REUSED",
                    "This attempt of the decision was told before with another outcome.",
                    remedy="Count attempts from 0 and tell each one's final outcome once.",
                    field="attempt_index",
                )

        await self._store.write(work)

    def _wait_for(self, db: sqlite3.Connection, made: Decision) -> None:
        """Remembers a decision until its first try has ended, so that a restart waits on."""
        if not made.route.ranking:
            return
        first = made.route.ranking[0]
        arm = arm_of(first.processor_account_id, first.processor, livemode=made.tenant.livemode)
        db.execute(
            "INSERT INTO open_decisions VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                made.decision_id,
                self._owner,
                arm.account,
                arm.model,
                made.created_at.timestamp(),
                made.route.context.schema,
                packed(made.route.context.values),
            ),
        )


def _of_tenant(db: sqlite3.Connection, tenant: Tenant, decision_id: str) -> Decision:
    row = db.execute(
        "SELECT * FROM decisions WHERE decision_id = ? AND merchant_id = ? AND livemode = ?",
        (decision_id, tenant.merchant_id, tenant.livemode),
    ).fetchone()
    if row is None:
        raise not_found()
    return decision_of(row)


def _of_payment(db: sqlite3.Connection, tenant: Tenant, payment_id: str) -> Decision | None:
    # The last condition lets SQLite prove that the partial index covers the query.
    row = db.execute(
        "SELECT * FROM decisions WHERE merchant_id = ? AND livemode = ? AND payment_id = ?"
        " AND payment_id <> ''",
        (tenant.merchant_id, tenant.livemode, payment_id),
    ).fetchone()
    return None if row is None else decision_of(row)


def _forget(db: sqlite3.Connection, before: datetime) -> None:
    db.execute(
        "DELETE FROM decisions WHERE decision_id IN (SELECT decision_id FROM decisions"
        " WHERE created_us < ? ORDER BY created_us LIMIT ?)",
        (_microseconds(before), FORGOTTEN_PER_WRITE),
    )


def decision_of(row: sqlite3.Row) -> Decision:
    """Reads a row of the table."""
    return Decision(
        decision_id=row["decision_id"],
        tenant=Tenant(row["merchant_id"], bool(row["livemode"])),
        amount_minor=row["amount_minor"],
        currency=row["currency"],
        instrument_hash=row["instrument_hash"],
        route=route_of(row["route"]),
        payment_id=row["payment_id"],
        created_at=_EPOCH + row["created_us"] * _MICROSECOND,
        expires_at=_EPOCH + row["expires_us"] * _MICROSECOND,
    )


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
