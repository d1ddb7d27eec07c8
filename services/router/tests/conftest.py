"""What the router's tests share: a charge, a decision about it, and an open store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, FakeClock
from smartpay_router.adapters.river_policy import RiverPolicy
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import Context, describe
from smartpay_router.domain.decision import Decision, Tenant
from smartpay_router.domain.eligibility import Exclusion
from smartpay_router.domain.route import RankedAccount, Route


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def charge() -> Charge:
    return Charge(2500, "USD", dict.fromkeys(DEMO_ACCOUNTS, "pm_card"))


@pytest.fixture
def context(charge: Charge, clock: FakeClock) -> Context:
    return describe(charge, 0.05, clock())


@pytest.fixture
def river() -> RiverPolicy:
    return RiverPolicy()


@pytest.fixture
def decision(charge: Charge, context: Context, clock: FakeClock) -> Decision:
    """A fresh decision of the demo merchant that ranks both of its accounts."""
    ranking = tuple(
        RankedAccount(account, "stripe", 0.9, 102, 0.86, 0.5, ("It is a test.",))
        for account in DEMO_ACCOUNTS
    )
    excluded = (Exclusion("pac_d1" + "x" * 24, "NO_TOKEN", "No token."),)
    return Decision(
        decision_id="dec_d1" + "1" * 24,
        tenant=Tenant(DEMO_MERCHANT.merchant_id, DEMO_MERCHANT.livemode),
        amount_minor=charge.amount_minor,
        currency=charge.currency,
        instrument_hash=charge.instrument_hash(),
        route=Route(ranking, excluded, "river-linucb-0", explored=False, context=context),
        payment_id="",
        created_at=clock(),
        expires_at=clock() + timedelta(minutes=15),
    )


@pytest.fixture
def directory() -> Directory:
    """No merchant has added accounts, until a test says so."""
    return Directory()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteDecisions]:
    opened = await SqliteDecisions.open(tmp_path / "router.db", timedelta(days=30))
    yield opened
    await opened.close()
