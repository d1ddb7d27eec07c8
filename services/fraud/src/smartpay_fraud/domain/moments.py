"""Where windows begin: every window of a payment's features ends at the payment's own moment."""

from __future__ import annotations

import math
from typing import NamedTuple

from smartpay_fraud.domain.activity import DAY_MS, LABEL_DAYS_MAX, LABEL_DELAY_MS, MEMORY_MS

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

LABEL_DAYS: tuple[int, ...] = (1, 3, 7, 14, LABEL_DAYS_MAX)
"""Windows of fates: a compromised terminal shows within days, a customer's card within weeks."""


class Moment(NamedTuple):
    """Where each window begins, worked out once for all parts of a payment (ms)."""

    now: int
    minutes: int
    hour: int
    day: int
    days3: int
    days7: int
    days14: int
    days28: int
    days30: int
    memory: int
    matured: int
    labels: tuple[int, ...]


_LABELS_MS = tuple(days * DAY_MS for days in LABEL_DAYS)


def moment_of(now_ms: int) -> Moment:
    """The beginnings of all windows that end now."""
    return Moment(
        now_ms,
        now_ms - 10 * MINUTE_MS,
        now_ms - HOUR_MS,
        now_ms - DAY_MS,
        now_ms - 3 * DAY_MS,
        now_ms - 7 * DAY_MS,
        now_ms - 14 * DAY_MS,
        now_ms - 28 * DAY_MS,
        now_ms - 30 * DAY_MS,
        now_ms - MEMORY_MS,
        now_ms - LABEL_DELAY_MS,
        tuple([now_ms - length_ms for length_ms in _LABELS_MS]),
    )


def log_seconds(since_ms: int, now_ms: int) -> float:
    """log(1 + seconds); nothing for a moment that a clock stepping back has put ahead."""
    return math.log1p((now_ms - since_ms) / 1000) if now_ms > since_ms else 0.0
