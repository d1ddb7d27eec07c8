"""How an assessment lies in the embedded store: one row, its payment told column by column."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from functools import cache

from smartpay_fraud.domain.assessment import Assessment, Shadow
from smartpay_fraud.domain.reasons import Reason
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

INSERTED_TOGETHER = (32, 8, 1)
"""Rows of one statement, the largest number that fits first. At each statement the writer lets the
event loop go on and may wait for it, so a batch of few statements is stored much sooner; three
sizes stay prepared."""

_PAYMENT = [field.name for field in fields(Transaction)]
_ANSWER = (
    "verdict",
    "score",
    "grounds",
    "model_version",
    "rules_version",
    "scored_ms",
    "margin",
    "shadow_version",
    "shadow_score",
    "opens_review",
    "control",
)
_COLUMNS = (*_PAYMENT, *_ANSWER, "feature_set", "row")

PAYMENT = ", ".join(f"a.{name}" for name in _PAYMENT)
"""What `transaction_of` reads, first in a query on `assessments a`."""

OF_KEY = "a.merchant_id = ? AND a.livemode = ? AND a.transaction_id = ?"
"""Finds the one row of a key; it has an index of its own."""

FOUND_OUT = (
    "(SELECT finding FROM findings f WHERE f.merchant_id = a.merchant_id"
    " AND f.livemode = a.livemode AND f.transaction_id = a.transaction_id"
    " AND finding IN ('FRAUD', 'LEGITIMATE') ORDER BY f.number DESC LIMIT 1) AS finding"
)
"""What a payment turned out to be by the latest word; NULL while nobody said."""

_LATER = "SELECT merchant_id, livemode, transaction_id FROM assessments WHERE number > ?"
_FIND = (
    f"SELECT {PAYMENT}, {', '.join(f'a.{name}' for name in _ANSWER)} FROM assessments a"
    f" WHERE {OF_KEY}"
)
# json.dumps would make an encoder per call; what a reason holds may be a read-only mapping.
_ENCODE = json.JSONEncoder(separators=(",", ":"), default=dict).encode


def insert_assessments(
    connection: sqlite3.Connection, assessments: Sequence[Assessment], feature_set: int
) -> tuple[list[bool], int]:
    """Stores first assessments in few statements.

    Returns:
        Which of them were the first of their transaction, and so stored; and the number of the
        last one that was, which means nothing when none was.
    """
    cursor = connection.cursor()
    new: list[bool] = []
    for together in INSERTED_TOGETHER:
        while len(assessments) - len(new) >= together:
            part = assessments[len(new) : len(new) + together]
            values: list[object] = []
            for assessment in part:
                values += _values(assessment, feature_set)
            cursor.execute(_insert(together), values)
            new += [True] * together if cursor.rowcount == together else _new(cursor, part)
    return new, cursor.lastrowid or 0


def assessment_of(connection: sqlite3.Connection, key: TransactionKey) -> Assessment | None:
    """Reads one assessment, without its row of features."""
    row = connection.execute(_FIND, key).fetchone()
    if row is None:
        return None
    reasons, rules, lists = json.loads(row["grounds"])
    shadow = row["shadow_version"]
    return Assessment(
        transaction=transaction_of(row),
        verdict=Verdict(row["verdict"]),
        score=row["score"],
        reasons=tuple(Reason(*reason) for reason in reasons),
        model_version=row["model_version"],
        rules_version=row["rules_version"],
        scored_ms=row["scored_ms"],
        margin=row["margin"],
        shadow=None if shadow is None else Shadow(shadow, row["shadow_score"]),
        matched_rules=tuple(rules),
        matched_lists=tuple(lists),
        opens_review=bool(row["opens_review"]),
        control=bool(row["control"]),
    )


def transaction_of(row: sqlite3.Row) -> Transaction:
    """Reads the payment of a row that begins with the columns of PAYMENT."""
    merchant_id, livemode, *told = row[: len(_PAYMENT)]
    return Transaction(merchant_id, bool(livemode), *told)


@cache
def _insert(rows: int) -> str:
    row = f"({', '.join('?' * len(_COLUMNS))})"
    return (
        f"INSERT INTO assessments ({', '.join(_COLUMNS)})"
        f" VALUES {', '.join([row] * rows)} ON CONFLICT DO NOTHING"
    )


def _new(cursor: sqlite3.Cursor, assessments: Sequence[Assessment]) -> list[bool]:
    """Which of these the last statement stored."""
    if not cursor.rowcount:
        return [False] * len(assessments)
    # What it stored has the last numbers, without a gap.
    before = (cursor.lastrowid or 0) - cursor.rowcount
    stored = {tuple(row) for row in cursor.execute(_LATER, (before,))}
    new = []
    for assessment in assessments:
        key = assessment.transaction.key
        new.append(key in stored)
        stored.discard(key)  # a second one of a transaction is a repeat
    return new


def _values(assessment: Assessment, feature_set: int) -> tuple[object, ...]:
    payment, shadow = assessment.transaction, assessment.shadow
    return (
        payment.merchant_id,
        payment.livemode,
        payment.transaction_id,
        payment.amount_minor,
        payment.currency_code,
        payment.customer_id,
        payment.instrument_id,
        payment.device_id,
        payment.ip_address,
        payment.terminal_id,
        payment.merchant_category,
        payment.country,
        assessment.verdict.value,
        assessment.score,
        _ENCODE((assessment.reasons, assessment.matched_rules, assessment.matched_lists)),
        assessment.model_version,
        assessment.rules_version,
        assessment.scored_ms,
        assessment.margin,
        shadow and shadow.model_version,
        shadow and shadow.probability,
        assessment.opens_review,
        assessment.control,
        feature_set if assessment.row else None,
        assessment.row or None,
    )
