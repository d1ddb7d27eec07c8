"""The second table of `make status`: what is read out of an Envoy's admin interface."""

from __future__ import annotations

import json
import re
import socketserver
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from smartpay_sandbox.envoy_status import HEADINGS, EnvoyStatus, over_socket, read_status, rows_of

COUNTERS = {
    "http.mesh.rbac.callers_.denied": 3,
    "http.mesh.rbac.forgeries_.denied": 1,
    "http.mesh.rbac.shadow_denied": 50,
    "http.mesh.rbac.callers_.allowed": 900,
    "http.edge.jwt_authn.denied": 2,
    "client_calls.http_local_rate_limit.rate_limited": 7,
    "client_calls.http_local_rate_limit.ok": 70,
    "cluster.fraud.upstream_rq_active_overflow": 5,
    "cluster.router.upstream_rq_pending_overflow": 1,
    "cluster.fraud.upstream_rq_retry": 4,
    "cluster.fraud.upstream_rq_retry_success": 3,
}


def cluster(name: str, connections: int = 1, **state: bool) -> dict[str, object]:
    stats = [{"name": "cx_total", "value": str(connections)}, {"name": "rq_total"}]
    host = {"health_status": {"eds_health_status": "HEALTHY", **state}, "stats": stats}
    return {"name": name, "host_statuses": [host]}


class Admin:
    """An Envoy's admin interface with the answers given."""

    def __init__(
        self, *clusters: dict[str, object], counters: Mapping[str, int] = COUNTERS
    ) -> None:
        self.clusters = list(clusters)
        self.counters = counters

    def __call__(self, target: str) -> str:
        parts = urlsplit(target)
        if parts.path == "/clusters":
            return json.dumps({"cluster_statuses": self.clusters})
        if parts.path == "/certs":
            return json.dumps({"certificates": [chain("2030-02-01", 40), chain("2030-01-05", 4)]})
        (pattern,) = parse_qs(parts.query)["filter"]
        found = (name for name in self.counters if re.search(pattern, name))
        return "".join(f"{name}: {self.counters[name]}\n" for name in found)


def chain(ends: str, days: int) -> dict[str, object]:
    own = {"expiration_time": f"{ends}T00:00:00Z", "days_until_expiration": str(days)}
    authority = {"expiration_time": "2029-01-01T00:00:00Z", "days_until_expiration": "1"}
    return {"ca_cert": [authority], "cert_chain": [own]}


def status(*clusters: dict[str, object], **counters: int) -> EnvoyStatus:
    return read_status("payments", Admin(*clusters, counters=counters or COUNTERS))


def test_counters_are_added_up_by_what_they_mean() -> None:
    counters = status(cluster("app")).counters
    assert counters == {"denied": 6, "limited": 7, "breaker": 6, "retries": 4}


def test_the_first_of_the_own_certificates_to_end_is_shown() -> None:
    assert status(cluster("app")).certificate_ends == "2030-01-05 (4 d)"


def test_peers_are_named_with_what_is_wrong_with_them() -> None:
    found = status(
        cluster("app"),
        cluster("admin"),
        cluster("otlp"),
        cluster("router", failed_outlier_check=True),
        cluster("fraud"),
        {"name": "rewards", "host_statuses": []},
    )
    assert found.calls == ("fraud", "rewards (no address)", "router (ejected)")


def test_a_canary_is_shown_once_it_is_used() -> None:
    assert status(cluster("app"), cluster("fraud-canary", 0)).calls == ()
    assert status(cluster("app"), cluster("fraud-canary", 1)).calls == ("fraud-canary",)


def test_health_is_the_services_and_at_the_edge_the_keys() -> None:
    assert status(cluster("app")).health == "ok"
    assert status(cluster("app", failed_active_health_check=True)).health == "failing"
    assert status(cluster("jwks")).health == "no keys"
    fetched = {"http.edge.jwt_authn.jwks_fetch_success": 1}
    assert status(cluster("jwks"), **fetched).health == "ok"


def test_an_envoy_that_does_not_answer_still_has_its_row(tmp_path: Path) -> None:
    headings, row = rows_of({"edge": tmp_path / "none.sock"})
    assert headings == HEADINGS
    assert row == ("edge", "no answer", *["-"] * (len(HEADINGS) - 2))


def test_the_admin_interface_is_asked_over_its_socket() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"asked for {self.path}".encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, format: str, *args: object) -> None: ...

    # Short, because it becomes a socket's path.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "admin.sock"
        with socketserver.UnixStreamServer(str(path), Handler) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            assert over_socket(path)("/certs") == "asked for /certs"
            thread.join()
