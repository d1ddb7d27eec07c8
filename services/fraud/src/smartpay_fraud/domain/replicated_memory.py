"""Memory that replicas share: one log gives the order, each replica applies all of it itself.

State machine replication (Schneider 1990, "Implementing fault-tolerant services using the state
machine approach"): what a replica remembers is a function of the log's prefix that it has applied,
so a payment that another replica saw a moment ago is in the next view, and two replicas that have
applied the same prefix compute the same bits.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import astuple
from itertools import islice
from typing import Any, NamedTuple, Protocol

import structlog

from smartpay_fraud.domain.assessment import Finding, Happening
from smartpay_fraud.domain.features import FeatureStore
from smartpay_fraud.domain.graph import MessageWeights
from smartpay_fraud.domain.memory import UNSETTLED_MAX, LocalMemory, Sighting
from smartpay_fraud.domain.refusals import memory_unavailable
from smartpay_fraud.domain.snapshot import SnapshotError
from smartpay_fraud.domain.transaction import Transaction, TransactionKey

log = structlog.get_logger()

APPLIED_MAX = 200_000
"""Entries whose repeat is noticed in this process, about 30 MB: only when the log lost its data,
and with it its own knowledge of repeats, does anything depend on it."""

UNSENT_MAX = 100_000
"""Findings that wait for the log to come back; past it learning fails and is tried again."""

SENT_TOGETHER_MAX = 500
"""Findings per round trip: the log serves nobody else meanwhile."""

REWIND_MS = 60_000
"""How far back is read again when a failover lost the log's end; longer than one takes."""


_FORGET = "FORGET"


class Position(NamedTuple):
    """A place in the log: milliseconds since the epoch by the log's clock, then a number."""

    time_ms: int
    number: int


START = Position(0, 0)


class Entry(NamedTuple):
    """One thing to remember; `name` tells it from everything else, so that it counts once."""

    name: str
    body: bytes


class Page(NamedTuple):
    """What follows a position.

    Attributes:
        epoch: names the log's data; another epoch means that they were lost.
        trimmed: entries up to here are only in the snapshot.
        entries: in order; at most a page.
        own: where the entries just appended went; None for one that was there already.
        complete: nothing followed when the page was read.
    """

    epoch: str
    trimmed: Position
    entries: Sequence[tuple[Position, bytes]]
    own: Sequence[Position | None]
    complete: bool


class Snapshot(NamedTuple):
    """A feature store as it was after a position."""

    position: Position
    data: bytes


class LogUnavailableError(Exception):
    """The log did not answer in time; what was sent may or may not be in it."""


class SharedLog(Protocol):
    """An ordered log that every replica appends to and reads; each name is appended once."""

    async def append(self, entries: Sequence[Entry], after: Position) -> Page:
        """Appends what is new, and answers what follows a position; one round trip.

        Raises:
            LogUnavailableError: no answer.
        """
        ...

    async def read(self, after: Position) -> Page:
        """Answers what follows a position at once; raises LogUnavailableError."""
        ...

    async def wait(self, after: Position) -> None:
        """Returns when something follows a position, or after a while; LogUnavailableError."""
        ...

    async def lease(self) -> bool:
        """Tells whether this replica is to take the next snapshot."""
        ...

    async def save(self, snapshot: Snapshot) -> None:
        """Keeps a snapshot in place of the last, and forgets entries that both contain."""
        ...

    async def load(self) -> Snapshot | None:
        """Answers the last snapshot; None when there is none that is whole."""
        ...


class ReplicatedMemory:
    """The memory of one replica.

    A transaction counts once by its name in the log, whichever replica sees it, and however often
    an unanswered append is repeated.

    Args:
        shared: the log.
        fresh: makes an empty store.
    """

    def __init__(self, shared: SharedLog, fresh: Callable[[], FeatureStore] = FeatureStore) -> None:
        self._shared = shared
        self._fresh = fresh
        self._local = LocalMemory(fresh())
        self._weights: tuple[MessageWeights | None, MessageWeights | None] = (None, None)
        self._position = START
        self._epoch = ""
        self._applied: OrderedDict[str, None] = OrderedDict()
        # Asked for here: their first views are kept for whoever asks again.
        self._awaited: OrderedDict[TransactionKey, None] = OrderedDict()
        self._unsent: deque[Entry] = deque()
        # The log forgot what is known here, so a newcomer needs it from here.
        self._is_only_witness = False
        # One round trip at a time: answers that overtake each other would look like a lost end.
        self._turn = asyncio.Lock()

    @property
    def position(self) -> Position:
        """How far the log was applied."""
        return self._position

    async def open(self) -> None:
        """Loads the last snapshot and applies what came after; raises LogUnavailableError."""
        async with self._turn:
            await self._restore()
            await self._catch_up()

    async def observe(self, visits: Sequence[tuple[Transaction, int]]) -> list[Sighting]:
        """Looks at each transaction as of everything before it in the log.

        Raises:
            Refusal: UNAVAILABLE MEMORY_UNAVAILABLE; repeating it counts nothing twice.
        """
        entries = []
        for transaction, at_ms in visits:
            key = transaction.key
            if self._local.sighting(key) is None:
                self._awaited[key] = None
                entries.append(_entry(Happening(transaction, at_ms)))
        while len(self._awaited) > UNSETTLED_MAX:
            self._awaited.popitem(last=False)
        if entries:
            try:
                async with self._turn:
                    await self._append(entries)
            except LogUnavailableError as error:
                raise memory_unavailable() from error
        sightings = []
        for transaction, at_ms in visits:
            self._awaited.pop(transaction.key, None)
            # Counted long ago, or by another replica: looked at again and not counted.
            found = self._local.sighting(transaction.key)
            sightings.append(found or self._local.glance(transaction, at_ms))
        return sightings

    def settle(self, keys: Iterable[TransactionKey]) -> None:
        """Forgets the sightings of stored transactions."""
        self._local.settle(keys)

    async def learn(self, happenings: Sequence[Happening]) -> None:
        """Tells all replicas what became known; it waits here while the log is away.

        Raises:
            Refusal: UNAVAILABLE MEMORY_UNAVAILABLE when too much waits already.
        """
        if len(self._unsent) + len(happenings) > UNSENT_MAX:
            raise memory_unavailable()
        self._unsent.extend(map(_entry, happenings))
        try:
            await self._send()
        except LogUnavailableError:
            log.warning("findings wait for the shared memory", waiting=len(self._unsent))

    async def forget(self, merchant_id: str, livemode: bool, customer_id: str) -> None:
        """Tells all replicas to forget a customer."""
        self._unsent.append(_erasure(merchant_id, livemode, customer_id))
        try:
            await self._send()
        except LogUnavailableError:
            log.warning("findings wait for the shared memory", waiting=len(self._unsent))

    def use_graph(
        self, weights: MessageWeights | None, shadow: MessageWeights | None = None
    ) -> None:
        """Computes views for these models from now on."""
        self._weights = (weights, shadow)
        self._local.use_graph(weights, shadow)

    async def keep_up(self, retry_seconds: float) -> None:
        """Applies what other replicas append, for ever, and sends what waits."""
        while True:
            try:
                await self._send()
                await self._shared.wait(self._position)
                async with self._turn:
                    await self._catch_up()
                if self._is_only_witness and await self._shared.lease():
                    await self.snapshot()
            except LogUnavailableError as error:
                log.warning("the shared memory is away", error=str(error))
                await asyncio.sleep(retry_seconds)

    async def keep_snapshots(self, seconds: float, apart: Callable[[], Awaitable[bool]]) -> None:
        """Takes a snapshot now and then, whichever replica holds the lease, for ever.

        Args:
            seconds: the pause between two.
            apart: takes one out of the log alone, while this process goes on; answers whether it
                did. What only this process knows, it must write down itself.
        """
        while True:
            await asyncio.sleep(seconds)
            try:
                if await self._shared.lease() and (self._is_only_witness or not await apart()):
                    await self.snapshot()
            except LogUnavailableError as error:
                log.warning("no snapshot of the shared memory", error=str(error))

    async def snapshot(self) -> None:
        """Keeps what is remembered, so that a newcomer need not read the whole log."""
        await self._shared.save(Snapshot(self._position, self._local.dump()))
        self._is_only_witness = False

    async def _send(self) -> None:
        async with self._turn:
            while self._unsent:
                batch = list(islice(self._unsent, SENT_TOGETHER_MAX))
                await self._append(batch)
                for _ in batch:
                    self._unsent.popleft()

    async def _append(self, entries: Sequence[Entry]) -> None:
        page = await self._shared.append(entries, self._position)
        lost_end = [own for own in page.own if own is not None and own <= self._position]
        if page.epoch == self._epoch and lost_end and page.trimmed <= self._position:
            # Positions only grow, unless a failover lost the end that this replica had seen.
            log.warning("the shared memory lost its end; reading again")
            self._position = Position(max(0, min(lost_end).time_ms - REWIND_MS), 0)
            await self._catch_up()
        elif not await self._take(page):
            await self._catch_up()

    async def _catch_up(self) -> None:
        while not await self._take(await self._shared.read(self._position)):
            pass

    async def _take(self, page: Page) -> bool:
        """Applies a page; answers False when there is more to read."""
        if not self._epoch:
            # A newcomer's snapshot lies in the log's own place, so it is of the same epoch.
            self._epoch = page.epoch
        elif page.epoch != self._epoch:
            log.warning("the shared memory lost its data; going on with what is known here")
            self._is_only_witness = True
            self._epoch = page.epoch
            self._position = START
            return False
        if page.trimmed > self._position:
            await self._restore()
            return False
        for position, body in page.entries:
            if position > self._position:
                self._position = position
                self._apply(body)
        return page.complete

    async def _restore(self) -> None:
        snapshot = await self._shared.load()
        is_newcomer = not self._epoch
        if snapshot is None or (snapshot.position <= self._position and not is_newcomer):
            # Nothing better is there: what was trimmed meanwhile stays unknown here.
            page = await self._shared.read(self._position)
            self._epoch, self._position = page.epoch, max(self._position, page.trimmed)
            return
        try:
            store = FeatureStore.load(snapshot.data)
        except SnapshotError as error:
            # Of another version of this code, while versions change over.
            log.warning("the shared snapshot can't be used", error=str(error))
            store = self._fresh()
        self._local.replace(store)
        self._local.use_graph(*self._weights)
        self._position = snapshot.position

    def _apply(self, body: bytes) -> None:
        fields = json.loads(body)
        name = _name(fields)
        if name in self._applied:
            return
        self._applied[name] = None
        if len(self._applied) > APPLIED_MAX:
            self._applied.popitem(last=False)
        if fields[0] == _FORGET:
            self._local.forget_now(*fields[3:])
            return
        happening = _happening(fields)
        key = happening.transaction.key
        if happening.finding is None and key in self._awaited:
            self._local.sight(happening.transaction, happening.at_ms)
        else:
            self._local.take_in(happening)


def _entry(happening: Happening) -> Entry:
    finding = happening.finding.value if happening.finding else ""
    fields = [finding, happening.at_ms, happening.blocked, *astuple(happening.transaction)]
    return Entry(_name(fields), json.dumps(fields, separators=(",", ":")).encode())


def _erasure(merchant_id: str, livemode: bool, customer_id: str) -> Entry:
    """Forgetting twice does no harm, and a customer may come back and be forgotten again."""
    fields = [_FORGET, uuid.uuid4().hex, False, merchant_id, livemode, customer_id]
    return Entry(_name(fields), json.dumps(fields, separators=(",", ":")).encode())


def _happening(fields: Sequence[Any]) -> Happening:
    finding, at_ms, blocked, *parts = fields
    return Happening(
        Transaction(*parts), at_ms, Finding(finding) if finding else None, blocked=blocked
    )


def _name(fields: Sequence[Any]) -> str:
    """Names an entry: a payment by its key alone, for two replicas may date it differently."""
    finding, at_ms, _, *parts = fields
    told = [*parts[:3]] if not finding else [*parts[:3], finding, at_ms]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=16).hexdigest()
