"""Joins the router: settings, store, learner, events, server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceStub
from smartpay.router.v1 import router_pb2
from smartpay.router.v1.router_pb2_grpc import add_RouterServiceServicer_to_server
from smartpay_chassis.server import App, run
from smartpay_router.adapters.payment_events import PaymentEvents
from smartpay_router.adapters.river_policy import RiverPolicy
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.outcome import Learner
from smartpay_router.server import Router, Rules
from smartpay_router.settings import RouterSettings

log = structlog.get_logger()


async def build(app: App, settings: RouterSettings) -> None:
    """Opens the store, learns its whole log again, then serves and follows the payments."""
    decisions = await SqliteDecisions.open(settings.store_path, settings.decision_retention)
    app.on_stop(decisions.close)
    policy = await asyncio.to_thread(RiverPolicy)  # the import takes seconds
    learner = Learner(policy, decisions)
    directory = Directory(await decisions.added_accounts())
    log.info("replayed", outcomes=await learner.catch_up(), policy_version=policy.version)
    app.serve(
        add_RouterServiceServicer_to_server,
        Router(
            decisions,
            policy,
            learner,
            Rules(settings.cell, settings.epsilon, settings.decision_ttl),
            directory,
            clock=lambda: datetime.now(UTC),
        ),
        router_pb2.DESCRIPTOR.services_by_name["RouterService"],
    )
    watch = PaymentsServiceStub(app.channel).Watch
    events = PaymentEvents(watch, decisions, learner, directory)
    app.background("payment events", events.follow)


if __name__ == "__main__":
    run("router", RouterSettings, build)
