"""Ports and folders of a mesh."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartpay_sandbox.ports import (
    PortTakenError,
    choose_ports,
    is_free,
    listening_ports,
    taken_by,
)
from smartpay_sandbox.run_folder import SOCKET_PATH_BYTES_MAX, RunFolder


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody listens on: this very process."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def choose(
    tmp_path: Path,
    names: list[str],
    preferred: dict[str, int] | None = None,
    fixed: dict[str, int] | None = None,
) -> dict[str, int]:
    return choose_ports(
        names, tmp_path / "ports.json", preferred=preferred or {}, fixed=fixed or {}
    )


def test_every_name_gets_a_free_port_of_its_own(tmp_path: Path) -> None:
    chosen = choose(tmp_path, ["a", "b", "c"])
    assert len(set(chosen.values())) == 3
    assert all(is_free(port) for port in chosen.values())


def test_ports_are_remembered(tmp_path: Path) -> None:
    assert choose(tmp_path, ["a", "b"]) == choose(tmp_path, ["a", "b"])


def test_a_preferred_port_that_is_taken_is_given_up_silently(tmp_path: Path, taken: int) -> None:
    assert choose(tmp_path, ["edge"], preferred={"edge": taken})["edge"] != taken


def test_a_demanded_port_that_is_taken_is_refused_with_its_holder(
    tmp_path: Path, taken: int
) -> None:
    with pytest.raises(PortTakenError, match=rf"Port {taken} for edge is taken by process \d+"):
        choose(tmp_path, ["edge"], fixed={"edge": taken})


def test_a_demanded_port_is_given_to_nobody_else(tmp_path: Path) -> None:
    port = choose(tmp_path, ["a"])["a"]
    chosen = choose(tmp_path, ["a", "b"], fixed={"b": port})
    assert chosen["b"] == port
    assert chosen["a"] != port


def test_proc_tells_who_listens(taken: int) -> None:
    assert taken in listening_ports(os.getpid())
    assert str(os.getpid()) in taken_by(taken)


def test_sockets_lie_in_the_run_folder_when_their_paths_fit(tmp_path: Path) -> None:
    run = RunFolder(Path("/short/.run"))
    assert run.sockets == Path("/short/.run/sockets")


def test_sockets_of_a_long_path_lie_in_a_short_folder_of_their_own(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    run = RunFolder(deep / ".run")
    run.make()
    longest = run.sockets / "assistant-egress.sock"
    assert len(str(longest)) <= SOCKET_PATH_BYTES_MAX
    assert run.sockets.stat().st_mode & 0o777 == 0o700
    assert RunFolder(deep / "other").sockets != run.sockets
    run.remove_sockets()
    assert not run.sockets.exists()
