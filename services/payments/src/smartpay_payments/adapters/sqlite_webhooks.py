"""Notices of processors in the embedded store, and which payment a processor's id belongs to."""

from __future__ import annotations

import sqlite3
from datetime import datetime

import msgspec

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.sqlite_ledger import time_text
from smartpay_payments.domain.payment import AttemptStatus, Payment, Status
from smartpay_payments.domain.webhooks import (
    Fate,
    Notice,
    Topic,
    WebhookAccount,
    is_news,
    look_time,
)

MIGRATIONS = [
    """
    CREATE TABLE attempt_by_processor_payment_id (
        processor_account_id TEXT NOT NULL,
        processor_payment_id TEXT NOT NULL,
        payment_id TEXT NOT NULL,
        PRIMARY KEY (processor_account_id, processor_payment_id)
    ) WITHOUT ROWID;
    INSERT OR IGNORE INTO attempt_by_processor_payment_id
        SELECT attempt.value ->> 'processor_account_id',
            attempt.value ->> 'processor_payment_id', payment_id
        FROM payment, json_each(CAST(document AS TEXT), '$.attempts') AS attempt
        WHERE attempt.value ->> 'processor_payment_id' <> '';
    CREATE TABLE webhook_notice (
        processor_account_id TEXT NOT NULL,
        event_id TEXT NOT NULL,
        receive_time TEXT NOT NULL,
        unknown_payment_id TEXT,
        PRIMARY KEY (processor_account_id, event_id)
    ) WITHOUT ROWID;
    CREATE INDEX webhook_notice_by_time ON webhook_notice (receive_time);
    CREATE INDEX webhook_notice_of_unknown
        ON webhook_notice (processor_account_id, unknown_payment_id)
        WHERE unknown_payment_id IS NOT NULL;
    CREATE TABLE webhook_hint (
        payment_id TEXT NOT NULL,
        topic TEXT NOT NULL,
        due_time TEXT NOT NULL,
        PRIMARY KEY (payment_id, topic)
    ) WITHOUT ROWID;
    """,
]

PAYMENTS_MAX = 20  # looked at for one notice of a permission that was charged many times
FORGET_BATCH = 500  # notices removed per unit of work; some milliseconds of the one writer


class _Tried(msgspec.Struct):
    processor_account_id: str
    status: AttemptStatus
    processor_payment_id: str = ""


class _Glance(msgspec.Struct):
    """What a notice needs of a stored payment."""

    status: Status
    update_time: datetime
    attempts: list[_Tried] = []

    def topic_of(self, notice: Notice) -> Topic | None:
        """Answers what a notice is about, knowing which charge it was that paid."""
        paid = [a for a in self.attempts if a.status is AttemptStatus.SUCCEEDED]
        told = notice.processor_payment_id
        if notice.topic is not Topic.CHARGE or not paid or not told:
            return notice.topic
        # A permission's notice tells of all charges whose ids go on from its own.
        is_paid_one = paid[0].processor_payment_id.startswith(told)
        return Topic.CHARGE if is_paid_one else Topic.LATE_CHARGE


_glance = msgspec.json.Decoder(_Glance).decode


def note_attempts(connection: sqlite3.Connection, payment: Payment) -> None:
    """Notes the processor's ids of a payment that is being stored; part of that unit of work.

    A notice for an id that came before the id itself makes the payment due, and so does one that
    came while somebody looked, unless what is stored now says it all.
    """
    hints = connection.execute(
        "SELECT topic FROM webhook_hint WHERE payment_id = ?", (payment.payment_id,)
    ).fetchall()
    for row in hints:
        if not is_news(Topic(row["topic"]), payment.status):
            connection.execute(
                "DELETE FROM webhook_hint WHERE payment_id = ? AND topic = ?",
                (payment.payment_id, row["topic"]),
            )
    if hints:
        keep_hints(connection, payment.payment_id)
    for attempt in payment.attempts:
        if not attempt.processor_payment_id:
            continue
        key = (attempt.processor_account_id, attempt.processor_payment_id)
        is_new = connection.execute(
            "INSERT OR IGNORE INTO attempt_by_processor_payment_id VALUES (?, ?, ?)",
            (*key, payment.payment_id),
        ).rowcount
        if (
            is_new
            and connection.execute(
                "SELECT 1 FROM webhook_notice"
                " WHERE processor_account_id = ? AND unknown_payment_id = ?",
                key,
            ).fetchone()
        ):
            due = look_time(payment.update_time, payment.update_time)
            _make_due(connection, payment.payment_id, Topic.DISPUTE, due)


def keep_hints(connection: sqlite3.Connection, payment_id: str) -> None:
    """Makes a payment due for the notices that came since the last look began.

    Call it in each unit of work that plans a payment's next look: a look that began before a
    notice came may not have seen what it tells of.
    """
    connection.execute(
        "UPDATE payment SET check_time = min(ifnull(check_time, hint.due), hint.due)"
        " FROM (SELECT min(due_time) AS due FROM webhook_hint WHERE payment_id = ?) AS hint"
        " WHERE payment_id = ? AND hint.due IS NOT NULL",
        (payment_id, payment_id),
    )


def drop_hints(connection: sqlite3.Connection, payment_id: str) -> None:
    """Forgets a payment's hints; call it in the unit of work with which a look begins."""
    connection.execute("DELETE FROM webhook_hint WHERE payment_id = ?", (payment_id,))


def _make_due(connection: sqlite3.Connection, payment_id: str, topic: Topic, due: datetime) -> None:
    """Brings a payment's next look forward, never back."""
    connection.execute(
        "INSERT INTO webhook_hint VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
        " SET due_time = min(due_time, excluded.due_time)",
        (payment_id, topic.value, time_text(due)),
    )
    keep_hints(connection, payment_id)


class SqliteInbox:
    """The port `Inbox` in one SQLite file."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def take(self, account: WebhookAccount, notice: Notice, now: datetime) -> Fate:
        """Notes a notice and makes its payment due, in one unit."""

        def work(connection: sqlite3.Connection) -> Fate:
            if notice.topic is None:
                return Fate.IGNORED
            payments = _payments_of(connection, account, notice)
            is_new = connection.execute(
                "INSERT OR IGNORE INTO webhook_notice VALUES (?, ?, ?, ?)",
                (
                    account.processor_account_id,
                    notice.event_id,
                    time_text(now),
                    None if payments else notice.processor_payment_id or None,
                ),
            ).rowcount
            if not is_new:
                return Fate.DUPLICATE
            due = False
            for payment_id, glance in payments.items():
                topic = glance.topic_of(notice)
                if topic is not None and is_news(topic, glance.status):
                    moment = look_time(now, glance.update_time)
                    _make_due(connection, payment_id, topic, moment)
                    due = True
            if due:
                return Fate.DUE
            return Fate.NOTHING_NEW if payments else Fate.NO_PAYMENT

        return await self._store.write(work)

    async def forget(self, before: datetime) -> int:
        """Removes notices older than the retention; call it until it answers 0."""

        def work(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM webhook_notice WHERE (processor_account_id, event_id) IN"
                " (SELECT processor_account_id, event_id FROM webhook_notice"
                " WHERE receive_time < ? ORDER BY receive_time LIMIT ?)",
                (time_text(before), FORGET_BATCH),
            ).rowcount

        return await self._store.write(work)


def _payments_of(
    connection: sqlite3.Connection, account: WebhookAccount, notice: Notice
) -> dict[str, _Glance]:
    """Finds the payments by the account's own id of them, else the one by ours."""
    ids = [notice.payment_id]
    if notice.processor_payment_id:
        rows = connection.execute(
            "SELECT DISTINCT payment_id FROM attempt_by_processor_payment_id"
            " WHERE processor_account_id = :account AND (processor_payment_id = :id"
            # A charge's id goes on from its permission's: "." is what follows "-".
            " OR (processor_payment_id > :id || '-' AND processor_payment_id < :id || '.'))"
            " LIMIT :most",
            {
                "account": account.processor_account_id,
                "id": notice.processor_payment_id,
                "most": PAYMENTS_MAX,
            },
        ).fetchall()
        ids = [row["payment_id"] for row in rows] or ids
    found = ((payment_id, _read(connection, account, payment_id)) for payment_id in ids)
    return {payment_id: glance for payment_id, glance in found if glance is not None}


def _read(
    connection: sqlite3.Connection, account: WebhookAccount, payment_id: str
) -> _Glance | None:
    """Reads a payment that belongs to the account's merchant and was tried at the account."""
    row = connection.execute(
        "SELECT document FROM payment WHERE payment_id = ? AND merchant_id = ? AND livemode = ?",
        (payment_id, account.merchant_id, account.livemode),
    ).fetchone()
    if row is None:
        return None
    glance = _glance(row["document"])
    tried = {attempt.processor_account_id for attempt in glance.attempts}
    return glance if account.processor_account_id in tried else None
