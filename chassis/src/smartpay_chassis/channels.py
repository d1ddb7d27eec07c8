"""Calls to other services: all go to the sidecar's egress socket, on behalf of a named merchant."""

from __future__ import annotations

from pathlib import Path

import grpc
from google.rpc import error_details_pb2, status_pb2

from smartpay.access.v1.access_pb2 import RequestContext
from smartpay_chassis.calls import current_traceparent

CONTEXT_METADATA = "smartpay-context-bin"
REQUEST_ID_METADATA = "x-request-id"
TRACE_METADATA = "traceparent"


def egress_channel(socket: Path) -> grpc.aio.Channel:
    """Opens the channel on which the sidecar routes by method. It alone retries."""
    return grpc.aio.insecure_channel(
        f"unix:{socket.absolute()}",
        options=[
            # Without it the socket's path would be the authority, and show in every log.
            ("grpc.default_authority", "egress.smartpay.internal"),
            ("grpc.enable_retries", 0),
            # The sidecar may start after the service; find it soon.
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 1000),
        ],
    )


def on_behalf_of(
    merchant_id: str, livemode: bool, request_id: str
) -> tuple[tuple[str, str | bytes], ...]:
    """Makes the metadata that names the merchant for whom a service calls another.

    The trace of the call being served goes along.
    """
    context = RequestContext(merchant_id=merchant_id, livemode=livemode, request_id=request_id)
    trace = current_traceparent()
    return (
        (CONTEXT_METADATA, context.SerializeToString()),
        (REQUEST_ID_METADATA, request_id),
        *(((TRACE_METADATA, trace),) if trace else ()),
    )


def refusal_reason(error: grpc.aio.AioRpcError) -> str:
    """Reads the machine's reason out of another service's refusal; "" when it gave none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""
