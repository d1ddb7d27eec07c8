"""Joins the fraud service: `python -m smartpay_fraud`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

import structlog

from smartpay.fraud.v1 import fraud_pb2
from smartpay.fraud.v1.fraud_pb2_grpc import add_FraudServiceServicer_to_server
from smartpay_chassis.server import App, run
from smartpay_fraud.adapters.model_bundle import BundleError, load, locate
from smartpay_fraud.adapters.payment_events import PaymentEvents
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.domain.features import DAY_MS, FeatureStore
from smartpay_fraud.domain.scoring import Scoring
from smartpay_fraud.micro_batcher import MicroBatcher
from smartpay_fraud.server import FraudServicer
from smartpay_fraud.settings import FraudSettings

log = structlog.get_logger()


async def build(app: App, settings: FraudSettings) -> None:
    """Joins the rooms and rebuilds memory; raises BundleError rather than serve a bad model."""
    bundle = load(locate(settings.model_uri))
    history = await SqliteHistory.open(settings.store_path)
    app.on_stop(history.close)
    queue = MicroBatcher(
        bundle.trees.margins,
        rows_max=settings.batch_rows_max,
        queue_max=settings.queue_rows_max,
    )
    scoring = Scoring(FeatureStore(), bundle, queue, history)
    now_ms = int(_now().timestamp() * 1000)
    remembered = await scoring.remember(
        now_ms - settings.replay_days * DAY_MS, settings.replay_rows_max
    )
    log.info("ready to score", model_version=bundle.version, remembered=remembered)
    app.serve(
        add_FraudServiceServicer_to_server,
        FraudServicer(scoring, _now),
        fraud_pb2.DESCRIPTOR.services_by_name["FraudService"],
    )
    app.background("payment events", PaymentEvents(app.channel, scoring, history).run)


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Runs until told to stop; exits with 78 (EX_CONFIG) when the model must not serve."""
    try:
        run("fraud", FraudSettings, build)
    except BundleError as error:
        sys.stderr.write(f"fraud: {error}\n")
        sys.exit(os.EX_CONFIG)


if __name__ == "__main__":
    main()
