"""An operator sees which model serves, what it was refused, and how far the world has moved."""

import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smartpay.fraud.v1 import model_pb2, model_pb2_grpc
from smartpay_chassis.gauges import Gauges
from smartpay_chassis.testing import FakeClock, as_merchant, serve_for_test
from smartpay_fraud.adapters.bundle_source import source_of
from smartpay_fraud.adapters.model_bundle import load, write
from smartpay_fraud.adapters.sagemaker_models import Remote
from smartpay_fraud.domain.appraisal import Appraiser
from smartpay_fraud.domain.drift import ROWS_MIN, DriftReport
from smartpay_fraud.domain.features import FeatureStore
from smartpay_fraud.domain.memory import LocalMemory
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.domain.watching import Watching
from smartpay_fraud.drift_gauges import MOVED, tell
from smartpay_fraud.model_desk import ModelDesk
from smartpay_fraud.model_watch import ModelWatch
from smartpay_fraud.server.model import FEATURES_MAX, ModelServicer

MODELS = model_pb2.DESCRIPTOR.services_by_name["ModelService"]
NOON = 1_767_268_800_000
Files = dict[str, bytes]


class Away:
    """An endpoint that nobody reaches."""

    endpoint = "fraud-detection-endpoint"

    async def invoke(self, body: bytes, version: str) -> bytes:
        raise ConnectionError


def place(folder: Path, files: Files) -> ModelWatch:
    contents = {name: data for name, data in files.items() if name != "manifest.json"}
    write(folder, json.loads(files["manifest.json"]), contents)
    return ModelWatch(source_of(str(folder)), ThreadPoolExecutor(1), FakeClock())


@pytest.fixture
async def desk(
    tmp_path: Path, graph_files: Files, make_bundle_files: Callable[..., Files]
) -> ModelDesk:
    return await ModelDesk.open(
        LocalMemory(FeatureStore()),
        place(tmp_path / "champion", graph_files),
        place(tmp_path / "challenger", make_bundle_files(8)),
        Remote(Away()),  # type: ignore[arg-type]  # a double
        Watching(),
        FakeClock(),
    )


@pytest.fixture
async def models(desk: ModelDesk) -> AsyncIterator[Any]:
    served = [(model_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer(desk), MODELS)]
    async with serve_for_test(served) as channel:
        yield model_pb2_grpc.ModelServiceStub(channel)


async def status(models: Any) -> model_pb2.ModelStatus:
    response = await models.GetModelStatus(
        model_pb2.GetModelStatusRequest(), metadata=as_merchant()
    )
    told: model_pb2.ModelStatus = response.status
    return told


async def score(desk: ModelDesk, count: int) -> None:
    appraiser = Appraiser(desk.memory, desk.lineup, Rulebook(), desk.watching)
    payments = [
        Transaction("mer_d1" + "m" * 24, False, f"order-{n}", 5_000, "USD", f"customer-{n}")
        for n in range(count)
    ]
    for first in range(0, count, 64):
        await appraiser.appraise([(payment, NOON) for payment in payments[first : first + 64]])


async def test_at_the_start_it_tells_who_serves_and_nothing_it_can_not_know(
    models: Any, desk: ModelDesk, graph_files: Files
) -> None:
    told = await status(models)
    assert told.champion.model_version == load(graph_files).version
    assert told.champion.graph
    assert told.champion.metrics == {"ap": 0.5}
    assert told.champion.load_time.ToDatetime(FakeClock().now.tzinfo) == FakeClock().now
    assert not told.challenger.graph
    assert told.drift.level == model_pb2.ModelDrift.LEVEL_UNSPECIFIED
    assert not told.drift.HasField("score_psi")
    assert not told.comparison.HasField("score_difference_mean")
    assert not told.reloads.HasField("last_attempt_time")
    assert told.remote == model_pb2.RemoteModel(endpoint="fraud-detection-endpoint")


async def test_after_some_payments_it_tells_how_far_they_have_moved(
    models: Any, desk: ModelDesk
) -> None:
    await score(desk, ROWS_MIN)
    told = await status(models)
    assert told.drift.transactions == ROWS_MIN
    assert len(told.drift.features) == FEATURES_MAX
    assert told.drift.level == model_pb2.ModelDrift.LEVEL_ALERT  # the model's world was made up
    assert told.drift.features[0].level == model_pb2.ModelDrift.LEVEL_ALERT
    assert told.drift.unknown_entities_share == 1
    assert told.comparison.transactions == ROWS_MIN
    assert 0 <= told.comparison.verdicts_agree_share <= 1


async def test_it_tells_of_an_endpoint_that_is_away_and_of_a_refused_bundle(
    models: Any, desk: ModelDesk, tmp_path: Path
) -> None:
    await score(desk, 64 * 4)
    (tmp_path / "champion" / "trees.npz").write_bytes(b"?")
    assert not await desk.champions.look(desk.crown)
    told = await status(models)
    assert told.remote.breaker_open
    assert (told.remote.calls, told.remote.fallbacks) == (3, 4)
    assert told.reloads.refused == 1
    assert "trees.npz" in told.reloads.last_refusal
    assert told.reloads.HasField("last_attempt_time")


async def test_the_report_in_the_log_needs_no_traffic_and_takes_some(desk: ModelDesk) -> None:
    gauges = Gauges()
    await desk.report(gauges)
    assert figures(gauges) == {
        "smartpay_fraud_drift_rows": 0,
        "smartpay_fraud_drift_labelled_transactions": 0,
    }
    await score(desk, ROWS_MIN)
    await desk.report(gauges)
    drift, told = await desk.drift(), figures(gauges)
    assert told["smartpay_fraud_drift_rows"] == ROWS_MIN
    assert told["smartpay_fraud_drift_feature_psi_max"] == drift.features[0].stability
    moved = sum(each.stability > MOVED for each in drift.features)
    assert told["smartpay_fraud_drift_features_moved"] == moved > 0
    assert told["smartpay_fraud_drift_score_psi"] == drift.score
    assert told["smartpay_fraud_drift_unknown_entities_share"] == 1
    # Nobody has said yet what these payments were.
    assert "smartpay_fraud_drift_average_precision" not in told


def test_calibration_and_precision_are_told_once_outcomes_are_known() -> None:
    gauges = Gauges()
    known = DriftReport(300, (), 0.1, 0.2, 400, 0.03, 0.7)
    for report in (known, replace(known, average_precision=None)):
        tell(gauges, report)
    assert figures(gauges) == {
        f"smartpay_fraud_drift_{name}": value
        for name, value in (
            ("rows", 300),
            ("score_psi", 0.1),
            ("unknown_entities_share", 0.2),
            ("labelled_transactions", 400),
            ("calibration_error", 0.03),
        )
    }


def figures(gauges: Gauges) -> dict[str, float]:
    lines = [line.split() for line in gauges.text().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}
