"""How an entity's payments turned out, as far as it is known at a moment."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

from smartpay_fraud.domain.activity import FRAUD, LABEL_DELAY_MS, Activity
from smartpay_fraud.domain.moments import LABEL_DAYS, Moment, log_seconds

LAST_LABELS = 3
"""The latest payments whose fate is told one by one."""

_LABELS_PRIOR = 4  # fates that an unproven entity is assumed to have, all legitimate
_NAN = math.nan


def fate_names(kind: str) -> tuple[str, ...]:
    """The columns that `fates` fills for a kind of entity."""
    return (
        f"{kind}_known_frauds",
        f"{kind}_known_fraud_rate",
        *(f"{kind}_known_{days}d" for days in LABEL_DAYS),
        *(f"{kind}_frauds_{days}d" for days in LABEL_DAYS),
        *(f"{kind}_fraud_share_{days}d" for days in LABEL_DAYS),
        *(f"{kind}_label_{n}" for n in range(1, LAST_LABELS + 1)),
        *(f"{kind}_label_age_{n}" for n in range(1, LAST_LABELS + 1)),
        f"{kind}_last_fraud_age",
        f"{kind}_first_fraud_age",
    )


def fraud_rate(activity: Activity, at: Moment) -> float:
    """The share of frauds among the fates of 28 days, drawn towards none while there are few."""
    frauds = activity.frauds
    if not frauds or frauds[-1] <= at.days28:
        return 0.0
    times = activity.times
    last = bisect_right(times, at.matured)
    first = bisect_right(times, at.memory, 0, last)
    count, known = activity.settled(at.days28, at.now, first, last)
    return known / (count + _LABELS_PRIOR)


def fates(activity: Activity, at: Moment, oldest: int) -> Sequence[float]:
    """What is known of how the entity's payments turned out, in the order of fate_names."""
    times = activity.times
    now = at.now
    buckets = activity.buckets
    is_quiet = not activity.fraud_keys and not activity.cleared
    start = activity.start
    last = start
    if times and times[start] <= at.matured:
        last = bisect_right(times, at.matured)
    if is_quiet and last == start and buckets is None and not activity.forgotten_frauds:
        return _NO_FATES
    first = last
    counts: list[float] = []
    frauds: list[float] = []
    for after in at.labels:
        if first > start:
            first = bisect_right(times, after - LABEL_DELAY_MS, start, first)
        if not is_quiet:
            count, fraud = activity.settled(after, now, first, last)
            counts.append(count)
            frauds.append(fraud)
        elif first > start or buckets is None:
            counts.append(last - first)
        else:
            counts.append(last - start + buckets.settled(after - LABEL_DELAY_MS, at.matured))
    if is_quiet:
        frauds = shares = _NO_FRAUDS
    else:
        shares = [f / c if c else 0.0 for f, c in zip(frauds, counts, strict=True)]
    labels, ages = _NOT_KNOWN, _NOT_KNOWN
    if last > oldest:
        words = activity.words
        latest = range(last - 1, max(oldest, last - LAST_LABELS) - 1, -1)
        labels = [1.0 if words and words[index] == FRAUD else 0.0 for index in latest]
        ages = [math.log1p((now - times[index]) / 1000) for index in latest]
        missing = LAST_LABELS - len(latest)
        labels += _NOT_KNOWN[:missing]
        ages += _NOT_KNOWN[:missing]
    marks = activity.frauds
    last_age = first_age = _NAN
    if marks:
        first_ms = activity.first_fraud_ms if activity.forgotten_frauds else marks[0]
        last_age = log_seconds(marks[-1], now)
        first_age = log_seconds(first_ms, now)
    return [
        activity.known_frauds(),
        frauds[-1] / (counts[-1] + _LABELS_PRIOR),
        *counts,
        *frauds,
        *shares,
        *labels,
        *ages,
        last_age,
        first_age,
    ]


_NO_FRAUDS = [0.0] * len(LABEL_DAYS)
_NOT_KNOWN = [_NAN] * LAST_LABELS
_NO_FATES = (0.0, 0.0, *_NO_FRAUDS * 3, *_NOT_KNOWN * 2, _NAN, _NAN)
