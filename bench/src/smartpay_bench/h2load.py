"""Runs h2load and reads what it says: how many calls, how fast, how late.

h2load is written in C and takes about a tenth of what the slowest server here takes, so it is not
the bottleneck. It knows HTTP only: a gRPC refusal is a 200 to it, so answers are weighed as well.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

APT_LINE = "apt-get install -y --no-install-recommends nghttp2-client"
CALLERS = 16
"""Calls in flight: enough to keep two cores busy, few enough to see what one call costs."""
SPARE_SECONDS = 20
"""How much longer than asked for h2load may take before it counts as hung."""


class LoadError(Exception):
    """h2load is missing or did not get what it asked for; the text says what to do."""


@dataclass(frozen=True)
class Load:
    """What one run of h2load showed."""

    calls: int
    rate: float
    """Calls per second."""
    p50_ms: float
    p99_ms: float


def require_h2load() -> None:
    """Raises LoadError, with the line that installs it, where there is no h2load."""
    if shutil.which("h2load") is None:
        raise LoadError(f"h2load is missing. As root:\n  {APT_LINE}")


def run_load(
    arguments: tuple[str, ...], seconds: int, answer_bytes: int, *, varies: float = 0.0
) -> Load:
    """Calls for some seconds.

    Args:
        arguments: what to call, and how many calls at once, as h2load takes it; at most CALLERS.
        seconds: how long; h2load knows whole ones only.
        answer_bytes: size of a good answer's body.
        varies: share by which good answers may be larger or smaller on average.

    Raises:
        LoadError: when any call failed or answered something of another size.
    """
    with tempfile.TemporaryDirectory(prefix="h2") as folder:
        log = Path(folder) / "calls"
        try:
            done = subprocess.run(
                ["h2load", "-t1", f"-D{seconds}", f"--log-file={log}", *arguments],
                capture_output=True,
                text=True,
                timeout=seconds + SPARE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # So it does where a server closes its connections; its arguments hold a token.
            raise LoadError("h2load hangs, so calls fail; see the access logs.") from None
        if done.returncode != 0:
            raise LoadError(f"h2load ended with {done.returncode}: {done.stderr[-500:]}")
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    said = done.stdout
    calls, failed = _number(r"(\d+) succeeded", said), _number(r"(\d+) failed", said)
    if failed or not calls or _number(r"(\d+) 2xx", said) < calls:
        raise LoadError(f"Calls failed, so nothing was measured:\n{said}")
    body = _number(r"\((\d+)\) data", said)
    # Answers under way when time is up are weighed but not counted.
    least, most = answer_bytes * (1 - varies), answer_bytes * (1 + varies)
    if not calls * least <= body <= (calls + CALLERS) * most:
        raise LoadError(f"{calls} answers have {body} bytes, not {answer_bytes} each:\n{said}")
    times_ms = [int(row[2]) / 1000 for row in rows]
    hundredths = statistics.quantiles(times_ms, n=100)
    return Load(calls, calls / seconds, hundredths[49], hundredths[98])


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise LoadError(f"h2load did not say {pattern}:\n{text}")
    return int(found[1])
