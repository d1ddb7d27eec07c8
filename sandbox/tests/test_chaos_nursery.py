"""A forked service is a whole process of its own: nothing but imported modules is shared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

from smartpay_sandbox.chaos_nursery import Child, Nursery


async def born(nursery: Nursery, folder: Path) -> tuple[Child, int]:
    """Starts a sandbox and answers its port."""
    folder.mkdir()
    port = folder / "port"
    child = await nursery.fork(
        "sandbox",
        {"SANDBOX_STATE_DIR": str(folder), "SANDBOX_PORT_FILE": str(port)},
        folder / "log",
    )
    while not port.exists():
        assert not child.ended.done(), (folder / "log").read_text()
        await asyncio.sleep(0.01)
    return child, int(port.read_text())


def opened(child: Child) -> set[str]:
    """Lists a process's files, sockets and pipes but for what the kernel gives to each anew."""
    links = set()
    for entry in Path(f"/proc/{child.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it may close while we look
            links.add(os.readlink(entry))
    return {link for link in links if not link.startswith(("/dev/", "anon_inode:"))}


async def is_healthy(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /control/health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return bool(json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == "ok")


async def test_children_share_nothing_die_alone_and_end_with_their_nursery(tmp_path: Path) -> None:
    async with Nursery() as nursery:
        first, _ = await born(nursery, tmp_path / "first")
        second, port = await born(nursery, tmp_path / "second")
        assert first.pid != second.pid
        assert opened(first).isdisjoint(opened(second))

        assert await first.kill() == -9
        assert await is_healthy(port)

        # The variables of whoever runs the tests are not the child's.
        unset = await nursery.fork("payments", {}, tmp_path / "log")
        assert await unset.ended == os.EX_CONFIG
        assert "SMARTPAY_LISTEN_SOCKET" in (tmp_path / "log").read_text()
    assert second.ended.result() == -9
