"""Loopback ports of one mesh: remembered, free, and if taken, by whom."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from smartpay_sandbox.run_folder import read_json, write_whole

LOOPBACK = "127.0.0.1"
# Below Linux's ephemeral range (32768 on): no outgoing connection can take a port in between.
FREE_PORTS = range(15_000, 32_000)
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp; proc(5)


class PortTakenError(Exception):
    """A port that was asked for is in use; names the port and, where /proc tells, its holder."""


def choose_ports(
    names: Sequence[str],
    memory: Path,
    *,
    preferred: Mapping[str, int],
    fixed: Mapping[str, int],
) -> dict[str, int]:
    """Gives each name a free port, the one of last time where possible, and remembers it.

    Args:
        names: who needs a port.
        memory: JSON file of last time's ports.
        preferred: first choices, given up silently when taken.
        fixed: ports the user demands.

    Raises:
        PortTakenError: when a demanded port is in use.
    """
    remembered = read_json(memory) or {}
    chosen: dict[str, int] = {}
    for name in names:
        if name in fixed:
            if not is_free(fixed[name]):
                raise PortTakenError(f"Port {fixed[name]} for {name} {taken_by(fixed[name])}.")
            chosen[name] = fixed[name]
            continue
        wishes = [p for p in (remembered.get(name), preferred.get(name)) if isinstance(p, int)]
        chosen[name] = next(
            port
            for port in itertools.chain(wishes, _random_ports())
            if port not in chosen.values() and port not in fixed.values() and is_free(port)
        )
    write_whole(memory, json.dumps(chosen, indent=2))
    return chosen


def _random_ports() -> Iterator[int]:
    # Random, so that meshes that start at the same moment seldom want the same port.
    while True:
        yield random.choice(FREE_PORTS)


def is_free(port: int) -> bool:
    """Tells whether a server could bind the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def taken_by(port: int) -> str:
    """Says who holds a port, as the end of a sentence."""
    inodes = {inode for inode, listening in _listening_inodes() if listening == port}
    for process in Path("/proc").glob("[0-9]*"):
        if inodes & _socket_inodes(int(process.name)):
            return f"is taken by process {process.name} ({_command(process)})"
    return "is taken by a process that /proc does not show to this user"


def listening_ports(pid: int) -> list[int]:
    """Lists the TCP ports a process listens on."""
    mine = _socket_inodes(pid)
    return sorted({port for inode, port in _listening_inodes() if inode in mine})


def _listening_inodes() -> Iterator[tuple[str, int]]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN:
                yield columns[9], int(columns[1].rpartition(":")[2], 16)


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    # A process of another user shows nothing, and a descriptor may close while we look.
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                if target.startswith("socket:["):
                    inodes.add(target[len("socket:[") : -1])
    return inodes


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "just ended"
