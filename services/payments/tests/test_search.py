"""Payments are found by what merchants ask for, in one order that never changes."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from smartpay_payments.adapters import sqlite_search
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.payment import Attempt, AttemptStatus, Money, Payment, Status
from smartpay_payments.domain.search import PaymentFilter


class Shop:
    """A merchant's payments, newest first as they were made."""

    def __init__(self, story: Any, draft: Callable[..., Payment]) -> None:
        self.path: Path = story.path
        self.payments: SqlitePayments = story.payments
        self._draft = draft

    async def sells(self, name: str, processor: str = "", **changes: Any) -> Payment:
        order = {k: changes.pop(k) for k in list(changes) if k not in ("status", "create_time")}
        payment = self._draft(name, order, **changes)
        if processor:
            attempt = Attempt(0, "pac", processor, "k", "{}", AttemptStatus.SUCCEEDED,
                              payment.create_time)  # fmt: skip
            payment = replace(payment, attempts=(attempt,))
        claim = Claim(payment.payment_id, payment.payment_id, "hash")
        assert await self.payments.create(payment, claim, ()) is None
        self.merchant_id = payment.merchant_id
        return payment

    async def finds(self, size: int = 50, **wanted: Any) -> list[str]:
        found, after = [], ""
        while True:
            page, after = await self.payments.page(
                self.merchant_id, False, PaymentFilter(**wanted), after, size
            )
            assert len(page) <= size
            found += [p.payment_id for p in page]
            if not after:
                return found


@pytest.fixture
async def shop(story: Any) -> Shop:
    def draft(key: str, order: dict[str, Any], **changes: Any) -> Payment:
        story.clock.advance(seconds=1)
        made: Payment = replace(story.draft(key, **order), **changes)
        return made

    return Shop(story, draft)


async def test_every_filter_admits_what_it_names_and_all_must_hold(shop: Shop) -> None:
    a = await shop.sells("a", "stripe", status=Status.SUCCEEDED, merchant_order_id="o-1",
                         customer_id="c", metadata={"table": "7", "a b": "x=y"})  # fmt: skip
    b = await shop.sells("b", "solana", status=Status.FAILED, customer_id="c",
                         amount=Money(5, "USDC"))  # fmt: skip
    c = await shop.sells("c", status=Status.BLOCKED, metadata={"table": "8"})
    ids = {"a": a.payment_id, "b": b.payment_id, "c": c.payment_id}
    for wanted, names in (
        ({}, "cba"),
        ({"statuses": (Status.SUCCEEDED,)}, "a"),
        ({"statuses": (Status.SUCCEEDED, Status.BLOCKED)}, "ca"),
        ({"processor": "solana"}, "b"),
        ({"merchant_order_id": "o-1"}, "a"),
        ({"merchant_order_id": "o-2"}, ""),
        ({"customer_id": "c"}, "ba"),
        ({"customer_id": "c", "processor": "stripe"}, "a"),
        ({"currency_code": "USDC"}, "b"),
        ({"currency_code": "USD", "minor_units_min": 1999, "minor_units_max": 1999}, "ca"),
        ({"minor_units_min": 2000}, ""),
        ({"minor_units_max": 5}, "b"),
        ({"metadata": (("table", "7"),)}, "a"),
        ({"metadata": (("a b", "x=y"), ("table", "7"))}, "a"),
        ({"metadata": (("table", "9"),)}, ""),
        ({"create_time_from": b.create_time}, "cb"),
        ({"create_time_before": b.create_time}, "a"),
        ({"create_time_from": b.create_time, "create_time_before": c.create_time}, "b"),
    ):
        assert await shop.finds(**wanted) == [ids[n] for n in names], wanted
        assert await shop.finds(size=1, **wanted) == [ids[n] for n in names], wanted


async def test_a_payment_is_found_by_the_status_it_has_now(shop: Shop) -> None:
    payment = await shop.sells("a")
    settled = replace(payment, status=Status.SUCCEEDED, version=2)
    assert await shop.payments.save(settled, ())
    assert await shop.finds(statuses=(Status.PROCESSING,)) == []
    assert await shop.finds(statuses=(Status.SUCCEEDED,)) == [payment.payment_id]


async def test_payments_made_while_somebody_reads_neither_repeat_nor_hide_others(
    shop: Shop,
) -> None:
    made = [(await shop.sells(f"old {n}")).payment_id for n in range(12)]
    found: list[str] = []
    after = ""
    while True:
        page, after = await shop.payments.page(shop.merchant_id, False, PaymentFilter(), after, 5)
        found += [p.payment_id for p in page]
        await shop.sells(f"new {len(found)}")
        if not after:
            break
    assert found == made[::-1]


async def test_payments_of_one_moment_have_an_order_too(shop: Shop) -> None:
    moment = (await shop.sells("first")).create_time
    made = [(await shop.sells(f"{n}", create_time=moment)).payment_id for n in range(7)]
    found = await shop.finds(size=2)
    assert sorted(found[-8:]) == sorted({*made, *found[-8:]})
    assert found == sorted(found, reverse=True)


async def test_a_rare_filter_gives_pages_of_few_but_loses_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_search, "SCAN_MAX", 4)
    rare = []
    for number in range(21):
        metadata = {"rare": "yes"} if number % 10 == 0 else {}
        payment = await shop.sells(f"{number}", metadata=metadata)
        rare += [payment.payment_id] if metadata else []
    wanted = PaymentFilter(metadata=(("rare", "yes"),))
    page, after = await shop.payments.page(shop.merchant_id, False, wanted, "", 5)
    assert (len(page), bool(after)) == (1, True)
    for size in (1, 2, 5):
        assert await shop.finds(size=size, metadata=(("rare", "yes"),)) == rare[::-1]


async def test_each_selective_filter_is_answered_from_an_index(shop: Shop) -> None:
    await shop.sells("a")
    plans: list[str] = []

    def explain(connection: Any) -> None:
        connection.set_trace_callback(plans.append)

    for column, wanted in (
        ("payment_search_by_status", {"statuses": (Status.FAILED,)}),
        ("payment_search_by_order", {"merchant_order_id": "o"}),
        ("payment_search_by_customer", {"customer_id": "c"}),
        ("PRIMARY KEY", {"create_time_from": datetime(2026, 1, 1).astimezone()}),
    ):
        plans.clear()
        await shop.payments._store.read(explain)
        await shop.finds(**wanted)
        await shop.payments._store.read(lambda c: c.set_trace_callback(None))
        query = next(p for p in plans if "payment_search" in p)
        with contextlib.closing(sqlite3.connect(shop.path)) as aside:
            told = [row[3] for row in aside.execute(f"EXPLAIN QUERY PLAN {query}")]
        assert any(column in line for line in told), told
        assert not any("TEMP B-TREE" in line for line in told), told


async def test_the_page_after_a_payment_begins_right_behind_it(shop: Shop) -> None:
    made = [await shop.sells(f"{n}") for n in range(3)]
    position = shop.payments.position_of(made[1])
    page, _ = await shop.payments.page(shop.merchant_id, False, PaymentFilter(), position, 9)
    assert page == made[:1]
