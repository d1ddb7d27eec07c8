"""What the router must know beyond what every service must know."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from smartpay_chassis.settings import ServiceSettings


class RouterSettings(ServiceSettings):
    """The router's settings. ROUTING_ENDPOINT_NAME is reserved and not read yet."""

    store_path: Path = Field(
        validation_alias="ROUTER_STORE_PATH",
        description="SQLite file with decisions and outcomes; its folder must exist.",
    )
    policy: Literal["river"] = Field(
        default="river",
        validation_alias="ROUTER_POLICY",
        description="The learner: river is River's LinUCBDisjoint.",
    )
    epsilon: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.01,
        validation_alias="ROUTER_EPSILON",
        description="Share of decisions whose first place is drawn at random; 1 % costs little"
        " and is what makes the log fit for off-policy evaluation.",
    )
    decision_ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=900,
        validation_alias="ROUTER_DECISION_TTL_SECONDS",
        description="How long a payment may begin to use a decision; a checkout's patience.",
    )
    decision_retention_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=30,
        validation_alias="ROUTER_DECISION_RETENTION_DAYS",
        description="How long decisions can be read and reported on; then disk space wins.",
    )

    @property
    def decision_ttl(self) -> timedelta:
        """How long a payment may begin to use a decision."""
        return timedelta(seconds=self.decision_ttl_seconds)

    @property
    def decision_retention(self) -> timedelta:
        """How long decisions are kept."""
        return timedelta(days=self.decision_retention_days)
