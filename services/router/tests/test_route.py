from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_chassis.merchants import ProcessorAccount
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_ACCOUNT, FakeClock
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import Context
from smartpay_router.domain.linucb import Estimate
from smartpay_router.domain.route import Route, rank

FIRST, SECOND = DEMO_ACCOUNTS
CHARGE = Charge(2500, "USD", {FIRST: "pm_1", SECOND: "pm_2"})
IGNORANCE = Estimate(success=0.9, width=0.5, outcomes=0)


class ScriptedPolicy:
    """Believes what it is told."""

    version = "scripted-0"

    def __init__(self, beliefs: Mapping[str, Estimate]) -> None:
        self._beliefs = beliefs

    def estimate(self, arms: Sequence[str], context: Context) -> Sequence[Estimate]:
        return [self._beliefs.get(arm, IGNORANCE) for arm in arms]

    def learn(self, arm: str, context: Context, reward: float) -> None:
        raise AssertionError("ranking must not learn")


def route(
    beliefs: Mapping[str, Estimate] | None = None,
    *,
    charge: Charge = CHARGE,
    accounts: Sequence[ProcessorAccount] = DEMO_MERCHANT.processor_accounts,
    epsilon: float = 0.0,
    seed: int = 0,
) -> Route:
    return rank(
        charge,
        accounts,
        ScriptedPolicy(beliefs or {}),
        risk=0.1,
        at=FakeClock()(),
        epsilon=epsilon,
        dice=random.Random(seed),
    )


def order(made: Route) -> list[str]:
    return [ranked.processor_account_id for ranked in made.ranking]


def test_on_equal_knowledge_the_cheaper_account_stands_first() -> None:
    assert order(route()) == [FIRST, SECOND]
    assert [r.fee_minor for r in route().ranking] == [103, 110]


def test_a_better_account_stands_first_although_it_costs_more() -> None:
    made = route({FIRST: Estimate(0.6, 0.1, 40), SECOND: Estimate(0.95, 0.1, 40)})
    assert order(made) == [SECOND, FIRST]
    assert made.ranking[0].expected_success == 0.95


def test_of_two_equal_estimates_the_less_known_stands_first() -> None:
    made = route({FIRST: Estimate(0.8, 0.05, 400), SECOND: Estimate(0.8, 0.4, 3)})
    assert order(made) == [SECOND, FIRST]


def test_the_score_is_the_bound_of_success_times_what_the_fee_leaves() -> None:
    first = route({FIRST: Estimate(0.5, 0.0, 9)}).ranking[1]
    assert first.score == pytest.approx(0.5 * (2500 - 103) / 2500)


def test_a_fee_above_the_amount_is_worth_nothing_and_the_cheaper_still_leads() -> None:
    dearer_first = DEMO_MERCHANT.processor_accounts[::-1]
    made = route(charge=Charge(16, "USD", CHARGE.tokens), accounts=dearer_first)
    assert [(r.score, r.fee_minor) for r in made.ranking] == [(0, 30), (0, 31)]
    assert order(made) == [FIRST, SECOND]


def test_of_equals_in_everything_the_merchants_own_order_decides() -> None:
    cheap, _ = DEMO_MERCHANT.processor_accounts
    twins = [cheap.model_copy(update={"processor_account_id": i}) for i in (SECOND, FIRST)]
    assert order(route(accounts=twins)) == [SECOND, FIRST]


def test_nobody_eligible_is_an_answer_with_the_exclusions() -> None:
    made = route(charge=Charge(2500, "SOL", CHARGE.tokens))
    assert made.ranking == ()
    assert [e.code for e in made.excluded] == ["CURRENCY_UNSUPPORTED"] * 2
    assert not made.explored


def test_a_single_eligible_account_stands_first_with_certainty() -> None:
    made = route(charge=Charge(2500, "USD", {SECOND: "pm_2"}), epsilon=0.5)
    assert [(r.processor_account_id, r.propensity) for r in made.ranking] == [(SECOND, 1.0)]
    assert not made.explored


def test_logged_propensities_are_the_frequencies_of_standing_first() -> None:
    accounts = (
        *DEMO_MERCHANT.processor_accounts,
        DEMO_MERCHANT.processor_accounts[1].model_copy(
            update={"processor_account_id": OTHER_ACCOUNT}
        ),
    )
    charge = Charge(2500, "USD", {**CHARGE.tokens, OTHER_ACCOUNT: "pm_3"})
    made = [route(charge=charge, accounts=accounts, epsilon=0.3, seed=seed) for seed in range(4000)]
    propensity = {r.processor_account_id: r.propensity for r in made[0].ranking}
    assert propensity == pytest.approx({FIRST: 0.8, SECOND: 0.1, OTHER_ACCOUNT: 0.1})
    assert all(
        {r.processor_account_id: r.propensity for r in m.ranking} == propensity for m in made
    )
    for account, expected in propensity.items():
        share = sum(order(m)[0] == account for m in made) / len(made)
        assert share == pytest.approx(expected, abs=0.02)  # 3 standard errors
    assert sum(m.explored for m in made) / len(made) == pytest.approx(0.3, abs=0.022)


@given(st.floats(0, 0.5), st.integers(0, 10_000), st.floats(-0.2, 1.2), st.floats(0, 3))
def test_propensities_sum_to_one_and_scores_stay_probabilities(
    epsilon: float, seed: int, success: float, width: float
) -> None:
    made = route({SECOND: Estimate(success, width, 5)}, epsilon=epsilon, seed=seed)
    assert sum(r.propensity for r in made.ranking) == pytest.approx(1)
    assert all(0 <= r.score <= 1 and 0 <= r.expected_success <= 1 for r in made.ranking)
    behind = [r.score for r in made.ranking[1:]]
    assert behind == sorted(behind, reverse=True)


def test_the_same_dice_make_the_same_route() -> None:
    assert route(epsilon=0.5, seed=7) == route(epsilon=0.5, seed=7)


def test_reasons_say_in_words_what_decided() -> None:
    beliefs = {FIRST: Estimate(0.912, 0.6, 12)}
    place, success, fee = route(beliefs).ranking[0].reasons
    assert place == "Number 1 of 2 by expected value after fees."
    assert success.startswith("Expected to succeed in 91.2% of such charges")
    assert "12 outcomes" in success
    assert fee == "Its fee is 103 of 2500 minor units USD."
    assert "Nothing was learned" in route(beliefs).ranking[1].reasons[1]


def test_a_drawn_first_place_says_so_and_the_rest_keeps_its_order() -> None:
    drawn = next(
        made
        for seed in range(100)
        if order(made := route(epsilon=0.5, seed=seed)) == [SECOND, FIRST]
    )
    assert drawn.explored
    assert drawn.ranking[0].reasons[0].startswith("Drawn at random")
    assert drawn.ranking[1].reasons[0] == "Number 1 of 2 by expected value after fees."
