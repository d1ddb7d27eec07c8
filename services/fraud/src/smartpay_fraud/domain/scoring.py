"""The story of one call: known already? else assess, store, answer; and what is learned later."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from smartpay_fraud.domain import refusals
from smartpay_fraud.domain.assessment import Assessment, Claim, Finding, Happening
from smartpay_fraud.domain.gate import Gate
from smartpay_fraud.domain.memory import Memory
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

KNOWN_MAX = 100_000
"""Transactions whose repeat is noticed before it is counted, about 25 MB. An older repeat still
gets its first answer, from the history; it only counts once more in this process's memory."""

NEVER = float("inf")
"""The deadline of a caller who waits as long as it takes."""

Visit = tuple[Transaction, int]
"""A transaction and when it came, in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the history: the numbers of the last score and of the last finding there."""

    score: int = 0
    finding: int = 0


BEGINNING = Place()


_Story = asyncio.Task[dict[TransactionKey, Assessment]]
_Named = dict[TransactionKey, Transaction]


class AppraisalQueue(Protocol):
    """Assesses transactions, batching what arrives together."""

    def submit(self, items: Sequence[Visit], expires_at: float) -> Awaitable[Sequence[Assessment]]:
        """Promises the assessments; refuses at once when too many wait."""
        ...


class Listener(Protocol):
    """Hears what becomes known about scored transactions."""

    def heard(self, happenings: Sequence[Happening]) -> None:
        """Takes note of outcomes, and of replayed scores."""
        ...


class History(Protocol):
    """The durable log that everything remembered can be rebuilt from."""

    async def add_all(self, assessments: Sequence[Assessment]) -> list[Assessment]:
        """Stores first assessments in one write; where there is an earlier one, answers that."""
        ...

    async def find_all(self, keys: Collection[TransactionKey]) -> dict[TransactionKey, Assessment]:
        """The stored assessments of these transactions."""
        ...

    async def add_claims(self, claims: Sequence[Claim], cursor: str | None) -> list[Happening]:
        """Stores claims, and the cursor they came with, in one transaction.

        Answers what is new: not repeats, and nothing about transactions never scored.
        """
        ...

    async def place(self) -> Place:
        """The end of the log."""
        ...

    def replay(self, since_ms: int, limit: int, after: Place) -> AsyncIterator[Happening]:
        """The last `limit` scores since then, oldest first, then the findings about them.

        Those up to a place come as remembered already.
        """
        ...


class Scoring:
    """Scores transactions and learns from what they turn out to be.

    One event loop owns it. Times are passed in, so that replays and tests live in their own time.
    """

    def __init__(
        self, queue: AppraisalQueue, memory: Memory, history: History, listener: Listener
    ) -> None:
        self._queue = queue
        self._memory = memory
        self._history = history
        self._listener = listener
        self._known: OrderedDict[TransactionKey, None] = OrderedDict()
        self._in_flight: dict[TransactionKey, _Story] = {}
        self._gate = Gate()

    async def remember(self, since_ms: int, limit: int, after: Place = BEGINNING) -> int:
        """Rebuilds memory from the history at start; returns how many entries it took.

        Args:
            since_ms: what is older says nothing any more.
            limit: scores taken at most.
            after: what came up to here is in the memory already.
        """
        count = 0
        async for happening in self._history.replay(since_ms, limit, after):
            if not happening.is_remembered:
                await self._memory.learn([happening])
                count += 1
            self._listener.heard([happening])
            if happening.finding is None:
                self._know(happening.transaction.key)
        return count

    async def standing_still(self, look: Callable[[Place], None]) -> None:
        """Calls `look` while memory is exactly what the history's first part makes of it.

        Scores and findings wait meanwhile, so a look should take well under a second.
        """
        async with self._gate.closed():
            look(await self._history.place())

    async def score(
        self, transaction: Transaction, now_ms: int, expires_at: float = NEVER
    ) -> Assessment:
        """Assesses a transaction and counts it; a repeat gets the first answer and counts once.

        Args:
            transaction: what to score.
            now_ms: when it came.
            expires_at: when the caller goes away, on the queue's clock.

        Raises:
            Refusal: IDEMPOTENCY_KEY_REUSED for other input under the same id;
                SCORING_QUEUE_FULL under overload and DEADLINE_EXCEEDED when it can't be done in
                time, both with nothing counted.
        """
        return (await self.score_all([transaction], now_ms, expires_at))[0]

    async def score_all(
        self, transactions: Sequence[Transaction], now_ms: int, expires_at: float = NEVER
    ) -> list[Assessment]:
        """Assesses several transactions, each seeing those before it; one refusal refuses all.

        What was scored before a refusal stays scored: repeating the whole call is safe.
        """
        keys = [transaction.key for transaction in transactions]
        stories: dict[TransactionKey, _Story] = {}
        mine: dict[TransactionKey, Transaction] = {}
        for key, transaction in zip(keys, transactions, strict=True):
            if (racing := self._in_flight.get(key)) is not None:
                stories[key] = racing
            else:
                mine.setdefault(key, transaction)
        others = set(stories.values())
        if mine:
            stories.update(dict.fromkeys(mine, self._begin(mine, now_ms, expires_at)))
        await asyncio.wait(set(stories.values()))
        if any(story.exception() for story in others):
            # Somebody else's deadline or failure is not this caller's.
            return await self.score_all(transactions, now_ms, expires_at)
        assessments = [stories[key].result()[key] for key in keys]
        for assessment, transaction in zip(assessments, transactions, strict=True):
            # The whole input is compared, which no hash can do better.
            told = assessment.transaction
            if told is not transaction and told != transaction:
                raise refusals.transaction_id_reused()
        return assessments

    async def label(
        self,
        key: TransactionKey,
        name: str,
        finding: Finding,
        known_ms: int | None,
        now_ms: int,
    ) -> None:
        """Records what a transaction turned out to be; repeating it changes nothing.

        Raises:
            Refusal: TRANSACTION_NOT_FOUND when this merchant never had it scored; FIELD_INVALID
                when the label claims to become known only later.
        """
        if known_ms is not None and known_ms > now_ms:
            raise refusals.label_from_the_future()
        if not await self._history.find_all([key]):
            raise refusals.transaction_not_found()
        await self.learn([Claim(key, name, finding, now_ms, known_ms)], None)

    async def learn(self, claims: Sequence[Claim], cursor: str | None) -> None:
        """Stores claims with the cursor they came with, and counts those that are new."""
        async with self._gate.work():
            news = await self._history.add_claims(claims, cursor)
            await self._memory.learn(news)
        self._listener.heard(news)

    async def forget(self, merchant_id: str, livemode: bool, customer_id: str) -> None:
        """Forgets a customer who asked for it, in memory; the history blanks its own rows."""
        await self._memory.forget(merchant_id, livemode, customer_id)

    def _begin(self, mine: _Named, now_ms: int, expires_at: float) -> _Story:
        """Starts a story of its own: what is counted gets stored, even if the caller goes away."""
        story = asyncio.create_task(self._tell(mine, now_ms, expires_at))
        self._in_flight.update(dict.fromkeys(mine, story))
        # Asked here, so that a failure nobody waits for any more is not reported as unheard.
        story.add_done_callback(lambda done: done.cancelled() or done.exception())
        return story

    async def _tell(
        self, mine: _Named, now_ms: int, expires_at: float
    ) -> dict[TransactionKey, Assessment]:
        try:
            async with self._gate.work():
                return await self._assessed(mine, now_ms, expires_at)
        finally:
            for key in mine:
                self._in_flight.pop(key, None)

    async def _assessed(
        self, mine: _Named, now_ms: int, expires_at: float
    ) -> dict[TransactionKey, Assessment]:
        known = [key for key in mine if key in self._known]
        stored = await self._history.find_all(known) if known else {}
        fresh = [key for key in mine if key not in stored]
        if not fresh:
            return stored
        visits = [(mine[key], now_ms) for key in fresh]
        assessments = await self._queue.submit(visits, expires_at)
        added = await self._history.add_all(assessments)
        self._memory.settle(fresh)
        blocks = []
        for key, assessment, kept in zip(fresh, assessments, added, strict=True):
            stored[key] = kept
            self._know(key)
            if kept is assessment and kept.verdict is Verdict.BLOCK:
                blocks.append(Happening(kept.transaction, kept.scored_ms, Finding.BLOCKED))
        if blocks:
            await self._memory.learn(blocks)
        return stored

    def _know(self, key: TransactionKey) -> None:
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
