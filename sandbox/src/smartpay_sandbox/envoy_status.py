"""What the Envoys themselves know: peers, certificates, refusals, retries; for `make status`.

Read from each Envoy's admin socket, which only its owner can open:
https://www.envoyproxy.io/docs/envoy/latest/operations/admin
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

ADMIN_SECONDS = 2.0  # an Envoy answers in milliseconds, or not at all
# Clusters that are no peers: the service itself, the admin socket, issuer, collector, no route.
NOT_PEERS = frozenset({"app", "admin", "jwks", "otlp", "nowhere"})
HEADINGS = (
    "ENVOY",
    "HEALTH",
    "CERTIFICATE ENDS",
    "DENIED",
    "LIMITED",
    "BREAKER",
    "RETRIES",
    "CALLS",
)
# Regular expressions over the names of Envoy's counters, by what we call their sum.
COUNTERS = {
    "denied": r"^http\..*(rbac\..*_\.denied|jwt_authn\.denied)$",
    "limited": r"http_local_rate_limit\.rate_limited$",
    "breaker": r"^cluster\..*\.upstream_rq_(pending|active)_overflow$",
    "retries": r"^cluster\..*\.upstream_rq_retry$",
}
KEYS_FETCHED = r"jwt_authn\.jwks_fetch_success$"

Ask = Callable[[str], str]
"""Asks one admin interface for a path; raises OSError when nobody answers."""


@dataclass(frozen=True)
class EnvoyStatus:
    """One Envoy at one moment.

    `health` is that of the service behind it, or of the issuer's keys at the edge; `calls` names
    the peers it may call, with what is wrong with them.
    """

    name: str
    health: str
    certificate_ends: str
    counters: Mapping[str, int]
    calls: tuple[str, ...]

    def row(self) -> tuple[str, ...]:
        """Prints one row under HEADINGS."""
        counts = (str(self.counters[name]) for name in COUNTERS)
        return (self.name, self.health, self.certificate_ends, *counts, ", ".join(self.calls))


def read_status(name: str, ask: Ask) -> EnvoyStatus:
    """Asks one Envoy how it does; raises OSError when it does not answer."""
    clusters = json.loads(ask("/clusters?format=json"))["cluster_statuses"]
    by_name = {cluster["name"]: cluster for cluster in clusters}
    if "app" in by_name:
        health = _trouble(by_name["app"]) or "ok"
    else:
        health = "ok" if _sum(ask, KEYS_FETCHED) else "no keys"
    return EnvoyStatus(
        name=name,
        health=health,
        certificate_ends=_certificate_ends(json.loads(ask("/certs"))),
        counters={counter: _sum(ask, pattern) for counter, pattern in COUNTERS.items()},
        calls=tuple(_peers(by_name)),
    )


def rows_of(sockets: Mapping[str, Path]) -> Iterator[tuple[str, ...]]:
    """Prints a row per Envoy, by the names and admin sockets given; silent ones are said so."""
    yield HEADINGS
    for name, path in sockets.items():
        try:
            yield read_status(name, over_socket(path)).row()
        except OSError:
            yield (name, "no answer", *("-" for _ in HEADINGS[2:]))


def over_socket(path: Path) -> Ask:
    """Asks an admin interface over its Unix socket."""

    def ask(target: str) -> str:
        connection = http.client.HTTPConnection("admin", timeout=ADMIN_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(ADMIN_SECONDS)
            connection.sock.connect(str(path))
            connection.request("GET", target)
            return connection.getresponse().read().decode()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{path} broke off") from error
        finally:
            connection.close()

    return ask


def _sum(ask: Ask, pattern: str) -> int:
    """Adds up the counters whose names fit; Envoy prints them as "name: value"."""
    lines = ask(f"/stats?filter={quote(pattern)}").splitlines()
    matches = (re.fullmatch(r"(.+): (\d+)", line) for line in lines)
    return sum(int(m[2]) for m in matches if m and re.search(pattern, m[1]))


def _certificate_ends(certificates: Mapping[str, Any]) -> str:
    """Says when the first certificate of its own ends, and in how many days."""
    own = [c for entry in certificates["certificates"] for c in entry.get("cert_chain", ())]
    if not own:
        return "none"
    first = min(own, key=lambda certificate: str(certificate["expiration_time"]))
    return f"{first['expiration_time'][:10]} ({first['days_until_expiration']} d)"


def _peers(clusters: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(clusters.keys() - NOT_PEERS):
        if name.endswith("-canary") and not _connections(clusters[name]):
            continue
        trouble = _trouble(clusters[name])
        yield f"{name} ({trouble})" if trouble else name


def _trouble(cluster: Mapping[str, Any]) -> str:
    """Says in a word what is wrong with a cluster's replicas; "" when nothing is."""
    states = [host.get("health_status", {}) for host in cluster.get("host_statuses", ())]
    if not states:
        return "no address"
    if any(state.get("failed_active_health_check") for state in states):
        return "failing"
    return "ejected" if any(state.get("failed_outlier_check") for state in states) else ""


def _connections(cluster: Mapping[str, Any]) -> int:
    stats = (stat for host in cluster.get("host_statuses", ()) for stat in host.get("stats", ()))
    return sum(int(stat.get("value", 0)) for stat in stats if stat["name"] == "cx_total")
