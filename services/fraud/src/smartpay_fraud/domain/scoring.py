"""The story of one score: known already? features, rules, model, reasons, verdict, remember."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain import refusals
from smartpay_fraud.domain.features import FeatureStore, Vector
from smartpay_fraud.domain.reasons import REASONS_MAX, Reason, model_reasons
from smartpay_fraud.domain.rules import RULES_VERSION, broken_rules
from smartpay_fraud.domain.transaction import Transaction, TransactionKey, reference_cents
from smartpay_fraud.domain.verdict import Calibration, Costs, Verdict

KNOWN_MAX = 100_000
"""Transactions whose repeat is noticed before it is counted, about 25 MB. An older repeat still
gets its first answer, from the history; it only counts once more in this process's memory."""

DRAFTS_MAX = 10_000
"""Transactions counted but not yet stored, because the store failed or the caller went away."""

_RULE_SCORE = 1.0  # a broken rule is certain by decree, whatever the model would say


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the service thinks of one transaction; once stored it never changes.

    Attributes:
        transaction: what was scored.
        verdict: what to do.
        score: calibrated probability of fraud, 0 to 1.
        reasons: rules first, then what raised the score most; at most four.
        model_version: the bundle that scored.
        rules_version: the rules that were asked.
        scored_ms: when, in milliseconds since the epoch.
    """

    transaction: Transaction
    verdict: Verdict
    score: float
    reasons: tuple[Reason, ...]
    model_version: str
    rules_version: int
    scored_ms: int


class Finding(Enum):
    """What was learned about a scored transaction afterwards."""

    DECLINED = "DECLINED"
    FRAUD = "FRAUD"
    LEGITIMATE = "LEGITIMATE"


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody's word on a transaction.

    Attributes:
        key: the transaction.
        name: tells this word from others on the same transaction; a repeat has the same name.
        finding: what it says.
        heard_ms: when it was said, in milliseconds since the epoch.
        known_ms: since when it was known; None: since it was first said.
    """

    key: TransactionKey
    name: str
    finding: Finding
    heard_ms: int
    known_ms: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    """One stored entry as a restart needs it: a scored transaction, or a finding about one.

    Attributes:
        transaction: which one.
        at_ms: when it was scored or when the finding became known.
        finding: None when the entry is the score itself.
        blocked: the score's verdict was BLOCK.
    """

    transaction: Transaction
    at_ms: int
    finding: Finding | None = None
    blocked: bool = False


class Model(Protocol):
    """A loaded and verified model bundle."""

    @property
    def version(self) -> str:
        """Names the bundle."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Turns its margins into probabilities."""
        ...

    @property
    def costs(self) -> Costs:
        """Turns probabilities into verdicts."""
        ...

    def contributions(self, row: Vector) -> NDArray[np.float64]:
        """What each feature added, in log-odds."""
        ...


class MarginQueue(Protocol):
    """Runs the model on rows, batching what arrives together."""

    def submit(self, row: Vector) -> asyncio.Future[float]:
        """Promises a row's log-odds of fraud; refuses at once when too many wait."""
        ...


class History(Protocol):
    """The durable log that everything remembered can be rebuilt from."""

    async def add(self, assessment: Assessment) -> Assessment:
        """Stores a first assessment; answers the one stored earlier if there is one."""
        ...

    async def find(self, key: TransactionKey) -> Assessment | None:
        """The stored assessment of a transaction."""
        ...

    async def add_claims(self, claims: Sequence[Claim], cursor: str | None) -> list[Memory]:
        """Stores claims, and the cursor they came with, in one transaction.

        Answers what is new: not repeats, and nothing about transactions never scored.
        """
        ...

    def replay(self, since_ms: int, limit: int) -> AsyncIterator[Memory]:
        """The last `limit` scores since then, oldest first, then the findings about them."""
        ...


@dataclass(slots=True)
class _Draft:
    """A transaction that is counted but not yet stored; a retry goes on from here."""

    transaction: Transaction
    row: Vector
    scored_ms: int


class Scoring:
    """Scores transactions and learns from what they turn out to be.

    One event loop owns it. Times are passed in, so that replays and tests live in their own time.
    """

    def __init__(
        self, store: FeatureStore, model: Model, queue: MarginQueue, history: History
    ) -> None:
        self._store = store
        self._model = model
        self._queue = queue
        self._history = history
        self._known: OrderedDict[TransactionKey, None] = OrderedDict()
        self._in_flight: dict[TransactionKey, asyncio.Future[None]] = {}
        self._drafts: dict[TransactionKey, _Draft] = {}

    async def remember(self, since_ms: int, limit: int) -> int:
        """Rebuilds memory from the history at start; returns how many entries it took."""
        count = 0
        async for memory in self._history.replay(since_ms, limit):
            if memory.finding is None:
                self._store.append(memory.transaction, memory.at_ms)
                self._know(memory.transaction.key)
                if memory.blocked:
                    self._store.block(memory.transaction, memory.at_ms)
            else:
                self._take_in(memory)
            count += 1
        return count

    async def score(self, transaction: Transaction, now_ms: int) -> Assessment:
        """Assesses a transaction and counts it; a repeat gets the first answer and counts once.

        Raises:
            Refusal: IDEMPOTENCY_KEY_REUSED for other input under the same id;
                SCORING_QUEUE_FULL under overload, with nothing counted.
        """
        key = transaction.key
        while (racing := self._in_flight.get(key)) is not None:
            await asyncio.wait((racing,))
        done = self._in_flight[key] = asyncio.get_running_loop().create_future()
        try:
            stored = await self._history.find(key) if key in self._known else None
            if stored is None:
                stored = await self._first(transaction, now_ms)
        finally:
            del self._in_flight[key]
            done.set_result(None)
        # The whole input is compared, which no hash can do better.
        if stored.transaction != transaction:
            raise refusals.transaction_id_reused()
        return stored

    async def score_all(self, transactions: Sequence[Transaction], now_ms: int) -> list[Assessment]:
        """Assesses several transactions, each seeing those before it; one refusal refuses all.

        What was scored before a refusal stays scored: repeating the whole call is safe.
        """
        results = await asyncio.gather(
            *(self.score(transaction, now_ms) for transaction in transactions),
            return_exceptions=True,
        )
        assessments = []
        for result in results:
            if isinstance(result, BaseException):
                raise result
            assessments.append(result)
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
        if await self._history.find(key) is None:
            raise refusals.transaction_not_found()
        await self.learn([Claim(key, name, finding, now_ms, known_ms)], None)

    async def learn(self, claims: Sequence[Claim], cursor: str | None) -> None:
        """Stores claims with the cursor they came with, and counts those that are new."""
        for memory in await self._history.add_claims(claims, cursor):
            self._take_in(memory)

    async def _first(self, transaction: Transaction, now_ms: int) -> Assessment:
        key = transaction.key
        draft = self._drafts.get(key)
        if draft is None:
            row = self._store.score_view(transaction, now_ms)
            margin = self._queue.submit(row)  # refuses before anything is counted
            self._store.append(transaction, now_ms)
            draft = self._drafts[key] = _Draft(transaction, row, now_ms)
            if len(self._drafts) > DRAFTS_MAX:
                del self._drafts[next(iter(self._drafts))]
        elif draft.transaction != transaction:
            raise refusals.transaction_id_reused()
        else:
            margin = self._queue.submit(draft.row)
        assessment = self._judge(draft, await margin)
        stored = await self._history.add(assessment)
        self._drafts.pop(key, None)
        self._know(key)
        if stored is assessment and assessment.verdict is Verdict.BLOCK:
            self._store.block(transaction, assessment.scored_ms)
        return stored

    def _judge(self, draft: _Draft, margin: float) -> Assessment:
        transaction, model = draft.transaction, self._model
        probability = model.calibration.probability(margin)
        cents = reference_cents(transaction.amount_minor, transaction.currency_code)
        verdict = model.costs.verdict(probability, cents)
        reasons = []
        for rule, message in broken_rules(draft.row):
            verdict, probability = Verdict.BLOCK, _RULE_SCORE
            reasons.append(Reason(rule.code, message, 0.0))
        reasons += model_reasons(
            draft.row, model.contributions(draft.row), REASONS_MAX - len(reasons)
        )
        return Assessment(
            transaction,
            verdict,
            probability,
            tuple(reasons),
            model.version,
            RULES_VERSION,
            draft.scored_ms,
        )

    def _take_in(self, memory: Memory) -> None:
        if memory.finding is Finding.DECLINED:
            self._store.decline(memory.transaction, memory.at_ms)
        elif memory.finding is not None:
            fraudulent = memory.finding is Finding.FRAUD
            self._store.label(memory.transaction, fraudulent, memory.at_ms)

    def _know(self, key: TransactionKey) -> None:
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
