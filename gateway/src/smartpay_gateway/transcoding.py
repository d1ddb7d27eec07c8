"""REST to gRPC and back, and how a stream is written: as events, or one JSON per line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import envoy_data_plane.envoy.config.cluster.v3 as cluster
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint
import envoy_data_plane.envoy.config.route.v3 as route
import envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder.v3 as transcoder
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import limits
from smartpay_gateway.contract import Contract, Method
from smartpay_gateway.filters import http_filter
from smartpay_gateway.transport import packed

TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
NOWHERE = "nowhere"
_VARIABLE = re.compile(r"\\\{[^}]*\\\}")


def transcoding(contract: Contract) -> hcm.HttpFilter:
    """Transcodes what the contract gives REST routes; streams are server-sent events."""
    return http_filter(TRANSCODER, _settings(contract, lines=False))


def line_routes(contract: Contract) -> list[route.Route]:
    """Routes streams whose caller accepts newline-delimited JSON alone.

    The transcoder reads its settings off the route that a REST path matches, before it turns the
    path into a method's own; so this route's cluster is never called.
    """
    streams = [method for method in contract.from_outside() if method.streams]
    paths = [_pattern(b.path) for method in streams for b in method.bindings]
    if not paths:
        return []
    return [
        route.Route(
            name="streams as lines",
            match=route.RouteMatch(
                safe_regex=matcher.RegexMatcher(regex="|".join(paths)),
                headers=[
                    route.HeaderMatcher(
                        name="accept",
                        string_match=matcher.StringMatcher(
                            safe_regex=matcher.RegexMatcher(
                                regex=r"(?i)\s*application/x-ndjson\s*(;[^,]*)?"
                            )
                        ),
                    )
                ],
            ),
            route=route.RouteAction(cluster=NOWHERE),
            typed_per_filter_config={TRANSCODER: packed(_settings(contract, lines=True))},
        )
    ]


def signed_routes(contract: Contract, settings: Mapping[str, wellknown.Any]) -> list[route.Route]:
    """Routes what carries its own proof past the token check, by `settings` of other filters.

    REST only, and no further: the transcoder turns these very paths into the signed methods, and
    what it leaves as it is has no access rule.
    """
    paths = [_pattern(b.path) for method in contract.signed() for b in method.bindings]
    if not paths:
        return []
    return [
        route.Route(
            name="signed",
            match=route.RouteMatch(
                safe_regex=matcher.RegexMatcher(regex="|".join(paths)),
                headers=[
                    route.HeaderMatcher(
                        name=":method", string_match=matcher.StringMatcher(exact="POST")
                    )
                ],
            ),
            route=route.RouteAction(cluster=NOWHERE),
            typed_per_filter_config=dict(settings),
        )
    ]


def any_path() -> route.Route:
    """Gives REST paths a route, without which no filter before the transcoder has settings.

    What no later filter turns into a method's path goes nowhere.
    """
    return route.Route(
        name="unknown",
        match=route.RouteMatch(prefix="/"),
        route=route.RouteAction(cluster=NOWHERE),
    )


def nowhere() -> cluster.Cluster:
    """Stands where a route needs a cluster that nobody is to reach."""
    return cluster.Cluster(
        name=NOWHERE,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=limits.CONNECT_TIMEOUT,
        load_assignment=endpoint.ClusterLoadAssignment(cluster_name=NOWHERE),
    )


def _pattern(path: str) -> str:
    return _VARIABLE.sub("[^/:]+", re.escape(path))


def _settings(contract: Contract, *, lines: bool) -> transcoder.GrpcJsonTranscoder:
    return transcoder.GrpcJsonTranscoder(
        proto_descriptor_bin=contract.envoy_descriptors,
        services=_services(contract.from_outside()),
        convert_grpc_status=True,
        print_options=transcoder.GrpcJsonTranscoderPrintOptions(
            always_print_primitive_fields=True,
            stream_newline_delimited=lines,
            stream_sse_style_delimited=not lines,
        ),
        request_validation_options=transcoder.GrpcJsonTranscoderRequestValidationOptions(
            reject_unknown_method=True,
            reject_unknown_query_parameters=True,
            reject_binding_body_field_collisions=True,
        ),
        max_request_body_size=limits.BODY_BYTES,
        max_response_body_size=limits.RESPONSE_BYTES,
    )


def _services(methods: Sequence[Method]) -> list[str]:
    return sorted({method.path.split("/")[1] for method in methods})
