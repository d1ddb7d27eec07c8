"""The durable state of the Stripe simulator: one SQLite file, written before each answer.

WAL with synchronous=OFF: a killed process loses nothing, since the pages are with the operating
system; only a power cut could, and a sandbox does not promise against that.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from smartpay_sandbox.stripe_idempotency import StoredAnswer

_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (id TEXT PRIMARY KEY, secret_key TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS object (
    position INTEGER PRIMARY KEY, account TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL,
    UNIQUE (account, id));
CREATE TABLE IF NOT EXISTS answer (
    account TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL, status INTEGER NOT NULL,
    body TEXT NOT NULL, request_id TEXT NOT NULL, created INTEGER NOT NULL,
    PRIMARY KEY (account, key)) WITHOUT ROWID;
"""
_PUT_OBJECT = (
    "INSERT INTO object (account, id, body) VALUES (?, ?, ?) "
    "ON CONFLICT (account, id) DO UPDATE SET body = excluded.body"
)


class StripeStore:
    """Accounts, objects in the order of creation, and kept answers."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_SCHEMA)

    def accounts(self) -> list[tuple[str, str]]:
        """List (account id, secret key)."""
        return self._db.execute("SELECT id, secret_key FROM account").fetchall()

    def objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (account id, object), oldest first."""
        rows = self._db.execute("SELECT account, body FROM object ORDER BY position")
        return ((account, json.loads(body)) for account, body in rows)

    def answers(self) -> Iterator[tuple[str, str, StoredAnswer]]:
        """Yield (account id, key, answer)."""
        rows = self._db.execute(
            "SELECT account, key, fingerprint, status, body, request_id, created FROM answer"
        )
        return ((row[0], row[1], StoredAnswer(*row[2:])) for row in rows)

    def put_account(self, account: str, secret_key: str) -> None:
        """Add an account, or change its key."""
        self._db.execute("INSERT OR REPLACE INTO account VALUES (?, ?)", (account, secret_key))

    def commit(
        self,
        account: str,
        objects: Iterable[dict[str, Any]],
        key: str | None = None,
        answer: StoredAnswer | None = None,
    ) -> None:
        """Write what one request changed, with the answer kept under its key, as one unit."""
        self._db.execute("BEGIN")
        try:
            self._db.executemany(
                _PUT_OBJECT,
                [(account, found["id"], json.dumps(found)) for found in objects],
            )
            if answer is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        account,
                        key,
                        answer.fingerprint,
                        answer.status,
                        answer.body,
                        answer.request_id,
                        answer.created,
                    ),
                )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def wipe(self) -> None:
        """Delete objects and answers; accounts stay."""
        self._db.executescript("BEGIN; DELETE FROM object; DELETE FROM answer; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._db.close()
