"""Joins the payments service: settings, adapters, story, server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_chassis.merchants import Merchants
from smartpay_chassis.server import App, run
from smartpay_chassis.settings import SettingsError
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.advisors import FraudService, RewardsService, RouterService
from smartpay_payments.adapters.sqlite_payments import MIGRATIONS, SqlitePayments
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.eligibility import MerchantTerms
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.processor import Processor
from smartpay_payments.domain.saga import Patience, Saga
from smartpay_payments.recovery import Recovery
from smartpay_payments.server import PaymentsServicer, terms_of
from smartpay_payments.settings import PaymentsSettings

log = structlog.get_logger()

FORGET_INTERVAL_SECONDS = 3600.0  # retention is counted in days, so an hour more is nothing


def now() -> datetime:
    """The service's clock."""
    return datetime.now(UTC)


def stripe_keys(merchants: Merchants, settings: PaymentsSettings) -> dict[str, str]:
    """Reads the secret key of every Stripe account; raises SettingsError naming one without."""
    keys: dict[str, str] = {}
    for merchant in merchants.merchants:
        for account in merchant.processor_accounts:
            if account.processor != "stripe":
                continue
            key = (
                account.secret_file.read_text().strip()
                if account.secret_file is not None
                else settings.stripe_secret_key.get_secret_value()
            )
            if not key:
                raise SettingsError(
                    f"account {account.processor_account_id} has no secret file"
                    " and STRIPE_SECRET_KEY is not set"
                )
            keys[account.processor_account_id] = key
    return keys


async def build(app: App, settings: PaymentsSettings) -> None:
    """Joins settings, adapters, story and server."""
    store = await SqliteStore.open(settings.store_path, MIGRATIONS)
    app.on_stop(store.close)
    payments = SqlitePayments(store)
    stripe = StripeProcessor(
        stripe_keys(app.merchants, settings),
        settings.stripe_api_base,
        settings.stripe_return_url,
        settings.stripe_timeout_seconds,
        now,
    )
    app.on_stop(stripe.close)
    processors: dict[str, Processor] = {"stripe": stripe}
    saga = Saga(
        payments,
        processors,
        FraudService(app.channel, settings.fraud_timeout_seconds),
        RouterService(app.channel, settings.route_timeout_seconds),
        now,
        Patience(
            first_look_seconds=settings.first_look_seconds,
            schedule_seconds=settings.recovery_schedule_seconds,
            action_seconds=settings.action_seconds,
        ),
    )
    servicer = PaymentsServicer(
        saga,
        payments,
        RewardsService(app.channel, settings.reward_timeout_seconds),
        now,
        settings.watchers_max,
    )
    app.on_stop(servicer.drain)
    app.serve(
        payments_pb2_grpc.add_PaymentsServiceServicer_to_server,
        servicer,
        payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"],
    )

    def terms(payment: Payment) -> MerchantTerms | None:
        merchant = app.merchants.get(payment.merchant_id, payment.livemode)
        return None if merchant is None else terms_of(merchant)

    recovery = Recovery(
        payments,
        saga,
        terms,
        now,
        settings.recovery_interval_seconds,
        settings.recovery_concurrency,
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
