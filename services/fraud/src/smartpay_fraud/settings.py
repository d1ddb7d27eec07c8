"""What the fraud service reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

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
        description="Folder of the model bundle, a path or file://; empty: the packaged one.",
    )
    batch_rows_max: Annotated[int, Field(ge=1)] = Field(
        default=64,
        validation_alias="FRAUD_BATCH_ROWS_MAX",
        description="Rows per run of the model; past 64 a row costs the same, and others wait.",
    )
    queue_rows_max: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        validation_alias="FRAUD_QUEUE_ROWS_MAX",
        description="Rows waiting for the model, eight full batches; more are refused at once.",
    )
    replay_days: Annotated[int, Field(ge=0)] = Field(
        default=30,
        validation_alias="FRAUD_REPLAY_DAYS",
        description="How far back memory is rebuilt at start: the longest feature window.",
    )
    replay_rows_max: Annotated[int, Field(ge=0)] = Field(
        default=100_000,
        validation_alias="FRAUD_REPLAY_ROWS_MAX",
        description="Scores replayed at start at most: about 3 seconds of start-up.",
    )
