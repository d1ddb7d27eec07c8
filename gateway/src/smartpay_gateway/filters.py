"""The pieces edge and sidecars are made of: listeners, routes, access rules, access logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import betterproto2
import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener
import envoy_data_plane.envoy.config.rbac.v3 as rbac
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.access_loggers.file.v3 as file_log
import envoy_data_plane.envoy.extensions.filters.http.rbac.v3 as rbac_filter
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import limits
from smartpay_gateway.contract import Method
from smartpay_gateway.overload import frame_limits, overload_manager, runtime_limits
from smartpay_gateway.templates import hole, number_hole, port_hole
from smartpay_gateway.topology import spiffe_id
from smartpay_gateway.transport import (
    ADMIN,
    APP,
    APP_GAUGES,
    CANARY,
    OWNER_ONLY,
    packed,
    socket,
    tcp,
)

HEALTH_CHECK_PATH = "/grpc.health.v1.Health/Check"
METRICS_PATH = "/metrics"
SERVICE_METRICS_PATH = "/metrics/service"

# What a line of the access log says: headers only by these names, the call by its route, so no
# token, no body, no query string and no card number mistaken for an id can get in.
ACCESS_LOG_FIELDS = {
    "time": "%START_TIME%",
    "listener": "%FILTER_CHAIN_NAME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "trace_id": "%TRACE_ID%",
    "rpc": "%ROUTE_NAME%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
}


def http_filter(name: str, settings: betterproto2.Message) -> hcm.HttpFilter:
    """Names one filter of a chain, with its settings."""
    return hcm.HttpFilter(name=name, typed_config=packed(settings))


def router_filter() -> hcm.HttpFilter:
    """Ends every chain; Envoy's own headers stay inside.

    Without the counters per status that Envoy looks up by name for each answer (3 % of a
    sidecar's CPU): the listeners count statuses too, and the log has them per method.
    """
    return http_filter(
        "envoy.filters.http.router",
        router.Router(suppress_envoy_headers=True, dynamic_stats=False),
    )


def access_log(
    fields: Mapping[str, str] = ACCESS_LOG_FIELDS,
    of: accesslog.AccessLogFilter | None = None,
) -> accesslog.AccessLog:
    """Writes one JSON line per call, without secrets; `of` chooses the calls."""
    return accesslog.AccessLog(
        name="envoy.access_loggers.file",
        filter=of,
        typed_config=packed(
            file_log.FileAccessLog(
                path=hole("ACCESS_LOG"),
                log_format=core.SubstitutionFormatString(
                    json_format=wellknown.Struct.from_dict(dict(fields)),
                    omit_empty_values=True,
                ),
            )
        ),
    )


def gone_wrong() -> accesslog.AccessLogFilter:
    """Chooses gRPC calls that did not end with OK."""
    return accesslog.AccessLogFilter(
        grpc_status_filter=accesslog.GrpcStatusFilter(
            statuses=[accesslog.GrpcStatusFilterStatus.OK], exclude=True
        )
    )


def connection_manager(
    name: str,
    routes: route.RouteConfiguration,
    filters: Sequence[hcm.HttpFilter],
    codec: hcm.HttpConnectionManagerCodecType = hcm.HttpConnectionManagerCodecType.HTTP2,
) -> hcm.HttpConnectionManager:
    """Builds what every HTTP listener has in common; callers add what is theirs."""
    return hcm.HttpConnectionManager(
        stat_prefix=name,
        codec_type=codec,
        route_config=routes,
        http_filters=list(filters),
        access_log=[access_log()],
        server_name="smartpay",
        max_request_headers_kb=limits.HEADER_KIB,
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=limits.IDLE_TIMEOUT,
            max_headers_count=limits.HEADERS,
            headers_with_underscores_action=(
                core.HttpProtocolOptionsHeadersWithUnderscoresAction.DROP_HEADER
            ),
        ),
        http2_protocol_options=frame_limits(),
        request_headers_timeout=limits.HEADERS_TIMEOUT,
        stream_idle_timeout=limits.STREAM_IDLE_TIMEOUT,
        stream_flush_timeout=limits.FLUSH_TIMEOUT,
        # Nobody is trusted for where he sits; an empty list here overrides private addresses.
        internal_address_config=hcm.HttpConnectionManagerInternalAddressConfig(),
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=(
            hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST
        ),
    )


def http_listener(
    name: str,
    address: core.Address,
    manager: hcm.HttpConnectionManager,
    transport: core.TransportSocket | None = None,
) -> listener.Listener:
    """Listens on an address with one chain; `transport` is its TLS, plaintext when absent."""
    return listener.Listener(
        name=name,
        address=address,
        per_connection_buffer_limit_bytes=limits.BODY_BYTES,
        per_connection_buffer_high_watermark_timeout=limits.STALLED_READER,
        filter_chains=[
            listener.FilterChain(
                name=name,
                transport_socket=transport,
                filters=[
                    listener.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=packed(manager),
                    )
                ],
            )
        ],
    )


def route_table(
    name: str, routes: Iterable[route.Route], headers_to_remove: Sequence[str] = ()
) -> route.RouteConfiguration:
    """Collects routes for whatever authority: paths alone decide."""
    return route.RouteConfiguration(
        name=name,
        virtual_hosts=[route.VirtualHost(name=name, domains=["*"], routes=list(routes))],
        request_headers_to_remove=list(headers_to_remove),
    )


def method_route(method: Method, cluster: str, *, retries: bool = False) -> route.Route:
    """Routes one method by its exact path, within its deadline.

    Streams have no idle timeout: a watch may wait long for news.
    """
    deadline = timedelta(seconds=method.deadline_seconds)
    return route.Route(
        name=method.path,
        match=route.RouteMatch(path=method.path),
        route=route.RouteAction(
            cluster=cluster if cluster == APP else None,
            weighted_clusters=None if cluster == APP else _versions(cluster),
            timeout=timedelta(0) if method.streams else deadline,
            idle_timeout=timedelta(0) if method.streams else deadline,
            flush_timeout=limits.FLUSH_TIMEOUT,
            max_stream_duration=route.RouteActionMaxStreamDuration(
                max_stream_duration=deadline, grpc_timeout_header_max=deadline
            ),
            retry_policy=_retry_policy() if retries and method.retryable else None,
        ),
    )


def _versions(service: str) -> route.WeightedCluster:
    """Shares calls between a service's stable version and its canary."""
    prefix = service.upper()
    return route.WeightedCluster(
        clusters=[
            route.WeightedClusterClusterWeight(
                name=service, weight=number_hole(f"{prefix}_WEIGHT")
            ),
            route.WeightedClusterClusterWeight(
                name=f"{service}{CANARY}", weight=number_hole(f"{prefix}_CANARY_WEIGHT")
            ),
        ]
    )


def _retry_policy() -> route.RetryPolicy:
    """Repeats what was refused or never arrived; the budget of the cluster bounds it."""
    return route.RetryPolicy(
        retry_on="unavailable,reset-before-request,connect-failure",
        num_retries=limits.RETRIES,
        retry_back_off=route.RetryPolicyRetryBackOff(
            base_interval=limits.RETRY_PAUSE, max_interval=limits.RETRY_PAUSE * 10
        ),
    )


def rules(name: str, action: rbac.RbacAction, policies: dict[str, rbac.Policy]) -> hcm.HttpFilter:
    """Allows what a policy names and nothing else, or denies exactly that."""
    return http_filter(
        "envoy.filters.http.rbac",
        rbac_filter.Rbac(rules=rbac.Rbac(action=action, policies=policies), rules_stat_prefix=name),
    )


def calling(path: str) -> rbac.Permission:
    """Matches calls of one method by its gRPC path."""
    return rbac.Permission(url_path=matcher.PathMatcher(path=matcher.StringMatcher(exact=path)))


def peer(service: str) -> rbac.Principal:
    """Matches a peer by the URI SAN of its certificate, exactly."""
    return rbac.Principal(
        authenticated=rbac.PrincipalAuthenticated(
            principal_name=matcher.StringMatcher(exact=spiffe_id(hole("ENVIRONMENT"), service))
        )
    )


def carrying(header: str) -> rbac.Permission:
    """Matches calls that carry a header, whatever its value."""
    return rbac.Permission(header=route.HeaderMatcher(name=header, present_match=True))


def ops_listener(health_cluster: str | None) -> listener.Listener:
    """Serves kubelet and Prometheus in plaintext: health of the service, metrics, nothing else."""
    routes = [
        _asked(
            "metrics",
            METRICS_PATH,
            route.RouteAction(cluster=ADMIN, prefix_rewrite="/stats/prometheus"),
        )
    ]
    if health_cluster:
        action = route.RouteAction(cluster=APP_GAUGES, timeout=limits.HEALTH_TIMEOUT)
        routes.append(_asked("gauges", SERVICE_METRICS_PATH, action))
        routes.append(
            route.Route(
                name="health",
                match=route.RouteMatch(
                    path=HEALTH_CHECK_PATH, grpc=route.RouteMatchGrpcRouteMatchOptions()
                ),
                route=route.RouteAction(cluster=health_cluster, timeout=limits.HEALTH_TIMEOUT),
            )
        )
    manager = connection_manager(
        "ops",
        route_table("ops", routes),
        [router_filter()],
        hcm.HttpConnectionManagerCodecType.AUTO,
    )
    # A probe a second would bury the log.
    manager.access_log = []
    listening = http_listener("ops", tcp(hole("LISTEN_HOST"), port_hole("OPS_PORT")), manager)
    # A flood must not hide the metrics that tell of it, nor make kubelet restart the pod.
    listening.ignore_global_conn_limit = True
    listening.bypass_overload_manager = True
    return listening


def _asked(name: str, path: str, action: route.RouteAction) -> route.Route:
    get = route.HeaderMatcher(name=":method", string_match=matcher.StringMatcher(exact="GET"))
    return route.Route(name=name, match=route.RouteMatch(path=path, headers=[get]), route=action)


def envoy(
    service: str,
    listeners: list[listener.Listener],
    clusters: list[betterproto2.Message],
    connections_at_most: int,
    heap_bytes: int,
) -> bootstrap.Bootstrap:
    """Joins one Envoy's parts; its admin interface is a socket only the owner can open."""
    return bootstrap.Bootstrap(
        node=core.Node(id=service, cluster=service),
        admin=bootstrap.Admin(address=socket(hole("ADMIN_SOCKET"), OWNER_ONLY)),
        static_resources=bootstrap.BootstrapStaticResources(
            listeners=listeners,
            clusters=clusters,  # type: ignore[arg-type]
        ),
        layered_runtime=runtime_limits(),
        overload_manager=overload_manager(connections_at_most, heap_bytes),
    )
