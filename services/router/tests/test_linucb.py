from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smartpay_router.domain.learner import VARIANCE_FLOOR, Arm, Estimates
from smartpay_router.domain.linucb import LinUcb, Tuning
from smartpay_router.domain.schema import Schema
from smartpay_router.domain.totals import Totals

NOW = 1_770_000_000.0
DAY = 86_400.0
SCHEMA = Schema("test-1", ("intercept", "amount", "risk", "night"), (1.0, 20.0, 20.0, 40.0))
PLAIN = Tuning(memory_seconds=math.inf, residual_outcomes=math.inf, ridge_doubt=0.0)
STRIPE, AMAZON = Arm("pac_a", "live/stripe"), Arm("pac_b", "live/amazon_pay")
ARMS = (STRIPE, AMAZON)

Floats = NDArray[np.float64]


def some_values(dice: np.random.Generator, count: int) -> Floats:
    rows = dice.normal(size=(count, len(SCHEMA.features)))
    rows[:, 0] = 1.0
    return rows


def history(count: int, seed: int = 1) -> tuple[list[Arm], Floats, Floats, Floats]:
    """Outcomes of two arms, a minute apart, in the order in which they were decided."""
    dice = np.random.default_rng(seed)
    rewards: Floats = (dice.random(count) < 0.85).astype(np.float64)
    times: Floats = NOW + 60.0 * np.arange(count, dtype=np.float64)
    return [ARMS[i] for i in dice.integers(2, size=count)], some_values(dice, count), rewards, times


def taught(tuning: Tuning, count: int = 200, seed: int = 1) -> LinUcb:
    learner = LinUcb(SCHEMA, tuning)
    for arm, values, reward, at in zip(*history(count, seed), strict=True):
        learner.learn(arm, values, reward, at)
    return learner


def same(ours: Estimates, theirs: Estimates, tolerance: float = 1e-9) -> bool:
    return (
        np.allclose(ours.success, theirs.success, rtol=0, atol=tolerance)
        and np.allclose(ours.width, theirs.width, rtol=0, atol=tolerance)
        and np.allclose(ours.spread, theirs.spread, rtol=0, atol=tolerance)
        and list(ours.outcomes) == list(theirs.outcomes)
    )


def state(learner: LinUcb) -> bytes:
    return learner.totals().encode()


def solved(arm: Arm, asked: Floats, weights: Floats) -> tuple[float, float]:
    """Answers success and width by weighted ridge regression, solved at once."""
    arms, rows, rewards, _ = history(len(weights))
    mine = np.array([a == arm for a in arms]) * weights
    ridges = np.diag(SCHEMA.ridges)
    prior = np.array([0.9, 0, 0, 0])
    precision = ridges + (rows.T * mine) @ rows
    theta = np.linalg.solve(precision, ridges @ prior + rows.T @ (mine * rewards))
    return float(asked @ theta), math.sqrt(asked @ np.linalg.solve(precision, asked))


def test_estimates_are_those_of_ridge_regression_around_the_prior() -> None:
    learner = taught(PLAIN)
    asked = some_values(np.random.default_rng(2), 1)[0]
    found = learner.estimates(ARMS, asked, NOW)
    for place, arm in enumerate(ARMS):
        success, width = solved(arm, asked, np.ones(200))
        assert found.success[place] == pytest.approx(success, abs=1e-12)
        assert found.width[place] == pytest.approx(width, abs=1e-12)


def test_an_outcome_weighs_less_with_every_second() -> None:
    memory = 50 * 60.0
    learner = taught(replace(PLAIN, memory_seconds=memory))
    at = NOW + DAY
    asked = some_values(np.random.default_rng(2), 1)[0]
    found = learner.estimates(ARMS, asked, at)
    weights = np.exp((history(200)[3] - at) / memory)
    for place, arm in enumerate(ARMS):
        success, width = solved(arm, asked, weights)
        assert found.success[place] == pytest.approx(success, abs=1e-12)
        assert found.width[place] == pytest.approx(width, abs=1e-12)


def test_after_many_memories_only_the_prior_is_left() -> None:
    learner = taught(Tuning(memory_seconds=60.0))
    asked = (1.0, 0.5, -0.5, 0.0)
    found = learner.estimates(ARMS, asked, NOW + 365 * DAY)
    fresh = LinUcb(SCHEMA).estimates(ARMS, asked, NOW)
    assert np.allclose(found.success, fresh.success, atol=1e-12)
    assert np.allclose(found.width, fresh.width, atol=1e-12)


@pytest.mark.parametrize("memory", [math.inf, 600.0, 36_000.0])
def test_stepping_from_outcome_to_outcome_is_solving_anew(memory: float) -> None:
    # Solved once, as of the first outcome: the last one is 15 of the shorter memories later.
    tuning = Tuning(
        memory_seconds=memory, ridge_doubt=0.0, refresh_share=20.0, refresh_changes=10**9
    )
    stepping, solving = LinUcb(SCHEMA, tuning), LinUcb(SCHEMA, tuning)
    arms, rows, rewards, times = history(150)
    stepping.learn_many(arms[:80], rows[:80], rewards[:80], times[:80])
    stepping.estimates(ARMS, rows[7], NOW)
    for arm, values, reward, at in zip(arms[80:], rows[80:], rewards[80:], times[80:], strict=True):
        stepping.learn(arm, values, reward, at)
    solving.learn_many(arms, rows, rewards, times)
    assert same(stepping.estimates(ARMS, rows[7], NOW), solving.estimates(ARMS, rows[7], NOW))


@given(st.permutations(range(60)))
@settings(max_examples=20, deadline=None)
def test_late_outcomes_teach_what_they_would_have_taught_in_time(order: list[int]) -> None:
    tuning = Tuning(memory_seconds=100.0)  # the landmark moves every 54 outcomes
    arms, rows, rewards, times = history(60)
    late = LinUcb(SCHEMA, tuning)
    for i in order:
        late.learn(arms[i], rows[i], rewards[i], times[i])
    in_time = taught(tuning, 60)
    at = times[-1] + 60.0
    assert late.totals().landmark == in_time.totals().landmark
    assert same(late.estimates(ARMS, rows[0], at), in_time.estimates(ARMS, rows[0], at))


def test_learning_many_at_once_is_learning_them_one_by_one() -> None:
    for memory in (math.inf, 90.0, 1e6):
        tuning = Tuning(memory_seconds=memory)
        arms, rows, rewards, times = history(300)
        at_once = LinUcb(SCHEMA, tuning)
        at_once.learn_many(arms, rows, rewards, times)
        ours, theirs = at_once.totals(), taught(tuning, 300).totals()
        assert (ours.revision, ours.landmark) == (theirs.revision, theirs.landmark)
        for mine, other in ((ours.models, theirs.models), (ours.accounts, theirs.accounts)):
            assert {k: s.outcomes for k, s in mine.items()} == {
                k: s.outcomes for k, s in other.items()
            }
            for key, known in mine.items():
                assert np.allclose(known.values, other[key].values, rtol=1e-12, atol=0)


def test_nothing_to_learn_changes_nothing() -> None:
    learner = taught(PLAIN)
    before = state(learner)
    learner.learn_many([], np.zeros((0, 4)), [], [])
    assert state(learner) == before


def test_contexts_in_a_batch_are_estimated_as_each_alone() -> None:
    learner = taught(Tuning())
    rows = some_values(np.random.default_rng(3), 5)
    arms = (AMAZON, STRIPE, Arm("pac_c", "live/solana"), Arm("pac_d", "live/stripe"))
    at = NOW + DAY
    batch = learner.estimates_many(arms, rows, at)
    assert batch.success.shape == (5, 4)
    for place, row in enumerate(rows):
        alone = learner.estimates(arms, row, at)
        picked = Estimates(
            batch.success[place], batch.width[place], batch.spread[place], batch.outcomes
        )
        assert same(picked, alone, 1e-12)


def test_many_models_are_estimated_as_few() -> None:
    crowd = [Arm(f"pac_{i}", f"world/{i}") for i in range(20)]
    dice = np.random.default_rng(4)
    rows = some_values(dice, 400)
    # Each model by itself: what payers mean at one says nothing of how much they do at another.
    tuning = Tuning(ridge_doubt=0.0)
    learner = LinUcb(SCHEMA, tuning)
    alone = {arm: LinUcb(SCHEMA, tuning) for arm in crowd}
    for i, row in enumerate(rows):
        arm, reward = crowd[i % 20], float(dice.random() < 0.8)
        learner.learn(arm, row, reward, NOW)
        alone[arm].learn(arm, row, reward, NOW)
    for arm in crowd:
        ours, theirs = (x.estimates((arm,), rows[0], NOW) for x in (learner, alone[arm]))
        assert same(ours, theirs)


def test_payers_that_seem_alike_are_drawn_together_the_more_was_seen() -> None:
    """Outcomes here do not depend on the features at all."""
    asked = (1.0, 2.0, -2.0, 2.0)
    firm, doubting = (
        taught(Tuning(memory_seconds=math.inf, ridge_doubt=doubt), 200) for doubt in (0.0, 3.0)
    )
    level = firm.estimates(ARMS, (1.0, 0.0, 0.0, 0.0), NOW).success
    apart = [
        np.abs(learner.estimates(ARMS, asked, NOW).success - level).sum()
        for learner in (doubting, firm)
    ]
    assert apart[0] < 0.95 * apart[1]


def test_how_alike_payers_are_is_asked_again_whenever_twice_as_much_is_known() -> None:
    tuning = Tuning(memory_seconds=math.inf, refresh_changes=10**9)
    arms, rows, rewards, times = history(500)
    stepping = LinUcb(SCHEMA, tuning)
    agreed = []
    for number, (arm, values, reward, at) in enumerate(
        zip(arms, rows, rewards, times, strict=True), 1
    ):
        stepping.learn(arm, values, reward, at)
        found = stepping.estimates(ARMS, rows[7], NOW)
        solving = LinUcb(SCHEMA, tuning)
        solving.learn_many(arms[:number], rows[:number], rewards[:number], times[:number])
        if same(found, solving.estimates(ARMS, rows[7], NOW)):
            agreed.append(number)
    assert set(agreed) >= {1, 3, 7, 15, 31, 63, 127, 255}
    assert len(agreed) < 20


def test_an_account_never_seen_is_believed_good_and_unknown() -> None:
    learner = taught(PLAIN)
    asked = (1.0, 0.0, 0.0, 0.0)
    seen, unseen = STRIPE, Arm("pac_new", "live/solana")
    found = learner.estimates((seen, unseen), asked, NOW)
    assert found.success[1] == pytest.approx(0.9)
    assert found.width[1] > 3 * found.width[0]
    assert found.outcomes[1] == 0
    assert learner.estimates((), asked, NOW).success.shape == (0,)


def test_accounts_share_what_their_model_knows_and_keep_what_sets_them_apart() -> None:
    learner = LinUcb(SCHEMA, Tuning(memory_seconds=math.inf))
    good, bad = Arm("pac_good", "live/stripe"), Arm("pac_bad", "live/stripe")
    values = (1.0, 0.0, 0.0, 0.0)
    for i in range(400):
        learner.learn(good, values, float(i % 20 != 0), NOW)
        learner.learn(bad, values, float(i % 5 != 0), NOW)
    fresh = Arm("pac_fresh", "live/stripe")
    found = learner.estimates((good, bad, fresh), values, NOW).success
    assert found[0] == pytest.approx(0.95, abs=0.01)
    assert found[1] == pytest.approx(0.80, abs=0.01)
    assert found[2] == pytest.approx(0.875, abs=0.01)


def test_what_sets_an_account_apart_is_believed_by_half_after_its_fifteenth_outcome() -> None:
    learner = LinUcb(SCHEMA, Tuning(memory_seconds=math.inf, residual_outcomes=15.0))
    values = (1.0, 0.0, 0.0, 0.0)
    crowd, single = Arm("pac_crowd", "m"), Arm("pac_single", "m")
    many = 100_000
    learner.learn_many([crowd] * many, np.tile(values, (many, 1)), np.ones(many), [NOW] * many)
    for _ in range(15):
        learner.learn(single, values, 0.0, NOW)
    assert learner.estimates((single,), values, NOW).success[0] == pytest.approx(0.5, abs=1e-3)


def test_a_new_account_of_a_well_known_model_is_in_doubt_until_it_was_tried() -> None:
    learner = LinUcb(SCHEMA, Tuning(memory_seconds=math.inf, residual_outcomes=15.0))
    values = (1.0, 0.0, 0.0, 0.0)
    old, new = Arm("pac_old", "m"), Arm("pac_new", "m")
    learner.learn_many([old] * 5_000, [values] * 5_000, [1.0, 0.0] * 2_500, [NOW] * 5_000)
    known, unknown = learner.estimates((old, new), values, NOW).width
    # All that its model knows the old account taught, so nothing is in doubt twice.
    assert known == pytest.approx(math.sqrt(1 / 5_001))
    assert unknown == pytest.approx(math.sqrt(1 / 5_001 + 1 / 15))
    for _ in range(10):
        learner.pull(new, values, NOW)
    assert learner.estimates((new,), values, NOW).width[0] == pytest.approx(
        math.sqrt(1 / 5_011 + 1 / 25), rel=1e-3
    )
    for _ in range(10):
        learner.release(new, values, NOW)
        learner.learn(new, values, 1.0, NOW)
    found = learner.estimates_many((old, new), (values,), NOW).width[0]
    assert found[1] == pytest.approx(math.sqrt(1 / 5_011 + 5_000 / 5_010 / 25))
    assert found[0] == pytest.approx(math.sqrt(1 / 5_011 + 10 / 5_010 / 5_015))


def test_a_decision_under_way_narrows_the_width_and_nothing_else() -> None:
    learner = taught(PLAIN)
    asked = (1.0, 0.3, 0.0, 1.0)
    before = learner.estimates(ARMS, asked, NOW)
    sums = state(learner)
    for _ in range(50):
        learner.pull(STRIPE, asked, NOW)
    during = learner.estimates(ARMS, asked, NOW)
    assert during.width[0] < 0.9 * before.width[0]
    assert during.width[1] == before.width[1]
    assert list(during.success) == list(before.success)
    assert state(learner) == sums
    for _ in range(50):
        learner.release(STRIPE, asked, NOW)
    assert same(learner.estimates(ARMS, asked, NOW), before, 1e-12)


def test_the_width_of_a_decision_under_way_is_that_of_its_outcome() -> None:
    asked = (1.0, 0.3, 0.0, 1.0)
    pulled, learned = taught(Tuning()), taught(Tuning())
    at = NOW + DAY
    for learner in (pulled, learned):
        learner.estimates(ARMS, asked, at)  # solved as of the same instant
    pulled.pull(STRIPE, asked, at)
    learned.learn(STRIPE, asked, 1.0, at)
    ours, theirs = (x.estimates(ARMS, asked, at).width for x in (pulled, learned))
    assert np.allclose(ours, theirs, rtol=0, atol=1e-12)
    pulled.release(STRIPE, asked, at)
    pulled.learn(STRIPE, asked, 1.0, at)
    assert same(pulled.estimates(ARMS, asked, at), learned.estimates(ARMS, asked, at), 1e-12)


def test_decisions_under_way_survive_solving_anew_and_a_move_of_the_landmark() -> None:
    tuning = Tuning(memory_seconds=1000.0, pending_seconds=math.inf)
    learner = taught(tuning)
    asked = (1.0, 0.3, 0.0, 1.0)
    learner.pull(STRIPE, asked, NOW)
    later = NOW + 100_000.0
    learner.pull(AMAZON, asked, later)  # a hundred memories: the landmark moves
    learner.release(STRIPE, asked, NOW)
    learner.release(AMAZON, asked, later)
    for model in learner._models.values():
        assert np.abs(model.pending).max() < 1e-12
    assert same(
        learner.estimates(ARMS, asked, later), taught(tuning).estimates(ARMS, asked, later), 1e-9
    )


def test_releasing_what_is_not_waiting_changes_nothing() -> None:
    learner = taught(PLAIN)
    asked = (1.0, 0.3, 0.0, 1.0)
    before = learner.estimates(ARMS, asked, NOW)
    learner.release(STRIPE, asked, NOW)
    learner.pull(STRIPE, asked, NOW)
    learner.release(STRIPE, asked, NOW + 1)
    learner.release(STRIPE, asked, NOW)
    learner.release(STRIPE, asked, NOW)
    assert same(learner.estimates(ARMS, asked, NOW), before, 1e-12)


def test_a_decision_whose_outcome_never_comes_counts_no_more_in_the_end() -> None:
    learner = taught(replace(PLAIN, pending_seconds=60.0))
    asked = (1.0, 0.3, 0.0, 1.0)
    before = learner.estimates(ARMS, asked, NOW)
    learner.pull(STRIPE, asked, NOW)
    learner.pull(STRIPE, asked, NOW)
    learner.pull(AMAZON, asked, NOW + 61.0)
    learner.release(AMAZON, asked, NOW + 61.0)
    assert same(learner.estimates(ARMS, asked, NOW + 61.0), before, 1e-12)


def test_a_day_of_lost_outcomes_is_given_up_in_small_pieces() -> None:
    learner = taught(replace(PLAIN, pending_seconds=60.0))
    asked = (1.0, 0.3, 0.0, 1.0)
    for second in range(50):
        learner.pull(STRIPE, asked, NOW + second)
    before = len(learner._pending)
    learner.pull(AMAZON, asked, NOW + DAY)
    assert before - 10 <= len(learner._pending) < before
    for second in range(10):
        learner.pull(AMAZON, asked, NOW + DAY + second)
    assert {arm for arm, _, _ in learner._pending} == {AMAZON}


def test_more_decisions_under_way_than_there_is_room_for_drop_the_oldest() -> None:
    learner = taught(replace(PLAIN, pending_max=3))
    asked = (1.0, 0.3, 0.0, 1.0)
    for second in range(10):
        learner.pull(STRIPE, asked, NOW + second)
    three = taught(PLAIN)
    for second in range(3):
        three.pull(STRIPE, asked, NOW + second)
    ours, theirs = (x.estimates(ARMS, asked, NOW).width for x in (learner, three))
    assert np.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_forgotten_account_may_still_have_decisions_under_way() -> None:
    learner = LinUcb(SCHEMA, Tuning(residual_outcomes=1.0))
    values = (1.0, 0.0, 0.0, 0.0)
    learner.learn(Arm("pac_other", STRIPE.model), values, 1.0, NOW)
    for second in range(5):
        learner.pull(STRIPE, values, NOW + second)
    learner.forget(STRIPE.account)
    unknown = learner.estimates((Arm("pac_new", STRIPE.model),), values, NOW)
    for second in range(5):
        learner.release(STRIPE, values, NOW + second)
    found = learner.estimates((STRIPE,), values, NOW)
    assert found.width[0] > unknown.width[0]  # of the model, nothing is under way any more


Step = tuple[str, int, float]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pull", "settle", "drop", "late"]),
            st.integers(0, 1),
            # Up to some hundred memories in all: everything is re-weighted more than once.
            st.sampled_from([0.0, 1.0, 60.0, 900.0, 20_000.0]),
        ),
        max_size=60,
    ),
    st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_it_believes_what_ridge_regression_would(
    steps: list[Step], seed: int
) -> None:
    """Pulls, outcomes in time and late, and outcomes that never come, against sums by hand."""
    dice = np.random.default_rng(seed)
    memory = 600.0
    learner = LinUcb(
        SCHEMA,
        Tuning(
            memory_seconds=memory,
            ridge_doubt=0.0,
            residual_outcomes=math.inf,
            refresh_changes=7,
            pending_seconds=math.inf,
        ),
    )
    now = NOW
    waiting: list[tuple[Arm, Floats, float]] = []
    learned: list[tuple[Arm, Floats, float, float]] = []
    for kind, place, seconds in steps:
        now += seconds
        if kind == "pull" or not waiting:
            waiting.append((ARMS[place], some_values(dice, 1)[0], now))
            learner.pull(*waiting[-1])
            continue
        arm, values, at = waiting.pop(0 if kind == "late" else -1)
        learner.release(arm, values, at)
        if kind != "drop":
            learned.append((arm, values, float(dice.random()), at))
            learner.learn(*learned[-1])
    now += memory  # so late that everything is solved anew
    asked = some_values(dice, 1)[0]
    found = learner.estimates(ARMS, asked, now)
    ridges, prior = np.diag(SCHEMA.ridges), np.array([0.9, 0, 0, 0])
    for place, arm in enumerate(ARMS):
        precision, target = ridges.copy(), ridges @ prior
        for other, values, reward, at in learned:
            if other == arm:
                weight = math.exp((at - now) / memory)
                precision += weight * np.outer(values, values)
                target += weight * reward * values
        success = asked @ np.linalg.solve(precision, target)
        for other, values, at in waiting:
            if other == arm:
                precision += math.exp((at - now) / memory) * np.outer(values, values)
        width = math.sqrt(asked @ np.linalg.solve(precision, asked))
        assert found.success[place] == pytest.approx(success, abs=1e-9)
        assert found.width[place] == pytest.approx(width, abs=1e-9)


def test_hope_is_small_where_outcomes_hardly_differ_and_never_gone() -> None:
    found = Estimates.of(np.array([0.5, 0.97, 1.3, -0.2]), np.full(4, 0.1), (9, 9, 9, 9))
    assert list(found.spread) == sorted(found.spread, reverse=True)
    assert found.spread[2] == found.spread[3] == pytest.approx(math.sqrt(VARIANCE_FLOOR) * 0.1)
    for bound in (found.expected(), found.upper(1.0), found.lower(1.0)):
        assert ((bound >= 0) & (bound <= 1)).all()
    assert (found.lower(0.5)[:2] < found.expected()[:2]).all()
    assert (found.upper(0.5)[:2] > found.expected()[:2]).all()


NAN_RISK, LARGE_AMOUNT = (1.0, 0.0, math.nan, 0.0), (1.0, -101.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "reward", "at", "told"),
    [
        ((1.0, math.nan, 0.0, 0.0), 1.0, NOW, "amount"),
        (NAN_RISK, 1.0, NOW, "risk"),
        ((1.0, 0.0, 0.0, math.inf), 1.0, NOW, "night"),
        ((1.0, 1e308, 0.0, 0.0), 1.0, NOW, "amount"),
        (LARGE_AMOUNT, 1.0, NOW, "amount"),
        ((0.0, 0.0, 0.0, 0.0), 1.0, NOW, "intercept"),
        ((1.0, 0.0, 0.0), 1.0, NOW, "has 4 values"),
        ((1.0, 0.0, 0.0, 0.0, 0.0), 1.0, NOW, "has 4 values"),
        ((1.0, 0.0, 0.0, 0.0), math.nan, NOW, "reward"),
        ((1.0, 0.0, 0.0, 0.0), -0.1, NOW, "reward"),
        ((1.0, 0.0, 0.0, 0.0), 1.1, NOW, "reward"),
        ((1.0, 0.0, 0.0, 0.0), 1.0, math.nan, "time"),
        ((1.0, 0.0, 0.0, 0.0), 1.0, math.inf, "time"),
        ((1.0, 0.0, 0.0, 0.0), 1.0, -1.0, "time"),
        ((1.0, 0.0, 0.0, 0.0), 1.0, NOW * 1000, "time"),
    ],
)
def test_what_would_spoil_a_learner_is_refused_by_name_and_changes_nothing(
    values: tuple[float, ...], reward: float, at: float, told: str
) -> None:
    learner = taught(Tuning())
    asked = (1.0, 0.3, 0.0, 1.0)
    before, estimated = state(learner), learner.estimates(ARMS, asked, NOW)
    with pytest.raises(ValueError, match=told):
        learner.learn(Arm("pac_new", "new"), values, reward, at)
    good = (1.0, 0.0, 0.0, 0.0)
    rows = [good, values] if len(values) == len(good) else [values]
    with pytest.raises(ValueError, match=told):
        learner.learn_many([STRIPE] * len(rows), rows, [reward] * len(rows), [at] * len(rows))
    assert state(learner) == before
    assert same(learner.estimates(ARMS, asked, NOW), estimated, 0.0)


@pytest.mark.parametrize("values", [NAN_RISK, LARGE_AMOUNT])
def test_a_context_that_makes_no_sense_is_neither_estimated_nor_followed(
    values: tuple[float, ...],
) -> None:
    learner = taught(Tuning())
    with pytest.raises(ValueError, match="within"):
        learner.estimates(ARMS, values, NOW)
    with pytest.raises(ValueError, match="within"):
        learner.estimates_many(ARMS, [(1.0, 0.0, 0.0, 0.0), values], NOW)
    with pytest.raises(ValueError, match="within"):
        learner.pull(STRIPE, values, NOW)
    with pytest.raises(ValueError, match="time"):
        learner.pull(STRIPE, (1.0, 0.0, 0.0, 0.0), math.nan)
    assert not learner._pending


def test_outcomes_of_different_lengths_are_not_learned() -> None:
    with pytest.raises(ValueError, match="each outcome"):
        LinUcb(SCHEMA).learn_many([STRIPE], [(1.0, 0.0, 0.0, 0.0)], [1.0, 0.0], [NOW])


def test_what_is_known_of_an_account_fades_and_can_be_forgotten() -> None:
    learner = LinUcb(SCHEMA, Tuning(memory_seconds=DAY))
    values = (1.0, 0.0, 0.0, 0.0)
    for reward in (1.0, 1.0, 0.0, 1.0):
        learner.learn(STRIPE, values, reward, NOW)
    known = learner.knowledge(STRIPE.account, NOW + DAY)
    assert known.outcomes == 4
    assert known.effective_outcomes == pytest.approx(4 / math.e)
    assert known.effective_successes == pytest.approx(3 / math.e)
    learner.forget(STRIPE.account)
    assert learner.knowledge(STRIPE.account, NOW + DAY) == (0, 0.0, 0.0)
    assert STRIPE.account not in learner.totals().accounts
    assert learner.estimates((STRIPE,), values, NOW).outcomes == [0]


def test_a_clock_that_was_set_back_finds_what_it_would_have_found() -> None:
    ahead, steady = taught(Tuning()), taught(Tuning())
    asked = (1.0, 0.3, 0.0, 1.0)
    ahead.estimates(ARMS, asked, NOW + 30 * DAY)
    at = NOW + DAY
    assert same(ahead.estimates(ARMS, asked, at), steady.estimates(ARMS, asked, at), 1e-12)


def test_its_version_names_the_meaning_of_its_contexts_and_no_count() -> None:
    learner = taught(Tuning())
    assert learner.version == f"linucb-{SCHEMA.key}" == LinUcb(SCHEMA).version
    assert learner.outcomes == 200


def test_ridges_in_whole_numbers_mean_the_same() -> None:
    whole = replace(SCHEMA, ridges=(1, 20, 20, 40))
    assert whole.key == SCHEMA.key
    estimates = LinUcb(whole).estimates(ARMS, (1.0, 0.0, 0.0, 0.0), NOW)
    assert same(estimates, LinUcb(SCHEMA).estimates(ARMS, (1.0, 0.0, 0.0, 0.0), NOW))


def test_a_schema_is_known_by_everything_in_it() -> None:
    keys = {
        SCHEMA.key,
        replace(SCHEMA, name="test-2").key,
        replace(SCHEMA, ridges=(1.0, 20.0, 20.0, 41.0)).key,
        replace(SCHEMA, features=("intercept", "amount", "night", "risk")).key,
    }
    assert len(keys) == 4
    assert SCHEMA.key.startswith("test-1-")


@pytest.mark.parametrize(
    ("features", "ridges"),
    [
        (("amount",), (1.0,)),
        ((), ()),
        (("intercept", "a", "a"), (1.0, 1.0, 1.0)),
        (("intercept", "a"), (1.0,)),
        (("intercept", "a"), (1.0, 0.0)),
        (("intercept", "a"), (1.0, math.nan)),
    ],
)
def test_a_schema_whose_parts_do_not_fit_is_refused(
    features: tuple[str, ...], ridges: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match=r"schema|ridges|intercept"):
        Schema("broken", features, ridges)


def test_the_same_outcomes_end_in_the_same_bytes() -> None:
    totals: list[Totals] = [taught(Tuning()).totals() for _ in range(2)]
    assert totals[0].encode() == totals[1].encode()
