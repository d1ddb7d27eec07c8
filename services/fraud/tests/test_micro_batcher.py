"""The batcher runs a lone row at once, takes company along, and refuses what can't be in time."""

import asyncio

import pytest

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_fraud.micro_batcher import MicroBatcher


class Work:
    """Doubles each number and remembers how many each run had; `clock` moves when told."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.runs: list[int] = []
        self.now = 0.0
        self.seconds = seconds
        self.gate: asyncio.Event | None = None

    def clock(self) -> float:
        return self.now

    async def double(self, numbers: list[float]) -> list[float]:
        self.runs.append(len(numbers))
        if self.gate:
            await self.gate.wait()
        self.now += self.seconds
        if any(number < 0 for number in numbers):
            raise ValueError("broken engine")
        return [2 * number for number in numbers]

    def batcher(
        self, rows_max: int = 4, queue_max: int = 8, lanes: int = 1
    ) -> MicroBatcher[float, float]:
        return MicroBatcher(
            self.double, rows_max=rows_max, queue_max=queue_max, lanes=lanes, clock=self.clock
        )


async def test_a_lone_row_runs_in_the_next_turn_of_the_loop() -> None:
    work = Work()
    answers = work.batcher().submit([3])
    await asyncio.sleep(0)
    assert answers.result() == [6]
    assert work.runs == [1]


async def test_rows_that_came_together_share_runs_up_to_the_cap() -> None:
    work = Work()
    batcher = work.batcher(queue_max=100)
    results = await asyncio.gather(*(batcher.submit([n]) for n in range(10)))
    assert results == [[2 * n] for n in range(10)]
    assert work.runs == [4, 4, 2]


async def test_a_group_stays_together_and_in_order_even_past_the_cap() -> None:
    work = Work()
    batcher = work.batcher(queue_max=100)
    lone, group = batcher.submit([7]), batcher.submit([1, 2, 3, 4, 5, 6])
    assert await group == [2, 4, 6, 8, 10, 12]
    assert await lone == [14]
    assert work.runs == [1, 6]


async def test_what_arrives_during_a_run_shares_the_next_one() -> None:
    work = Work()
    work.gate = asyncio.Event()
    batcher = work.batcher()
    first = batcher.submit([1])
    await asyncio.sleep(0)
    later = [batcher.submit([n]) for n in range(3)]
    work.gate.set()
    await asyncio.gather(first, *later)
    assert work.runs == [1, 3]


async def test_with_two_lanes_a_second_run_goes_out_beside_the_first() -> None:
    work = Work()
    work.gate = asyncio.Event()
    batcher = work.batcher(lanes=2)
    answers = []
    for number in range(3):
        answers.append(batcher.submit([number]))
        await asyncio.sleep(0)
    assert work.runs == [1, 1]
    work.gate.set()
    await asyncio.gather(*answers)
    assert work.runs == [1, 1, 1]


async def test_a_full_queue_refuses_at_once_and_then_recovers() -> None:
    batcher = Work().batcher(queue_max=2)
    accepted = [batcher.submit([n]) for n in range(2)]
    with pytest.raises(Refusal) as refused:
        batcher.submit([2])
    assert refused.value.kind is Kind.RESOURCE_EXHAUSTED
    assert refused.value.reason == "SCORING_QUEUE_FULL"
    assert await asyncio.gather(*accepted) == [[0], [2]]
    assert await batcher.submit([5]) == [10]


async def test_a_group_that_does_not_fit_is_refused_whole() -> None:
    work = Work()
    batcher = work.batcher(queue_max=4)
    accepted = batcher.submit([1, 2])
    with pytest.raises(Refusal):
        batcher.submit([3, 4, 5])
    await accepted
    assert work.runs == [2]


async def test_a_broken_run_fails_its_callers_and_nobody_else() -> None:
    batcher = Work().batcher()
    with pytest.raises(ValueError, match="broken engine"):
        await batcher.submit([-1])
    assert await batcher.submit([1]) == [2]


async def test_a_caller_that_left_costs_nothing() -> None:
    work = Work()
    batcher = work.batcher()
    gone, stays = batcher.submit([1]), batcher.submit([2])
    gone.cancel()
    assert await stays == [4]
    assert work.runs == [1]


async def test_a_deadline_that_has_passed_is_refused_without_work() -> None:
    work = Work()
    batcher = work.batcher()
    work.now = 10.0
    late, timely = batcher.submit([1], 9.9), batcher.submit([2], 10.1)
    assert await timely == [4]
    with pytest.raises(Refusal) as refused:
        await late
    assert refused.value.kind is Kind.DEADLINE_EXCEEDED
    assert work.runs == [1]


async def test_a_deadline_that_a_usual_run_would_miss_is_refused_without_work() -> None:
    work = Work(seconds=1.0)
    batcher = work.batcher()
    for _ in range(30):
        await batcher.submit([1])
    runs = len(work.runs)
    with pytest.raises(Refusal):
        await batcher.submit([1], work.now + 0.5)
    assert len(work.runs) == runs
    assert await batcher.submit([1], work.now + 1.5) == [2]


async def test_one_slow_run_does_not_refuse_everybody_for_ever() -> None:
    work = Work(seconds=60.0)
    batcher = work.batcher()
    await batcher.submit([1])
    work.seconds = 0.0
    for _ in range(40):
        try:
            await batcher.submit([1], work.now + 0.5)
        except Refusal:
            continue
        return
    pytest.fail("still refused after forty tries")
