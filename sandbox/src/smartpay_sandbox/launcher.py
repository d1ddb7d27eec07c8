"""Starts, shows and stops the whole mesh: `python -m smartpay_sandbox.launcher up`.

The supervisor is a process of its own that outlives the terminal; `up` only watches it start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from smartpay_sandbox.cognito import TokenError, UserPool, fetch_token
from smartpay_sandbox.processes import die_with
from smartpay_sandbox.run_folder import REPOSITORY, RunFolder, read_json
from smartpay_sandbox.supervisor import (
    AlreadyRunningError,
    MeshState,
    Supervisor,
    hold,
    holder,
)

POLL_SECONDS = 0.05
START_SECONDS = 120.0  # first imports on a slow machine, twice over
STOP_SECONDS = 45.0  # three layers, each with its time to drain
DEFAULT_CLIENT = "demo"


class MeshError(Exception):
    """The mesh did not start or stop; the text says why."""


@dataclass(frozen=True)
class Running:
    """One process of a running mesh."""

    name: str
    kind: str
    state: str
    pid: int
    restarts: int


class Mesh:
    """A whole mesh in its own run folder, for people and for tests.

    `with Mesh(folder) as mesh:` starts it and stops it at the end. State stays in the folder, so
    `stop()` and `start()` continue with the same merchants, chain and ledger.

    Args:
        folder: the run folder.
        environment: variables per process name, for instance {"payments": {"LOG_LEVEL": "DEBUG"}};
            under "ports" a demanded port per name.
        with_parent: ends the mesh when this process ends; False lets it run on.
        plan: module:function that plans the processes; tests plan small ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        with_parent: bool = True,
        plan: str = "smartpay_sandbox.mesh_plan:plan",
    ) -> None:
        self.run = RunFolder(folder)
        self._environment = environment or {}
        self._with_parent = with_parent
        self._plan = plan
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts the mesh."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops the mesh."""
        self.stop()

    @property
    def endpoints(self) -> dict[str, str]:
        """What `.run/endpoints.json` says."""
        return dict(read_json(self.run.endpoints) or {})

    @property
    def is_running(self) -> bool:
        """Tells whether a supervisor runs for this folder."""
        return holder(self.run) != 0

    @property
    def status(self) -> dict[str, Any]:
        """What the supervisor last said; empty before the first start."""
        return dict(read_json(self.run.status) or {})

    def start(self, watch: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """Starts the mesh and returns once it is healthy.

        Args:
            watch: told the status again and again while it starts.

        Raises:
            AlreadyRunningError: when it runs.
            MeshError: when it did not start; everything is stopped again.
        """
        self.run.make()
        if self.is_running:
            raise AlreadyRunningError(f"a mesh runs in {self.run.root} already")
        self._collect()
        self.run.status.unlink(missing_ok=True)
        log = self.run.log("supervisor")
        parent = os.getpid()
        with log.open("wb") as output:
            self._supervisor = subprocess.Popen(
                [
                    *(sys.executable, "-m", "smartpay_sandbox.launcher"),
                    *("--run", str(self.run.root), "supervise"),
                    *("--plan", self._plan, "--environment", json.dumps(self._environment)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=(
                    (lambda: die_with(parent, signal.SIGTERM)) if self._with_parent else None
                ),
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ended = self._supervisor.poll() is not None
            status = self.status
            watch(status)
            if status.get("state") == MeshState.HEALTHY:
                return
            if ended:
                said = str(status.get("reason") or "") or log.read_text(errors="replace")
                raise MeshError(said.strip() or "the supervisor ended")
            time.sleep(POLL_SECONDS)
        self.stop()
        raise MeshError(f"not healthy within {START_SECONDS:.0f} s; see {self.run.logs}")

    def stop(self) -> None:
        """Stops everything and returns when nothing is left; harmless when nothing runs.

        Raises:
            MeshError: when the supervisor does not end.
        """
        if pid := holder(self.run):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self.is_running:
            if time.monotonic() > deadline:
                raise MeshError(f"still running after {STOP_SECONDS:.0f} s; see {self.run.logs}")
            time.sleep(POLL_SECONDS)
        self._collect()

    def _collect(self) -> None:
        """Takes note of how the last supervisor ended, so that no zombie stays."""
        if self._supervisor is not None:
            self._supervisor.wait()
            self._supervisor = None

    def process(self, name: str) -> Running:
        """Shows one process; raises KeyError when the mesh has none of this name."""
        standing = self.status["processes"][name]
        return Running(
            name, standing["kind"], standing["state"], standing["pid"], standing["restarts"]
        )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends one process at once, as a crash would; the supervisor starts it again."""
        os.kill(self.process(name).pid, number)

    def wait_restarted(self, name: str, restarts: int = 1) -> None:
        """Waits until a process was started again so many times and is ready.

        Raises:
            MeshError: when it is not.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            running = self.process(name)
            if running.restarts >= restarts and running.state == "ready":
                return
            time.sleep(POLL_SECONDS)
        raise MeshError(f"{name} is {self.process(name).state}")

    def token(self, client: str = DEFAULT_CLIENT, scopes: Sequence[str] | None = None) -> str:
        """Gets an access token of demo, readonly, other or foreign.

        Raises:
            TokenError: when there is no such client or no issuer.
        """
        pool = UserPool.load(self.run)
        if pool is None:
            raise TokenError("There are no clients yet; run `make up`.")
        if client not in pool.clients:
            raise TokenError(f"No client {client!r}; there are {', '.join(pool.clients)}.")
        return fetch_token(self.endpoints["cognito"], pool.clients[client], scopes)


def supervise(run: RunFolder, plan: str, environment: Mapping[str, Mapping[str, str]]) -> int:
    """Runs the supervisor in this process until it is told to stop."""
    from importlib import import_module

    from smartpay_sandbox.ports import PortTakenError

    module, _, function = plan.partition(":")
    try:
        lock = hold(run)
    except AlreadyRunningError as error:
        print(error)
        return 1
    with lock:
        try:
            processes = getattr(import_module(module), function)(run, environment)
        except PortTakenError as error:
            print(error)
            return 1

        async def work() -> int:
            return await Supervisor(processes, run).run()

        return asyncio.run(work())


def main() -> None:
    """Runs one command."""
    from smartpay_sandbox import launcher_commands as commands

    parser = argparse.ArgumentParser(prog="python -m smartpay_sandbox.launcher")
    parser.add_argument("--run", type=Path, default=REPOSITORY / ".run", help="the run folder")
    choices = parser.add_subparsers(dest="command", required=True)
    choices.add_parser("up", help="start the mesh and return once it is healthy")
    choices.add_parser("run", help="start the mesh and stay; Ctrl+C stops it")
    choices.add_parser("down", help="stop the mesh; its state stays")
    choices.add_parser("status", help="show every process")
    logs = choices.add_parser("logs", help="show the last lines of the logs")
    logs.add_argument("names", nargs="*", help="processes; all when none is named")
    logs.add_argument("--follow", action="store_true", help="go on as new lines come")
    token = choices.add_parser("token", help="print an access token")
    token.add_argument("--client", default=DEFAULT_CLIENT)
    inner = choices.add_parser("supervise", help="what `up` starts in the background")
    inner.add_argument("--plan", default="smartpay_sandbox.mesh_plan:plan")
    inner.add_argument("--environment", type=json.loads, default={})
    arguments = parser.parse_args()
    if arguments.command == "supervise":
        sys.exit(supervise(RunFolder(arguments.run), arguments.plan, arguments.environment))
    if arguments.command in ("status", "logs", "token"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `make status | head` ends in silence
    sys.exit(commands.execute(arguments))


if __name__ == "__main__":
    main()
