"""Reads a store of payments as it is at one moment, and sorts what processors say beside it.

Opened read-only, so it runs on a copy and beside the living service alike. What is to be sorted
goes to a temporary file of its own: memory stays small however many payments there are.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import msgspec

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.sqlite_ledger import time_text
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.reconciliation import OurRecord, ProcessorCharge

_decode = msgspec.json.Decoder(Payment).decode
_encode_charge = msgspec.json.Encoder().encode
_decode_charge = msgspec.json.Decoder(ProcessorCharge).decode

_SCHEMA = """
PRAGMA journal_mode=OFF;
PRAGMA synchronous=OFF;
CREATE TABLE ours (payment_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE theirs (
    payment_id TEXT NOT NULL,
    processor_account_id TEXT NOT NULL,
    processor_payment_id TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (payment_id, processor_account_id, processor_payment_id)
) WITHOUT ROWID;
CREATE TABLE told_fee (
    processor_account_id TEXT NOT NULL,
    processor_payment_id TEXT NOT NULL,
    fee_minor INTEGER NOT NULL,
    PRIMARY KEY (processor_account_id, processor_payment_id)
) WITHOUT ROWID;
"""


def open_read_only(path: Path) -> sqlite3.Connection:
    """Opens a store that nobody may be disturbed at; raises sqlite3.Error when there is none."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.isolation_level = None
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA query_only=ON")
    return connection


def booked_of(connection: sqlite3.Connection, payment: Payment) -> dict[str, int]:
    """Sums what the books say of a payment in its own currency, by account."""
    balances: Counter[str] = Counter()
    for row in connection.execute(
        "SELECT account, minor_units FROM ledger_entry WHERE payment_id = ? AND currency_code = ?",
        (payment.payment_id, payment.order.amount.currency_code),
    ):
        balances[row["account"]] += row["minor_units"]
    return {account: minor for account, minor in balances.items() if minor}


class Workbench:
    """The processors' charges, sorted, beside a snapshot of our store.

    Use it as a context manager. Args:
        path: the store.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Workbench:
        self._store = self._stack.enter_context(contextlib.closing(open_read_only(self._path)))
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="smartpay"))
        self._sorted = self._stack.enter_context(
            contextlib.closing(sqlite3.connect(Path(folder) / "sorted.db", isolation_level=None))
        )
        self._sorted.executescript(_SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def freeze(self) -> None:
        """Lets our side stand still from here on, whatever the service writes.

        Call it after all charges were taken: what is ours is then newer than what is theirs, and
        a payment that changed in between says so by its update_time.
        """
        self._store.execute("BEGIN")

    def choose(
        self, merchant_id: str, livemode: bool, create_from: datetime, create_before: datetime
    ) -> int:
        """Takes a merchant's payments of a window into the comparison; answers how many."""
        rows = self._store.execute(
            "SELECT payment_id FROM payment_search WHERE merchant_id = ? AND livemode = ?"
            " AND create_time >= ? AND create_time < ?",
            (merchant_id, livemode, time_text(create_from), time_text(create_before)),
        )
        self._sorted.execute("BEGIN")
        chosen = self._sorted.executemany(
            "INSERT OR IGNORE INTO ours VALUES (?)", (tuple(row) for row in rows)
        ).rowcount
        self._sorted.execute("COMMIT")
        return chosen

    def take(self, charges: Iterable[ProcessorCharge]) -> None:
        """Takes charges of a processor; those told no payment are matched by the charge's id."""
        self._sorted.execute("BEGIN")
        self._sorted.executemany(
            "INSERT OR REPLACE INTO theirs VALUES (?, ?, ?, ?)",
            (
                (
                    matched.payment_id,
                    matched.processor_account_id,
                    matched.processor_payment_id,
                    _encode_charge(matched),
                )
                for matched in map(self._with_fee, map(self._matched, charges))
            ),
        )
        self._sorted.execute("COMMIT")

    def take_clues(
        self, charges: Iterable[ProcessorCharge], processor_account_ids: Sequence[str]
    ) -> None:
        """Takes those charges of a list that is not whole which no attempt of ours is for.

        Of the others, which are asked for one by one, only the fee is kept. Call it before `take`.

        Args:
            charges: as the processor lists them.
            processor_account_ids: accounts whose attempts they may be; some are one there.
        """
        strays = []
        for charge in charges:
            name = charge.processor_payment_id
            if not any(self._payment_of(account, name) for account in processor_account_ids):
                strays.append(charge)
            elif charge.fee_minor is not None:
                self._sorted.execute(
                    "INSERT OR REPLACE INTO told_fee VALUES (?, ?, ?)",
                    (charge.processor_account_id, name, charge.fee_minor),
                )
        self.take(strays)

    def drop(self, processor_account_id: str) -> None:
        """Forgets the charges of an account that could not be read to the end."""
        self._sorted.execute(
            "DELETE FROM theirs WHERE processor_account_id = ?", (processor_account_id,)
        )

    def _matched(self, charge: ProcessorCharge) -> ProcessorCharge:
        if charge.payment_id:
            return charge
        found = self._payment_of(charge.processor_account_id, charge.processor_payment_id)
        return replace(charge, payment_id=found) if found else charge

    def _payment_of(self, processor_account_id: str, processor_payment_id: str) -> str:
        row = self._store.execute(
            "SELECT payment_id FROM attempt_by_processor_payment_id"
            " WHERE processor_account_id = ? AND processor_payment_id = ?",
            (processor_account_id, processor_payment_id),
        ).fetchone()
        return "" if row is None else row["payment_id"]

    def _with_fee(self, charge: ProcessorCharge) -> ProcessorCharge:
        if charge.fee_minor is not None:
            return charge
        row = self._sorted.execute(
            "SELECT fee_minor FROM told_fee"
            " WHERE processor_account_id = ? AND processor_payment_id = ?",
            (charge.processor_account_id, charge.processor_payment_id),
        ).fetchone()
        return charge if row is None else replace(charge, fee_minor=row[0])

    def ours(self) -> Iterator[OurRecord]:
        """Yields the chosen payments, sorted by id, with what the books say of them."""
        for row in self._sorted.execute("SELECT payment_id FROM ours ORDER BY payment_id"):
            record = self.find(row[0])
            assert record is not None  # chosen out of the same snapshot
            yield record

    def find(self, payment_id: str) -> OurRecord | None:
        """Reads any payment of the snapshot."""
        row = self._store.execute(
            "SELECT document FROM payment WHERE payment_id = ?", (payment_id,)
        ).fetchone()
        if row is None:
            return None
        payment = _decode(row["document"])
        return OurRecord(payment, booked_of(self._store, payment))

    def theirs(self) -> Iterator[ProcessorCharge]:
        """Yields the charges that were taken, sorted by payment id."""
        for row in self._sorted.execute("SELECT document FROM theirs ORDER BY payment_id"):
            yield _decode_charge(row[0])


async def make_due(store: SqliteStore, payment_ids: Iterable[str], now: datetime) -> int:
    """Lets recovery look at payments now; answers how many there are.

    That is all a break is healed by: the story itself finds out, and stores what it finds.
    """
    found = [(time_text(now), payment_id) for payment_id in payment_ids]

    def work(connection: sqlite3.Connection) -> int:
        return connection.executemany(
            "UPDATE payment SET check_time = min(ifnull(check_time, ?1), ?1) WHERE payment_id = ?2",
            found,
        ).rowcount

    return await store.write(work) if found else 0
