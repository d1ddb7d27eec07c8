"""The merchant's rules: small typed rows that ask about a payment and act on accounts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from smartpay_router.domain.charge import Charge


class Action(StrEnum):
    """What becomes of a rule's accounts."""

    EXCLUDE = "EXCLUDE"
    REQUIRE = "REQUIRE"
    PREFER = "PREFER"


@dataclass(frozen=True, slots=True)
class Condition:
    """What is asked about a payment. All that is stated must hold; None and () ask nothing.

    Attributes:
        minor_units_min: at least so many minor units.
        minor_units_max: at most so many.
        currencies: one of these.
        countries: a payer in one of these; a payer of unknown country is in none.
        risk_min: at least this probability of fraud.
        risk_max: at most this one.
        off_session: whether the payer is absent.
        processors: a token at an account of one of these.
        weekdays: one of these days in UTC; 1 is Monday.
        hour_from: from this hour of the day on, in UTC.
        hour_before: before this hour; where it is not after hour_from, over midnight.
    """

    minor_units_min: int | None = None
    minor_units_max: int | None = None
    currencies: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    risk_min: float | None = None
    risk_max: float | None = None
    off_session: bool | None = None
    processors: tuple[str, ...] = ()
    weekdays: tuple[int, ...] = ()
    hour_from: int | None = None
    hour_before: int | None = None

    def holds(self, charge: Charge, processors: Collection[str], at: datetime) -> bool:
        """Asks about a payment.

        Args:
            charge: what is to be charged.
            processors: of the accounts at which the instrument has a token.
            at: when, with a time zone.
        """
        return (
            _within(charge.amount_minor, self.minor_units_min, self.minor_units_max)
            and (not self.currencies or charge.currency in self.currencies)
            and (not self.countries or charge.country in self.countries)
            and _within(charge.risk, self.risk_min, self.risk_max)
            and self.off_session in (None, charge.off_session)
            and (not self.processors or any(name in processors for name in self.processors))
            and self._is_time(at.astimezone(UTC))
        )

    def _is_time(self, at: datetime) -> bool:
        if self.weekdays and at.isoweekday() not in self.weekdays:
            return False
        if self.hour_from is None or self.hour_before is None:
            return True
        if self.hour_from < self.hour_before:
            return self.hour_from <= at.hour < self.hour_before
        return at.hour >= self.hour_from or at.hour < self.hour_before


ALWAYS = Condition()


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to some accounts when a condition holds.

    Attributes:
        rule_id: the merchant's name for it.
        action: what becomes of the accounts.
        accounts: their ids; their order is PREFER's.
        condition: when.
        disabled: True while it is not asked.
    """

    rule_id: str
    action: Action
    accounts: tuple[str, ...]
    condition: Condition = ALWAYS
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class AmountRange:
    """Smallest and largest amount of one currency, in minor units; 0 as largest is no limit."""

    currency: str
    minor_units_min: int = 0
    minor_units_max: int = 0


@dataclass(frozen=True, slots=True)
class AccountLimit:
    """What one account may be used for.

    Attributes:
        processor_account_id: the account.
        amounts: per currency; others are not limited.
        countries: only payers in these; all when empty, and a payer of unknown country always.
    """

    processor_account_id: str
    amounts: tuple[AmountRange, ...] = ()
    countries: tuple[str, ...] = ()

    def takes_amount(self, charge: Charge) -> bool:
        """Tells whether the amount is within the account's limits."""
        return all(
            _within(charge.amount_minor, each.minor_units_min, each.minor_units_max or None)
            for each in self.amounts
            if each.currency == charge.currency
        )

    def takes_country(self, charge: Charge) -> bool:
        """Tells whether the payer's country is served."""
        return not self.countries or not charge.country or charge.country in self.countries


def _within(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
