"""Customers, their instruments and erasures in the embedded store."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.sqlite_audit import append_audit
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.customers import (
    Customer,
    ErasedCustomer,
    Erasure,
    customer_key,
    customer_not_found,
    erased,
)
from smartpay_payments.domain.events import CUSTOMER_ERASED
from smartpay_payments.domain.instruments import INSTRUMENTS_MAX, SavedInstrument
from smartpay_payments.domain.merchants import limit_reached
from smartpay_payments.domain.payment import Payment

MIGRATIONS = [
    """
    CREATE TABLE customer (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        customer_id TEXT NOT NULL,
        create_time TEXT NOT NULL,
        version INTEGER NOT NULL,
        document BLOB NOT NULL,
        PRIMARY KEY (merchant_id, livemode, customer_id)
    ) WITHOUT ROWID;
    CREATE INDEX customer_by_time ON customer (merchant_id, livemode, create_time, customer_id);
    CREATE TABLE instrument (
        instrument_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        customer_id TEXT NOT NULL,
        create_time TEXT NOT NULL,
        version INTEGER NOT NULL,
        detached INTEGER NOT NULL,
        document BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX instrument_by_customer ON instrument
        (merchant_id, livemode, customer_id, create_time, instrument_id);
    CREATE TABLE erasure (
        erasure_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        running INTEGER NOT NULL,
        document BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX erasure_running ON erasure (erasure_id) WHERE running;
    """,
]

# Kept versions of one payment that are rewritten per unit of work.
EVENTS_PER_UNIT = 20

_encode = msgspec.json.Encoder().encode
_customer = msgspec.json.Decoder(Customer).decode
_instrument = msgspec.json.Decoder(SavedInstrument).decode
_erasure = msgspec.json.Decoder(Erasure).decode
_payment = msgspec.json.Decoder(Payment).decode


class SqliteCustomers:
    """Stores customers, instruments and erasures; each method is one unit of work.

    Args:
        store: the file.
        wake_watchers: called after each erasure, so that watchers of the log read on.
    """

    def __init__(self, store: SqliteStore, wake_watchers: Callable[[], None]) -> None:
        self._store = store
        self._wake_watchers = wake_watchers

    # ---- customers ---------------------------------------------------------------------------

    async def add(self, customer: Customer, record: AuditRecord) -> Customer | None:
        """Stores a new customer; answers the one that holds the id, if there is one."""
        document = _encode(customer)

        def work(connection: sqlite3.Connection) -> Customer | None:
            held = _find_customer(
                connection, customer.merchant_id, customer.livemode, customer.customer_id
            )
            if held is not None:
                return held
            connection.execute(
                "INSERT INTO customer VALUES (?, ?, ?, ?, ?, ?)",
                (
                    customer.merchant_id,
                    customer.livemode,
                    customer.customer_id,
                    _text(customer.create_time),
                    customer.version,
                    document,
                ),
            )
            append_audit(connection, record)
            return None

        return await self._store.write(work)

    async def save(self, customer: Customer, record: AuditRecord | None = None) -> bool:
        """Stores a customer's next version; answers False when somebody else was faster."""
        document = _encode(customer)

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE customer SET version = ?, document = ?"
                " WHERE merchant_id = ? AND livemode = ? AND customer_id = ? AND version = ?",
                (
                    customer.version,
                    document,
                    customer.merchant_id,
                    customer.livemode,
                    customer.customer_id,
                    customer.version - 1,
                ),
            ).rowcount
            if changed and record is not None:
                append_audit(connection, record)
            return bool(changed)

        return await self._store.write(work)

    async def get(self, merchant_id: str, livemode: bool, customer_id: str) -> Customer | None:
        """Reads one customer of one merchant."""
        return await self._store.read(
            lambda connection: _find_customer(connection, merchant_id, livemode, customer_id)
        )

    async def page(
        self, merchant_id: str, livemode: bool, after: str, size: int
    ) -> tuple[list[Customer], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        created, _, customer_id = after.partition(" ")
        where = " AND (create_time, customer_id) < (:created, :customer_id)" if after else ""

        def query(connection: sqlite3.Connection) -> tuple[list[Customer], str]:
            rows = connection.execute(
                "SELECT document FROM customer"
                f" WHERE merchant_id = :merchant_id AND livemode = :livemode{where}"
                " ORDER BY create_time DESC, customer_id DESC LIMIT :size + 1",
                {
                    "merchant_id": merchant_id,
                    "livemode": livemode,
                    "created": created,
                    "customer_id": customer_id,
                    "size": size,
                },
            )
            customers = [_customer(row["document"]) for row in rows]
            if len(customers) <= size:
                return customers, ""
            last = customers[size - 1]
            return customers[:size], f"{_text(last.create_time)} {last.customer_id}"

        return await self._store.read(query)

    # ---- instruments -------------------------------------------------------------------------

    async def add_instrument(
        self, instrument: SavedInstrument, record: AuditRecord
    ) -> SavedInstrument | None:
        """Stores a new instrument; answers the one that holds the id, if there is one.

        Raises:
            Refusal: CUSTOMER_NOT_FOUND, or LIMIT_REACHED.
        """
        document = _encode(instrument)

        def work(connection: sqlite3.Connection) -> SavedInstrument | None:
            held = connection.execute(
                "SELECT document FROM instrument WHERE instrument_id = ?",
                (instrument.instrument_id,),
            ).fetchone()
            if held is not None:
                return _instrument(held["document"])
            tenant = (instrument.merchant_id, instrument.livemode, instrument.customer_id)
            if _find_customer(connection, *tenant) is None:
                raise customer_not_found()
            (count,) = connection.execute(
                "SELECT count(*) FROM instrument"
                " WHERE merchant_id = ? AND livemode = ? AND customer_id = ? AND NOT detached",
                tenant,
            ).fetchone()
            if count >= INSTRUMENTS_MAX:
                raise limit_reached("instruments of the customer", INSTRUMENTS_MAX)
            connection.execute(
                "INSERT INTO instrument VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
                (
                    instrument.instrument_id,
                    *tenant,
                    _text(instrument.create_time),
                    instrument.version,
                    document,
                ),
            )
            append_audit(connection, record)
            return None

        return await self._store.write(work)

    async def save_instrument(
        self, instrument: SavedInstrument, record: AuditRecord | None = None
    ) -> bool:
        """Stores an instrument's next version; answers False when somebody else was faster."""
        document = _encode(instrument)

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE instrument SET version = ?, detached = ?, document = ?"
                " WHERE instrument_id = ? AND version = ?",
                (
                    instrument.version,
                    instrument.detached,
                    document,
                    instrument.instrument_id,
                    instrument.version - 1,
                ),
            ).rowcount
            if changed and record is not None:
                append_audit(connection, record)
            return bool(changed)

        return await self._store.write(work)

    async def instrument(
        self, merchant_id: str, livemode: bool, instrument_id: str
    ) -> SavedInstrument | None:
        """Reads one instrument of one merchant."""

        def query(connection: sqlite3.Connection) -> SavedInstrument | None:
            row = connection.execute(
                "SELECT document FROM instrument"
                " WHERE instrument_id = ? AND merchant_id = ? AND livemode = ?",
                (instrument_id, merchant_id, livemode),
            ).fetchone()
            return None if row is None else _instrument(row["document"])

        return await self._store.read(query)

    async def instruments(
        self, merchant_id: str, livemode: bool, customer_id: str
    ) -> list[SavedInstrument]:
        """Reads a customer's instruments that are not detached, newest first."""

        def query(connection: sqlite3.Connection) -> list[SavedInstrument]:
            rows = connection.execute(
                "SELECT document FROM instrument"
                " WHERE merchant_id = ? AND livemode = ? AND customer_id = ? AND NOT detached"
                " ORDER BY create_time DESC, instrument_id DESC",
                (merchant_id, livemode, customer_id),
            )
            return [_instrument(row["document"]) for row in rows]

        return await self._store.read(query)

    # ---- erasures ----------------------------------------------------------------------------

    async def begin_erasure(self, erasure: Erasure, record: AuditRecord) -> Erasure | None:
        """Stores a new erasure; answers the one that holds the id, if there is one."""
        document = _encode(erasure)

        def work(connection: sqlite3.Connection) -> Erasure | None:
            held = connection.execute(
                "SELECT document FROM erasure WHERE erasure_id = ?", (erasure.erasure_id,)
            ).fetchone()
            if held is not None:
                return _erasure(held["document"])
            connection.execute(
                "INSERT INTO erasure VALUES (?, ?, ?, 1, ?)",
                (erasure.erasure_id, erasure.merchant_id, erasure.livemode, document),
            )
            append_audit(connection, record)
            return None

        return await self._store.write(work)

    async def erasure(self, merchant_id: str, livemode: bool, erasure_id: str) -> Erasure | None:
        """Reads one erasure of one merchant."""

        def query(connection: sqlite3.Connection) -> Erasure | None:
            row = connection.execute(
                "SELECT document FROM erasure"
                " WHERE erasure_id = ? AND merchant_id = ? AND livemode = ?",
                (erasure_id, merchant_id, livemode),
            ).fetchone()
            return None if row is None else _erasure(row["document"])

        return await self._store.read(query)

    async def running_erasures(self, after: str, limit: int) -> list[Erasure]:
        """Reads erasures that are not done, in the order of their ids."""

        def query(connection: sqlite3.Connection) -> list[Erasure]:
            rows = connection.execute(
                "SELECT document FROM erasure WHERE running AND erasure_id > ?"
                " ORDER BY erasure_id LIMIT ?",
                (after, limit),
            )
            return [_erasure(row["document"]) for row in rows]

        return await self._store.read(query)

    async def payments_of(
        self, merchant_id: str, livemode: bool, customer_id: str, after: str, limit: int
    ) -> list[Payment]:
        """Reads payments that name a customer, oldest first, after a creation time and id.

        An erased payment names the customer no more, so it is not found again.
        """
        created, _, payment_id = after.partition(" ")

        def query(connection: sqlite3.Connection) -> list[Payment]:
            rows = connection.execute(
                "SELECT p.document FROM payment_search AS s"
                " JOIN payment AS p ON p.payment_id = s.payment_id"
                " WHERE s.merchant_id = :merchant_id AND s.livemode = :livemode"
                " AND s.customer_id = :customer_id AND s.customer_id <> ''"
                " AND (s.create_time, s.payment_id) > (:created, :payment_id)"
                " ORDER BY s.create_time, s.payment_id LIMIT :limit",
                {
                    "merchant_id": merchant_id,
                    "livemode": livemode,
                    "customer_id": customer_id,
                    "created": created,
                    "payment_id": payment_id,
                    "limit": limit,
                },
            )
            return [_payment(row["document"]) for row in rows]

        return await self._store.read(query)

    async def erase_events(self, payment_id: str, after_version: int) -> int:
        """Erases the next kept versions of a payment; answers the last of them, 0 at the end."""

        def work(connection: sqlite3.Connection) -> int:
            rows = connection.execute(
                "SELECT version, document FROM event WHERE payment_id = ? AND version > ?"
                " ORDER BY version LIMIT ?",
                (payment_id, after_version, EVENTS_PER_UNIT),
            ).fetchall()
            connection.executemany(
                "UPDATE event SET document = ? WHERE payment_id = ? AND version = ?",
                [
                    (_encode(erased(_payment(row["document"]))), payment_id, row["version"])
                    for row in rows
                ],
            )
            return int(rows[-1]["version"]) if rows else 0

        return await self._store.write(work)

    async def remove_instruments(self, erasure: Erasure) -> int:
        """Removes a customer's instruments; answers how many."""
        return await self._store.write(
            lambda connection: (
                connection.execute(
                    "DELETE FROM instrument WHERE instrument_id IN (SELECT instrument_id"
                    " FROM instrument WHERE merchant_id = ? AND livemode = ? AND customer_id = ?"
                    " LIMIT ?)",
                    (erasure.merchant_id, erasure.livemode, erasure.customer_id, EVENTS_PER_UNIT),
                ).rowcount
            )
        )

    async def save_erasure(self, erasure: Erasure) -> None:
        """Stores how far an erasure is."""
        document = _encode(erasure)
        await self._store.write(
            lambda connection: connection.execute(
                "UPDATE erasure SET document = ? WHERE erasure_id = ? AND running",
                (document, erasure.erasure_id),
            )
        )

    async def end_erasure(self, before: Erasure, after: Erasure, record: AuditRecord) -> bool:
        """Removes the customer itself, ends the erasure and tells of it, in one unit.

        Answers False, removing nothing, when something of the customer came meanwhile.
        """
        document = _encode(after)
        key = customer_key(before.merchant_id, before.livemode, before.customer_id)
        told = _encode(
            ErasedCustomer(after.erasure_id, after.merchant_id, after.livemode, key, record.time)
        )
        customer = (before.merchant_id, before.livemode, before.customer_id)

        def work(connection: sqlite3.Connection) -> bool:
            for table in ("instrument", "payment_search"):
                left = connection.execute(
                    f"SELECT 1 FROM {table}"
                    " WHERE merchant_id = ? AND livemode = ? AND customer_id = ?"
                    " AND customer_id <> '' LIMIT 1",
                    customer,
                ).fetchone()
                if left is not None:
                    return False
            ended = connection.execute(
                "UPDATE erasure SET running = 0, document = ? WHERE erasure_id = ? AND running",
                (document, after.erasure_id),
            ).rowcount
            if ended:
                connection.execute(
                    "DELETE FROM customer"
                    " WHERE merchant_id = ? AND livemode = ? AND customer_id = ?",
                    customer,
                )
                connection.execute(
                    "INSERT INTO event (payment_id, version, type, time, document)"
                    " VALUES (?, 1, ?, ?, ?)",
                    (after.erasure_id, CUSTOMER_ERASED, _text(record.time), told),
                )
                append_audit(connection, record)
            return True

        ended = await self._store.write(work)
        self._wake_watchers()
        return ended


def _find_customer(
    connection: sqlite3.Connection, merchant_id: str, livemode: bool, customer_id: str
) -> Customer | None:
    row = connection.execute(
        "SELECT document FROM customer WHERE merchant_id = ? AND livemode = ? AND customer_id = ?",
        (merchant_id, livemode, customer_id),
    ).fetchone()
    return None if row is None else _customer(row["document"])


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
