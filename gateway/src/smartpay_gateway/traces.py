"""One trace per call: Envoy begins it at the edge, continues it at each hop, and may report it.

Every call from outside carries a `traceparent` (https://www.w3.org/TR/trace-context/) whether or
not spans are collected. With TRACE_PERCENT 0 there is no tracer: the edge's Lua makes the trace's
id of the request's, hops pass it on as it is, and it says "not sampled". A collector that is away
costs lost spans and nothing else.
"""

from __future__ import annotations

import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.trace.v3 as trace
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.type.v3 as envoy_type

from smartpay_gateway import limits
from smartpay_gateway.templates import hole, number_hole, port_hole
from smartpay_gateway.transport import http2, one_endpoint, packed, tcp

COLLECTOR = "otlp"


def tracing(service: str) -> hcm.HttpConnectionManagerTracing:
    """Traces a listener's calls in the name of `service`."""
    return hcm.HttpConnectionManagerTracing(
        # Nobody outside decides what is sampled, except by an own traceparent's flag.
        client_sampling=envoy_type.Percent(value=0),
        random_sampling=envoy_type.Percent(value=number_hole("TRACE_PERCENT")),
        provider=trace.TracingHttp(
            name="envoy.tracers.opentelemetry",
            typed_config=packed(
                trace.OpenTelemetryConfig(
                    service_name=service,
                    max_cache_size=limits.SPANS_WAITING,
                    grpc_service=core.GrpcService(
                        envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=COLLECTOR),
                        timeout=limits.TRACES_TIMEOUT,
                    ),
                )
            ),
        ),
    )


def collector() -> cluster.Cluster:
    """Reaches the OpenTelemetry collector beside us (OTLP over gRPC, in plaintext)."""
    return cluster.Cluster(
        name=COLLECTOR,
        type=cluster.ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=cluster.ClusterDnsLookupFamily.V4_PREFERRED,
        connect_timeout=limits.CONNECT_TIMEOUT,
        load_assignment=one_endpoint(COLLECTOR, tcp(hole("OTLP_HOST"), port_hole("OTLP_PORT"))),
        typed_extension_protocol_options=http2(),
    )
