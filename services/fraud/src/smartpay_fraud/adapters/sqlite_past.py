"""Reads scored transactions back for a back-test, newest first, page by page."""

from __future__ import annotations

import json
import sqlite3

import numpy as np

from smartpay_chassis.sqlite import SqliteStore
from smartpay_fraud.adapters.sqlite_assessments import FOUND_OUT, PAYMENT, transaction_of
from smartpay_fraud.adapters.sqlite_traces import tenant_print, trace_all
from smartpay_fraud.domain.assessment import Finding
from smartpay_fraud.domain.backtest import Past
from smartpay_fraud.domain.features import FEATURES, Vector
from smartpay_fraud.domain.verdict import Verdict

_PAGE = (
    f"SELECT {PAYMENT}, a.number, a.verdict, a.scored_ms, a.feature_set, a.row, a.score,"
    f" {FOUND_OUT} FROM traces JOIN assessments a ON a.number = traces.rowid"
    " WHERE traces MATCH ? AND traces.rowid < ? AND a.scored_ms >= ? AND a.scored_ms < ?"
    " ORDER BY traces.rowid DESC LIMIT ?"
)


class SqlitePast:
    """Reads what was scored. A row of an earlier set of features is put into today's columns."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._columns: dict[int, list[int]] = {}

    async def page(
        self,
        merchant_id: str,
        livemode: bool,
        before: int,
        from_ms: int,
        before_ms: int,
        size: int,
    ) -> tuple[list[Past], int]:
        """Reads transactions older than a position.

        Args:
            merchant_id: whose they are.
            livemode: real money or test.
            before: the position the page before ended at.
            from_ms: only those scored at or after this moment.
            before_ms: only those scored before this moment.
            size: how many at most.

        Returns:
            The transactions, newest first, and the position it ended at; 0 at the end.
        """

        def query(connection: sqlite3.Connection) -> tuple[list[Past], int]:
            values = (tenant_print(merchant_id, livemode), before, from_ms, before_ms, size)
            rows = connection.execute(_PAGE, values).fetchall()
            for number in {row["feature_set"] for row in rows} - {None} - self._columns.keys():
                self._columns[number] = _columns(connection, number)
            position = rows[-1]["number"] if len(rows) == size else 0
            return [self._past(row) for row in rows], position

        await self._store.write(trace_all)
        return await self._store.read(query)

    def _past(self, row: sqlite3.Row) -> Past:
        return Past(
            transaction=transaction_of(row),
            row=self._row(row["feature_set"], row["row"]),
            probability=row["score"],
            verdict=Verdict(row["verdict"]),
            scored_ms=row["scored_ms"],
            finding=Finding(row["finding"]) if row["finding"] else None,
        )

    def _row(self, feature_set: int | None, stored: bytes | None) -> Vector | None:
        if feature_set is None or stored is None:
            return None
        kept = np.frombuffer(stored, "<f4")
        # The last place, NaN, is where a feature is found that wasn't known then.
        return np.append(kept, np.float32(np.nan))[self._columns[feature_set]]


def _columns(connection: sqlite3.Connection, number: int) -> list[int]:
    row = connection.execute(
        "SELECT names FROM feature_sets WHERE number = ?", (number,)
    ).fetchone()
    places = {name: place for place, name in enumerate(json.loads(row["names"]))}
    return [places.get(name, len(places)) for name in FEATURES]
