"""Starts services within milliseconds: a parent that has imported their modules and forks them.

Starting Python and importing the payments service takes a second, and a chaos run starts it a
thousand times. The parent here does nothing but import and fork: it has one thread and opens no
file, socket or channel. So a child shares with it, and with the children before, nothing but
imported modules; it has its own process id, memory, descriptors and locks, and a SIGKILL takes it
away as it takes any process. `python -m smartpay_sandbox.chaos_nursery` is that parent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from smartpay_sandbox import crash_points, sabotage  # noqa: F401 - to be shared, too
from smartpay_sandbox.processes import die_with

PROGRAMS = {"payments": "smartpay_payments", "sandbox": "smartpay_sandbox"}
IMPORTED_LATE = (
    *("anyio._backends._asyncio", "h2.connection", "httpcore2", "truststore"),
    *("stripe._stripe_client", "stripe._v1_services", "stripe._v2_services"),
)
"""What the libraries import only with their first use."""
START_SECONDS = 60.0  # first imports on a busy machine
LINE_BYTES_MAX = 1 << 20


class Child:
    """One forked process."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its wait status, once it has ended."""
        self._nursery = nursery

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Ends it, if it still runs, and answers how it ended: -9 after SIGKILL."""
        # Its parent sends the signal, since only that one knows whose the number is.
        self._nursery.tell({"signal": int(number), "pid": self.pid})
        return await self.ended


class Nursery:
    """The parent, as its user sees it. Use it as a context: `async with Nursery() as nursery:`."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._born: dict[int, asyncio.Future[Child]] = {}
        self._number = 0

    async def __aenter__(self) -> Self:
        """Starts the parent and waits for its imports."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "smartpay_sandbox.chaos_nursery"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            await self._process.stdout.readline()
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the parent; its children end with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._listener

    async def fork(
        self,
        program: str,
        environment: Mapping[str, str],
        log: Path,
        prepare: Mapping[str, Any] | None = None,
    ) -> Child:
        """Starts a program of PROGRAMS.

        Args:
            program: which.
            environment: the whole environment of the child.
            log: where what it says is added.
            prepare: given to `crash_points.prepare` in the child before the program begins.
        """
        self._number += 1
        born: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._born[self._number] = born
        self.tell(
            {
                "number": self._number,
                "program": program,
                "environment": dict(environment),
                "log": str(log),
                "prepare": prepare,
            }
        )
        return await born

    def tell(self, order: Mapping[str, Any]) -> None:
        """Sends the parent an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            news = json.loads(line)
            if "number" in news:
                child = self._children[news["pid"]] = Child(self, news["pid"])
                self._born.pop(news["number"]).set_result(child)
            else:
                self._children.pop(news["pid"]).ended.set_result(news["status"])


# ---- in the parent -------------------------------------------------------------------------------


def serve() -> None:
    """Forks what it is told to, until nobody tells it any more."""
    programs = {name: import_module(f"{package}.__main__") for name, package in PROGRAMS.items()}
    for name in IMPORTED_LATE:
        import_module(name)
    # Locks of other threads would stay locked in every child.
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started a thread"
    gc.collect()
    gc.freeze()  # pages that nobody counts references in stay shared
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writes)
    _say({"ready": True})
    known: set[int] = set()
    buffer = b""
    while True:
        ready, _, _ = select.select([0, reads], [], [])
        if reads in ready:
            os.read(reads, 4096)
            _reap(known)
        if 0 not in ready:
            continue
        heard = os.read(0, LINE_BYTES_MAX)
        if not heard:
            break
        *lines, buffer = (buffer + heard).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "signal" in order:
                if order["pid"] in known:
                    os.kill(order["pid"], order["signal"])
                continue
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(reads)
                os.close(writes)
                _become(order, parent, programs[order["program"]].main)
            known.add(pid)
            _say({"number": order["number"], "pid": pid})
    for pid in known:
        os.kill(pid, signal.SIGKILL)
    while known:
        _reap(known, options=0)


def _say(news: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(news).encode() + b"\n")


def _reap(known: set[int], options: int = os.WNOHANG) -> None:
    for pid in list(known):
        found, status = os.waitpid(pid, options)
        if found:
            known.discard(pid)
            _say({"pid": pid, "status": os.waitstatus_to_exitcode(status)})


def _become(order: Mapping[str, Any], parent: int, main: Callable[[], None]) -> NoReturn:
    """Turns a forked child into the program: no descriptor and no variable of the parent stays."""
    try:
        die_with(parent)
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)
        os.environ.clear()
        os.environ.update(order["environment"])
        if order["prepare"] is not None:
            crash_points.prepare(**order["prepare"])
        main()
    except SystemExit as ended:
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    serve()
