"""Two whole routers on one store: what one hears, the other knows."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from smartpay.router.v1 import router_pb2
from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay.type.v1.instrument_pb2 import Instrument, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import DEMO_ACCOUNTS, as_merchant, write_merchants
from smartpay_router.proof.processes import channel, router

if TYPE_CHECKING:
    from smartpay.router.v1.router_pb2_grpc import RouterServiceAsyncStub

NAMES = ("a", "b")
START_SECONDS_MAX = 60.0  # first imports on a busy machine
NEWS_SECONDS_MAX = 30.0
FIRST, SECOND = DEMO_ACCOUNTS
CHARGE = router_pb2.DecideRequest(
    amount=Money(minor_units=2500, currency_code="USD"),
    instrument=Instrument(
        tokens=[ProcessorToken(processor_account_id=a, token="pm_card") for a in DEMO_ACCOUNTS]
    ),
)


@pytest.fixture
async def stubs() -> AsyncIterator[list[RouterServiceAsyncStub]]:
    # A Unix socket's path may have some 100 characters, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="sp-two-") as name:
        folder = Path(name)
        write_merchants(folder / "merchants.json")
        async with contextlib.AsyncExitStack() as stack:
            found = []
            for each in NAMES:
                await stack.enter_async_context(router(folder, each))
                opened = await stack.enter_async_context(channel(folder / f"{each}.sock"))
                found.append(RouterServiceStub(opened))
                await asyncio.wait_for(opened.channel_ready(), START_SECONDS_MAX)
            yield found


async def tell(
    decider: RouterServiceAsyncStub,
    hearer: RouterServiceAsyncStub,
    outcome: router_pb2.Outcome.ValueType,
    account: str = FIRST,
) -> None:
    """Asks one router for a decision, and tells another what became of it."""
    decision = (await decider.Decide(CHARGE, metadata=as_merchant())).decision
    told = router_pb2.RecordOutcomeRequest(
        decision_id=decision.decision_id, processor_account_id=account, outcome=outcome
    )
    for each in (hearer, decider):
        await each.RecordOutcome(told, metadata=as_merchant())


async def test_an_outage_that_one_replica_hears_of_keeps_the_other_from_the_account(
    stubs: list[RouterServiceAsyncStub],
) -> None:
    one, two = stubs
    for _ in range(35):
        await tell(one, two, router_pb2.OUTCOME_SUCCEEDED)
    for _ in range(6):
        await tell(one, two, router_pb2.OUTCOME_TECHNICAL_FAILURE)
    async with asyncio.timeout(NEWS_SECONDS_MAX):
        while True:
            ranking = (await one.Decide(CHARGE, metadata=as_merchant())).decision.ranking
            states = {r.processor_account_id: r.breaker_state for r in ranking}
            if states[FIRST] != router_pb2.BREAKER_STATE_CLOSED:
                break
            await asyncio.sleep(0.05)
    assert states[SECOND] == router_pb2.BREAKER_STATE_CLOSED
