"""Joins webhooks: notices of processors on their way in, events on their way out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Self

import structlog
from pydantic import Field, SecretStr, model_validator

from smartpay.payments.v1 import (
    webhook_endpoints_pb2,
    webhook_endpoints_pb2_grpc,
    webhooks_pb2,
    webhooks_pb2_grpc,
)
from smartpay_chassis.ids import derive
from smartpay_chassis.server import App
from smartpay_chassis.settings import ServiceSettings, SettingsError
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.amazon_pay_notifications import AmazonPayNotices, SnsCertificates
from smartpay_payments.adapters.merchant_directory import MerchantDirectory
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.sqlite_webhook_deliveries import SqliteWebhookDeliveries
from smartpay_payments.adapters.sqlite_webhook_endpoints import SqliteWebhookEndpoints
from smartpay_payments.adapters.sqlite_webhooks import SqliteInbox
from smartpay_payments.adapters.stripe_webhooks import StripeNotices
from smartpay_payments.adapters.webhook_accounts import KnownWebhookAccounts
from smartpay_payments.adapters.webhook_sender import WebhookSender
from smartpay_payments.domain.webhook_delivery import Persistence
from smartpay_payments.domain.webhook_endpoints import SigningKeys
from smartpay_payments.public_events import CONTENT_TYPE, public_event
from smartpay_payments.server.webhook_endpoints import WebhookEndpointsServicer
from smartpay_payments.server.webhooks import WebhooksServicer
from smartpay_payments.webhook_courier import LEASE, Courier

log = structlog.get_logger()

FORGET_INTERVAL_SECONDS = 3600.0  # retention is counted in days, so an hour more is nothing

Seconds = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class WebhookSettings(ServiceSettings):
    """What webhooks must know."""

    webhook_signing_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="PAYMENTS_WEBHOOK_SIGNING_KEY",
        description="Secret of 32 characters or more that endpoints' secrets are derived from; to"
        " replace it put the new one on a line before, and remove the old one once every endpoint"
        " has a new secret. Empty: merchants can't have endpoints.",
    )
    webhook_timeout_seconds: Annotated[float, Field(gt=0, lt=LEASE.total_seconds())] = Field(
        default=10.0,
        validation_alias="PAYMENTS_WEBHOOK_TIMEOUT_SECONDS",
        description="For a merchant's endpoint to answer; it has only to note the event.",
    )
    webhook_schedule_seconds: tuple[Seconds, ...] = Field(
        default=(5, 60, 300, 1800, 7200, 18000, 36000, 50400, 72000, 72000),
        min_length=1,
        validation_alias="PAYMENTS_WEBHOOK_SCHEDULE_SECONDS",
        description="Pauses between tries of a delivery, a JSON list: three days, so that a"
        " weekend's outage loses nothing.",
    )
    webhook_disable_days: Annotated[float, Field(gt=0)] = Field(
        default=5.0,
        validation_alias="PAYMENTS_WEBHOOK_DISABLE_DAYS",
        description="An endpoint where nothing has arrived for so long is disabled; longer than"
        " one delivery is tried.",
    )
    webhook_places: AtLeastOne = Field(
        default=32,
        validation_alias="PAYMENTS_WEBHOOK_PLACES",
        description="Deliveries on their way at once.",
    )
    webhook_places_each: AtLeastOne = Field(
        default=4,
        validation_alias="PAYMENTS_WEBHOOK_PLACES_EACH",
        description="Of one endpoint, so that eight slow ones must come together to hold up all.",
    )
    webhooks_keep_days: Annotated[float, Field(gt=0)] = Field(
        default=30.0,
        validation_alias="PAYMENTS_WEBHOOKS_KEEP_DAYS",
        description="How long deliveries can be read and sent again, and notices known as"
        " repeats; processors repeat them for days.",
    )
    webhook_allow_loopback: bool = Field(
        default=False,
        validation_alias="PAYMENTS_WEBHOOK_ALLOW_LOOPBACK",
        description="Lets events go to this machine over http; in development alone.",
    )
    amazon_pay_certificate_base: str = Field(
        default="",
        validation_alias="AMAZON_PAY_CERTIFICATE_BASE",
        description="Begins the addresses of certificates that sign notifications beside"
        " Amazon's own: the sandbox's; in development alone.",
    )

    @model_validator(mode="after")
    def _development_stays_there(self) -> Self:
        if self.environment != "dev":
            if self.webhook_allow_loopback:
                raise ValueError("PAYMENTS_WEBHOOK_ALLOW_LOOPBACK is for dev alone")
            if self.amazon_pay_certificate_base:
                raise ValueError("AMAZON_PAY_CERTIFICATE_BASE is for dev alone")
        return self


def signing_keys(settings: WebhookSettings) -> SigningKeys:
    """Reads the operator's keys, the newest first; raises SettingsError for a short one."""
    lines = settings.webhook_signing_key.get_secret_value().splitlines()
    try:
        return SigningKeys([line.strip() for line in lines if line.strip()])
    except ValueError as error:
        raise SettingsError(f"PAYMENTS_WEBHOOK_SIGNING_KEY: {error}") from None


def serve_webhooks(
    app: App,
    settings: WebhookSettings,
    store: SqliteStore,
    payments: SqlitePayments,
    directory: MerchantDirectory,
    added_secrets: Callable[[str], Sequence[str]],
    now: Callable[[], datetime],
) -> None:
    """Takes notices, serves endpoints, and carries events to them beside the calls.

    Args:
        app: the service.
        settings: its limits.
        store: the embedded store.
        payments: with the log of events.
        directory: whose each processor account is.
        added_secrets: answers the webhook secrets of accounts that merchants added.
        now: the clock.
    """
    inbox = SqliteInbox(store)
    app.serve(
        webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server,
        WebhooksServicer(
            KnownWebhookAccounts(directory, app.merchants, added_secrets),
            {
                "stripe": StripeNotices(now),
                "amazon_pay": AmazonPayNotices(
                    SnsCertificates(settings.amazon_pay_certificate_base), now
                ),
            },
            inbox,
            now,
        ),
        webhooks_pb2.DESCRIPTOR.services_by_name["WebhooksService"],
    )
    keys = signing_keys(settings)
    deliveries = SqliteWebhookDeliveries(store)
    app.serve(
        webhook_endpoints_pb2_grpc.add_WebhookEndpointsServiceServicer_to_server,
        WebhookEndpointsServicer(
            SqliteWebhookEndpoints(store),
            deliveries,
            payments,
            keys,
            now,
            allow_loopback=settings.webhook_allow_loopback,
        ),
        webhook_endpoints_pb2.DESCRIPTOR.services_by_name["WebhookEndpointsService"],
    )
    sender = WebhookSender(
        settings.webhook_timeout_seconds, allow_loopback=settings.webhook_allow_loopback
    )
    app.on_stop(sender.close)
    courier = Courier(
        payments,
        deliveries,
        sender,
        keys,
        (public_event, CONTENT_TYPE),
        derive,
        now,
        random.Random().random,
        Persistence(
            settings.webhook_schedule_seconds, timedelta(days=settings.webhook_disable_days)
        ),
        settings.webhook_places,
        settings.webhook_places_each,
    )
    app.background("webhook courier", courier.run)

    async def forget() -> None:
        while True:
            horizon = now() - timedelta(days=settings.webhooks_keep_days)
            forgotten = 0
            while batch := await inbox.forget(horizon) + await deliveries.forget(horizon):
                forgotten += batch
            log.info("webhooks past their retention removed", count=forgotten)
            await asyncio.sleep(FORGET_INTERVAL_SECONDS)

    app.background("webhook retention", forget)
