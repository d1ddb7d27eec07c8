"""What the payments service must know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from smartpay_chassis.settings import ServiceSettings
from smartpay_payments.amazon_pay_rail import AmazonPaySettings
from smartpay_payments.back_office import BackOfficeSettings
from smartpay_payments.solana_rail import SolanaSettings
from smartpay_payments.webhooks import WebhookSettings

Seconds = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class PaymentsSettings(
    AmazonPaySettings, SolanaSettings, BackOfficeSettings, WebhookSettings, ServiceSettings
):
    """Settings of the payments service. Each limit says why it has its size."""

    store_path: Path = Field(
        validation_alias="PAYMENTS_STORE_PATH", description="SQLite file of the embedded store."
    )
    stripe_secret_key: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="STRIPE_SECRET_KEY",
        description="Key of Stripe accounts that name no secret file of their own.",
    )
    stripe_api_base: str = Field(
        default="https://api.stripe.com",
        validation_alias="STRIPE_API_BASE",
        description="Stripe's address; the sandbox's in development.",
    )
    stripe_return_url: str = Field(
        default="https://smartpay.dev/return",
        validation_alias="STRIPE_RETURN_URL",
        description="Where the payer's browser goes after 3-D Secure.",
    )
    stripe_timeout_seconds: Seconds = Field(
        default=8.0,
        validation_alias="STRIPE_TIMEOUT_SECONDS",
        description="One call; three of them fit into the 30 s of POST /pay.",
    )
    fraud_timeout_seconds: Seconds = Field(
        default=1.0,
        validation_alias="PAYMENTS_FRAUD_TIMEOUT_SECONDS",
        description="Then the merchant's fail policy decides; 20 times fraud's own SLA of 50 ms.",
    )
    route_timeout_seconds: Seconds = Field(
        default=1.0,
        validation_alias="PAYMENTS_ROUTE_TIMEOUT_SECONDS",
        description="Then the merchant's own order of accounts decides.",
    )
    reward_timeout_seconds: Seconds = Field(
        default=0.5,
        validation_alias="PAYMENTS_REWARD_TIMEOUT_SECONDS",
        description="Then a payment is shown without its reward, which says so.",
    )
    recovery_interval_seconds: Seconds = Field(
        default=0.5,
        validation_alias="PAYMENTS_RECOVERY_INTERVAL_SECONDS",
        description="How often recovery looks for payments whose time has come.",
    )
    recovery_concurrency: AtLeastOne = Field(
        default=16,
        validation_alias="PAYMENTS_RECOVERY_CONCURRENCY",
        description="Payments recovered at once; leaves the processor room for new ones.",
    )
    recovery_lease_seconds: Seconds = Field(
        default=60.0,
        validation_alias="PAYMENTS_RECOVERY_LEASE_SECONDS",
        description="How long one look may take before another replica takes the payment up;"
        " several processor calls.",
    )
    first_look_seconds: Seconds = Field(
        default=30.0,
        validation_alias="PAYMENTS_FIRST_LOOK_SECONDS",
        description="Recovery leaves a stored attempt alone for so long: above the call timeout.",
    )
    recovery_schedule_seconds: tuple[Seconds, ...] = Field(
        default=(1, 5, 30, 120, 600, 3600),
        min_length=1,
        validation_alias="PAYMENTS_RECOVERY_SCHEDULE_SECONDS",
        description="Pauses between looks at an unknown outcome, a JSON list: most outages end"
        " within seconds; after the last a person decides.",
    )
    action_seconds: Seconds = Field(
        default=3600.0,
        validation_alias="PAYMENTS_ACTION_SECONDS",
        description="How long a payer may take for 3-D Secure before the payment is canceled.",
    )
    action_first_poll_seconds: Seconds = Field(
        default=5.0,
        validation_alias="PAYMENTS_ACTION_FIRST_POLL_SECONDS",
        description="How soon a payment that waits for the payer is first looked at; each later"
        " pause is half the wait so far.",
    )
    action_poll_seconds: Seconds = Field(
        default=60.0,
        validation_alias="PAYMENTS_ACTION_POLL_SECONDS",
        description="How often it is looked at in the end; webhooks come sooner where there are"
        " any.",
    )
    confirm_seconds: Seconds = Field(
        default=86400.0,
        validation_alias="PAYMENTS_CONFIRM_SECONDS",
        description="How long a payment waits to be confirmed, or for the payer's choice of a"
        " rail; a day, as carts live.",
    )
    review_seconds: Seconds = Field(
        default=604800.0,
        validation_alias="PAYMENTS_REVIEW_SECONDS",
        description="How long a payment may be held for review; a week, over holidays.",
    )
    authorization_poll_seconds: Seconds = Field(
        default=21600.0,
        validation_alias="PAYMENTS_AUTHORIZATION_POLL_SECONDS",
        description="How often an authorization is looked at; they lapse after days.",
    )
    late_poll_seconds: Seconds = Field(
        default=300.0,
        validation_alias="PAYMENTS_LATE_POLL_SECONDS",
        description="How often transfers are looked for that come after a payment has ended.",
    )
    cascade_attempts_max: AtLeastOne = Field(
        default=3,
        validation_alias="PAYMENTS_CASCADE_ATTEMPTS_MAX",
        description="Accounts tried for one payment; more looks like card testing to issuers.",
    )
    cascade_seconds: Seconds = Field(
        default=300.0,
        validation_alias="PAYMENTS_CASCADE_SECONDS",
        description="No further account is tried later than that; the payer has gone.",
    )
    events_keep_days: Annotated[float, Field(gt=0)] = Field(
        default=30.0,
        validation_alias="PAYMENTS_EVENTS_KEEP_DAYS",
        description="How long events can be watched from an old cursor.",
    )
    settlement_interval_seconds: Seconds = Field(
        default=300.0,
        validation_alias="PAYMENTS_SETTLEMENT_INTERVAL_SECONDS",
        description="Pause between two readings of what processors settled: fees and payouts;"
        " they come hours to days after their payments.",
    )
    watchers_max: AtLeastOne = Field(
        default=64,
        validation_alias="PAYMENTS_WATCHERS_MAX",
        description="Watch streams at once; four services with a few replicas each.",
    )

    @field_validator("first_look_seconds")
    @classmethod
    def _longer_than_a_call(cls, value: float, info: ValidationInfo) -> float:
        for rail in ("stripe", "amazon_pay"):
            if value <= info.data.get(f"{rail}_timeout_seconds", 0):
                raise ValueError(
                    f"PAYMENTS_FIRST_LOOK_SECONDS must be more than {rail.upper()}_TIMEOUT_SECONDS,"
                    " or recovery asks while the first call still runs"
                )
        return value
