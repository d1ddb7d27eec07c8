"""The holdout's test may be looked at whenever one likes."""

from __future__ import annotations

import random

import pytest

from smartpay_router.domain.sequential_test import ALPHA, Difference, HoldoutTest


def watched(
    test: HoldoutTest,
    count: int,
    *,
    live_share: float,
    live: float,
    held: float,
    seed: int,
    look_every: int = 100,
) -> list[Difference]:
    """Feeds charges that succeed so often, and looks again and again."""
    dice, seen = random.Random(seed), []
    for number in range(count):
        is_live = dice.random() < live_share
        success = float(dice.random() < (live if is_live else held))
        test.observe(live=is_live, live_share=live_share, outcome=success)
        if number % look_every == 0:
            seen.append(test.difference())
    return seen


@pytest.mark.parametrize("live_share", [0.5, 0.9])
def test_looking_after_every_charge_raises_no_more_false_alarms_than_alpha(
    live_share: float,
) -> None:
    false_alarms = 0
    for seed in range(200):
        test = HoldoutTest(0.1)
        watched(
            test, 1_000, live_share=live_share, live=0.85, held=0.85, seed=seed, look_every=1_000
        )
        # The p-value is the least of all charges, so this is as if after each one somebody looked.
        false_alarms += test.difference().p_value <= ALPHA
    assert false_alarms <= ALPHA * 200


def test_the_interval_holds_the_truth_at_every_look() -> None:
    missed = 0
    for seed in range(60):
        seen = watched(HoldoutTest(0.5), 1_000, live_share=0.5, live=0.9, held=0.7, seed=seed)
        missed += any(not look.low <= 0.2 <= look.high for look in seen)
    assert missed <= ALPHA * 60


def test_a_real_difference_is_found() -> None:
    test = HoldoutTest(0.2)
    seen = watched(test, 6_000, live_share=0.8, live=0.95, held=0.8, seed=1, look_every=500)
    assert seen[0].p_value == 1
    assert seen[-1].p_value < 0.01
    assert seen[-1].low > 0
    assert seen[-1].value == pytest.approx(0.15, abs=0.03)
    assert [look.p_value for look in seen] == sorted((look.p_value for look in seen), reverse=True)
    assert seen[-1].high - seen[-1].low < seen[1].high - seen[1].low


def test_a_share_that_changes_on_the_way_biases_nothing() -> None:
    test = HoldoutTest(0.1)
    # Worse times come together with a larger holdout: the plain means would differ by .12.
    watched(test, 4_000, live_share=0.9, live=0.9, held=0.9, seed=5)
    watched(test, 4_000, live_share=0.3, live=0.7, held=0.7, seed=6)
    found = test.difference()
    assert found.low < 0 < found.high
    assert abs(found.value) < 0.04


def test_nothing_is_known_before_the_first_charge() -> None:
    assert HoldoutTest(0.05).difference() == Difference(0, 0.0, -1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("live_share", "outcome", "reason"),
    [
        (0.95, 1.0, "less than 0.1"),
        (0.05, 1.0, "less than 0.1"),
        (float("nan"), 1.0, "less than 0.1"),
        (0.9, 1.01, "within 0 to 1"),
        (0.9, float("nan"), "within 0 to 1"),
    ],
)
def test_what_would_break_the_promise_is_refused_and_not_counted(
    live_share: float, outcome: float, reason: str
) -> None:
    test = HoldoutTest(0.1)
    with pytest.raises(ValueError, match=reason):
        test.observe(live=True, live_share=live_share, outcome=outcome)
    assert test.difference().observations == 0


@pytest.mark.parametrize("share", [0.0, 0.51, float("nan")])
def test_a_share_that_no_side_can_have_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="one half"):
        HoldoutTest(share)
