"""Turns the generated stream into rows by living through it, exactly as serving would have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import FEATURES, FeatureStore
from smartpay_fraud.training.generator import NEVER, Stream

Matrix = NDArray[np.float32]


def replay(stream: Stream, progress: Callable[[float], None] = lambda _: None) -> Matrix:
    """The features of every payment at its own time, through the serving code.

    Declines and labels enter at the moment they become known, between the payments. Returns
    float32 [payments, features]; calls `progress` with the finished share now and then.
    """
    store = FeatureStore()
    transactions = stream.transactions()
    times = stream.time_ms.tolist()
    fraud = stream.fraud.tolist()
    news = [(at, 0, n) for n, at in enumerate(stream.declined_ms.tolist()) if at != NEVER]
    news += [(at, 1, n) for n, at in enumerate(stream.label_ms.tolist()) if at != NEVER]
    news.sort(reverse=True)
    rows = np.empty((len(times), len(FEATURES)), np.float32)
    step = max(1, len(times) // 20)
    for number, (transaction, now_ms) in enumerate(zip(transactions, times, strict=True)):
        while news and news[-1][0] <= now_ms:
            known_ms, is_label, which = news.pop()
            if is_label:
                store.label(transactions[which], fraud[which], known_ms)
            else:
                store.decline(transactions[which], known_ms)
        rows[number] = store.score_view(transaction, now_ms)
        store.append(transaction, now_ms)
        if number % step == 0:
            progress(number / len(times))
    return rows
