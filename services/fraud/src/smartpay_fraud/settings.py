"""What the fraud service reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from smartpay_chassis.settings import ServiceSettings


class FraudSettings(ServiceSettings):
    """Settings of the fraud service; each limit says why it has its size."""

    store_path: Path = Field(
        validation_alias="FRAUD_STORE_PATH",
        description="SQLite file with every score, label and outcome; its folder must exist.",
    )
    model_uri: str = Field(
        default="",
        validation_alias="FRAUD_MODEL_URI",
        description="The model bundle: a folder, file:// or s3://bucket/key.tar.gz; empty: ours.",
    )
    shadow_model_uri: str = Field(
        default="",
        validation_alias="FRAUD_SHADOW_MODEL_URI",
        description="A challenger's bundle: scored beside the model, stored, never answered.",
    )
    model_poll_seconds: Annotated[float, Field(gt=0)] = Field(
        default=5.0,
        validation_alias="FRAUD_MODEL_POLL_SECONDS",
        description="How often a bundle's place is looked at: a few file stats or one S3 HEAD.",
    )
    endpoint_name: str = Field(
        default="",
        validation_alias="FRAUD_ENDPOINT_NAME",
        description="SageMaker endpoint that runs the same bundle; empty: the model runs here.",
    )
    batch_rows_max: Annotated[int, Field(ge=1)] = Field(
        default=128,
        validation_alias="FRAUD_BATCH_ROWS_MAX",
        description="Rows per run of the model: one full ScoreBatch; past it others wait too long.",
    )
    queue_rows_max: Annotated[int, Field(ge=128)] = Field(
        default=1024,
        validation_alias="FRAUD_QUEUE_ROWS_MAX",
        description="Rows waiting for the model, eight full batches; more are refused at once.",
    )
    drift_seconds: Annotated[float, Field(gt=0)] = Field(
        default=300.0,
        validation_alias="FRAUD_DRIFT_SECONDS",
        description="How often drift is compared and logged; it moves in hours, not in seconds.",
    )
    replay_days: Annotated[int, Field(ge=0)] = Field(
        default=30,
        validation_alias="FRAUD_REPLAY_DAYS",
        description="How far back memory is rebuilt at start: the longest feature window.",
    )
    replay_rows_max: Annotated[int, Field(ge=0)] = Field(
        default=100_000,
        validation_alias="FRAUD_REPLAY_ROWS_MAX",
        description="Scores replayed at start at most: about 15 seconds of start-up.",
    )
    memory_url: SecretStr = Field(
        default=SecretStr(""),
        validation_alias="FRAUD_MEMORY_URL",
        description="Redis or Valkey that replicas share (rediss://...); empty: one replica.",
    )
    memory_timeout_seconds: Annotated[float, Field(gt=0)] = Field(
        default=0.1,
        validation_alias="FRAUD_MEMORY_TIMEOUT_SECONDS",
        description="For each answer of the shared memory: a hundred times what one takes.",
    )
    memory_retry_seconds: Annotated[float, Field(gt=0)] = Field(
        default=0.5,
        validation_alias="FRAUD_MEMORY_RETRY_SECONDS",
        description="Pause of the reader after the shared memory did not answer.",
    )
    memory_snapshot_seconds: Annotated[float, Field(gt=0)] = Field(
        default=900.0,
        validation_alias="FRAUD_MEMORY_SNAPSHOT_SECONDS",
        description="How often one replica keeps a snapshot; what a newcomer reads beyond it.",
    )
