from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import FEATURES, SCHEMA, Context, describe

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def features(charge: Charge, at: datetime = NOON, risk: float = 0.0) -> dict[str, float]:
    return dict(zip(FEATURES, describe(charge, risk, at).values, strict=True))


def test_a_charge_is_described_by_amount_risk_currency_and_hour() -> None:
    described = features(Charge(1_000_000, "EUR", {}), risk=0.25)
    assert described["intercept"] == 1
    assert described["log_amount"] == 1
    assert described["risk"] == 0.25
    assert described["hour_cos"] == pytest.approx(-1)
    assert [name for name in FEATURES if name.startswith("currency_") and described[name]] == [
        "currency_EUR"
    ]


def test_a_currency_without_its_own_feature_counts_as_other() -> None:
    described = features(Charge(100, "THB", {}))
    assert described["currency_other"] == 1
    assert sum(v for k, v in described.items() if k.startswith("currency_")) == 1


def test_the_hour_counts_in_utc_wherever_the_clock_stands() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=9)))
    charge = Charge(100, "USD", {})
    assert describe(charge, 0, NOON) == describe(charge, 0, elsewhere)


@given(st.integers(1, 99_999_999), st.sampled_from(["USD", "SOL", "VND"]), st.floats(0, 1))
def test_every_charge_the_contract_allows_can_be_described(
    amount: int, currency: str, risk: float
) -> None:
    assert describe(Charge(amount, currency, {}), risk, NOON).is_current()


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf, 101.0])
def test_a_number_that_would_spoil_a_learner_is_no_context(damage: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Context(SCHEMA, (damage, *(0.0 for _ in FEATURES[1:])))


def test_a_context_of_this_schema_has_exactly_its_features() -> None:
    with pytest.raises(ValueError, match="values"):
        Context(SCHEMA, (1.0,))


def test_a_context_of_another_release_is_kept_but_not_current() -> None:
    assert not Context("charge-0", (1.0, 2.0)).is_current()
    with pytest.raises(ValueError, match="at most"):
        Context("charge-0", (0.0,) * 65)


def test_two_instruments_share_a_hash_only_when_all_tokens_agree() -> None:
    one = Charge(1, "USD", {"a": "x", "b": "y"})
    assert one.instrument_hash() == Charge(9, "EUR", {"b": "y", "a": "x"}).instrument_hash()
    for other in ({"a": "x"}, {"a": "y", "b": "x"}, {"a": 'x"],["b","y'}):
        assert Charge(1, "USD", other).instrument_hash() != one.instrument_hash()
