"""Makes the two Python environments from their locks: `python3 .../environments.py`.

Runs before anything is installed, so it uses the standard library alone and imports nothing of
ours. `.venv` holds the mesh, its tests and tools; `.venv-aws` holds ministack, whose pins differ.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

PYTHON_MIN = (3, 11)
APT_LINE = "apt-get install -y --no-install-recommends python3-venv make git ca-certificates"
STAMP = "smartpay-lock.sha256"
IN_HOUSE = "smartpay-in-house.pth"
SHARDS = 2  # pip is bound by one core; two of them halve the time, more only queue for the disk
SAY_EVERY_SECONDS = 5.0  # a plain log shows that it lives, and stays short
_UNITS = {"B": 1, "bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}


class SetupError(Exception):
    """An environment can't be made; the text says why and what to do."""


@dataclass
class Environment:
    """One virtual environment and how far its installation is.

    Attributes:
        folder: the environment.
        lock: every package of it, pinned; nothing is resolved.
        in_house: folders of our own code, importable without a build.
    """

    folder: Path
    lock: Path
    in_house: tuple[Path, ...] = ()
    packages: int = 0
    collected: int = 0
    received_bytes: int = 0
    step: str = "waiting"
    log: list[str] = field(default_factory=list)

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.folder / "bin" / "python"

    def fingerprint(self) -> str:
        """Identifies what the environment should hold."""
        parts = [sys.version, self.lock.read_text(), *map(str, self.in_house)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def is_current(self) -> bool:
        """Tells whether the last installation was of this lock."""
        stamp = self.folder / STAMP
        return stamp.exists() and stamp.read_text() == self.fingerprint()

    def install(self) -> None:
        """Makes the environment, or brings an older one to this lock.

        Raises:
            SetupError: with the last lines of what failed.
        """
        pins = [line for line in self.lock.read_text().splitlines() if "==" in line]
        self.packages = len(pins)
        if not self.python.exists():
            self.step = "creating"
            self._run(sys.executable, "-m", "venv", str(self.folder))
        self.step = "downloading"
        shards = [pins[number::SHARDS] for number in range(SHARDS)]
        # The lock is complete and nothing is resolved, so its parts do not depend on each other.
        with ThreadPoolExecutor(SHARDS) as pool:
            list(pool.map(self._install_shard, range(SHARDS), shards))
        if self.in_house:
            site = next((self.folder / "lib").glob("python3.*/site-packages"))
            (site / IN_HOUSE).write_text("".join(f"{path}\n" for path in self.in_house))
        (self.folder / STAMP).write_text(self.fingerprint())
        self.step = "ready"

    def _install_shard(self, number: int, pins: list[str]) -> None:
        file = self.folder / f"shard-{number}.lock"
        file.write_text("\n".join(pins))
        # Bytecode is made by the first import; that is faster than compiling what nobody imports.
        options = ("--no-deps", "--no-compile", "--disable-pip-version-check", "--no-input")
        self._run(str(self.python), "-m", "pip", "install", *options, "-r", str(file))
        file.unlink()

    def _run(self, *command: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env=environment,
        ) as process:
            assert process.stdout is not None
            before = ""
            for line in process.stdout:
                self.log.append(line.rstrip())
                self._read(line.strip(), before)
                before = line.strip()
        if process.returncode != 0:
            tail = "\n  ".join(self.log[-12:])
            raise SetupError(f"{self.folder.name}: {' '.join(command[1:4])} failed:\n  {tail}")

    def _read(self, line: str, before: str) -> None:
        if line.startswith("Processing "):  # a wheel of a local index
            wheel = Path(line.removeprefix("Processing ").split(" (from ")[0])
            self.received_bytes += wheel.stat().st_size if wheel.is_file() else 0
            self.collected += not before.startswith("Collecting ")
        elif line.startswith(("Collecting ", "Requirement already satisfied: ")):
            self.collected += 1
        elif line.startswith("Downloading ") and (size := re.search(r"\(([\d.]+) (\w+)\)", line)):
            self.received_bytes += int(float(size[1]) * _UNITS.get(size[2], 0))
        elif line.startswith("Installing collected"):
            self.step = "unpacking"


def environments(root: Path) -> tuple[Environment, ...]:
    """Names the environments of a checkout."""
    services = sorted((root / "services").glob("*/src"))
    ours = ("protos/gen", "chassis/src", "gateway/src", "sandbox/src", "client/src")
    folders = [root / name for name in ours]
    return (
        Environment(root / ".venv", root / "requirements.lock", (*folders, *services)),
        Environment(root / ".venv-aws", root / "requirements-aws.lock"),
    )


def check_python() -> None:
    """Refuses, with the line that helps, a Python that can't make environments."""
    if sys.version_info < PYTHON_MIN:
        wanted = ".".join(map(str, PYTHON_MIN))
        raise SetupError(f"Python {wanted} is needed, this is {sys.version.split()[0]}.")
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        raise SetupError(f"python3-venv is missing. As root:\n  {APT_LINE}")


def set_up(root: Path) -> None:
    """Brings all environments to their locks, side by side, and tells how far they are.

    Raises:
        SetupError: when one of them can't be made.
    """
    stale = [e for e in environments(root) if not e.is_current()]
    if not stale:
        return
    check_python()
    started = time.monotonic()
    failures: list[Exception] = []

    def work(environment: Environment) -> None:
        try:
            environment.install()
        except (SetupError, OSError) as error:
            environment.step = "failed"
            failures.append(error)

    threads = [threading.Thread(target=work, args=(e,)) for e in stale]
    for thread in threads:
        thread.start()
    for line in _progress(stale, threads):
        sys.stderr.write(line)
        sys.stderr.flush()
    if failures:
        raise SetupError("\n".join(map(str, failures)))
    total = sum(e.received_bytes for e in stale) / 1e6
    seconds = time.monotonic() - started
    sys.stderr.write(
        f"environments ready in {seconds:.1f} s; {total:.0f} MB of packages received\n"
    )


def _progress(stale: list[Environment], threads: list[threading.Thread]) -> Iterator[str]:
    """Words for a terminal: one line rewritten; for a log: a line now and then."""
    terminal = sys.stderr.isatty()
    said = 0.0
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.1)
        if not threads[0].is_alive():
            threads[-1].join(0.1)
        line = "   ".join(
            f"{e.folder.name}: {e.step} {min(e.collected, e.packages)}/{e.packages}" for e in stale
        )
        if terminal:
            yield f"\r\x1b[2K{line}"
        elif time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            yield f"{line}\n"
    if terminal:
        yield "\r\x1b[2K"


if __name__ == "__main__":
    try:
        set_up(Path(__file__).resolve().parents[3])
    except SetupError as refusal:
        sys.exit(f"setup: {refusal}")
