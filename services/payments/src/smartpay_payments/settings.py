"""What the payments service must know."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from smartpay_chassis.settings import ServiceSettings

Seconds = Annotated[float, Field(gt=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class PaymentsSettings(ServiceSettings):
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
    events_keep_days: Annotated[float, Field(gt=0)] = Field(
        default=30.0,
        validation_alias="PAYMENTS_EVENTS_KEEP_DAYS",
        description="How long events can be watched from an old cursor.",
    )
    watchers_max: AtLeastOne = Field(
        default=64,
        validation_alias="PAYMENTS_WATCHERS_MAX",
        description="Watch streams at once; four services with a few replicas each.",
    )

    @field_validator("first_look_seconds")
    @classmethod
    def _longer_than_a_call(cls, value: float, info: ValidationInfo) -> float:
        if value <= info.data.get("stripe_timeout_seconds", 0):
            raise ValueError(
                "PAYMENTS_FIRST_LOOK_SECONDS must be more than STRIPE_TIMEOUT_SECONDS,"
                " or recovery asks while the first call still runs"
            )
        return value
