"""The embedded history: every score, label and outcome in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import fields
from pathlib import Path

from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.adapters.migrations import MIGRATIONS
from smartpay_fraud.adapters.sqlite_reviews import customer_key, insert_review
from smartpay_fraud.domain.assessment import Assessment, Claim, Finding, Happening, Shadow
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.domain.reasons import Reason
from smartpay_fraud.domain.scoring import BEGINNING, Place
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

REPLAY_PAGE = 2_000
"""Rows read at once at start: large enough to be quick, small enough to keep memory flat."""

ERASED_PAGE = 500
"""Scores blanked in one write; bounds how long others wait for an erasure."""

_PAYMENTS_STREAM = "payments"
_INPUTS = [field.name for field in fields(Transaction)]
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one per call
_FOUND = (
    "SELECT input, output, scored_ms, verdict, shadow_version, shadow_score FROM assessments"
    " WHERE merchant_id = ? AND livemode = ? AND transaction_id = ?"
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
        return cls(store, await store.write(_feature_set))

    async def close(self) -> None:
        """Finishes what is queued and closes the file."""
        await self.store.close()

    async def add_all(self, assessments: Sequence[Assessment]) -> list[Assessment]:
        """Stores first assessments and opens their reviews, durably and all at once.

        Where there is an earlier assessment of a transaction, that one is answered.
        """

        def work(connection: sqlite3.Connection) -> list[Assessment]:
            return [_added(connection, each, self._feature_set) for each in assessments]

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
            "SELECT number, input, scored_ms, verdict,"
            " json_extract(output, '$.score') AS score FROM assessments"
            " WHERE number > ? AND scored_ms >= ? ORDER BY number LIMIT ?",
            (last, since_ms, REPLAY_PAGE),
        ):
            for row in rows:
                blocked = row["verdict"] == Verdict.BLOCK.value
                transaction = transaction_of(row["input"])
                yield Happening(
                    transaction,
                    row["scored_ms"],
                    blocked=blocked,
                    score=row["score"],
                    is_remembered=row["number"] <= after.score,
                )
            last = rows[-1]["number"]
        last = 0
        while rows := await self._rows(
            "SELECT f.number, a.input, f.finding, f.known_ms FROM findings f"
            " JOIN assessments a USING (merchant_id, livemode, transaction_id)"
            " WHERE f.number > ? AND a.number > ? AND a.scored_ms >= ?"
            " ORDER BY f.number LIMIT ?",
            (last, first, since_ms, REPLAY_PAGE),
        ):
            for row in rows:
                finding = Finding(row["finding"])
                yield Happening(
                    transaction_of(row["input"]),
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
        key, known = bytes.fromhex(customer_key), ""
        wanted = "SELECT number, input FROM assessments WHERE customer_key = ? AND scored_ms < ?"

        def work(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(f"{wanted} LIMIT ?", (key, before_ms, ERASED_PAGE)).fetchall()
            connection.executemany(
                "UPDATE assessments SET customer_key = NULL, instrument_id = NULL,"
                " device_id = NULL, ip_address = NULL, input = json_set(input,"
                " '$.customer_id', '', '$.instrument_id', '', '$.device_id', '',"
                " '$.ip_address', '') WHERE number = ?",
                [(row["number"],) for row in rows],
            )
            return [row["input"] for row in rows]

        erased = 0
        while inputs := await self.store.write(work):
            known = transaction_of(inputs[0]).customer_id
            erased += len(inputs)
        return known, erased

    async def _rows(self, query: str, parameters: tuple[int, ...]) -> list[sqlite3.Row]:
        return await self.store.read(lambda c: c.execute(query, parameters).fetchall())


def assessment_of(connection: sqlite3.Connection, key: TransactionKey) -> Assessment | None:
    """Reads one assessment, without its row."""
    row = connection.execute(_FOUND, key).fetchone()
    if row is None:
        return None
    output = json.loads(row["output"])
    shadow = row["shadow_version"]
    return Assessment(
        transaction=transaction_of(row["input"]),
        verdict=Verdict(row["verdict"]),
        score=output["score"],
        reasons=tuple(Reason(*reason) for reason in output["reasons"]),
        model_version=output["model_version"],
        rules_version=output["rules_version"],
        scored_ms=row["scored_ms"],
        margin=output.get("margin", 0.0),
        shadow=None if shadow is None else Shadow(shadow, row["shadow_score"]),
        matched_rules=tuple(output.get("matched_rules", ())),
        matched_lists=tuple(output.get("matched_lists", ())),
        opens_review=output.get("opens_review", False),
        control=output.get("control", False),
    )


def transaction_of(text: str) -> Transaction:
    """Reads a stored input; fields that came later are absent in older ones."""
    return Transaction(**json.loads(text))


def _feature_set(connection: sqlite3.Connection) -> int:
    names = json.dumps(FEATURES)
    connection.execute("INSERT OR IGNORE INTO feature_sets (names) VALUES (?)", (names,))
    row = connection.execute("SELECT number FROM feature_sets WHERE names = ?", (names,)).fetchone()
    return int(row["number"])


def _added(connection: sqlite3.Connection, assessment: Assessment, feature_set: int) -> Assessment:
    transaction, shadow = assessment.transaction, assessment.shadow
    inserted = connection.execute(
        "INSERT INTO assessments (merchant_id, livemode, transaction_id, scored_ms, verdict,"
        " input, output, feature_set, row, shadow_version, shadow_score, customer_key,"
        " instrument_id, device_id, ip_address)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            *transaction.key,
            assessment.scored_ms,
            assessment.verdict.value,
            _ENCODE(_input(transaction)),
            _ENCODE(_output(assessment)),
            feature_set if assessment.row else None,
            assessment.row or None,
            shadow and shadow.model_version,
            shadow and shadow.probability,
            customer_key(transaction) if transaction.customer_id else None,
            transaction.instrument_id or None,
            transaction.device_id or None,
            transaction.ip_address or None,
        ),
    )
    if inserted.rowcount == 0:
        return assessment_of(connection, transaction.key) or assessment
    if assessment.opens_review:
        insert_review(connection, assessment)
    return assessment


def _input(transaction: Transaction) -> dict[str, object]:
    return {name: getattr(transaction, name) for name in _INPUTS}


def _output(assessment: Assessment) -> dict[str, object]:
    return {
        "score": assessment.score,
        "margin": assessment.margin,
        "reasons": [
            [r.code, r.message, r.contribution, dict(r.values)] for r in assessment.reasons
        ],
        "model_version": assessment.model_version,
        "rules_version": assessment.rules_version,
        "matched_rules": assessment.matched_rules,
        "matched_lists": assessment.matched_lists,
        "opens_review": assessment.opens_review,
        "control": assessment.control,
    }


def _last_before(connection: sqlite3.Connection, limit: int) -> int:
    row = connection.execute(
        "SELECT number FROM assessments ORDER BY number DESC LIMIT 1 OFFSET ?", (limit,)
    ).fetchone()
    return int(row["number"]) if row else 0


def _taken_in(connection: sqlite3.Connection, claim: Claim) -> Happening | None:
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
    return Happening(transaction_of(row["input"]), known_ms, claim.finding)
