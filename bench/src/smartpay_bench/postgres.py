"""PostgreSQL as Debian ships it, with the same unit of work and the same promise: fsync first.

The server runs from a folder of its own under a user without rights, on a Unix socket only, and
ends with the measurement. asyncpg lives in .venv-bench, so the load runs there.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

CONNECTIONS = 32
"""What two cores take before waiting for each other costs more than it brings."""
USER = "postgres"
CLIENT = Path(".venv-bench/bin/python")
LOAD = Path(__file__).with_name("postgres_load.py")


class PostgresError(Exception):
    """PostgreSQL or its client is not there, or failed; says what to do."""


def postgres_rate(seconds: float) -> float:
    """Answers units a second of a fresh PostgreSQL with synchronous_commit on.

    Raises:
        PostgresError: the server is not installed or does not start, or the load failed.
    """
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        raise PostgresError("PostgreSQL is missing: apt-get install postgresql")
    if not CLIENT.exists():
        raise PostgresError("the rivals are not installed: make bench-payments installs them")
    folder = Path(tempfile.mkdtemp(prefix="smartpay-postgres-"))
    try:
        as_user = _owner_of(folder)
        data = folder / "data"
        _run([*as_user, str(binaries[-1] / "initdb"), "-D", str(data), "-A", "trust", "-N"])
        server = [*as_user, str(binaries[-1] / "pg_ctl"), "-D", str(data), "-w"]
        options = f"-c listen_addresses='' -k {folder} -c synchronous_commit=on -c fsync=on"
        _run([*server, "-l", str(folder / "log"), "-o", options, "start"])
        try:
            out = _run([str(CLIENT), str(LOAD), str(folder), str(CONNECTIONS), str(seconds)])
        finally:
            _run([*server, "-m", "immediate", "stop"])
        return float(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _owner_of(folder: Path) -> list[str]:
    """Gives the folder to a user who may run the server, which refuses to run as root."""
    if os.geteuid() != 0:
        return []
    account = pwd.getpwnam(USER)
    os.chown(folder, account.pw_uid, account.pw_gid)
    folder.chmod(0o755)
    return ["runuser", "-u", USER, "--"]


def _run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise PostgresError(f"{Path(command[-1]).name} failed: {ended.stderr[-500:]}")
    return ended.stdout
