"""How Envoys reach each other: addresses, mutual TLS, and clusters with their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import betterproto2
import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint
import envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 as raw_buffer
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as upstream
import envoy_data_plane.envoy.service.discovery.v3 as discovery
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as envoy_type
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import limits
from smartpay_gateway.templates import hole, port_hole
from smartpay_gateway.topology import server_name, spiffe_id

TLS_1_2 = tls.TlsParametersTlsProtocol.TLSv1_2
TLS_1_3 = tls.TlsParametersTlsProtocol.TLSv1_3
OWNER_ONLY = 0o600
APP = "app"
CANARY = "-canary"
ADMIN = "admin"
APP_GAUGES = "app_gauges"


def packed(message: betterproto2.Message) -> wellknown.Any:
    """Wraps an extension's settings as Envoy wants them."""
    return wellknown.Any.pack(message)


def tcp(host: str, port: int) -> core.Address:
    """Builds a TCP address; `port` is a number or a port's hole."""
    return core.Address(socket_address=core.SocketAddress(address=host, port_value=port))


def socket(path: str, mode: int = 0) -> core.Address:
    """Builds a Unix socket's address; `mode` are the permissions of a socket Envoy makes."""
    return core.Address(pipe=core.Pipe(path=path, mode=mode))


def _from_file(name: str) -> tls.SdsSecretConfig:
    return tls.SdsSecretConfig(
        name=name,
        sds_config=core.ConfigSource(
            path_config_source=core.PathConfigSource(
                path=f"{hole('CERTIFICATE_FOLDER')}/{name}.json",
                watched_directory=core.WatchedDirectory(path=hole("CERTIFICATE_FOLDER")),
            ),
            resource_api_version=core.ApiVersion.V3,
        ),
    )


def own_certificate() -> tls.SdsSecretConfig:
    """Points at this Envoy's certificate; a swapped folder is noticed without a restart."""
    return _from_file("certificate")


def trusting(
    peer: matcher.StringMatcher,
) -> tls.CommonTlsContextCombinedCertificateValidationContext:
    """Trusts our own CA, and of its certificates only those whose URI SAN fits."""
    return tls.CommonTlsContextCombinedCertificateValidationContext(
        default_validation_context=tls.CertificateValidationContext(
            match_typed_subject_alt_names=[
                tls.SubjectAltNameMatcher(
                    san_type=tls.SubjectAltNameMatcherSanType.URI, matcher=peer
                )
            ]
        ),
        validation_context_sds_secret_config=_from_file("trust"),
    )


def mutual_tls_server() -> core.TransportSocket:
    """Serves TLS 1.3 to peers of this environment that show a certificate of our CA."""
    return core.TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=packed(
            tls.DownstreamTlsContext(
                require_client_certificate=True,
                # A resumed session would skip the check of a rotated trust bundle.
                disable_stateless_session_resumption=True,
                disable_stateful_session_resumption=True,
                common_tls_context=tls.CommonTlsContext(
                    tls_params=tls.TlsParameters(
                        tls_minimum_protocol_version=TLS_1_3, tls_maximum_protocol_version=TLS_1_3
                    ),
                    alpn_protocols=["h2"],
                    tls_certificate_sds_secret_configs=[own_certificate()],
                    combined_validation_context=trusting(
                        matcher.StringMatcher(prefix=spiffe_id(hole("ENVIRONMENT"), ""))
                    ),
                ),
            )
        ),
    )


def public_tls_server() -> core.TransportSocket:
    """Serves TLS 1.2 or newer to anybody: outside clients are not ours to upgrade."""
    return core.TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=packed(
            tls.DownstreamTlsContext(
                common_tls_context=tls.CommonTlsContext(
                    tls_params=tls.TlsParameters(tls_minimum_protocol_version=TLS_1_2),
                    alpn_protocols=["h2", "http/1.1"],
                    tls_certificate_sds_secret_configs=[own_certificate()],
                )
            )
        ),
    )


def neighbour(service: str, version: str = "") -> cluster.Cluster:
    """Reaches the sidecar of another service over mutual TLS, and nobody who isn't it.

    `version` is "" or CANARY: both have the same identity, and each its own breaker.
    """
    prefix = f"{service}{version}".upper().replace("-", "_")
    return cluster.Cluster(
        name=f"{service}{version}",
        type=cluster.ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=limits.CONNECT_TIMEOUT,
        lb_policy=cluster.ClusterLbPolicy.LEAST_REQUEST,
        per_connection_buffer_limit_bytes=limits.UPSTREAM_BUFFER_BYTES,
        common_lb_config=_panic(),
        load_assignment=one_endpoint(
            f"{service}{version}", tcp(hole(f"{prefix}_HOST"), port_hole(f"{prefix}_PORT"))
        ),
        typed_extension_protocol_options=http2(),
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(
                    max_pending_requests=limits.PENDING_CALLS,
                    max_requests=limits.CONCURRENT_CALLS,
                    retry_budget=cluster.CircuitBreakersThresholdsRetryBudget(
                        budget_percent=envoy_type.Percent(value=limits.RETRY_BUDGET_PERCENT),
                        min_retry_concurrency=limits.RETRIES_AT_LEAST,
                    ),
                    track_remaining=True,
                )
            ]
        ),
        # Only UNAVAILABLE and lost connections eject: an INTERNAL is a bug all replicas share.
        outlier_detection=cluster.OutlierDetection(
            enforcing_consecutive_5xx=0,
            consecutive_gateway_failure=limits.FAILURES_TO_EJECT,
            enforcing_consecutive_gateway_failure=100,
            split_external_local_origin_errors=True,
            consecutive_local_origin_failure=limits.FAILURES_TO_EJECT,
            enforcing_success_rate=0,
            enforcing_local_origin_success_rate=0,
            interval=timedelta(seconds=1),
            base_ejection_time=limits.EJECTION,
            max_ejection_percent=limits.EJECTED_PERCENT,
        ),
        transport_socket=core.TransportSocket(
            name="envoy.transport_sockets.tls",
            typed_config=packed(
                tls.UpstreamTlsContext(
                    sni=server_name(service),
                    common_tls_context=tls.CommonTlsContext(
                        tls_params=tls.TlsParameters(
                            tls_minimum_protocol_version=TLS_1_3,
                            tls_maximum_protocol_version=TLS_1_3,
                        ),
                        alpn_protocols=["h2"],
                        tls_certificate_sds_secret_configs=[own_certificate()],
                        combined_validation_context=trusting(
                            matcher.StringMatcher(exact=spiffe_id(hole("ENVIRONMENT"), service))
                        ),
                    ),
                )
            ),
        ),
    )


def app() -> cluster.Cluster:
    """Reaches the service behind this sidecar, and asks it once a second whether it serves.

    One replica stands behind a sidecar, so Envoy's panic mode sends it calls even
    when checks fail: they then fail by themselves, and a slow check alone shuts nobody out.
    """
    return cluster.Cluster(
        name=APP,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=limits.CONNECT_TIMEOUT,
        load_assignment=one_endpoint(APP, socket(hole("APP_SOCKET"))),
        per_connection_buffer_limit_bytes=limits.UPSTREAM_BUFFER_BYTES,
        common_lb_config=_panic(),
        typed_extension_protocol_options=http2(),
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(
                    max_pending_requests=limits.PENDING_CALLS,
                    max_requests=limits.CONCURRENT_CALLS,
                    track_remaining=True,
                )
            ]
        ),
        health_checks=[
            core.HealthCheck(
                timeout=limits.HEALTH_TIMEOUT,
                interval=limits.HEALTH_INTERVAL,
                no_traffic_interval=limits.HEALTH_INTERVAL,
                unhealthy_threshold=limits.FAILED_CHECKS,
                healthy_threshold=1,
                grpc_health_check=core.HealthCheckGrpcHealthCheck(authority="health"),
            )
        ],
    )


def app_gauges() -> cluster.Cluster:
    """Reaches what the service measures of itself: HTTP/1.1 beside its own socket."""
    return cluster.Cluster(
        name=APP_GAUGES,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=limits.CONNECT_TIMEOUT,
        load_assignment=one_endpoint(APP_GAUGES, socket(hole("APP_SOCKET") + ".gauges")),
    )


def admin() -> cluster.Cluster:
    """Reaches this Envoy's own admin socket, for the metrics."""
    return cluster.Cluster(
        name=ADMIN,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=limits.CONNECT_TIMEOUT,
        load_assignment=one_endpoint(ADMIN, socket(hole("ADMIN_SOCKET"))),
    )


def key_set() -> cluster.Cluster:
    """Reaches the issuer's key set, by TLS or not as the hole JWKS_SCHEME says."""
    scheme = hole("JWKS_SCHEME")
    issuer = one_endpoint("jwks", tcp(hole("JWKS_HOST"), port_hole("JWKS_PORT")))
    issuer.endpoints[0].lb_endpoints[0].metadata = core.Metadata(
        filter_metadata={"envoy.transport_socket_match": _struct(scheme=scheme)}
    )
    return cluster.Cluster(
        name="jwks",
        type=cluster.ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=limits.CONNECT_TIMEOUT,
        load_assignment=issuer,
        transport_socket_matches=[
            cluster.ClusterTransportSocketMatch(
                name="http",
                match=_struct(scheme="http"),
                transport_socket=core.TransportSocket(
                    name="envoy.transport_sockets.raw_buffer",
                    typed_config=packed(raw_buffer.RawBuffer()),
                ),
            ),
            cluster.ClusterTransportSocketMatch(
                name="https",
                match=_struct(scheme="https"),
                transport_socket=core.TransportSocket(
                    name="envoy.transport_sockets.tls",
                    typed_config=packed(
                        tls.UpstreamTlsContext(
                            sni=hole("JWKS_HOST"),
                            common_tls_context=tls.CommonTlsContext(
                                tls_params=tls.TlsParameters(tls_minimum_protocol_version=TLS_1_2),
                                validation_context=tls.CertificateValidationContext(
                                    trusted_ca=core.DataSource(filename=hole("JWKS_CA_FILE")),
                                    match_typed_subject_alt_names=[
                                        tls.SubjectAltNameMatcher(
                                            san_type=tls.SubjectAltNameMatcherSanType.DNS,
                                            matcher=matcher.StringMatcher(exact=hole("JWKS_HOST")),
                                        )
                                    ],
                                ),
                            ),
                        )
                    ),
                ),
            ),
        ],
    )


def sds_files() -> dict[str, betterproto2.Message]:
    """Builds the two files beside a certificate that tell Envoy where it is, by file name."""
    folder = hole("CERTIFICATE_FOLDER")
    watched = core.WatchedDirectory(path=folder)
    certificate = tls.Secret(
        name="certificate",
        tls_certificate=tls.TlsCertificate(
            certificate_chain=core.DataSource(filename=f"{folder}/tls.crt"),
            private_key=core.DataSource(filename=f"{folder}/tls.key"),
            watched_directory=watched,
        ),
    )
    trust = tls.Secret(
        name="trust",
        validation_context=tls.CertificateValidationContext(
            trusted_ca=core.DataSource(filename=f"{folder}/ca.crt"), watched_directory=watched
        ),
    )
    return {
        secret.name: discovery.DiscoveryResponse(resources=[packed(secret)])
        for secret in (certificate, trust)
    }


def _struct(**texts: str) -> wellknown.Struct:
    struct: wellknown.Struct = wellknown.Struct.from_dict(texts)
    return struct


def one_endpoint(name: str, address: core.Address) -> endpoint.ClusterLoadAssignment:
    """Says where a cluster is: one name or socket, which may stand for several replicas."""
    return endpoint.ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            endpoint.LocalityLbEndpoints(
                lb_endpoints=[endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=address))]
            )
        ],
    )


def http2() -> dict[str, wellknown.Any]:
    """Speaks HTTP/2 to a cluster."""
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed(
            upstream.HttpProtocolOptions(
                explicit_http_config=upstream.HttpProtocolOptionsExplicitHttpConfig(
                    http2_protocol_options=core.Http2ProtocolOptions(
                        max_concurrent_streams=limits.STREAMS_PER_CONNECTION,
                        initial_stream_window_size=limits.STREAM_WINDOW_BYTES,
                        initial_connection_window_size=limits.CONNECTION_WINDOW_BYTES,
                    )
                )
            )
        )
    }


def _panic() -> cluster.ClusterCommonLbConfig:
    return cluster.ClusterCommonLbConfig(
        healthy_panic_threshold=envoy_type.Percent(value=limits.PANIC_PERCENT)
    )


def clusters(services: Sequence[str]) -> list[cluster.Cluster]:
    """Builds the clusters of several neighbours, stable and canary, in one fixed order."""
    return [neighbour(service, version) for service in sorted(services) for version in ("", CANARY)]
