"""The embedded store of payments: one row per payment, one event per version, one ledger."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters import (
    sqlite_ledger,
    sqlite_search,
    sqlite_versions,
    sqlite_webhooks,
)
from smartpay_payments.adapters.sqlite_audit import append_audit
from smartpay_payments.domain.audit import AuditRecord
from smartpay_payments.domain.customers import ErasedCustomer
from smartpay_payments.domain.events import (
    CUSTOMER_ERASED,
    MERCHANT_UPDATED,
    Logged,
    LoggedChange,
    LoggedErasure,
    LoggedEvent,
)
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.merchants import Profile
from smartpay_payments.domain.payment import NOT_PAID, Payment
from smartpay_payments.domain.search import PaymentFilter

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
        -- Where the last attempt was made, and whether its outcome is open.
        processor_account_id TEXT NOT NULL,
        in_doubt INTEGER NOT NULL,
        document BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX payment_in_doubt ON payment (processor_account_id) WHERE in_doubt;
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
    -- Refunds and disputes by their own ids.
    CREATE TABLE part (
        part_id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        create_time TEXT NOT NULL,
        payment_id TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX part_by_merchant ON part (merchant_id, livemode, kind, create_time, part_id);
    CREATE INDEX part_by_payment ON part (payment_id);
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

LATER_MIGRATIONS = [
    # With row ids: documents of 2 KB don't fit into the leaves of a table without them, and each
    # commit wrote a page or two more per payment.
    """
    CREATE TABLE payment_with_rowid (
        payment_id TEXT PRIMARY KEY NOT NULL,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        status TEXT NOT NULL,
        version INTEGER NOT NULL,
        create_time TEXT NOT NULL,
        check_time TEXT,
        processor_account_id TEXT NOT NULL,
        in_doubt INTEGER NOT NULL,
        document BLOB NOT NULL
    );
    INSERT INTO payment_with_rowid SELECT * FROM payment ORDER BY create_time;
    DROP TABLE payment;
    ALTER TABLE payment_with_rowid RENAME TO payment;
    CREATE INDEX payment_in_doubt ON payment (processor_account_id) WHERE in_doubt;
    CREATE INDEX payment_to_check ON payment (check_time) WHERE check_time IS NOT NULL;
    """,
]

FORGET_BATCH = 500  # events removed per unit of work; some milliseconds of the one writer

PartKind = Literal["refund", "dispute"]

_decode = msgspec.json.Decoder(Payment).decode
_decode_profile = msgspec.json.Decoder(Profile).decode
_decode_erased = msgspec.json.Decoder(ErasedCustomer).decode
_encode = msgspec.json.Encoder().encode


_text = sqlite_ledger.time_text


class SqlitePayments:
    """The port `Repository`, and the log of events, in one SQLite file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        # Made when somebody waits: most commits find nobody.
        self._committed: asyncio.Event | None = None

    async def create(
        self,
        payment: Payment,
        claim: Claim,
        entries: Sequence[LedgerEntry],
        audit: AuditRecord | None = None,
    ) -> Payment | None:
        """Stores a new payment; answers the one stored under its id, if any."""

        def work(connection: sqlite3.Connection) -> Payment | None:
            try:
                sqlite_versions.store(
                    connection,
                    payment,
                    document,
                    entries,
                    claim,
                    holds_order=payment.status not in NOT_PAID,
                )
            except (sqlite3.IntegrityError, Refusal):
                row = connection.execute(
                    "SELECT document FROM payment WHERE payment_id = ?", (payment.payment_id,)
                ).fetchone()
                if row is None:
                    raise
                return _decode(row["document"])
            if any(attempt.processor_payment_id for attempt in payment.attempts):
                # One that was charged elsewhere and is brought here; ours begin uncharged.
                _note_parts(connection, payment)
                sqlite_webhooks.note_attempts(connection, payment)
            if audit is not None:
                append_audit(connection, audit)
            return None

        document = _encode(payment)
        stored = await self._store.write(work)
        self.wake_watchers()
        return stored

    async def save(
        self,
        payment: Payment,
        entries: Sequence[LedgerEntry],
        claim: Claim | None = None,
        audit: AuditRecord | None = None,
        planned: datetime | None = None,
        holds_order: bool = False,
    ) -> bool:
        """Stores the next version by compare-and-set."""

        def work(connection: sqlite3.Connection) -> bool:
            try:
                sqlite_versions.store(
                    connection,
                    payment,
                    document,
                    entries,
                    claim,
                    planned,
                    holds_order=holds_order,
                )
            except sqlite_versions.SupersededError:
                return False
            _note_parts(connection, payment)
            sqlite_webhooks.note_attempts(connection, payment)
            if audit is not None:
                append_audit(connection, audit)
            return True

        document = _encode(payment)
        saved = await self._store.write(work)
        self.wake_watchers()
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
        self, merchant_id: str, livemode: bool, wanted: PaymentFilter, after: str, size: int
    ) -> tuple[list[Payment], str]:
        """Reads a page of a merchant's payments, newest first; see `sqlite_search.page`."""

        def query(connection: sqlite3.Connection) -> tuple[list[Payment], str]:
            documents, position = sqlite_search.page(
                connection, merchant_id, livemode, wanted, after, size
            )
            return [_decode(document) for document in documents], position

        return await self._store.read(query)

    async def refund_holder(
        self, merchant_id: str, livemode: bool, refund_id: str
    ) -> Payment | None:
        """Reads the payment that one of the merchant's refunds belongs to."""
        return await self._holder(merchant_id, livemode, "refund", refund_id)

    async def dispute_holder(
        self, merchant_id: str, livemode: bool, dispute_id: str
    ) -> Payment | None:
        """Reads the payment that one of the merchant's disputes belongs to."""
        return await self._holder(merchant_id, livemode, "dispute", dispute_id)

    async def refunds(
        self, merchant_id: str, livemode: bool, payment_id: str, after: str, size: int
    ) -> tuple[list[tuple[str, Payment]], str]:
        """Reads a page of refund ids with their payments, newest first; see `page`."""
        return await self._parts(merchant_id, livemode, "refund", payment_id, after, size)

    async def disputes(
        self, merchant_id: str, livemode: bool, payment_id: str, after: str, size: int
    ) -> tuple[list[tuple[str, Payment]], str]:
        """Reads a page of dispute ids with their payments, newest first; see `page`."""
        return await self._parts(merchant_id, livemode, "dispute", payment_id, after, size)

    async def _holder(
        self, merchant_id: str, livemode: bool, kind: PartKind, part_id: str
    ) -> Payment | None:

        def query(connection: sqlite3.Connection) -> Payment | None:
            row = connection.execute(
                "SELECT document FROM payment WHERE payment_id = (SELECT payment_id FROM part"
                " WHERE part_id = ? AND kind = ? AND merchant_id = ? AND livemode = ?)",
                (part_id, kind, merchant_id, livemode),
            ).fetchone()
            return None if row is None else _decode(row["document"])

        return await self._store.read(query)

    async def _parts(
        self,
        merchant_id: str,
        livemode: bool,
        kind: PartKind,
        payment_id: str,
        after: str,
        size: int,
    ) -> tuple[list[tuple[str, Payment]], str]:
        created, _, part_id = after.partition(" ")
        where = " AND part.payment_id = :payment_id" if payment_id else ""
        if after:
            where += " AND (part.create_time, part_id) < (:created, :part_id)"

        def query(connection: sqlite3.Connection) -> tuple[list[tuple[str, Payment]], str]:
            rows = connection.execute(
                "SELECT part_id, part.create_time, document FROM part JOIN payment"
                " ON payment.payment_id = part.payment_id"
                " WHERE part.merchant_id = :merchant_id AND part.livemode = :livemode"
                f" AND kind = :kind{where}"
                " ORDER BY part.create_time DESC, part_id DESC LIMIT :size + 1",
                {
                    "merchant_id": merchant_id,
                    "livemode": livemode,
                    "kind": kind,
                    "payment_id": payment_id,
                    "created": created,
                    "part_id": part_id,
                    "size": size,
                },
            ).fetchall()
            found = [(row["part_id"], _decode(row["document"])) for row in rows[:size]]
            if len(rows) <= size:
                return found, ""
            last = rows[size - 1]
            return found, f"{last['create_time']} {last['part_id']}"

        return await self._store.read(query)

    def position_of(self, payment: Payment) -> str:
        """Spells the position after which `page` goes on behind a payment."""
        return sqlite_search.position_of(payment)

    async def ledger(self, payment_id: str) -> list[LedgerEntry]:
        """Reads a payment's ledger entries, oldest first."""
        return await self._store.read(
            lambda connection: sqlite_ledger.entries_of(connection, payment_id)
        )

    # ---- recovery ----------------------------------------------------------------------------

    async def lease_due(self, now: datetime, until: datetime, limit: int) -> list[Payment]:
        """Takes payments whose time to be looked at has come, longest waiting first.

        Until the lease ends nobody else takes them; storing or postponing one ends it early.
        """

        def work(connection: sqlite3.Connection) -> list[Payment]:
            rows = connection.execute(
                "UPDATE payment SET check_time = ? WHERE payment_id IN"
                " (SELECT payment_id FROM payment WHERE check_time <= ?"
                " ORDER BY check_time LIMIT ?) RETURNING document",
                (_text(until), _text(now), limit),
            ).fetchall()
            payments = [_decode(row["document"]) for row in rows]
            for payment in payments:
                sqlite_webhooks.drop_hints(connection, payment.payment_id)
            return payments

        if not await self._any_due(now):
            return []
        return await self._store.write(work)

    async def _any_due(self, now: datetime) -> bool:
        """Looks before leasing, because a write of nothing would still cost a commit."""

        def query(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "SELECT 1 FROM payment WHERE check_time <= ? LIMIT 1", (_text(now),)
            ).fetchone()
            return row is not None

        return await self._store.read(query)

    async def make_due(self, now: datetime, processor_account_id: str = "") -> int:
        """Makes every payment in doubt due now, or those at one account; answers how many.

        Without an account it is called once, before the first call is served: this store has
        one replica, so nobody else is at work on them. Later, what is in processing is left to
        the story that is at work on it: sent by two at once, a charge could be turned away for
        the one, who then tries the next account, and be taken for the other.
        """

        def work(connection: sqlite3.Connection) -> int:
            where = ""
            if processor_account_id:
                where = " AND processor_account_id = :account AND status <> 'PROCESSING'"
            return connection.execute(
                f"UPDATE payment SET check_time = :now WHERE in_doubt AND check_time > :now{where}",
                {"now": _text(now), "account": processor_account_id},
            ).rowcount

        return await self._store.write(work)

    async def postpone(self, payment: Payment, until: datetime | None) -> None:
        """Plans the next look without a new version; does nothing when the payment changed."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE payment SET check_time = ? WHERE payment_id = ? AND version = ?",
                (until and _text(until), payment.payment_id, payment.version),
            )
            sqlite_webhooks.keep_hints(connection, payment.payment_id)

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
        """Reads the next events of payments in the order of the log; others are passed over.

        Raises:
            Refusal: OUT_OF_RANGE when events between the position and the oldest are gone.
        """

        def query(connection: sqlite3.Connection) -> list[LoggedEvent]:
            _check_position(connection, position)
            rows = connection.execute(
                "SELECT position, document FROM event WHERE position > ? AND type NOT IN (?, ?)"
                " ORDER BY position LIMIT ?",
                (position, MERCHANT_UPDATED, CUSTOMER_ERASED, limit),
            )
            return [LoggedEvent(row["position"], _decode(row["document"])) for row in rows]

        return await self._store.read(query)

    async def log_after(self, position: int, limit: int) -> list[Logged]:
        """Reads what comes next in the log, whatever it is of.

        Raises:
            Refusal: OUT_OF_RANGE when events between the position and the oldest are gone.
        """

        def query(connection: sqlite3.Connection) -> list[Logged]:
            _check_position(connection, position)
            rows = connection.execute(
                "SELECT position, type, document FROM event WHERE position > ?"
                " ORDER BY position LIMIT ?",
                (position, limit),
            )
            return [_logged(*row) for row in rows]

        return await self._store.read(query)

    def next_commit(self) -> asyncio.Event:
        """Answers what is set by the next commit; take it before reading, wait on it after."""
        if self._committed is None:
            self._committed = asyncio.Event()
        return self._committed

    def wake_watchers(self) -> None:
        """Tells those who wait for a commit that there was one; for stores of the same log."""
        if self._committed is not None:
            self._committed.set()
            self._committed = None


def _check_position(connection: sqlite3.Connection, position: int) -> None:
    """Refuses a position after which events are gone; 0 is before all that are kept."""
    if not position:
        return
    bounds = connection.execute(
        "SELECT (SELECT min(position) FROM event) AS oldest,"
        " (SELECT seq FROM sqlite_sequence WHERE name = 'event') AS newest"
    ).fetchone()
    newest = bounds["newest"] or 0
    gone_up_to = newest if bounds["oldest"] is None else bounds["oldest"] - 1
    if not gone_up_to <= position <= newest:
        raise _cursor_expired()


def _logged(position: int, kind: str, document: bytes) -> Logged:
    if kind == MERCHANT_UPDATED:
        return LoggedChange(position, _decode_profile(document))
    if kind == CUSTOMER_ERASED:
        return LoggedErasure(position, _decode_erased(document))
    return LoggedEvent(position, _decode(document))


def _note_parts(connection: sqlite3.Connection, payment: Payment) -> None:
    parts = [
        *(("refund", r.refund_id, r.create_time) for r in payment.refunds),
        *(("dispute", d.dispute_id, d.create_time) for d in payment.disputes),
    ]
    if parts:
        connection.executemany(
            "INSERT OR IGNORE INTO part VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    part_id,
                    kind,
                    payment.merchant_id,
                    payment.livemode,
                    _text(created),
                    payment.payment_id,
                )
                for kind, part_id, created in parts
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
