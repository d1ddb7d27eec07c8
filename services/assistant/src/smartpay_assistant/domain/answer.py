"""The one loop from question to answer: plan, call tools, write, check, then speak."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import date

from smartpay_assistant.domain.payment import Tenant
from smartpay_assistant.domain.plan import CannotAnswer, Plan
from smartpay_assistant.domain.planner import Planner
from smartpay_assistant.domain.provenance import Citation, check
from smartpay_assistant.domain.tools import PaymentIndex, ToolResult, Tools
from smartpay_assistant.domain.writer import Writer
from smartpay_chassis.refusals import Kind, Refusal


@dataclass(frozen=True, slots=True)
class Words:
    """The next words of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What the answer cost; tokens are a language model's."""

    tool_calls: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete; refused when the question lies outside what can be answered."""

    refused: bool


Piece = Plan | ToolResult | Words | Citation | Usage | Finished


@dataclass(frozen=True, slots=True)
class Assistant:
    """Answers questions about one merchant's payments.

    Attributes:
        planner: decides on the tools.
        writer: words the answer; not trusted.
        index: where the tools read.
        rows_max: most groups one query may answer.
        piece_letters: about how many letters one piece of the answer has; a few pieces show
            life to the reader, many cost more than they tell.
    """

    planner: Planner
    writer: Writer
    index: PaymentIndex
    rows_max: int
    piece_letters: int

    async def answer(self, question: str, tenant: Tenant, today: date) -> AsyncIterator[Piece]:
        """Answers piece by piece: plan, tools, words, citations, usage, finished.

        Not one word is spoken before the whole text has passed the check of its figures.

        Raises:
            Refusal: UNAVAILABLE while the index is being built; INTERNAL when the writer
                invented a figure.
        """
        if not await self.index.ready():
            raise Refusal(
                Kind.UNAVAILABLE,
                "INDEX_NOT_READY",
                "The index of payments is still being built.",
                remedy="Ask again in a moment.",
            )
        plan = await self.planner.plan(question, today)
        yield plan
        tools = Tools(self.index, self.rows_max)
        results: list[ToolResult] = []
        before: Counter[str] = Counter()
        try:
            for step in plan.steps:
                result = await tools.call(step, before[step.tool], tenant)
                before[step.tool] += 1
                results.append(result)
                yield result
        except CannotAnswer as why:
            plan = replace(plan, refusal=str(why))
        draft = await self.writer.write(question, plan, results)
        checked = check(draft.text, question, plan, results)
        for text in _pieces(checked.text, self.piece_letters):
            yield Words(text)
        for citation in checked.citations:
            yield citation
        yield Usage(sum(before.values()), draft.input_tokens, draft.output_tokens)
        yield Finished(plan.refusal is not None)


def _pieces(text: str, letters: int) -> Iterator[str]:
    """Cuts a text before spaces, so that the pieces joined are the text again."""
    while len(text) > letters:
        cut = text.find(" ", letters)
        if cut < 0:
            break
        yield text[:cut]
        text = text[cut:]
    yield text
