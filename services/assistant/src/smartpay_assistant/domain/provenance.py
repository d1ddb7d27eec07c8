"""No figure without a source: what a writer wrote becomes an answer here, or it is refused.

A writer spells figures as placeholders, {{query_metrics[0].rows[0].volume}}; their texts are put
in only after every other numeral of the draft was traced to the question or to a day of the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from smartpay_assistant.domain.plan import Plan
from smartpay_assistant.domain.tools import Fact, ToolResult
from smartpay_chassis.refusals import Kind, Refusal

_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
_EDGES = ".,;:!?()[]{}\"'"  # punctuation around a token is not part of the figure


@dataclass(frozen=True, slots=True)
class Citation:
    """Where one figure of the answer comes from; payment_ids are some of those behind it."""

    text: str
    source: str
    payment_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer that may be shown, with the sources of its figures in order of appearance."""

    text: str
    citations: tuple[Citation, ...]


def check(draft: str, question: str, plan: Plan, results: Sequence[ToolResult]) -> Checked:
    """Puts the tools' figures into a draft.

    Raises:
        Refusal: INTERNAL when the draft holds a numeral of its own making or names a fact that
            no tool gave; the draft is not shown.
    """
    facts = dict(chain.from_iterable(result.facts() for result in results))
    # The planner reads "a,b" as two words, so its writer may repeat either.
    asked = chain(_tokens(question), _tokens(question.replace(",", " ")))
    allowed = {*asked, *(day.isoformat() for day in plan.dates)}
    # A space in place of each figure keeps "1{{...}}" from growing a figure onto another.
    around = _PLACEHOLDER.sub(" ", draft)
    if any(token not in allowed for token in _numeric(_tokens(around))) or "{{" in around:
        raise _invented()
    sources = [match.group(1) for match in _PLACEHOLDER.finditer(draft)]
    if any(source not in facts for source in sources):
        raise _invented()
    text = _PLACEHOLDER.sub(lambda match: facts[match.group(1)].text, draft)
    return Checked(text, tuple(_citations(dict.fromkeys(sources), facts)))


def _citations(sources: Iterable[str], facts: Mapping[str, Fact]) -> Iterator[Citation]:
    for source in sources:
        fact = facts[source]
        if fact.cited and any(letter.isnumeric() for letter in fact.text):
            yield Citation(fact.text, source, fact.payment_ids)


def _tokens(text: str) -> Iterator[str]:
    for token in text.split():
        yield token.strip(_EDGES)


def _numeric(tokens: Iterable[str]) -> Iterator[str]:
    # isnumeric sees every script's digits, and signs such as ½ and Ⅳ that isdigit lets pass.
    return (token for token in tokens if any(letter.isnumeric() for letter in token))


def _invented() -> Refusal:
    return Refusal(
        Kind.INTERNAL,
        "INTERNAL",
        "The answer held a figure that no tool gave, so it is not shown.",
        remedy="Ask again in other words; report the request id if it stays.",
    )
