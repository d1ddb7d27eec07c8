"""What the router's tests share: a charge, a decision about it, and an open store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartpay.router.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    evidence_pb2,
    evidence_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
    router_pb2,
    router_pb2_grpc,
)
from smartpay_chassis import ids
from smartpay_chassis.sqlite import SqliteStore
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, FakeClock, serve_for_test
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.river_policy import RiverPolicy
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.adapters.sqlite_past import SqlitePast
from smartpay_router.adapters.sqlite_policies import SqlitePolicies
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.breakers import Breakers
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import CHARGE_SCHEMA, Context, describe
from smartpay_router.domain.decision import Decision
from smartpay_router.domain.eligibility import Exclusion
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.policy import PolicyBook
from smartpay_router.domain.route import Pipeline, RankedAccount, Route
from smartpay_router.domain.steering import Steering, SteeringTuning
from smartpay_router.domain.tenant import Tenant
from smartpay_router.joining import Brain
from smartpay_router.server.audit import RoutingAuditServicer
from smartpay_router.server.evidence import RoutingEvidenceServicer
from smartpay_router.server.policies import RoutingPoliciesServicer
from smartpay_router.server.routing import Numbers, RemoteLearner, Router


@pytest.fixture(autouse=True)
def the_same_ids_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision's dice are thrown by its id, so ids by chance would make draws by chance."""
    numbers = count()
    monkeypatch.setattr(
        ids, "new", lambda prefix, cell: ids.derive(prefix, cell, str(next(numbers)))
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def charge() -> Charge:
    return Charge(2500, "USD", dict.fromkeys(DEMO_ACCOUNTS, "pm_card"))


@pytest.fixture
def context(charge: Charge, clock: FakeClock) -> Context:
    return describe(charge, clock())


@pytest.fixture
def river() -> RiverPolicy:
    return RiverPolicy(CHARGE_SCHEMA)


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
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "router.db", MIGRATIONS)
    yield opened
    await opened.close()


@pytest.fixture
def decisions(store: SqliteStore) -> SqliteDecisions:
    return SqliteDecisions(store, "one", timedelta(days=30))


@pytest.fixture
def brain(outcomes: SqliteOutcomes) -> Brain:
    """The learner as it is served, knowing nothing, without chance."""
    learner, breakers, budgets = LinUcb(CHARGE_SCHEMA), Breakers(), Budgets()
    steering = Steering(learner, breakers, budgets, SteeringTuning(epsilon=0.0))
    learning = Learning(steering, learner, outcomes, CHARGE_SCHEMA, "one")
    return Brain(learner, breakers, budgets, steering, learning)


@pytest.fixture
def remote() -> RemoteLearner | None:
    """No learner elsewhere, until a test has one."""
    return None


@pytest.fixture
async def channel(
    store: SqliteStore,
    decisions: SqliteDecisions,
    brain: Brain,
    directory: Directory,
    remote: RemoteLearner | None,
    clock: FakeClock,
) -> AsyncIterator[grpc.aio.Channel]:
    """All of the router's services."""
    book, past, patience = PolicyBook(), SqlitePast(store), timedelta(days=1)
    policies = SqlitePolicies(store, book)
    pipeline = Pipeline(
        brain.steering, brain.learner, brain.breakers, brain.learning.losses.expected
    )
    numbers = Numbers("d1", timedelta(minutes=15), patience)
    services: list[Any] = [
        (
            router_pb2_grpc.add_RouterServiceServicer_to_server,
            Router(decisions, pipeline, brain.learning, book, directory, numbers, clock, remote),
            router_pb2.DESCRIPTOR.services_by_name["RouterService"],
        ),
        (
            policies_pb2_grpc.add_RoutingPoliciesServiceServicer_to_server,
            RoutingPoliciesServicer(book, policies, pipeline, past, directory, clock),
            policies_pb2.DESCRIPTOR.services_by_name["RoutingPoliciesService"],
        ),
        (
            evidence_pb2_grpc.add_RoutingEvidenceServiceServicer_to_server,
            RoutingEvidenceServicer(decisions, past, brain, book, directory, patience, clock),
            evidence_pb2.DESCRIPTOR.services_by_name["RoutingEvidenceService"],
        ),
        (
            audit_pb2_grpc.add_RoutingAuditServiceServicer_to_server,
            RoutingAuditServicer(policies),
            audit_pb2.DESCRIPTOR.services_by_name["RoutingAuditService"],
        ),
    ]
    async with serve_for_test(services) as opened:
        yield opened


@pytest.fixture
def outcomes(store: SqliteStore) -> SqliteOutcomes:
    return SqliteOutcomes(store, "one")
