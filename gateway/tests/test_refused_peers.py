"""Who is refused between services: certificate, CA, TLS version, peer, method.

Each refusal is seen on real Envoys beside its two controls: `smartpay_gateway.testing.refusals`.
"""

from __future__ import annotations

import ssl

from grpc_health.v1 import health_pb2

from smartpay.payments.v1 import payments_pb2
from smartpay_gateway.testing import strangers
from smartpay_gateway.testing.attacks import SERVICE, as_peer, native, plain, rest, through_egress
from smartpay_gateway.testing.lifts import (
    RBAC,
    Change,
    Document,
    Lift,
    at_edge,
    at_payments,
    at_rewards,
    chain_of,
    cluster_tls_of,
    for_anybody,
    tls_of,
    with_route,
    without_filter,
    without_rule,
)
from smartpay_gateway.testing.refusals import Refusals, Row

CREATE = payments_pb2.CreatePaymentRequest(merchant_order_id="o")
WATCH = payments_pb2.WatchRequest(cursor="c")
HEALTH = "/grpc.health.v1.Health/Check"
USER = {"x-jwt-payload": "e30"}
CONTEXT = {"smartpay-context-bin": "e30"}


def no_certificate_asked(document: Document) -> None:
    tls_of(document, "mesh")["requireClientCertificate"] = False


def validation(tls: Document) -> Document:
    combined = tls["commonTlsContext"]["combinedValidationContext"]
    settings: Document = combined["defaultValidationContext"]
    return settings


def any_peer_trusted(document: Document) -> None:
    del validation(tls_of(document, "mesh"))["matchTypedSubjectAltNames"]


def anybody_is_payments(document: Document) -> None:
    del validation(cluster_tls_of(document, "payments"))["matchTypedSubjectAltNames"]


def ends_ignored(document: Document) -> None:
    validation(tls_of(document, "mesh"))["allowExpiredCertificate"] = True


def tls_from(listener: str, version: str) -> Change:
    def change(document: Document) -> None:
        params = tls_of(document, listener)["commonTlsContext"]["tlsParams"]
        params["tlsMinimumProtocolVersion"] = version

    return change


def old_ciphers(document: Document) -> None:
    params = tls_of(document, "edge")["commonTlsContext"]["tlsParams"]
    params["cipherSuites"] = ["ECDHE-ECDSA-AES128-SHA"]


def without_tls(document: Document) -> None:
    del chain_of(document, "mesh")["transportSocket"]


def anybody_gets(method: str) -> Lift:
    return at_payments(f"callers of {method}", for_anybody("mesh", SERVICE + method))


ANYBODY_READS = anybody_gets("GetPayment")
ANY_PEER = at_payments("names of peers", any_peer_trusted)


CERTIFICATES = [
    Row(
        "certificate",
        "none",
        as_peer(None),
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        as_peer("edge"),
        (at_payments("client certificate", no_certificate_asked), ANY_PEER, ANYBODY_READS),
        "OK",
    ),
    Row(
        "certificate",
        "ended",
        as_peer(strangers.expired("edge")),
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        as_peer("edge"),
        (at_payments("end of certificates", ends_ignored),),
        "OK",
    ),
    Row(
        "certificate",
        "of another environment",
        as_peer(strangers.of_production("edge")),
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        as_peer("edge"),
        (ANY_PEER, ANYBODY_READS),
        "OK",
    ),
    Row(
        "certificate",
        "of rewards, by whom the edge takes for payments",
        rest(),
        "503 UNAVAILABLE",
        rest(),
        (at_edge("name of payments", anybody_is_payments),),
        "200",
        setting=(strangers.impostor(lambda mesh: mesh.folder / "certs" / "rewards"),),
    ),
    Row(
        "CA",
        "a stranger's",
        as_peer(strangers.of_a_stranger("edge")),
        "TLSV1_ALERT_UNKNOWN_CA",
        as_peer("edge"),
        (Lift("sidecar-payments", "CA", holes=strangers.trusting_both("payments")),),
        "OK",
    ),
    Row(
        "CA",
        "a stranger's, by whom the edge takes for payments",
        rest(),
        "503 UNAVAILABLE",
        rest(),
        (Lift("edge", "CA", holes=strangers.trusting_both("edge")),),
        "200",
        setting=(strangers.impostor(strangers.of_a_stranger("payments")),),
    ),
    Row(
        "TLS version",
        "1.2 between services",
        as_peer("edge", tls=ssl.TLSVersion.TLSv1_2),
        "TLSV1_ALERT_PROTOCOL_VERSION",
        as_peer("edge"),
        (at_payments("TLS 1.3", tls_from("mesh", "TLSv1_2")),),
        "OK",
    ),
    Row(
        "TLS version",
        "1.1 from outside",
        rest(tls=ssl.TLSVersion.TLSv1_1),
        "TLSV1_ALERT_PROTOCOL_VERSION",
        rest(tls=ssl.TLSVersion.TLSv1_2),
        (at_edge("TLS 1.2", tls_from("edge", "TLSv1_0")), at_edge("ciphers", old_ciphers)),
        "200",
    ),
    Row(
        "TLS version",
        "none between services",
        plain(lambda place: place.payments.port),
        "closed",
        as_peer("edge"),
        (at_payments("TLS", without_tls), ANYBODY_READS),
        "OK",
    ),
]
PEERS = [
    Row(
        "peer",
        "fraud reads payments",
        as_peer("fraud"),
        "PERMISSION_DENIED",
        as_peer("rewards"),
        (ANYBODY_READS,),
        "OK",
    ),
    Row(
        "peer",
        "rewards vouches for a user",
        as_peer("rewards", headers=USER),
        "PERMISSION_DENIED",
        as_peer("edge", headers=USER),
        (at_payments("users by the edge alone", without_rule("user-not-from-edge")),),
        "OK",
    ),
    Row(
        "peer",
        "the edge acts for a merchant by itself",
        as_peer("edge", headers=CONTEXT),
        "PERMISSION_DENIED",
        as_peer("rewards", headers=CONTEXT),
        (at_payments("contexts by services alone", without_rule("context-from-edge")),),
        "OK",
    ),
    Row(
        "method",
        "rewards creates payments",
        as_peer("rewards", "CreatePayment", CREATE),
        "PERMISSION_DENIED",
        as_peer("edge", "CreatePayment", CREATE),
        (anybody_gets("CreatePayment"),),
        "OK",
    ),
    Row(
        "method",
        "rewards creates payments by its own way out",
        through_egress("CreatePayment", CREATE),
        "UNIMPLEMENTED",
        through_egress(),
        (
            at_rewards("routes", with_route("egress", SERVICE + "CreatePayment", "payments")),
            anybody_gets("CreatePayment"),
        ),
        "OK",
    ),
    Row(
        "method",
        "one the contract does not have",
        as_peer("edge", HEALTH, health_pb2.HealthCheckRequest()),
        "PERMISSION_DENIED",
        as_peer("edge"),
        (
            at_payments("callers", without_filter("mesh", RBAC, "callers_")),
            at_payments("routes", with_route("mesh", HEALTH, "app")),
        ),
        "OK",
    ),
    Row(
        "method",
        "one for services, from outside",
        native("Watch", WATCH),
        "UNIMPLEMENTED",
        native(),
        (
            at_edge("strict input", without_filter("edge", "smartpay.strict_input")),
            at_edge("scopes", for_anybody("edge", SERVICE + "Watch", "scopes_")),
            at_edge("routes", with_route("edge", SERVICE + "Watch", "payments")),
            anybody_gets("Watch"),
        ),
        "OK",
    ),
    Row(
        "method",
        "a call on the port for probes",
        plain(lambda place: place.payments.ops_port),
        "UNIMPLEMENTED",
        plain(lambda place: place.payments.ops_port, HEALTH, health_pb2.HealthCheckRequest()),
        (at_payments("routes", with_route("ops", SERVICE + "GetPayment", "app")),),
        "OK",
    ),
]


class TestPeers(Refusals):
    rows = (*CERTIFICATES, *PEERS)
    defences = frozenset({"certificate", "CA", "TLS version", "peer", "method"})
