"""Joins the rooms of the fraud service."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import structlog

from smartpay.fraud.v1 import (
    audit_pb2,
    fraud_pb2,
    lists_pb2,
    model_pb2,
    policies_pb2,
    reviews_pb2,
    rules_pb2,
)
from smartpay.fraud.v1.audit_pb2_grpc import add_FraudAuditServiceServicer_to_server
from smartpay.fraud.v1.fraud_pb2_grpc import add_FraudServiceServicer_to_server
from smartpay.fraud.v1.lists_pb2_grpc import add_ListsServiceServicer_to_server
from smartpay.fraud.v1.model_pb2_grpc import add_ModelServiceServicer_to_server
from smartpay.fraud.v1.policies_pb2_grpc import add_PoliciesServiceServicer_to_server
from smartpay.fraud.v1.reviews_pb2_grpc import add_ReviewsServiceServicer_to_server
from smartpay.fraud.v1.rules_pb2_grpc import add_RulesServiceServicer_to_server
from smartpay_chassis.server import App, run, spare_the_collector
from smartpay_fraud.adapters.bundle_source import BundleError, source_of
from smartpay_fraud.adapters.memory_file import MemoryFile, forget_erased
from smartpay_fraud.adapters.payment_events import PaymentEvents
from smartpay_fraud.adapters.payments_desk import PaymentsDesk
from smartpay_fraud.adapters.redis_log import NAMES_KEPT_SECONDS, RedisLog
from smartpay_fraud.adapters.sagemaker_models import CALLS_MAX, EndpointClient, Remote
from smartpay_fraud.adapters.sqlite_audit import SqliteAudit
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.adapters.sqlite_past import SqlitePast
from smartpay_fraud.adapters.sqlite_reviews import SqliteReviews
from smartpay_fraud.adapters.sqlite_rulebook import SqliteRulebook
from smartpay_fraud.adapters.sqlite_tail import SqliteTail
from smartpay_fraud.domain.appraisal import Appraiser
from smartpay_fraud.domain.features import DAY_MS
from smartpay_fraud.domain.memory import LocalMemory, Memory
from smartpay_fraud.domain.replicated_memory import ReplicatedMemory
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.scoring import BEGINNING, Place, Scoring
from smartpay_fraud.domain.verdict import Costs
from smartpay_fraud.domain.watching import Watching
from smartpay_fraud.micro_batcher import MicroBatcher
from smartpay_fraud.model_desk import ModelDesk
from smartpay_fraud.model_watch import ModelWatch
from smartpay_fraud.review_courier import ReviewCourier
from smartpay_fraud.server.audit import FraudAuditServicer
from smartpay_fraud.server.lists import ListsServicer
from smartpay_fraud.server.model import ModelServicer
from smartpay_fraud.server.policies import PoliciesServicer
from smartpay_fraud.server.reviews import ReviewsServicer
from smartpay_fraud.server.rules import RulesServicer
from smartpay_fraud.server.scoring import FraudServicer
from smartpay_fraud.settings import FraudSettings
from smartpay_fraud.snapshots import taken_apart

log = structlog.get_logger()

SPARE_SECONDS = 1.0
"""A payment leaves some 15 objects; those of a second are walked in milliseconds even at full
load. Calls under way hold no cycles between two steps of the loop, so nothing is kept by this that
would have been collected (measured: none of 800,000 objects after 60 s at full load)."""


async def build(app: App, settings: FraudSettings) -> None:
    """Joins the rooms and rebuilds memory; raises BundleError rather than serve a bad model."""
    history = await SqliteHistory.open(settings.store_path)
    app.on_stop(history.close)
    kept = MemoryFile.beside(settings.store_path)
    memory, after = await _memory(app, settings, kept)
    desk = await _desk(app, settings, memory)
    rulebook = Rulebook()
    books = SqliteRulebook(history.store, rulebook)
    await books.load()
    appraiser = Appraiser(desk.memory, desk.lineup, rulebook, desk.watching)
    queue = MicroBatcher(
        appraiser.appraise,
        rows_max=settings.batch_rows_max,
        queue_max=settings.queue_rows_max,
        lanes=CALLS_MAX if settings.endpoint_name else 1,
    )
    scoring = Scoring(queue, desk.memory, history, desk.watching)
    # A shared log knows all that its replicas told it; what one died over, it tells again.
    since_ms = _now_ms() - (
        settings.replay_days * DAY_MS
        if isinstance(memory, LocalMemory)
        else NAMES_KEPT_SECONDS * 1_000 // 2
    )
    remembered = await scoring.remember(since_ms, settings.replay_rows_max, after)
    if isinstance(memory, LocalMemory):
        await _keep_snapshots(app, settings, scoring, memory, kept)
    app.background("heap", _keep_sparing)
    log.info("ready to score", model_version=desk.lineup.champion.version, remembered=remembered)
    app.serve(
        add_FraudServiceServicer_to_server,
        FraudServicer(scoring, _now),
        fraud_pb2.DESCRIPTOR.services_by_name["FraudService"],
    )
    app.serve(
        add_ModelServiceServicer_to_server,
        ModelServicer(desk),
        model_pb2.DESCRIPTOR.services_by_name["ModelService"],
    )
    _serve_books(app, history, rulebook, books, lambda: desk.lineup.champion.costs)
    _serve_reviews(app, history, scoring)


def _serve_books(
    app: App,
    history: SqliteHistory,
    rulebook: Rulebook,
    books: SqliteRulebook,
    costs: Callable[[], Costs],
) -> None:
    """Serves lists, rules and policies."""
    app.serve(
        add_ListsServiceServicer_to_server,
        ListsServicer(books, _now_ms),
        lists_pb2.DESCRIPTOR.services_by_name["ListsService"],
    )
    app.serve(
        add_RulesServiceServicer_to_server,
        RulesServicer(rulebook, books, SqlitePast(history.store), costs, _now_ms),
        rules_pb2.DESCRIPTOR.services_by_name["RulesService"],
    )
    app.serve(
        add_PoliciesServiceServicer_to_server,
        PoliciesServicer(rulebook, books, costs, _now_ms),
        policies_pb2.DESCRIPTOR.services_by_name["PoliciesService"],
    )


def _serve_reviews(app: App, history: SqliteHistory, scoring: Scoring) -> None:
    """Serves the review queue and the audit trail, and follows payments both ways."""
    reviews, audit = SqliteReviews(history.store), SqliteAudit(history.store)
    courier = ReviewCourier(reviews, PaymentsDesk(app.channel), scoring.learn, _now_ms)
    app.serve(
        add_ReviewsServiceServicer_to_server,
        ReviewsServicer(reviews, history, audit, scoring.learn, courier.wake, _now_ms),
        reviews_pb2.DESCRIPTOR.services_by_name["ReviewsService"],
    )
    app.serve(
        add_FraudAuditServiceServicer_to_server,
        FraudAuditServicer(audit),
        audit_pb2.DESCRIPTOR.services_by_name["FraudAuditService"],
    )
    app.background("review courier", courier.run)
    app.background("payment events", PaymentEvents(app.channel, scoring, history, reviews).run)


async def _desk(app: App, settings: FraudSettings, memory: Memory) -> ModelDesk:
    """Loads champion and challenger and keeps watching where they came from."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="model")
    app.on_stop(lambda: asyncio.to_thread(thread.shutdown))
    champions = ModelWatch(source_of(settings.model_uri, region=settings.aws_region), thread, _now)
    challengers = None
    if settings.shadow_model_uri:
        source = source_of(settings.shadow_model_uri, "FRAUD_SHADOW_MODEL_URI", settings.aws_region)
        challengers = ModelWatch(source, thread, _now)
    remote = None
    if settings.endpoint_name:
        client = EndpointClient(settings.endpoint_name, region_name=settings.aws_region or None)
        app.on_stop(client.close)
        remote = Remote(client)
    desk = await ModelDesk.open(memory, champions, challengers, remote, Watching(), _now)
    app.background("model watch", lambda: desk.keep_fresh(settings.model_poll_seconds))
    app.background("drift", lambda: desk.keep_reporting(settings.drift_seconds, app.gauges))
    return desk


def _now_ms() -> int:
    return int(_now().timestamp() * 1000)


async def _memory(app: App, settings: FraudSettings, kept: MemoryFile) -> tuple[Memory, Place]:
    """Opens the memory, this process's own or the one that replicas share, and what it holds."""
    url = settings.memory_url.get_secret_value()
    if not url:
        store, after = kept.load()
        tail = SqliteTail(settings.store_path)
        forget_erased(store, tail)
        tail.close()
        return LocalMemory(store), after
    shared = RedisLog(url, timeout_seconds=settings.memory_timeout_seconds)
    app.on_stop(shared.close)
    memory = ReplicatedMemory(shared)
    await memory.open()
    app.background("shared memory", lambda: memory.keep_up(settings.memory_retry_seconds))
    app.background(
        "snapshots", lambda: memory.keep_snapshots(settings.memory_snapshot_seconds, taken_apart)
    )
    return memory, BEGINNING


async def _keep_snapshots(
    app: App, settings: FraudSettings, scoring: Scoring, memory: LocalMemory, kept: MemoryFile
) -> None:
    """Keeps what was rebuilt now, now and then, and at the end.

    Only at the start and at the end is it this process that writes: nobody waits for a score then.
    """

    async def keep() -> None:
        await scoring.standing_still(lambda place: kept.save(memory.dump(), place))

    async def keep_on() -> None:
        while True:
            await asyncio.sleep(settings.memory_snapshot_seconds)
            if not await taken_apart():
                log.warning("the snapshot's process failed; scoring stands still for one")
                await keep()

    await keep()
    app.on_stop(keep)
    app.background("snapshots", keep_on)


async def _keep_sparing() -> None:
    """Sets aside what memory took in since, before there is enough of it to hold up a score.

    What is remembered holds no cycles and is freed when forgotten, set aside or not. A collection
    that walked it all would find nothing and take half a second per 60,000 payments.
    """
    while True:
        await asyncio.sleep(SPARE_SECONDS)
        spare_the_collector()


def _now() -> datetime:
    return datetime.now(UTC)


def serve() -> None:
    """Runs until told to stop; exits with 78 (EX_CONFIG) when the model must not serve."""
    try:
        run("fraud", FraudSettings, build)
    except BundleError as error:
        sys.stderr.write(f"fraud: {error}\n")
        sys.exit(os.EX_CONFIG)
