"""The outcome log, the payments' cursor and what chargebacks take back, changed together."""

from __future__ import annotations

import json
import sqlite3
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.domain.accounts import AddedAccount, AddedAccounts, AddedFee
from smartpay_router.domain.chargebacks import Chargeback, Tally, day_of
from smartpay_router.domain.learner import Arm
from smartpay_router.domain.learning import (
    PAGE_ROWS,
    WAITING_MAX,
    LoggedOutcomes,
    OpenDecision,
)
from smartpay_router.domain.outcome import Outcome, Sample
from smartpay_router.domain.replicas import BASE

SWEPT_PER_WRITE = 1_000
"""Open decisions or old outcomes that go in one unit of work, so that no call waits behind it."""


ROWS_PER_FETCH = 256
"""Rows that exist as such at once: with 700 or more the garbage collector would look at them."""


class SqliteOutcomes:
    """The ports `OutcomeLog` and `EventStore` on the router's file.

    Args:
        store: the open file; replicas of one machine may share it.
        owner: this replica's name; what it takes in, it learns.
    """

    def __init__(self, store: SqliteStore, owner: str) -> None:
        self._store = store
        self._owner = owner

    async def take_in(
        self, samples: Sequence[Sample], chargebacks: Sequence[Chargeback], cursor: str
    ) -> int:
        """Logs what one event told and the cursor behind it; answers how many outcomes were new.

        Replicas that follow the same stream may store each other's cursors: all that comes
        before any of them is in the log.
        """

        def work(db: sqlite3.Connection) -> int:
            _store_cursor(db, cursor)
            for chargeback in chargebacks:
                _count(db, chargeback)
            return sum(append(db, sample, self._owner) for sample in samples)

        return await self._store.write(work)

    async def learn_accounts(self, told: AddedAccounts, cursor: str) -> None:
        """Stores what a merchant's change told, if it is news, and the cursor behind it."""

        def work(db: sqlite3.Connection) -> None:
            _store_cursor(db, cursor)
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

    async def after(
        self, position: int, owner: str, schema: str, rows_max: int = PAGE_ROWS
    ) -> LoggedOutcomes:
        """Reads the next page of the log; contexts only of the owner's rows, of that schema."""

        def query(db: sqlite3.Connection) -> LoggedOutcomes:
            cursor = db.cursor()
            cursor.row_factory = None
            cursor.execute(
                "SELECT position, decision_id, is_final, processor_account_id, processor,"
                " livemode, outcome, several_rails, heard_before, decided_at, at,"
                " CASE WHEN owner = ? AND context_schema = ? THEN context END"
                " FROM outcome_log WHERE position > ? ORDER BY position LIMIT ?",
                (owner, schema, position, rows_max),
            )
            columns: list[list[Any]] = [[] for _ in LoggedOutcomes._fields]
            while rows := cursor.fetchmany(ROWS_PER_FETCH):
                for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                    column += values
            return LoggedOutcomes(*columns)

        return await self._store.read(query)

    async def open_decisions(self, decided_after: float) -> Sequence[OpenDecision]:
        """Reads this replica's youngest decisions whose first try has not ended, oldest first."""

        def query(db: sqlite3.Connection) -> list[OpenDecision]:
            rows = db.execute(
                "SELECT * FROM open_decisions WHERE decided_at > ? AND owner = ?"
                " ORDER BY decided_at DESC LIMIT ?",
                (decided_after, self._owner, WAITING_MAX),
            ).fetchall()
            return [
                OpenDecision(
                    row["decision_id"],
                    Arm(row["processor_account_id"], row["model"]),
                    row["decided_at"],
                    row["context_schema"],
                    row["context"],
                )
                for row in reversed(rows)
            ]

        return await self._store.read(query)

    async def give_up(self, decided_before: float) -> int:
        """Counts open decisions from before a moment as missing; answers how many there were.

        Whoever sweeps first counts them, whichever replica made them.
        """

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "DELETE FROM open_decisions WHERE decision_id IN (SELECT decision_id"
                " FROM open_decisions WHERE decided_at < ? ORDER BY decided_at LIMIT ?)"
                " RETURNING model, decided_at",
                (decided_before, SWEPT_PER_WRITE),
            ).fetchall()
            for row in rows:
                _tally(db, row["model"], day_of(row["decided_at"]), missing=1)
            return len(rows)

        return await self._store.write(work)

    async def tallies(self, first_day: int, last_day: int) -> Mapping[str, Tally]:
        """Adds up what became of each model's charges within some days, both ends included."""

        def query(db: sqlite3.Connection) -> dict[str, Tally]:
            rows = db.execute(
                "SELECT model, sum(successes) AS successes, sum(chargebacks) AS chargebacks,"
                " sum(lost_shares) AS lost_shares, sum(missing) AS missing"
                " FROM daily_tallies WHERE day BETWEEN ? AND ? GROUP BY model",
                (first_day, last_day),
            )
            return {
                row["model"]: Tally(
                    row["successes"], row["chargebacks"], row["lost_shares"], row["missing"]
                )
                for row in rows
            }

        return await self._store.read(query)

    async def forget(self, decided_before: float, position: int) -> int:
        """Drops old outcomes that a stored state contains, this replica's or the base's.

        From then on the log takes no outcome of a decision from before that moment: it could not
        tell any more whether it counted already. Answers how many rows went.
        """

        def work(db: sqlite3.Connection) -> int:
            db.execute(
                "INSERT INTO outcome_horizon VALUES (1, ?) ON CONFLICT DO UPDATE"
                " SET decided_at = max(decided_at, excluded.decided_at)",
                (decided_before,),
            )
            # Only the oldest rows are looked at, or a long log would be read to its end in vain.
            return db.execute(
                "DELETE FROM outcome_log WHERE position IN (SELECT position FROM"
                " (SELECT position, owner, decided_at FROM outcome_log ORDER BY position LIMIT ?)"
                " WHERE (owner = ? AND position <= ? OR owner = ?) AND decided_at < ?)",
                (SWEPT_PER_WRITE, self._owner, position, BASE, decided_before),
            ).rowcount

        return await self._store.write(work)


def append(db: sqlite3.Connection, sample: Sample, owner: str) -> bool:
    """Logs a sample unless its try stands there already; tells whether it did.

    A try that was unanswered may still end once; once it has ended nothing more is taken.
    """
    earlier = db.execute(
        "SELECT max(is_final) FROM outcome_log WHERE decision_id = ? AND attempt_index = ?",
        (sample.decision_id, sample.attempt_index),
    ).fetchone()[0]
    final = sample.outcome.is_final
    if earlier == 1 or (earlier == 0 and not final) or _is_behind_horizon(db, sample):
        return False
    db.execute(
        "INSERT INTO outcome_log (owner, decision_id, attempt_index, is_final, merchant_id,"
        " livemode, processor_account_id, processor, outcome, several_rails, heard_before,"
        " decided_at, at, context_schema, context)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            owner,
            sample.decision_id,
            sample.attempt_index,
            final,
            sample.merchant_id,
            sample.livemode,
            sample.processor_account_id,
            sample.processor,
            sample.outcome,
            sample.several_rails,
            earlier is not None,
            sample.decided_at,
            sample.at,
            sample.context.schema,
            packed(sample.context.values),
        ),
    )
    if final:
        db.execute("DELETE FROM open_decisions WHERE decision_id = ?", (sample.decision_id,))
    if sample.outcome is Outcome.SUCCEEDED:
        _tally(db, sample.arm.model, day_of(sample.decided_at), successes=1)
    return True


def packed(values: Sequence[float]) -> bytes:
    """Writes a context's values as float64, little endian."""
    numbers = array("d", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _is_behind_horizon(db: sqlite3.Connection, sample: Sample) -> bool:
    row = db.execute("SELECT decided_at FROM outcome_horizon").fetchone()
    return row is not None and sample.decided_at < row["decided_at"]


def _store_cursor(db: sqlite3.Connection, cursor: str) -> None:
    db.execute("INSERT OR REPLACE INTO event_cursor VALUES (1, ?)", (cursor,))


def _count(db: sqlite3.Connection, chargeback: Chargeback) -> None:
    """Counts a dispute as its newest change says; an older change than known changes nothing."""
    known = db.execute(
        "SELECT sequence, share FROM chargebacks WHERE dispute_id = ?", (chargeback.dispute_id,)
    ).fetchone()
    if known is not None and chargeback.sequence <= known["sequence"]:
        return
    before = 0.0 if known is None else known["share"]
    db.execute(
        "INSERT OR REPLACE INTO chargebacks VALUES (?, ?, ?, ?, ?, ?)",
        (
            chargeback.dispute_id,
            chargeback.sequence,
            chargeback.decision_id,
            chargeback.model,
            chargeback.day,
            chargeback.share,
        ),
    )
    _tally(
        db,
        chargeback.model,
        chargeback.day,
        chargebacks=(chargeback.share > 0) - (before > 0),
        lost_shares=chargeback.share - before,
    )


def _tally(
    db: sqlite3.Connection,
    model: str,
    day: int,
    *,
    successes: int = 0,
    missing: int = 0,
    chargebacks: int = 0,
    lost_shares: float = 0.0,
) -> None:
    db.execute(
        "INSERT INTO daily_tallies VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " successes = successes + excluded.successes, missing = missing + excluded.missing,"
        " chargebacks = chargebacks + excluded.chargebacks,"
        " lost_shares = lost_shares + excluded.lost_shares",
        (model, day, successes, missing, chargebacks, lost_shares),
    )


def _added(account: dict[str, Any]) -> AddedAccount:
    fees = {currency: AddedFee(**fee) for currency, fee in account["fees"].items()}
    return AddedAccount(**{**account, "fees": fees})
