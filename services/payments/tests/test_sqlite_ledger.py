"""The embedded books: nothing is ever changed, and every sum is right at every moment."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters import sqlite_ledger
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_ledger import SqliteLedger, post
from smartpay_payments.domain.ledger import Balance, EntryFilter, LedgerEntry, payout_legs

START = datetime(2026, 1, 1, 10, 30, tzinfo=UTC)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "payments.db", MIGRATIONS)
    yield opened
    await opened.close()


async def posted(
    store: SqliteStore,
    transaction_id: str,
    minor: int = 5,
    at: datetime = START,
    payment_id: str = "pay_1",
    merchant_id: str = "mer_1",
    livemode: bool = False,
    accounts: tuple[str, str] = ("processor:pac", "merchant:mer"),
) -> None:
    entries = [
        LedgerEntry(transaction_id, account, sign * minor, "USD", at)
        for account, sign in zip(accounts, (1, -1), strict=True)
    ]
    await store.write(lambda c: post(c, merchant_id, livemode, payment_id, entries))


# ---- append-only -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_entry SET minor_units = 6",
        "DELETE FROM ledger_entry",
        "INSERT OR REPLACE INTO ledger_entry SELECT * FROM ledger_entry",
        "INSERT INTO ledger_entry SELECT 99, merchant_id, livemode, payment_id, 'new', account,"
        " minor_units, currency_code, '2020-01-01T00:00:00.000000Z' FROM ledger_entry",
    ],
)
async def test_a_leg_can_not_be_changed_removed_replaced_or_dated_back(
    store: SqliteStore, statement: str
) -> None:
    await posted(store, "capture")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await store.write(lambda c: c.execute(statement).rowcount)
    assert [p.entry.minor_units for p in await legs(store)] == [-5, 5]


async def legs(store: SqliteStore, **wanted: Any) -> list[Any]:
    found, _ = await SqliteLedger(store).page("mer_1", False, EntryFilter(**wanted), 0, 100)
    return found


async def test_a_clock_that_was_set_back_posts_at_the_last_time(store: SqliteStore) -> None:
    await posted(store, "capture")
    await posted(store, "refund", at=START - timedelta(hours=1))
    assert {p.entry.post_time for p in await legs(store)} == {START}


async def test_the_same_leg_is_never_there_twice(store: SqliteStore) -> None:
    await posted(store, "capture")
    with pytest.raises(sqlite3.IntegrityError):
        await posted(store, "capture", minor=7)
    assert len(await legs(store)) == 2


# ---- balances --------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.integers(1, 1000),
            st.integers(0, 5400),
            st.sampled_from(["mer_1", "mer_2"]),
            st.booleans(),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 7),
    st.integers(0, 30),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_a_balance_is_the_sum_of_its_legs_at_every_moment_however_far_sums_are_kept(
    tmp_path_factory: pytest.TempPathFactory,
    movements: list[tuple[int, int, str, bool]],
    batch: int,
    rounds: int,
    data: st.DataObject,
) -> None:
    async def tell() -> None:
        path = tmp_path_factory.mktemp("books") / "payments.db"
        store = await SqliteStore.open(path, MIGRATIONS)
        ledger = SqliteLedger(store)
        at, known = START, []
        for number, (minor, seconds, merchant_id, livemode) in enumerate(movements):
            at += timedelta(seconds=seconds)
            known.append((at, minor, merchant_id, livemode))
            await posted(store, f"t{number}", minor, at, merchant_id=merchant_id, livemode=livemode)
            if number < rounds:
                sqlite_ledger.ADD_UP_BATCH = batch
                await ledger.add_up()
        moments = [None, *(m for m, *_ in known), START - timedelta(seconds=1)]
        for moment in [*moments, data.draw(st.datetimes(START.replace(tzinfo=None), at.replace(
            tzinfo=None) + timedelta(hours=1))).replace(tzinfo=UTC)]:  # fmt: skip
            for tenant in (("mer_1", False), ("mer_1", True), ("mer_2", False)):
                expected = sum(
                    minor
                    for when, minor, *owner in known
                    if tuple(owner) == tenant and (moment is None or when <= moment)
                )
                found = await ledger.balances(*tenant, moment)
                assert {b.minor_units for b in found} == ({-expected, expected} if found else set())
                assert bool(found) is bool(expected)
        await store.close()

    before = sqlite_ledger.ADD_UP_BATCH
    try:
        asyncio.run(tell())
    finally:
        sqlite_ledger.ADD_UP_BATCH = before


async def test_sums_are_kept_once_for_each_leg(store: SqliteStore) -> None:
    ledger = SqliteLedger(store)
    for number in range(3):
        await posted(store, f"t{number}")
    assert await ledger.add_up() == 6
    assert await ledger.add_up() == 0
    await posted(store, "later")
    assert await ledger.balances("mer_1", False) == [
        Balance("merchant:mer", "USD", -20),
        Balance("processor:pac", "USD", 20),
    ]


async def test_two_who_add_up_at_once_add_up_once(store: SqliteStore) -> None:
    ledger = SqliteLedger(store)
    await posted(store, "capture")
    await asyncio.gather(*(ledger.add_up() for _ in range(4)))
    assert [b.minor_units for b in await ledger.balances("mer_1", False)] == [-5, 5]


# ---- pages -----------------------------------------------------------------------------------


async def test_legs_are_read_newest_first_by_every_filter_of_one_merchant_only(
    store: SqliteStore,
) -> None:
    await posted(store, "capture", at=START, payment_id="pay_1")
    await posted(store, "capture", at=START + timedelta(hours=1), payment_id="pay_2")
    await posted(store, "capture", payment_id="pay_3", merchant_id="mer_2", at=START)
    await posted(store, "capture", payment_id="pay_4", livemode=True, at=START)
    assert [(p.payment_id, p.entry.account) for p in await legs(store)] == [
        ("pay_2", "merchant:mer"),
        ("pay_2", "processor:pac"),
        ("pay_1", "merchant:mer"),
        ("pay_1", "processor:pac"),
    ]
    later = START + timedelta(minutes=30)
    for wanted, payments in (
        ({"payment_id": "pay_1"}, ["pay_1"] * 2),
        ({"account": "merchant:mer"}, ["pay_2", "pay_1"]),
        ({"post_time_from": later}, ["pay_2"] * 2),
        ({"post_time_before": later}, ["pay_1"] * 2),
        ({"post_time_from": START, "post_time_before": START}, []),
        ({"currency_code": "EUR"}, []),
    ):
        assert [p.payment_id for p in await legs(store, **wanted)] == payments, wanted
    ledger = SqliteLedger(store)
    first, position = await ledger.page("mer_1", False, EntryFilter(), 0, 3)
    rest, end = await ledger.page("mer_1", False, EntryFilter(), position, 3)
    assert ([*first, *rest], end) == (await legs(store), 0)


async def test_a_rare_currency_gives_pages_of_few_but_loses_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_ledger, "SCAN_MAX", 5)
    for number in range(10):
        await posted(store, f"t{number}")
    await store.write(
        lambda c: post(c, "mer_1", False, "pay_9", [LedgerEntry("odd", "a", 1, "EUR", START)])
    )
    for number in range(10, 20):
        await posted(store, f"t{number}")
    ledger, position, found, pages = SqliteLedger(store), 0, [], 0
    while pages == 0 or position:
        page, position = await ledger.page(
            "mer_1", False, EntryFilter(currency_code="EUR"), position, 3
        )
        found += page
        pages += 1
    assert [p.entry.transaction_id for p in found] == ["odd"]
    assert pages > 5


# ---- what processors settle ------------------------------------------------------------------


async def test_a_payout_is_posted_once(store: SqliteStore) -> None:
    ledger = SqliteLedger(store)
    terms = payout_legs("mer", "pac", 500, arrived=False)
    told = [
        await ledger.post_once("mer_1", False, "payout:po_1", terms, "USD", START) for _ in range(2)
    ]
    assert told == [True, False]
    assert await ledger.post_once("mer_2", False, "payout:po_1", terms, "USD", START)
    assert Counter(b.minor_units for b in await ledger.balances("mer_1", False)) == {
        500: 1,
        -500: 1,
    }


async def settle(store: SqliteStore, minor: int, line: str, currency: str = "USD") -> bool:
    return await SqliteLedger(store).settle_fee(
        "mer_1", False, "pay_1", "pac", minor, currency, line, START
    )


async def due(story: Any) -> list[str]:
    found = await story.store.read(
        lambda c: c.execute(
            "SELECT payment_id FROM payment WHERE check_time IS NOT NULL"
        ).fetchall()
    )
    return [row["payment_id"] for row in found]


async def test_a_fee_in_another_currency_is_posted_once_for_its_capture(
    store: SqliteStore,
) -> None:
    assert not await settle(store, 80, "txn_1", "EUR"), "nothing is captured yet"
    await posted(store, "capture", 1999)
    for _ in range(2):
        assert await settle(store, 80, "txn_1", "EUR")
    total = {
        (b.account, b.currency_code): b.minor_units
        for b in await SqliteLedger(store).balances("mer_1", False)
    }
    assert total == {
        ("processor:pac", "USD"): 1999,
        ("merchant:mer", "USD"): -1999,
        ("processor:pac", "EUR"): -80,
        ("fees:pac", "EUR"): 80,
    }


async def test_a_fee_in_the_payment_s_currency_is_the_payment_s_to_learn(story: Any) -> None:
    payment = await story.create()
    ledger = SqliteLedger(story.store)

    async def told(minor: int) -> bool:
        account = payment.paid_attempt.processor_account_id
        return await ledger.settle_fee(
            payment.merchant_id, False, payment.payment_id, account, minor, "USD", "txn_1",
            story.clock(),
        )  # fmt: skip

    assert await told(0)
    assert payment.payment_id not in await due(story)
    assert not await told(88)
    assert await due(story) == [payment.payment_id]
