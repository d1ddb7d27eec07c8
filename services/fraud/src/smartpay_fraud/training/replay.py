"""Turns a stream into rows by living through it, exactly as serving would have."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import FEATURES, FeatureStore, parts_of
from smartpay_fraud.domain.graph import GRAPH_KINDS
from smartpay_fraud.training.stream import ABSENT, NEVER, Flags, Ints, Stream

Matrix = NDArray[np.float32]

EVENTS_MAX = 4_000_000
"""Payments remembered per kind of entity while training: a whole month of a large stream, so that
no window is cut short where a live service with less traffic would have had it whole."""


@dataclass(frozen=True)
class Replayed:
    """What serving would have seen of every payment.

    Attributes:
        rows: base features, float32 [payments, FEATURES].
        time_ms: when it came.
        parts: by kind of GRAPH_KINDS the number of the entity, ABSENT when not given.
        fraud: what it turned out to be.
        known_ms: when that became known; NEVER when nobody said.
    """

    rows: Matrix
    time_ms: Ints
    parts: dict[str, Ints]
    fraud: Flags
    known_ms: Ints

    @property
    def fingerprint(self) -> str:
        """Names the feature matrix: equal code and data give equal bytes (SHA-256, hex)."""
        return hashlib.sha256(np.ascontiguousarray(self.rows).tobytes()).hexdigest()


def replay(stream: Stream, progress: Callable[[float], None] = lambda _: None) -> Replayed:
    """The features of every payment at its own time, through the serving code.

    Declines and labels enter at the moment they become known, between the payments. Calls
    `progress` with the finished share now and then.
    """
    store = FeatureStore(events_max=EVENTS_MAX)
    transactions = list(stream.transactions())
    times, fraud = stream.time_ms.tolist(), stream.fraud.tolist()
    declined = [] if stream.declined_ms is None else stream.declined_ms.tolist()
    news = [(at, 0, n) for n, at in enumerate(declined) if at != NEVER]
    news += [(at, 1, n) for n, at in enumerate(stream.known_ms.tolist()) if at != NEVER]
    news.sort(reverse=True)
    rows = np.empty((len(times), len(FEATURES)), np.float32)
    numbers: list[dict[object, int]] = [{} for _ in GRAPH_KINDS]
    parts = np.full((len(GRAPH_KINDS), len(times)), ABSENT, np.int64)
    step = max(1, len(times) // 100)
    for number, (transaction, now_ms) in enumerate(zip(transactions, times, strict=True)):
        while news and news[-1][0] <= now_ms:
            known_ms, is_label, which = news.pop()
            if is_label:
                store.label(transactions[which], fraud[which], known_ms)
            else:
                store.decline(transactions[which], known_ms)
        rows[number] = store.score_view(transaction, now_ms).row
        store.append(transaction, now_ms)
        names = parts_of(transaction)
        for kind, known in enumerate(numbers):
            name = getattr(names, GRAPH_KINDS[kind])
            if name is not None:
                parts[kind, number] = known.setdefault(name, len(known))
        if number % step == 0:
            progress(number / len(times))
    of_kind = dict(zip(GRAPH_KINDS, parts, strict=True))
    return Replayed(rows, stream.time_ms, of_kind, stream.fraud, stream.known_ms)
