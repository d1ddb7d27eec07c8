"""Merchants' endpoints in the embedded store. A change is stored with its audit record."""

from __future__ import annotations

import sqlite3

import msgspec

from smartpay_chassis.refusals import idempotency_key_reused
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.sqlite_audit import append_audit
from smartpay_payments.adapters.sqlite_ledger import time_text
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.webhook_endpoints import (
    ENDPOINTS_MAX,
    Endpoint,
    endpoint_not_found,
    too_many_endpoints,
)

MIGRATIONS = [
    """
    CREATE TABLE webhook_endpoint (
        webhook_endpoint_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        enabled INTEGER NOT NULL,
        deleted INTEGER NOT NULL DEFAULT 0,
        version INTEGER NOT NULL,
        create_time TEXT NOT NULL,
        document BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX webhook_endpoint_by_merchant
        ON webhook_endpoint (merchant_id, livemode, create_time, webhook_endpoint_id)
        WHERE NOT deleted;
    CREATE TABLE webhook_operation (
        operation_id TEXT PRIMARY KEY,
        request_hash TEXT NOT NULL,
        generation INTEGER NOT NULL
    ) WITHOUT ROWID;
    """,
]

decode_endpoint = msgspec.json.Decoder(Endpoint).decode
_encode = msgspec.json.Encoder().encode


def save_endpoint(connection: sqlite3.Connection, endpoint: Endpoint) -> bool:
    """Stores an endpoint's next version; answers False when another one was stored first."""
    return bool(
        connection.execute(
            "UPDATE webhook_endpoint SET enabled = ?, version = ?, document = ?"
            " WHERE webhook_endpoint_id = ? AND version = ? AND NOT deleted",
            (
                endpoint.enabled,
                endpoint.version,
                _encode(endpoint),
                endpoint.webhook_endpoint_id,
                endpoint.version - 1,
            ),
        ).rowcount
    )


def read_endpoint(
    connection: sqlite3.Connection, merchant_id: str, livemode: bool, webhook_endpoint_id: str
) -> Endpoint | None:
    """Reads one endpoint of one merchant."""
    row = connection.execute(
        "SELECT document FROM webhook_endpoint WHERE webhook_endpoint_id = ?"
        " AND merchant_id = ? AND livemode = ? AND NOT deleted",
        (webhook_endpoint_id, merchant_id, livemode),
    ).fetchone()
    return None if row is None else decode_endpoint(row["document"])


class SqliteWebhookEndpoints:
    """Stores endpoints by compare-and-set. Deleted ones leave a row, so a key makes none anew."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def end_of_log(self) -> int:
        """Answers the place of the newest event, kept or not."""

        def query(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = 'event'"
            ).fetchone()
            return 0 if row is None else int(row["seq"])

        return await self._store.read(query)

    async def create(
        self, endpoint: Endpoint, request_hash: str, record: AuditRecord
    ) -> Endpoint | None:
        """Stores a new endpoint; answers None, or the one that the same key made before.

        Raises:
            Refusal: IDEMPOTENCY_KEY_REUSED for another request under the key,
                WEBHOOK_ENDPOINT_NOT_FOUND when what the key made was deleted,
                WEBHOOK_ENDPOINTS_TOO_MANY.
        """

        def work(connection: sqlite3.Connection) -> Endpoint | None:
            made = _generation_of(connection, endpoint.webhook_endpoint_id, request_hash)
            if made is not None:
                found = read_endpoint(
                    connection,
                    endpoint.merchant_id,
                    endpoint.livemode,
                    endpoint.webhook_endpoint_id,
                )
                if found is None:
                    raise endpoint_not_found()
                return found
            (count,) = connection.execute(
                "SELECT count(*) FROM webhook_endpoint"
                " WHERE merchant_id = ? AND livemode = ? AND NOT deleted",
                (endpoint.merchant_id, endpoint.livemode),
            ).fetchone()
            if count >= ENDPOINTS_MAX:
                raise too_many_endpoints()
            connection.execute(
                "INSERT INTO webhook_endpoint VALUES (?, ?, ?, ?, 0, ?, ?, ?)",
                (
                    endpoint.webhook_endpoint_id,
                    endpoint.merchant_id,
                    endpoint.livemode,
                    endpoint.enabled,
                    endpoint.version,
                    time_text(endpoint.create_time),
                    _encode(endpoint),
                ),
            )
            _note(connection, endpoint.webhook_endpoint_id, request_hash, 1)
            append_audit(connection, record)
            return None

        return await self._store.write(work)

    async def save(self, endpoint: Endpoint, record: AuditRecord) -> bool:
        """Stores the next version; answers False when another one was stored first."""

        def work(connection: sqlite3.Connection) -> bool:
            if not save_endpoint(connection, endpoint):
                return False
            append_audit(connection, record)
            return True

        return await self._store.write(work)

    async def rotated(self, operation_id: str, request_hash: str) -> int | None:
        """Answers which generation of the secret a key made; None when it made none yet.

        Raises:
            Refusal: IDEMPOTENCY_KEY_REUSED for another request under the key.
        """
        return await self._store.read(
            lambda connection: _generation_of(connection, operation_id, request_hash)
        )

    async def rotate(
        self, endpoint: Endpoint, operation_id: str, request_hash: str, record: AuditRecord
    ) -> bool:
        """Stores an endpoint with its next secret; answers False when somebody was faster."""

        def work(connection: sqlite3.Connection) -> bool:
            if _generation_of(connection, operation_id, request_hash) is not None:
                return False
            if not save_endpoint(connection, endpoint):
                return False
            _note(connection, operation_id, request_hash, endpoint.secret.generation)
            append_audit(connection, record)
            return True

        return await self._store.write(work)

    async def delete(
        self, merchant_id: str, livemode: bool, webhook_endpoint_id: str, record: AuditRecord
    ) -> None:
        """Takes an endpoint away; does nothing when there is none."""

        def work(connection: sqlite3.Connection) -> None:
            deleted = connection.execute(
                "UPDATE webhook_endpoint SET deleted = 1, enabled = 0"
                " WHERE webhook_endpoint_id = ? AND merchant_id = ? AND livemode = ?"
                " AND NOT deleted",
                (webhook_endpoint_id, merchant_id, livemode),
            ).rowcount
            if deleted:
                append_audit(connection, record)

        await self._store.write(work)

    async def get(
        self, merchant_id: str, livemode: bool, webhook_endpoint_id: str
    ) -> Endpoint | None:
        """Reads one endpoint of one merchant."""
        return await self._store.read(
            lambda connection: read_endpoint(connection, merchant_id, livemode, webhook_endpoint_id)
        )

    async def page(
        self, merchant_id: str, livemode: bool, after: str, size: int
    ) -> tuple[list[Endpoint], str]:
        """Reads a page of endpoints, oldest first, and the position to go on after."""
        created, _, webhook_endpoint_id = after.partition(" ")

        def query(connection: sqlite3.Connection) -> tuple[list[Endpoint], str]:
            rows = connection.execute(
                "SELECT document FROM webhook_endpoint"
                " WHERE merchant_id = ? AND livemode = ? AND NOT deleted"
                " AND (create_time, webhook_endpoint_id) > (?, ?)"
                " ORDER BY create_time, webhook_endpoint_id LIMIT ?",
                (merchant_id, livemode, created, webhook_endpoint_id, size + 1),
            )
            found = [decode_endpoint(row["document"]) for row in rows]
            if len(found) <= size:
                return found, ""
            last = found[size - 1]
            return found[:size], f"{time_text(last.create_time)} {last.webhook_endpoint_id}"

        return await self._store.read(query)


def _generation_of(
    connection: sqlite3.Connection, operation_id: str, request_hash: str
) -> int | None:
    row = connection.execute(
        "SELECT request_hash, generation FROM webhook_operation WHERE operation_id = ?",
        (operation_id,),
    ).fetchone()
    if row is None:
        return None
    if row["request_hash"] != request_hash:
        raise idempotency_key_reused()
    return int(row["generation"])


def _note(
    connection: sqlite3.Connection, operation_id: str, request_hash: str, generation: int
) -> None:
    connection.execute(
        "INSERT INTO webhook_operation VALUES (?, ?, ?)", (operation_id, request_hash, generation)
    )
