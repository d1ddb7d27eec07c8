"""The embedded history: every score, label and outcome in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path

from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.domain.reasons import Reason
from smartpay_fraud.domain.scoring import Assessment, Claim, Finding, Memory
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

MIGRATIONS = (
    """
    CREATE TABLE assessments (
        number INTEGER PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        transaction_id TEXT NOT NULL,
        scored_ms INTEGER NOT NULL,
        verdict TEXT NOT NULL,
        input TEXT NOT NULL,
        output TEXT NOT NULL,
        UNIQUE (merchant_id, livemode, transaction_id)
    );
    CREATE TABLE findings (
        number INTEGER PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        transaction_id TEXT NOT NULL,
        name TEXT NOT NULL,
        finding TEXT NOT NULL,
        known_ms INTEGER NOT NULL,
        UNIQUE (merchant_id, livemode, transaction_id, name)
    );
    CREATE TABLE cursors (stream TEXT PRIMARY KEY, cursor TEXT NOT NULL) WITHOUT ROWID
    """,
)

REPLAY_PAGE = 2_000
"""Rows read at once at start: large enough to be quick, small enough to keep memory flat."""

_PAYMENTS_STREAM = "payments"


class SqliteHistory:
    """Keeps what must outlive the process; memory is rebuilt from it at start."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    @classmethod
    async def open(cls, path: Path) -> SqliteHistory:
        """Opens or creates the file."""
        return cls(await SqliteStore.open(path, MIGRATIONS))

    async def close(self) -> None:
        """Finishes what is queued and closes the file."""
        await self._store.close()

    async def add(self, assessment: Assessment) -> Assessment:
        """Stores a first assessment durably; answers the one stored earlier if there is one."""
        key = assessment.transaction.key

        def work(connection: sqlite3.Connection) -> Assessment:
            inserted = connection.execute(
                "INSERT INTO assessments (merchant_id, livemode, transaction_id, scored_ms,"
                " verdict, input, output) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    *key,
                    assessment.scored_ms,
                    assessment.verdict.value,
                    _input_text(assessment.transaction),
                    _output_text(assessment),
                ),
            )
            if inserted.rowcount:
                return assessment
            return _found(connection, key) or assessment

        return await self._store.write(work)

    async def find(self, key: TransactionKey) -> Assessment | None:
        """Reads the assessment of a transaction."""
        return await self._store.read(lambda connection: _found(connection, key))

    async def add_claims(self, claims: Sequence[Claim], cursor: str | None) -> list[Memory]:
        """Stores claims and their cursor in one transaction; answers the claims that were new."""

        def work(connection: sqlite3.Connection) -> list[Memory]:
            news = [memory for claim in claims if (memory := _taken_in(connection, claim))]
            if cursor is not None:
                connection.execute(
                    "INSERT INTO cursors VALUES (?, ?)"
                    " ON CONFLICT DO UPDATE SET cursor = excluded.cursor",
                    (_PAYMENTS_STREAM, cursor),
                )
            return news

        return await self._store.write(work)

    async def cursor(self) -> str:
        """Where to go on in the payments' events; "" at the very start."""

        def query(connection: sqlite3.Connection) -> str:
            row = connection.execute(
                "SELECT cursor FROM cursors WHERE stream = ?", (_PAYMENTS_STREAM,)
            ).fetchone()
            return str(row["cursor"]) if row else ""

        return await self._store.read(query)

    async def replay(self, since_ms: int, limit: int) -> AsyncIterator[Memory]:
        """Answers the last `limit` scores since then, oldest first, then the findings about them.

        Findings come last because each only marks a payment that must be remembered already.
        """
        after = await self._store.read(lambda connection: _last_before(connection, limit))
        first = after
        while rows := await self._rows(
            "SELECT number, input, scored_ms, verdict FROM assessments"
            " WHERE number > ? AND scored_ms >= ? ORDER BY number LIMIT ?",
            (after, since_ms, REPLAY_PAGE),
        ):
            for row in rows:
                blocked = row["verdict"] == Verdict.BLOCK.value
                yield Memory(_transaction(row["input"]), row["scored_ms"], blocked=blocked)
            after = rows[-1]["number"]
        after = 0
        while rows := await self._rows(
            "SELECT f.number, a.input, f.finding, f.known_ms FROM findings f"
            " JOIN assessments a USING (merchant_id, livemode, transaction_id)"
            " WHERE f.number > ? AND a.number > ? AND a.scored_ms >= ?"
            " ORDER BY f.number LIMIT ?",
            (after, first, since_ms, REPLAY_PAGE),
        ):
            for row in rows:
                finding = Finding(row["finding"])
                yield Memory(_transaction(row["input"]), row["known_ms"], finding)
            after = rows[-1]["number"]

    async def _rows(self, query: str, parameters: tuple[int, ...]) -> list[sqlite3.Row]:
        return await self._store.read(lambda c: c.execute(query, parameters).fetchall())


def _last_before(connection: sqlite3.Connection, limit: int) -> int:
    row = connection.execute(
        "SELECT number FROM assessments ORDER BY number DESC LIMIT 1 OFFSET ?", (limit,)
    ).fetchone()
    return int(row["number"]) if row else 0


def _found(connection: sqlite3.Connection, key: TransactionKey) -> Assessment | None:
    row = connection.execute(
        "SELECT input, output, scored_ms, verdict FROM assessments"
        " WHERE merchant_id = ? AND livemode = ? AND transaction_id = ?",
        key,
    ).fetchone()
    if row is None:
        return None
    output = json.loads(row["output"])
    return Assessment(
        transaction=_transaction(row["input"]),
        verdict=Verdict(row["verdict"]),
        score=output["score"],
        reasons=tuple(Reason(*reason) for reason in output["reasons"]),
        model_version=output["model_version"],
        rules_version=output["rules_version"],
        scored_ms=row["scored_ms"],
    )


def _taken_in(connection: sqlite3.Connection, claim: Claim) -> Memory | None:
    """Stores one claim; None when it is a repeat or nothing was scored under its key."""
    row = connection.execute(
        "SELECT input FROM assessments"
        " WHERE merchant_id = ? AND livemode = ? AND transaction_id = ?",
        claim.key,
    ).fetchone()
    if row is None:
        return None
    finding, known_ms = claim.finding.value, claim.known_ms
    stored = connection.execute(
        "SELECT finding, known_ms FROM findings"
        " WHERE merchant_id = ? AND livemode = ? AND transaction_id = ? AND name = ?",
        (*claim.key, claim.name),
    ).fetchone()
    repeated = stored is not None and stored["finding"] == finding
    if repeated and known_ms in (None, stored["known_ms"]):
        return None
    known_ms = claim.heard_ms if known_ms is None else known_ms
    # A changed word gets a new number, so that a replay takes it in after the older ones.
    connection.execute(
        "INSERT OR REPLACE INTO findings (merchant_id, livemode, transaction_id, name, finding,"
        " known_ms) VALUES (?, ?, ?, ?, ?, ?)",
        (*claim.key, claim.name, finding, known_ms),
    )
    return Memory(_transaction(row["input"]), known_ms, claim.finding)


def _input_text(transaction: Transaction) -> str:
    return json.dumps(asdict(transaction), separators=(",", ":"))


def _output_text(assessment: Assessment) -> str:
    output = {
        "score": assessment.score,
        "reasons": [[r.code, r.message, r.contribution] for r in assessment.reasons],
        "model_version": assessment.model_version,
        "rules_version": assessment.rules_version,
    }
    return json.dumps(output, separators=(",", ":"))


def _transaction(text: str) -> Transaction:
    return Transaction(**json.loads(text))
