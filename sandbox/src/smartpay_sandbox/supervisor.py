"""Keeps a plan of processes running: starts them in parallel, restarts, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import IO

from smartpay_sandbox.processes import Child, Process, how_it_ended
from smartpay_sandbox.run_folder import RunFolder, write_whole

READY_SECONDS = 60.0  # first imports without bytecode on a slow machine need 20 s
PROBE_SECONDS = 0.03  # a start is felt as slow from a tenth of a second on
RESTARTS_MAX = 5  # more in the window means that it can't run, not that it fell over once
RESTART_WINDOW_SECONDS = 30.0
RESTART_PAUSE_SECONDS = 0.1
FAILED_STOP_SECONDS = 3.0  # after a failed start nothing is worth waiting long for
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, process id
LAST_LINES = 15  # of a log, enough for a traceback's end


class MeshState(StrEnum):
    """Where the whole stands."""

    STARTING = "starting"
    HEALTHY = "healthy"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class AlreadyRunningError(Exception):
    """Another supervisor holds this run folder."""


@dataclass
class Standing:
    """Where one process stands, as the status file tells it."""

    kind: str
    state: str = "waiting"
    pid: int = 0
    restarts: int = 0
    since: float = 0.0


def hold(run: RunFolder) -> IO[bytes]:
    """Takes the folder's lock for the life of the returned file.

    Raises:
        AlreadyRunningError: when a supervisor has it.
    """
    file = run.lock.open("ab")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise AlreadyRunningError(f"a mesh runs in {run.root} already") from None
    return file


def holder(run: RunFolder) -> int:
    """Answers the supervisor's process id, 0 when none runs, without ever taking the lock.

    The kernel is asked (F_GETLK, fcntl(2)), so a process id left in a file deceives nobody.
    """
    if not run.lock.exists():
        return 0
    with run.lock.open("rb") as file:
        wish = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, wish))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


class Supervisor:
    """Runs a plan until SIGTERM or until its start fails.

    Args:
        plan: the processes; names in `after` must be in the plan.
        run: where logs and the status file are.
        clock: seconds that only grow, for the restart policy.
        ready_seconds: how long one process may take to get ready.
    """

    def __init__(
        self,
        plan: Sequence[Process],
        run: RunFolder,
        *,
        clock: Callable[[], float] = time.monotonic,
        ready_seconds: float = READY_SECONDS,
    ) -> None:
        self._plan = plan
        self._run = run
        self._clock = clock
        self._ready_seconds = ready_seconds
        self._state = MeshState.STARTING
        self._reason = ""
        self._standings = {p.name: Standing(p.kind) for p in plan}
        self._children: dict[str, Child] = {}
        self._ready = {p.name: asyncio.Event() for p in plan}
        self._ending = asyncio.Event()

    async def run(self) -> int:
        """Starts, keeps and stops everything; answers the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._ending.set)
        self._tell()
        keepers = [asyncio.create_task(self._keep(process)) for process in self._plan]
        started = asyncio.create_task(self._all_ready())
        await self._ending.wait()
        for task in (started, *keepers):
            task.cancel()
        await asyncio.gather(started, *keepers, return_exceptions=True)
        failed = self._state is MeshState.FAILED
        if not failed:
            self._set_state(MeshState.STOPPING)
        await self._stop(FAILED_STOP_SECONDS if failed else None)
        self._run.remove_sockets()
        if not failed:
            self._set_state(MeshState.STOPPED)
        return 1 if failed else 0

    async def _all_ready(self) -> None:
        for event in self._ready.values():
            await event.wait()
        self._set_state(MeshState.HEALTHY)

    async def _keep(self, process: Process) -> None:
        """Runs one process for the life of the mesh, or a task once."""
        for name in process.after:
            await self._ready[name].wait()
        crashes: deque[float] = deque(maxlen=RESTARTS_MAX + 1)
        try:
            while True:
                child = self._start(process)
                reason = await self._reach_ready(process, child)
                if not reason:
                    self._ready[process.name].set()
                    self._stand(process, "done" if process.is_task else "ready")
                    if process.is_task:
                        return
                    reason = how_it_ended(await asyncio.shield(child.exited))
                if self._state is MeshState.STARTING:
                    self._fail(process, reason)
                    return
                crashes.append(self._clock())
                window = crashes[-1] - crashes[0]
                if len(crashes) > RESTARTS_MAX and window < RESTART_WINDOW_SECONDS:
                    self._stand(process, f"gave up: {reason} {len(crashes)} times")
                    return
                self._standings[process.name].restarts += 1
                self._stand(process, f"restarting: {reason}")
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
        except OSError as error:  # the program itself is missing
            self._fail(process, str(error))

    def _start(self, process: Process) -> Child:
        child = Child(process, self._run.log(process.name))
        self._children[process.name] = child
        self._standings[process.name].pid = child.pid
        self._stand(process, "starting")
        return child

    async def _reach_ready(self, process: Process, child: Child) -> str:
        """Waits until the process is ready; answers why it is not, or ""."""
        deadline = self._clock() + self._ready_seconds
        while self._clock() < deadline:
            if child.exited.done():
                code = child.exited.result()
                return "" if process.is_task and code == 0 else how_it_ended(code)
            if not process.is_task and (process.ready is None or await process.ready.is_true()):
                return ""
            await asyncio.wait({child.exited}, timeout=PROBE_SECONDS)
        await child.stop(FAILED_STOP_SECONDS)
        return f"was not ready within {self._ready_seconds:g} s"

    def _fail(self, process: Process, reason: str) -> None:
        child = self._children.get(process.name)
        tail = child.last_lines(LAST_LINES) if child is not None else []
        self._stand(process, reason)
        self._set_state(
            MeshState.FAILED, "\n".join([f"{process.name} {reason}; its last lines:", *tail])
        )
        self._ending.set()

    async def _stop(self, seconds_max: float | None) -> None:
        for layer in sorted({process.stop_layer for process in self._plan}):
            stops = []
            for process in self._plan:
                child = self._children.get(process.name)
                if process.stop_layer == layer and child is not None and not child.exited.done():
                    seconds = min(process.stop_seconds, seconds_max or process.stop_seconds)
                    stops.append(self._stop_one(process, child, seconds))
            await asyncio.gather(*stops)

    async def _stop_one(self, process: Process, child: Child, seconds: float) -> None:
        await child.stop(seconds)
        self._stand(process, "stopped")

    def _stand(self, process: Process, state: str) -> None:
        standing = self._standings[process.name]
        standing.state, standing.since = state, time.time()
        self._tell()

    def _set_state(self, state: MeshState, reason: str = "") -> None:
        self._state, self._reason = state, reason
        self._tell()

    def _tell(self) -> None:
        status = {
            "state": self._state,
            "reason": self._reason,
            "supervisor": os.getpid(),
            "processes": {name: asdict(s) for name, s in self._standings.items()},
        }
        # Status is for people and tests; a full disk must not take the mesh down.
        with contextlib.suppress(OSError):
            write_whole(self._run.status, json.dumps(status, indent=1))
