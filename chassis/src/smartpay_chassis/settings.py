"""Settings: one typed class per service, read from environment variables and mounted secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableValue

AWS_REGION = "AWS_REGION"
"""The variable that names the region, for secrets that are read before settings are whole."""


class SettingsError(Exception):
    """The environment does not say what a service must know; the text names each variable."""


class MountedSecrets(PydanticBaseSettingsSource):
    """Reads a secret X from the file named by X_FILE, or from Secrets Manager by X_SECRET_ARN."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Answers the mounted value of one field, or None.

        Raises:
            SettingsError: a secret is mounted and can't be read.
        """
        name = str(field.validation_alias or field_name)
        annotation = str(field.annotation)
        if SecretStr.__name__ not in annotation:
            return None, name, False
        if path := os.environ.get(f"{name}_FILE"):
            return _text_of(name, Path(path)), name, False
        if arn := os.environ.get(f"{name}_SECRET_ARN"):
            return _text_at(name, arn), name, False
        return None, name, False

    def __call__(self) -> dict[str, Any]:
        """Answers all mounted secrets by variable name."""
        found: dict[str, Any] = {}
        for field_name, field in self.settings_cls.model_fields.items():
            value, name, _ = self.get_field_value(field, field_name)
            if value is not None:
                found[name] = value
        return found


def _text_of(name: str, file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{name}_FILE: the file it names can't be read as text ({type(error).__name__})"
        ) from None


def _text_at(name: str, arn: str) -> str:
    # Only where secrets live in AWS.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        # boto3 itself knows AWS_DEFAULT_REGION only.
        client: Any = boto3.client(  # type: ignore[no-untyped-call]
            "secretsmanager", region_name=os.environ.get(AWS_REGION) or None
        )
        return str(client.get_secret_value(SecretId=arn)["SecretString"])
    except (BotoCoreError, ClientError, KeyError) as error:
        raise SettingsError(
            f"{name}_SECRET_ARN: Secrets Manager gives no text for it ({type(error).__name__})"
        ) from None


Environment = Literal["dev", "staging", "prod"]


class EnvironmentSettings(BaseSettings):
    """Settings of any command of ours, a service or one that stands beside it."""

    model_config = SettingsConfigDict(
        extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    aws_region: str = Field(
        default="",
        validation_alias=AWS_REGION,
        description="Region of what lives in AWS; boto3 reads only AWS_DEFAULT_REGION by itself.",
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
            return cls()
        except ValidationError as error:
            # A rule about several settings has no place of its own; its text names them.
            lines = [
                ": ".join([*(str(name) for name in e["loc"][:1]), e["msg"]])
                for e in error.errors(include_input=False)
            ]
            raise SettingsError("settings are incomplete:\n  " + "\n  ".join(lines)) from None
        except UnreadableValue as error:
            fields = cls.model_fields.items()
            (name,) = [f.validation_alias for n, f in fields if f'field "{n}"' in str(error)]
            raise SettingsError(f"settings are incomplete:\n  {name}: must be JSON") from None


class ServiceSettings(EnvironmentSettings):
    """What every service must know. Each limit says why it has its size."""

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
    metadata_bytes_max: int = Field(
        default=65_536,
        validation_alias="SMARTPAY_METADATA_BYTES_MAX",
        description="Metadata of one call; twice what the edge takes, for what it adds.",
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
