"""The embedded store of payments: one row per payment, one event per version, one ledger."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from smartpay_chassis.refusals import (
    Kind,
    Refusal,
    idempotency_key_in_flight,
    idempotency_key_reused,
)
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.domain.events import LoggedEvent
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import NOT_PAID, Payment, Status

MIGRATIONS = [
    """
    CREATE TABLE payment (
        payment_id TEXT PRIMARY KEY,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        status TEXT NOT NULL,
        version INTEGER NOT NULL,
        create_time TEXT NOT NULL,
        check_time TEXT,
        document BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX payment_by_merchant ON payment (merchant_id, livemode, create_time, payment_id);
    CREATE INDEX payment_to_check ON payment (check_time) WHERE check_time IS NOT NULL;
    CREATE TABLE claim (
        operation_id TEXT PRIMARY KEY,
        payment_id TEXT NOT NULL,
        request_hash TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE order_holder (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        merchant_order_id TEXT NOT NULL,
        payment_id TEXT NOT NULL,
        PRIMARY KEY (merchant_id, livemode, merchant_order_id)
    ) WITHOUT ROWID;
    CREATE TABLE ledger (
        payment_id TEXT NOT NULL,
        transaction_id TEXT NOT NULL,
        account TEXT NOT NULL,
        minor_units INTEGER NOT NULL,
        currency_code TEXT NOT NULL,
        post_time TEXT NOT NULL,
        PRIMARY KEY (payment_id, transaction_id, account)
    ) WITHOUT ROWID;
    CREATE TABLE event (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        payment_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        type TEXT NOT NULL,
        time TEXT NOT NULL,
        document BLOB NOT NULL,
        UNIQUE (payment_id, version)
    );
    """,
]

FORGET_BATCH = 500  # events removed per unit of work; some milliseconds of the one writer

_decode = msgspec.json.Decoder(Payment).decode
_encode = msgspec.json.Encoder().encode


def _text(moment: datetime) -> str:
    # One fixed width, so that text order is time order.
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class SqlitePayments:
    """The port `Repository`, and the log of events, in one SQLite file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._committed = asyncio.Event()

    async def create(
        self, payment: Payment, claim: Claim, entries: Sequence[LedgerEntry]
    ) -> Payment | None:
        """Stores a new payment; answers the one stored under its id, if any."""

        def work(connection: sqlite3.Connection) -> Payment | None:
            row = connection.execute(
                "SELECT document FROM payment WHERE payment_id = ?", (payment.payment_id,)
            ).fetchone()
            if row is not None:
                return _decode(row["document"])
            _hold_order(connection, payment)
            _insert_claim(connection, claim)
            connection.execute(
                "INSERT INTO payment VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    payment.payment_id,
                    payment.merchant_id,
                    payment.livemode,
                    payment.status.value,
                    payment.version,
                    _text(payment.create_time),
                    payment.check_time and _text(payment.check_time),
                    document,
                ),
            )
            _append(connection, payment, document, entries)
            return None

        document = _encode(payment)
        stored = await self._store.write(work)
        self._wake_watchers()
        return stored

    async def save(
        self, payment: Payment, entries: Sequence[LedgerEntry], claim: Claim | None = None
    ) -> bool:
        """Stores the next version by compare-and-set."""

        def work(connection: sqlite3.Connection) -> bool:
            changed = connection.execute(
                "UPDATE payment SET status = ?, version = ?, check_time = ?, document = ?"
                " WHERE payment_id = ? AND version = ?",
                (
                    payment.status.value,
                    payment.version,
                    payment.check_time and _text(payment.check_time),
                    document,
                    payment.payment_id,
                    payment.version - 1,
                ),
            ).rowcount
            if not changed:
                return False
            if claim is not None:
                _insert_claim(connection, claim)
            if payment.status in NOT_PAID:
                connection.execute(
                    "DELETE FROM order_holder WHERE merchant_id = ? AND livemode = ?"
                    " AND merchant_order_id = ? AND payment_id = ?",
                    (
                        payment.merchant_id,
                        payment.livemode,
                        payment.order.merchant_order_id,
                        payment.payment_id,
                    ),
                )
            _append(connection, payment, document, entries)
            return True

        document = _encode(payment)
        saved = await self._store.write(work)
        self._wake_watchers()
        return saved

    async def get(self, merchant_id: str, livemode: bool, payment_id: str) -> Payment | None:
        """Reads one payment of one merchant."""

        def query(connection: sqlite3.Connection) -> Payment | None:
            row = connection.execute(
                "SELECT document FROM payment"
                " WHERE payment_id = ? AND merchant_id = ? AND livemode = ?",
                (payment_id, merchant_id, livemode),
            ).fetchone()
            return None if row is None else _decode(row["document"])

        return await self._store.read(query)

    async def claim(self, operation_id: str) -> Claim | None:
        """Reads the claim an idempotency key made."""

        def query(connection: sqlite3.Connection) -> Claim | None:
            row = connection.execute(
                "SELECT * FROM claim WHERE operation_id = ?", (operation_id,)
            ).fetchone()
            return None if row is None else Claim(**dict(row))

        return await self._store.read(query)

    async def version(self, payment_id: str, version: int) -> Payment | None:
        """Reads an earlier version while its event is kept."""

        def query(connection: sqlite3.Connection) -> Payment | None:
            row = connection.execute(
                "SELECT document FROM event WHERE payment_id = ? AND version = ?",
                (payment_id, version),
            ).fetchone()
            return None if row is None else _decode(row["document"])

        return await self._store.read(query)

    async def page(
        self, merchant_id: str, livemode: bool, status: Status | None, after: str, size: int
    ) -> tuple[list[Payment], str]:
        """Reads a page of a merchant's payments, newest first, and the position to go on after.

        Args:
            merchant_id: the tenant.
            livemode: the tenant's mode.
            status: only these; None for all.
            after: the position that the page before answered; "" for the first page.
            size: how many at most.
        """
        created, _, payment_id = after.partition(" ")
        where = "" if status is None else " AND status = :status"
        if after:
            where += " AND (create_time, payment_id) < (:created, :payment_id)"

        def query(connection: sqlite3.Connection) -> tuple[list[Payment], str]:
            rows = connection.execute(
                "SELECT document FROM payment"
                f" WHERE merchant_id = :merchant_id AND livemode = :livemode{where}"
                " ORDER BY create_time DESC, payment_id DESC LIMIT :size + 1",
                {
                    "merchant_id": merchant_id,
                    "livemode": livemode,
                    "status": status and status.value,
                    "created": created,
                    "payment_id": payment_id,
                    "size": size,
                },
            )
            payments = [_decode(row["document"]) for row in rows]
            if len(payments) <= size:
                return payments, ""
            last = payments[size - 1]
            return payments[:size], f"{_text(last.create_time)} {last.payment_id}"

        return await self._store.read(query)

    async def ledger(self, payment_id: str) -> list[LedgerEntry]:
        """Reads a payment's ledger entries, oldest first."""

        def query(connection: sqlite3.Connection) -> list[LedgerEntry]:
            rows = connection.execute(
                "SELECT transaction_id, account, minor_units, currency_code, post_time"
                " FROM ledger WHERE payment_id = ? ORDER BY post_time, transaction_id, account",
                (payment_id,),
            )
            return [
                LedgerEntry(
                    row["transaction_id"],
                    row["account"],
                    row["minor_units"],
                    row["currency_code"],
                    datetime.fromisoformat(row["post_time"]),
                )
                for row in rows
            ]

        return await self._store.read(query)

    # ---- recovery ----------------------------------------------------------------------------

    async def due(self, now: datetime, limit: int) -> list[Payment]:
        """Reads payments whose time to be looked at has come, longest waiting first."""

        def query(connection: sqlite3.Connection) -> list[Payment]:
            rows = connection.execute(
                "SELECT document FROM payment WHERE check_time <= ? ORDER BY check_time LIMIT ?",
                (_text(now), limit),
            )
            return [_decode(row["document"]) for row in rows]

        return await self._store.read(query)

    async def make_due(self, now: datetime) -> int:
        """Makes every open payment due now; answers how many.

        Called once, before the first call is served: this store has one replica, so nobody else
        is at work on them.
        """

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                # A payer who must act is waited for as before.
                "UPDATE payment SET check_time = ? WHERE check_time > ? AND status <> ?",
                (_text(now), _text(now), Status.REQUIRES_ACTION.value),
            ).rowcount

        return await self._store.write(work)

    async def postpone(self, payment: Payment, until: datetime) -> None:
        """Plans the next look without a new version; does nothing when the payment changed."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE payment SET check_time = ?"
                " WHERE payment_id = ? AND version = ? AND check_time IS NOT NULL",
                (_text(until), payment.payment_id, payment.version),
            )

        await self._store.write(work)

    async def forget_events(self, before: datetime) -> int:
        """Removes events older than the retention, oldest first; answers how many.

        Call it until it answers 0: one call removes few, so that payments need not wait.
        """

        def work(connection: sqlite3.Connection) -> int:
            # Up to the first event that is kept: the log never has a hole.
            kept = connection.execute(
                "SELECT position FROM event WHERE time >= ? ORDER BY position LIMIT 1",
                (_text(before),),
            ).fetchone()
            return connection.execute(
                "DELETE FROM event WHERE position IN"
                " (SELECT position FROM event WHERE :kept IS NULL OR position < :kept"
                " ORDER BY position LIMIT :batch)",
                {"kept": kept and kept["position"], "batch": FORGET_BATCH},
            ).rowcount

        return await self._store.write(work)

    # ---- the log of events -------------------------------------------------------------------

    async def events_after(self, position: int, limit: int) -> list[LoggedEvent]:
        """Reads the next events of the log in order.

        Raises:
            Refusal: OUT_OF_RANGE when events between the position and the oldest are gone.
        """

        def query(connection: sqlite3.Connection) -> list[LoggedEvent]:
            if position:
                bounds = connection.execute(
                    "SELECT (SELECT min(position) FROM event) AS oldest,"
                    " (SELECT seq FROM sqlite_sequence WHERE name = 'event') AS newest"
                ).fetchone()
                newest = bounds["newest"] or 0
                gone_up_to = newest if bounds["oldest"] is None else bounds["oldest"] - 1
                if not gone_up_to <= position <= newest:
                    raise _cursor_expired()
            rows = connection.execute(
                "SELECT position, document FROM event WHERE position > ? ORDER BY position LIMIT ?",
                (position, limit),
            )
            return [LoggedEvent(row["position"], _decode(row["document"])) for row in rows]

        return await self._store.read(query)

    def next_commit(self) -> asyncio.Event:
        """Answers what is set by the next commit; take it before reading, wait on it after."""
        return self._committed

    def _wake_watchers(self) -> None:
        self._committed.set()
        self._committed = asyncio.Event()


def _insert_claim(connection: sqlite3.Connection, claim: Claim) -> None:
    try:
        connection.execute(
            "INSERT INTO claim VALUES (?, ?, ?)",
            (claim.operation_id, claim.payment_id, claim.request_hash),
        )
    except sqlite3.IntegrityError:
        held = connection.execute(
            "SELECT request_hash FROM claim WHERE operation_id = ?", (claim.operation_id,)
        ).fetchone()
        if held["request_hash"] == claim.request_hash:
            # The same request was stored a moment ago; repeating it finds that one.
            raise idempotency_key_in_flight() from None
        raise idempotency_key_reused() from None


def _hold_order(connection: sqlite3.Connection, payment: Payment) -> None:
    order_id = payment.order.merchant_order_id
    if not order_id or payment.status in NOT_PAID:
        return
    try:
        connection.execute(
            "INSERT INTO order_holder VALUES (?, ?, ?, ?)",
            (payment.merchant_id, payment.livemode, order_id, payment.payment_id),
        )
    except sqlite3.IntegrityError:
        raise Refusal(
            Kind.ALREADY_EXISTS,
            "ORDER_ALREADY_PAID",
            "Another payment that is open or succeeded has this order id.",
            remedy="Read that payment, or send another merchant_order_id.",
            field="merchant_order_id",
        ) from None


def _append(
    connection: sqlite3.Connection,
    payment: Payment,
    document: bytes,
    entries: Sequence[LedgerEntry],
) -> None:
    connection.execute(
        "INSERT INTO event (payment_id, version, type, time, document) VALUES (?, ?, ?, ?, ?)",
        (
            payment.payment_id,
            payment.version,
            payment.event_type,
            _text(payment.update_time),
            document,
        ),
    )
    connection.executemany(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                payment.payment_id,
                e.transaction_id,
                e.account,
                e.minor_units,
                e.currency_code,
                _text(e.post_time),
            )
            for e in entries
        ],
    )


def _cursor_expired() -> Refusal:
    return Refusal(
        Kind.OUT_OF_RANGE,
        "CURSOR_EXPIRED",
        "Events after this cursor are no longer kept.",
        remedy="Read the payments by ListPayments, then watch from an empty cursor.",
        field="cursor",
    )
