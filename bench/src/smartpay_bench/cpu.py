"""What processes have cost so far, from Linux's own books."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from pathlib import Path

_TICK_MICROSECONDS = 1_000_000 / os.sysconf("SC_CLK_TCK")


def cpu_microseconds(processes: Mapping[str, int]) -> dict[str, float]:
    """Adds up user and system time of each process, threads included; proc_pid_stat(5).

    The kernel counts in ticks of 10 ms, so rounds have to last seconds.
    """
    return {name: _one(pid) for name, pid in processes.items()}


def client_microseconds() -> float:
    """Says what clients that have ended, which are children of this process, cost so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1_000_000


def machine_microseconds() -> float:
    """Says how long all cores have been busy, whoever kept them; proc_stat(5).

    What is neither the path's nor the client's was somebody else's: the noise of a round.
    """
    user, nice, system, _, _, irq, softirq, steal = (
        int(field) for field in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * _TICK_MICROSECONDS


def _one(pid: int) -> float:
    # The name may hold spaces and brackets; user and system time are fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_MICROSECONDS
