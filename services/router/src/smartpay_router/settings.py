"""What the router must know beyond what every service must know."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from smartpay_chassis.settings import ServiceSettings
from smartpay_router.domain.replicas import BASE

Seconds = Annotated[float, Field(gt=0)]


class RouterSettings(ServiceSettings):
    """The router's settings; each limit says why it has its size."""

    store_path: Path = Field(
        validation_alias="ROUTER_STORE_PATH",
        description="SQLite file with decisions, outcomes and policies; its folder must exist.",
    )
    replica_name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = Field(
        default="one",
        validation_alias="ROUTER_REPLICA_NAME",
        description="Names this process among those that share the store; the pod's name.",
    )
    policy: Literal["linucb", "river"] = Field(
        default="linucb",
        validation_alias="ROUTER_POLICY",
        description="The learner: linucb is ours, river is River's LinUCBDisjoint (one replica).",
    )
    epsilon: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.005,
        validation_alias="ROUTER_EPSILON",
        description="Share of decisions whose first place is drawn at random: what makes the log"
        " fit for off-policy evaluation. Twice as much costs some 3 % more regret, and narrows"
        " evaluations by a factor of 0.7.",
    )
    exploration_rate: Annotated[float, Field(ge=0, le=0.1)] = Field(
        default=0.001,
        validation_alias="ROUTER_EXPLORATION_RATE",
        description="Share of what the static order is expected to bring that may be lent to"
        " accounts not yet shown to be as good; .1 % kept the shortfall below .5 % in the bench's"
        " worlds.",
    )
    memory_seconds: Annotated[float, Field(ge=3_600)] = Field(
        default=151_200.0,
        validation_alias="ROUTER_MEMORY_SECONDS",
        description="After how long an outcome weighs 1/e: some forty hours, chosen in the bench's"
        " worlds, where processors wander within days. All replicas need the same.",
    )
    breaker_trip: Annotated[float, Field(ge=6, le=30)] = Field(
        default=12.0,
        validation_alias="ROUTER_BREAKER_TRIP",
        description="Evidence that opens a breaker, in nats: some 8 payments of a hard outage, and"
        " once in a million healthy ones.",
    )
    decision_ttl_seconds: Annotated[int, Field(ge=1, le=86_400)] = Field(
        default=900,
        validation_alias="ROUTER_DECISION_TTL_SECONDS",
        description="How long a payment may begin to use a decision; a checkout's patience.",
    )
    decision_retention_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=30,
        validation_alias="ROUTER_DECISION_RETENTION_DAYS",
        description="How long decisions can be read, reported on and evaluated; then disk space"
        " wins.",
    )
    outcome_patience_seconds: Annotated[int, Field(ge=60, le=604_800)] = Field(
        default=86_400,
        validation_alias="ROUTER_OUTCOME_PATIENCE_SECONDS",
        description="How long an outcome is waited for; what is unknown after a day is for a"
        " person to find out.",
    )
    policy_refresh_seconds: Seconds = Field(
        default=1.0,
        validation_alias="ROUTER_POLICY_REFRESH_SECONDS",
        description="How soon a policy changed at another replica holds here, the kill switch"
        " included; one small read.",
    )
    exchange_seconds: Seconds = Field(
        default=2.0,
        validation_alias="ROUTER_EXCHANGE_SECONDS",
        description="Between exchanges of what was learned, and how much of the log a start reads"
        " again; replicas that know little do not wait for it.",
    )
    pulse_seconds: Seconds = Field(
        default=0.25,
        validation_alias="ROUTER_PULSE_SECONDS",
        description="Between exchanges of the breakers' evidence; five payments at 20 a second.",
    )
    endpoint_name: str = Field(
        default="",
        validation_alias="ROUTING_ENDPOINT_NAME",
        description="SageMaker endpoint that estimates in the learner's place, with fallback to"
        " it; empty: the learner here answers.",
    )

    @field_validator("replica_name")
    @classmethod
    def _is_no_living_name(cls, name: str) -> str:
        if name == BASE:
            raise ValueError(f"{name!r} is the name of what replicas learned that are gone")
        return name

    @property
    def decision_ttl(self) -> timedelta:
        """How long a payment may begin to use a decision."""
        return timedelta(seconds=self.decision_ttl_seconds)

    @property
    def decision_retention(self) -> timedelta:
        """How long decisions are kept."""
        return timedelta(days=self.decision_retention_days)

    @property
    def outcome_patience(self) -> timedelta:
        """How long an outcome is waited for."""
        return timedelta(seconds=self.outcome_patience_seconds)
