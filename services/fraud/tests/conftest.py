"""What the fraud tests share: models trained in a moment, a history in memory, a scoring."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import xgboost
from onnx import helper, numpy_helper

from smartpay.fraud.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    fraud_pb2,
    fraud_pb2_grpc,
    lists_pb2,
    lists_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
    reviews_pb2,
    reviews_pb2_grpc,
    rules_pb2,
    rules_pb2_grpc,
)
from smartpay_chassis.testing import FakeClock, serve_for_test
from smartpay_fraud.adapters.bundle_source import source_of
from smartpay_fraud.adapters.model_bundle import ModelBundle, load, pack, pack_arrays, seal
from smartpay_fraud.adapters.onnx_models import OnnxModel
from smartpay_fraud.adapters.serving_models import LocalModel
from smartpay_fraud.adapters.sqlite_audit import SqliteAudit
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.adapters.sqlite_past import SqlitePast
from smartpay_fraud.adapters.sqlite_reviews import SqliteReviews
from smartpay_fraud.adapters.sqlite_rulebook import SqliteRulebook
from smartpay_fraud.domain import drift, graph
from smartpay_fraud.domain.appraisal import Appraiser, Judge
from smartpay_fraud.domain.assessment import Assessment, Claim, Decision, Happening
from smartpay_fraud.domain.features import FEATURES, FeatureStore, Vector, schema_hash
from smartpay_fraud.domain.memory import LocalMemory
from smartpay_fraud.domain.models import Lineup
from smartpay_fraud.domain.reviews import Answer, Review
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.scoring import BEGINNING, History, Place, Scoring
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Calibration, Costs, Verdict
from smartpay_fraud.domain.watching import Watching
from smartpay_fraud.micro_batcher import MicroBatcher
from smartpay_fraud.review_courier import ReviewCourier
from smartpay_fraud.server.audit import FraudAuditServicer
from smartpay_fraud.server.lists import ListsServicer
from smartpay_fraud.server.policies import PoliciesServicer
from smartpay_fraud.server.reviews import ReviewsServicer
from smartpay_fraud.server.rules import RulesServicer
from smartpay_fraud.server.scoring import FraudServicer
from smartpay_fraud.training import trees
from smartpay_fraud.training.onnx_export import to_onnx

LOADED = datetime(2026, 1, 1, tzinfo=UTC)
GOLDEN_ROWS = 40
Files = dict[str, bytes]


class HistoryInMemory:
    """A history that forgets with the process, and fails when told to."""

    def __init__(self) -> None:
        self.assessments: dict[TransactionKey, Assessment] = {}
        self.findings: dict[tuple[TransactionKey, str], Happening] = {}
        self.cursor_stored: str | None = None
        self.failing = False
        self.writes = 0

    async def add_all(self, assessments: Sequence[Assessment]) -> list[Assessment]:
        await asyncio.sleep(0)
        if self.failing:
            raise OSError("disk full")
        self.writes += 1
        return [self.assessments.setdefault(a.transaction.key, a) for a in assessments]

    async def find_all(self, keys: Collection[TransactionKey]) -> dict[TransactionKey, Assessment]:
        return {key: self.assessments[key] for key in keys if key in self.assessments}

    async def add_claims(self, claims: Sequence[Claim], cursor: str | None) -> list[Happening]:
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
            happening = Happening(scored.transaction, known_ms, claim.finding)
            self.findings.pop((claim.key, claim.name), None)
            self.findings[claim.key, claim.name] = happening
            news.append(happening)
        if cursor is not None:
            self.cursor_stored = cursor
        return news

    async def place(self) -> Place:
        return Place(len(self.assessments), len(self.findings))

    async def replay(
        self, since_ms: int, limit: int, after: Place = BEGINNING
    ) -> AsyncIterator[Happening]:
        kept = list(self.assessments.values())[-limit:]
        recent = {a.transaction.key for a in kept if a.scored_ms >= since_ms}
        first = len(self.assessments) - len(kept)
        for number, a in enumerate(kept, start=first + 1):
            if a.scored_ms >= since_ms:
                yield Happening(
                    a.transaction,
                    a.scored_ms,
                    blocked=a.verdict is Verdict.BLOCK,
                    score=a.score,
                    is_remembered=number <= after.score,
                )
        for number, ((key, _), happening) in enumerate(self.findings.items(), start=1):
            if key in recent:
                yield replace(happening, is_remembered=number <= after.finding)


def _with_head(model: bytes, embed: np.ndarray) -> bytes:
    """Puts a made-up graph head before trees that read the row and its columns together."""
    import onnx

    whole = onnx.load_from_string(model)
    (ensemble,) = [node for node in whole.graph.node if node.op_type == "TreeEnsembleRegressor"]
    ensemble.input[0] = "stack"
    head = [
        helper.make_node("MatMul", ["graph", "embed"], ["graph_columns"]),
        helper.make_node("Concat", ["rows", "graph_columns"], ["stack"], axis=1),
        *whole.graph.node,
    ]
    floats = onnx.TensorProto.FLOAT
    inputs = {"rows": len(FEATURES), "graph": graph.GRAPH_WIDTH}
    outputs = {"margins": 1, "graph_columns": embed.shape[1]}
    made = helper.make_graph(
        head,
        "fraud",
        [helper.make_tensor_value_info(n, floats, [None, w]) for n, w in inputs.items()],
        [helper.make_tensor_value_info(n, floats, [None, w]) for n, w in outputs.items()],
        [numpy_helper.from_array(embed, "embed")],
    )
    whole.graph.CopyFrom(made)
    return bytes(whole.SerializeToString(deterministic=True))


def _safetensors(named: dict[str, np.ndarray]) -> bytes:
    import json

    header, body = {}, b""
    for name, numbers in named.items():
        first = len(body)
        body += numbers.astype("<f4").tobytes()
        shape = list(numbers.shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [first, len(body)]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def make_files(seed: int = 1, *, with_graph: bool = False, tree_count: int = 12) -> Files:
    """Trains a tiny model in a moment: more when the amount is high and the hour is late."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(3, 2, (600, len(FEATURES))).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    seen = np.abs(rng.normal(0, 1, (600, graph.GRAPH_WIDTH))).astype(np.float32)
    embed = rng.normal(0, 0.05, (graph.GRAPH_WIDTH, 17)).astype(np.float32)
    columns = seen @ embed if with_graph else np.zeros((600, 0), np.float32)
    stack = np.concatenate([rows, columns], axis=1)
    signal = (
        np.nan_to_num(stack[:, 0]) + np.nan_to_num(stack[:, 1]) + 3 * columns[:, :2].sum(axis=1)
    )
    fraud = signal > np.quantile(signal, 0.8)
    parameters = {
        "objective": "binary:logistic",
        "max_depth": 4,
        "base_score": 0.02,
        "seed": seed,
        "nthread": 1,
    }
    booster = xgboost.train(parameters, xgboost.DMatrix(stack, label=fraud, nthread=1), tree_count)
    ensemble = trees.read_out(booster)
    model = to_onnx(ensemble, stack.shape[1])
    if with_graph:
        model = _with_head(model, embed)
        # A split can turn on the last bit, so XGBoost is asked about the columns as served.
        stack[:, len(FEATURES) :] = OnnxModel(model).infer(rows, seen)[1]
    golden = xgboost.DMatrix(stack[:GOLDEN_ROWS], nthread=1)
    contributions = booster.predict(golden, pred_contribs=True)
    reference = drift.reference(rows, rng.random(600))
    contents = {
        "model.onnx": model,
        "model.ubj": bytes(booster.save_raw("ubj")),
        "trees.npz": pack(ensemble),
        "drift.npz": pack_arrays(reference._asdict()),
        "golden.npz": pack_arrays(
            {
                "rows": rows[:GOLDEN_ROWS],
                "margins": booster.predict(golden, output_margin=True),
                "contributions": contributions[:, :-1],
                **(
                    {"graph": seen[:GOLDEN_ROWS], "graph_columns": columns[:GOLDEN_ROWS]}
                    if with_graph
                    else {}
                ),
            }
        ),
    }
    if with_graph:
        shape = (len(graph.GRAPH_KINDS), len(graph.SLOT), graph.HIDDEN)
        weights = rng.normal(0, 0.3, shape).astype(np.float32)
        contents["sage.safetensors"] = _safetensors({"weights": weights})
    manifest = {
        "features": list(FEATURES),
        "schema_hash": schema_hash(),
        "graph_hash": graph.graph_hash() if with_graph else "",
        "calibration": asdict(Calibration(1.0, 0.0)),
        "costs": asdict(Costs()),
        "training": {"data": "made up"},
        "metrics": {"ap": 0.5},
    }
    return {**contents, "manifest.json": _text(seal(manifest, contents))}


def _text(manifest: dict[str, object]) -> bytes:
    import json

    return json.dumps(manifest).encode()


@pytest.fixture(scope="session")
def files() -> Files:
    """The files of a small bundle without a graph."""
    return make_files()


@pytest.fixture(scope="session")
def graph_files() -> Files:
    """The files of a small bundle that reads the graph."""
    return make_files(2, with_graph=True)


@pytest.fixture(scope="session")
def make_bundle_files() -> Callable[..., Files]:
    return make_files


@pytest.fixture(scope="session")
def bundle() -> ModelBundle:
    """The packaged model, as it serves."""
    return load(source_of("").read())


@pytest.fixture(scope="session")
def thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


@pytest.fixture
def history() -> HistoryInMemory:
    return HistoryInMemory()


MakeScoring = Callable[..., Scoring]


@pytest.fixture
def make_scoring_on(thread: ThreadPoolExecutor) -> MakeScoring:
    """Joins a scoring of a bundle and a history, and of whatever else a test brings."""

    def make(
        bundle: ModelBundle,
        history: History,
        *,
        judge: Judge | None = None,
        watching: Watching | None = None,
        rows_max: int = 128,
        queue_max: int = 1024,
    ) -> Scoring:
        watching = watching or Watching()
        memory = LocalMemory(FeatureStore())
        lineup = Lineup(memory, LocalModel(bundle, thread, LOADED))
        appraiser = Appraiser(memory, lineup, judge or Rulebook(), watching)
        queue = MicroBatcher(appraiser.appraise, rows_max=rows_max, queue_max=queue_max)
        return Scoring(queue, memory, history, watching)

    return make


@pytest.fixture
def make_scoring(bundle: ModelBundle, make_scoring_on: MakeScoring) -> Callable[[History], Scoring]:
    return lambda history: make_scoring_on(bundle, history)


@pytest.fixture
def scoring(make_scoring: Callable[[History], Scoring], history: HistoryInMemory) -> Scoring:
    return make_scoring(history)


class PaymentsInMemory:
    """Payments' side of a review: answers what it is told to, and notes what it was told."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.told: list[Review] = []

    async def tell(self, review: Review) -> Answer:
        self.told.append(review)
        return self.answers.pop(0) if self.answers else Answer.TAKEN


class SteadyJudge:
    """The rulebook behind a model that always says the same, until it is told otherwise."""

    def __init__(self, rulebook: Rulebook) -> None:
        self._rulebook = rulebook
        self.probability = 0.001

    def decide(
        self, transaction: Transaction, row: Vector, _: float, costs: Costs, now_ms: int
    ) -> Decision:
        return self._rulebook.decide(transaction, row, self.probability, costs, now_ms)


@dataclass
class Desk:
    """The whole service on one file, with everything around a call that production has."""

    channel: grpc.aio.Channel
    clock: FakeClock
    history: SqliteHistory
    rulebook: Rulebook
    scoring: Scoring
    reviews: SqliteReviews
    payments: PaymentsInMemory
    courier: ReviewCourier
    judge: SteadyJudge

    def stub(self, kind: Callable[[grpc.aio.Channel], Any]) -> Any:
        return kind(self.channel)

    def now_ms(self) -> int:
        return int(self.clock().timestamp() * 1000)


OpenDesk = Callable[[Path], AbstractAsyncContextManager[Desk]]


@pytest.fixture
def open_desk(files: Files, make_scoring_on: MakeScoring) -> OpenDesk:
    """Opens the service on a file; opening it again is a restart."""

    @asynccontextmanager
    async def opened(path: Path) -> AsyncIterator[Desk]:
        clock, rulebook, payments = FakeClock(), Rulebook(), PaymentsInMemory()
        judge = SteadyJudge(rulebook)
        history = await SqliteHistory.open(path)
        books = SqliteRulebook(history.store, rulebook)
        await books.load()
        scoring = make_scoring_on(load(files), history, judge=judge)
        reviews, audit = SqliteReviews(history.store), SqliteAudit(history.store)

        def now_ms() -> int:
            return int(clock().timestamp() * 1000)

        courier = ReviewCourier(reviews, payments, scoring.learn, now_ms)
        past = SqlitePast(history.store)
        served: list[tuple[Any, Any, Any]] = [
            (
                fraud_pb2_grpc.add_FraudServiceServicer_to_server,
                FraudServicer(scoring, clock),
                fraud_pb2,
            ),
            (
                lists_pb2_grpc.add_ListsServiceServicer_to_server,
                ListsServicer(books, now_ms),
                lists_pb2,
            ),
            (
                rules_pb2_grpc.add_RulesServiceServicer_to_server,
                RulesServicer(rulebook, books, past, Costs, now_ms),
                rules_pb2,
            ),
            (
                policies_pb2_grpc.add_PoliciesServiceServicer_to_server,
                PoliciesServicer(rulebook, books, Costs, now_ms),
                policies_pb2,
            ),
            (
                reviews_pb2_grpc.add_ReviewsServiceServicer_to_server,
                ReviewsServicer(reviews, history, audit, scoring.learn, courier.wake, now_ms),
                reviews_pb2,
            ),
            (
                audit_pb2_grpc.add_FraudAuditServiceServicer_to_server,
                FraudAuditServicer(audit),
                audit_pb2,
            ),
        ]
        contract = [
            (add, servicer, next(iter(file.DESCRIPTOR.services_by_name.values())))
            for add, servicer, file in served
        ]
        async with serve_for_test(contract) as channel:
            yield Desk(
                channel, clock, history, rulebook, scoring, reviews, payments, courier, judge
            )
        await history.close()

    return opened


@pytest.fixture
async def desk(open_desk: OpenDesk, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path / "fraud.db") as opened:
        yield opened
