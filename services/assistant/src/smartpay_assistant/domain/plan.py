"""What will be done to answer: at most a few steps, each one tool with checked arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from smartpay_assistant.domain.metrics import DEFINITIONS, Filters, Grain, MetricQuery


@dataclass(frozen=True, slots=True)
class DescribeMetrics:
    """Tells what can be asked."""

    tool = "describe_metrics"


@dataclass(frozen=True, slots=True)
class QueryMetrics:
    """Reads governed figures."""

    query: MetricQuery
    tool = "query_metrics"


@dataclass(frozen=True, slots=True)
class ListPayments:
    """Shows the newest payments that pass the filters; capped tells that more were asked for."""

    filters: Filters
    limit: int
    capped: bool = False
    tool = "list_payments"


@dataclass(frozen=True, slots=True)
class ExplainDecision:
    """Tells why one payment stands where it stands."""

    payment_id: str
    tool = "explain_decision"


class CannotAnswer(Exception):  # noqa: N818 - reads as the sentence it is
    """The question has no sound answer; the text says why, without figures, for the user."""


Step = DescribeMetrics | QueryMetrics | ListPayments | ExplainDecision


@dataclass(frozen=True, slots=True)
class Plan:
    """Either steps, or the reason why there are none.

    Attributes:
        planner: who planned, in words.
        steps: what to do, in order.
        refusal: why the question can't be answered; None when it can.
    """

    planner: str
    steps: tuple[Step, ...] = ()
    refusal: str | None = None

    @property
    def dates(self) -> frozenset[date]:
        """The days the plan speaks of: the only dates a writer may spell out itself."""
        return frozenset(
            day
            for step in self.steps
            if (period := _filters(step).period) is not None
            for day in (period.first, period.last)
        )


def arguments(step: Step) -> dict[str, object]:
    """The tool's arguments as JSON values. A tenant is never among them."""
    match step:
        case DescribeMetrics():
            return {}
        case ExplainDecision():
            return {"payment_id": step.payment_id}
        case ListPayments():
            return {"filters": _filter_arguments(step.filters), "limit": step.limit}
        case QueryMetrics():
            return {
                "metrics": list(step.query.metrics),
                "dimensions": list(step.query.split),
                "filters": _filter_arguments(step.query.filters),
                "grain": step.query.grain,
            }


def sentence(step: Step) -> str:
    """Says in words what a step was understood to be."""
    match step:
        case DescribeMetrics():
            return "describe what can be asked"
        case ExplainDecision():
            return f"explain payment {step.payment_id}"
        case ListPayments():
            return f"list the newest payments, at most {step.limit}{scope(step.filters)}"
        case QueryMetrics():
            return f"read {subject(step.query)}{scope(step.query.filters)}"


def subject(query: MetricQuery) -> str:
    """Names a query's figures and how they are split, for instance "payments by status"."""
    names = " and ".join(DEFINITIONS[metric].label for metric in query.metrics)
    split = [dimension.replace("_", " ") for dimension in query.dimensions]
    if query.grain is Grain.DAY:
        split.append("day")
    return f"{names} by {' and '.join(split)}" if split else names


def scope(filters: Filters) -> str:
    """Says which payments count, for instance ", only failed, today (2026-11-22 UTC)"."""
    chosen = [
        *(n.replace("_", " ") for n in (*sorted(filters.statuses), *sorted(filters.processors))),
        *sorted(filters.currencies | filters.processor_accounts),
    ]
    words = f", only {' and '.join(chosen)}" if chosen else ""
    if filters.period is None:
        return f"{words}, all time"
    first, last, said = filters.period
    days = f"{first}" if first == last else f"{first} to {last}"
    return f"{words}, {days} UTC" if said == "" else f"{words}, {said} ({days} UTC)"


def _filters(step: Step) -> Filters:
    match step:
        case ListPayments():
            return step.filters
        case QueryMetrics():
            return step.query.filters
        case _:
            return Filters()


def _filter_arguments(filters: Filters) -> Mapping[str, object]:
    given: dict[str, object] = {
        "status": sorted(filters.statuses),
        "currency": sorted(filters.currencies),
        "processor": sorted(filters.processors),
        "processor_account": sorted(filters.processor_accounts),
    }
    if filters.period is not None:
        given["first_day"] = filters.period.first.isoformat()
        given["last_day"] = filters.period.last.isoformat()
    return {name: value for name, value in given.items() if value}
