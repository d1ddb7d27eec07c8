"""Takes a snapshot of the memory in a process of its own: `python -m smartpay_fraud.snapshots`.

Writing down a full memory takes seconds, in which no payment could be scored. So the service does
not write its own: the log that all of its memory comes from tells a second process the same. That
one reads the snapshot before, takes in what came since, and leaves the next in its place; it is
consistent with one place of the log, and the service only starts it and waits.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from smartpay_fraud.threads import one_thread_each

if TYPE_CHECKING:
    from smartpay_fraud.settings import FraudSettings

NICENESS = 10
"""Scoring goes first: nobody waits for a snapshot."""

NONE_BEFORE, LOG_AWAY = 3, 4
"""Exit codes: there is no snapshot to go on from, so only the service itself knows everything; the
shared log did not answer."""


async def taken_apart() -> bool:
    """Runs the process with this one's settings; answers whether a snapshot is kept."""
    process = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-m", "smartpay_fraud.snapshots"],
        stdin=subprocess.DEVNULL,
    )
    try:
        return await asyncio.to_thread(process.wait) == 0
    finally:
        # Only when this wait was cancelled: the service stops and keeps its own last snapshot.
        if process.poll() is None:
            process.terminate()
            process.wait()


def main() -> int:
    """Takes one snapshot; answers the exit code."""
    one_thread_each(os.environ)
    # NumPy counts threads when it is imported, so everything else comes after.
    from smartpay_chassis.telemetry import configure_logging
    from smartpay_fraud.settings import FraudSettings

    settings = FraudSettings.from_environment()
    configure_logging("fraud", settings.log_level, settings.debug)
    os.nice(NICENESS)
    if settings.memory_url.get_secret_value():
        return asyncio.run(_of_the_shared_log(settings))
    return 0 if _of_the_history(settings) else NONE_BEFORE


async def _of_the_shared_log(settings: FraudSettings) -> int:
    """Joins the replicas for as long as it takes to know what they know."""
    from smartpay_fraud.adapters.redis_log import RedisLog
    from smartpay_fraud.domain.replicated_memory import LogUnavailableError, ReplicatedMemory

    shared = RedisLog(
        settings.memory_url.get_secret_value(), timeout_seconds=settings.memory_timeout_seconds
    )
    try:
        memory = ReplicatedMemory(shared)
        await memory.open()
        await memory.snapshot()
    except LogUnavailableError:
        return LOG_AWAY  # the service, which asked it as well, tells
    finally:
        await shared.close()
    return 0


def _of_the_history(settings: FraudSettings) -> bool:
    """Brings the file beside the history up to its end; False without a file to begin with."""
    from smartpay_fraud.adapters.memory_file import MemoryFile, renew
    from smartpay_fraud.adapters.sqlite_tail import SqliteTail

    kept = MemoryFile.beside(settings.store_path)
    tail = SqliteTail(settings.store_path)
    try:
        return renew(kept, tail)
    finally:
        tail.close()


if __name__ == "__main__":
    sys.exit(main())
