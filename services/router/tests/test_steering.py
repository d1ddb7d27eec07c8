from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_router.domain.breakers import Breakers, Kind, State
from smartpay_router.domain.exploration import Budgets, BudgetTuning
from smartpay_router.domain.learner import Arm, Estimates
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.schema import Schema, Values
from smartpay_router.domain.steering import Option, Ranking, Reason, Steering, SteeringTuning

A, B, C = (Option(Arm(f"pac_{name}", "live/stripe"), 0.0) for name in "abc")
ONES = np.ones(1)
OK, NO, DOWN = Kind.SUCCESS, Kind.DECLINE, Kind.TECHNICAL


class Told:
    """Believes what it is told, and keeps what it hears."""

    version = "told-1"

    def __init__(self, beliefs: Mapping[Option, tuple[float, float]]) -> None:
        self._beliefs = {option.arm: belief for option, belief in beliefs.items()}
        self.outcomes = 10**18  # that each account had
        self.pulled: list[tuple[Arm, float]] = []
        self.learned: list[tuple[Arm, float, float]] = []

    def estimates(
        self, arms: Sequence[Arm], values: Sequence[float] | Values, at: float
    ) -> Estimates:
        means, widths = zip(*(self._beliefs.get(arm, (0.9, 0.0)) for arm in arms), strict=True)
        return Estimates.of(np.array(means), np.array(widths), [self.outcomes] * len(arms))

    def estimates_many(
        self, arms: Sequence[Arm], matrix: Sequence[Sequence[float]] | Values, at: float
    ) -> Estimates:
        raise AssertionError("a ranking is of one payment")

    def pull(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        self.pulled.append((arm, at))

    def release(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        self.pulled.remove((arm, at))

    def learn(
        self, arm: Arm, values: Sequence[float] | Values, reward: float, decided_at: float
    ) -> None:
        self.learned.append((arm, reward, decided_at))

    def learn_many(
        self,
        arms: Sequence[Arm],
        matrix: Sequence[Sequence[float]] | Values,
        rewards: Sequence[float] | Values,
        decided_at: Sequence[float] | Values,
    ) -> None:
        for arm, values, reward, at in zip(arms, matrix, rewards, decided_at, strict=True):
            self.learn(arm, values, reward, at)


class Road:
    """A steering with one payment per second."""

    def __init__(
        self,
        beliefs: Mapping[Option, tuple[float, float]] | None = None,
        tuning: SteeringTuning | None = None,
        budget: BudgetTuning | None = None,
        seed: int = 1,
    ) -> None:
        self.learner = Told(beliefs or {})
        self.budgets = Budgets(budget or BudgetTuning(start=0))
        self.steering = Steering(self.learner, Breakers(), self.budgets, tuning)
        self.dice = random.Random(seed)
        self.now = 1_000.0

    def rank(self, *options: Option, baseline: str | None = None, pull: bool = False) -> Ranking:
        self.now += 1
        return self.steering.rank(
            options,
            ONES,
            baseline=baseline,
            budget_key="mer",
            at=self.now,
            dice=self.dice,
            pull=pull,
        )

    def breaks(self, *options: Option) -> None:
        for option in options:
            for _ in range(3):
                self.settles(option, DOWN)

    def settles(self, option: Option, kind: Kind | None, reward: float | None = 0.0) -> None:
        self.now += 1
        self.steering.settle(option.arm, ONES, kind, reward, self.now, self.now, pulled=False)


def alone(number: int) -> Option:
    """An account that shares with nobody."""
    return Option(Arm(f"alone_{number}", f"alone_{number}"), 0.01 * number)


def order(ranking: Ranking) -> list[str]:
    return [place.option.arm.account[-1] for place in ranking.places]


NO_CHANCE = SteeringTuning(epsilon=0.0)


def test_the_score_is_hope_times_what_the_fee_leaves() -> None:
    dear = Option(C.arm, 0.5)
    road = Road({A: (0.8, 0.0), dear: (0.9, 0.0)}, NO_CHANCE)
    ranking = road.rank(dear, A)
    assert order(ranking) == ["a", "c"]
    assert [place.score for place in ranking.places] == pytest.approx([0.8, 0.45])
    assert ranking.why_first == Reason.LEADS


def test_of_two_equal_accounts_the_less_known_leads_and_else_the_merchants_first() -> None:
    assert order(Road({A: (0.8, 0.1), B: (0.8, 0.5)}, NO_CHANCE).rank(A, B)) == ["b", "a"]
    assert order(Road(None, NO_CHANCE).rank(B, A)) == ["b", "a"]


def test_a_single_account_is_certain() -> None:
    (place,) = Road().rank(A).places
    assert place.propensity == 1
    assert place.reasons == (Reason.ONLY,)


def test_without_accounts_there_is_nothing_to_rank() -> None:
    with pytest.raises(ValueError, match="no account"):
        Road().rank()


def test_epsilon_gives_every_healthy_account_the_same_small_chance() -> None:
    road = Road({A: (0.9, 0.0), B: (0.8, 0.0), C: (0.7, 0.0)}, SteeringTuning(epsilon=0.03))
    chances = {p.option.arm.account[-1]: p.propensity for p in road.rank(A, B, C).places}
    assert chances == pytest.approx({"a": 0.98, "b": 0.01, "c": 0.01})


@settings(max_examples=150, deadline=None)
@given(
    beliefs=st.lists(
        st.tuples(st.floats(-0.5, 1.5), st.floats(0, 2), st.booleans()), min_size=1, max_size=6
    ),
    baseline=st.one_of(st.none(), st.integers(0, 6)),
    epsilon=st.floats(0, 0.75),
    tokens=st.booleans(),
    seed=st.integers(0, 9),
)
def test_chances_sum_to_one_and_every_account_has_one(
    beliefs: list[tuple[float, float, bool]],
    baseline: int | None,
    epsilon: float,
    tokens: bool,
    seed: int,
) -> None:
    options = [alone(number) for number in range(len(beliefs))]
    told = {option: belief[:2] for option, belief in zip(options, beliefs, strict=True)}
    budget = BudgetTuning(rate=1.0 if tokens else 0.0, start=0)
    road = Road(told, SteeringTuning(epsilon=epsilon), budget, seed)
    road.breaks(*(o for o, belief in zip(options, beliefs, strict=True) if belief[2]))
    ranking = road.rank(
        *options, baseline=None if baseline is None else f"alone_{baseline}", pull=True
    )
    assert sum(place.propensity for place in ranking.places) == pytest.approx(1, abs=1e-12)
    assert all(place.propensity >= 0 for place in ranking.places)
    assert ranking.places[0].propensity > 0
    assert {place.option for place in ranking.places} == set(options)
    assert all(p.propensity >= 0.1 * epsilon / len(options) - 1e-12 for p in ranking.places)
    open_behind_closed = [place.breaker is not State.CLOSED for place in ranking.places[1:]]
    assert open_behind_closed == sorted(open_behind_closed)


@pytest.mark.parametrize("broken", [(), ("a",), ("a", "c"), ("a", "b", "c")])
def test_draws_come_as_often_as_they_are_said_to(broken: tuple[str, ...]) -> None:
    options = {o.arm.account[-1]: Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B, C)}
    a, b, c = options.values()
    road = Road({a: (0.9, 0.1), b: (0.8, 0.1), c: (0.7, 0.1)}, SteeringTuning(epsilon=0.2))
    road.breaks(*(options[name] for name in broken))
    at, draws, seen = road.now, 10_000, Counter[Option]()
    for _ in range(draws):
        road.now = at
        ranking = road.rank(a, b, c)
        seen[ranking.places[0].option] += 1
    for place in ranking.places:
        chance = place.propensity
        four_deviations = 4 * (chance * (1 - chance) / draws) ** 0.5
        assert seen[place.option] / draws == pytest.approx(chance, abs=four_deviations)


def test_an_open_account_gets_a_hundredth_and_stands_last() -> None:
    a, b, c = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B, C))
    road = Road({a: (0.99, 0.0), b: (0.8, 0.0), c: (0.7, 0.0)}, NO_CHANCE)
    road.breaks(a)
    ranking = road.rank(a, b, c)
    places = {place.option: place for place in ranking.places}
    assert order(ranking) == ["b", "c", "a"]
    assert places[a].propensity == pytest.approx(0.01)
    assert places[c].propensity == 0
    assert places[b].propensity == pytest.approx(0.99)
    assert places[a].breaker is State.OPEN
    assert Reason.BREAKER_OPEN in places[a].reasons


def test_an_account_whose_probe_succeeded_is_probed_more_often() -> None:
    a, b = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B))
    road = Road(None, NO_CHANCE)
    road.breaks(a)
    road.settles(a, OK, 1.0)
    places = {place.option: place for place in road.rank(a, b).places}
    assert places[a].propensity == pytest.approx(0.25)
    assert places[a].breaker is State.PROBING


def test_while_a_probe_is_under_way_no_more_are_hurried_after_it() -> None:
    a, b = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B))
    road = Road(None, SteeringTuning(epsilon=0.0, eager_share=1.0))
    road.breaks(a)
    road.settles(a, OK, 1.0)
    sent = road.rank(a, b, pull=True)
    assert order(sent)[0] == "a"
    assert sent.why_first == Reason.PROBE
    assert {p.option: p.propensity for p in road.rank(a, b).places}[a] == pytest.approx(0.01)
    road.steering.settle(a.arm, ONES, OK, 1.0, road.now - 1, road.now)
    assert {p.option: p.propensity for p in road.rank(a, b).places}[a] == pytest.approx(1)


def test_an_open_account_that_would_not_lead_has_a_tenth_of_epsilons_chance() -> None:
    a, b = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B))
    road = Road({a: (0.7, 0.0), b: (0.8, 0.0)}, SteeringTuning(epsilon=0.002))
    road.breaks(a)
    places = {place.option: place for place in road.rank(a, b).places}
    assert places[a].propensity == pytest.approx(0.0001)


def test_a_merchants_own_first_account_is_probed_whatever_is_believed_of_it() -> None:
    a, b = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B))
    road = Road({a: (0.7, 0.0), b: (0.8, 0.0)}, NO_CHANCE)
    road.breaks(a)
    places = {p.option: p for p in road.rank(a, b, baseline=a.arm.account).places}
    assert places[a].propensity == pytest.approx(0.01)


def test_a_small_merchants_open_account_is_probed_after_a_while_and_then_after_longer() -> None:
    a, b = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B))
    road = Road(None, SteeringTuning(epsilon=0.0, probe_wait_seconds=60, eager_share=0.25))
    road.breaks(a)
    opened = road.now

    def share() -> float:
        return {p.option: p.propensity for p in road.rank(a, b).places}[a]

    assert share() == pytest.approx(0.01)
    road.now = opened + 61
    assert share() == pytest.approx(0.25)
    road.settles(a, DOWN)
    road.now = opened + 110
    assert share() == pytest.approx(0.01)
    road.now = opened + 121
    assert share() == pytest.approx(0.25)


def test_when_all_are_open_the_one_whose_probes_did_best_leads() -> None:
    a, b = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B))
    road = Road({a: (0.95, 0.0), b: (0.8, 0.0)}, NO_CHANCE)
    road.breaks(a, b)
    ranking = road.rank(a, b)
    assert order(ranking) == ["a", "b"]
    assert ranking.why_first == Reason.ALL_OPEN
    road.settles(a, DOWN)
    assert order(road.rank(a, b)) == ["b", "a"]


def test_hope_alone_leaves_the_merchants_order_only_when_the_budget_can_pay_for_the_worst() -> None:
    beliefs = {A: (0.9, 0.0), B: (0.9, 1.0)}
    poor = Road(beliefs, NO_CHANCE, BudgetTuning(rate=0.0, start=0))
    ranking = poor.rank(A, B, baseline="pac_a", pull=True)
    assert order(ranking) == ["a", "b"]
    assert ranking.why_first == Reason.BASELINE_KEPT
    # At worst B costs 1.5 x sqrt(.9 x .1) = .45 of a payment; .25 x .9 is lent with each.
    rich = Road(beliefs, NO_CHANCE, BudgetTuning(rate=0.25, start=0))
    firsts = [rich.rank(A, B, baseline="pac_a", pull=True).why_first for _ in range(6)]
    assert firsts == [Reason.BASELINE_KEPT, Reason.TOKEN] * 3


def test_what_is_shown_to_be_better_needs_no_token_and_pays_in() -> None:
    road = Road({A: (0.8, 0.1), B: (0.95, 0.1)}, NO_CHANCE, BudgetTuning(rate=0.0, start=0))
    ranking = road.rank(A, B, baseline="pac_a", pull=True)
    assert order(ranking) == ["b", "a"]
    assert ranking.why_first == Reason.PROVEN
    assert 0 < road.budgets.tokens("mer") < 0.15


def test_of_few_outcomes_a_lead_proves_less() -> None:
    road = Road({A: (0.8, 0.15), B: (0.95, 0.15)}, NO_CHANCE)
    why = []
    for road.learner.outcomes in (0, 5, 50, 50_000):
        why.append(road.rank(A, B, baseline="pac_a").why_first)
    assert why == [Reason.BASELINE_KEPT] * 2 + [Reason.PROVEN] * 2


def test_a_lead_that_doubt_about_the_baseline_could_explain_is_no_proof() -> None:
    road = Road({A: (0.8, 0.5), B: (0.95, 0.1)}, NO_CHANCE, BudgetTuning(rate=0.0, start=0))
    assert order(road.rank(A, B, baseline="pac_a", pull=True)) == ["a", "b"]


def test_an_account_under_suspicion_costs_more_to_try() -> None:
    beliefs = {A: (0.9, 0.0), B: (0.9, 0.1)}
    calm, alarmed = (Road(beliefs, NO_CHANCE, BudgetTuning(rate=0.1, start=0)) for _ in range(2))
    for road in (calm, alarmed):
        for _ in range(30):
            road.settles(B, OK, 1.0)
    alarmed.settles(B, NO)
    assert calm.rank(A, B, baseline="pac_a", pull=True).why_first == Reason.TOKEN
    assert alarmed.rank(A, B, baseline="pac_a", pull=True).why_first == Reason.BASELINE_KEPT


def test_without_a_token_the_best_of_the_proven_leads_not_the_hopeful() -> None:
    beliefs = {A: (0.8, 0.0), B: (0.95, 0.1), C: (0.9, 2.0)}
    road = Road(beliefs, NO_CHANCE, BudgetTuning(rate=0.0, start=0))
    assert order(road.rank(A, B, C, baseline="pac_a", pull=True))[0] == "b"


def test_a_budget_in_debt_leaves_a_tenth_of_epsilon() -> None:
    road = Road({A: (0.9, 0.0), B: (0.5, 0.0)}, SteeringTuning(epsilon=0.02))
    assert road.rank(A, B, baseline="pac_a").places[1].propensity == pytest.approx(0.01)
    road.budgets.book("mer", -1.0)
    assert road.rank(A, B, baseline="pac_a").places[1].propensity == pytest.approx(0.001)
    assert road.rank(A, B, baseline=None).places[1].propensity == pytest.approx(0.01)


def test_nobody_is_bound_to_a_dead_baseline() -> None:
    a, b = (Option(Arm(o.arm.account, o.arm.account), 0.0) for o in (A, B))
    road = Road({a: (0.99, 0.0), b: (0.5, 0.5)}, NO_CHANCE, BudgetTuning(rate=0.0, start=0))
    road.breaks(a)
    ranking = road.rank(a, b, baseline=a.arm.account, pull=True)
    assert ranking.why_first == Reason.LEADS
    assert ranking.places[0].option == b


def test_a_ranking_nobody_follows_leaves_no_trace() -> None:
    road = Road({A: (0.9, 0.0), B: (0.9, 1.0)}, NO_CHANCE, BudgetTuning(rate=0.3, start=0))
    for _ in range(5):
        road.rank(A, B, baseline="pac_a", pull=False)
    assert road.learner.pulled == []
    assert road.rank(A, B, baseline="pac_a", pull=True).why_first == Reason.BASELINE_KEPT


def test_a_followed_ranking_pulls_its_first_place_until_the_outcome_releases_it() -> None:
    road = Road()
    road.rank(A, B, pull=True)
    assert [arm for arm, _ in road.learner.pulled] == [A.arm]
    road.steering.settle(A.arm, ONES, OK, 1.0, road.now, road.now)
    assert road.learner.pulled == []
    assert road.learner.learned == [(A.arm, 1.0, road.now)]


def test_outcomes_under_suspicion_wait_and_are_learned_in_order_when_it_ends() -> None:
    road = Road()
    for _ in range(30):
        road.settles(A, OK, 1.0)
    for _ in range(3):
        road.settles(A, NO, 0.0)
    assert len(road.learner.learned) == 31
    for _ in range(5):
        road.settles(A, OK, 1.0)
    assert [reward for _, reward, _ in road.learner.learned[30:]] == [*[0.0] * 3, *[1.0] * 5]
    times = [at for _, _, at in road.learner.learned]
    assert times == sorted(times)


def test_an_outages_outcomes_are_never_learned_and_their_pulls_are_released() -> None:
    road = Road()
    for _ in range(3):
        road.rank(A, pull=True)
        road.steering.settle(A.arm, ONES, DOWN, 0.0, road.now, road.now)
    assert road.learner.learned == []
    assert road.learner.pulled == []


def test_what_is_no_outage_after_many_payments_is_a_change_and_learned() -> None:
    road = Road(tuning=SteeringTuning(held_max=5))
    for _ in range(30):
        road.settles(A, OK, 1.0)
    for _ in range(3):
        road.settles(A, NO)
    for _ in range(10):
        road.settles(A, OK, 1.0)
        road.settles(A, OK, 1.0)
        road.settles(A, NO)
    assert 30 + 33 - 5 <= len(road.learner.learned) <= 30 + 33


def test_an_account_dead_from_the_start_is_learned_as_such_and_not_suspected() -> None:
    road = Road()
    for _ in range(12):
        road.settles(A, NO)
    assert [reward for _, reward, _ in road.learner.learned] == [0.0] * 12


def test_an_unjudged_outcome_is_learned_and_an_untaught_one_is_judged() -> None:
    road = Road()
    road.settles(A, None, 0.0)
    assert len(road.learner.learned) == 1
    for _ in range(3):
        road.settles(A, DOWN, None)
    assert road.rank(A, B).places[-1].breaker is State.OPEN
    assert len(road.learner.learned) == 1


def test_a_reward_beyond_its_range_is_refused_and_not_judged() -> None:
    road = Road()
    for reward in (float("nan"), 1.01, -0.01):
        with pytest.raises(ValueError, match="within 0 to 1"):
            road.settles(A, DOWN, reward)
    assert road.rank(A, B).places[0].breaker is State.CLOSED


SCHEMA = Schema("test", ("intercept", "x"), (1.0, 20.0))


def test_an_unjudged_outcome_from_before_an_outage_is_learned_live_as_in_a_replay() -> None:
    live, replayed = Road(), Road()
    for road in (live, replayed):
        road.breaks(A)
    live.steering.settle(A.arm, ONES, None, 0.0, 900.0, live.now, pulled=False)
    replayed.steering.settle_many([A.arm], ONES[None], [None], [0.0], [900.0], [live.now])
    assert live.learner.learned == replayed.learner.learned == [(A.arm, 0.0, 900.0)]


def test_chances_that_would_leave_the_leader_none_are_refused() -> None:
    with pytest.raises(ValueError, match="leave the leader a chance"):
        SteeringTuning(epsilon=0.8)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B, C]),
            st.sampled_from(
                [(OK, 1.0), (OK, 1.0), (OK, 1.0), (NO, 0.0), (DOWN, 0.0), (None, 0.0), (DOWN, None)]
            ),
            st.floats(-1, 1),
        ),
        max_size=150,
    ),
    st.integers(0, 150),
)
def test_a_replay_from_a_state_ends_where_living_through_it_ended(
    story: list[tuple[Option, tuple[Kind | None, float | None], float]], cut: int
) -> None:
    lived, learner = fresh()
    halfway, halfway_learner = fresh()
    rows = []
    state = halfway.state()
    for number, (option, (kind, reward), x) in enumerate(story):
        values = np.array([1.0, x])
        row = (option.arm, values, kind, reward, float(number))
        rows.append(row)
        lived.settle(*row, float(number), pulled=False)
        if number < cut:
            halfway.settle(*row, float(number), pulled=False)
            state = halfway.state()
    resumed = Steering(halfway_learner, Breakers(), Budgets())
    resumed.restore(state)
    if rest := rows[cut:]:
        arms, values, kinds, rewards, times = zip(*rest, strict=True)
        resumed.settle_many(arms, np.array(values), kinds, rewards, times, times)
    assert resumed.state() == lived.state()
    probe = np.array([1.0, 0.5])
    arms = [o.arm for o in (A, B, C)]
    # So late that both solve anew: in between, how alike payers seem may be a doubling behind.
    ours = halfway_learner.estimates(arms, probe, 10_000.0)
    theirs = learner.estimates(arms, probe, 10_000.0)
    np.testing.assert_allclose(ours.success, theirs.success, rtol=0, atol=1e-9)


def fresh() -> tuple[Steering, LinUcb]:
    learner = LinUcb(SCHEMA, Tuning(memory_seconds=1_000.0))
    return Steering(learner, Breakers(), Budgets()), learner


@pytest.mark.parametrize("state", [b"{}", b"[]", b'{"held":[[1]],"breakers":{}}', b"no"])
def test_bytes_that_are_no_state_are_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="no state of a steering"):
        Road().steering.restore(state)


def test_the_same_dice_give_the_same_rankings() -> None:
    def story() -> list[Ranking]:
        road = Road({A: (0.9, 0.3), B: (0.85, 0.5)}, SteeringTuning(epsilon=0.3), seed=4)
        return [road.rank(A, B, C, baseline="pac_a", pull=True) for _ in range(200)]

    assert story() == story()
