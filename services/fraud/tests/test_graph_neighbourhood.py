"""What training sees of the graph is what serving would have seen, payment by payment."""

from __future__ import annotations

import numpy as np

from smartpay_fraud.domain.features import EDGE_COLUMNS, FEATURES, FeatureStore
from smartpay_fraud.domain.graph import (
    DAY_MS,
    GRAPH_KINDS,
    HIDDEN,
    SLOT,
    MessageWeights,
    Ring,
    remember,
    view,
)
from smartpay_fraud.training.neighbourhood import Neighbourhood
from smartpay_fraud.training.payments_world import PaymentsWorld, generate
from smartpay_fraud.training.replay import Replayed, replay
from smartpay_fraud.training.stream import ABSENT, NEVER

PAYMENTS = 1500


def weights() -> MessageWeights:
    numbers = np.random.default_rng(5).standard_normal((len(GRAPH_KINDS), len(SLOT), HIDDEN))
    return MessageWeights((0.3 * numbers).astype(np.float32))


def replayed() -> Replayed:
    """Busy parts, some absent; labels told early, late or never."""
    rng = np.random.default_rng(11)
    time_ms = np.sort(rng.integers(0, 60 * DAY_MS, PAYMENTS))
    rows = rng.normal(1, 2, (PAYMENTS, len(FEATURES))).astype(np.float32)
    rows[rng.random(rows.shape) < 0.05] = np.nan
    sizes = dict(zip(GRAPH_KINDS, (60, 40, 100, 5, 900), strict=True))
    parts = {kind: rng.integers(0, size, PAYMENTS) for kind, size in sizes.items()}
    parts["device"] = np.where(rng.random(PAYMENTS) < 0.5, ABSENT, parts["device"])
    fraud = rng.random(PAYMENTS) < 0.2
    delay = rng.integers(0, 20 * DAY_MS, PAYMENTS)
    known_ms = np.where(rng.random(PAYMENTS) < 0.5, NEVER, time_ms + delay)
    return Replayed(rows, time_ms, parts, fraud, known_ms)


def test_training_sees_the_graph_as_serving_would_have_seen_it() -> None:
    stream = replayed()
    model = weights()
    rings: dict[tuple[str, int], Ring] = {}
    news = sorted(
        (at, payment) for payment, at in enumerate(stream.known_ms.tolist()) if at != NEVER
    )
    seen = []
    for payment, now_ms in enumerate(stream.time_ms.tolist()):
        while news and news[0][0] <= now_ms:
            at, told = news.pop(0)
            for kind in GRAPH_KINDS:
                ring = rings.get((kind, int(stream.parts[kind][told])))
                if ring is not None:
                    ring.label(told, bool(stream.fraud[told]), at)
        names = [(kind, int(stream.parts[kind][payment])) for kind in GRAPH_KINDS]
        around = [
            None if code == ABSENT else rings.setdefault((kind, code), Ring())
            for kind, code in names
        ]
        seen.append(view(around, now_ms, model))
        remember(around, stream.rows[payment, EDGE_COLUMNS], now_ms, payment, model)
    rows = Neighbourhood(stream).rows(np.arange(PAYMENTS), model)
    np.testing.assert_allclose(rows, np.array(seen), rtol=2e-5, atol=2e-5)


def test_a_kind_of_part_that_never_occurs_costs_and_says_nothing() -> None:
    stream = replayed()
    stream.parts["network"][:] = ABSENT
    around = Neighbourhood(stream)
    assert GRAPH_KINDS.index("network") not in around.kinds


def test_the_feature_store_feeds_the_rings_that_training_learned_from() -> None:
    world = PaymentsWorld(
        days=40,
        merchants=4,
        customers=150,
        sales=1,
        batches=1,
        card_tests=2,
        takeovers=4,
        stolen_cards=6,
        compromised_shops=1,
        night_buyers=4,
    )
    stream = generate(world)
    model = weights()
    store = FeatureStore()
    store.use_graph(model)
    transactions = list(stream.transactions())
    news = sorted(((at, n) for n, at in enumerate(stream.known_ms.tolist()) if at != NEVER))
    seen = []
    for transaction, now_ms in zip(transactions, stream.time_ms.tolist(), strict=True):
        while news and news[0][0] <= now_ms:
            at, told = news.pop(0)
            store.label(transactions[told], bool(stream.fraud[told]), at)
        seen.append(store.score_view(transaction, now_ms).graph)
        store.append(transaction, now_ms)
    rows = Neighbourhood(replay(stream)).rows(np.arange(len(seen)), model)
    np.testing.assert_allclose(rows, np.array(seen), rtol=2e-5, atol=2e-5)
