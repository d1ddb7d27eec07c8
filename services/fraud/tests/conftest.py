"""What the fraud tests share: the packaged model, a history in memory, and a scoring on both."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from smartpay_fraud.adapters.model_bundle import ModelBundle, load, packaged
from smartpay_fraud.domain.features import FeatureStore
from smartpay_fraud.domain.scoring import Assessment, Claim, History, Memory, Scoring
from smartpay_fraud.domain.transaction import TransactionKey
from smartpay_fraud.domain.verdict import Verdict
from smartpay_fraud.micro_batcher import MicroBatcher


class HistoryInMemory:
    """A history that forgets with the process, and fails when told to."""

    def __init__(self) -> None:
        self.assessments: dict[TransactionKey, Assessment] = {}
        self.findings: dict[tuple[TransactionKey, str], Memory] = {}
        self.cursor_stored: str | None = None
        self.failing = False

    async def add(self, assessment: Assessment) -> Assessment:
        await asyncio.sleep(0)
        if self.failing:
            raise OSError("disk full")
        return self.assessments.setdefault(assessment.transaction.key, assessment)

    async def find(self, key: TransactionKey) -> Assessment | None:
        return self.assessments.get(key)

    async def add_claims(self, claims: Sequence[Claim], cursor: str | None) -> list[Memory]:
        news = []
        for claim in claims:
            scored = self.assessments.get(claim.key)
            stored = self.findings.get((claim.key, claim.name))
            if scored is None:
                continue
            repeated = stored is not None and stored.finding is claim.finding
            if repeated and stored and claim.known_ms in (None, stored.at_ms):
                continue
            known_ms = claim.heard_ms if claim.known_ms is None else claim.known_ms
            memory = Memory(scored.transaction, known_ms, claim.finding)
            self.findings.pop((claim.key, claim.name), None)
            self.findings[claim.key, claim.name] = memory
            news.append(memory)
        if cursor is not None:
            self.cursor_stored = cursor
        return news

    async def replay(self, since_ms: int, limit: int) -> AsyncIterator[Memory]:
        kept = list(self.assessments.values())[-limit:]
        recent = {a.transaction.key for a in kept if a.scored_ms >= since_ms}
        for a in kept:
            if a.scored_ms >= since_ms:
                yield Memory(a.transaction, a.scored_ms, blocked=a.verdict is Verdict.BLOCK)
        for (key, _), memory in self.findings.items():
            if key in recent:
                yield memory


@pytest.fixture(scope="session")
def bundle() -> ModelBundle:
    return load(packaged())


@pytest.fixture
def history() -> HistoryInMemory:
    return HistoryInMemory()


@pytest.fixture
def make_scoring(bundle: ModelBundle) -> Callable[[History], Scoring]:
    def make(history: History) -> Scoring:
        queue = MicroBatcher(bundle.trees.margins, rows_max=64, queue_max=1024)
        return Scoring(FeatureStore(), bundle, queue, history)

    return make


@pytest.fixture
def scoring(make_scoring: Callable[[History], Scoring], history: HistoryInMemory) -> Scoring:
    return make_scoring(history)
