"""The durable state of the Amazon Pay simulator: one SQLite file, written before each answer.

WAL with synchronous=OFF: a killed process loses nothing, since the pages are with the operating
system; only a power cut could, and a sandbox does not promise against that.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from smartpay_sandbox.amazon_pay_objects import Json

_SCHEMA = """
CREATE TABLE IF NOT EXISTS account (merchant_id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS object (
    position INTEGER PRIMARY KEY, merchant_id TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
    body TEXT NOT NULL, UNIQUE (merchant_id, id));
CREATE TABLE IF NOT EXISTS answer (
    merchant_id TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (merchant_id, key)) WITHOUT ROWID;
"""
_PUT_OBJECT = (
    "INSERT INTO object (merchant_id, kind, id, body) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (merchant_id, id) DO UPDATE SET body = excluded.body"
)


@dataclass(frozen=True)
class Registration:
    """What a merchant registered: its store, the key it signs with, where it is notified."""

    merchant_id: str
    store_id: str
    public_key_id: str
    public_key: str
    notify_url: str = ""


def read_registration(found: object) -> Registration:
    """Read a registration out of JSON.

    Raises:
        ValueError: naming what is missing or unknown.
    """
    needed = {"merchant_id", "store_id", "public_key_id", "public_key"}
    if (
        not isinstance(found, dict)
        or not needed <= found.keys() <= needed | {"notify_url"}
        or not all(isinstance(value, str) for value in found.values())
    ):
        raise ValueError(f"send texts: {', '.join(sorted(needed))}; notify_url if you like")
    return Registration(**found)


@dataclass(frozen=True)
class StoredAnswer:
    """The first answer under a key, with what identifies the request it belongs to."""

    fingerprint: str
    status: int
    body: str


class AmazonPayStore:
    """Merchants, objects in the order of creation, and kept answers."""

    def __init__(self, file: Path) -> None:
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_SCHEMA)

    def registrations(self) -> list[Registration]:
        """List every merchant."""
        rows = self._db.execute("SELECT body FROM account").fetchall()
        return [Registration(**json.loads(body)) for (body,) in rows]

    def objects(self) -> Iterator[tuple[str, str, Json]]:
        """Yield (merchant id, kind, object), oldest first."""
        rows = self._db.execute("SELECT merchant_id, kind, body FROM object ORDER BY position")
        return ((merchant_id, kind, json.loads(body)) for merchant_id, kind, body in rows)

    def answers(self) -> Iterator[tuple[str, str, StoredAnswer]]:
        """Yield (merchant id, key, answer)."""
        rows = self._db.execute("SELECT merchant_id, key, fingerprint, status, body FROM answer")
        return ((row[0], row[1], StoredAnswer(*row[2:])) for row in rows)

    def register(self, registration: Registration) -> None:
        """Add a merchant, or change what it registered."""
        self._db.execute(
            "INSERT OR REPLACE INTO account VALUES (?, ?)",
            (registration.merchant_id, json.dumps(asdict(registration))),
        )

    def commit(
        self,
        merchant_id: str,
        objects: Iterable[tuple[str, str, Json]],
        key: str = "",
        answer: StoredAnswer | None = None,
    ) -> None:
        """Write what one request changed, with the answer kept under its key, as one unit.

        Args:
            merchant_id: whose objects they are.
            objects: kind, id and object of each.
            key: the idempotency key.
            answer: kept under the key, unless there is none.
        """
        rows = [(merchant_id, kind, found, json.dumps(item)) for kind, found, item in objects]
        self._db.execute("BEGIN")
        try:
            self._db.executemany(_PUT_OBJECT, rows)
            if answer is not None:
                self._db.execute(
                    "INSERT OR REPLACE INTO answer VALUES (?, ?, ?, ?, ?)",
                    (merchant_id, key, answer.fingerprint, answer.status, answer.body),
                )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def wipe(self) -> None:
        """Delete objects and answers; merchants stay."""
        self._db.executescript("BEGIN; DELETE FROM object; DELETE FROM answer; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        self._db.close()
