"""The payments bench: both ways buy the same, and what fails yields no figure."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from smartpay_bench.payments import (
    ACCOUNT,
    STEADY_RATE,
    Costs,
    Till,
    rate,
    running_till,
    steady,
)
from smartpay_bench.stores import TABLES, unit_of
from smartpay_chassis.sqlite import SqliteStore


@pytest.fixture
async def till(tmp_path: Path) -> AsyncIterator[Till]:
    async with running_till(tmp_path) as running:
        yield running


async def test_both_ways_send_the_same_request(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, bodies = till.processor.prepare, []

    def noted(*asked: object) -> str:
        bodies.append(json.loads(prepare(*asked)))  # type: ignore[arg-type]
        return json.dumps(bodies[-1])

    monkeypatch.setattr(till.processor, "prepare", noted)
    await till.by_saga()
    await till.bare()
    ids = [body["metadata"].pop("payment_id") for body in bodies]
    assert len(set(ids)) == 2
    assert bodies[0] == bodies[1]
    page = await till.client.v1.payment_intents.list_async()
    assert [intent.status for intent in page.data] == ["succeeded", "succeeded"]


async def test_a_decline_ends_the_bench_both_ways(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = till.draft

    def declined() -> object:
        payment = draft()
        order = replace(payment.order, tokens={ACCOUNT: "pm_card_visa_chargeDeclined"})
        return replace(payment, order=order)

    monkeypatch.setattr(till, "draft", declined)
    with pytest.raises(RuntimeError, match="FAILED"):
        await rate(till.by_saga, 1, 0.1)
    with pytest.raises(Exception, match="declined"):
        await rate(till.bare, 1, 0.1)


async def test_costs_are_told_per_payment(till: Till) -> None:
    costs = Costs(till.sandbox_pid)
    for pay in (till.by_saga, till.bare):
        await costs.rate(pay, 4, 0.3)
    said = costs.said()
    assert said.keys() == {"saga_cpu_us", "bare_cpu_us", "sandbox_cpu_us", "others_cores"}
    assert float(str(said["saga_cpu_us"])) > 0


async def test_at_a_steady_rate_every_payment_counts_with_its_waiting() -> None:
    async def pay() -> None:
        await asyncio.sleep(0.05)

    took = await steady(pay, 0.2)
    assert len(took) == STEADY_RATE * 0.2
    assert min(took) >= 50


async def test_the_stores_unit_is_four_rows(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", [TABLES])
    await store.write(lambda connection: unit_of(1, connection))
    tables = ("payment", "claim", "event", "ledger")
    counts = await store.read(
        lambda c: [c.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]
    )
    assert counts == [1, 1, 1, 1]
    await store.close()
