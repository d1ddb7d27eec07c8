"""What a service measures of itself, as Prometheus and the sidecar read it."""

from __future__ import annotations

import asyncio
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from smartpay_chassis.gauges import SUFFIX, Gauges, serve_gauges


@pytest.fixture
async def served() -> AsyncIterator[tuple[Gauges, Path]]:
    # A Unix socket's path may have some 100 characters, which tmp_path can exceed.
    with tempfile.TemporaryDirectory(prefix="sp") as folder:
        gauges, listen = Gauges(), Path(folder) / "till.sock"
        server = await serve_gauges(gauges, listen)
        yield gauges, listen.with_name(listen.name + SUFFIX)
        server.close()


def test_a_gauge_reads_as_prometheus_asks() -> None:
    gauges = Gauges()
    gauges.tell("smartpay_till_coins", "Coins in the drawer.", 3)
    gauges.tell("smartpay_till_change", "Change that was given.", 0.1)
    gauges.tell("smartpay_till_coins", "Coins in the drawer.", 4)
    assert gauges.text() == (
        "# HELP smartpay_till_change Change that was given.\n"
        "# TYPE smartpay_till_change gauge\n"
        "smartpay_till_change 0.1\n"
        "# HELP smartpay_till_coins Coins in the drawer.\n"
        "# TYPE smartpay_till_coins gauge\n"
        "smartpay_till_coins 4.0\n"
    )


def test_what_is_not_known_any_more_is_not_told() -> None:
    gauges = Gauges()
    gauges.tell("smartpay_till_coins", "Coins in the drawer.", 3)
    gauges.tell("smartpay_till_coins", "Coins in the drawer.", None)
    assert gauges.text() == ""


async def test_whoever_may_open_the_socket_reads_the_newest_values(
    served: tuple[Gauges, Path],
) -> None:
    gauges, path = served
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        for coins in (1, 2):
            gauges.tell("smartpay_till_coins", "Coins in the drawer.", coins)
            answer = await client.get("http://till/metrics/service")
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert f"smartpay_till_coins {coins}.0\n" in answer.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("said", [b"", b"GET /", b"x" * 200_000], ids=["nothing", "half", "noise"])
async def test_a_caller_that_makes_no_sense_keeps_nobody_else_waiting(
    served: tuple[Gauges, Path], said: bytes
) -> None:
    gauges, path = served
    gauges.tell("smartpay_till_coins", "Coins in the drawer.", 1)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(said)
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        assert (await client.get("http://till/")).status_code == 200
    if len(said) < 200_000:
        writer.write_eof()
    assert await reader.read() == b""
    writer.close()
