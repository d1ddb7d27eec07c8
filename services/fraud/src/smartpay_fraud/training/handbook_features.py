"""The 15 baseline features of the published protocol, vectorised; training only, never served.

Le Borgne et al., Fraud Detection Handbook, chapter 3, "Baseline feature transformation": the
weakest table on which models are compared, so that the graph's gain can be told from ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import DAY_MS, HOUR_MS
from smartpay_fraud.training.stream import LABEL_DELAY_MS, Ints, Stream

WINDOWS_DAYS = (1, 7, 30)
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday, Monday is 0
_SATURDAY, _LAST_NIGHT_HOUR = 5, 6

NAMES: tuple[str, ...] = (
    "amount",
    "weekend",
    "night",
    *(f"customer_{what}_{days}d" for days in WINDOWS_DAYS for what in ("count", "mean_amount")),
    *(f"terminal_{what}_{days}d" for days in WINDOWS_DAYS for what in ("count", "fraud_share")),
)


def handbook_rows(stream: Stream) -> NDArray[np.float32]:
    """The baseline features of every payment, float32 [payments, 15].

    Customer windows (t - w, t] include the payment itself; terminal windows end one label delay
    ago, (t - delay - w, t - delay], so that every label in them is known.
    """
    time, amount = stream.time_ms, stream.amount_minor.astype(np.float64) / 100
    columns: list[NDArray[np.float64]] = [
        amount,
        ((time // DAY_MS + _EPOCH_WEEKDAY) % 7 >= _SATURDAY).astype(np.float64),
        (time // HOUR_MS % 24 <= _LAST_NIGHT_HOUR).astype(np.float64),
    ]
    customers = _Timelines(stream.customer, time)
    spent = customers.running(amount)
    now = customers.position + 1
    for days in WINDOWS_DAYS:
        first = customers.first_after(time - days * DAY_MS)
        count = now - first
        columns += [count.astype(np.float64), (spent[now] - spent[first]) / count]
    terminals = _Timelines(stream.terminal, time)
    frauds = terminals.running(stream.fraud.astype(np.float64))
    last = terminals.first_after(time - LABEL_DELAY_MS)
    for days in WINDOWS_DAYS:
        first = terminals.first_after(time - LABEL_DELAY_MS - days * DAY_MS)
        count = last - first
        share = (frauds[last] - frauds[first]) / np.maximum(count, 1)
        columns += [count.astype(np.float64), share]
    return np.stack(columns, axis=1).astype(np.float32)


class _Timelines:
    """All payments ordered by entity, then time, so that a window is two positions."""

    def __init__(self, entity: Ints, time_ms: Ints) -> None:
        self._order = np.lexsort((time_ms, entity))
        self._entity, self._time = entity, time_ms
        # One axis for all entities, with room for the longest window between neighbours.
        self._origin = int(time_ms.min(initial=0))
        gap = LABEL_DELAY_MS + (max(WINDOWS_DAYS) + 1) * DAY_MS
        self._stride = int(time_ms.max(initial=0)) - self._origin + 2 * gap
        self._gap = gap
        _, self._rank = np.unique(entity, return_inverse=True)
        self._axis = self._on_axis(time_ms)[self._order]
        self.position = np.empty(len(entity), np.int64)
        self.position[self._order] = np.arange(len(entity))

    def running(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of everything before each position, float64 [payments + 1]."""
        return np.concatenate([[0.0], np.cumsum(values[self._order])])

    def first_after(self, times_ms: Ints) -> Ints:
        """Each payment's entity: the position of its first payment later than the given time."""
        return np.searchsorted(self._axis, self._on_axis(times_ms), side="right")

    def _on_axis(self, times_ms: Ints) -> Ints:
        return np.asarray(self._rank * self._stride + (times_ms - self._origin) + self._gap)
