"""What a service takes from its environment, and what it says when that is not enough."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import boto3
import pytest
from botocore import stub
from pydantic import Field, SecretStr, model_validator

from smartpay_chassis.settings import ServiceSettings, SettingsError

# Neither library is typed.
AWS: Any = boto3
Stubber: Any = stub.Stubber
SECRET = "sk_live_of_nobody"
ARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:till"


class TillSettings(ServiceSettings):
    key: SecretStr = Field(validation_alias="TILL_KEY")
    drawers: Annotated[int, Field(ge=1)] = Field(default=2, validation_alias="TILL_DRAWERS")
    coins_max: int = Field(default=10, validation_alias="TILL_COINS_MAX")
    rates: dict[str, str] = Field(default={}, validation_alias="TILL_RATES")

    @model_validator(mode="after")
    def _drawers_hold_the_coins(self) -> Self:
        if self.coins_max < self.drawers:
            raise ValueError("TILL_COINS_MAX must be at least TILL_DRAWERS")
        return self


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LISTEN_SOCKET", "EGRESS_SOCKET", "MERCHANTS_FILE"):
        monkeypatch.setenv(f"SMARTPAY_{name}", f"run/{name.lower()}")
    for name in ("SMARTPAY_ENVIRONMENT", "SMARTPAY_CELL", "LOG_LEVEL", "DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TILL_KEY", SECRET)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTPAY_ENVIRONMENT", "staging")
    monkeypatch.setenv("TILL_DRAWERS", "5")
    monkeypatch.setenv("TILL_RATES", '{"EUR": "27/25"}')
    settings = TillSettings.from_environment()
    assert settings.listen_socket == Path("run/listen_socket")
    assert settings.environment == "staging"
    assert settings.drawers == 5
    assert settings.rates == {"EUR": "27/25"}
    assert settings.key.get_secret_value() == SECRET
    assert settings.cell == "d1", "the default"


def test_an_empty_variable_is_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILL_DRAWERS", "")
    assert TillSettings.from_environment().drawers == 2


def test_a_secret_is_not_shown() -> None:
    assert SECRET not in repr(TillSettings.from_environment())


def test_a_secret_may_be_a_mounted_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounted = tmp_path / "key"
    mounted.write_text("from a file\n")
    monkeypatch.setenv("TILL_KEY_FILE", str(mounted))
    assert TillSettings.from_environment().key.get_secret_value() == SECRET, "the variable wins"
    monkeypatch.delenv("TILL_KEY")
    assert TillSettings.from_environment().key.get_secret_value() == "from a file"


def test_only_secrets_are_mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounted = tmp_path / "drawers"
    mounted.write_text("7")
    monkeypatch.setenv("TILL_DRAWERS_FILE", str(mounted))
    assert TillSettings.from_environment().drawers == 2


def test_a_mounted_file_that_is_not_there_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TILL_KEY")
    monkeypatch.setenv("TILL_KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match="TILL_KEY_FILE") as caught:
        TillSettings.from_environment()
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture
def secrets_manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Secrets Manager's own client, which checks what is asked and answers what it is told."""
    client = AWS.client(
        "secretsmanager",
        region_name="eu-west-1",
        aws_access_key_id="nobody",
        aws_secret_access_key="nobody",
    )

    def connect(name: str, region_name: str | None = None) -> Any:
        assert name == "secretsmanager"
        client.asked_region = region_name
        return client

    monkeypatch.setattr(AWS, "client", connect)
    monkeypatch.delenv("TILL_KEY")
    monkeypatch.setenv("TILL_KEY_SECRET_ARN", ARN)
    stubber = Stubber(client)
    stubber.activate()
    return stubber


def test_a_secret_may_live_in_secrets_manager(secrets_manager: Any) -> None:
    secrets_manager.add_response(
        "get_secret_value", {"SecretString": "from far away"}, {"SecretId": ARN}
    )
    assert TillSettings.from_environment().key.get_secret_value() == "from far away"
    secrets_manager.assert_no_pending_responses()


@pytest.mark.parametrize("region", ["ap-south-1", None])
def test_secrets_manager_is_asked_in_the_services_region(
    secrets_manager: Any, monkeypatch: pytest.MonkeyPatch, region: str | None
) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    if region:
        monkeypatch.setenv("AWS_REGION", region)
    secrets_manager.add_response("get_secret_value", {"SecretString": "x"}, {"SecretId": ARN})
    assert TillSettings.from_environment().aws_region == (region or "")
    assert secrets_manager.client.asked_region == region


@pytest.mark.parametrize("code", ["ResourceNotFoundException", "AccessDeniedException"])
def test_a_secret_that_secrets_manager_withholds_is_named_by_its_variable(
    secrets_manager: Any, code: str
) -> None:
    secrets_manager.add_client_error("get_secret_value", code)
    with pytest.raises(SettingsError, match="TILL_KEY_SECRET_ARN") as caught:
        TillSettings.from_environment()
    assert ARN not in str(caught.value)


def test_a_secret_of_bytes_is_no_text(secrets_manager: Any) -> None:
    secrets_manager.add_response("get_secret_value", {"SecretBinary": b"\x00"})
    with pytest.raises(SettingsError, match="TILL_KEY_SECRET_ARN"):
        TillSettings.from_environment()


def test_every_missing_variable_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMARTPAY_LISTEN_SOCKET")
    monkeypatch.delenv("TILL_KEY")
    with pytest.raises(SettingsError) as caught:
        TillSettings.from_environment()
    assert "SMARTPAY_LISTEN_SOCKET" in str(caught.value)
    assert "TILL_KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMARTPAY_ENVIRONMENT", "wonderland"),
        ("SMARTPAY_CELL", "wonderland"),
        ("TILL_DRAWERS", "wonderland"),
        ("TILL_DRAWERS", "-3141"),
        ("TILL_RATES", "wonderland{"),
        ("TILL_RATES", '["wonderland"]'),
        ("TILL_RATES", '{"EUR": ["wonderland"]}'),
    ],
)
def test_a_wrong_value_is_never_repeated_but_its_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        TillSettings.from_environment()
    said: list[Any] = [caught.value, caught.value.__cause__]
    assert not any(value in str(text) or "wonderland" in str(text) for text in said)


def test_a_rule_about_two_settings_says_which_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILL_COINS_MAX", "1")
    with pytest.raises(SettingsError, match="TILL_COINS_MAX must be at least TILL_DRAWERS"):
        TillSettings.from_environment()
