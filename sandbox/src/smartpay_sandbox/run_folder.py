"""The folder of one running mesh: state that survives, logs, secrets, sockets, certificates."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
SOCKET_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path is 108 with its end; unix(7)
LOG_BYTES_MAX = 20_000_000  # some hours of a busy mesh; looked at when a mesh starts
LONGEST_SOCKET_NAME = "assistant-egress.sock"


class RunFolder:
    """Paths of one mesh. Two meshes with two folders never meet.

    Args:
        root: the folder, by convention `.run` in the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.state = self.root / "state"
        self.logs = self.root / "logs"
        self.secrets = self.root / "secrets"
        self.certificates = self.root / "certificates"
        self.envoys = self.root / "envoys"
        self.endpoints = self.root / "endpoints.json"
        self.merchants = self.root / "merchants.json"
        self.clients = self.secrets / "clients.json"
        self.status = self.root / "status.json"
        self.lock = self.root / "supervisor.lock"
        self.sockets = self._sockets()

    def _sockets(self) -> Path:
        inside = self.root / "sockets"
        if len(os.fsencode(inside / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"smartpay-{digest}"

    def make(self) -> None:
        """Makes all folders, closed to other users, and sets long logs aside.

        Raises:
            PermissionError: when another user owns the sockets' folder.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for folder in (self.state, self.logs, self.secrets, self.envoys, self.sockets):
            folder.mkdir(mode=0o700, exist_ok=True)
            if folder.stat().st_uid != os.getuid():
                raise PermissionError(f"{folder} belongs to another user; remove it first")
            folder.chmod(0o700)
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > LOG_BYTES_MAX:
                log.replace(log.with_suffix(".log.1"))

    def remove_sockets(self) -> None:
        """Removes what lies outside the folder or means nothing once the mesh is down."""
        shutil.rmtree(self.sockets, ignore_errors=True)

    def log(self, process: str) -> Path:
        """Names the log of one process."""
        return self.logs / f"{process}.log"

    def secret(self, name: str) -> Path:
        """Names the file of one secret."""
        return self.secrets / name


def write_whole(file: Path, text: str, mode: int = 0o644) -> None:
    """Replaces a file at once, so that nobody reads half of it and no crash leaves half."""
    part = file.with_name(f".{file.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    part.replace(file)


def read_json(file: Path) -> Any:  # noqa: ANN401 - whoever wrote the file knows its shape
    """Reads a JSON file of ours; None when it is not there."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
