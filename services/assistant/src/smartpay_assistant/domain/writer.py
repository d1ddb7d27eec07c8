"""Puts results into words. A writer never writes a figure, only the name of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from smartpay_assistant.domain.metrics import DEFINITIONS, Grain, Metric
from smartpay_assistant.domain.plan import (
    DescribeMetrics,
    ExplainDecision,
    ListPayments,
    Plan,
    QueryMetrics,
    scope,
    subject,
)
from smartpay_assistant.domain.tools import ToolResult

ABILITIES = (
    "I am a deterministic planner, not a language model, and I only read. I can tell captured "
    "volume, payment counts, approval rate, average payment, refunds and fraud blocks, by "
    "currency, processor, processor account, status or day, for a period such as today, this "
    "month or ISO dates; list your newest payments; and explain one payment by its id."
)


@dataclass(frozen=True, slots=True)
class Draft:
    """An answer with placeholders for figures, and what a language model took to write it."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class Writer(Protocol):
    """Words an answer. What it may not do is checked afterwards, so it need not be trusted."""

    async def write(self, question: str, plan: Plan, results: Sequence[ToolResult]) -> Draft:
        """Answers a draft with placeholders named as `ToolResult.source` names facts."""
        ...


class TemplateWriter:
    """Writes plain sentences by rule."""

    async def write(self, question: str, plan: Plan, results: Sequence[ToolResult]) -> Draft:
        """Writes one paragraph per result, or why there is none."""
        if plan.refusal is not None:
            return Draft(f"I can't answer that: {plan.refusal}. {ABILITIES}")
        return Draft("\n\n".join("\n".join(_paragraph(result)) for result in results))


def _paragraph(result: ToolResult) -> Iterator[str]:
    match result.step:
        case DescribeMetrics():
            yield ABILITIES
            yield from _lines(result, "metrics", ("label", "meaning"))
        case QueryMetrics():
            yield from _figures(result, result.step)
        case ListPayments():
            yield from _listed(result, result.step)
        case ExplainDecision():
            yield from _explained(result)


def _figures(result: ToolResult, step: QueryMetrics) -> Iterator[str]:
    query, rows = step.query, result.tables["rows"]
    head = f"{_capital(subject(query))}{scope(query.filters)}"
    if not rows:
        yield f"{head}: nothing."
    elif not query.dimensions and query.grain is Grain.TOTAL:
        for metric in query.metrics:
            values = [_place(result, "rows", row, metric) for row in range(len(rows))]
            name = _capital(DEFINITIONS[metric].label)
            yield f"{name}{scope(query.filters)}: {' and '.join(values)}."
    else:
        yield f"{head}:"
        # The currency that money brings along stands in the amount already.
        names = [*query.dimensions, *(["day"] if query.grain is Grain.DAY else [])]
        for row in range(len(rows)):
            keys = ", ".join(_place(result, "rows", row, name) for name in names)
            values = [
                _place(result, "rows", row, metric)
                + (f" ({DEFINITIONS[metric].label})" if len(query.metrics) > 1 else "")
                for metric in query.metrics
            ]
            yield f"- {keys}: {', '.join(values)}"
    if Metric.APPROVAL_RATE in query.metrics:
        yield "Blocked, canceled and open payments are left out of the approval rate."


def _listed(result: ToolResult, step: ListPayments) -> Iterator[str]:
    if not result.tables["rows"]:
        yield f"No such payments{scope(step.filters)}."
        return
    yield f"Newest payments{scope(step.filters)}:"
    yield from _lines(
        result,
        "rows",
        ("payment_id", "amount", "status", "reason", "processor", "processor_account", "created"),
    )
    if step.capped:
        yield "That is the most I list at once."


def _explained(result: ToolResult) -> Iterator[str]:
    if not result.tables["payment"]:
        yield "I found no such payment."
        return
    payment = result.tables["payment"][0]
    because = f" ({_place(result, 'payment', 0, 'reason')})" if "reason" in payment else ""
    yield (
        f"Payment {_place(result, 'payment', 0, 'payment_id')} over "
        f"{_place(result, 'payment', 0, 'amount')} is "
        f"{_place(result, 'payment', 0, 'status')}{because}."
    )
    if "fraud" in result.tables:
        yield (
            f"Fraud said {_place(result, 'fraud', 0, 'verdict')} with a score of "
            f"{_place(result, 'fraud', 0, 'score')}."
        )
        yield from _lines(result, "fraud_reasons", ("message",))
    else:
        yield "Fraud gave no assessment."
    if "route" in result.tables:
        first_place = _place(result, "route", 0, "first_place")
        yield f"Accounts as ranked; the first place was {first_place}:"
        yield from _lines(
            result, "ranking", ("processor_account", "processor", "expected_success", "reasons")
        )
        yield from _lines(result, "excluded", ("processor_account", "message"), "Left out")
    else:
        yield "The accounts were not ranked."
    yield from _lines(
        result,
        "attempts",
        ("processor_account", "processor", "status", "decline_code", "soft_decline"),
        "Tried",
    )
    yield from _cascade(result)
    yield from _lines(result, "refunds", ("amount", "status", "reason", "created"), "Refund")


def _cascade(result: ToolResult) -> Iterator[str]:
    attempts = result.tables["attempts"]
    if not attempts:
        yield "No account was tried."
    elif any("soft_decline" in attempt for attempt in attempts[:-1]):
        yield "After a soft decline the next account of the ranking was tried."


def _lines(result: ToolResult, table: str, columns: Sequence[str], word: str = "") -> Iterator[str]:
    """Writes one line per record: its first value, a colon, the others that are there."""
    for row, record in enumerate(result.tables[table]):
        places = [_place(result, table, row, name) for name in columns if name in record]
        rest = f": {', '.join(places[1:])}" if places[1:] else ""
        yield f"- {word + ' ' if word else ''}{places[0]}{rest}"


def _place(result: ToolResult, table: str, row: int, column: str) -> str:
    return f"{{{{{result.source(table, row, column)}}}}}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
