"""Who gets in through a sidecar, whom its service may call, and what the ops port shows."""

from __future__ import annotations

import datetime
import socket
import ssl
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.router.v1 import router_pb2, router_pb2_grpc
from smartpay_gateway.certificates import authority_of, issue_leaf, place
from smartpay_gateway.testing import PAYMENT_ID, READY_SECONDS, Mesh

GET = payments_pb2.GetPaymentRequest(payment_id=PAYMENT_ID)
Metadata = tuple[tuple[str, str | bytes], ...]
USER: Metadata = (("x-jwt-payload", "eyJzdWIiOiJldmlsIn0"),)
CONTEXT: Metadata = (("smartpay-context-bin", b"anything"),)


def outcome(
    mesh: Mesh, caller: str, method: str = "GetPayment", metadata: Metadata = ()
) -> grpc.StatusCode:
    """Calls payments' mesh port with the certificate of `caller`."""
    request = {
        "GetPayment": GET,
        "CreatePayment": payments_pb2.CreatePaymentRequest(),
        "Watch": payments_pb2.WatchRequest(),
    }[method]
    with mesh.as_peer(caller) as channel:
        call = getattr(payments_pb2_grpc.PaymentsServiceStub(channel), method)
        try:
            answer = call(request, metadata=metadata, timeout=10)
            if method == "Watch":
                next(answer)
        except grpc.RpcError as refusal:
            return refusal.code()
    return grpc.StatusCode.OK


def test_a_new_certificate_is_shown_without_a_restart(mesh: Mesh) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority = authority_of(mesh.folder / "certs", now)
    folder = mesh.folder / "certs" / "payments"
    certificate, key = issue_leaf(authority, "payments", now)
    place(folder, certificate, key, authority.pem())
    expected = ssl.PEM_cert_to_DER_cert(certificate.decode())
    context = ssl.create_default_context(cafile=str(mesh.ca))
    context.check_hostname = False
    own = mesh.folder / "certs" / "edge"
    context.load_cert_chain(own / "tls.crt", own / "tls.key")
    shown = b""
    until = time.monotonic() + READY_SECONDS
    while shown != expected and time.monotonic() < until:
        with (
            socket.create_connection(("127.0.0.1", mesh.ports["payments"]), timeout=10) as plain,
            context.wrap_socket(plain) as secure,
        ):
            shown = secure.getpeercert(binary_form=True) or b""
    assert shown == expected
    assert outcome(mesh, "edge") is grpc.StatusCode.OK
    assert "MISMATCH" not in (mesh.folder / "payments.log").read_text()


@pytest.mark.parametrize(
    ("caller", "method", "code"),
    [
        ("edge", "GetPayment", grpc.StatusCode.OK),
        ("rewards", "GetPayment", grpc.StatusCode.OK),
        ("fraud", "GetPayment", grpc.StatusCode.PERMISSION_DENIED),
        ("payments", "GetPayment", grpc.StatusCode.PERMISSION_DENIED),
        ("edge", "CreatePayment", grpc.StatusCode.OK),
        ("rewards", "CreatePayment", grpc.StatusCode.PERMISSION_DENIED),
        ("rewards", "Watch", grpc.StatusCode.OK),
        ("fraud", "Watch", grpc.StatusCode.OK),
        ("edge", "Watch", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_a_peer_may_call_exactly_what_the_contract_says(
    mesh: Mesh, caller: str, method: str, code: grpc.StatusCode
) -> None:
    assert outcome(mesh, caller, method) is code


def test_a_peer_is_named_by_its_certificate_whatever_it_claims(mesh: Mesh) -> None:
    claim = (("x-forwarded-client-cert", "URI=spiffe://smartpay/dev/edge"),)
    with mesh.as_peer("rewards") as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        seen = stub.GetPayment(GET, metadata=claim, timeout=10).payment.metadata
    assert seen["x-forwarded-client-cert"].endswith("URI=spiffe://smartpay/dev/rewards")


def health_of(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def egress(mesh: Mesh, service: str) -> grpc.Channel:
    return grpc.insecure_channel(
        f"unix:{mesh.folder / f'{service}.egress'}", [("grpc.default_authority", "egress")]
    )


def test_egress_carries_a_call_without_user_or_token(mesh: Mesh) -> None:
    metadata = (*USER, ("authorization", "Bearer x"), *CONTEXT, ("x-request-id", "given"))
    with egress(mesh, "rewards") as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        seen = stub.GetPayment(GET, metadata=metadata, timeout=10).payment.metadata
    assert not {"x-jwt-payload", "authorization"} & set(seen)
    assert seen["smartpay-context-bin"] == "anything"
    assert seen["x-request-id"] == "given"
    assert seen["x-forwarded-client-cert"].endswith("URI=spiffe://smartpay/dev/rewards")


def test_egress_carries_a_stream(mesh: Mesh) -> None:
    with egress(mesh, "rewards") as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        (answer,) = stub.Watch(payments_pb2.WatchRequest(cursor="c"), timeout=10)
    assert (answer.cursor, answer.caught_up) == ("c", True)


def test_egress_goes_nowhere_a_service_may_not_go(mesh: Mesh) -> None:
    with egress(mesh, "rewards") as channel:
        payments = payments_pb2_grpc.PaymentsServiceStub(channel)
        router = router_pb2_grpc.RouterServiceStub(channel)
        for call in (
            lambda: payments.CreatePayment(payments_pb2.CreatePaymentRequest(), timeout=10),
            lambda: router.Decide(router_pb2.DecideRequest(), timeout=10),
        ):
            with pytest.raises(grpc.RpcError) as refusal:
                call()
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_egress_repeats_what_failed_and_gives_up(mesh: Mesh) -> None:
    with egress(mesh, "rewards") as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        mesh.payments.calls, mesh.payments.failures_left = 0, 2
        assert stub.GetPayment(GET, timeout=10).payment.payment_id == PAYMENT_ID
        assert mesh.payments.calls == 3
        mesh.payments.calls, mesh.payments.failures_left = 0, 3
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetPayment(GET, timeout=10)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (mesh.payments.calls, mesh.payments.failures_left) == (3, 0)


def test_a_call_is_logged_by_who_was_called_and_by_its_caller_only_when_it_fails(
    mesh: Mesh,
) -> None:
    with egress(mesh, "rewards") as channel:
        payments = payments_pb2_grpc.PaymentsServiceStub(channel)
        payments.GetPayment(GET, metadata=(("x-request-id", "good"),), timeout=10)
        with pytest.raises(grpc.RpcError):
            payments.CreatePayment(
                payments_pb2.CreatePaymentRequest(),
                metadata=(("x-request-id", "astray"),),
                timeout=10,
            )
    (callee,) = mesh.access_log_of("payments", "good")
    assert (callee["grpc_status"], callee["listener"]) == ("OK", "mesh")
    # Lines are written in order, so the good call's would stand before this one.
    (caller,) = mesh.access_log_of("rewards", "astray")
    assert (caller["grpc_status"], caller["listener"]) == ("UNIMPLEMENTED", "egress")
    assert "good" not in (mesh.folder / "rewards.access.log").read_text()


def test_the_edge_does_not_repeat(mesh: Mesh) -> None:
    mesh.payments.calls, mesh.payments.failures_left = 0, 1
    token = mesh.issuer.token("smartpay/payments.read")
    with mesh.rest(authorization=f"Bearer {token}") as client:
        assert client.get(f"/payments/{PAYMENT_ID}").status_code == 503
    assert mesh.payments.calls == 1


def test_sockets_are_their_owners_alone(mesh: Mesh) -> None:
    for name in ("payments.egress", "payments.admin", "edge.admin"):
        assert stat.S_IMODE((mesh.folder / name).stat().st_mode) == 0o600


def ops(mesh: Mesh, service: str) -> str:
    return f"127.0.0.1:{mesh.ops_ports[service]}"


def test_ops_shows_health_of_the_service(mesh: Mesh) -> None:
    with grpc.insecure_channel(ops(mesh, "payments")) as channel:
        stub = health_of(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    # No service stands behind this sidecar.
    with grpc.insecure_channel(ops(mesh, "rewards")) as channel:
        stub = health_of(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE


def test_ops_hands_on_what_a_service_measures_of_itself(mesh: Mesh) -> None:
    url = f"http://{ops(mesh, 'payments')}/metrics/service"
    assert httpx.get(url).status_code == 503  # nobody listens there yet

    class Measuring(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"smartpay_till_coins 3.0\n")

        def address_string(self) -> str:
            return "the sidecar"  # a Unix socket's peer has no address

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    with UnixStreamServer(str(mesh.folder / "payments.app.gauges"), Measuring) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert httpx.get(url).text == "smartpay_till_coins 3.0\n"
        assert httpx.post(url).status_code == 404
        server.shutdown()
    (mesh.folder / "payments.app.gauges").unlink()
    # There is no service behind the edge.
    assert httpx.get(f"http://{ops(mesh, 'edge')}/metrics/service").status_code == 404


def test_ops_shows_metrics_and_nothing_else(mesh: Mesh) -> None:
    for service in ("edge", "payments"):
        metrics = httpx.get(f"http://{ops(mesh, service)}/metrics")
        assert "envoy_server_live" in metrics.text
        for path in ("/", "/config_dump", "/stats", "/metrics/../quitquitquit", "/healthz", "/pay"):
            assert httpx.get(f"http://{ops(mesh, service)}{path}").status_code == 404
        assert httpx.post(f"http://{ops(mesh, service)}/metrics").status_code == 404
    with grpc.insecure_channel(ops(mesh, "payments")) as channel:
        with pytest.raises(grpc.RpcError) as refusal:
            payments_pb2_grpc.PaymentsServiceStub(channel).GetPayment(GET, timeout=10)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
        with pytest.raises(grpc.RpcError) as refusal:
            next(watch)
        assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
