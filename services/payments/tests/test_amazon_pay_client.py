"""What the client sends, and whom it never believes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from smartpay_chassis.testing import FakeClock
from smartpay_payments.adapters import amazon_pay_client
from smartpay_payments.adapters.amazon_pay_client import (
    ANSWER_BYTES_MAX,
    AmazonPayClient,
    AmazonPayRefusedError,
    NoAnswerError,
)
from smartpay_payments.adapters.amazon_pay_signing import (
    ENDPOINTS,
    AmazonPayAccount,
    canonical_query,
    read_account,
)
from smartpay_sandbox.amazon_pay_notifications import Signer
from smartpay_sandbox.amazon_pay_testing import key_pair

CLOCK = FakeClock(datetime(2026, 11, 22, 18, 0, 1, tzinfo=UTC))


@cache
def account(region: str = "na", key_id: str = "SANDBOX-1") -> AmazonPayAccount:
    secret = {
        "public_key_id": key_id,
        "private_key": key_pair("first")[0],
        "store_id": "amzn1.store",
        "merchant_id": "A1",
        "region": region,
    }
    return read_account(json.dumps(secret), livemode=False)


@asynccontextmanager
async def vendor(
    answer: bytes, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers every request alike; yields its address and what it was sent."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer)
        writer.write(head + answer)
        with suppress(ConnectionError):  # a client that has read enough hangs up
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    yield f"{'https' if tls else 'http'}://127.0.0.1:{port}", seen
    server.close()
    await server.wait_closed()


@asynccontextmanager
async def client_of(
    url: str, region: str = "na", key_id: str = "SANDBOX-1"
) -> AsyncIterator[AmazonPayClient]:
    client = AmazonPayClient({"wallet": account(region, key_id)}, url, 5.0, CLOCK)
    yield client
    await client.close()


@pytest.mark.parametrize("region", ["na", "eu", "jp"])
async def test_each_region_has_its_own_host(monkeypatch: pytest.MonkeyPatch, region: str) -> None:
    async with vendor(b"{}") as (url, seen):
        monkeypatch.setitem(ENDPOINTS, region, url)
        async with client_of("", region) as client:
            await client.call("wallet", "GET", "charges/1")
    assert seen[0].startswith(b"GET /v2/charges/1 HTTP/1.1\r\n")
    assert f"x-amz-pay-region: {region}\r\n".encode() in seen[0]
    assert f"x-amz-pay-host: {url.removeprefix('http://')}\r\n".encode() in seen[0]


async def test_an_older_key_names_its_environment_in_the_path() -> None:
    async with (
        vendor(b"{}") as (url, seen),
        client_of(f"{url}/amazon_pay/", key_id="AFVX7ULW") as client,
    ):
        await client.call("wallet", "GET", "charges/1")
    assert seen[0].startswith(b"GET /amazon_pay/sandbox/v2/charges/1 HTTP/1.1\r\n")


async def test_a_simulation_code_is_sent_and_not_signed() -> None:
    async with vendor(b"{}") as (url, seen), client_of(url) as client:
        await client.call("wallet", "POST", "charges", "{}", simulation_code="HardDeclined")
        await client.call("wallet", "POST", "charges", "{}")
    names = seen[0].partition(b"SignedHeaders=")[2].partition(b",")[0]
    assert b"x-amz-pay-simulation-code: HardDeclined\r\n" in seen[0]
    assert b"simulation" not in names
    assert b"simulation" not in seen[1]


async def test_a_query_is_sent_as_it_was_signed() -> None:
    query = {"reportTypes": "_A_,_B_", "createdSince": "20261122T180000Z", "a": "x y&z"}
    async with vendor(b"{}") as (url, seen), client_of(url) as client:
        await client.call("wallet", "GET", "reports", query=query)
    spelt = b"a=x%20y%26z&createdSince=20261122T180000Z&reportTypes=_A_%2C_B_"
    assert seen[0].startswith(b"GET /v2/reports?" + spelt + b" HTTP/1.1\r\n")
    assert canonical_query(query) == spelt.decode()


async def test_a_document_is_fetched_without_credentials() -> None:
    async with vendor(b"document") as (url, seen), client_of(url) as client:
        assert await client.download(f"{url}/d?X-Amz-Signature=a%2Fb") == b"document"
    assert seen[0].startswith(b"GET /d?X-Amz-Signature=a%2Fb HTTP/1.1\r\n")
    assert b"authorization" not in seen[0].lower()


@pytest.mark.parametrize("url", ["http://amazon.test/d", "file:///etc/passwd", "", "//x"])
async def test_a_document_is_never_fetched_where_anyone_could_change_it(url: str) -> None:
    async with client_of("") as client:
        with pytest.raises(NoAnswerError):
            await client.download(url)


async def test_a_document_that_is_too_large_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amazon_pay_client, "DOCUMENT_BYTES_MAX", 4)
    async with vendor(b"12345") as (url, _), client_of(url) as client:
        with pytest.raises(NoAnswerError, match="too large"):
            await client.download(url)


async def test_a_certificate_nobody_vouches_for_is_never_believed(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    (tmp_path / "own.crt").write_bytes(signer.certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "own.crt", tmp_path / "amazon_pay_sns.pem")
    async with vendor(b"{}", tls) as (url, seen), client_of(url) as client:
        with pytest.raises(NoAnswerError):
            await client.call("wallet", "GET", "charges/1")
    assert seen == []


@pytest.mark.parametrize(
    "answer",
    [
        b'{"a": "' + b"x" * ANSWER_BYTES_MAX + b'"}',
        b"[" * 100_000,
        b'{"chargeId": "\xff"}',
        b"null",
    ],
    ids=["endless", "nested", "not UTF-8", "null"],
)
async def test_an_answer_that_can_not_be_read_is_none(answer: bytes) -> None:
    async with vendor(answer) as (url, _), client_of(url) as client:
        with pytest.raises(NoAnswerError):
            await client.call("wallet", "GET", "charges/1")


def test_an_error_says_what_amazon_said_and_nothing_else() -> None:
    assert str(AmazonPayRefusedError(422, "HardDeclined")) == "422 HardDeclined"
