"""Joins the payments service: settings, adapters, story, server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from smartpay.payments.v1 import (
    disputes_pb2,
    disputes_pb2_grpc,
    payments_pb2,
    payments_pb2_grpc,
    refunds_pb2,
    refunds_pb2_grpc,
)
from smartpay_chassis.ids import derive
from smartpay_chassis.server import App, run
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.advisors import FraudService, RewardsService, RouterService
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.stripe_vault import StripeVault
from smartpay_payments.back_office import serve_back_office
from smartpay_payments.books import build_books
from smartpay_payments.domain.commands import Commands
from smartpay_payments.domain.eligibility import MerchantTerms
from smartpay_payments.domain.patience import Patience
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.saga import Saga
from smartpay_payments.domain.silence import Silence
from smartpay_payments.domain.versions import Versions
from smartpay_payments.rails import credential_readers, open_rails
from smartpay_payments.recovery import Recovery
from smartpay_payments.server.disputes import DisputesServicer
from smartpay_payments.server.payments import PaymentsServicer
from smartpay_payments.server.refunds import RefundsServicer
from smartpay_payments.settings import PaymentsSettings
from smartpay_payments.webhooks import serve_webhooks

log = structlog.get_logger()

FORGET_INTERVAL_SECONDS = 3600.0  # retention is counted in days, so an hour more is nothing


def now() -> datetime:
    """The service's clock."""
    return datetime.now(UTC)


async def build(app: App, settings: PaymentsSettings) -> None:
    """Joins settings, adapters, story and server."""
    store = await SqliteStore.open(settings.store_path, MIGRATIONS)
    app.on_stop(store.close)
    payments = SqlitePayments(store)
    rails = await open_rails(app, settings, store, payments, now)
    office, processors = rails.office, rails.processors
    patience = Patience(
        first_look_seconds=settings.first_look_seconds,
        schedule_seconds=settings.recovery_schedule_seconds,
        confirm_seconds=settings.confirm_seconds,
        review_seconds=settings.review_seconds,
        action_seconds=settings.action_seconds,
        action_first_poll_seconds=settings.action_first_poll_seconds,
        action_poll_seconds=settings.action_poll_seconds,
        authorization_poll_seconds=settings.authorization_poll_seconds,
        late_poll_seconds=settings.late_poll_seconds,
        cascade_attempts_max=settings.cascade_attempts_max,
        cascade_seconds=settings.cascade_seconds,
    )
    versions = Versions(payments, processors, now, patience, derive)
    silence = Silence(now)
    commands = Commands(versions, silence)
    saga = Saga(
        versions,
        commands,
        FraudService(app.channel, settings.fraud_timeout_seconds),
        RouterService(app.channel, settings.route_timeout_seconds),
        silence,
    )
    setup = serve_back_office(
        app,
        office,
        store,
        versions,
        {"stripe": StripeVault(rails.stripe.clients, settings.stripe_return_url)},
        credential_readers(settings),
        now,
    )
    servicer = PaymentsServicer(
        saga,
        commands,
        payments,
        RewardsService(app.channel, settings.reward_timeout_seconds),
        now,
        settings.watchers_max,
        office.terms_of_call,
        office.directory.changed,
        setup,
    )
    app.on_stop(servicer.drain)
    app.serve(
        payments_pb2_grpc.add_PaymentsServiceServicer_to_server,
        servicer,
        payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"],
    )

    app.serve(
        refunds_pb2_grpc.add_RefundsServiceServicer_to_server,
        RefundsServicer(payments, commands, now),
        refunds_pb2.DESCRIPTOR.services_by_name["RefundsService"],
    )
    app.serve(
        disputes_pb2_grpc.add_DisputesServiceServicer_to_server,
        DisputesServicer(payments, commands, now),
        disputes_pb2.DESCRIPTOR.services_by_name["DisputesService"],
    )

    build_books(
        app,
        store,
        payments,
        office.directory,
        commands,
        rails.settlements,
        RewardsService(app.channel, settings.reward_timeout_seconds),
        settings.settlement_interval_seconds,
        now,
    )
    serve_webhooks(
        app, settings, store, payments, office.directory, office.secrets.webhook_secrets, now
    )

    def terms(payment: Payment) -> MerchantTerms | None:
        return office.directory.terms(payment.merchant_id, payment.livemode)

    recovery = Recovery(
        payments,
        saga,
        terms,
        silence,
        now,
        settings.recovery_interval_seconds,
        settings.recovery_concurrency,
        settings.recovery_lease_seconds,
    )
    await recovery.take_over()
    app.background("recovery", recovery.run)

    async def forget_events() -> None:
        while True:
            horizon = now() - timedelta(days=settings.events_keep_days)
            forgotten = 0
            while batch := await payments.forget_events(horizon):
                forgotten += batch
            log.info("events past their retention removed", count=forgotten)
            await asyncio.sleep(FORGET_INTERVAL_SECONDS)

    app.background("event retention", forget_events)


def main() -> None:
    """Runs the service."""
    run("payments", PaymentsSettings, build)


if __name__ == "__main__":
    main()
