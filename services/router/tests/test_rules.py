from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from smartpay_router.domain.charge import Charge
from smartpay_router.domain.rules import Condition

FRIDAY_NOON = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)
CHARGE = Charge(2500, "USD", {}, risk=0.2, country="DE")


def holds(condition: Condition, charge: Charge = CHARGE, at: datetime = FRIDAY_NOON) -> bool:
    return condition.holds(charge, {"stripe"}, at)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition(), True),
        (Condition(minor_units_min=2500, currencies=("USD",)), True),
        (Condition(minor_units_min=2501, currencies=("USD",)), False),
        (Condition(minor_units_max=2500, currencies=("USD",)), True),
        (Condition(minor_units_max=2499, currencies=("USD",)), False),
        (Condition(currencies=("EUR", "USD")), True),
        (Condition(currencies=("EUR",)), False),
        (Condition(countries=("DE",)), True),
        (Condition(countries=("US",)), False),
        (Condition(risk_min=0.2, risk_max=0.2), True),
        (Condition(risk_min=0.21), False),
        (Condition(risk_max=0.19), False),
        (Condition(off_session=False), True),
        (Condition(off_session=True), False),
        (Condition(processors=("amazon_pay", "stripe")), True),
        (Condition(processors=("solana",)), False),
        (Condition(weekdays=(5,)), True),
        (Condition(weekdays=(6, 7)), False),
        (Condition(hour_from=12, hour_before=13), True),
        (Condition(hour_from=13, hour_before=24), False),
        (Condition(hour_from=22, hour_before=13), True),
        (Condition(hour_from=22, hour_before=12), False),
        (Condition(countries=("DE",), weekdays=(6,)), False),
    ],
)
def test_a_condition_holds_when_all_that_it_asks_does(condition: Condition, expected: bool) -> None:
    assert holds(condition) is expected


def test_an_untold_country_is_in_no_country() -> None:
    assert not holds(Condition(countries=("DE",)), Charge(2500, "USD", {}))


def test_days_and_hours_count_in_utc() -> None:
    elsewhere = FRIDAY_NOON.astimezone(timezone(timedelta(hours=13)))  # Saturday there
    assert holds(Condition(weekdays=(5,), hour_from=12, hour_before=13), at=elsewhere)
