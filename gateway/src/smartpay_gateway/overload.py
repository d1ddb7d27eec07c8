"""What an Envoy does when there is too much of everything: connections, memory, frames."""

from __future__ import annotations

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.overload.v3 as overload
import envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 as cel
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 as connections
import envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 as heap
import envoy_data_plane.envoy.type.v3 as envoy_type
import envoy_data_plane.google.protobuf as wellknown

from smartpay_gateway import limits
from smartpay_gateway.transport import packed

# An overloaded edge answers before any filter runs: no Lua finds words, no call has an id yet.
OVERLOADED_PROBLEM: dict[str, object] = {
    "type": "https://smartpay.dev/problems/unavailable",
    "title": "Unavailable",
    "status": 503,
    "reason": "UNAVAILABLE",
    "detail": "The edge has more work than memory.",
    "remedy": "Repeat the call in a moment with the same idempotency key.",
    "errors": [],
}
_OVERLOADED_REST = (
    "response.code_details == 'overload' && !('content-type' in request.headers && "
    "request.headers['content-type'].startsWith('application/grpc'))"
)
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
_HEAP = "envoy.resource_monitors.fixed_heap"
# Calls that hold less than 2^17 bytes are not worth finding when memory is short.
_SMALLEST_ACCOUNT = 17


def overload_manager(connections_at_most: int, heap_bytes: int) -> overload.OverloadManager:
    """Gives up the cheapest things first: spare memory, idle connections, large calls, new calls.

    https://www.envoyproxy.io/docs/envoy/latest/configuration/operations/overload_manager
    """
    return overload.OverloadManager(
        resource_monitors=[
            overload.ResourceMonitor(
                name=_CONNECTIONS,
                typed_config=packed(
                    connections.DownstreamConnectionsConfig(
                        max_active_downstream_connections=connections_at_most
                    )
                ),
            ),
            overload.ResourceMonitor(
                name=_HEAP,
                typed_config=packed(heap.FixedHeapConfig(max_heap_size_bytes=heap_bytes)),
            ),
        ],
        actions=[
            _from("shrink_heap", limits.HEAP_SHRINKS_AT),
            _idle_times_shorten(),
            _large_calls_reset(),
            _from("stop_accepting_requests", limits.HEAP_REFUSES_AT),
        ],
        buffer_factory_config=overload.BufferFactoryConfig(
            minimum_account_to_track_power_of_two=_SMALLEST_ACCOUNT
        ),
    )


def overload_reply() -> hcm.ResponseMapper:
    """Says in a problem document that the edge is short of memory; native gRPC has its status."""
    return hcm.ResponseMapper(
        filter=accesslog.AccessLogFilter(
            extension_filter=accesslog.ExtensionFilter(
                name="envoy.access_loggers.extension_filters.cel",
                typed_config=packed(cel.ExpressionFilter(expression=_OVERLOADED_REST)),
            )
        ),
        body_format_override=core.SubstitutionFormatString(
            json_format=wellknown.Struct.from_dict(OVERLOADED_PROBLEM),
            content_type="application/problem+json",
        ),
        headers_to_add=[
            core.HeaderValueOption(header=core.HeaderValue(key="retry-after", value="1"))
        ],
    )


def frame_limits() -> core.Http2ProtocolOptions:
    """Bounds one HTTP/2 connection: calls, windows, and frames that cost more than they say."""
    return core.Http2ProtocolOptions(
        max_concurrent_streams=limits.STREAMS_PER_CONNECTION,
        initial_stream_window_size=limits.STREAM_WINDOW_BYTES,
        initial_connection_window_size=limits.CONNECTION_WINDOW_BYTES,
        max_outbound_frames=limits.FRAMES_WAITING,
        max_outbound_control_frames=limits.CONTROL_FRAMES_WAITING,
        max_consecutive_inbound_frames_with_empty_payload=limits.EMPTY_FRAMES,
        max_inbound_priority_frames_per_stream=limits.PRIORITY_FRAMES_PER_STREAM,
        max_inbound_window_update_frames_per_data_frame_sent=limits.WINDOW_UPDATES_PER_FRAME,
        stream_reset_burst=limits.RESETS_AT_ONCE,
        stream_reset_rate=limits.RESETS_PER_SECOND,
    )


def runtime_limits() -> bootstrap.LayeredRuntime:
    """Sets the limits Envoy knows only by runtime keys."""
    keys = {
        "envoy.resource_limits.listener.ops.connection_limit": limits.OPS_CONNECTIONS,
        "http.max_requests_per_io_cycle": limits.CALLS_PER_READ,
        "overload.premature_reset_total_stream_count": limits.RESETS_AT_ONCE,
        "re2.max_program_size.error_level": limits.REGEX_STEPS,
        "tracing.opentelemetry.min_flush_spans": limits.SPANS_TOGETHER,
    }
    layer: wellknown.Struct = wellknown.Struct.from_dict(dict(keys))
    return bootstrap.LayeredRuntime(
        layers=[bootstrap.RuntimeLayer(name="limits", static_layer=layer)]
    )


def _idle_times_shorten() -> overload.OverloadAction:
    timers = overload.ScaleTimersOverloadActionConfigTimerType
    return overload.OverloadAction(
        name="envoy.overload_actions.reduce_timeouts",
        triggers=[_between(limits.HEAP_SHRINKS_AT, limits.HEAP_REFUSES_AT)],
        typed_config=packed(
            overload.ScaleTimersOverloadActionConfig(
                timer_scale_factors=[
                    overload.ScaleTimersOverloadActionConfigScaleTimer(
                        timer=timers.HTTP_DOWNSTREAM_CONNECTION_IDLE,
                        min_scale=envoy_type.Percent(value=2),
                    )
                ]
            )
        ),
    )


def _large_calls_reset() -> overload.OverloadAction:
    return overload.OverloadAction(
        name="envoy.overload_actions.reset_high_memory_stream",
        triggers=[_between(limits.HEAP_RESETS_AT, limits.HEAP_REFUSES_AT)],
    )


def _from(action: str, share: float) -> overload.OverloadAction:
    return overload.OverloadAction(
        name=f"envoy.overload_actions.{action}",
        triggers=[overload.Trigger(name=_HEAP, threshold=overload.ThresholdTrigger(value=share))],
    )


def _between(share: float, full: float) -> overload.Trigger:
    return overload.Trigger(
        name=_HEAP,
        scaled=overload.ScaledTrigger(scaling_threshold=share, saturation_threshold=full),
    )
