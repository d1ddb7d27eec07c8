from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from smartpay_chassis.merchants import Merchants
from smartpay_chassis.settings import ServiceSettings, SettingsError
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT
from smartpay_payments.rails import stripe_keys
from smartpay_payments.settings import PaymentsSettings

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "SMARTPAY_LISTEN_SOCKET",
        "SMARTPAY_EGRESS_SOCKET",
        "SMARTPAY_MERCHANTS_FILE",
        "PAYMENTS_STORE_PATH",
    ):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_the_readme_s_table_is_the_settings() -> None:
    documented = dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+?)`? \|", README.read_text(), re.M))
    own = PaymentsSettings.model_fields.keys() - ServiceSettings.model_fields.keys()
    actual = {}
    for name in own:
        field = PaymentsSettings.model_fields[name]
        default = field.default
        if default == "" or isinstance(default, SecretStr):
            default = "empty"
        actual[str(field.validation_alias)] = "required" if field.is_required() else str(default)
        assert field.description, name
    assert documented == actual


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAYMENTS_STORE_PATH", ""),
        ("STRIPE_TIMEOUT_SECONDS", "0"),
        ("PAYMENTS_RECOVERY_CONCURRENCY", "0"),
        ("PAYMENTS_WATCHERS_MAX", "many"),
    ],
)
def test_a_setting_out_of_its_range_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        PaymentsSettings.from_environment()


def test_recovery_may_not_look_while_a_call_can_still_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STRIPE_TIMEOUT_SECONDS", "30")
    with pytest.raises(SettingsError, match="PAYMENTS_FIRST_LOOK_SECONDS"):
        PaymentsSettings.from_environment()


def test_each_account_has_its_own_secret_or_the_default_one(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("sk_test_own\n")
    first, second = DEMO_MERCHANT.processor_accounts
    merchants = Merchants(
        merchants=(
            DEMO_MERCHANT.model_copy(
                update={
                    "processor_accounts": (
                        first.model_copy(update={"secret_file": secret}),
                        second,
                    )
                }
            ),
        )
    )
    settings = PaymentsSettings(stripe_secret_key=SecretStr("sk_test_default"))  # type: ignore[call-arg]
    assert stripe_keys(merchants, settings) == dict(
        zip(DEMO_ACCOUNTS, ("sk_test_own", "sk_test_default"), strict=True)
    )
    with pytest.raises(SettingsError, match=DEMO_ACCOUNTS[1]):
        stripe_keys(merchants, PaymentsSettings())  # type: ignore[call-arg]
