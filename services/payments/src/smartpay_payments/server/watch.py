"""Streams the log of events to other services."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from smartpay.payments.v1 import payments_pb2
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.events import Logged, LoggedChange, LoggedErasure
from smartpay_payments.domain.merchants import Profile
from smartpay_payments.messages import event_message
from smartpay_payments.server.customers import customer_event_message
from smartpay_payments.server.merchants import merchant_event_message

WATCH_BATCH = 200
# An idle stream says "caught up" so often, so that a dead peer is noticed.
WATCH_HEARTBEAT_SECONDS = 15.0

Steps = list[tuple[int, payments_pb2.WatchResponse]]
"""What a stream tells, by place in the log."""


class EventLog(Protocol):
    """What is streamed."""

    async def log_after(self, position: int, limit: int) -> Sequence[Logged]:
        """Reads what comes next in the log; raises Refusal OUT_OF_RANGE when some is gone."""
        ...

    def next_commit(self) -> asyncio.Event:
        """Answers what is set by the next commit; take it before reading, wait on it after."""
        ...


class EventStreams:
    """The streams of all who watch.

    Args:
        log: what is streamed.
        watchers_max: streams at once.
        changed_merchants: the profiles that differ from the mounted table.
    """

    def __init__(
        self,
        log: EventLog,
        watchers_max: int,
        changed_merchants: Callable[[], Sequence[Profile]],
    ) -> None:
        self._log = log
        self._watchers_free = watchers_max
        self._changed_merchants = changed_merchants
        self._reads: dict[tuple[int, asyncio.Event], asyncio.Task[Steps]] = {}

    async def stream(self, cursor: str) -> AsyncGenerator[payments_pb2.WatchResponse, None]:
        """Yields the log from a cursor on, then waits for more.

        Close it when nobody listens any more, or its place among the watchers stays taken.

        Raises:
            Refusal: the cursor is none of ours or too old, or too many watch already.
        """
        position = _position_of(cursor)
        if self._watchers_free <= 0:
            raise Refusal(
                Kind.RESOURCE_EXHAUSTED,
                "UNAVAILABLE",
                "Too many services watch already.",
                remedy="Close a stream or raise PAYMENTS_WATCHERS_MAX.",
            )
        self._watchers_free -= 1
        try:
            if not cursor:
                # The log may have forgotten them, and settings hold until they are changed.
                for profile in self._changed_merchants():
                    yield payments_pb2.WatchResponse(merchant_event=merchant_event_message(profile))
            while True:
                committed = self._log.next_commit()
                steps = await self.steps_after(position, committed)
                for _, step in steps:
                    yield step
                if steps:
                    position = steps[-1][0]
                if len(steps) < WATCH_BATCH:
                    yield payments_pb2.WatchResponse(cursor=_cursor_of(position), caught_up=True)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(WATCH_HEARTBEAT_SECONDS):
                            await committed.wait()
        finally:
            self._watchers_free += 1

    async def steps_after(self, position: int, committed: asyncio.Event) -> Steps:
        """Reads what comes next; watchers who stand at the same place share read and messages.

        Only those who wait for the same commit share: a read that began before a commit may lack
        it, and nobody wakes a watcher again who already waits for the next one.
        """
        place = (position, committed)
        reading = self._reads.get(place)
        if reading is None:
            reading = asyncio.create_task(self._read_steps(position))
            self._reads[place] = reading
            reading.add_done_callback(lambda _: self._reads.pop(place))
        # The others go on when one goes away.
        return await asyncio.shield(reading)

    async def _read_steps(self, position: int) -> Steps:
        events = await self._log.log_after(position, WATCH_BATCH)
        return [(event.position, _step(event)) for event in events]


def _step(event: Logged) -> payments_pb2.WatchResponse:
    step = payments_pb2.WatchResponse(cursor=_cursor_of(event.position))
    if isinstance(event, LoggedChange):
        step.merchant_event.CopyFrom(merchant_event_message(event.profile))
    elif isinstance(event, LoggedErasure):
        step.customer_event.CopyFrom(customer_event_message(event.erased))
    else:
        step.event.CopyFrom(event_message(event.payment))
    return step


_CURSOR_PREFIX = b"1 0 "  # form 1, shard 0: the embedded log has one shard


def _cursor_of(position: int) -> str:
    return base64.urlsafe_b64encode(_CURSOR_PREFIX + str(position).encode()).decode()


def _position_of(cursor: str) -> int:
    if not cursor:
        return 0
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    position = raw.removeprefix(_CURSOR_PREFIX)
    if raw.startswith(_CURSOR_PREFIX) and position.isdigit():
        return int(position)
    raise Refusal(
        Kind.INVALID_ARGUMENT,
        "CURSOR_INVALID",
        "The cursor was not made by Watch.",
        remedy="Use the cursor of the last answer, or an empty one.",
        field="cursor",
    )
