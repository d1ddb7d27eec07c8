"""Turns a question into a plan by rule. It is no language model, says so, and refuses early."""

from __future__ import annotations

import calendar
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Protocol

from smartpay_assistant.domain.metrics import (
    MONEY_METRICS,
    REFUND_METRICS,
    SUCCEEDED,
    Dimension,
    Filters,
    Grain,
    Metric,
    MetricQuery,
    Period,
)
from smartpay_assistant.domain.plan import (
    CannotAnswer,
    DescribeMetrics,
    ExplainDecision,
    ListPayments,
    Plan,
    QueryMetrics,
    Step,
)
from smartpay_assistant.domain.vocabulary import Sense, Word, dates_in, number_in, read

NAME = "deterministic planner, not a language model"

_FIGURES = frozenset({Sense.METRIC, Sense.HOW_MUCH, Sense.HOW_MANY, Sense.TAKEN, Sense.REFUNDED})
_IGNORED = frozenset({Sense.FILLER, Sense.BREAK})
_DAYS_MAX = 366  # "the last N days" beyond a year is a slip of the finger
_UNKNOWN_SHOWN = 3  # enough to see what was not understood, too few to play anything back
_WORD_SHOWN_LETTERS = 20


class Planner(Protocol):
    """Decides which tools answer a question; may ask a language model, so it is awaited."""

    async def plan(self, question: str, today: date) -> Plan:
        """Answers steps or a refusal; today is the current UTC day."""
        ...


@dataclass(frozen=True, slots=True)
class DeterministicPlanner:
    """Reads questions with the closed vocabulary.

    Attributes:
        listed_max: most payments one list shows; an answer is read, not scrolled.
        steps_max: most tools one question may call; bounds the work of one message.
    """

    listed_max: int
    steps_max: int

    async def plan(self, question: str, today: date) -> Plan:
        """Answers steps for a question that is understood to the last word, else a refusal."""
        try:
            steps = tuple(self._steps(question, today))
        except CannotAnswer as why:
            return Plan(NAME, refusal=str(why))
        if not steps:
            return Plan(NAME, refusal="I found no question about payments in it")
        if len(steps) > self.steps_max:
            return Plan(NAME, refusal="that is too much for one message; ask in parts")
        return Plan(NAME, steps)

    def _steps(self, question: str, today: date) -> Iterator[Step]:
        reading = read(question)
        if reading.unknown:
            raise CannotAnswer(_not_understood(reading.unknown))
        clauses = [c for c in _clauses(reading.words) if any(w.sense not in _IGNORED for w in c)]
        spoken = [periods for c in clauses if (periods := _periods(c, today))]
        # "Take and refunds yesterday" means yesterday twice; two periods are kept apart.
        shared: list[Period | None] = list(spoken[0]) if len(spoken) == 1 else [None]
        for clause in clauses:
            own: list[Period | None] = list(_periods(clause, today)) or shared
            yield from _Clause(clause, own, self.listed_max).steps()


def _clauses(words: Sequence[Word]) -> Iterator[list[Word]]:
    clause: list[Word] = []
    for word in words:
        if word.sense is Sense.BREAK:
            yield clause
            clause = []
        else:
            clause.append(word)
    yield clause


class _Clause:
    """One question among those of a message."""

    def __init__(
        self, words: Sequence[Word], periods: Sequence[Period | None], listed_max: int
    ) -> None:
        self._words = words
        self._periods = periods
        self._listed_max = listed_max
        self._senses = {word.sense for word in words}

    def steps(self) -> Iterator[Step]:
        """Answers the clause's steps; raises CannotAnswer when it has no sound meaning."""
        if Sense.HELP in self._senses:
            yield DescribeMetrics()
        elif Sense.PAYMENT_ID in self._senses:
            yield from self._explain()
        elif Sense.WHY in self._senses:
            raise CannotAnswer("to explain a payment I need its id, which begins with pay_")
        elif self._wants_list():
            yield from self._list()
        else:
            yield from self._figures()

    def _meanings(self, sense: Sense) -> list[str]:
        return [word.meaning for word in self._words if word.sense is sense]

    def _explain(self) -> Iterator[Step]:
        if self._senses & {Sense.METRIC, Sense.HOW_MANY, Sense.TAKEN, Sense.SPLIT}:
            raise CannotAnswer("of one payment I can only tell why it stands where it stands")
        for payment_id in dict.fromkeys(self._meanings(Sense.PAYMENT_ID)):
            yield ExplainDecision(payment_id)

    def _wants_list(self) -> bool:
        if Sense.LIST in self._senses or Sense.LATEST in self._senses:
            return True
        return bool(self._senses & {Sense.PAYMENTS, Sense.PAYMENT}) and not (
            self._senses & _FIGURES or Sense.CAPTURED in self._senses or Sense.SPLIT in self._senses
        )

    def _list(self) -> Iterator[Step]:
        if self._senses & (_FIGURES | {Sense.SPLIT, Sense.DAILY}):
            raise CannotAnswer(
                "I list payments only by status, currency, processor, account and period, newest "
                "first"
            )
        if not self._senses & {Sense.PAYMENTS, Sense.PAYMENT}:
            raise CannotAnswer("payments are all I can list")
        numbers = list(self._wanted())
        if len(numbers) > 1 or numbers == [0]:
            raise CannotAnswer("say once how many payments to list")
        one = Sense.LATEST in self._senses and Sense.PAYMENT in self._senses
        wanted = numbers[0] if numbers else 1 if one else self._listed_max
        statuses = {*self._meanings(Sense.STATUS)}
        if Sense.CAPTURED in self._senses:
            statuses |= SUCCEEDED
        for period in self._periods:
            filters = replace(self._filters(period), statuses=frozenset(statuses))
            yield ListPayments(filters, min(wanted, self._listed_max), wanted > self._listed_max)

    def _wanted(self) -> Iterator[int]:
        """The numbers that say how many: "last 5" and "show 5"; any other is not understood."""
        before: Word | None = None
        for word in self._words:
            number = number_in(word.text)
            if word.sense is Sense.NUMBER and not (
                before and before.sense in (Sense.LIST, Sense.SHOW)
            ):
                raise CannotAnswer("I can't tell what the number in it means")
            if word.sense in (Sense.NUMBER, Sense.LATEST) and number is not None:
                yield number
            before = word

    def _figures(self) -> Iterator[Step]:
        if Sense.NUMBER in self._senses:
            raise CannotAnswer("I can't tell what the number in it means")
        metrics, statuses = self._metrics()
        for period in self._periods:
            filters = replace(self._filters(period), statuses=statuses)
            split = self._split(filters)
            grain = Grain.DAY if self._daily() else Grain.TOTAL
            # Money is told per currency; a count beside it need not be.
            money = tuple(m for m in metrics if m in MONEY_METRICS)
            plain = tuple(m for m in metrics if m not in MONEY_METRICS)
            for group in (money, plain):
                if not group:
                    continue
                query = MetricQuery(group, split, filters, grain)
                if objection := query.objection():
                    raise CannotAnswer(objection)
                yield QueryMetrics(query)

    def _metrics(self) -> tuple[tuple[Metric, ...], frozenset[str]]:
        """The figures a clause asks for, and the statuses they are cut down to."""
        senses = self._senses
        many, much = Sense.HOW_MANY in senses, Sense.HOW_MUCH in senses
        if many and much:
            raise CannotAnswer("ask for the amount and the count in two questions")
        metrics = [Metric(name) for name in self._meanings(Sense.METRIC)]
        statuses = set(self._meanings(Sense.STATUS))
        if "blocked" in statuses:
            if much or (many and len(statuses) > 1):
                raise CannotAnswer("of payments blocked by fraud I know the count alone")
            statuses.discard("blocked")
            metrics.append(Metric.FRAUD_BLOCKS)
        elif many and Sense.REFUNDED not in senses and not self._counts_itself(metrics):
            metrics.append(Metric.COUNT)
        if Sense.REFUNDED in senses:
            metrics.extend(self._refunds(many, much))
        if Sense.CAPTURED in senses and many:
            statuses |= SUCCEEDED
        elif self._tells_volume(much) and not (Metric.AVERAGE in metrics and not self._joined()):
            metrics.append(Metric.VOLUME)
        if not metrics:
            raise CannotAnswer("I can't tell which figure you mean")
        self._check_company(set(metrics))
        return tuple(dict.fromkeys(metrics)), frozenset(statuses)

    def _counts_itself(self, metrics: Sequence[Metric]) -> bool:
        """Whether "how many" belongs to a figure that is a count, as in "how many fraud blocks"."""
        return Metric.FRAUD_BLOCKS in metrics and Sense.PAYMENTS not in self._senses

    def _refunds(self, many: bool, much: bool) -> tuple[Metric, ...]:
        if many and Sense.PAYMENTS in self._senses:
            raise CannotAnswer("I count refunds, not refunded payments; ask for one of the two")
        if many:
            return (Metric.REFUNDS_COUNT,)
        return (Metric.REFUNDS_AMOUNT,) if much else (Metric.REFUNDS_AMOUNT, Metric.REFUNDS_COUNT)

    def _tells_volume(self, much: bool) -> bool:
        """Whether a verb of taking means the merchant's captured volume."""
        if Sense.CAPTURED in self._senses:
            return True
        if not (much and Sense.TAKEN in self._senses):
            return False
        if Sense.SELF in self._senses or {w.text for w in self._words} & {"was", "were", "been"}:
            return True
        raise CannotAnswer("say who took the money; I know only your own payments")

    def _joined(self) -> bool:
        return any(word.text in ("and", ",") for word in self._words)

    def _check_company(self, metrics: set[Metric]) -> None:
        """Refuses figures side by side that may be meant as one, as in "average refunds"."""
        others = metrics - REFUND_METRICS
        if Metric.AVERAGE in others and len(others) < len(metrics):
            raise CannotAnswer("the only average I know is that of captured payments")
        if len(others) + (len(others) < len(metrics)) > 1 and not self._joined():
            raise CannotAnswer('I can\'t tell if that is one figure or several; say "and"')

    def _daily(self) -> bool:
        return Sense.DAILY in self._senses or "day" in self._meanings(Sense.SPLIT)

    def _filters(self, period: Period | None) -> Filters:
        return Filters(
            currencies=frozenset(self._meanings(Sense.CURRENCY)),
            processors=frozenset(self._meanings(Sense.PROCESSOR)),
            processor_accounts=frozenset(self._meanings(Sense.ACCOUNT)),
            period=period,
        )

    def _split(self, filters: Filters) -> tuple[Dimension, ...]:
        """The dimensions asked for, and those of which several values are named."""
        named = [Dimension(name) for name in self._meanings(Sense.SPLIT) if name != "day"]
        several = {
            Dimension.STATUS: filters.statuses,
            Dimension.PROCESSOR: filters.processors,
            Dimension.PROCESSOR_ACCOUNT: filters.processor_accounts,
            Dimension.CURRENCY: filters.currencies,
        }
        named.extend(dimension for dimension, values in several.items() if len(values) > 1)
        return tuple(dict.fromkeys(named))


def _periods(words: Sequence[Word], today: date) -> list[Period]:
    return [
        _period(word, today)
        for word in words
        if word.sense is Sense.PERIOD and word.meaning != "all time"
    ]


def _period(word: Word, today: date) -> Period:
    day, monday = timedelta(days=1), today - timedelta(days=today.weekday())
    first_of_month = today.replace(day=1)
    match word.meaning:
        case "today":
            return Period(today, today, "today")
        case "yesterday":
            return Period(today - day, today - day, "yesterday")
        case "this week":
            return Period(monday, today, "this week")
        case "last week":
            return Period(monday - 7 * day, monday - day, "last week, Monday to Sunday")
        case "this month":
            return Period(first_of_month, today, "this month")
        case "last month":
            last = first_of_month - day
            return Period(last.replace(day=1), last, "last month")
        case "this year":
            return Period(today.replace(month=1, day=1), today, "this year")
        case "last year":
            year = today.year - 1
            last_day = calendar.monthrange(year, 12)[1]
            return Period(date(year, 1, 1), date(year, 12, last_day), "last year")
        case "last {} days" | "last {} weeks":
            days = (number_in(word.text) or 0) * (7 if "weeks" in word.meaning else 1)
            if not 1 <= days <= _DAYS_MAX:
                raise CannotAnswer("a period reaches back from one day to one year")
            return Period(today - (days - 1) * day, today, "")
        case _:
            return _dated(dates_in(word.text), today if word.meaning == "since" else None)


def _dated(written: Sequence[str], end: date | None) -> Period:
    try:
        days = [date.fromisoformat(text) for text in written]
    except ValueError:
        raise CannotAnswer("one of the dates is not in the calendar") from None
    first, last = days[0], end or days[-1]
    if first > last:
        raise CannotAnswer("the period ends before it begins")
    return Period(first, last, "")


def _not_understood(unknown: Sequence[str]) -> str:
    """Names strange words back only where they are plain letters: nothing else is played back."""
    shown = [w for w in unknown if w.isascii() and w.isalpha() and len(w) <= _WORD_SHOWN_LETTERS]
    if not shown:
        return "there are words in it that I don't know"
    return "I don't know " + ", ".join(f'"{word}"' for word in shown[:_UNKNOWN_SHOWN])
