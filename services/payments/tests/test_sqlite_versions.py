"""One statement stores a version whole or not at all, and older files are taken along."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters import sqlite_payments
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import Payment, Status
from smartpay_payments.domain.search import PaymentFilter

TABLES = ("payment", "claim", "order_holder", "event", "payment_search", "ledger_entry")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "payments.db", MIGRATIONS)
    yield opened
    await opened.close()


def claim_of(payment: Payment) -> Claim:
    return Claim(payment.payment_id, payment.payment_id, payment.request_hash)


def legs_of(payment: Payment) -> list[LedgerEntry]:
    return [
        LedgerEntry("capture", account, minor, "USD", payment.update_time)
        for account, minor in (("processor:one", 10), ("merchant:one", -10))
    ]


def rows(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {t: [tuple(r) for r in connection.execute(f"SELECT * FROM {t}")] for t in TABLES}


async def test_a_version_of_which_one_leg_is_there_already_leaves_nothing_behind(
    store: SqliteStore, story: Any
) -> None:
    payments = SqlitePayments(store)
    payment: Payment = story.draft("key", merchant_order_id="order")
    await payments.create(payment, claim_of(payment), legs_of(payment))
    before = await store.read(rows)
    assert [len(before[table]) for table in TABLES] == [1, 1, 1, 1, 1, 2]
    following = replace(payment, version=2, status=Status.FAILED)
    fresh = LedgerEntry("fee", "fees:one", 1, "USD", payment.update_time)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await payments.save(following, [fresh, *legs_of(payment)])
    assert await store.read(rows) == before


async def test_a_first_version_that_fails_holds_neither_key_nor_order(
    store: SqliteStore, story: Any
) -> None:
    payments = SqlitePayments(store)
    payment: Payment = story.draft("key", merchant_order_id="order")
    twice = [*legs_of(payment), *legs_of(payment)]
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await payments.create(payment, claim_of(payment), twice)
    assert not any((await store.read(rows)).values())


async def test_legs_are_posted_in_their_order(store: SqliteStore, story: Any) -> None:
    payment: Payment = story.draft("key")
    legs = [
        LedgerEntry(f"t{n}", "account", n, "USD", payment.update_time) for n in range(30, 0, -1)
    ]
    await SqlitePayments(store).create(payment, claim_of(payment), legs)
    posted = await store.read(
        lambda c: c.execute("SELECT minor_units FROM ledger_entry ORDER BY position").fetchall()
    )
    assert [row[0] for row in posted] == [leg.minor_units for leg in legs]


async def test_payments_of_the_earlier_layout_are_taken_along(tmp_path: Path, story: Any) -> None:
    path = tmp_path / "earlier.db"
    earlier = MIGRATIONS[: MIGRATIONS.index(sqlite_payments.LATER_MIGRATIONS[0])]
    payment: Payment = story.draft("key")
    store = await SqliteStore.open(path, earlier)
    ids = (payment.payment_id, payment.merchant_id)
    row = (*ids, False, "PROCESSING", 1, "2026", None, "", True, msgspec.json.encode(payment))
    await store.write(
        lambda c: c.execute(f"INSERT INTO payment VALUES ({', '.join('?' * 10)})", row)
    )
    await store.close()
    store = await SqliteStore.open(path, MIGRATIONS)
    payments = SqlitePayments(store)
    assert await payments.get(payment.merchant_id, False, payment.payment_id) == payment
    following = replace(payment, version=2, status=Status.SUCCEEDED)
    assert await payments.save(following, legs_of(payment))
    page, _ = await payments.page(payment.merchant_id, False, PaymentFilter(), "", 10)
    assert page == [following]
    await store.close()
