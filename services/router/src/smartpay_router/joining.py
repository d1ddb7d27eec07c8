"""Joins the router's rooms: settings, store, learner, events, server."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceStub
from smartpay.router.v1 import audit_pb2, evidence_pb2, policies_pb2, router_pb2
from smartpay.router.v1.audit_pb2_grpc import add_RoutingAuditServiceServicer_to_server
from smartpay.router.v1.evidence_pb2_grpc import add_RoutingEvidenceServiceServicer_to_server
from smartpay.router.v1.policies_pb2_grpc import add_RoutingPoliciesServiceServicer_to_server
from smartpay.router.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from smartpay_chassis.server import App
from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.payment_events import PaymentEvents
from smartpay_router.adapters.river_policy import RiverPolicy
from smartpay_router.adapters.sagemaker_policy import SagemakerEndpoint, SagemakerPolicy
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.adapters.sqlite_past import SqlitePast
from smartpay_router.adapters.sqlite_policies import SqlitePolicies
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.breakers import Breakers, BreakerTuning, Standing
from smartpay_router.domain.context import CHARGE_SCHEMA
from smartpay_router.domain.exploration import Budgets, BudgetTuning
from smartpay_router.domain.learner import Arm, Knowledge
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.policy import PolicyBook
from smartpay_router.domain.replicas import Mind, Replica
from smartpay_router.domain.route import Pipeline
from smartpay_router.domain.steering import Steering, SteeringTuning
from smartpay_router.server.audit import RoutingAuditServicer
from smartpay_router.server.evidence import RoutingEvidenceServicer
from smartpay_router.server.policies import RoutingPoliciesServicer
from smartpay_router.server.routing import Numbers, Router
from smartpay_router.settings import RouterSettings
from smartpay_router.upkeep import Rhythm, Upkeep

log = structlog.get_logger()


@dataclass(frozen=True)
class Brain:
    """What decides by what was learned; shows of it what merchants may see."""

    learner: LinUcb | RiverPolicy
    breakers: Breakers
    budgets: Budgets
    steering: Steering
    learning: Learning

    @property
    def learner_name(self) -> str:
        """Names the learner."""
        return self.learner.version

    def knowledge(self, account: str, at: float) -> Knowledge:
        """Answers what outcomes of the very account have taught."""
        return self.learner.knowledge(account, at)

    def standing(self, arm: Arm) -> Standing:
        """Answers whether an account's processor works."""
        return self.breakers.standing(arm.account, arm.model)

    def tokens(self, key: str) -> float:
        """Answers what is left of an exploration budget."""
        return self.budgets.tokens(key)


async def build(app: App, settings: RouterSettings) -> None:
    """Opens the store, goes on from what was learned, then serves and follows the payments."""
    store = await SqliteStore.open(settings.store_path, MIGRATIONS)
    app.on_stop(store.close)
    outcomes = SqliteOutcomes(store, settings.replica_name)
    brain, replica = await _brain(settings, store, outcomes)
    await brain.learning.remember_open(time.time())
    directory = Directory(await outcomes.added_accounts())
    book = PolicyBook()
    policies = SqlitePolicies(store, book)
    await policies.catch_up()
    decisions = SqliteDecisions(store, settings.replica_name, settings.decision_retention)
    past = SqlitePast(store)
    pipeline = Pipeline(
        brain.steering, brain.learner, brain.breakers, brain.learning.losses.expected
    )
    app.serve(
        add_RouterServiceServicer_to_server,
        Router(
            decisions,
            pipeline,
            brain.learning,
            book,
            directory,
            Numbers(settings.cell, settings.decision_ttl, settings.outcome_patience),
            _now,
            _remote(app, settings, brain),
        ),
        router_pb2.DESCRIPTOR.services_by_name["RouterService"],
    )
    app.serve(
        add_RoutingPoliciesServiceServicer_to_server,
        RoutingPoliciesServicer(book, policies, pipeline, past, directory, _now),
        policies_pb2.DESCRIPTOR.services_by_name["RoutingPoliciesService"],
    )
    app.serve(
        add_RoutingEvidenceServiceServicer_to_server,
        RoutingEvidenceServicer(
            decisions, past, brain, book, directory, settings.outcome_patience, _now
        ),
        evidence_pb2.DESCRIPTOR.services_by_name["RoutingEvidenceService"],
    )
    app.serve(
        add_RoutingAuditServiceServicer_to_server,
        RoutingAuditServicer(policies),
        audit_pb2.DESCRIPTOR.services_by_name["RoutingAuditService"],
    )
    watch = PaymentsServiceStub(app.channel).Watch
    events = PaymentEvents(watch, outcomes, brain.learning, directory)
    rhythm = Rhythm(
        pulse_seconds=settings.pulse_seconds,
        exchange_seconds=settings.exchange_seconds,
        retention_seconds=settings.decision_retention.total_seconds(),
    )
    upkeep = Upkeep(brain.learning, outcomes, replica, rhythm, time.time)
    app.background("payment events", events.follow)
    app.background("upkeep", upkeep.run)
    app.background("policies", lambda: _keep_up(policies, settings.policy_refresh_seconds))


async def _brain(
    settings: RouterSettings, store: SqliteStore, outcomes: SqliteOutcomes
) -> tuple[Brain, Replica | None]:
    """Makes the learner that the settings name, with all that was learned before."""
    budgets = Budgets(BudgetTuning(rate=settings.exploration_rate))
    tuning = SteeringTuning(epsilon=settings.epsilon)
    breaker_tuning = BreakerTuning(trip=settings.breaker_trip)
    patience = settings.outcome_patience.total_seconds()
    if settings.policy == "river":
        # The import takes seconds.
        learner = await asyncio.to_thread(RiverPolicy, CHARGE_SCHEMA)
        breakers = Breakers(breaker_tuning, settings.replica_name)
        steering = Steering(learner, breakers, budgets, tuning)
        learning = Learning(
            steering, learner, outcomes, CHARGE_SCHEMA, settings.replica_name, patience
        )
        log.info("replayed", outcomes=await learning.catch_up(), learner=learner.version)
        return Brain(learner, breakers, budgets, steering, learning), None

    def conceive(owner: str, epoch: int) -> Mind:
        own = Tuning(memory_seconds=settings.memory_seconds, pending_seconds=patience)
        learner = LinUcb(CHARGE_SCHEMA, own, owner, epoch)
        breakers = Breakers(breaker_tuning, owner, epoch)
        steering = Steering(learner, breakers, budgets, tuning)
        learning = Learning(steering, learner, outcomes, CHARGE_SCHEMA, owner, patience)
        return Mind(learner, breakers, steering, learning)

    replica = Replica(settings.replica_name, SqliteReplicas(store), conceive, time.time)
    mind = await replica.join()
    return Brain(mind.learner, mind.breakers, budgets, mind.steering, mind.learning), replica


def _remote(app: App, settings: RouterSettings, brain: Brain) -> SagemakerPolicy | None:
    """Opens the endpoint that estimates in the learner's place, if there is one."""
    if not settings.endpoint_name:
        return None
    region = settings.aws_region or None
    endpoint = SagemakerEndpoint(settings.endpoint_name, region_name=region)
    app.on_stop(endpoint.close)
    return SagemakerPolicy(brain.learner, endpoint)


async def _keep_up(policies: SqlitePolicies, pause_seconds: float) -> None:
    """Looks for policies that other replicas stored."""
    while True:
        await asyncio.sleep(pause_seconds)
        await policies.catch_up()


def _now() -> datetime:
    return datetime.now(UTC)
