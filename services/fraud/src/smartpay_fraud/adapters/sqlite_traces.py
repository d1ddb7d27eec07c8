"""Finds stored scores by whose they are and by who, what and where was seen in them.

An inverted index of SQLite's own (https://www.sqlite.org/fts5.html), which holds no text: only
fingerprints, and the numbers of the scores they are in. It merges sorted runs, where an ordinary
index would have each score change a page in each of five trees. A score is traced with some
others, a moment after it was stored; whoever looks for traces has the rest of them traced first.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from hashlib import sha256

from smartpay_fraud.domain.transaction import Transaction

TRACED_TOGETHER = 128
"""Scores stored before they are traced in one go: a run is written for 128 as for one, and takes
the writer about a millisecond."""

TRACED_MAX = 1_000
"""Scores traced in one write at most, which bounds how long others wait at the first start of a
new release, when all that was ever scored is traced."""

_FINGERPRINT = 24  # hexadecimal digits, 96 bits: no two names will ever share one
_STREAM = "traces"
_NAMES = "merchant_id, livemode, customer_id, instrument_id, device_id, ip_address"
_UNTRACED = (
    f"SELECT number, {_NAMES} FROM assessments"
    " WHERE number > (SELECT CAST(cursor AS INTEGER) FROM cursors WHERE stream = ?)"
    " ORDER BY number LIMIT ?"
)
_ADD = "INSERT INTO traces (rowid, prints) VALUES (?, ?)"
# An index without text must be told what it is to forget.
_REMOVE = "INSERT INTO traces (traces, rowid, prints) VALUES ('delete', ?, ?)"


def customer_key(merchant_id: str, livemode: bool, customer_id: str) -> str:
    """The key of a customer, as payments spells it when it tells of an erasure."""
    return _digest(merchant_id, livemode, customer_id)


def customer_print(key: str) -> str:
    """What is looked for to find all scores of the customer with this key."""
    return f"c{key[:_FINGERPRINT]}"


@lru_cache
def tenant_print(merchant_id: str, livemode: bool) -> str:
    """What is looked for to find all scores of one merchant and mode."""
    return f"t{_digest(merchant_id, livemode, '')[:_FINGERPRINT]}"


def part_prints(transaction: Transaction) -> list[str]:
    """What is looked for to find the scores that share a customer, card, device or address."""
    return _prints(*_names(transaction))[1:]


def trace(connection: sqlite3.Connection) -> bool:
    """Traces scores that were stored since; answers whether there may be more."""
    rows = connection.execute(_UNTRACED, (_STREAM, TRACED_MAX)).fetchall()
    if rows:
        traces = [(number, " ".join(_prints(*names))) for number, *names in rows]
        connection.executemany(_ADD, traces)
        connection.execute(
            "UPDATE cursors SET cursor = ? WHERE stream = ?", (str(rows[-1]["number"]), _STREAM)
        )
    return len(rows) == TRACED_MAX


def trace_all(connection: sqlite3.Connection) -> None:
    """Traces all that was stored: what is looked for now is found."""
    while trace(connection):
        pass


def is_due(before: int, last: int) -> bool:
    """Whether enough was stored to trace it, by the numbers stored before and by now."""
    return before // TRACED_TOGETHER != last // TRACED_TOGETHER


def retrace(
    connection: sqlite3.Connection, told: list[tuple[int, Transaction, Transaction]]
) -> None:
    """Puts what is left of scores in the place of what they told before, by their numbers.

    Nothing finds them by it any more; the old fingerprints themselves, which are no names, leave
    the file when the runs that hold them are merged.
    """
    connection.executemany(
        _REMOVE, [(number, " ".join(_prints(*_names(before)))) for number, before, _ in told]
    )
    connection.executemany(
        _ADD, [(number, " ".join(_prints(*_names(left)))) for number, _, left in told]
    )


def _names(transaction: Transaction) -> tuple[str, bool, str, str, str, str]:
    return (
        transaction.merchant_id,
        transaction.livemode,
        transaction.customer_id,
        transaction.instrument_id,
        transaction.device_id,
        transaction.ip_address,
    )


def _prints(merchant_id: str, livemode: bool, *parts: str) -> list[str]:
    return [
        tenant_print(merchant_id, livemode),
        *(
            kind + _digest(merchant_id, livemode, part)[:_FINGERPRINT]
            for kind, part in zip("cida", parts, strict=True)
            if part
        ),
    ]


def _digest(merchant_id: str, livemode: bool, name: str) -> str:
    """Spells a name within a tenant: another merchant's customer of that name is somebody else."""
    mode = "live" if livemode else "test"
    return sha256(f"{merchant_id}\n{mode}\n{name}".encode()).hexdigest()
