"""What the launcher's commands print: progress, a table, logs, a token."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smartpay_gateway.topology import EDGE, SERVICES
from smartpay_sandbox.cognito import TokenError
from smartpay_sandbox.envoy_status import rows_of
from smartpay_sandbox.launcher import Mesh, MeshError
from smartpay_sandbox.ports import listening_ports
from smartpay_sandbox.run_folder import RunFolder
from smartpay_sandbox.supervisor import AlreadyRunningError

LOG_LINES = 20  # per process: a screen for each of a few
FOLLOWED_LINES = 5


def execute(arguments: argparse.Namespace) -> int:
    """Runs a command and answers the exit code."""
    mesh = Mesh(arguments.run, with_parent=arguments.command == "run")
    try:
        match arguments.command:
            case "up":
                return _up(mesh)
            case "run":
                return _run(mesh)
            case "down":
                return _down(mesh)
            case "status":
                return _status(mesh)
            case "logs":
                return _logs(mesh.run, arguments.names, arguments.follow)
            case _:
                print(mesh.token(arguments.client))
                return 0
    except (MeshError, TokenError, PermissionError) as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 1


class Progress:
    """Tells once about every process that got ready."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._told: set[str] = set()

    def __call__(self, status: dict[str, Any]) -> None:
        """Looks at a status for news."""
        processes: dict[str, dict[str, Any]] = status.get("processes", {})
        for name, standing in processes.items():
            if standing["state"] in ("ready", "done") and name not in self._told:
                self._told.add(name)
                seconds = time.monotonic() - self._started
                count = f"{len(self._told):2d}/{len(processes)}"
                print(f"  {seconds:5.1f} s  {count}  {name} {standing['state']}", flush=True)

    @property
    def seconds(self) -> float:
        """How long it takes so far."""
        return time.monotonic() - self._started


def _up(mesh: Mesh) -> int:
    if mesh.is_running:
        print(f"The mesh runs already: {mesh.endpoints['rest']} (make status, make down)")
        return 0
    progress = Progress()
    try:
        mesh.start(progress)
    except AlreadyRunningError as error:
        print(error)
        return 0
    print(f"healthy after {progress.seconds:.1f} s: {mesh.endpoints['rest']}")
    print(f"CA {mesh.endpoints['ca']}; logs {mesh.run.logs}; stop with: make down")
    return 0


def _run(mesh: Mesh) -> int:
    code = _up(mesh)
    try:
        while mesh.is_running:
            time.sleep(0.5)
    except KeyboardInterrupt:
        mesh.stop()
    return code


def _down(mesh: Mesh) -> int:
    if not mesh.is_running:
        print("The mesh does not run.")
        return 0
    mesh.stop()
    print(f"Stopped. State stays in {mesh.run.state}; make clean removes it.")
    return 0


def _status(mesh: Mesh) -> int:
    status = mesh.status
    if not mesh.is_running:
        print("The mesh does not run.")
        if status.get("reason"):
            print(status["reason"])
        return 1
    rows = [("PROCESS", "KIND", "STATE", "PID", "RESTARTS", "MB", "LISTENS ON")]
    for name, standing in status["processes"].items():
        if standing["kind"] == "task":
            continue
        pid = int(standing["pid"])
        rows.append(
            (
                name,
                standing["kind"],
                standing["state"],
                str(pid or "-"),
                str(standing["restarts"]),
                str(_resident_megabytes(pid) or "-"),
                _listening(mesh.run, name, pid),
            )
        )
    print(f"mesh {status['state']}, edge {mesh.endpoints['rest']}\n")
    _print_table(rows)
    admin = {name: mesh.run.sockets / f"{name}-admin.sock" for name in (EDGE, *SERVICES)}
    print(
        "\nSince each Envoy's start: calls denied, rate-limited, refused by a breaker, retried.\n"
    )
    _print_table(list(rows_of(admin)))
    return 0 if status["state"] == "healthy" else 1


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def _resident_megabytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(ln.split()[1]) // 1024 for ln in lines if ln.startswith("VmRSS:")), 0)


def _listening(run: RunFolder, name: str, pid: int) -> str:
    ports = [f"127.0.0.1:{port}" for port in listening_ports(pid)]
    house = name.removesuffix("-sidecar")
    endings = ("-egress", "-admin") if name.endswith("-sidecar") or name == "edge" else ("",)
    sockets = [run.sockets / f"{house}{ending}.sock" for ending in endings]
    return ", ".join([*ports, *(socket.name for socket in sockets if socket.exists())])


def _logs(run: RunFolder, names: list[str], follow: bool) -> int:
    files = [run.log(name) for name in names] or sorted(run.logs.glob("*.log"))
    missing = [file.stem for file in files if not file.exists()]
    if missing or not files:
        print(f"No log of {', '.join(missing) or 'anything'}; see {run.logs}", file=sys.stderr)
        return 1
    lines = FOLLOWED_LINES if follow else LOG_LINES
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, files)]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0
