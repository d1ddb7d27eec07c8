"""What the learner sees of a charge: a short vector of numbers under a named, versioned schema."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

from smartpay_router.domain.charge import Charge
from smartpay_router.domain.schema import (
    FEATURE_RIDGE,
    INTERCEPT_RIDGE,
    MAGNITUDE_MAX,
    Schema,
)

_CURRENCIES = ("AUD", "BRL", "CAD", "CHF", "EUR", "GBP", "INR", "JPY", "SOL", "USD", "USDC")

# Where issuers behave alike, roughly: the United Nations' regions, with those parted that pay
# differently. A country in none of them counts as elsewhere.
_REGIONS = {
    "north_america": "CA US",
    "latin_america": "AR BO BR CL CO CR CU DO EC GT HN MX NI PA PE PR PY SV UY VE",
    "europe": "AD AL AT BA BE BG BY CH CY CZ DE DK EE ES FI FR GB GI GR HR HU IE IS IT LI LT LU LV"
    " MC MD ME MK MT NL NO PL PT RO RS SE SI SK SM UA VA XK",
    "asia_pacific": "AU BD BN BT CN FJ HK ID IN JP KH KR LA LK MM MN MO MV MY NP NZ PG PH PK SG TH"
    " TL TW VN",
    "africa_middle_east": "AE AO BF BH BI BJ BW CD CG CI CM DJ DZ EG ER ET GA GH GM GN GQ IL IQ IR"
    " JO KE KW LB LR LS LY MA MG ML MR MU MW MZ NA NE NG OM PS QA RW SA SD SL SN SO SS SY SZ TD TG"
    " TN TR TZ UG YE ZA ZM ZW",
}
_REGION_OF = {code: name for name, codes in _REGIONS.items() for code in codes.split()}
_PLACES = (*_REGIONS, "elsewhere", "unknown")

FEATURES = (
    "intercept",
    "log_amount",
    "risk",
    "hour_sin",
    "hour_cos",
    "off_session",
    "attempt",
    *(f"region_{place}" for place in _PLACES),
    *(f"currency_{code}" for code in _CURRENCIES),
    "currency_other",
)

CHARGE_SCHEMA = Schema(
    "charge-2",
    FEATURES,
    (INTERCEPT_RIDGE,) + (FEATURE_RIDGE,) * (len(FEATURES) - 1),
)
"""Names FEATURES' order and meaning; any change of either takes the next number."""

SCHEMA = CHARGE_SCHEMA.name
_ATTEMPT = FEATURES.index("attempt")
_ATTEMPT_LAST = 3
"""Later tries are alike: few get so far, and what made the third fail fails the fourth."""

# Logged contexts come back in events, possibly from another release: what is longer or larger
# than any schema of ours would ever be is damage, and one such number spoils a learner for ever.
VALUES_MAX = 64


@dataclass(frozen=True)
class Context:
    """One feature vector.

    Attributes:
        schema: names the order and meaning of the values.
        values: unitless, finite numbers.

    Raises:
        ValueError: when a value is not finite or too large, or the vector does not fit SCHEMA.
    """

    schema: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) > VALUES_MAX:
            raise ValueError(f"a context has at most {VALUES_MAX} values")
        if not all(math.isfinite(v) and abs(v) <= MAGNITUDE_MAX for v in self.values):
            raise ValueError(f"context values must be finite and within {MAGNITUDE_MAX}")
        if self.is_current():
            CHARGE_SCHEMA.checked(self.values)

    def is_current(self) -> bool:
        """Tells whether this release's learner understands the vector."""
        return self.schema == SCHEMA

    def of_attempt(self, index: int) -> Context:
        """Answers the vector of a later try: what fails once is likelier to fail again.

        Args:
            index: which try of the decision, from 0.
        """
        if not self.is_current():
            return self
        values = list(self.values)
        values[_ATTEMPT] = _attempt(index)
        return replace(self, values=tuple(values))


def describe(charge: Charge, at: datetime) -> Context:
    """Describes a charge's first try for the learner.

    The amount is taken as log10 of minor units around 100.00, halved: -1 is 1.00 and 1 is
    10,000.00. A currency with other decimals only shifts it, and its own feature absorbs that.

    Args:
        charge: what is to be charged.
        at: when, with a time zone; the hour counts in UTC.
    """
    clock = math.tau * (at.timestamp() % 86_400) / 86_400
    known = charge.currency in _CURRENCIES
    place = _REGION_OF.get(charge.country, "elsewhere") if charge.country else "unknown"
    return Context(
        SCHEMA,
        (
            1.0,
            (math.log10(charge.amount_minor) - 4) / 2,
            charge.risk,
            math.sin(clock),
            math.cos(clock),
            float(charge.off_session),
            _attempt(0),
            *(1.0 if place == each else 0.0 for each in _PLACES),
            *(1.0 if charge.currency == code else 0.0 for code in _CURRENCIES),
            0.0 if known else 1.0,
        ),
    )


def _attempt(index: int) -> float:
    return min(index, _ATTEMPT_LAST) / _ATTEMPT_LAST
