"""The mesh itself: who may speak to whom, and what a stranger on the machine can reach."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.type.v1 import money_pb2
from smartpay_chassis.channels import on_behalf_of
from smartpay_chassis.testing import as_merchant, error_info
from smartpay_gateway.topology import SERVICES
from smartpay_sandbox.launcher import Mesh

if TYPE_CHECKING:
    from tests.mesh.conftest import Edge

pytestmark = pytest.mark.mesh

Certificate = tuple[Path, Path]
"""The files of a certificate and its key."""


def mesh_port(mesh: Mesh, service: str) -> int:
    return int(json.loads((mesh.run.state / "ports.json").read_text())[service])


def certificate_of(mesh: Mesh, service: str) -> Certificate:
    folder = mesh.run.certificates / service
    return folder / "tls.crt", folder / "tls.key"


def rogue_certificate(folder: Path) -> Certificate:
    """Issues a certificate with the right name by a CA that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "payments")])
    identity = x509.UniformResourceIdentifier("spiffe://smartpay/dev/payments")
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([identity]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "tls.crt", folder / "tls.key"


def shake_hands(
    mesh: Mesh,
    service: str,
    certificate: Certificate | None = None,
    highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> bytes:
    """Connects to a sidecar's mesh port and reads: in TLS 1.3 a refusal comes after the hello."""
    context = ssl.create_default_context(cafile=mesh.endpoints["ca"])
    context.check_hostname = False
    context.maximum_version = highest
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(*certificate)
    with (
        socket.create_connection(("127.0.0.1", mesh_port(mesh, service)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=service) as connection,
    ):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        return connection.recv(64)


def is_refused(mesh: Mesh, service: str, certificate: Certificate | None) -> bool:
    """Tells whether the sidecar closes without a word of HTTP/2."""
    try:
        return shake_hands(mesh, service, certificate) == b""
    except (ssl.SSLError, ConnectionError):
        return True


@pytest.mark.parametrize("service", SERVICES)
def test_a_sidecar_takes_only_tls_1_3_with_a_certificate_of_the_mesh(
    mesh: Mesh, tmp_path: Path, service: str
) -> None:
    ours = certificate_of(mesh, "payments")
    assert shake_hands(mesh, service, ours), "the control: a certificate of the mesh is taken"
    assert is_refused(mesh, service, None), "no certificate"
    assert is_refused(mesh, service, rogue_certificate(tmp_path)), "a CA nobody trusts"
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        shake_hands(mesh, service, ours, ssl.TLSVersion.TLSv1_2)


def channel_as(mesh: Mesh, caller: str, service: str) -> grpc.aio.Channel:
    """Opens a channel to a service's mesh port with another service's certificate."""
    certificate, key = certificate_of(mesh, caller)
    return grpc.aio.secure_channel(
        f"127.0.0.1:{mesh_port(mesh, service)}",
        grpc.ssl_channel_credentials(
            Path(mesh.endpoints["ca"]).read_bytes(), key.read_bytes(), certificate.read_bytes()
        ),
        options=[("grpc.ssl_target_name_override", f"{service}.smartpay")],
    )


def demo_context(mesh: Mesh) -> tuple[tuple[str, str | bytes], ...]:
    merchant = json.loads(mesh.run.merchants.read_text())["merchants"][0]
    return on_behalf_of(merchant["merchant_id"], merchant["livemode"], "test")


def a_score() -> fraud_pb2.ScoreRequest:
    return fraud_pb2.ScoreRequest(
        transaction_id=uuid.uuid4().hex,
        amount=money_pb2.Money(minor_units=100, currency_code="USD"),
    )


async def test_a_peer_reaches_only_the_methods_it_is_listed_for(mesh: Mesh) -> None:
    async with channel_as(mesh, "payments", "fraud") as channel:
        stub = fraud_pb2_grpc.FraudServiceStub(channel)
        answer = await stub.Score(a_score(), metadata=demo_context(mesh))
        assert answer.assessment.verdict == fraud_pb2.Assessment.VERDICT_ALLOW
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ScoreBatch(
                fraud_pb2.ScoreBatchRequest(transactions=[a_score()]),
                metadata=demo_context(mesh),
            )
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert not error_info(caught.value).get("reason"), "Envoy's own refusal, before the service"
    for stranger in ("router", "rewards", "assistant", "fraud"):
        async with channel_as(mesh, stranger, "fraud") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await fraud_pb2_grpc.FraudServiceStub(channel).Score(
                    a_score(), metadata=demo_context(mesh)
                )
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_service_cannot_pretend_that_a_user_calls(mesh: Mesh) -> None:
    claims = tuple(m for m in as_merchant() if m[0] == "x-jwt-payload")
    request = payments_pb2.GetPaymentRequest(payment_id="pay_d1" + "0" * 24)
    async with channel_as(mesh, "rewards", "payments") as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetPayment(request, metadata=demo_context(mesh))
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND, "the control: it may ask"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetPayment(request, metadata=(*demo_context(mesh), *claims))
        assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_user_cannot_bring_claims_or_a_context_of_their_own(edge: Edge) -> None:
    other = json.loads(edge.mesh.run.merchants.read_text())["merchants"][1]
    forged = {
        "x-jwt-payload": dict(as_merchant())["x-jwt-payload"],
        "x-forwarded-client-cert": "By=x;URI=spiffe://smartpay/dev/payments",
        "smartpay-context-bin": "AAAA",
    }
    async with edge.session(**forged) as session:
        answer = await session.get("/payments")
    assert answer.status_code == 200
    assert all(p["merchantId"] != other["merchant_id"] for p in answer.json()["payments"])
    async with edge.session("", **forged) as session:
        assert (await session.get("/payments")).status_code == 401


def listening_sockets(pid: int) -> list[str]:
    """Lists the TCP sockets a process listens on, by /proc."""
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:
                found.append(columns[1])
    return found


def test_only_envoys_sandbox_and_issuer_listen_on_tcp(mesh: Mesh) -> None:
    processes = mesh.status["processes"]
    running = {n: s for n, s in processes.items() if s["state"] == "ready"}
    listening = {n for n, s in running.items() if listening_sockets(s["pid"])}
    envoys = {"edge", *(f"{s}-sidecar" for s in SERVICES)}
    assert listening == envoys | {"sandbox", "ministack"}
    assert set(SERVICES) <= running.keys()
    loopback = ("0100007F:", "00000000000000000000000001000000:")
    for name in listening:
        for address in listening_sockets(running[name]["pid"]):
            assert address.startswith(loopback), (name, address)


async def test_one_request_id_links_the_edge_and_every_service_of_a_payment(edge: Edge) -> None:
    async with edge.session() as session:
        answer = await session.post(
            "/pay", json=edge.order(), headers={"Idempotency-Key": str(uuid.uuid4())}
        )
    assert answer.status_code == 201
    request_id = answer.headers["x-request-id"]
    for name in ("payments", "fraud", "router"):
        assert request_id in edge.mesh.run.log(name).read_text(), name
    # Envoy writes its access log a little later.
    envoys = ("edge-access", "payments-access", "fraud-access", "router-access")
    assert await seen_in(edge.mesh, request_id, envoys)


async def seen_in(mesh: Mesh, text: str, names: Iterable[str]) -> bool:
    for _ in range(100):
        if all(text in mesh.run.log(n).read_text(errors="replace") for n in names):
            return True
        await asyncio.sleep(0.1)
    return False
