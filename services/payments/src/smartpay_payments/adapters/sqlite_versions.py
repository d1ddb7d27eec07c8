"""Stores a version of a payment in one statement: all that follows from it is done by a trigger.

A statement of its own for each row would give up the interpreter's lock and ask for it anew dozens
of times per payment, and the writer would wait for the loop, or the loop for the writer. So it is
one insert into a view. SQLite takes it apart without the lock, and undoes all if any part fails.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from datetime import datetime

import msgspec

from smartpay_chassis.refusals import (
    Kind,
    Refusal,
    idempotency_key_in_flight,
    idempotency_key_reused,
)
from smartpay_payments.adapters.sqlite_ledger import time_text
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import NOT_PAID, Payment, RewardMark

MIGRATIONS = [
    """
    CREATE VIEW new_version AS SELECT '' AS payment_id, '' AS merchant_id, 0 AS livemode,
        '' AS status, 0 AS version, '' AS create_time, '' AS check_time,
        '' AS processor_account_id, 0 AS in_doubt, x'' AS document, '' AS update_time,
        '' AS event_type, '' AS processor, '' AS merchant_order_id, 0 AS holds_order,
        0 AS frees_order, '' AS customer_id, 0 AS minor_units, '' AS currency_code,
        '' AS metadata, '' AS planned_check_time, '' AS operation_id, '' AS request_hash,
        '[]' AS legs, 0 AS awaits_reward;
    CREATE TRIGGER new_version_is_stored INSTEAD OF INSERT ON new_version
    BEGIN
        INSERT INTO payment SELECT NEW.payment_id, NEW.merchant_id, NEW.livemode, NEW.status,
            NEW.version, NEW.create_time, NEW.check_time, NEW.processor_account_id, NEW.in_doubt,
            NEW.document
            WHERE NEW.version = 1;
        UPDATE payment SET status = NEW.status, version = NEW.version,
            check_time = NEW.check_time, processor_account_id = NEW.processor_account_id,
            in_doubt = NEW.in_doubt, document = NEW.document
            WHERE NEW.version > 1 AND payment_id = NEW.payment_id AND version = NEW.version - 1
            AND (NEW.planned_check_time IS NULL OR check_time = NEW.planned_check_time);
        SELECT RAISE(ABORT, 'superseded') WHERE NEW.version > 1 AND changes() = 0;
        INSERT INTO claim SELECT NEW.operation_id, NEW.payment_id, NEW.request_hash
            WHERE NEW.operation_id IS NOT NULL;
        INSERT INTO order_holder SELECT NEW.merchant_id, NEW.livemode, NEW.merchant_order_id,
            NEW.payment_id
            WHERE NEW.holds_order;
        DELETE FROM order_holder WHERE NEW.frees_order AND merchant_id = NEW.merchant_id
            AND livemode = NEW.livemode AND merchant_order_id = NEW.merchant_order_id
            AND payment_id = NEW.payment_id;
        INSERT INTO event (payment_id, version, type, time, document) VALUES (NEW.payment_id,
            NEW.version, NEW.event_type, NEW.update_time, NEW.document);
        INSERT INTO payment_search VALUES (NEW.merchant_id, NEW.livemode, NEW.create_time,
            NEW.payment_id, NEW.status, NEW.processor, NEW.merchant_order_id, NEW.customer_id,
            NEW.minor_units, NEW.currency_code, NEW.metadata)
            ON CONFLICT DO UPDATE SET status = excluded.status, processor = excluded.processor,
            merchant_order_id = excluded.merchant_order_id, customer_id = excluded.customer_id,
            metadata = excluded.metadata;
        -- A clock that was set back posts at the last time there is.
        INSERT INTO ledger_entry (merchant_id, livemode, payment_id, transaction_id, account,
            minor_units, currency_code, post_time)
            SELECT NEW.merchant_id, NEW.livemode, NEW.payment_id, value ->> 0, value ->> 1,
            value ->> 2, value ->> 3, max(value ->> 4, ifnull(
                (SELECT post_time FROM ledger_entry ORDER BY position DESC LIMIT 1), ''))
            FROM json_each(NEW.legs) ORDER BY key;
        INSERT OR IGNORE INTO reward_watch SELECT NEW.payment_id, NEW.merchant_id, NEW.livemode,
            NEW.update_time, NEW.update_time
            WHERE NEW.awaits_reward;
    END;
    """,
    # An amount changes only while a payment requires confirmation.
    """
    CREATE TRIGGER amended_amount_is_found INSTEAD OF INSERT ON new_version
    WHEN NEW.version > 1 AND NEW.status = 'REQUIRES_CONFIRMATION'
    BEGIN
        UPDATE payment_search SET minor_units = NEW.minor_units,
            currency_code = NEW.currency_code
            WHERE merchant_id = NEW.merchant_id AND livemode = NEW.livemode
            AND create_time = NEW.create_time AND payment_id = NEW.payment_id;
    END;
    """,
]

_COLUMNS = 25
_STORE = f"INSERT INTO new_version VALUES ({', '.join('?' * _COLUMNS)})"

_encode = msgspec.json.Encoder().encode


class SupersededError(Exception):
    """Somebody else stored the version first, or has taken the payment up."""


def store(
    connection: sqlite3.Connection,
    payment: Payment,
    document: bytes,
    entries: Sequence[LedgerEntry],
    claim: Claim | None = None,
    planned: datetime | None = None,
    *,
    holds_order: bool,
) -> None:
    """Stores the payment, its event, legs, search row and what it claims; within a unit of work.

    Args:
        connection: the writing one.
        payment: its first version, or the one after what is stored.
        document: the payment, encoded.
        entries: the legs that the change posts.
        claim: the idempotency key that made it.
        planned: when the next look must still be planned for; None for any time.
        holds_order: True when the order id is to be held for it.

    Raises:
        SupersededError: what is stored is not the version before, nor planned for that time.
        Refusal: the key or the order id is another's.
        sqlite3.IntegrityError: the payment is there already, or a leg is.
    """
    order = payment.order
    update_time = time_text(payment.update_time)
    try:
        connection.execute(
            _STORE,
            (
                payment.payment_id,
                payment.merchant_id,
                payment.livemode,
                payment.status.value,
                payment.version,
                time_text(payment.create_time),
                payment.check_time and time_text(payment.check_time),
                payment.attempts[-1].processor_account_id if payment.attempts else "",
                payment.in_doubt,
                document,
                update_time,
                payment.event_type,
                payment.attempts[-1].processor if payment.attempts else "",
                order.merchant_order_id,
                holds_order and order.merchant_order_id != "",
                payment.version > 1 and payment.status in NOT_PAID,
                order.customer_id,
                order.amount.minor_units,
                order.amount.currency_code,
                json.dumps(order.metadata) if order.metadata else "{}",
                planned and time_text(planned),
                claim and claim.operation_id,
                claim and claim.request_hash,
                _legs(entries),
                _awaits_reward(payment, entries),
            ),
        )
    except sqlite3.IntegrityError as error:
        # What was in the way is read, not guessed from the error's text.
        if str(error) == "superseded":
            raise SupersededError from None
        if claim is not None:
            _check_claim(connection, claim)
        if holds_order:
            _check_order(connection, payment)
        raise


def _legs(entries: Sequence[LedgerEntry]) -> str:
    if not entries:
        return "[]"
    return _encode(
        [
            (e.transaction_id, e.account, e.minor_units, e.currency_code, time_text(e.post_time))
            for e in entries
        ]
    ).decode()


def _awaits_reward(payment: Payment, entries: Sequence[LedgerEntry]) -> bool:
    """Tells whether the payment is being captured and its reward is to be booked later."""
    return payment.reward_mark is not RewardMark.NONE and any(
        e.transaction_id == "capture" for e in entries
    )


def _check_claim(connection: sqlite3.Connection, claim: Claim) -> None:
    held = connection.execute(
        "SELECT request_hash FROM claim WHERE operation_id = ?", (claim.operation_id,)
    ).fetchone()
    if held is None:
        return
    if held["request_hash"] == claim.request_hash:
        # The same request was stored a moment ago; repeating it finds that one.
        raise idempotency_key_in_flight()
    raise idempotency_key_reused()


def _check_order(connection: sqlite3.Connection, payment: Payment) -> None:
    held = connection.execute(
        "SELECT 1 FROM order_holder"
        " WHERE merchant_id = ? AND livemode = ? AND merchant_order_id = ?",
        (payment.merchant_id, payment.livemode, payment.order.merchant_order_id),
    ).fetchone()
    if held is not None:
        raise Refusal(
            Kind.ALREADY_EXISTS,
            "ORDER_ALREADY_PAID",
            "Another payment that is open or succeeded has this order id.",
            remedy="Read that payment, or send another merchant_order_id.",
            field="merchant_order_id",
        )
