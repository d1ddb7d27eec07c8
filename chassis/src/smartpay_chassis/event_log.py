"""Following another service's log of events from a cursor, for ever, across restarts of both."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Protocol, TypeVar

import grpc
import structlog

log = structlog.get_logger()

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 5.0  # how stale a consumer may get after its source is back


class Step(Protocol):
    """One answer of the stream; its cursor is stored with its effects."""

    @property
    def cursor(self) -> str:
        """Where to go on after this step."""
        ...


StepT = TypeVar("StepT", bound=Step)


async def follow(
    watch: Callable[[str], AsyncIterable[StepT]],
    load_cursor: Callable[[], Awaitable[str]],
    apply: Callable[[StepT], Awaitable[None]],
    *,
    name: str,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Applies each step of the stream in order and reconnects when it ends.

    A cursor the source no longer keeps (OUT_OF_RANGE) starts again from the oldest event, which
    is safe because every consumer applies by sequence. An error in `apply` is not caught: a
    consumer that can't store must stop, loudly, not skip.

    Args:
        watch: opens the stream after a cursor; "" is the oldest event.
        load_cursor: reads the cursor stored with the last applied step.
        apply: stores a step's effects and its cursor in one transaction.
        name: the stream's name in the logs.
        sleep: replaced by tests.
    """
    failures = 0
    cursor = await load_cursor()
    while True:
        steps = aiter(watch(cursor))
        while True:
            try:
                step = await anext(steps)
            except StopAsyncIteration:
                break
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                    log.warning("event log: cursor expired, starting over", stream=name)
                    cursor = ""
                elif error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                    failures += 1
                    log.info("event log: stream ended", stream=name, code=error.code().name)
                break
            # Outside the try: a gRPC error of the consumer's own is no end of the stream.
            await apply(step)
            cursor = step.cursor
            failures = 0
        ceiling = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2 ** min(failures, 6))
        # Jitter, so that all consumers do not come back in the same instant.
        await sleep(ceiling * (0.5 + random.random() / 2))
