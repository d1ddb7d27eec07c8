"""Times rivals call by call in turn, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

REPEATS = 7
"""Turns per rival: the median of seven forgives three that met other work."""


def medians_us(
    rivals: Mapping[str, Callable[[], object]],
    calls: int,
    repeats: int = REPEATS,
    slow: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Microseconds per call of each rival: the median over turns of the median in a turn.

    Args:
        rivals: what to call; each is called once before anything is timed.
        calls: per turn.
        repeats: turns.
        slow: calls per turn of rivals that take too long for as many.
    """
    for rival in rivals.values():
        rival()
    turns: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(repeats):
        for name, rival in rivals.items():
            times = []
            for _ in range((slow or {}).get(name, calls)):
                start = time.perf_counter_ns()
                rival()
                times.append(time.perf_counter_ns() - start)
            turns[name].append(statistics.median(times))
    return {name: statistics.median(found) / 1_000 for name, found in turns.items()}
