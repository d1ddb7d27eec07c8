"""What callers notice when something breaks: as little and as short as the mesh can make it."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import jwt
import pytest

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_gateway.certificates import rotate
from smartpay_gateway.testing import PAYMENT_ID, READY_SECONDS, Edge, Mesh, free_port

GET = f"/payments/{PAYMENT_ID}"
SLOW = "/payments/slow"
ROTATIONS = 10


def bearer(mesh: Mesh) -> dict[str, str]:
    return {"authorization": f"Bearer {mesh.issuer.token('smartpay/payments.read smartpay/chat')}"}


class Load:
    """Calls over and over from a few threads, and remembers every outcome with its time."""

    def __init__(self, call: Callable[[], bool], threads: int) -> None:
        self._call = call
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self.outcomes: list[tuple[float, bool]] = []
        self._running = [self._pool.submit(self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._stop.is_set():
            good = self._call()
            self.outcomes.append((time.monotonic(), good))

    def wait_for(self, more: int, good: bool = True) -> None:
        """Waits until so many more calls ended well, or failed."""
        before = sum(outcome is good for _, outcome in self.outcomes)
        until = time.monotonic() + READY_SECONDS
        while sum(outcome is good for _, outcome in self.outcomes) < before + more:
            assert time.monotonic() < until, "the load got stuck"
            time.sleep(0.01)

    def failed(self) -> list[float]:
        return [when for when, good in self.outcomes if not good]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()
        for running in self._running:
            running.result()


def test_ten_rotations_under_load_fail_no_call(mesh: Mesh) -> None:
    # A connection for every few calls at every hop, so that each certificate is shaken hands on.
    hop = (
        '"typedExtensionProtocolOptions": {',
        '"maxRequestsPerConnection": 5, "typedExtensionProtocolOptions": {',
    )
    serials: set[str] = set()

    def rest() -> bool:
        with edge.rest(**bearer(mesh)) as client:
            return client.get(GET).status_code == 200

    def service() -> bool:
        with contextlib.suppress(grpc.RpcError):
            request = payments_pb2.GetPaymentRequest(payment_id=PAYMENT_ID)
            payments_pb2_grpc.PaymentsServiceStub(egress).GetPayment(request, timeout=10)
            return True
        return False

    path = f"unix:{mesh.folder / 'rewards.egress'}"
    with (
        mesh.plain_edge(hop) as edge,
        grpc.insecure_channel(path, [("grpc.default_authority", "egress")]) as egress,
        Load(rest, 2) as through_the_edge,
        Load(service, 2) as between_services,
    ):
        for _ in range(ROTATIONS):
            rotate(mesh.folder / "certs", "dev")
            through_the_edge.wait_for(20)
            serials |= served_serials(edge)
        connections = edge.counter("cluster.payments.upstream_cx_total")
    calls = len(through_the_edge.outcomes) + len(between_services.outcomes)
    print(f"{calls} calls, {ROTATIONS} rotations, 0 failed")
    assert through_the_edge.failed() == []
    assert between_services.failed() == []
    assert len(serials) > ROTATIONS / 2
    assert connections > ROTATIONS


def served_serials(edge: Edge) -> set[str]:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(edge.admin_socket))) as admin:
        entries = admin.get("http://admin/certs").json()["certificates"]
    return {own["serial_number"] for entry in entries for own in entry.get("cert_chain", [])}


def test_a_killed_sidecar_is_away_only_until_it_is_back(mesh: Mesh) -> None:
    with mesh.rest(**bearer(mesh)) as client:

        def call() -> bool:
            answer = client.get(GET)
            assert answer.status_code in (200, 503), answer.text
            return answer.status_code == 200

        with Load(call, 4) as load:
            load.wait_for(50)
            killed = mesh.envoys["payments"]
            killed.send_signal(signal.SIGKILL)
            killed.wait(timeout=10)
            load.wait_for(5, good=False)
            mesh.start("sidecar-payments", "payments")
            back = time.monotonic()
            load.wait_for(200)
    failed = load.failed()
    share = len(failed) / len(load.outcomes)
    print(
        f"{len(failed)} of {len(load.outcomes)} calls failed ({share:.1%}), "
        f"for {max(failed) - min(failed):.2f} s, the last {max(failed) - back:+.2f} s "
        "after the sidecar was back"
    )
    # All that failed lies in one window: it is over before the last calls.
    assert all(good for _, good in load.outcomes[-100:])


def test_a_slow_service_opens_its_own_breaker_and_nobody_elses(mesh: Mesh) -> None:
    four = ('"maxRequests": 512', '"maxRequests": 4')

    def at_once(edge: Edge) -> list[int]:
        with edge.rest(**bearer(mesh)) as client, ThreadPoolExecutor(12) as pool:
            calls = [pool.submit(client.get, SLOW) for _ in range(12)]
            asked = client.post("/chat:ask", json={"message": "x"}).status_code
            return [asked, *sorted(call.result().status_code for call in calls)]

    with mesh.plain_edge(four) as edge:
        asked, *slow = at_once(edge)
        assert asked == 200
        assert slow.count(503) > 0
        assert slow.count(200) >= 4
        assert edge.counter("cluster.payments.upstream_rq_active_overflow") == slow.count(503)
        assert edge.counter("cluster.assistant.upstream_rq_active_overflow") == 0
        # And closes by itself.
        with edge.rest(**bearer(mesh)) as client:
            assert client.get(GET).status_code == 200
    with mesh.plain_edge() as edge:
        assert at_once(edge) == [200] * 13


def test_known_keys_go_on_without_the_key_server_and_unknown_ones_do_not(mesh: Mesh) -> None:
    issuer = mesh.issuer
    claims = jwt.decode(issuer.token("smartpay/payments.read"), options={"verify_signature": False})
    unknown = jwt.encode(claims, issuer.key, algorithm="RS256", headers={"kid": "next"})
    # Fetched every second, so that the edge notices and must decide.
    often = ('"cacheDuration": "300s"', '"cacheDuration": "1s"')
    with mesh.plain_edge(often) as edge, edge.rest() as client:
        assert client.get(GET, headers=bearer(mesh)).status_code == 200
        issuer.close()
        try:
            assert edge.wait_for("jwks_fetch_failed") > 0
            # Signed by the known key only now: it is no answer out of a cache of tokens.
            assert client.get(GET, headers=bearer(mesh)).status_code == 200
            answer = client.get(GET, headers={"authorization": f"Bearer {unknown}"})
            assert (answer.status_code, answer.json()["reason"]) == (401, "TOKEN_REFUSED")
        finally:
            issuer.serve()


def test_a_canary_gets_its_share_and_no_more(mesh: Mesh) -> None:
    # The canary is a second address of the same sidecar; what counts is which cluster was used.
    port = str(mesh.ports["payments"])
    here = {"PAYMENTS_CANARY_HOST": "127.0.0.1", "PAYMENTS_CANARY_PORT": port}
    for stable, canary, least, most in (
        ("100", "0", 0, 0),
        ("50", "50", 1, 99),
        ("0", "100", 100, 100),
    ):
        weights = {"PAYMENTS_WEIGHT": stable, "PAYMENTS_CANARY_WEIGHT": canary}
        with mesh.plain_edge(**here, **weights) as edge, edge.rest(**bearer(mesh)) as client:
            assert {client.get(GET).status_code for _ in range(100)} == {200}
            share = edge.counter("cluster.payments-canary.upstream_rq_total")
            assert least <= share <= most


def test_a_canary_must_be_the_service_it_stands_for(mesh: Mesh) -> None:
    foreign = {
        "PAYMENTS_CANARY_PORT": str(mesh.ports["assistant"]),
        "PAYMENTS_CANARY_WEIGHT": "1",
        "PAYMENTS_WEIGHT": "0",
    }
    with mesh.plain_edge(**foreign) as edge, edge.rest(**bearer(mesh)) as client:
        assert client.get(GET).status_code == 503
        assert edge.counter("cluster.payments-canary.ssl.fail_verify_san") > 0


# Traces


def traced(client: httpx.Client, **headers: str) -> tuple[str, str, str]:
    seen = client.get(GET, headers=headers).json()["metadata"]["traceparent"]
    _, trace, span, flags = seen.split("-")
    return trace, span, flags


def test_every_call_has_a_trace_that_edge_sidecar_and_service_share(mesh: Mesh) -> None:
    with mesh.rest(**bearer(mesh)) as client:
        answer = client.get(GET)
        trace = answer.json()["metadata"]["traceparent"].split("-")[1]
        request_id = answer.headers["x-request-id"]
        assert traced(client)[0] != trace
        for service in ("edge", "payments"):
            assert [line["trace_id"] for line in mesh.access_log_of(service, request_id)] == [trace]
        given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
        assert traced(client, traceparent=given)[0] == "0af7651916cd43dd8448eb211c80319c"
        broken = "00-not-a-trace"
        assert len(traced(client, traceparent=broken)[0]) == 32


def test_a_collector_that_is_away_costs_no_call_and_no_log_line(mesh: Mesh) -> None:
    nowhere = {"OTLP_PORT": str(free_port()), "TRACE_PERCENT": "100"}
    with mesh.plain_edge(**nowhere) as edge, edge.rest(**bearer(mesh)) as client:
        # More than are sent together, so that delivery is tried at once.
        assert {client.get(GET).status_code for _ in range(100)} == {200}
        assert traced(client)[2] == "01"
        assert edge.wait_for("cluster.otlp.upstream_cx_connect_fail") > 0
        assert (mesh.folder / f"{edge.admin_socket.stem}.log").read_text() == ""
    with mesh.rest(**bearer(mesh)) as client:
        assert traced(client)[2] == "00"


@pytest.fixture(autouse=True)
def _nothing_is_left_broken(mesh: Mesh) -> Iterator[None]:
    yield
    with mesh.rest(**bearer(mesh)) as client:
        assert client.get(GET).status_code == 200
