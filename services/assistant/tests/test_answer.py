from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_assistant.adapters.sqlite_index import SqlitePaymentIndex
from smartpay_assistant.domain.answer import Assistant, Finished, Words
from smartpay_assistant.domain.plan import Plan, QueryMetrics
from smartpay_assistant.domain.planner import DeterministicPlanner
from smartpay_assistant.domain.tools import ToolResult
from smartpay_assistant.domain.writer import TemplateWriter
from smartpay_assistant.testing import ACCOUNTS, DEMO, TODAY, History, filled

PLANNER = DeterministicPlanner(listed_max=20, steps_max=8)
PHRASES = (
    *("how much", "did I take", "how many", "payments", "approval rate", "average", "volume"),
    *("refunds", "blocked", "failed", "succeeded", "captured", "by processor", "by currency"),
    *("by status and day", "daily", "today", "yesterday", "last 7 days", "since 2026-11-03"),
    *("from 2026-11-01 to 2026-11-20", "in USD", "in EUR", "stripe", "solana", "list", "show"),
    *("the last 5", "and", "and how many", ",", "?", "total", "count", "i", "was", "help", "with"),
    *("3", "why", "last", "payment", *list(ACCOUNTS)[:2], f"pay_d1{'7' * 24}"),
)


@given(st.lists(st.sampled_from(PHRASES), max_size=4).map(" ".join))
@settings(deadline=None, max_examples=300, derandomize=True)
async def test_any_words_of_the_vocabulary_are_planned_soundly_or_refused(text: str) -> None:
    plan = await PLANNER.plan(text, TODAY)

    assert (plan.refusal is None) == bool(plan.steps)
    for step in plan.steps:
        if isinstance(step, QueryMetrics):
            assert step.query.objection() is None


@given(st.text(max_size=200))
@settings(deadline=None, derandomize=True)
async def test_any_text_at_all_is_planned_or_refused(text: str) -> None:
    plan = await PLANNER.plan(text, TODAY)

    assert (plan.refusal is None) == bool(plan.steps)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_asked_the_answer_passes_its_own_check(
    index: SqlitePaymentIndex, seed: int
) -> None:
    history = History(seed)
    payments = history.payments(60)
    await filled(index, history.delivered(payments))
    assistant = Assistant(PLANNER, TemplateWriter(), index, rows_max=200, piece_letters=120)
    pick = random.Random(seed)
    answered = 0
    while answered < 40:
        phrases = pick.choices((*PHRASES, payments[0].payment_id), k=pick.randint(1, 5))
        pieces = [piece async for piece in assistant.answer(" ".join(phrases), DEMO, TODAY)]

        assert isinstance(pieces[0], Plan)
        assert isinstance(pieces[-1], Finished)
        assert pieces[-1].refused or any(isinstance(piece, ToolResult) for piece in pieces)
        assert "".join(piece.text for piece in pieces if isinstance(piece, Words)).strip()
        answered += not pieces[-1].refused
