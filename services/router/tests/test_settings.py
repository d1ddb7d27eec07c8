from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from smartpay_chassis.settings import SettingsError
from smartpay_router.domain.breakers import BreakerTuning
from smartpay_router.domain.exploration import BudgetTuning
from smartpay_router.domain.learning import PATIENCE_SECONDS
from smartpay_router.domain.linucb import Tuning
from smartpay_router.domain.steering import SteeringTuning
from smartpay_router.settings import RouterSettings
from smartpay_router.upkeep import Rhythm


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SMARTPAY_LISTEN_SOCKET", "SMARTPAY_EGRESS_SOCKET", "SMARTPAY_MERCHANTS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("ROUTER_STORE_PATH", str(tmp_path / "router.db"))


def test_only_the_store_must_be_named_by_the_router_itself() -> None:
    settings = RouterSettings.from_environment()
    assert isinstance(settings, RouterSettings)
    assert (settings.policy, settings.epsilon) == ("linucb", 0.005)
    assert settings.decision_ttl == timedelta(minutes=15)
    assert settings.decision_retention == timedelta(days=30)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROUTER_EPSILON", "0.6"),
        ("ROUTER_POLICY", "oracle"),
        ("ROUTER_DECISION_TTL_SECONDS", "0"),
        ("ROUTER_EXPLORATION_RATE", "0.5"),
        ("ROUTER_MEMORY_SECONDS", "60"),
        ("ROUTER_BREAKER_TRIP", "1"),
        ("ROUTER_OUTCOME_PATIENCE_SECONDS", "1"),
        ("ROUTER_REPLICA_NAME", "Pod 1"),
        ("ROUTER_REPLICA_NAME", "base"),
        ("ROUTER_POLICY_REFRESH_SECONDS", "0"),
        ("ROUTER_STORE_PATH", ""),
    ],
)
def test_a_setting_out_of_its_range_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        RouterSettings.from_environment()


def test_what_is_not_set_is_as_the_domain_has_it() -> None:
    settings = RouterSettings.from_environment()
    assert isinstance(settings, RouterSettings)
    assert settings.breaker_trip == BreakerTuning().trip
    assert settings.epsilon == SteeringTuning().epsilon
    assert settings.exploration_rate == BudgetTuning().rate
    assert settings.memory_seconds == Tuning().memory_seconds
    assert settings.outcome_patience_seconds == PATIENCE_SECONDS
    assert settings.exchange_seconds == Rhythm().exchange_seconds
    assert settings.pulse_seconds == Rhythm().pulse_seconds
