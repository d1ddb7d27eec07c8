"""Posting to addresses that strangers chose never reaches our own network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from smartpay_chassis.refusals import Refusal
from smartpay_payments.adapters.webhook_sender import WebhookSender
from smartpay_payments.domain.public_addresses import is_public
from smartpay_payments.domain.webhook_delivery import Reply
from smartpay_payments.domain.webhook_endpoints import check_url

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "100.128.0.1", "172.32.0.1", "2606:4700::1111"]


@pytest.mark.parametrize("text", PRIVATE)
def test_what_is_not_of_the_public_internet_is_known_as_such(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", [*PUBLIC, "::ffff:1.1.1.1"])
def test_what_is_public_is_known_as_such(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


# ---- what a merchant may set -------------------------------------------------------------------

REFUSED_URLS = [
    "http://merchant.example/hook",
    "ftp://merchant.example/hook",
    "//merchant.example/hook",
    "merchant.example/hook",
    "https://",
    "https:///hook",
    "https://user@merchant.example/",
    "https://user:secret@merchant.example/",
    "https://merchant.example/#x",
    "https://merchant.example/#",
    "https://merchant.example:0/",
    "https://merchant.example:99999/",
    "https://merchant.example:port/",
    "https://merchant.example/a b",
    "https://merchant.example/\r\nx: y",
    "https://merchant.example\\@127.0.0.1/",
    "https://mërchant.example/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://api.localhost/",
    "https://printer.local/",
    "https://metadata.google.internal/",
    "https://intranet/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://127.1/",
    "https://0177.0.0.1/",
    "https://127.0.0.1/",
    "https://127.0.0.1./",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[fe80::1%25eth0]/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/",
    "https://10.0.0.1:8443/",
    "https://999.1.1.1/",
]


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_an_address_that_shows_what_it_is_is_refused_when_it_is_set(url: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_url(url, allow_loopback=False)
    assert refused.value.reason == "WEBHOOK_URL_REFUSED"
    assert refused.value.field == "url"


@pytest.mark.parametrize(
    "url",
    [
        "https://merchant.example",
        "https://merchant.example/hook?token=%20x&y=1",
        "https://api.merchant.example:8443/hook",
        "https://xn--mrchant-4za.example/",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
        "https://merchant.example./",
        "https://10.0.0.1.nip.io/",
    ],
)
def test_a_public_https_address_is_taken(url: str) -> None:
    check_url(url, allow_loopback=False)


def test_development_may_send_to_this_machine_and_nowhere_else_private() -> None:
    for url in ("http://127.0.0.1:1234/hook", "http://localhost/", "http://[::1]/"):
        check_url(url, allow_loopback=True)
    for url in ("http://merchant.example/", "https://10.0.0.1/", "http://169.254.169.254/"):
        with pytest.raises(Refusal):
            check_url(url, allow_loopback=True)


# ---- what is sent ------------------------------------------------------------------------------


class Receiver:
    """A server on this machine that notes who comes."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[web.Request], Any] = lambda _: web.Response(text="taken")
        self.port = 0
        self.closing = asyncio.Event()

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers), await request.read()))
        answer = self.answer(request)
        response: web.StreamResponse = await answer if asyncio.iscoroutine(answer) else answer
        return response


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield receiver
    receiver.closing.set()
    await runner.cleanup()


def resolving_to(*addresses: str) -> Callable[..., Any]:
    """Resolves every name to these addresses, in turn when called again."""

    async def resolve(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    return resolve


async def sent(url: str, **settings: Any) -> Reply:
    sender = WebhookSender(5, **{"allow_loopback": False, **settings})
    try:
        return await sender.send(url, {"content-type": "x/y", "webhook-id": "whd_1"}, b"{}")
    finally:
        await sender.close()


async def test_an_event_arrives_as_it_was_written(receiver: Receiver) -> None:
    reply = await sent(f"http://127.0.0.1:{receiver.port}/hook?a=%20b", allow_loopback=True)
    assert reply == Reply(200, "taken")
    ((path, headers, body),) = receiver.requests
    assert (path, body) == ("/hook", b"{}")
    assert headers["User-Agent"] == "SmartPay-Webhooks/1"
    assert headers["Content-Type"] == "x/y"
    assert headers["webhook-id"] == "whd_1"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ],
)
async def test_no_spelling_of_this_machine_is_reached(receiver: Receiver, host: str) -> None:
    # Past the check of the address itself, so that the connection's own check is what holds.
    reply = await sent(f"http://{host}:{receiver.port}/")
    assert reply.code == 0
    assert reply.failure_reason in ("address_refused", "name_unknown")
    assert receiver.requests == []


@pytest.mark.parametrize("address", PRIVATE)
async def test_no_name_leads_to_a_private_address(receiver: Receiver, address: str) -> None:
    if "%" in address:
        address = address.partition("%")[0]
    reply = await sent(f"http://merchant.example:{receiver.port}/", resolve=resolving_to(address))
    assert reply == Reply(failure_reason="address_refused")
    assert receiver.requests == []


async def test_one_private_address_among_public_ones_is_enough(receiver: Receiver) -> None:
    for addresses in (("1.1.1.1", "127.0.0.1"), ("127.0.0.1", "1.1.1.1")):
        url = f"http://merchant.example:{receiver.port}/"
        assert await sent(url, resolve=resolving_to(*addresses)) == Reply(
            failure_reason="address_refused"
        )
    assert receiver.requests == []


async def test_a_name_that_changes_its_mind_gains_nothing(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checked address is the one that is called, though every later answer is another."""
    asked: list[str] = []

    async def resolve(host: str, port: int, family: socket.AddressFamily) -> Any:
        asked.append(host)
        first = len(asked) == 1
        return await resolving_to("1.1.1.1" if first else "127.0.0.1")(host, port, family)

    called: list[tuple[str, int]] = []
    make = socket.socket

    def noted(*place: Any, **more: Any) -> socket.socket:
        return make(*place, **more)

    async def connect(self: object, sock: object, address: tuple[str, int]) -> None:
        called.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "socket", noted)
    monkeypatch.setattr(asyncio.get_running_loop().__class__, "sock_connect", connect)
    reply = await sent(f"http://merchant.example:{receiver.port}/", resolve=resolve)
    assert reply.failure_reason == "connection_failed"
    assert called == [("1.1.1.1", receiver.port)]
    assert asked == ["merchant.example"]
    assert receiver.requests == []


async def test_without_the_check_the_same_request_would_arrive(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WebhookSender, "_may_call", lambda self, address: True)
    url = f"http://merchant.example:{receiver.port}/"
    assert (await sent(url, resolve=resolving_to("127.0.0.1"))).code == 200
    assert (await sent(f"http://127.0.0.1:{receiver.port}/")).code == 200
    assert len(receiver.requests) == 2


async def test_a_redirection_is_not_followed(receiver: Receiver) -> None:
    receiver.answer = lambda _: web.Response(
        status=302, headers={"location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    )
    reply = await sent(f"http://127.0.0.1:{receiver.port}/hook", allow_loopback=True)
    assert (reply.code, reply.is_taken) == (302, False)
    assert [path for path, _, _ in receiver.requests] == ["/hook"]


async def test_of_an_endless_answer_only_the_beginning_is_read(receiver: Receiver) -> None:
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65536)
                written += 65536
        except ConnectionResetError:
            return response

    receiver.answer = endless
    reply = await sent(f"http://127.0.0.1:{receiver.port}/", allow_loopback=True)
    assert reply == Reply(200, "x" * 1000)
    assert written < 64 * 1024 * 1024


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (b"", ""),
        ("Zoë\n漢字".encode(), "Zoë\n漢字"),
        (b"\x00\x1b[31mred\xff", "??[31mred\ufffd"),
        (b"card 4242 4242 4242 4242 taken", "(withheld: holds what looks like a card number)"),
        (b"y" * 5000, "y" * 1000),
    ],
)
async def test_of_an_answer_is_kept_what_can_be_shown(
    receiver: Receiver, body: bytes, kept: str
) -> None:
    receiver.answer = lambda _: web.Response(status=500, body=body)
    reply = await sent(f"http://127.0.0.1:{receiver.port}/", allow_loopback=True)
    assert (reply.code, reply.excerpt) == (500, kept)


async def test_a_compressed_answer_is_not_unpacked(receiver: Receiver) -> None:
    receiver.answer = lambda _: web.Response(
        body=b"\x1f\x8b not really", headers={"content-encoding": "gzip"}
    )
    reply = await sent(f"http://127.0.0.1:{receiver.port}/", allow_loopback=True)
    assert reply.code == 200
    assert reply.excerpt.endswith("not really")


async def test_cookies_are_not_kept(receiver: Receiver) -> None:
    receiver.answer = lambda _: web.Response(headers={"set-cookie": "a=b; Path=/"})
    sender = WebhookSender(5, allow_loopback=True)
    for _ in range(2):
        await sender.send(f"http://127.0.0.1:{receiver.port}/", {}, b"")
    await sender.close()
    assert all("Cookie" not in headers for _, headers, _ in receiver.requests)


async def test_a_proxy_of_the_environment_is_not_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{receiver.port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{receiver.port}")
    monkeypatch.setattr(WebhookSender, "_may_call", lambda self, address: True)
    reply = await sent("http://merchant.example:9/", resolve=resolving_to("127.0.0.1"))
    assert reply.failure_reason == "connection_failed"
    assert receiver.requests == []


async def test_each_trouble_has_a_name(receiver: Receiver) -> None:
    async def silent(_: web.Request) -> web.Response:
        await receiver.closing.wait()
        return web.Response()

    async def unknown(host: str, port: int, family: socket.AddressFamily) -> Any:
        raise OSError("no such host")

    receiver.answer = silent
    sender = WebhookSender(0.2, allow_loopback=True)
    url = f"http://127.0.0.1:{receiver.port}/"
    assert (await sender.send(url, {}, b"")).failure_reason == "timeout"
    await sender.close()
    assert (await sent("https://m.example/", resolve=unknown)).failure_reason == "name_unknown"
    tls = f"https://127.0.0.1:{receiver.port}/"
    assert (await sent(tls, allow_loopback=True)).failure_reason == "tls_failed"


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """Makes a certificate of its own for a name, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "crt").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    return context


async def test_tls_asks_for_the_name_and_not_for_the_address(tmp_path: Path) -> None:
    async def take(_: web.Request) -> web.Response:
        return web.Response(text="taken")

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    context = certificate(tmp_path, "merchant.example")
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    here = resolving_to("127.0.0.1")
    trust = ssl.create_default_context(cafile=str(tmp_path / "crt"))
    url = f"https://merchant.example:{port}/"
    good = await sent(url, allow_loopback=True, resolve=here, trust=trust)
    assert good == Reply(200, "taken")
    # Nobody vouches for it, and for another name it is not made.
    stranger = await sent(url, allow_loopback=True, resolve=here)
    assert stranger.failure_reason == "certificate_refused"
    other = f"https://other.example:{port}/"
    named = await sent(other, allow_loopback=True, resolve=here, trust=trust)
    assert named.failure_reason == "certificate_refused"
    await runner.cleanup()
