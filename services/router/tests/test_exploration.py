from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_router.domain.exploration import Budgets, BudgetTuning


@given(st.lists(st.floats(0, 1), max_size=300))
def test_who_spends_only_what_is_left_never_spent_more_than_was_lent(costs: list[float]) -> None:
    budgets = Budgets(BudgetTuning(rate=0.05, cap=3, start=0))
    spent = 0.0
    for count, cost in enumerate(costs, start=1):
        budgets.lend("mer", 0.9)
        if budgets.tokens("mer") >= cost:
            budgets.book("mer", -cost)
            spent += cost
        assert spent <= count * 0.9 * 0.05 + 1e-9


def test_no_more_than_the_cap_is_saved_up() -> None:
    budgets = Budgets(BudgetTuning(rate=0.5, cap=3, start=0))
    for _ in range(100):
        budgets.lend("mer", 1.0)
        budgets.book("mer", 0.5)
    assert budgets.tokens("mer") == 3


def test_a_merchants_own_rate_goes_before_everybodys() -> None:
    budgets = Budgets(BudgetTuning(rate=0.5, start=0))
    budgets.lend("mer", 1.0, 0.25)
    assert budgets.tokens("mer") == 0.25


def test_one_merchants_tokens_are_not_anothers() -> None:
    budgets = Budgets()
    budgets.book("mer/live", 1.0)
    assert budgets.tokens("mer/test") == Budgets().tokens("mer/test") < 0


def test_what_chance_took_beyond_the_last_token_is_lent_again_first() -> None:
    budgets = Budgets(BudgetTuning(rate=0.25, start=0))
    budgets.book("mer", -0.5)
    assert budgets.tokens("mer") == -0.5
    for _ in range(2):
        budgets.lend("mer", 1.0)
    assert budgets.tokens("mer") == pytest.approx(0)
