"""Following a log: from the stored cursor, through every kind of break, one step after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata

from smartpay_chassis.event_log import BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN, follow


@dataclass
class Step:
    cursor: str


def broken(code: grpc.StatusCode) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata())


AWAY = broken(grpc.StatusCode.UNAVAILABLE)
EXPIRED = broken(grpc.StatusCode.OUT_OF_RANGE)
DEADLINE = broken(grpc.StatusCode.DEADLINE_EXCEEDED)


class Finished(Exception):  # noqa: N818 - an end, not an error
    """Ends what would go on for ever."""


class Follower:
    """A consumer, the streams it will meet, and what became of them.

    Each stream is its steps' cursors and, at most, the error it ends with.
    """

    def __init__(self, streams: Sequence[Sequence[str | AioRpcError]], stored: str = "") -> None:
        self.streams = list(streams)
        self.stored = stored
        self.opened: list[str] = []
        self.applied: list[str] = []
        self.waits: list[float] = []

    async def watch(self, cursor: str) -> AsyncIterator[Step]:
        self.opened.append(cursor)
        for item in self.streams.pop(0):
            if isinstance(item, AioRpcError):
                raise item
            yield Step(item)

    async def load_cursor(self) -> str:
        return self.stored

    async def apply(self, step: Step) -> None:
        self.applied.append(step.cursor)
        self.stored = step.cursor

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if not self.streams:
            raise Finished

    async def follow(self) -> None:
        await follow(self.watch, self.load_cursor, self.apply, name="test", sleep=self.sleep)

    async def run(self) -> None:
        with pytest.raises(Finished):
            await self.follow()


async def test_it_resumes_from_the_stored_cursor() -> None:
    follower = Follower([["8", "9"]], stored="7")
    await follower.run()
    assert follower.opened == ["7"]
    assert follower.applied == ["8", "9"]


@pytest.mark.parametrize("end", [[], [AWAY], [DEADLINE]], ids=["ended", "away", "deadline"])
async def test_a_stream_that_ends_goes_on_after_the_last_step(end: list[AioRpcError]) -> None:
    follower = Follower([["1", "2", *end], ["3"]])
    await follower.run()
    assert follower.opened == ["", "2"]
    assert follower.applied == ["1", "2", "3"]


async def test_an_expired_cursor_starts_over() -> None:
    follower = Follower([[EXPIRED], ["1", "2"]], stored="gone")
    await follower.run()
    assert follower.opened == ["gone", ""]
    assert follower.applied == ["1", "2"]


async def test_the_wait_grows_with_each_failure_up_to_the_most() -> None:
    follower = Follower([[AWAY]] * 12)
    await follower.run()
    assert follower.waits[:5] == sorted(follower.waits[:5])
    assert follower.waits[4] >= 8 * follower.waits[0] / 2, "jitter halves at most"
    assert all(w >= BACKOFF_SECONDS_MAX / 2 for w in follower.waits[6:])
    assert max(follower.waits) <= BACKOFF_SECONDS_MAX


async def test_a_step_resets_the_wait() -> None:
    follower = Follower([*[[AWAY]] * 6, ["1", AWAY], ["2"]])
    await follower.run()
    assert follower.waits[5] >= BACKOFF_SECONDS_MAX / 2
    assert follower.waits[6] <= 2 * BACKOFF_SECONDS_MIN
    assert follower.waits[7] <= BACKOFF_SECONDS_MIN


async def test_a_stream_that_merely_outlived_its_deadline_is_no_failure() -> None:
    follower = Follower([[DEADLINE]] * 10)
    await follower.run()
    assert max(follower.waits) <= BACKOFF_SECONDS_MIN


@pytest.mark.parametrize("error", [OSError("disk full"), AWAY], ids=["disk", "a call of its own"])
async def test_what_cannot_be_applied_is_neither_skipped_nor_hidden(error: Exception) -> None:
    class Full(Follower):
        async def apply(self, step: Step) -> None:
            if step.cursor == "2":
                raise error
            await super().apply(step)

    follower = Full([["1", "2", "3"]])
    with pytest.raises(type(error)) as caught:
        await follower.follow()
    assert caught.value is error
    assert follower.applied == ["1"]
    assert follower.stored == "1"


async def test_a_real_calls_stream_is_followed_too() -> None:
    """A gRPC call is an async iterable, not an iterator."""

    class Call:
        def __aiter__(self) -> AsyncIterator[Step]:
            return follower.watch("")

    follower = Follower([["1"]])
    with pytest.raises(Finished):
        await follow(
            lambda _: Call(),
            follower.load_cursor,
            follower.apply,
            name="test",
            sleep=follower.sleep,
        )
    assert follower.applied == ["1"]
