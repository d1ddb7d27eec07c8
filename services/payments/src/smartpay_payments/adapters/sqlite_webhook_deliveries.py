"""Deliveries in the embedded store: planned from the log of events, leased, sent, kept a while."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.sqlite_ledger import time_text
from smartpay_payments.adapters.sqlite_webhook_endpoints import (
    decode_endpoint,
    read_endpoint,
    save_endpoint,
)
from smartpay_payments.domain.webhook_delivery import (
    Delivery,
    DeliveryStatus,
    delivery_not_found,
    endpoint_disabled,
    sent_again,
)
from smartpay_payments.domain.webhook_endpoints import Endpoint, endpoint_not_found

MIGRATIONS = [
    """
    CREATE TABLE webhook_progress (position INTEGER NOT NULL);
    INSERT INTO webhook_progress
        SELECT ifnull((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0);
    CREATE TABLE webhook_delivery (
        webhook_delivery_id TEXT PRIMARY KEY,
        webhook_endpoint_id TEXT NOT NULL,
        status TEXT NOT NULL,
        create_time TEXT NOT NULL,
        next_try_time TEXT,
        document BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX webhook_delivery_by_endpoint
        ON webhook_delivery (webhook_endpoint_id, create_time, webhook_delivery_id);
    CREATE INDEX webhook_delivery_to_send
        ON webhook_delivery (webhook_endpoint_id, next_try_time)
        WHERE next_try_time IS NOT NULL;
    CREATE INDEX webhook_delivery_by_time ON webhook_delivery (create_time);
    """,
]

FORGET_BATCH = 500  # deliveries removed per unit of work; some milliseconds of the one writer

_decode = msgspec.json.Decoder(Delivery).decode
_encode = msgspec.json.Encoder().encode


class SqliteWebhookDeliveries:
    """Stores deliveries. One replica: leases only bound how long a dead process holds one."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    # ---- planning ----------------------------------------------------------------------------

    async def progress(self) -> int:
        """Answers up to which place of the log deliveries are planned."""

        def query(connection: sqlite3.Connection) -> int:
            row = connection.execute("SELECT position FROM webhook_progress").fetchone()
            return int(row["position"])

        return await self._store.read(query)

    async def endpoints_of(self, merchant_id: str, livemode: bool) -> list[Endpoint]:
        """Reads a merchant's endpoints that get events."""

        def query(connection: sqlite3.Connection) -> list[Endpoint]:
            rows = connection.execute(
                "SELECT document FROM webhook_endpoint"
                " WHERE merchant_id = ? AND livemode = ? AND NOT deleted AND enabled",
                (merchant_id, livemode),
            )
            return [decode_endpoint(row["document"]) for row in rows]

        return await self._store.read(query)

    async def plan(self, deliveries: Sequence[Delivery], position: int) -> None:
        """Stores deliveries and how far the log is planned with them, both or neither.

        What was planned before stays as it is, so planning twice sends nothing twice.
        """

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR IGNORE INTO webhook_delivery VALUES (?, ?, ?, ?, ?, ?)",
                [_row(delivery) for delivery in deliveries],
            )
            connection.execute("UPDATE webhook_progress SET position = ?", (position,))

        await self._store.write(work)

    # ---- sending -----------------------------------------------------------------------------

    async def lease_due(
        self,
        now: datetime,
        until: datetime,
        places: int,
        places_each: int,
        busy: Mapping[str, int],
    ) -> list[tuple[Delivery, Endpoint]]:
        """Takes deliveries whose time has come; nobody else gets them before `until`.

        Args:
            now: the time.
            until: when they are due again, if this process dies over them.
            places: how many at most.
            places_each: how many of one endpoint at most, with those that are on their way.
            busy: how many of each endpoint are on their way.
        """
        moment = time_text(now)
        if not await self._store.read(lambda connection: _any_due(connection, moment)):
            return []

        def work(connection: sqlite3.Connection) -> list[tuple[Delivery, Endpoint]]:
            found: list[tuple[Delivery, Endpoint]] = []
            # Endpoint by endpoint, who waited longest first: a slow one holds nobody up.
            for row in connection.execute(_ENDPOINTS_WITH_WORK, (moment,)).fetchall():
                endpoint = decode_endpoint(row["document"])
                free = places_each - busy.get(endpoint.webhook_endpoint_id, 0)
                rows = connection.execute(
                    "SELECT document FROM webhook_delivery"
                    " WHERE webhook_endpoint_id = ? AND next_try_time <= ?"
                    " ORDER BY next_try_time LIMIT ?",
                    (endpoint.webhook_endpoint_id, moment, max(0, min(free, places - len(found)))),
                )
                found += [(_decode(r["document"]), endpoint) for r in rows.fetchall()]
                if len(found) >= places:
                    break
            connection.executemany(
                "UPDATE webhook_delivery SET next_try_time = ? WHERE webhook_delivery_id = ?",
                [(time_text(until), delivery.webhook_delivery_id) for delivery, _ in found],
            )
            return found

        return await self._store.write(work)

    async def record(self, delivery: Delivery, endpoint: Endpoint | None) -> None:
        """Stores what came of a sending.

        Args:
            delivery: after it.
            endpoint: after it, when that changed; given up when the endpoint was changed by
                somebody else meanwhile, since the next sending says the same.
        """

        def work(connection: sqlite3.Connection) -> None:
            _update(connection, delivery)
            if endpoint is not None:
                save_endpoint(connection, endpoint)

        await self._store.write(work)

    # ---- the log of deliveries ---------------------------------------------------------------

    async def get(
        self, merchant_id: str, livemode: bool, webhook_endpoint_id: str, webhook_delivery_id: str
    ) -> Delivery | None:
        """Reads one delivery to one of the merchant's endpoints."""

        def query(connection: sqlite3.Connection) -> Delivery | None:
            if read_endpoint(connection, merchant_id, livemode, webhook_endpoint_id) is None:
                return None
            return _read(connection, webhook_endpoint_id, webhook_delivery_id)

        return await self._store.read(query)

    async def page(
        self, webhook_endpoint_id: str, status: DeliveryStatus | None, after: str, size: int
    ) -> tuple[list[Delivery], str]:
        """Reads a page of an endpoint's deliveries, newest first, and where to go on."""
        created, _, webhook_delivery_id = after.partition(" ")
        where = "" if status is None else " AND status = :status"
        if after:
            where += " AND (create_time, webhook_delivery_id) < (:created, :webhook_delivery_id)"

        def query(connection: sqlite3.Connection) -> tuple[list[Delivery], str]:
            rows = connection.execute(
                "SELECT document FROM webhook_delivery"
                f" WHERE webhook_endpoint_id = :webhook_endpoint_id{where}"
                " ORDER BY create_time DESC, webhook_delivery_id DESC LIMIT :size + 1",
                {
                    "webhook_endpoint_id": webhook_endpoint_id,
                    "status": status and status.value,
                    "created": created,
                    "webhook_delivery_id": webhook_delivery_id,
                    "size": size,
                },
            )
            found = [_decode(row["document"]) for row in rows]
            if len(found) <= size:
                return found, ""
            last = found[size - 1]
            return found[:size], f"{time_text(last.create_time)} {last.webhook_delivery_id}"

        return await self._store.read(query)

    async def resend(
        self,
        merchant_id: str,
        livemode: bool,
        webhook_endpoint_id: str,
        webhook_delivery_id: str,
        now: datetime,
    ) -> Delivery:
        """Makes a delivery due as if it had never been sent.

        Raises:
            Refusal: the endpoint or the delivery is not there, or the endpoint is disabled.
        """

        def work(connection: sqlite3.Connection) -> Delivery:
            endpoint = read_endpoint(connection, merchant_id, livemode, webhook_endpoint_id)
            if endpoint is None:
                raise endpoint_not_found()
            delivery = _read(connection, webhook_endpoint_id, webhook_delivery_id)
            if delivery is None:
                raise delivery_not_found()
            if not endpoint.enabled:
                raise endpoint_disabled()
            planned = sent_again(delivery, now)
            _update(connection, planned)
            return planned

        return await self._store.write(work)

    async def forget(self, before: datetime) -> int:
        """Removes deliveries older than the retention; call it until it answers 0."""

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM webhook_delivery WHERE webhook_delivery_id IN"
                " (SELECT webhook_delivery_id FROM webhook_delivery"
                " WHERE create_time < ? ORDER BY create_time LIMIT ?)",
                (time_text(before), FORGET_BATCH),
            ).rowcount

        return await self._store.write(work)


_ENDPOINTS_WITH_WORK = """
    SELECT endpoint.document, (
        SELECT min(next_try_time) FROM webhook_delivery AS delivery
        WHERE delivery.webhook_endpoint_id = endpoint.webhook_endpoint_id
        AND next_try_time IS NOT NULL
    ) AS since
    FROM webhook_endpoint AS endpoint
    WHERE enabled AND NOT deleted AND since <= ?
    ORDER BY since
"""


def _any_due(connection: sqlite3.Connection, moment: str) -> bool:
    return connection.execute(f"{_ENDPOINTS_WITH_WORK} LIMIT 1", (moment,)).fetchone() is not None


def _row(delivery: Delivery) -> tuple[object, ...]:
    return (
        delivery.webhook_delivery_id,
        delivery.webhook_endpoint_id,
        delivery.status.value,
        time_text(delivery.create_time),
        delivery.next_try_time and time_text(delivery.next_try_time),
        _encode(delivery),
    )


def _update(connection: sqlite3.Connection, delivery: Delivery) -> None:
    connection.execute(
        "UPDATE webhook_delivery SET status = ?, next_try_time = ?, document = ?"
        " WHERE webhook_delivery_id = ?",
        (
            delivery.status.value,
            delivery.next_try_time and time_text(delivery.next_try_time),
            _encode(delivery),
            delivery.webhook_delivery_id,
        ),
    )


def _read(
    connection: sqlite3.Connection, webhook_endpoint_id: str, webhook_delivery_id: str
) -> Delivery | None:
    row = connection.execute(
        "SELECT document FROM webhook_delivery"
        " WHERE webhook_delivery_id = ? AND webhook_endpoint_id = ?",
        (webhook_delivery_id, webhook_endpoint_id),
    ).fetchone()
    return None if row is None else _decode(row["document"])
