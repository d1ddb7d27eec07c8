"""What a supervisor runs: processes that end with it, and how it knows that they are ready."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork
CONNECT_SECONDS = 2.0  # a loopback listener that needs longer is not ready


@dataclass(frozen=True)
class Listening:
    """Ready when somebody accepts on a TCP address or a Unix socket."""

    address: tuple[str, int] | Path

    async def is_true(self) -> bool:
        """Tries once."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if isinstance(self.address, Path):
                    _, writer = await asyncio.open_unix_connection(self.address)
                else:
                    _, writer = await asyncio.open_connection(*self.address)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


@dataclass(frozen=True)
class Answering:
    """Ready when a plain HTTP address answers 200."""

    url: str

    async def is_true(self) -> bool:
        """Asks once."""
        parts = urlsplit(self.url)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                with contextlib.closing(writer):
                    writer.write(
                        f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                        "Connection: close\r\n\r\n".encode()
                    )
                    status = await reader.readline()
        except (OSError, TimeoutError):
            return False
        return status.split()[1:2] == [b"200"]


@dataclass(frozen=True)
class Process:
    """One process of the mesh, as it is planned.

    Attributes:
        name: unique; also the name of its log.
        command: program and arguments.
        environment: all of it; nothing is inherited.
        after: names that must be ready before it starts.
        ready: when it counts as ready; a task is ready when it ended with 0.
        is_task: runs once and ends, instead of staying.
        kind: service, sidecar, edge, outside or task, for people.
        stop_layer: lower layers are stopped first.
        stop_seconds: time to stop by itself before it is killed.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    ready: Listening | Answering | None = None
    is_task: bool = False
    kind: str = "service"
    stop_layer: int = 0
    stop_seconds: float = 12.0


class Child:
    """A process that runs. Make it in the main thread: the kernel ends it with that thread.

    Args:
        process: what to run.
        log: where its output goes, appended.
    """

    def __init__(self, process: Process, log: Path) -> None:
        parent = os.getpid()
        with log.open("ab") as output:
            self._log, self._log_start = log, output.tell()
            self._popen = subprocess.Popen(
                process.command,
                env=dict(process.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),
            )
        self.pid = self._popen.pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.exited.set_result(self._popen.wait())

    def last_lines(self, count: int) -> list[str]:
        """Reads the end of what this process itself wrote."""
        with self._log.open("rb") as written:
            written.seek(self._log_start)
            return written.read().decode(errors="replace").splitlines()[-count:]

    async def stop(self, seconds: float) -> None:
        """Asks it to end, and ends its whole session when it does not."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.exited)
        self._signal(signal.SIGKILL)
        await self.exited

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


def die_with(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Makes the kernel end this process when its parent ends, however that ends; prctl(2)."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)


def how_it_ended(code: int) -> str:
    """Says in words how a process ended."""
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with {code}"
