"""The batcher runs a lone row at once, takes company along, and refuses when full."""

import asyncio

import numpy as np
import pytest

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_fraud.micro_batcher import MicroBatcher


class Engine:
    """Says the sum of each row and remembers how many rows each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def margins(self, rows: np.ndarray) -> np.ndarray:
        self.runs.append(len(rows))
        if np.isnan(rows).any():
            raise ValueError("broken engine")
        return np.asarray(rows.sum(axis=1), np.float64)


def a_row(number: float) -> np.ndarray:
    return np.array([number], np.float32)


async def test_a_lone_row_runs_in_the_next_turn_of_the_loop() -> None:
    engine = Engine()
    future = MicroBatcher(engine.margins, rows_max=4, queue_max=8).submit(a_row(3))
    await asyncio.sleep(0)
    assert future.result() == 3
    assert engine.runs == [1]


async def test_rows_that_came_together_share_runs_up_to_the_cap() -> None:
    engine = Engine()
    batcher = MicroBatcher(engine.margins, rows_max=4, queue_max=100)
    results = await asyncio.gather(*(batcher.submit(a_row(n)) for n in range(10)))
    assert results == list(range(10))
    assert engine.runs == [4, 4, 2]


async def test_a_full_queue_refuses_at_once_and_then_recovers() -> None:
    batcher = MicroBatcher(Engine().margins, rows_max=4, queue_max=2)
    accepted = [batcher.submit(a_row(n)) for n in range(2)]
    with pytest.raises(Refusal) as refused:
        batcher.submit(a_row(2))
    assert refused.value.kind is Kind.RESOURCE_EXHAUSTED
    assert refused.value.reason == "SCORING_QUEUE_FULL"
    assert await asyncio.gather(*accepted) == [0, 1]
    assert await batcher.submit(a_row(5)) == 5


async def test_a_broken_run_fails_its_callers_and_nobody_else() -> None:
    batcher = MicroBatcher(Engine().margins, rows_max=4, queue_max=8)
    with pytest.raises(ValueError, match="broken engine"):
        await batcher.submit(a_row(np.nan))
    assert await batcher.submit(a_row(1)) == 1


async def test_a_caller_that_left_costs_nothing() -> None:
    engine = Engine()
    batcher = MicroBatcher(engine.margins, rows_max=4, queue_max=8)
    gone, stays = batcher.submit(a_row(1)), batcher.submit(a_row(2))
    gone.cancel()
    assert await stays == 2
    assert engine.runs == [1]
