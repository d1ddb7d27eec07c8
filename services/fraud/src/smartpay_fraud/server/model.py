"""Speaks the contract of the models in service."""

from __future__ import annotations

from datetime import datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.fraud.v1 import model_pb2 as messages
from smartpay.fraud.v1.model_pb2_grpc import ModelServiceServicer
from smartpay_fraud.adapters.sagemaker_models import Remote
from smartpay_fraud.adapters.serving_models import LocalModel
from smartpay_fraud.domain.drift import DriftReport, Level
from smartpay_fraud.domain.watching import Comparison
from smartpay_fraud.model_desk import ModelDesk
from smartpay_fraud.model_watch import Reloads

Context = grpc.aio.ServicerContext

FEATURES_MAX = 20
"""The contract's limit: past the twentieth nobody reads on."""

_LEVELS = {
    Level.STEADY: messages.ModelDrift.LEVEL_STEADY,
    Level.WATCH: messages.ModelDrift.LEVEL_WATCH,
    Level.ALERT: messages.ModelDrift.LEVEL_ALERT,
}


class ModelServicer(ModelServiceServicer):
    """Serves smartpay.fraud.v1.ModelService; tells of this replica, never of a payment."""

    def __init__(self, desk: ModelDesk) -> None:
        self._desk = desk

    async def GetModelStatus(
        self, request: messages.GetModelStatusRequest, context: Context[object, object]
    ) -> messages.GetModelStatusResponse:
        """Tells who serves and how they do."""
        desk = self._desk
        status = messages.ModelStatus(
            champion=_model(desk.champion),
            drift=_drift(await desk.drift()),
            reloads=_reloads(desk.champions.reloads),
        )
        if desk.challenger:
            status.challenger.CopyFrom(_model(desk.challenger))
            status.comparison.CopyFrom(_comparison(desk.watching.comparison))
        if desk.remote:
            status.remote.CopyFrom(_remote(desk.remote))
        return messages.GetModelStatusResponse(status=status)


def _model(model: LocalModel) -> messages.ServingModel:
    bundle = model.bundle
    return messages.ServingModel(
        model_version=model.version,
        load_time=_time(model.loaded),
        graph=bundle.weights is not None,
        training_window=str(bundle.training.get("window", "")),
        metrics={
            name: figure
            for name, figure in bundle.metrics.items()
            if isinstance(figure, (int, float)) and not isinstance(figure, bool)
        },
    )


def _drift(report: DriftReport) -> messages.ModelDrift:
    told = bool(report.features)
    return messages.ModelDrift(
        transactions=report.rows,
        score_psi=report.score,
        features=[
            messages.FeatureDrift(
                feature=each.feature,
                psi=each.stability,
                level=_LEVELS[Level.of(each.stability)],
            )
            for each in report.features[:FEATURES_MAX]
        ],
        calibration_error=report.calibration_error,
        average_precision=report.average_precision,
        labelled_transactions=report.labelled,
        unknown_entities_share=report.unknown_entities,
        level=_LEVELS[report.level] if told else messages.ModelDrift.LEVEL_UNSPECIFIED,
    )


def _comparison(comparison: Comparison) -> messages.ModelComparison:
    return messages.ModelComparison(
        transactions=comparison.count,
        score_difference_mean=comparison.difference_mean,
        score_difference_max=comparison.difference_max,
        verdicts_agree_share=comparison.agreement,
        score_correlation=comparison.correlation,
    )


def _reloads(reloads: Reloads) -> messages.ModelReloads:
    return messages.ModelReloads(
        succeeded=reloads.succeeded,
        refused=reloads.refused,
        last_refusal=reloads.last_refusal,
        last_attempt_time=_time(reloads.last_attempt) if reloads.last_attempt else None,
    )


def _remote(remote: Remote) -> messages.RemoteModel:
    return messages.RemoteModel(
        endpoint=remote.client.endpoint,
        breaker_open=remote.breaker.open,
        calls=remote.calls,
        fallbacks=remote.fallbacks,
    )


def _time(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
