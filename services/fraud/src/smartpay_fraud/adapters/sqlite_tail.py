"""Reads from the embedded history what a snapshot lacks, beside the service that writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from smartpay_fraud.adapters.sqlite_assessments import OF_KEY, PAYMENT, transaction_of
from smartpay_fraud.domain.assessment import Finding, Happening
from smartpay_fraud.domain.scoring import Place
from smartpay_fraud.domain.transaction import TransactionKey
from smartpay_fraud.domain.verdict import Verdict

_SCORES = (
    f"SELECT {PAYMENT}, a.scored_ms, a.verdict FROM assessments a"
    " WHERE a.number > ? AND a.number <= ? ORDER BY a.number"
)
_FINDINGS = (
    f"SELECT {PAYMENT}, f.finding, f.known_ms FROM findings f"
    " JOIN assessments a USING (merchant_id, livemode, transaction_id)"
    " WHERE f.number > ? AND f.number <= ? ORDER BY f.number"
)
_ERASED = f"SELECT a.customer_id = '' AS erased FROM assessments a WHERE {OF_KEY}"


class SqliteTail:
    """A reader in a process of its own; SQLite's log lets it read while others write."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA query_only=ON")

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def place(self) -> Place:
        """The end of the history now: findings up to it are about scores up to it."""
        row = self._connection.execute(
            "SELECT (SELECT max(number) FROM assessments) AS score,"
            " (SELECT max(number) FROM findings) AS finding"
        ).fetchone()
        return Place(row["score"] or 0, row["finding"] or 0)

    def between(self, after: Place, upto: Place) -> Iterator[Happening]:
        """The scores after one place and up to another, then the findings, in order."""
        for row in self._connection.execute(_SCORES, (after.score, upto.score)):
            blocked = row["verdict"] == Verdict.BLOCK.value
            yield Happening(transaction_of(row), row["scored_ms"], blocked=blocked)
        for row in self._connection.execute(_FINDINGS, (after.finding, upto.finding)):
            finding = Finding(row["finding"])
            yield Happening(transaction_of(row), row["known_ms"], finding)

    def erased(self, keys: Iterable[TransactionKey]) -> bool:
        """Whether who paid was blanked in any of these scores."""
        return any(
            row is not None and row["erased"]
            for row in (self._connection.execute(_ERASED, key).fetchone() for key in keys)
        )
