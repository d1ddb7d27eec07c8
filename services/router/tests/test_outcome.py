from __future__ import annotations

import asyncio
from collections.abc import Sequence

from smartpay_router.domain.context import Context
from smartpay_router.domain.linucb import Estimate
from smartpay_router.domain.outcome import Learner, Outcome, Sample


class RecordingPolicy:
    """Remembers what it was taught."""

    def __init__(self) -> None:
        self.lessons: list[tuple[str, float]] = []

    @property
    def version(self) -> str:
        return f"recording-{len(self.lessons)}"

    def estimate(self, arms: Sequence[str], context: Context) -> Sequence[Estimate]:
        raise AssertionError("learning must not estimate")

    def learn(self, arm: str, context: Context, reward: float) -> None:
        self.lessons.append((arm, reward))


class ListLog:
    """A log in memory with pages of two."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def add(self, arm: str, outcome: Outcome, context: Context) -> None:
        index = len(self.samples)
        self.samples.append(Sample("dec", index, "mer", False, arm, outcome, context))

    async def after(self, position: int) -> Sequence[tuple[int, Sample]]:
        page = list(enumerate(self.samples, start=1))[position : position + 2]
        await asyncio.sleep(0)
        return page


def test_success_teaches_one_and_what_the_account_failed_at_teaches_nothing_else() -> None:
    assert Outcome.SUCCEEDED.reward() == 1
    assert Outcome.DECLINED.reward() == 0
    assert Outcome.TECHNICAL_FAILURE.reward() == 0


def test_a_payer_who_walked_away_is_no_sample() -> None:
    assert Outcome.ABANDONED.reward() is None


async def test_each_logged_outcome_is_learned_once_and_in_order(context: Context) -> None:
    policy, log = RecordingPolicy(), ListLog()
    learner = Learner(policy, log)
    for number in range(5):
        log.add(f"arm-{number}", Outcome.SUCCEEDED, context)
    assert await learner.catch_up() == 5
    log.add("arm-5", Outcome.DECLINED, context)
    assert await learner.catch_up() == 1
    assert await learner.catch_up() == 0
    assert [arm for arm, _ in policy.lessons] == [f"arm-{n}" for n in range(6)]


async def test_two_that_catch_up_at_once_teach_nothing_twice(context: Context) -> None:
    policy, log = RecordingPolicy(), ListLog()
    learner = Learner(policy, log)
    for _ in range(5):
        log.add("arm", Outcome.SUCCEEDED, context)
    assert sum(await asyncio.gather(*(learner.catch_up() for _ in range(3)))) == 5
    assert len(policy.lessons) == 5


async def test_abandoned_tries_and_contexts_of_other_releases_are_passed_over(
    context: Context,
) -> None:
    policy, log = RecordingPolicy(), ListLog()
    log.add("walked-away", Outcome.ABANDONED, context)
    log.add("older", Outcome.SUCCEEDED, Context("charge-0", (1.0,)))
    log.add("counted", Outcome.DECLINED, context)
    assert await Learner(policy, log).catch_up() == 1
    assert policy.lessons == [("counted", 0.0)]
