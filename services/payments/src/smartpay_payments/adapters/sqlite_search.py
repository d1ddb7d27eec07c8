"""Finds payments by what merchants ask for, in one narrow row per payment.

The order is total and stable: newest first, by creation time and id, neither of which changes. So
payments made while somebody reads page after page neither repeat nor hide others.
"""

from __future__ import annotations

import sqlite3

from smartpay_payments.adapters.sqlite_ledger import time_text
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.search import PaymentFilter

MIGRATIONS = [
    """
    CREATE TABLE payment_search (
        merchant_id TEXT NOT NULL,
        livemode INTEGER NOT NULL,
        create_time TEXT NOT NULL,
        payment_id TEXT NOT NULL,
        status TEXT NOT NULL,
        processor TEXT NOT NULL,
        merchant_order_id TEXT NOT NULL,
        customer_id TEXT NOT NULL,
        minor_units INTEGER NOT NULL,
        currency_code TEXT NOT NULL,
        metadata TEXT NOT NULL,
        PRIMARY KEY (merchant_id, livemode, create_time, payment_id)
    ) WITHOUT ROWID;
    CREATE INDEX payment_search_by_status ON payment_search
        (merchant_id, livemode, status, create_time, payment_id);
    CREATE INDEX payment_search_by_order ON payment_search
        (merchant_id, livemode, merchant_order_id, create_time, payment_id)
        WHERE merchant_order_id <> '';
    CREATE INDEX payment_search_by_customer ON payment_search
        (merchant_id, livemode, customer_id, create_time, payment_id) WHERE customer_id <> '';
    """,
]

SCAN_MAX = 20_000  # rows looked at for one page: some ten milliseconds of the one reader


def position_of(payment: Payment) -> str:
    """Spells where a payment stands in the order, for `page`."""
    return f"{time_text(payment.create_time)} {payment.payment_id}"


def page(
    connection: sqlite3.Connection,
    merchant_id: str,
    livemode: bool,
    wanted: PaymentFilter,
    after: str,
    size: int,
) -> tuple[list[bytes], str]:
    """Reads the documents of a page of payments, newest first, and the position to go on after.

    One page looks at so many rows at most; with a rare filter it may hold fewer than asked for,
    even none, and still have a position.

    Args:
        connection: the reading one.
        merchant_id: the tenant.
        livemode: the tenant's mode.
        wanted: which payments.
        after: the position that the page before answered; "" for the first page.
        size: how many at most.
    """
    created, _, payment_id = after.partition(" ")
    values: dict[str, object] = {
        "merchant_id": merchant_id,
        "livemode": livemode,
        "created": created,
        "payment_id": payment_id,
        "scan": SCAN_MAX,
    }
    indexed = ["merchant_id = :merchant_id", "livemode = :livemode"]
    looked_at = ["TRUE"]
    if after:
        indexed.append("(create_time, payment_id) < (:created, :payment_id)")
    for column in ("merchant_order_id", "customer_id"):
        if value := getattr(wanted, column):
            # Said twice: only then is it clear that the partial index has all such rows.
            indexed.append(f"{column} = :{column} AND {column} <> ''")
            values[column] = value
    if wanted.create_time_from is not None:
        indexed.append("create_time >= :from")
        values["from"] = time_text(wanted.create_time_from)
    if wanted.create_time_before is not None:
        indexed.append("create_time < :before")
        values["before"] = time_text(wanted.create_time_before)
    if len(wanted.statuses) == 1:
        indexed.append("status = :status")
        values["status"] = wanted.statuses[0].value
    elif wanted.statuses:
        names = [f"status{n}" for n in range(len(wanted.statuses))]
        looked_at.append(f"status IN ({', '.join(f':{name}' for name in names)})")
        values |= {n: s.value for n, s in zip(names, wanted.statuses, strict=True)}
    for column, sign, name in (
        ("processor", "=", "processor"),
        ("currency_code", "=", "currency_code"),
        ("minor_units", ">=", "minor_units_min"),
        ("minor_units", "<=", "minor_units_max"),
    ):
        value = getattr(wanted, name)
        if value not in ("", None):
            looked_at.append(f"{column} {sign} :{name}")
            values[name] = value
    for number, (key, text) in enumerate(wanted.metadata):
        looked_at.append(
            "EXISTS (SELECT 1 FROM json_each(metadata)"
            f" WHERE key = :key{number} AND value = :text{number})"
        )
        values |= {f"key{number}": key, f"text{number}": text}
    rows = connection.execute(
        f"SELECT create_time, payment_id, {' AND '.join(looked_at)} AS fits FROM payment_search"
        f" WHERE {' AND '.join(indexed)} ORDER BY create_time DESC, payment_id DESC LIMIT :scan",
        values,
    )
    found: list[str] = []
    position = last = ""
    for number, row in enumerate(rows, start=1):
        place = f"{row['create_time']} {row['payment_id']}"
        if row["fits"]:
            if len(found) == size:
                position = last
                break
            found.append(row["payment_id"])
            last = place
        if number == SCAN_MAX:
            position = place
    documents = [
        connection.execute(
            "SELECT document FROM payment WHERE payment_id = ?", (payment_id,)
        ).fetchone()["document"]
        for payment_id in found
    ]
    return documents, position
