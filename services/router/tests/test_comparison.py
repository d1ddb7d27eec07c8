from __future__ import annotations

import random

import pytest

from smartpay_router.domain.comparison import Try, compare
from smartpay_router.domain.modes import ServedBy
from smartpay_router.domain.outcome import Outcome
from smartpay_router.domain.policy import Mode, Terms

HALF = Terms(mode=Mode.CANARY, canary_percent=50)


def tried(
    payer: str,
    outcome: Outcome = Outcome.SUCCEEDED,
    served_by: ServedBy = ServedBy.CANARY,
    *,
    several_rails: bool = False,
    fee_share: float = 0.0,
) -> Try:
    return Try(payer, served_by, outcome, several_rails, fee_share)


@pytest.mark.parametrize(
    "terms", [Terms(), Terms(mode=Mode.STATIC), Terms(mode=Mode.CANARY, canary_percent=100)]
)
def test_nothing_is_compared_where_one_side_has_all_payers(terms: Terms) -> None:
    assert compare([tried("a")], terms) is None


def test_nothing_is_told_before_the_first_outcome_that_says_something() -> None:
    assert compare([], HALF) is None
    silent = [tried("a", Outcome.FRAUD), tried("b", Outcome.ABANDONED)]
    assert compare(silent, HALF) is None


def test_a_payer_counts_once_with_the_first_outcome_that_says_something() -> None:
    found = compare(
        [
            tried("a", Outcome.FRAUD),
            tried("a", Outcome.DECLINED),
            tried("a"),
            tried("b", served_by=ServedBy.CONTROL),
            tried("c", Outcome.ABANDONED, several_rails=True),
        ],
        HALF,
    )
    assert found is not None
    assert (found.learner_tries, found.learner_succeeded) == (2, 0)
    assert (found.static_tries, found.static_succeeded) == (1, 1)


def test_a_real_difference_is_told_and_luck_is_not() -> None:
    dice = random.Random(7)

    def tries(learner: float, static: float) -> list[Try]:
        made = []
        for number in range(4_000):
            side = ServedBy.CANARY if dice.random() < 0.5 else ServedBy.CONTROL
            good = dice.random() < (learner if side is ServedBy.CANARY else static)
            made.append(tried(f"p{number}", Outcome("SUCCEEDED" if good else "DECLINED"), side))
        return made

    better = compare(tries(0.95, 0.80), HALF)
    same = compare(tries(0.9, 0.9), HALF)
    assert better is not None
    assert same is not None
    assert 0 < better.conversion.low < 0.15 < better.conversion.high
    assert better.conversion.p_value < 0.01
    assert same.conversion.low < 0 < same.conversion.high


def test_fees_make_the_difference_where_conversion_is_the_same() -> None:
    dice = random.Random(8)
    tries = []
    for number in range(4_000):
        is_learner = dice.random() < 0.5
        side = ServedBy.CANARY if is_learner else ServedBy.CONTROL
        tries.append(tried(f"p{number}", served_by=side, fee_share=0.01 if is_learner else 0.09))
    found = compare(tries, HALF)
    assert found is not None
    assert found.conversion.low <= 0 <= found.conversion.high
    assert 0 < found.net_value.low < 0.08 < found.net_value.high
