"""Checks a whole embedded store against itself: books, payments, events, sums and search rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from smartpay_payments.adapters.sqlite_ledger import HOUR_LENGTH
from smartpay_payments.adapters.sqlite_workbench import booked_of, open_read_only
from smartpay_payments.domain.ledger import expected_balances
from smartpay_payments.domain.payment import Payment

_decode = msgspec.json.Decoder(Payment).decode


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    check: str
    what: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What was looked at, and what was found wrong."""

    payments: int
    legs: int
    events: int
    findings: tuple[Finding, ...]


def verify_store(path: Path, findings_max: int = 100) -> Verification:
    """Reads the whole store in one snapshot; nothing is written, so the service may run on.

    Args:
        path: the store or a copy of it.
        findings_max: of each check; a broken store would name every row.

    Raises:
        sqlite3.Error: the file can't be read as a store of payments.
    """
    connection = open_read_only(path)
    try:
        connection.execute("BEGIN")
        found: list[Finding] = []
        for name, check in CHECKS.items():
            for number, what in enumerate(check(connection)):
                if number == findings_max:
                    found.append(Finding(name, "... and more"))
                    break
                found.append(Finding(name, what))
        return Verification(
            payments=_count(connection, "payment"),
            legs=_count(connection, "ledger_entry"),
            events=_count(connection, "event"),
            findings=tuple(found),
        )
    finally:
        connection.close()


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _transactions(connection: sqlite3.Connection) -> Iterator[str]:
    """Each transaction sums to zero per currency, and its legs were posted at one moment."""
    for row in connection.execute(
        "SELECT merchant_id, payment_id, transaction_id, currency_code,"
        " sum(minor_units) AS total, min(post_time) AS first, max(post_time) AS last"
        " FROM ledger_entry"
        " GROUP BY payment_id, merchant_id, livemode, transaction_id, currency_code"
        " HAVING total <> 0 OR first <> last"
    ):
        yield (
            f"{row['transaction_id']} of {row['payment_id'] or row['merchant_id']}:"
            f" sums to {row['total']} {row['currency_code']},"
            f" posted from {row['first']} to {row['last']}"
        )


def _instants(connection: sqlite3.Connection) -> Iterator[str]:
    """Whatever the moment, all that was posted until then sums to zero per currency."""
    for row in connection.execute(
        "SELECT merchant_id, currency_code, post_time, sum(minor_units) AS total"
        " FROM ledger_entry GROUP BY merchant_id, livemode, post_time, currency_code"
        " HAVING total <> 0"
    ):
        yield (f"{row['merchant_id']} at {row['post_time']}: {row['total']} {row['currency_code']}")


def _order(connection: sqlite3.Connection) -> Iterator[str]:
    """Post times never go back."""
    for row in connection.execute(
        "SELECT position, post_time, before FROM (SELECT position, post_time,"
        " lag(post_time) OVER (ORDER BY position) AS before FROM ledger_entry)"
        " WHERE before > post_time"
    ):
        yield f"entry {row['position']} was posted {row['post_time']}, after {row['before']}"


def _sums(connection: sqlite3.Connection) -> Iterator[str]:
    """The sums per hour are the sums of their legs."""
    for row in connection.execute(
        "SELECT merchant_id, currency_code, account, hour, sum(minor_units) AS difference FROM ("
        "SELECT merchant_id, livemode, currency_code, account, hour, minor_units FROM ledger_hour"
        " UNION ALL SELECT merchant_id, livemode, currency_code, account,"
        f" substr(post_time, 1, {HOUR_LENGTH}), -minor_units FROM ledger_entry"
        " WHERE position <= (SELECT position FROM ledger_added_up)"
        ") GROUP BY merchant_id, livemode, currency_code, account, hour HAVING difference <> 0"
    ):
        yield (
            f"{row['account']} of {row['merchant_id']} in hour {row['hour']}:"
            f" {row['difference']} {row['currency_code']} too much"
        )


def _payments(connection: sqlite3.Connection) -> Iterator[str]:
    """The books say of each payment what the payment says of itself."""
    for row in connection.execute("SELECT payment_id, version, status, document FROM payment"):
        payment = _decode(row["document"])
        if (payment.version, payment.status.value) != (row["version"], row["status"]):
            yield f"{row['payment_id']}: its columns and its document differ"
        booked = booked_of(connection, payment)
        expected = expected_balances(payment)
        for account in sorted({*expected, *booked}):
            should, does = expected.get(account, 0), booked.get(account, 0)
            if should != does:
                yield f"{row['payment_id']}: {account} holds {does}, must hold {should}"
    for row in connection.execute(
        "SELECT DISTINCT payment_id FROM ledger_entry WHERE payment_id <> ''"
        " AND payment_id NOT IN (SELECT payment_id FROM payment)"
    ):
        yield f"{row['payment_id']}: has entries and does not exist"


def _search(connection: sqlite3.Connection) -> Iterator[str]:
    """Every payment is found, in the status it has."""
    for row in connection.execute(
        "SELECT payment.payment_id FROM payment LEFT JOIN payment_search AS search"
        " ON search.merchant_id = payment.merchant_id AND search.livemode = payment.livemode"
        " AND search.create_time = payment.create_time"
        " AND search.payment_id = payment.payment_id"
        " WHERE search.status IS NOT payment.status"
    ):
        yield f"{row['payment_id']}: is listed in another status, or not at all"


def _events(connection: sqlite3.Connection) -> Iterator[str]:
    """The log has no gap, and the last event of a payment is the payment."""
    row = connection.execute(
        "SELECT count(*) AS number, min(position) AS first, max(position) AS last FROM event"
    ).fetchone()
    if row["number"] and row["last"] - row["first"] + 1 != row["number"]:
        yield f"{row['number']} events between {row['first']} and {row['last']}"
    for row in connection.execute(
        "SELECT payment_id, payment.version AS version, count(*) AS number,"
        " min(event.version) AS first, max(event.version) AS last"
        " FROM event JOIN payment USING (payment_id) GROUP BY payment_id"
        " HAVING last - first + 1 <> number OR last <> payment.version"
    ):
        yield (
            f"{row['payment_id']}: {row['number']} events, versions {row['first']} to"
            f" {row['last']} of {row['version']}"
        )


CHECKS: dict[str, Callable[[sqlite3.Connection], Iterator[str]]] = {
    "transactions sum to zero": _transactions,
    "books sum to zero at each instant": _instants,
    "post times never go back": _order,
    "sums per hour are right": _sums,
    "books and payments agree": _payments,
    "every payment is listed": _search,
    "events have no gap": _events,
}
