"""The tools: the only way to a figure. All read, and none takes a tenant as an argument."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from smartpay_assistant.domain.amounts import in_words, percent, probability
from smartpay_assistant.domain.metrics import (
    DEFINITIONS,
    Dimension,
    Filters,
    Grain,
    Metric,
    MetricQuery,
    Tally,
    reading,
)
from smartpay_assistant.domain.payment import PaymentRecord, Tenant
from smartpay_assistant.domain.plan import (
    CannotAnswer,
    DescribeMetrics,
    ExplainDecision,
    ListPayments,
    QueryMetrics,
    Step,
)

_SCORE_PLACES = 3  # what thresholds are set by; more is noise
_PERMILLE = 1000


class PaymentIndex(Protocol):
    """Where the tools read; every method compiles the tenant into what it reads."""

    async def ready(self) -> bool:
        """Tells whether all events up to now have once been seen."""
        ...

    async def tallies(
        self, tenant: Tenant, query: MetricQuery, rows_max: int
    ) -> Mapping[Metric, Sequence[Tally]]:
        """Counts each metric per group, at most rows_max + 1 groups, in one snapshot."""
        ...

    async def newest(self, tenant: Tenant, filters: Filters, limit: int) -> Sequence[PaymentRecord]:
        """Finds the newest payments that pass the filters."""
        ...

    async def payment(self, tenant: Tenant, payment_id: str) -> PaymentRecord | None:
        """Finds one payment of the tenant; None for unknown ones and those of others."""
        ...


@dataclass(frozen=True, slots=True)
class Fact:
    """One value a tool gave, ready to be read.

    Attributes:
        text: how it reads in an answer.
        payment_ids: some of the payments behind it.
        cited: False for what only names a row, such as a day.
    """

    text: str
    payment_ids: tuple[str, ...] = ()
    cited: bool = True


Record = Mapping[str, Fact]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one step gave: tables of records of facts.

    Attributes:
        step: the step that was done.
        position: how many calls of the same tool came before it in the answer.
        tables: the records by table.
    """

    step: Step
    position: int
    tables: Mapping[str, tuple[Record, ...]]

    def source(self, table: str, row: int, column: str) -> str:
        """Names one fact, for instance "query_metrics[0].rows[0].volume"."""
        return f"{self.step.tool}[{self.position}].{table}[{row}].{column}"

    def facts(self) -> Iterator[tuple[str, Fact]]:
        """Goes through all facts with their names."""
        for table, records in self.tables.items():
            for row, record in enumerate(records):
                for column, fact in record.items():
                    yield self.source(table, row, column), fact

    def as_json(self) -> dict[str, list[dict[str, str]]]:
        """The tables as JSON values."""
        return {
            table: [{column: fact.text for column, fact in record.items()} for record in records]
            for table, records in self.tables.items()
        }


@dataclass(frozen=True, slots=True)
class Tools:
    """Calls the tools for one tenant after another; holds no tenant itself.

    Attributes:
        index: where they read.
        rows_max: most groups one query may answer; an answer is read, not scrolled.
    """

    index: PaymentIndex
    rows_max: int

    async def call(self, step: Step, position: int, tenant: Tenant) -> ToolResult:
        """Does one step.

        Raises:
            CannotAnswer: the query is unsound or its answer would be too long.
        """
        match step:
            case DescribeMetrics():
                tables = _DESCRIPTION
            case QueryMetrics():
                tables = {"rows": await self._query(step.query, tenant)}
            case ListPayments():
                found = await self.index.newest(tenant, step.filters, step.limit)
                tables = {"rows": tuple(_line(payment) for payment in found)}
            case ExplainDecision():
                payment = await self.index.payment(tenant, step.payment_id)
                tables = _explanation(payment) if payment else {"payment": ()}
        return ToolResult(step, position, tables)

    async def _query(self, query: MetricQuery, tenant: Tenant) -> tuple[Record, ...]:
        if objection := query.objection():
            raise CannotAnswer(objection)
        groups: dict[tuple[str, ...], dict[Metric, Tally]] = {}
        for metric, tallies in (await self.index.tallies(tenant, query, self.rows_max)).items():
            for tally in tallies:
                groups.setdefault(tally.keys, {})[metric] = tally
        if len(groups) > self.rows_max:
            raise CannotAnswer("it would take more lines than I write; ask for less at once")
        return tuple(_row(query, keys, groups[keys]) for keys in sorted(groups))


def _row(query: MetricQuery, keys: tuple[str, ...], found: Mapping[Metric, Tally]) -> Record:
    names = [*query.split, *(["day"] if query.grain is Grain.DAY else [])]
    values = dict(zip(names, keys, strict=True))
    # An id is quoted as it is, or nobody could look it up.
    record = {
        name: Fact(value if name == Dimension.PROCESSOR_ACCOUNT else _plain(value), cited=False)
        for name, value in values.items()
    }
    for metric in query.metrics:
        tally = found.get(metric, Tally(keys, 0, 0, ()))
        text = reading(metric, tally, values.get(Dimension.CURRENCY, ""))
        record[metric] = Fact(text, tally.payment_ids)
    return record


def _line(payment: PaymentRecord) -> Record:
    """One payment in one line: what a list shows."""
    attempt = payment.deciding_attempt
    return _record(
        payment.payment_id,
        payment_id=payment.payment_id,
        status=_plain(payment.status),
        reason=payment.reason,
        amount=in_words(payment.amount_minor, payment.currency),
        processor_account=attempt.processor_account_id if attempt else "",
        processor=_plain(attempt.processor) if attempt else "",
        created=f"{payment.created:%Y-%m-%d %H:%M} UTC",
    )


def _explanation(payment: PaymentRecord) -> dict[str, tuple[Record, ...]]:
    """Everything that decided one payment, in the order in which it was decided."""
    own, fraud, route = payment.payment_id, payment.fraud, payment.route
    tables: dict[str, tuple[Record, ...]] = {"payment": (_line(payment),)}
    if fraud:
        score = probability(fraud.score, _SCORE_PLACES)
        tables["fraud"] = (
            _record(own, verdict=fraud.verdict, score=score, model=fraud.model_version),
        )
        tables["fraud_reasons"] = tuple(_record(own, message=text) for text in fraud.reasons)
    if route:
        tables["route"] = (
            _record(
                own,
                policy=route.policy_version,
                first_place="drawn at random to learn" if route.explored else "the policy's choice",
            ),
        )
        tables["ranking"] = tuple(
            _record(
                own,
                processor_account=ranked.processor_account_id,
                processor=_plain(ranked.processor),
                expected_success=percent(round(ranked.expected_success * _PERMILLE), _PERMILLE),
                reasons=" ".join(ranked.reasons),
            )
            for ranked in route.ranking
        )
        tables["excluded"] = tuple(
            _record(own, processor_account=out.processor_account_id, message=out.message)
            for out in route.excluded
        )
    tables["attempts"] = tuple(
        _record(
            own,
            processor_account=attempt.processor_account_id,
            processor=_plain(attempt.processor),
            status=_plain(attempt.status),
            decline_code=attempt.decline_code,
            soft_decline="soft decline" if attempt.soft_decline else "",
        )
        for attempt in payment.attempts
    )
    tables["refunds"] = tuple(
        _record(
            own,
            amount=in_words(refund.amount_minor, payment.currency),
            status=_plain(refund.status),
            reason=_plain(refund.reason),
            created=f"{refund.created:%Y-%m-%d} UTC",
        )
        for refund in payment.refunds
    )
    return tables


def _record(about: str, /, **texts: str) -> Record:
    """Makes facts of the texts that say something about one payment."""
    return {name: Fact(text, (about,)) for name, text in texts.items() if text}


def _plain(code: str) -> str:
    return code.replace("_", " ")


_DESCRIPTION: Mapping[str, tuple[Record, ...]] = MappingProxyType(
    {
        "metrics": tuple(
            {
                "name": Fact(metric.value, cited=False),
                "label": Fact(meant.label, cited=False),
                "meaning": Fact(meant.meaning, cited=False),
            }
            for metric, meant in DEFINITIONS.items()
        ),
        "dimensions": tuple({"name": Fact(name.value, cited=False)} for name in Dimension),
        "grains": tuple({"name": Fact(name.value, cited=False)} for name in Grain),
        "filters": tuple(
            {"name": Fact(name, cited=False)} for name in (*(d.value for d in Dimension), "period")
        ),
    }
)
