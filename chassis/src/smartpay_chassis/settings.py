"""Settings: one typed class per service, read from environment variables and mounted secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class SettingsError(Exception):
    """The environment does not say what a service must know; the text names each variable."""


class MountedSecrets(PydanticBaseSettingsSource):
    """Reads a secret X from the file named by X_FILE, or from Secrets Manager by X_SECRET_ARN."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Answers the mounted value of one field, or None."""
        name = str(field.validation_alias or field_name)
        annotation = str(field.annotation)
        if SecretStr.__name__ not in annotation:
            return None, name, False
        if path := os.environ.get(f"{name}_FILE"):
            return Path(path).read_text().strip(), name, False
        if arn := os.environ.get(f"{name}_SECRET_ARN"):
            import boto3  # only where secrets live in AWS

            client: Any = boto3.client("secretsmanager")  # type: ignore[no-untyped-call]
            return client.get_secret_value(SecretId=arn)["SecretString"], name, False
        return None, name, False

    def __call__(self) -> dict[str, Any]:
        """Answers all mounted secrets by variable name."""
        found: dict[str, Any] = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if value is not None:
                found[name] = value
        return found


Environment = Literal["dev", "staging", "prod"]


class ServiceSettings(BaseSettings):
    """What every service must know. Each limit says why it has its size."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    listen_socket: Path = Field(
        validation_alias="SMARTPAY_LISTEN_SOCKET",
        description="Unix socket the service listens on; only its sidecar connects.",
    )
    egress_socket: Path = Field(
        validation_alias="SMARTPAY_EGRESS_SOCKET",
        description="Unix socket of the sidecar's egress; all calls to other services go there.",
    )
    merchants_file: Path = Field(
        validation_alias="SMARTPAY_MERCHANTS_FILE",
        description="JSON file with merchants, their clients and processor accounts.",
    )
    environment: Environment = Field(
        default="dev",
        validation_alias="SMARTPAY_ENVIRONMENT",
        description="dev, staging or prod; part of every SPIFFE id.",
    )
    cell: Annotated[str, Field(pattern="^[a-z][0-9]$")] = Field(
        default="d1",
        validation_alias="SMARTPAY_CELL",
        description="Home region of the merchants served here; two characters of every id.",
    )
    log_level: str = Field(
        default="INFO", validation_alias="LOG_LEVEL", description="Least severe level logged."
    )
    debug: str = Field(
        default="",
        validation_alias="DEBUG",
        description="Comma list of smartpay:<service> or smartpay:*; these log at DEBUG.",
    )
    message_bytes_max: int = Field(
        default=262_144,
        validation_alias="SMARTPAY_MESSAGE_BYTES_MAX",
        description="Largest gRPC request taken; four times the edge's body limit, for batches.",
    )
    concurrent_calls_max: int = Field(
        default=1024,
        validation_alias="SMARTPAY_CONCURRENT_CALLS_MAX",
        description="Calls in work at once; more are refused at once instead of queueing.",
    )
    drain_seconds: float = Field(
        default=10.0,
        validation_alias="SMARTPAY_DRAIN_SECONDS",
        description="How long running calls may finish after SIGTERM.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit values win, then variables, then mounted secrets."""
        return init_settings, env_settings, MountedSecrets(settings_cls)

    @classmethod
    def from_environment(cls) -> Self:
        """Reads the environment; raises SettingsError naming each bad variable, never a value."""
        try:
            return cls()  # type: ignore[call-arg]  # filled from the environment
        except ValidationError as error:
            lines = [f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_input=False)]
            raise SettingsError("settings are incomplete:\n  " + "\n  ".join(lines)) from None
