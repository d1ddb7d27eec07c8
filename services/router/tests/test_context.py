from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import FEATURES, SCHEMA, Context, describe

NOON = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def features(charge: Charge, at: datetime = NOON) -> dict[str, float]:
    return dict(zip(FEATURES, describe(charge, at).values, strict=True))


def hot(described: dict[str, float], prefix: str) -> list[str]:
    return [name for name, value in described.items() if name.startswith(prefix) and value]


def test_a_charge_is_described_by_amount_risk_place_currency_and_hour() -> None:
    described = features(Charge(1_000_000, "EUR", {}, risk=0.25, country="DE", off_session=True))
    assert described["intercept"] == 1
    assert described["log_amount"] == 1
    assert described["risk"] == 0.25
    assert described["hour_cos"] == pytest.approx(-1)
    assert described["off_session"] == 1
    assert described["attempt"] == 0
    assert hot(described, "currency_") == ["currency_EUR"]
    assert hot(described, "region_") == ["region_europe"]


def test_a_currency_or_country_without_its_own_feature_counts_as_other() -> None:
    described = features(Charge(100, "THB", {}, country="AQ"))
    assert hot(described, "currency_") == ["currency_other"]
    assert hot(described, "region_") == ["region_elsewhere"]
    assert hot(features(Charge(100, "THB", {})), "region_") == ["region_unknown"]


def test_the_hour_counts_in_utc_wherever_the_clock_stands() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=9)))
    charge = Charge(100, "USD", {})
    assert describe(charge, NOON) == describe(charge, elsewhere)


def test_a_later_try_is_another_context_and_a_foreign_one_stays_as_it_is() -> None:
    first = describe(Charge(100, "USD", {}), NOON)
    later = [first.of_attempt(index).values[FEATURES.index("attempt")] for index in range(5)]
    assert later == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    foreign = Context("charge-1", (1.0, 2.0))
    assert foreign.of_attempt(2) is foreign


@given(
    st.integers(1, 99_999_999),
    st.sampled_from(["USD", "SOL", "VND"]),
    st.floats(0, 1),
    st.sampled_from(["", "US", "ZZ"]),
)
def test_every_charge_the_contract_allows_can_be_described(
    amount: int, currency: str, risk: float, country: str
) -> None:
    assert describe(Charge(amount, currency, {}, risk=risk, country=country), NOON).is_current()


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


def test_a_payer_is_known_by_the_fingerprint_whatever_the_tokens() -> None:
    one, other = (Charge(1, "USD", {"a": t}, fingerprint="print") for t in ("x", "y"))
    assert one.payer() == other.payer()
    assert "print" not in one.payer()
    assert Charge(1, "USD", {"a": "x"}).payer() != Charge(1, "USD", {"a": "y"}).payer()
