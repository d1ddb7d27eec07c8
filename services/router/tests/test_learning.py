from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from smartpay_router.domain.breakers import Breakers, BreakerTuning, Kind
from smartpay_router.domain.chargebacks import Tally
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learner import Arm
from smartpay_router.domain.learning import (
    ROWS_TOGETHER_MIN,
    Learning,
    LoggedOutcomes,
    OpenDecision,
)
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.outcome import Outcome, arm_of
from smartpay_router.domain.schema import Schema, Values
from smartpay_router.domain.steering import Steering

SCHEMA = Schema("small-1", ("intercept", "slope"), (1.0, 20.0))
PATIENCE = 100.0
START = 1_700_000_000.0


class RecordingSettling:
    """Remembers what it was told, and in which order."""

    def __init__(self) -> None:
        self.lessons: list[tuple[Arm, Kind | None, float | None]] = []
        self.together = 0

    def settle(
        self,
        arm: Arm,
        values: Values,
        kind: Kind | None,
        reward: float | None,
        decided_at: float,
        at: float,
        *,
        pulled: bool,
    ) -> None:
        assert not pulled, "the learning releases what it pulled"
        self.lessons.append((arm, kind, reward))

    def settle_many(
        self,
        arms: Sequence[Arm],
        matrix: Values,
        kinds: Sequence[Kind | None],
        rewards: Sequence[float | None],
        decided_at: Sequence[float],
        at: Sequence[float],
    ) -> None:
        assert matrix.shape == (len(arms), 2)
        self.together += 1
        self.lessons += zip(arms, kinds, rewards, strict=True)


class RecordingWidth:
    """Remembers which decisions are counted as waiting."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Arm, float]] = []

    def pull(self, arm: Arm, values: Values, at: float) -> None:
        self.waiting.append((arm, at))

    def release(self, arm: Arm, values: Values, at: float) -> None:
        self.waiting.remove((arm, at))


class ListLog:
    """A log in memory."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.schemas: list[str] = []
        self.open: list[OpenDecision] = []
        self.readings = 0

    def add(
        self,
        account: str,
        outcome: Outcome,
        *,
        decision_id: str = "",
        schema: str = SCHEMA.name,
        several_rails: bool = False,
        heard_before: bool = False,
        mine: bool = True,
        decided_at: float = START,
        at: float = START,
        slope: float = 0.0,
    ) -> None:
        position = len(self.rows) + 1
        self.schemas.append(schema)
        self.rows.append(
            {
                "positions": position,
                "decision_ids": decision_id or f"dec-{position}",
                "is_final": int(outcome.is_final),
                "accounts": account,
                "processors": "stripe",
                "livemode": 1,
                "outcomes": outcome.value,
                "several_rails": int(several_rails),
                "heard_before": int(heard_before),
                "decided_at": decided_at,
                "at": at,
                "contexts": array("d", [1.0, slope]).tobytes() if mine else None,
            }
        )

    async def after(self, position: int, owner: str, schema: str, rows_max: int) -> LoggedOutcomes:
        self.readings += 1
        page = [
            row if of == schema else row | {"contexts": None}
            for row, of in zip(self.rows, self.schemas, strict=True)
        ][position : position + rows_max]
        await asyncio.sleep(0)
        return LoggedOutcomes(
            **{name: [row[name] for row in page] for name in LoggedOutcomes._fields}
        )

    async def open_decisions(self, decided_after: float) -> Sequence[OpenDecision]:
        return [each for each in self.open if each.decided_at > decided_after]

    async def give_up(self, decided_before: float) -> int:
        overdue = [each for each in self.open if each.decided_at < decided_before]
        self.open = [each for each in self.open if each not in overdue]
        return len(overdue)

    async def tallies(self, first_day: int, last_day: int) -> Mapping[str, Tally]:
        return {"live/stripe": Tally(successes=1000, chargebacks=100, lost_shares=100.0)}

    async def forget(self, decided_before: float, position: int) -> int:
        return 0


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture
def settling() -> RecordingSettling:
    return RecordingSettling()


@pytest.fixture
def width() -> RecordingWidth:
    return RecordingWidth()


@pytest.fixture
def learning(log: ListLog, settling: RecordingSettling, width: RecordingWidth) -> Learning:
    return Learning(settling, width, log, SCHEMA, "one", PATIENCE, page_rows=2)


def names(settling: RecordingSettling) -> list[str]:
    return [arm.account for arm, _, _ in settling.lessons]


async def test_each_logged_outcome_is_learned_once_and_in_order(
    learning: Learning, log: ListLog, settling: RecordingSettling
) -> None:
    for number in range(5):
        log.add(f"arm-{number}", Outcome.SUCCEEDED)
    assert await learning.catch_up() == 5
    log.add("arm-5", Outcome.DECLINED)
    assert await learning.catch_up() == 1
    assert await learning.catch_up() == 0
    assert names(settling) == [f"arm-{n}" for n in range(6)]
    assert settling.lessons[-1] == (arm_of("arm-5", "stripe", livemode=True), Kind.DECLINE, 0.0)


async def test_those_that_ask_at_once_are_served_together_and_teach_nothing_twice(
    learning: Learning, log: ListLog, settling: RecordingSettling
) -> None:
    for _ in range(5):
        log.add("arm", Outcome.SUCCEEDED)
    assert sum(await asyncio.gather(*(learning.catch_up() for _ in range(9)))) == 5
    assert len(settling.lessons) == 5
    assert log.readings <= 4, "each caller read the log for itself"


async def test_who_asks_amid_a_reading_is_answered_only_after_a_later_one(
    learning: Learning, log: ListLog, settling: RecordingSettling
) -> None:
    first = asyncio.create_task(learning.catch_up())
    await asyncio.sleep(0)  # it has read an empty page by now
    log.add("late", Outcome.SUCCEEDED)
    await learning.catch_up()
    await first
    assert names(settling) == ["late"]


async def test_contexts_of_other_schemas_and_rows_of_other_replicas_teach_nothing_here(
    learning: Learning, log: ListLog, settling: RecordingSettling
) -> None:
    log.add("older", Outcome.SUCCEEDED, schema="small-0")
    log.add("elsewhere", Outcome.SUCCEEDED, mine=False)
    log.add("counted", Outcome.ABANDONED, several_rails=True)
    assert await learning.catch_up() == 1
    assert settling.lessons == [(arm_of("counted", "stripe", livemode=True), None, 0.0)]
    assert learning.position == 3


@pytest.mark.parametrize("damage", [b"short", array("d", [2.0, 0.0]), array("d", [1.0, np.nan])])
async def test_a_row_that_the_disk_damaged_is_passed_over_and_the_rest_is_learned(
    learning: Learning, log: ListLog, settling: RecordingSettling, damage: bytes | array[float]
) -> None:
    for name in ("before", "damaged", "after"):
        log.add(name, Outcome.SUCCEEDED)
    log.rows[1]["contexts"] = bytes(damage)
    assert await learning.catch_up() == 2
    assert names(settling) == ["before", "after"]
    assert learning.position == 3


async def test_a_try_that_was_silent_first_is_heard_once_by_the_breakers_and_learned_at_its_end(
    learning: Learning, log: ListLog, settling: RecordingSettling
) -> None:
    log.add("arm", Outcome.UNANSWERED, decision_id="dec")
    log.add("arm", Outcome.TECHNICAL_FAILURE, decision_id="dec", heard_before=True)
    await learning.catch_up()
    assert [lesson[1:] for lesson in settling.lessons] == [(Kind.TECHNICAL, None), (None, 0.0)]


async def test_a_decision_waits_until_its_first_try_ends_here_or_at_another_replica(
    learning: Learning, log: ListLog, width: RecordingWidth
) -> None:
    arm = arm_of("arm", "stripe", livemode=True)
    for name in ("mine", "silent", "theirs"):
        width.pull(arm, np.ones(2), START)
        learning.opened(name, arm, (1.0, 0.0), START)
    log.add("arm", Outcome.SUCCEEDED, decision_id="mine")
    log.add("arm", Outcome.UNANSWERED, decision_id="silent")
    log.add("arm", Outcome.SUCCEEDED, decision_id="theirs", mine=False)
    await learning.catch_up()
    assert len(width.waiting) == learning.counts.waiting == 1


async def test_of_too_many_decisions_the_oldest_is_waited_for_no_more(
    learning: Learning, width: RecordingWidth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartpay_router.domain.learning.WAITING_MAX", 2)
    arm = arm_of("arm", "stripe", livemode=True)
    for number in range(4):
        width.pull(arm, np.ones(2), START + number)
        learning.opened(f"dec-{number}", arm, (1.0, 0.0), START + number)
    assert width.waiting == [(arm, START + 2), (arm, START + 3)]


async def test_a_ranking_that_nobody_follows_waits_for_nothing(
    learning: Learning, width: RecordingWidth
) -> None:
    arm = arm_of("arm", "stripe", livemode=True)
    width.pull(arm, np.ones(2), START)
    learning.dropped(arm, (1.0, 0.0), START)
    assert width.waiting == []


async def test_an_outcome_that_never_comes_is_given_up_and_counted_and_may_still_teach_late(
    learning: Learning, log: ListLog, width: RecordingWidth, settling: RecordingSettling
) -> None:
    arm = arm_of("arm", "stripe", livemode=True)
    for name, at in (("old", START), ("new", START + 60)):
        width.pull(arm, np.ones(2), at)
        learning.opened(name, arm, (1.0, 0.0), at)
        log.open.append(OpenDecision(name, arm, at, SCHEMA.name, b""))
    await learning.sweep(START + PATIENCE + 1)
    assert width.waiting == [(arm, START + 60)]
    assert learning.counts.missing == 1
    log.add("arm", Outcome.SUCCEEDED, decision_id="old", at=START + PATIENCE + 5)
    await learning.catch_up()
    assert learning.counts.late == 1
    assert len(settling.lessons) == 1


async def test_a_restart_waits_on_for_what_was_open_and_not_overdue(
    log: ListLog, settling: RecordingSettling, width: RecordingWidth
) -> None:
    arm = arm_of("arm", "stripe", livemode=True)
    values = array("d", [1.0, 2.0]).tobytes()
    log.open = [
        OpenDecision("overdue", arm, START, SCHEMA.name, values),
        OpenDecision("other", arm, START + 90, "small-0", b""),
        OpenDecision("damaged", arm, START + 90, SCHEMA.name, values[:9]),
        OpenDecision("open", arm, START + 90, SCHEMA.name, values),
    ]
    learning = Learning(settling, width, log, SCHEMA, "one", PATIENCE)
    assert await learning.remember_open(START + PATIENCE + 1) == 1
    log.add("arm", Outcome.DECLINED, decision_id="open")
    await learning.catch_up()
    assert width.waiting == []


async def test_a_sweep_reads_what_chargebacks_take_back(learning: Learning) -> None:
    assert learning.losses.expected("live/stripe") == 0
    await learning.sweep(START)
    assert learning.losses.expected("live/stripe") == pytest.approx(0.1)


async def test_reading_a_long_log_at_once_teaches_the_same_as_outcome_by_outcome() -> None:
    dice = np.random.default_rng(5)
    log = ListLog()
    tried = [Outcome.SUCCEEDED, Outcome.DECLINED, Outcome.TECHNICAL_FAILURE, Outcome.ABANDONED]
    for number in range(3 * ROWS_TOGETHER_MIN):
        # An outage in the middle, so that outcomes are held back and dropped as well.
        bad = 60 <= number < 90
        log.add(
            f"arm-{dice.integers(3)}",
            tried[dice.choice(4, p=[0.1, 0.8, 0.1, 0] if bad else [0.9, 0.05, 0.01, 0.04])],
            several_rails=bool(dice.integers(2)),
            decided_at=START + number,
            at=START + number + 0.5,
            slope=float(dice.normal()),
        )

    async def learned(page: int) -> tuple[LinUcb, bytes]:
        learner = LinUcb(SCHEMA)
        steering = Steering(learner, Breakers(BreakerTuning(known_outcomes=5)), Budgets())
        await Learning(steering, learner, log, SCHEMA, "one", page_rows=page).catch_up()
        return learner, steering.state()

    (one, one_state), (many, many_state) = await learned(page=1), await learned(page=1000)
    totals, expected = many.totals(), one.totals()
    assert 0 < expected.outcomes < len(log.rows), "the outage held nothing back"
    assert totals.models.keys() == expected.models.keys()
    for name, model in expected.models.items():
        np.testing.assert_allclose(totals.models[name].values, model.values, rtol=1e-12, atol=1e-12)
    assert totals.accounts.keys() == expected.accounts.keys()
    assert many_state == one_state
