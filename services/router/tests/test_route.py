from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartpay_chassis.merchants import ProcessorAccount
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, OTHER_ACCOUNT, FakeClock
from smartpay_router.domain.breakers import Breakers, Kind, State
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.eligibility import candidates
from smartpay_router.domain.exploration import Budgets, BudgetTuning
from smartpay_router.domain.learner import Arm, Estimates
from smartpay_router.domain.modes import ServedBy, side_of
from smartpay_router.domain.outcome import arm_of
from smartpay_router.domain.policy import Mode, RoutingPolicy, Terms
from smartpay_router.domain.route import Pipeline, Route
from smartpay_router.domain.rules import Action, Condition, Rule
from smartpay_router.domain.schema import Values
from smartpay_router.domain.splits import Share, Split
from smartpay_router.domain.steering import Steering, SteeringTuning
from smartpay_router.domain.tenant import Tenant

FIRST, SECOND = DEMO_ACCOUNTS
THIRD = OTHER_ACCOUNT
TENANT = Tenant(DEMO_MERCHANT.merchant_id, DEMO_MERCHANT.livemode)
CHARGE = Charge(2500, "USD", {FIRST: "pm_1", SECOND: "pm_2", THIRD: "pm_3"})
ACCOUNTS = (
    *DEMO_MERCHANT.processor_accounts,
    DEMO_MERCHANT.processor_accounts[1].model_copy(update={"processor_account_id": THIRD}),
)
LEARNER_PREFERS_SECOND = {FIRST: 0.5, SECOND: 0.95, THIRD: 0.7}
STATIC = Terms(mode=Mode.STATIC)
ACCOUNT_IDS = (FIRST, SECOND, THIRD)
RICH = Budgets(BudgetTuning(rate=1.0, cap=1e9))
AT = FakeClock()()


class Told:
    """Believes what it is told, without a doubt, and counts who is waited for."""

    version = "told-1"

    def __init__(self, beliefs: Mapping[str, float]) -> None:
        self._beliefs = beliefs
        self.pulled: list[str] = []

    def estimates(
        self, arms: Sequence[Arm], values: Sequence[float] | Values, at: float
    ) -> Estimates:
        success = np.array([self._beliefs.get(arm.account, 0.9) for arm in arms])
        return Estimates.of(success, np.zeros(len(arms)), [40] * len(arms))

    def estimates_many(
        self, arms: Sequence[Arm], matrix: Sequence[Sequence[float]] | Values, at: float
    ) -> Estimates:
        raise AssertionError("a decision is of one payment")

    def pull(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        self.pulled.append(arm.account)

    def release(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        raise AssertionError("deciding releases nothing")

    def learn(
        self, arm: Arm, values: Sequence[float] | Values, reward: float, decided_at: float
    ) -> None:
        raise AssertionError("deciding teaches nothing")


class Desk:
    """A pipeline with its parts at hand."""

    def __init__(
        self, beliefs: Mapping[str, float], epsilon: float = 0.0, loss: float = 0.0
    ) -> None:
        self.learner = Told(beliefs)
        self.breakers = Breakers()
        steering = Steering(self.learner, self.breakers, RICH, SteeringTuning(epsilon=epsilon))
        self.pipeline = Pipeline(steering, self.learner, self.breakers, lambda model: loss)

    def route(
        self,
        terms: Terms,
        decision_id: str = "dec_1",
        charge: Charge = CHARGE,
        accounts: Sequence[ProcessorAccount] = ACCOUNTS,
    ) -> Route:
        policy = RoutingPolicy(2, terms)
        plan = self.pipeline.plan(TENANT, charge, candidates(charge, accounts), policy, AT)
        return self.pipeline.route(plan, decision_id)

    def fail(self, account: str) -> None:
        """Lets an account time out until its breaker opens; others of its processor still work."""
        arm = arm_of(account, "stripe", livemode=TENANT.livemode)
        at = AT.timestamp() - 60
        while self.breakers.standing(arm.account, arm.model).state is State.CLOSED:
            self.breakers.judge(arm.account, arm.model, Kind.TECHNICAL, at, at)


def order(route: Route) -> list[str]:
    return [ranked.processor_account_id for ranked in route.ranking]


def chances(route: Route) -> dict[str, float]:
    return {ranked.processor_account_id: ranked.propensity for ranked in route.ranking}


def payer_on(side: ServedBy, terms: Terms) -> Charge:
    """Finds a charge whose payer's lot falls to a side."""
    for number in range(10_000):
        charge = Charge(2500, "USD", CHARGE.tokens, fingerprint=f"print-{number}")
        if side_of(TENANT, charge.payer(), terms) is side:
            return charge
    raise AssertionError(f"no payer of {side}")


def test_the_learner_puts_the_best_first_and_the_rest_in_order_of_score() -> None:
    desk = Desk(LEARNER_PREFERS_SECOND)
    route = desk.route(Terms())
    assert order(route) == [SECOND, THIRD, FIRST]
    assert chances(route) == {SECOND: 1.0, THIRD: 0.0, FIRST: 0.0}
    assert (route.served_by, route.alternative) == (ServedBy.LIVE, FIRST)
    assert route.routing_policy_version == 2
    assert desk.learner.pulled == [SECOND]


def test_an_account_is_worth_its_success_less_fee_and_expected_losses() -> None:
    second = Desk(LEARNER_PREFERS_SECOND, loss=0.01).route(Terms()).ranking[0]
    assert second.fee_minor == 110
    assert second.expected_value == pytest.approx(0.95 * (1 - 110 / 2500 - 0.01))
    assert second.score == pytest.approx(second.expected_value)
    assert second.reasons[2] == (
        "Its fee is 110 of 2500 minor units USD, and chargebacks may take 1.00%."
    )


def test_a_fee_above_the_amount_is_worth_nothing_and_not_less() -> None:
    route = Desk({}).route(Terms(), charge=Charge(16, "USD", CHARGE.tokens))
    assert {(r.score, r.expected_value) for r in route.ranking} == {(0.0, 0.0)}


def test_the_kill_switch_serves_the_static_order_and_asks_no_learner() -> None:
    desk = Desk(LEARNER_PREFERS_SECOND)
    rule = Rule("PREFER_SECOND", Action.PREFER, (SECOND,))
    split = Split("ALL_TO_THIRD", (Share(THIRD, 100),))
    route = desk.route(
        Terms(kill_switch=True, static_order=(THIRD, FIRST), rules=(rule,), splits=(split,))
    )
    assert order(route) == [THIRD, FIRST, SECOND]
    assert chances(route)[THIRD] == 1.0
    assert route.served_by is ServedBy.KILL_SWITCH
    assert route.ranking[0].expected_success == 0
    assert desk.learner.pulled == []


def test_the_kill_switch_still_leaves_out_what_a_rule_excludes() -> None:
    rule = Rule("NOT_FIRST", Action.EXCLUDE, (FIRST,))
    route = Desk({}).route(Terms(kill_switch=True, rules=(rule,)))
    assert order(route) == [SECOND, THIRD]


def test_a_rule_that_prefers_accounts_puts_them_first_for_certain() -> None:
    desk = Desk(LEARNER_PREFERS_SECOND, epsilon=0.5)
    rule = Rule("THIRD_THEN_FIRST", Action.PREFER, (THIRD, FIRST))
    route = desk.route(Terms(rules=(rule,)))
    assert order(route) == [THIRD, FIRST, SECOND]
    assert chances(route)[THIRD] == 1.0
    assert route.served_by is ServedBy.RULE
    assert route.ranking[0].reasons[0] == "The rule THIRD_THEN_FIRST prefers it."
    assert desk.learner.pulled == [THIRD]


def test_a_preferred_account_whose_breaker_is_open_is_not_preferred() -> None:
    desk = Desk(LEARNER_PREFERS_SECOND)
    desk.fail(THIRD)
    rule = Rule("THIRD", Action.PREFER, (THIRD,))
    route = desk.route(Terms(rules=(rule,)))
    assert route.served_by is ServedBy.LIVE
    assert order(route)[0] == SECOND


def test_a_split_gives_accounts_their_shares_and_logs_them() -> None:
    desk = Desk(LEARNER_PREFERS_SECOND)
    terms = Terms(splits=(Split("QUARTERS", (Share(FIRST, 75), Share(THIRD, 25))),))
    routes = [desk.route(terms, f"dec_{i}") for i in range(2_000)]
    assert {tuple(sorted(chances(r).items())) for r in routes} == {
        tuple(sorted({FIRST: 0.75, THIRD: 0.25, SECOND: 0.0}.items()))
    }
    share = sum(order(r)[0] == FIRST for r in routes) / len(routes)
    assert share == pytest.approx(0.75, abs=0.03)  # 3 standard errors
    assert {r.served_by for r in routes} == {ServedBy.SPLIT}
    assert routes[0].matched_rules == ("QUARTERS",)


def test_a_split_leaves_the_share_of_who_cannot_charge_to_the_others() -> None:
    desk = Desk({})
    terms = Terms(splits=(Split("HALVES", (Share(FIRST, 50), Share(THIRD, 50))),))
    charge = Charge(2500, "USD", {SECOND: "pm_2", THIRD: "pm_3"})
    route = desk.route(terms, charge=charge)
    assert chances(route) == {THIRD: 1.0, SECOND: 0.0}


def test_a_split_that_nobody_can_serve_leaves_the_choice_to_the_next_and_then_the_mode() -> None:
    desk = Desk(LEARNER_PREFERS_SECOND)
    charge = Charge(2500, "USD", {FIRST: "pm_1", SECOND: "pm_2"})
    nobody = Split("NOBODY", (Share(THIRD, 100),))
    other = Split("FIRST", (Share(FIRST, 100),))
    assert desk.route(Terms(splits=(nobody,)), charge=charge).served_by is ServedBy.LIVE
    served = desk.route(Terms(splits=(nobody, other)), charge=charge)
    assert (served.served_by, order(served)[0]) == (ServedBy.SPLIT, FIRST)


def test_a_split_asks_only_for_payments_that_match() -> None:
    split = Split("GERMANY", (Share(THIRD, 100),), Condition(countries=("DE",)))
    desk = Desk(LEARNER_PREFERS_SECOND)
    assert order(desk.route(Terms(splits=(split,))))[0] == SECOND
    german = Charge(2500, "USD", CHARGE.tokens, country="DE")
    assert order(desk.route(Terms(splits=(split,)), charge=german))[0] == THIRD


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.SHADOW])
def test_static_and_shadow_serve_the_static_order_and_log_the_learners_choice(mode: Mode) -> None:
    desk = Desk(LEARNER_PREFERS_SECOND, epsilon=0.2)
    route = desk.route(Terms(mode=mode, static_order=(THIRD,)))
    assert order(route) == [THIRD, FIRST, SECOND]
    assert chances(route) == {THIRD: 1.0, FIRST: 0.0, SECOND: 0.0}
    assert route.alternative == SECOND
    assert not route.explored
    assert desk.learner.pulled == [THIRD]
    assert route.ranking[0].expected_success == 0.7


@pytest.mark.parametrize(
    ("terms", "learner", "static"),
    [
        (Terms(mode=Mode.CANARY, canary_percent=20), ServedBy.CANARY, ServedBy.CONTROL),
        (Terms(holdout_percent=30), ServedBy.LIVE, ServedBy.HOLDOUT),
    ],
)
def test_both_sides_log_the_chances_from_before_the_payers_lot_was_drawn(
    terms: Terms, learner: ServedBy, static: ServedBy
) -> None:
    share = 0.2 if learner is ServedBy.CANARY else 0.7
    desk = Desk(LEARNER_PREFERS_SECOND)
    theirs = desk.route(terms, charge=payer_on(learner, terms))
    assert (theirs.served_by, order(theirs)[0], theirs.alternative) == (learner, SECOND, FIRST)
    ours = desk.route(terms, charge=payer_on(static, terms))
    assert (ours.served_by, order(ours)[0], ours.alternative) == (static, FIRST, SECOND)
    for route in (theirs, ours):
        assert chances(route) == pytest.approx({SECOND: share, FIRST: 1 - share, THIRD: 0})


def test_logged_propensities_are_the_frequencies_of_standing_first() -> None:
    desk = Desk({FIRST: 0.95, SECOND: 0.5, THIRD: 0.5}, epsilon=0.3)
    routes = [desk.route(Terms(), f"dec_{i}") for i in range(4_000)]
    expected = {FIRST: 0.8, SECOND: 0.1, THIRD: 0.1}
    assert all(chances(r) == pytest.approx(expected) for r in routes)
    for account, chance in expected.items():
        share = sum(order(r)[0] == account for r in routes) / len(routes)
        assert share == pytest.approx(chance, abs=0.02)  # 3 standard errors
    assert all(r.explored == (order(r)[0] != FIRST) for r in routes)


def test_the_same_decision_is_drawn_the_same() -> None:
    desk = Desk({}, epsilon=0.5)
    assert desk.route(Terms(), "dec_7") == desk.route(Terms(), "dec_7")


def test_nobody_eligible_is_an_answer_with_the_exclusions() -> None:
    desk = Desk({})
    route = desk.route(Terms(), charge=Charge(2500, "SOL", CHARGE.tokens))
    assert route.ranking == ()
    assert [e.code for e in route.excluded] == ["CURRENCY_UNSUPPORTED"] * 3
    assert route.served_by is ServedBy.NOBODY
    assert desk.learner.pulled == []


def test_a_single_eligible_account_stands_first_with_certainty() -> None:
    route = Desk({}, epsilon=0.5).route(Terms(), charge=Charge(2500, "USD", {SECOND: "pm_2"}))
    assert chances(route) == {SECOND: 1.0}
    assert not route.explored
    assert route.ranking[0].reasons[0] == "It is the only account that can make this charge."


def test_reasons_say_in_words_what_decided() -> None:
    first, *behind = Desk({FIRST: 0.912, SECOND: 0.5, THIRD: 0.5}).route(Terms()).ranking
    place, success, fee = first.reasons
    assert place == "Number 1 of 3 by expected value after fees."
    assert success == "Expected to succeed in 91.2% of such charges, give or take 0.0 points."
    assert fee == "Its fee is 103 of 2500 minor units USD."
    assert [r.reasons[0] for r in behind] == [
        "Number 2 of 3 by expected value after fees.",
        "Number 3 of 3 by expected value after fees.",
    ]


def test_an_account_whose_processor_fails_stands_last_and_says_so() -> None:
    desk = Desk({FIRST: 0.99, SECOND: 0.5, THIRD: 0.4})
    desk.fail(FIRST)
    last = desk.route(Terms(), "dec_3").ranking[-1]
    assert (last.processor_account_id, last.breaker) == (FIRST, State.OPEN)
    assert last.reasons[-1] == "Its processor was failing."
    assert len(last.reasons) <= 4


def test_every_reason_fits_the_contract() -> None:
    for terms in (Terms(), STATIC, Terms(kill_switch=True), Terms(mode=Mode.SHADOW)):
        for ranked in Desk({}).route(terms).ranking:
            assert 1 <= len(ranked.reasons) <= 4
            assert all(reason.endswith(".") for reason in ranked.reasons)


TERMS = st.builds(
    Terms,
    kill_switch=st.booleans(),
    mode=st.sampled_from(Mode),
    canary_percent=st.integers(0, 100),
    holdout_percent=st.integers(0, 50),
    static_order=st.permutations(list(ACCOUNT_IDS)).map(tuple),
    rules=st.lists(
        st.builds(
            Rule,
            rule_id=st.just("A"),
            action=st.sampled_from(Action),
            accounts=st.lists(st.sampled_from(ACCOUNT_IDS), min_size=1, unique=True).map(tuple),
        ),
        max_size=2,
    ).map(tuple),
    splits=st.lists(
        st.sampled_from(ACCOUNT_IDS).map(
            lambda account: (
                Split("B", (Share(account, 30), Share(FIRST, 70)))
                if account != FIRST
                else Split("B", (Share(FIRST, 100),))
            )
        ),
        max_size=1,
    ).map(tuple),
    fee_basis_points_max=st.sampled_from([0, 412]),
)


@given(TERMS, st.integers(0, 1_000), st.floats(0, 0.5), st.sampled_from(["", *ACCOUNT_IDS]))
def test_whatever_the_policy_says_chances_are_exact_and_everybody_eligible_is_ranked(
    terms: Terms, number: int, epsilon: float, failing: str
) -> None:
    desk = Desk(LEARNER_PREFERS_SECOND, epsilon=epsilon)
    if failing:
        desk.fail(failing)
    charge = Charge(2500, "USD", CHARGE.tokens, fingerprint=f"print-{number}")
    route = desk.route(terms, f"dec_{number}", charge)
    excluded = [exclusion.processor_account_id for exclusion in route.excluded]
    assert sorted([*order(route), *excluded]) == sorted(ACCOUNT_IDS)
    if not route.ranking:
        return
    assert sum(chances(route).values()) == pytest.approx(1)
    assert all(0 <= chance <= 1 for chance in chances(route).values())
    assert chances(route)[order(route)[0]] > 0
    assert len(desk.learner.pulled) == (not terms.kill_switch)
