"""What the learner sees of a charge: a short vector of numbers under a named, versioned schema."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

from smartpay_router.domain.charge import Charge

SCHEMA = "charge-1"
"""Names FEATURES' order and meaning; any change of either takes the next number."""

_CURRENCIES = ("AUD", "BRL", "CAD", "CHF", "EUR", "GBP", "INR", "JPY", "SOL", "USD", "USDC")

FEATURES = (
    "intercept",
    "log_amount",
    "risk",
    "hour_sin",
    "hour_cos",
    *(f"currency_{code}" for code in _CURRENCIES),
    "currency_other",
)

# Logged contexts come back in events, possibly from another release: what is longer or larger
# than any schema of ours would ever be is damage, and one such number spoils a learner for ever.
VALUES_MAX = 64
MAGNITUDE_MAX = 100.0


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
        if self.is_current() and len(self.values) != len(FEATURES):
            raise ValueError(f"a context of schema {SCHEMA} has {len(FEATURES)} values")

    def is_current(self) -> bool:
        """Tells whether this release's learner understands the vector."""
        return self.schema == SCHEMA


def describe(charge: Charge, risk: float, at: datetime) -> Context:
    """Describes a charge for the learner.

    The amount is taken as log10 of minor units around 100.00, halved: -1 is 1.00 and 1 is
    10,000.00. A currency with other decimals only shifts it, and its own feature absorbs that.

    Args:
        charge: what is to be charged.
        risk: probability of fraud, 0 to 1; 0 when unknown.
        at: when, with a time zone; the hour counts in UTC.
    """
    clock = math.tau * (at.timestamp() % 86_400) / 86_400
    known = charge.currency in _CURRENCIES
    return Context(
        SCHEMA,
        (
            1.0,
            (math.log10(charge.amount_minor) - 4) / 2,
            risk,
            math.sin(clock),
            math.cos(clock),
            *(1.0 if charge.currency == code else 0.0 for code in _CURRENCIES),
            0.0 if known else 1.0,
        ),
    )
