"""The named points at which a router can die, found in the running code.

Nothing in the service knows of them. `python -m smartpay_router.proof.points after_commit 3` is the
router with a watcher around one function: when that is passed for the third time the process kills
itself by SIGKILL, there and then, in whatever thread that is.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from inspect import iscoroutinefunction
from typing import Any, NamedTuple


class Point(NamedTuple):
    """One place to die at.

    Attributes:
        module: where the watched function is.
        path: its name there, with its class.
        before: die before it is called, instead of after.
        passes_max: it is passed so often in a run of a second or two.
        meaning: what has just happened there.
    """

    module: str
    path: str
    before: bool
    passes_max: int
    meaning: str


_SQLITE = "smartpay_router.adapters"

POINTS = {
    "amid_start": Point(
        "smartpay_router.domain.learning",
        "Learning._take",
        before=True,
        passes_max=1,
        meaning="rows behind the snapshot are read at start, or later, and not learned",
    ),
    "before_commit": Point(
        f"{_SQLITE}.sqlite_outcomes",
        "append",
        before=False,
        passes_max=40,
        meaning="an outcome is written inside its transaction, which is not committed",
    ),
    "after_commit": Point(
        "smartpay_chassis.sqlite",
        "_answer",
        before=True,
        passes_max=80,
        meaning="something is committed, and nobody has heard",
    ),
    "after_decision": Point(
        f"{_SQLITE}.sqlite_decisions",
        "SqliteDecisions.keep",
        before=False,
        passes_max=40,
        meaning="a decision is durable and not waited for yet",
    ),
    "after_binding": Point(
        f"{_SQLITE}.sqlite_decisions",
        "SqliteDecisions.bind",
        before=False,
        passes_max=10,
        meaning="a decision is given to a payment that does not know it yet",
    ),
    "after_outcome": Point(
        f"{_SQLITE}.sqlite_decisions",
        "SqliteDecisions.report",
        before=False,
        passes_max=40,
        meaning="an outcome is durable and not learned",
    ),
    "after_event": Point(
        f"{_SQLITE}.sqlite_outcomes",
        "SqliteOutcomes.take_in",
        before=False,
        passes_max=20,
        meaning="an event's outcomes and the cursor are durable and not learned",
    ),
    "amid_learning": Point(
        "smartpay_router.domain.steering",
        "Steering.settle",
        before=False,
        passes_max=40,
        meaning="an outcome is learned and not told",
    ),
    "before_snapshot": Point(
        f"{_SQLITE}.sqlite_replicas",
        "_check_epoch",
        before=False,
        passes_max=4,
        meaning="a snapshot is taken, and its transaction begun",
    ),
    "after_snapshot": Point(
        f"{_SQLITE}.sqlite_replicas",
        "SqliteReplicas.put",
        before=False,
        passes_max=4,
        meaning="a snapshot is durable, and its replica has not heard so",
    ),
}


def arm(name: str, passes: int) -> None:
    """Puts the watcher of a point in place.

    Args:
        name: one of POINTS.
        passes: at which pass it kills.
    """
    point = POINTS[name]
    owner, last = found(point)
    setattr(owner, last, _watched(getattr(owner, last), point.before, passes))


def found(point: Point) -> tuple[Any, str]:
    """Answers the module or class that holds the watched function, and its name there."""
    owner: Any = import_module(point.module)
    *outer, last = point.path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    return owner, last


def _watched(original: Callable[..., Any], before: bool, passes: int) -> Callable[..., Any]:
    left = passes

    def passed() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if iscoroutinefunction(original):

        @wraps(original)
        async def watched_async(*args: Any, **named: Any) -> Any:  # noqa: ANN401
            if before:
                passed()
            result = await original(*args, **named)
            if not before:
                passed()
            return result

        return watched_async

    @wraps(original)
    def watched(*args: Any, **named: Any) -> Any:  # noqa: ANN401
        if before:
            passed()
        result = original(*args, **named)
        if not before:
            passed()
        return result

    return watched


if __name__ == "__main__":
    arm(sys.argv[1], int(sys.argv[2]))
    # What was imported by name before would not be watched; nothing of the router was.
    sys.argv[1:] = []
    runpy.run_module("smartpay_router", run_name="__main__", alter_sys=True)
