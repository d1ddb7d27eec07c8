"""The governed metrics: the only figures there are, each with one definition.

A question is answered from these or not at all; nobody, person or model, writes SQL. The layer
follows the shape of a semantic layer: metrics x dimensions x filters x grain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from smartpay_assistant.domain.amounts import in_words, mean_minor, percent

SUCCEEDED = frozenset({"succeeded"})
APPROVED = frozenset({"succeeded", "requires_capture"})
DECIDED = APPROVED | {"failed"}
NOT_TRIED = "not tried"


class Metric(StrEnum):
    """A figure that can be asked for."""

    VOLUME = "volume"
    COUNT = "count"
    APPROVAL_RATE = "approval_rate"
    AVERAGE = "average"
    REFUNDS_AMOUNT = "refunds_amount"
    REFUNDS_COUNT = "refunds_count"
    FRAUD_BLOCKS = "fraud_blocks"


class Dimension(StrEnum):
    """What a figure can be split by. The day is a grain, not a dimension."""

    CURRENCY = "currency"
    PROCESSOR = "processor"
    PROCESSOR_ACCOUNT = "processor_account"
    STATUS = "status"


class Grain(StrEnum):
    """Whether a period is answered in one figure or day by day (days are UTC)."""

    TOTAL = "total"
    DAY = "day"


class Unit(StrEnum):
    """How a metric's figure reads."""

    MONEY = "money"
    COUNT = "count"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Definition:
    """What one metric means: its unit, its short name in a sentence, and the whole truth."""

    unit: Unit
    label: str
    meaning: str


DEFINITIONS = MappingProxyType(
    {
        Metric.VOLUME: Definition(
            Unit.MONEY,
            "captured volume",
            "what was captured, before refunds and fees, by the day the payment was created",
        ),
        Metric.COUNT: Definition(
            Unit.COUNT,
            "payments",
            "payments of every status, unless a status is asked for, by the day of creation",
        ),
        Metric.APPROVAL_RATE: Definition(
            Unit.SHARE,
            "approval rate",
            "succeeded or authorized payments among those that succeeded, were authorized or "
            "failed; blocked, canceled and open payments are left out",
        ),
        Metric.AVERAGE: Definition(
            Unit.MONEY,
            "average captured payment",
            "captured volume divided by the payments with a capture, to the nearest minor unit",
        ),
        Metric.REFUNDS_AMOUNT: Definition(
            Unit.MONEY,
            "refunded",
            "what succeeded refunds gave back, by the day the refund was made",
        ),
        Metric.REFUNDS_COUNT: Definition(
            Unit.COUNT, "refunds", "succeeded refunds, by the day the refund was made"
        ),
        Metric.FRAUD_BLOCKS: Definition(
            Unit.COUNT, "payments blocked by fraud", "payments that fraud refused to let through"
        ),
    }
)

REFUND_METRICS = frozenset({Metric.REFUNDS_AMOUNT, Metric.REFUNDS_COUNT})
MONEY_METRICS = frozenset(m for m, meant in DEFINITIONS.items() if meant.unit is Unit.MONEY)
_CAPTURE_METRICS = frozenset({Metric.VOLUME, Metric.AVERAGE})


class Period(NamedTuple):
    """Whole UTC days from first to last, both included; words is how the user said it."""

    first: date
    last: date
    words: str


@dataclass(frozen=True, slots=True)
class Filters:
    """Which payments count; an empty set lets all through, no period means all time."""

    statuses: frozenset[str] = frozenset()
    currencies: frozenset[str] = frozenset()
    processors: frozenset[str] = frozenset()
    processor_accounts: frozenset[str] = frozenset()
    period: Period | None = None


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """One question to the layer. There is no field for a tenant: the caller's is compiled in."""

    metrics: tuple[Metric, ...]
    dimensions: tuple[Dimension, ...] = ()
    filters: Filters = field(default_factory=Filters)
    grain: Grain = Grain.TOTAL

    @property
    def split(self) -> tuple[Dimension, ...]:
        """The dimensions, with the currency added to money: two currencies have no sum."""
        if MONEY_METRICS.isdisjoint(self.metrics) or Dimension.CURRENCY in self.dimensions:
            return self.dimensions
        return (*self.dimensions, Dimension.CURRENCY)

    def objection(self) -> str | None:
        """Says why the figure would mislead, or None when it is sound."""
        asked = set(self.metrics)
        by_status = Dimension.STATUS in self.dimensions or bool(self.filters.statuses)
        if by_status and Metric.APPROVAL_RATE in asked:
            return "the approval rate is made of statuses already, so it can't be cut by status"
        if by_status and Metric.FRAUD_BLOCKS in asked:
            return "fraud blocks are one status, so they can't be cut by another"
        if by_status and asked & REFUND_METRICS:
            return "I count succeeded refunds only, and a payment's status says nothing of them"
        if self.filters.statuses - SUCCEEDED and asked & _CAPTURE_METRICS:
            return "only succeeded payments have a captured amount"
        return None


class Tally(NamedTuple):
    """One metric of one group as the index counted it.

    Attributes:
        keys: the values of query.split in order, then the day where the grain is day.
        top: the sum of amounts, or how many count for the metric.
        bottom: how many payments (or refunds) were looked at.
        payment_ids: some of the payments behind it.
    """

    keys: tuple[str, ...]
    top: int
    bottom: int
    payment_ids: tuple[str, ...]


def reading(metric: Metric, tally: Tally, currency: str) -> str:
    """Turns a tally into the words a person reads; currency matters for money only."""
    match metric:
        case Metric.VOLUME | Metric.REFUNDS_AMOUNT:
            return in_words(tally.top, currency)
        case Metric.AVERAGE:
            return (
                in_words(mean_minor(tally.top, tally.bottom), currency) if tally.bottom else "none"
            )
        case Metric.APPROVAL_RATE:
            return percent(tally.top, tally.bottom) if tally.bottom else "none decided yet"
        case Metric.COUNT | Metric.REFUNDS_COUNT | Metric.FRAUD_BLOCKS:
            return f"{tally.top:,}"
