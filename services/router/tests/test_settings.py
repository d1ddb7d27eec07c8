from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from smartpay_chassis.settings import SettingsError
from smartpay_router.settings import RouterSettings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SMARTPAY_LISTEN_SOCKET", "SMARTPAY_EGRESS_SOCKET", "SMARTPAY_MERCHANTS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("ROUTER_STORE_PATH", str(tmp_path / "router.db"))


def test_only_the_store_must_be_named_by_the_router_itself() -> None:
    settings = RouterSettings.from_environment()
    assert isinstance(settings, RouterSettings)
    assert (settings.policy, settings.epsilon) == ("river", 0.01)
    assert settings.decision_ttl == timedelta(minutes=15)
    assert settings.decision_retention == timedelta(days=30)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROUTER_EPSILON", "0.6"),
        ("ROUTER_POLICY", "oracle"),
        ("ROUTER_DECISION_TTL_SECONDS", "0"),
        ("ROUTER_STORE_PATH", ""),
    ],
)
def test_a_setting_out_of_its_range_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        RouterSettings.from_environment()
