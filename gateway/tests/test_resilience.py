"""What callers notice when something breaks: as little and as short as the mesh can make it."""

from __future__ import annotations

import contextlib
import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from cryptography import x509

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_gateway import certificates
from smartpay_gateway.certificates import (
    authority_of,
    create_authority,
    issue_leaf,
    place,
    rotate,
    rotate_authority,
)
from smartpay_gateway.testing import PAYMENT_ID, READY_SECONDS, Envoy, Mesh, free_port
from smartpay_gateway.testing.attacks import Place, as_peer
from smartpay_gateway.topology import EDGE, SERVICES

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


# A connection for every few calls at every hop, so that each certificate is shaken hands on.
HOP = (
    '"typedExtensionProtocolOptions": {',
    '"maxRequestsPerConnection": 5, "typedExtensionProtocolOptions": {',
)


@contextlib.contextmanager
def both_ways(mesh: Mesh) -> Iterator[tuple[Load, Load, list[Envoy]]]:
    """Calls without end through an edge, and from service to service."""

    def rest() -> bool:
        with edge.rest(**bearer(mesh)) as client:
            return client.get(GET).status_code == 200

    def service() -> bool:
        with contextlib.suppress(grpc.RpcError):
            request = payments_pb2.GetPaymentRequest(payment_id=PAYMENT_ID)
            payments_pb2_grpc.PaymentsServiceStub(egress).GetPayment(request, timeout=10)
            return True
        return False

    def change(template: str) -> str:
        assert HOP[0] in template
        return template.replace(*HOP)

    with (
        mesh.plain_edge(HOP) as edge,
        mesh.beside("sidecar-rewards", change) as rewards,
        grpc.insecure_channel(
            f"unix:{rewards.egress}", [("grpc.default_authority", "egress")]
        ) as egress,
        Load(rest, 2) as through_the_edge,
        Load(service, 2) as between_services,
    ):
        yield through_the_edge, between_services, [edge, rewards]


def served(envoy: Envoy) -> list[tuple[set[str], set[str]]]:
    """Lists the certificate of each of an Envoy's own identities and the CAs it trusts with it."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(envoy.admin_socket))) as admin:
        entries = admin.get("http://admin/certs").json()["certificates"]

    def serials(entry: Mapping[str, Any], name: str) -> set[str]:
        return {one["serial_number"] for one in entry.get(name, [])}

    return [
        (serials(entry, "cert_chain"), serials(entry, "ca_cert"))
        for entry in entries
        if entry.get("cert_chain")
    ]


def serials_in(path: Path) -> set[str]:
    """Reads the serial numbers of a file's certificates, as Envoy prints them."""
    numbers = [c.serial_number for c in x509.load_pem_x509_certificates(path.read_bytes())]
    return {f"{number:x}".zfill(2 * ((number.bit_length() + 7) // 8)) for number in numbers}


def test_ten_rotations_under_load_fail_no_call(mesh: Mesh) -> None:
    serials: set[str] = set()
    with both_ways(mesh) as (through_the_edge, between_services, (edge, rewards)):
        for _ in range(ROTATIONS):
            rotate(mesh.folder / "certs", "dev")
            through_the_edge.wait_for(20)
            between_services.wait_for(20)
            serials |= set().union(*(own for own, _ in served(edge)))
        for envoy in (edge, rewards):
            assert envoy.counter("cluster.payments.upstream_cx_total") > ROTATIONS
    calls = len(through_the_edge.outcomes) + len(between_services.outcomes)
    print(f"{calls} calls, {ROTATIONS} rotations, 0 failed")
    assert through_the_edge.failed() == []
    assert between_services.failed() == []
    assert len(serials) > ROTATIONS / 2


def test_another_ca_under_load_fails_no_call_and_the_old_one_is_refused(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mesh.folder / "certs"
    now = datetime.datetime.now(datetime.UTC)
    old = authority_of(folder, now)
    place(tmp_path, *issue_leaf(old, EDGE, now), old.pem())
    by_old_ca = as_peer(lambda _: tmp_path)
    here = Place(mesh)
    assert by_old_ca(here) == "OK"

    with both_ways(mesh) as (through_the_edge, between_services, beside):
        envoys = [*beside, *(mesh.own(name) for name in mesh.envoys)]

        def took_over(envoy: Envoy) -> bool:
            shown = set().union(*(serials_in(folder / s / "tls.crt") for s in (EDGE, *SERVICES)))
            trusted = serials_in(folder / "ca.crt")
            # The edge trusts nobody's certificate at its public port.
            return all(own <= shown and cas in (trusted, set()) for own, cas in served(envoy))

        def settle() -> None:
            until = time.monotonic() + READY_SECONDS
            while not all(took_over(envoy) for envoy in envoys):
                assert time.monotonic() < until, "somebody did not take it over"
                time.sleep(0.02)
            through_the_edge.wait_for(20)
            between_services.wait_for(20)

        def place_slowly(*version: Any) -> None:
            """Has calls meet every mixture of old and new, as where kubelet swaps the folders."""
            place(*version)
            through_the_edge.wait_for(5)
            between_services.wait_for(5)

        monkeypatch.setattr(certificates, "place", place_slowly)
        rotate_authority(folder, "dev", settle)
        settle()
    assert by_old_ca(here) == "TLSV1_ALERT_UNKNOWN_CA"
    assert as_peer(EDGE)(here) == "OK"
    assert through_the_edge.failed() == []
    assert between_services.failed() == []
    calls = len(through_the_edge.outcomes) + len(between_services.outcomes)
    print(f"{calls} calls while the CA was rotated, 0 failed")


def test_a_ca_that_is_replaced_without_those_steps_fails_calls(mesh: Mesh) -> None:
    folder, now = mesh.folder / "certs", datetime.datetime.now(datetime.UTC)
    other = create_authority(now)
    with both_ways(mesh) as (through_the_edge, between_services, _):
        place(folder / "payments", *issue_leaf(other, "payments", now), other.pem())
        through_the_edge.wait_for(1, good=False)
        between_services.wait_for(1, good=False)
        rotate(folder, "dev")
        through_the_edge.wait_for(20)


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

    def at_once(edge: Envoy) -> list[int]:
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
        # Nothing is collected, so the trace is the request by another spelling.
        assert trace == request_id.replace("-", "")
        assert all(mesh.access_log_of(service, request_id) for service in ("edge", "payments"))
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
        answer = client.get(GET)
        trace = answer.json()["metadata"]["traceparent"].split("-")[1]
        (line,) = mesh.access_log_of(edge.stem.name, answer.headers["x-request-id"])
        assert line["trace_id"] == trace != line["request_id"].replace("-", "")
        assert edge.log.read_text() == ""
    with mesh.rest(**bearer(mesh)) as client:
        assert traced(client)[2] == "00"


@pytest.fixture(autouse=True)
def _nothing_is_left_broken(mesh: Mesh) -> Iterator[None]:
    yield
    with mesh.rest(**bearer(mesh)) as client:
        assert client.get(GET).status_code == 200
