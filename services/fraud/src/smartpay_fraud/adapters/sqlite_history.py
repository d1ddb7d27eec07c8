"""The embedded history: every score, label and outcome in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.adapters.migrations import MIGRATIONS
from smartpay_fraud.adapters.sqlite_assessments import (
    OF_KEY,
    PAYMENT,
    assessment_of,
    insert_assessments,
    transaction_of,
)
from smartpay_fraud.adapters.sqlite_reviews import insert_review
from smartpay_fraud.adapters.sqlite_traces import (
    customer_print,
    is_due,
    retrace,
    trace,
    trace_all,
)
from smartpay_fraud.domain.assessment import Assessment, Claim, Finding, Happening
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.domain.scoring import BEGINNING, Place
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

REPLAY_PAGE = 2_000
"""Rows read at once at start: large enough to be quick, small enough to keep memory flat."""

ERASED_PAGE = 500
"""Scores blanked in one write; bounds how long others wait for an erasure."""

_PAYMENTS_STREAM = "payments"
_BLANK = (
    "UPDATE assessments SET customer_id = '', instrument_id = '', device_id = '', ip_address = ''"
    " WHERE number = ?"
)


class SqliteHistory:
    """Keeps what must outlive the process; memory is rebuilt from it at start."""

    def __init__(self, store: SqliteStore, feature_set: int) -> None:
        self.store = store
        self._feature_set = feature_set

    @classmethod
    async def open(cls, path: Path) -> SqliteHistory:
        """Opens or creates the file."""
        store = await SqliteStore.open(path, MIGRATIONS)
        while await store.write(trace):  # page by page, after a new release or a sudden end
            pass
        return cls(store, await store.write(_feature_set))

    async def close(self) -> None:
        """Finishes what is queued and closes the file."""
        await self.store.close()

    async def add_all(self, assessments: Sequence[Assessment]) -> list[Assessment]:
        """Stores first assessments and opens their reviews, durably and all at once.

        Where there is an earlier assessment of a transaction, that one is answered.
        """

        def work(connection: sqlite3.Connection) -> list[Assessment]:
            return _added(connection, assessments, self._feature_set)

        return await self.store.write(work)

    async def find_all(self, keys: Collection[TransactionKey]) -> dict[TransactionKey, Assessment]:
        """Reads the assessments of these transactions."""

        def query(connection: sqlite3.Connection) -> dict[TransactionKey, Assessment]:
            found = ((key, assessment_of(connection, key)) for key in keys)
            return {key: assessment for key, assessment in found if assessment is not None}

        return await self.store.read(query)

    async def add_claims(self, claims: Sequence[Claim], cursor: str | None) -> list[Happening]:
        """Stores claims and their cursor in one transaction; answers the claims that were new."""

        def work(connection: sqlite3.Connection) -> list[Happening]:
            news = [happening for claim in claims if (happening := _taken_in(connection, claim))]
            if cursor is not None:
                connection.execute(
                    "INSERT INTO cursors VALUES (?, ?)"
                    " ON CONFLICT DO UPDATE SET cursor = excluded.cursor",
                    (_PAYMENTS_STREAM, cursor),
                )
            return news

        return await self.store.write(work)

    async def cursor(self) -> str:
        """Where to go on in the payments' events; "" at the very start."""

        def query(connection: sqlite3.Connection) -> str:
            row = connection.execute(
                "SELECT cursor FROM cursors WHERE stream = ?", (_PAYMENTS_STREAM,)
            ).fetchone()
            return str(row["cursor"]) if row else ""

        return await self.store.read(query)

    async def place(self) -> Place:
        """Reads the numbers of the last score and the last finding."""

        def query(connection: sqlite3.Connection) -> Place:
            row = connection.execute(
                "SELECT (SELECT max(number) FROM assessments) AS score,"
                " (SELECT max(number) FROM findings) AS finding"
            ).fetchone()
            return Place(row["score"] or 0, row["finding"] or 0)

        return await self.store.read(query)

    async def replay(
        self, since_ms: int, limit: int, after: Place = BEGINNING
    ) -> AsyncIterator[Happening]:
        """Answers the last `limit` scores since then, oldest first, then the findings about them.

        Findings come last because each only marks a payment that must be remembered already.
        """
        first = await self.store.read(lambda connection: _last_before(connection, limit))
        last = first
        while rows := await self._rows(
            f"SELECT {PAYMENT}, a.number, a.scored_ms, a.verdict, a.score FROM assessments a"
            " WHERE a.number > ? AND a.scored_ms >= ? ORDER BY a.number LIMIT ?",
            (last, since_ms, REPLAY_PAGE),
        ):
            for row in rows:
                blocked = row["verdict"] == Verdict.BLOCK.value
                yield Happening(
                    transaction_of(row),
                    row["scored_ms"],
                    blocked=blocked,
                    score=row["score"],
                    is_remembered=row["number"] <= after.score,
                )
            last = rows[-1]["number"]
        last = 0
        while rows := await self._rows(
            f"SELECT {PAYMENT}, f.number, f.finding, f.known_ms FROM findings f"
            " JOIN assessments a USING (merchant_id, livemode, transaction_id)"
            " WHERE f.number > ? AND a.number > ? AND a.scored_ms >= ?"
            " ORDER BY f.number LIMIT ?",
            (last, first, since_ms, REPLAY_PAGE),
        ):
            for row in rows:
                finding = Finding(row["finding"])
                yield Happening(
                    transaction_of(row),
                    row["known_ms"],
                    finding,
                    is_remembered=row["number"] <= after.finding,
                )
            last = rows[-1]["number"]

    async def erase(self, customer_key: str, before_ms: int) -> tuple[str, int]:
        """Blanks who paid in the scores of a customer; amounts, verdicts and labels stay.

        Args:
            customer_key: see `customer_key`.
            before_ms: only what was scored before; the id may be a new customer since.

        Returns:
            The merchant's id of the customer and how many scores were blanked; "" and 0 when
            there are none (left).
        """
        known = ""

        def work(connection: sqlite3.Connection) -> list[Transaction]:
            trace_all(connection)
            rows = connection.execute(
                f"SELECT {PAYMENT}, a.number FROM traces"
                " JOIN assessments a ON a.number = traces.rowid"
                " WHERE traces MATCH ? AND a.scored_ms < ? ORDER BY traces.rowid LIMIT ?",
                (customer_print(customer_key), before_ms, ERASED_PAGE),
            ).fetchall()
            told = [(row["number"], transaction_of(row)) for row in rows]
            connection.executemany(_BLANK, [(number,) for number, _ in told])
            retrace(connection, [(number, t, _blanked(t)) for number, t in told])
            return [transaction for _, transaction in told]

        erased = 0
        while blanked := await self.store.write(work):
            known = blanked[0].customer_id
            erased += len(blanked)
        return known, erased

    async def _rows(self, query: str, parameters: tuple[int, ...]) -> list[sqlite3.Row]:
        return await self.store.read(lambda c: c.execute(query, parameters).fetchall())


def _feature_set(connection: sqlite3.Connection) -> int:
    names = json.dumps(FEATURES)
    connection.execute("INSERT OR IGNORE INTO feature_sets (names) VALUES (?)", (names,))
    row = connection.execute("SELECT number FROM feature_sets WHERE names = ?", (names,)).fetchone()
    return int(row["number"])


def _added(
    connection: sqlite3.Connection, assessments: Sequence[Assessment], feature_set: int
) -> list[Assessment]:
    new, last = insert_assessments(connection, assessments, feature_set)
    kept = []
    for assessment, is_new in zip(assessments, new, strict=True):
        if is_new and assessment.opens_review:
            insert_review(connection, assessment)
        earlier = None if is_new else assessment_of(connection, assessment.transaction.key)
        kept.append(earlier or assessment)
    if any(new) and is_due(last - sum(new), last):
        trace(connection)
    return kept


def _blanked(transaction: Transaction) -> Transaction:
    return replace(transaction, customer_id="", instrument_id="", device_id="", ip_address="")


def _last_before(connection: sqlite3.Connection, limit: int) -> int:
    row = connection.execute(
        "SELECT number FROM assessments ORDER BY number DESC LIMIT 1 OFFSET ?", (limit,)
    ).fetchone()
    return int(row["number"]) if row else 0


def _taken_in(connection: sqlite3.Connection, claim: Claim) -> Happening | None:
    """Stores one claim; None when it is a repeat or nothing was scored under its key."""
    row = connection.execute(
        f"SELECT {PAYMENT} FROM assessments a WHERE {OF_KEY}", claim.key
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
    return Happening(transaction_of(row), known_ms, claim.finding)
