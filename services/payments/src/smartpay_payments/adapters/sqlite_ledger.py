"""The embedded ledger: legs are only ever added, in the order of time, and sums are kept of them.

Nothing may change or remove a leg: triggers refuse it. Balances have no row of their own that
every payment would have to write; they are the sums per hour that `add_up` keeps behind, plus the
few legs posted since.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.domain.ledger import (
    Balance,
    EntryFilter,
    LedgerEntry,
    PostedEntry,
    fee_legs,
    fees_account,
    payouts_account,
    processor_account,
)

MIGRATIONS = [
    """
    CREATE TABLE ledger_entry (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        payment_id TEXT NOT NULL,
        transaction_id TEXT NOT NULL,
        account TEXT NOT NULL,
        minor_units INTEGER NOT NULL,
        currency_code TEXT NOT NULL,
        post_time TEXT NOT NULL,
        UNIQUE (payment_id, merchant_id, livemode, transaction_id, account, currency_code)
    );
    CREATE INDEX ledger_entry_by_time ON ledger_entry (merchant_id, livemode, post_time);
    CREATE INDEX ledger_entry_by_account
        ON ledger_entry (merchant_id, livemode, account, post_time);
    CREATE TRIGGER ledger_entry_stays BEFORE UPDATE ON ledger_entry
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a leg was to be changed'); END;
    CREATE TRIGGER ledger_entry_is_kept BEFORE DELETE ON ledger_entry
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a leg was to be removed'); END;
    CREATE TRIGGER ledger_entry_is_new BEFORE INSERT ON ledger_entry
        WHEN EXISTS (
            SELECT 1 FROM ledger_entry WHERE payment_id = NEW.payment_id
                AND merchant_id = NEW.merchant_id AND livemode = NEW.livemode
                AND transaction_id = NEW.transaction_id AND account = NEW.account
                AND currency_code = NEW.currency_code)
        OR NEW.post_time < (SELECT post_time FROM ledger_entry ORDER BY position DESC LIMIT 1)
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only: a leg is there, or lies back'); END;
    CREATE TABLE ledger_hour (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        currency_code TEXT NOT NULL,
        account TEXT NOT NULL,
        hour TEXT NOT NULL,
        minor_units INTEGER NOT NULL,
        PRIMARY KEY (merchant_id, livemode, currency_code, account, hour)
    ) WITHOUT ROWID;
    CREATE TABLE ledger_added_up (position INTEGER NOT NULL, post_time TEXT NOT NULL);
    INSERT INTO ledger_added_up VALUES (0, '');
    CREATE TABLE settlement_cursor (
        processor_account_id TEXT PRIMARY KEY,
        until TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
]

ADD_UP_BATCH = 20_000  # legs added up at once; some ten milliseconds of the one reader
SCAN_MAX = 20_000  # legs looked at for one page: some ten milliseconds of the one reader
HOUR_LENGTH = len("2026-01-01T00")
TIME_LENGTH = len("2026-01-01T00:00:00.000000")


def time_text(moment: datetime) -> str:
    """Spells a moment in one fixed width, so that text order is time order."""
    # Thrice as fast as strftime, and each stored payment has a dozen of them.
    return f"{moment.astimezone(UTC).isoformat(timespec='microseconds')[:TIME_LENGTH]}Z"


def post(
    connection: sqlite3.Connection,
    merchant_id: str,
    livemode: bool,
    payment_id: str,
    entries: Sequence[LedgerEntry],
) -> None:
    """Adds legs within a unit of work; raises sqlite3.IntegrityError when one is there already.

    A clock that was set back posts at the last time there is: books are never written in the past.
    """
    if not entries:
        return
    last = connection.execute(
        "SELECT post_time FROM ledger_entry ORDER BY position DESC LIMIT 1"
    ).fetchone()
    latest = last["post_time"] if last is not None else ""
    connection.executemany(
        "INSERT INTO ledger_entry (merchant_id, livemode, payment_id, transaction_id, account,"
        " minor_units, currency_code, post_time) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                merchant_id,
                livemode,
                payment_id,
                e.transaction_id,
                e.account,
                e.minor_units,
                e.currency_code,
                max(time_text(e.post_time), latest),
            )
            for e in entries
        ],
    )


def entries_of(connection: sqlite3.Connection, payment_id: str) -> list[LedgerEntry]:
    """Reads a payment's legs, oldest first."""
    rows = connection.execute(
        "SELECT * FROM ledger_entry WHERE payment_id = ?"
        " ORDER BY post_time, transaction_id, account",
        (payment_id,),
    )
    return [_entry(row) for row in rows]


def _entry(row: sqlite3.Row) -> LedgerEntry:
    return LedgerEntry(
        row["transaction_id"],
        row["account"],
        row["minor_units"],
        row["currency_code"],
        datetime.fromisoformat(row["post_time"]),
    )


class SqliteLedger:
    """The books of all merchants in the embedded store."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    # ---- balances ----------------------------------------------------------------------------

    async def balances(
        self, merchant_id: str, livemode: bool, as_of: datetime | None = None
    ) -> list[Balance]:
        """Sums every account and currency of a merchant, by currency and account.

        Args:
            merchant_id: the tenant.
            livemode: the tenant's mode.
            as_of: what is posted later does not count; None counts all.
        """
        until = "~" if as_of is None else time_text(as_of)

        def query(connection: sqlite3.Connection) -> list[Balance]:
            # One snapshot: adding up may move between the two reads.
            connection.execute("BEGIN")
            try:
                added = connection.execute("SELECT * FROM ledger_added_up").fetchone()
                if until >= added["post_time"]:
                    # The plus keeps the index away: the few legs behind a position are read.
                    hours = "~"
                    rest = "+merchant_id = :merchant_id AND position > :position"
                else:
                    hours = until[:HOUR_LENGTH]
                    rest = "merchant_id = :merchant_id AND post_time >= :hours"
                rows = connection.execute(
                    "SELECT currency_code, account, sum(minor_units) AS minor_units FROM ("
                    "SELECT currency_code, account, sum(minor_units) AS minor_units"
                    " FROM ledger_hour WHERE merchant_id = :merchant_id AND livemode = :livemode"
                    " AND hour < :hours GROUP BY currency_code, account"
                    " UNION ALL SELECT currency_code, account, minor_units FROM ledger_entry"
                    f" WHERE {rest} AND livemode = :livemode AND post_time <= :until"
                    " ) GROUP BY currency_code, account ORDER BY currency_code, account",
                    {
                        "merchant_id": merchant_id,
                        "livemode": livemode,
                        "hours": hours,
                        "until": until,
                        "position": added["position"],
                    },
                ).fetchall()
            finally:
                connection.execute("COMMIT")
            return [Balance(r["account"], r["currency_code"], r["minor_units"]) for r in rows]

        return await self._store.read(query)

    async def add_up(self) -> int:
        """Adds the next legs to the sums per hour; answers how many. Call it until it answers 0."""

        def read(connection: sqlite3.Connection) -> tuple[int, list[sqlite3.Row], sqlite3.Row]:
            start = connection.execute("SELECT position FROM ledger_added_up").fetchone()[0]
            batch = (
                "SELECT * FROM ledger_entry WHERE position > :start ORDER BY position LIMIT :size"
            )
            values = {"start": start, "size": ADD_UP_BATCH}
            sums = connection.execute(
                "SELECT merchant_id, livemode, currency_code, account,"
                f" substr(post_time, 1, {HOUR_LENGTH}) AS hour, sum(minor_units) AS minor_units"
                f" FROM ({batch}) GROUP BY 1, 2, 3, 4, 5",
                values,
            ).fetchall()
            last = connection.execute(
                "SELECT count(*) AS legs, max(position) AS position, max(post_time) AS post_time"
                f" FROM ({batch})",
                values,
            ).fetchone()
            return start, sums, last

        def work(connection: sqlite3.Connection) -> None:
            moved = connection.execute(
                "UPDATE ledger_added_up SET position = ?, post_time = ? WHERE position = ?",
                (last["position"], last["post_time"], start),
            ).rowcount
            if moved:
                connection.executemany(
                    "INSERT INTO ledger_hour VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
                    " SET minor_units = minor_units + excluded.minor_units",
                    [tuple(row) for row in sums],
                )

        start, sums, last = await self._store.read(read)
        if last["legs"]:
            await self._store.write(work)
        return int(last["legs"])

    # ---- legs --------------------------------------------------------------------------------

    async def page(
        self, merchant_id: str, livemode: bool, wanted: EntryFilter, before: int, size: int
    ) -> tuple[list[PostedEntry], int]:
        """Reads a page of a merchant's legs, newest first, and the position to go on below.

        One page looks at so many legs at most; with a rare filter it may hold fewer than asked
        for, even none, and still have a position.

        Args:
            merchant_id: the tenant.
            livemode: the tenant's mode.
            wanted: which legs.
            before: the position that the page before answered; 0 for the first page.
            size: how many at most.
        """
        # A payment's own index is the shorter way; the plus keeps the other one away.
        conditions = ["+merchant_id" if wanted.payment_id else "merchant_id"]
        conditions[0] += " = :merchant_id AND livemode = :livemode"
        values: dict[str, object] = {
            "merchant_id": merchant_id,
            "livemode": livemode,
            "before": before,
            "scan": SCAN_MAX,
            "currency_code": wanted.currency_code,
        }
        if before:
            conditions.append(
                "position < :before AND post_time <="
                " ifnull((SELECT post_time FROM ledger_entry WHERE position = :before), '~')"
            )
        for condition, name, value in (
            ("account = ", "account", wanted.account),
            ("payment_id = ", "payment_id", wanted.payment_id),
            ("post_time >= ", "from", wanted.post_time_from),
            ("post_time < ", "until", wanted.post_time_before),
        ):
            if value:
                conditions.append(f"{condition}:{name}")
                values[name] = value if isinstance(value, str) else time_text(value)

        def query(connection: sqlite3.Connection) -> tuple[list[PostedEntry], int]:
            rows = connection.execute(
                "SELECT * FROM ledger_entry"
                f" WHERE {' AND '.join(conditions)}"
                # Both ways to sort say the same, and this one is in the indexes.
                " ORDER BY post_time DESC, position DESC LIMIT :scan",
                values,
            )
            found: list[PostedEntry] = []
            for number, row in enumerate(rows, start=1):
                if wanted.currency_code in ("", row["currency_code"]):
                    if len(found) == size:
                        return found, found[-1].position
                    found.append(PostedEntry(row["position"], row["payment_id"], _entry(row)))
                if number == SCAN_MAX:
                    return found, row["position"]
            return found, 0

        return await self._store.read(query)

    # ---- what processors settle --------------------------------------------------------------

    async def post_once(
        self,
        merchant_id: str,
        livemode: bool,
        transaction_id: str,
        legs: Mapping[str, int],
        currency_code: str,
        now: datetime,
    ) -> bool:
        """Posts what concerns an account as a whole; answers False when it is posted already."""
        entries = [
            LedgerEntry(transaction_id, account, minor, currency_code, now)
            for account, minor in legs.items()
            if minor
        ]
        return await self._store.write(
            lambda connection: _post_once(connection, merchant_id, livemode, entries)
        )

    async def payment_of(self, processor_account_id: str, processor_payment_id: str) -> str:
        """Finds the payment that a charge belongs to; "" when it is none of ours."""

        def query(connection: sqlite3.Connection) -> str:
            row = connection.execute(
                "SELECT payment_id FROM attempt_by_processor_payment_id"
                " WHERE processor_account_id = ? AND processor_payment_id = ?",
                (processor_account_id, processor_payment_id),
            ).fetchone()
            return "" if row is None else row["payment_id"]

        return await self._store.read(query)

    async def settle_fee(
        self,
        merchant_id: str,
        livemode: bool,
        payment_id: str,
        processor_account_id: str,
        fee_minor: int,
        currency_code: str,
        line_id: str,
        now: datetime,
    ) -> bool:
        """Sees to it that the fee of a payment's capture is booked as the processor settled it.

        A fee in the payment's own currency is the payment's to learn: it is made due, and its
        story asks and books. One in another currency, which only the settlement tells, is posted;
        one of a late charge that was given back is the account's, since the payment has none.

        Args:
            merchant_id: the tenant.
            livemode: the tenant's mode.
            payment_id: the payment.
            processor_account_id: the account that charged it.
            fee_minor: the whole fee.
            currency_code: of the fee.
            line_id: the processor's id of the line that told it.
            now: the time.

        Returns:
            False while it is not booked.
        """

        def work(connection: sqlite3.Connection) -> bool:
            legs = connection.execute(
                "SELECT * FROM ledger_entry WHERE payment_id = ? AND merchant_id = ?"
                " AND livemode = ?",
                (payment_id, merchant_id, livemode),
            ).fetchall()
            theirs = [r for r in legs if r["account"] == processor_account(processor_account_id)]
            captures = {r["currency_code"] for r in theirs if r["transaction_id"] == "capture"}
            if not captures and any(r["transaction_id"].startswith("transfers:") for r in theirs):
                entries = [
                    LedgerEntry(f"late_fee:{line_id}", account, minor, currency_code, now)
                    for account, minor in fee_legs(processor_account_id, fee_minor).items()
                    if minor
                ]
                _post_once(connection, merchant_id, livemode, entries)
                return True
            if not captures:
                return False
            transaction_id = f"fee:{line_id}"
            if currency_code not in captures:
                entries = [
                    LedgerEntry(transaction_id, account, minor, currency_code, now)
                    for account, minor in fee_legs(processor_account_id, fee_minor).items()
                    if minor and transaction_id not in {r["transaction_id"] for r in legs}
                ]
                post(connection, merchant_id, livemode, payment_id, entries)
                return True
            booked = sum(
                row["minor_units"]
                for row in legs
                if row["account"] == fees_account(processor_account_id)
                and row["transaction_id"].partition(":")[0] == "fee"
                and row["currency_code"] == currency_code
            )
            if booked == fee_minor:
                return True
            connection.execute(
                "UPDATE payment SET check_time = min(ifnull(check_time, :now), :now)"
                " WHERE payment_id = :payment_id",
                {"now": time_text(now), "payment_id": payment_id},
            )
            return False

        return await self._store.write(work)

    async def cursor(self, processor_account_id: str) -> datetime | None:
        """Reads until when an account's settlement was read; None before the first time."""

        def query(connection: sqlite3.Connection) -> datetime | None:
            row = connection.execute(
                "SELECT until FROM settlement_cursor WHERE processor_account_id = ?",
                (processor_account_id,),
            ).fetchone()
            return None if row is None else datetime.fromisoformat(row["until"])

        return await self._store.read(query)

    async def move_cursor(self, processor_account_id: str, until: datetime) -> None:
        """Remembers until when an account's settlement was read."""

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO settlement_cursor VALUES (?, ?)",
                (processor_account_id, time_text(until)),
            )

        await self._store.write(work)

    async def open_payouts(self, merchant_id: str, livemode: bool, account: str) -> list[str]:
        """Reads the ids of the payouts of an account that left and neither arrived nor returned."""

        def query(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute(
                # What is on its way sums to zero once a payout has ended.
                "SELECT substr(transaction_id, instr(transaction_id, ':') + 1) AS payout_id"
                " FROM ledger_entry WHERE merchant_id = ? AND livemode = ? AND account = ?"
                " GROUP BY payout_id HAVING sum(minor_units) <> 0",
                (merchant_id, livemode, payouts_account(account)),
            )
            return [row["payout_id"] for row in rows]

        return await self._store.read(query)


def _post_once(
    connection: sqlite3.Connection,
    merchant_id: str,
    livemode: bool,
    entries: Sequence[LedgerEntry],
) -> bool:
    """Posts one transaction of an account as a whole; answers False when it is posted already."""
    known = (
        entries
        and connection.execute(
            "SELECT 1 FROM ledger_entry WHERE payment_id = '' AND merchant_id = ?"
            " AND livemode = ? AND transaction_id = ?",
            (merchant_id, livemode, entries[0].transaction_id),
        ).fetchone()
    )
    if known or not entries:
        return False
    post(connection, merchant_id, livemode, "", entries)
    return True
