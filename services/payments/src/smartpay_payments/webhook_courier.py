"""Carries events to merchants' endpoints: plans deliveries from the log, sends them, for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.events import LoggedEvent
from smartpay_payments.domain.payment import Payment
from smartpay_payments.domain.webhook_delivery import (
    Delivery,
    Persistence,
    Reply,
    after_try,
    endpoint_after,
    given_up,
    signature,
)
from smartpay_payments.domain.webhook_endpoints import Endpoint, SigningKeys

log = structlog.get_logger()

EVENTS_AT_ONCE = 100
"""Read of the log per step; a few hundred kilobytes."""
DELIVERIES_AT_ONCE = 24
"""Stored in one unit with the progress: a unit has at most 25 writes. No event has more, since a
merchant has 16 endpoints at most."""
LEASE = timedelta(seconds=60)
"""How long a delivery waits when the process that had it died; above any sending's time."""
STRETCH = 0.2
"""Pauses vary by so much up and down."""
POLL_SECONDS = 1.0
"""How late a retry may come; the shortest pause is five seconds."""


class EventLog(Protocol):
    """Payments' own log of events."""

    async def events_after(self, position: int, limit: int) -> list[LoggedEvent]:
        """Reads the next events; raises Refusal OUT_OF_RANGE when they are no longer kept."""
        ...

    async def version(self, payment_id: str, version: int) -> Payment | None:
        """Reads one version of a payment while its event is kept."""
        ...

    def next_commit(self) -> asyncio.Event:
        """Answers what is set by the next commit."""
        ...


class Deliveries(Protocol):
    """Where deliveries are kept. Each method is one atomic unit of at most 25 writes."""

    async def progress(self) -> int:
        """Answers up to which place of the log deliveries are planned."""
        ...

    async def endpoints_of(self, merchant_id: str, livemode: bool) -> list[Endpoint]:
        """Reads a merchant's endpoints that get events."""
        ...

    async def plan(self, deliveries: Sequence[Delivery], position: int) -> None:
        """Stores deliveries and the progress."""
        ...

    async def lease_due(
        self,
        now: datetime,
        until: datetime,
        places: int,
        places_each: int,
        busy: Mapping[str, int],
    ) -> list[tuple[Delivery, Endpoint]]:
        """Takes deliveries whose time has come."""
        ...

    async def record(self, delivery: Delivery, endpoint: Endpoint | None) -> None:
        """Stores what came of a sending, and the endpoint if that changed."""
        ...


class Sender(Protocol):
    """Posts to a merchant's address."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answers what came of it; raises for nothing the network does."""
        ...


class Courier:
    """Runs beside the calls. A delivery is stored before it is sent and after it was answered.

    When the process dies between sending and storing, the same delivery is sent again under the
    same id: at least once, and receivers know a repeat by it.

    Args:
        events: payments' own log.
        deliveries: where deliveries are kept.
        sender: posts them.
        keys: sign them.
        write: writes a payment's event as merchants get it, and its content type.
        derive_id: derives a delivery's id from (prefix, cell, parts...).
        clock: the time, aware.
        draw: a random number from 0 to 1.
        persistence: when to send again, and when to stop.
        places: deliveries on their way at once.
        places_each: of one endpoint.
    """

    def __init__(
        self,
        events: EventLog,
        deliveries: Deliveries,
        sender: Sender,
        keys: SigningKeys,
        write: tuple[Callable[[Payment], bytes], str],
        derive_id: Callable[..., str],
        clock: Callable[[], datetime],
        draw: Callable[[], float],
        persistence: Persistence,
        places: int,
        places_each: int,
    ) -> None:
        self._events = events
        self._deliveries = deliveries
        self._sender = sender
        self._keys = keys
        self._write, self._content_type = write
        self._derive_id = derive_id
        self._clock = clock
        self._draw = draw
        self._persistence = persistence
        self._places = places
        self._places_each = places_each
        self._busy: Counter[str] = Counter()
        self._under_way: set[asyncio.Task[None]] = set()
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Runs for ever; what is under way ends with it, and is sent again by the next process."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._plan_for_ever())
            group.create_task(self._send_for_ever(group))

    async def _plan_for_ever(self) -> None:
        while True:
            committed = self._events.next_commit()
            if await self.plan():
                self._work.set()
                continue
            # Wakes up now and then in case somebody else stored events.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await committed.wait()

    async def _send_for_ever(self, group: asyncio.TaskGroup) -> None:
        while True:
            self._work.clear()
            if not await self._start_due(group):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._work.wait()

    # ---- planning ----------------------------------------------------------------------------

    async def plan(self) -> int:
        """Plans the deliveries of the next events; answers how many events that were."""
        position = await self._deliveries.progress()
        try:
            events = await self._events.events_after(position, EVENTS_AT_ONCE)
        except Refusal as refusal:
            if refusal.kind is not Kind.OUT_OF_RANGE:
                raise
            log.warning("webhooks: events are gone that nobody was told of", position=position)
            events = await self._events.events_after(0, EVENTS_AT_ONCE)
        planned: list[Delivery] = []
        endpoints: dict[tuple[str, bool], list[Endpoint]] = {}
        for event in events:
            new = await self._of_event(event, endpoints)
            if len(planned) + len(new) > DELIVERIES_AT_ONCE:
                await self._deliveries.plan(planned, position)
                planned = []
            planned += new
            position = event.position
        if events:
            await self._deliveries.plan(planned, position)
        return len(events)

    async def _of_event(
        self, event: LoggedEvent, endpoints: dict[tuple[str, bool], list[Endpoint]]
    ) -> list[Delivery]:
        payment = event.payment
        tenant = (payment.merchant_id, payment.livemode)
        if tenant not in endpoints:
            endpoints[tenant] = await self._deliveries.endpoints_of(*tenant)
        now = self._clock()
        return [
            Delivery(
                webhook_delivery_id=self._derive_id(
                    "whd",
                    payment.cell,
                    endpoint.webhook_endpoint_id,
                    payment.payment_id,
                    str(payment.version),
                ),
                webhook_endpoint_id=endpoint.webhook_endpoint_id,
                merchant_id=payment.merchant_id,
                livemode=payment.livemode,
                payment_id=payment.payment_id,
                version=payment.version,
                event_type=payment.event_type,
                create_time=now,
                next_try_time=now,
            )
            for endpoint in endpoints[tenant]
            if event.position > endpoint.from_position and endpoint.wants(payment.event_type)
        ]

    # ---- sending -----------------------------------------------------------------------------

    async def step(self) -> int:
        """Sends what is due now and waits for the answers; answers how many. For tests."""
        async with asyncio.TaskGroup() as group:
            return await self._start_due(group)

    async def _start_due(self, group: asyncio.TaskGroup) -> int:
        places = min(self._places - len(self._under_way), DELIVERIES_AT_ONCE)
        if places <= 0:
            await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            return 1
        now = self._clock()
        due = await self._deliveries.lease_due(
            now, now + LEASE, places, self._places_each, self._busy
        )
        for delivery, endpoint in due:
            task = group.create_task(self._deliver(delivery, endpoint))
            self._under_way.add(task)
            self._busy[endpoint.webhook_endpoint_id] += 1
            task.add_done_callback(self._done(endpoint.webhook_endpoint_id))
        return len(due)

    def _done(self, webhook_endpoint_id: str) -> Callable[[asyncio.Task[None]], None]:
        def done(task: asyncio.Task[None]) -> None:
            self._under_way.discard(task)
            self._busy[webhook_endpoint_id] -= 1
            if not self._busy[webhook_endpoint_id]:
                del self._busy[webhook_endpoint_id]
            # A place is free again.
            self._work.set()

        return done

    async def _deliver(self, delivery: Delivery, endpoint: Endpoint) -> None:
        try:
            payment = await self._events.version(delivery.payment_id, delivery.version)
            if payment is None:
                gone = self._after(delivery, Reply(failure_reason="event_expired"))
                await self._deliveries.record(given_up(gone), None)
                return
            reply = await self._send(delivery, endpoint, self._write(payment))
            await self._record(delivery, endpoint, reply)
        except Exception:
            # One delivery's trouble must not stop the others; its lease ends, and it comes again.
            log.exception("webhook failed", webhook_delivery_id=delivery.webhook_delivery_id)

    async def _record(self, delivery: Delivery, endpoint: Endpoint, reply: Reply) -> None:
        after = self._after(delivery, reply)
        changed = endpoint_after(endpoint, reply, self._clock(), self._persistence)
        await self._deliveries.record(after, None if changed is endpoint else changed)
        log.info(
            "webhook sent",
            merchant_id=delivery.merchant_id,
            webhook_endpoint_id=delivery.webhook_endpoint_id,
            webhook_delivery_id=delivery.webhook_delivery_id,
            status=after.status.value,
            tries=after.tries,
            response_code=reply.code,
            failure_reason=reply.failure_reason,
        )
        if not changed.enabled:
            log.warning(
                "webhook endpoint disabled",
                merchant_id=delivery.merchant_id,
                webhook_endpoint_id=delivery.webhook_endpoint_id,
                why=changed.disabled_reason,
            )

    async def _send(self, delivery: Delivery, endpoint: Endpoint, body: bytes) -> Reply:
        now = self._clock()
        names = endpoint.signing_secrets(now)
        secrets = [self._keys.secret(endpoint.webhook_endpoint_id, name) for name in names]
        known = [secret for secret in secrets if secret is not None]
        if not known:
            # The operator took a key away that endpoints still sign by.
            return Reply(failure_reason="signing_key_missing")
        headers = {
            "content-type": self._content_type,
            "webhook-id": delivery.webhook_delivery_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature(known, delivery.webhook_delivery_id, now, body),
        }
        return await self._sender.send(endpoint.url, headers, body)

    def _after(self, delivery: Delivery, reply: Reply) -> Delivery:
        stretch = 1 + STRETCH * (2 * self._draw() - 1)
        return after_try(delivery, reply, self._clock(), self._persistence, stretch)
