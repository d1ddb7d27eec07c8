"""What happens around every call: deadline, identity, access, contract, refusals, one log line."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from smartpay_chassis.access import Rule
from smartpay_chassis.calls import Call, set_current_call
from smartpay_chassis.channels import CONTEXT_METADATA, REQUEST_ID_METADATA, TRACE_METADATA
from smartpay_chassis.contract_check import check_request
from smartpay_chassis.identity import (
    EDGE,
    binary_metadata,
    peer_service,
    service_context,
    text_metadata,
    user_principal,
)
from smartpay_chassis.merchants import Merchants
from smartpay_chassis.refusals import ERROR_DOMAIN, Kind, Refusal, missing_idempotency_key

log = structlog.get_logger()

CLAIMS_METADATA = "x-jwt-payload"
CALLER_CERTIFICATE_METADATA = "x-forwarded-client-cert"
IDEMPOTENCY_METADATA = "idempotency-key"
MERCHANT_METADATA = "smartpay-merchant"
HTTP_STATUS_METADATA = "x-http-status"
# Metadata that decide who calls, for whom, and whether a repetition is one.
DECIDING_METADATA = frozenset(
    {
        CALLER_CERTIFICATE_METADATA,
        CLAIMS_METADATA,
        CONTEXT_METADATA,
        IDEMPOTENCY_METADATA,
        MERCHANT_METADATA,
    }
)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_TRACE = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_HEALTH = "/grpc.health.v1.Health/"

Context = grpc.aio.ServicerContext[Any, Any]


def status_of(refusal: Refusal) -> status_pb2.Status:
    """Spells a refusal as google.rpc.Status: one ErrorInfo, and BadRequest where fields fail."""
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason,
        domain=ERROR_DOMAIN,
        metadata={**refusal.facts, "remedy": refusal.remedy},
    )
    if refusal.field:
        info.metadata["field"] = refusal.field
    details: list[Message] = [info]
    if refusal.violations or refusal.field:
        bad = error_details_pb2.BadRequest()
        for violation in refusal.violations:
            bad.field_violations.add(
                field=violation.field, description=violation.message, reason=violation.rule
            )
        if refusal.field and not refusal.violations:
            bad.field_violations.add(
                field=refusal.field, description=refusal.message, reason=refusal.reason
            )
        details.append(bad)
    status = status_pb2.Status(
        code=grpc.StatusCode[refusal.kind.value].value[0], message=refusal.message
    )
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Stands around every method. Servicers raise Refusal and never abort themselves.

    Args:
        rules: the access rules of every method served.
        merchants: the mounted table.
        environment: the environment whose certificates are trusted.
        concurrent_calls_max: calls in work at once; more are refused.
    """

    def __init__(
        self,
        rules: Mapping[str, Rule],
        merchants: Merchants,
        environment: str,
        concurrent_calls_max: int,
    ) -> None:
        self._rules = rules
        self._merchants = merchants
        self._environment = environment
        self._free = concurrent_calls_max

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - grpc's handlers are generic only in the stubs
        """Wraps the method's handler; health checks pass as they are."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_HEALTH):
            return handler
        rule = self._rules[method]

        async def answer(request: Message, context: Context) -> Message | None:
            async with self._around(method, rule, request, context) as call:
                async with asyncio.timeout(call.deadline_seconds()):
                    response: Message = await handler.unary_unary(request, context)
                await _send_headers(call, context)
                return response
            return None  # never reached: a refused call is aborted

        async def answer_stream(request: Message, context: Context) -> AsyncIterator[Message]:
            async with (
                self._around(method, rule, request, context) as call,
                asyncio.timeout(call.deadline_seconds()),
            ):
                async for response in handler.unary_stream(request, context):
                    await _send_headers(call, context)
                    yield response

        async def converse(
            requests: AsyncIterator[Message], context: Context
        ) -> AsyncIterator[Message]:
            # Each message is the handler's to check: a bad one shall not break the stream.
            async with (
                self._around(method, rule, None, context) as call,
                asyncio.timeout(call.deadline_seconds()),
            ):
                async for response in handler.stream_stream(requests, context):
                    await _send_headers(call, context)
                    yield response

        wrap: Any
        wrapped: Any
        if handler.request_streaming:
            wrap, wrapped = grpc.stream_stream_rpc_method_handler, converse
        elif handler.response_streaming:
            wrap, wrapped = grpc.unary_stream_rpc_method_handler, answer_stream
        else:
            wrap, wrapped = grpc.unary_unary_rpc_method_handler, answer
        return wrap(
            wrapped,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @contextlib.asynccontextmanager
    async def _around(
        self, method: str, rule: Rule, request: Message | None, context: Context
    ) -> AsyncIterator[Call]:
        """Establishes the call, spells every failure as a status, and writes the access line.

        A call whose requests come as a stream has no request here.
        """
        structlog.contextvars.clear_contextvars()
        started = time.monotonic()
        code, refusal = "CANCELLED", None
        try:
            with self._place():
                call = self._establish(method, rule, context)
                structlog.contextvars.bind_contextvars(merchant_id=call.merchant_id)
                set_current_call(call)
                if request is not None:
                    check_request(request, card_numbers=not rule.signed)
                yield call
            code = "OK"
        except Exception as error:
            refusal = _refusal_of(error)
            code = refusal.kind.value
        finally:
            log.info(
                "call",
                method=method,
                code=code,
                reason=refusal.reason if refusal else "",
                milliseconds=round((time.monotonic() - started) * 1000, 1),
            )
        if refusal is not None:
            status = rpc_status.to_status(status_of(refusal))
            await context.abort(
                status.code, status.details, trailing_metadata=status.trailing_metadata
            )

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        """Holds a place among the calls in work; raises Refusal when there is none."""
        if self._free <= 0:
            raise Refusal(
                Kind.RESOURCE_EXHAUSTED,
                "UNAVAILABLE",
                "The service has too many calls in work.",
                remedy="Wait a moment and repeat the call with the same idempotency key.",
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    def _establish(self, method: str, rule: Rule, context: Context) -> Call:
        """Finds out who calls for whom; raises Refusal when that may not be."""
        metadata = _once_each(context.invocation_metadata() or ())
        remaining = context.time_remaining()
        seconds = min(rule.deadline_seconds, remaining if remaining else rule.deadline_seconds)
        request_id = text_metadata(metadata, REQUEST_ID_METADATA) or str(uuid.uuid4())
        trace = _TRACE.fullmatch(text_metadata(metadata, TRACE_METADATA))
        ids = {"trace_id": trace[1]} if trace else {}
        structlog.contextvars.bind_contextvars(request_id=request_id, **ids)
        caller = peer_service(
            text_metadata(metadata, CALLER_CERTIFICATE_METADATA), self._environment
        )
        structlog.contextvars.bind_contextvars(caller=caller)
        rule.admit(caller)
        call = Call(
            method=method,
            caller=caller,
            merchant_id="",
            livemode=False,
            request_id=request_id,
            subject="",
            idempotency_key=text_metadata(metadata, IDEMPOTENCY_METADATA),
            expires_at=time.monotonic() + seconds,
            traceparent=trace[0] if trace else "",
        )
        self._name_tenant(call, rule, metadata)
        if rule.idempotency_key and not _KEY.fullmatch(call.idempotency_key):
            raise missing_idempotency_key()
        return call

    def _name_tenant(self, call: Call, rule: Rule, metadata: Mapping[str, str | bytes]) -> None:
        claims = text_metadata(metadata, CLAIMS_METADATA)
        context_bytes = binary_metadata(metadata, CONTEXT_METADATA)
        # Claims come only from the edge, contexts only from services: never take the other one.
        if (call.caller == EDGE and context_bytes) or (call.caller != EDGE and claims):
            raise Refusal(
                Kind.PERMISSION_DENIED,
                "ACCESS_DENIED",
                "The call claims to act for somebody its caller may not speak for.",
                remedy="Send neither token claims nor a request context of your own making.",
            )
        if rule.signed or (rule.across_merchants and call.caller != EDGE):
            return
        if call.caller == EDGE:
            chosen = None
            if MERCHANT_METADATA in metadata:
                chosen = text_metadata(metadata, MERCHANT_METADATA)
            principal = user_principal(claims, chosen, self._merchants)
        else:
            principal, _ = service_context(context_bytes, self._merchants)
        call.merchant = principal.merchant
        call.merchant_id = principal.merchant.merchant_id
        call.livemode = principal.merchant.livemode
        call.subject = principal.subject


async def _send_headers(call: Call, context: Context) -> None:
    """Sends what the handler wants beside its answer, once."""
    if call.http_status is None and not call.response_headers:
        return
    headers = [(k.lower(), v) for k, v in call.response_headers.items()]
    if call.http_status is not None:
        headers.append((HTTP_STATUS_METADATA, str(call.http_status)))
    call.http_status, call.response_headers = None, {}
    await context.send_initial_metadata(headers)


def _refusal_of(error: Exception) -> Refusal:
    """Says what a caller may know of a failure; the rest goes to the log."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TimeoutError):
        return Refusal(
            Kind.DEADLINE_EXCEEDED,
            "DEADLINE_EXCEEDED",
            "The call took longer than its deadline; what it did may still take effect.",
            remedy="Repeat the same call with the same idempotency key to learn the outcome.",
        )
    if isinstance(error, grpc.aio.AioRpcError) and error.code() == grpc.StatusCode.UNAVAILABLE:
        # A dependency's own text may say more than a caller should read.
        return Refusal(
            Kind.UNAVAILABLE,
            "UNAVAILABLE",
            "A service this call needs is away.",
            remedy="Wait a moment and repeat the call with the same idempotency key.",
        )
    log.error("call failed", exc_info=error)
    return Refusal(
        Kind.INTERNAL,
        "INTERNAL",
        "Something failed on our side.",
        remedy="Repeat the call with the same idempotency key; report the request id if it stays.",
    )


def _once_each(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str | bytes]:
    """Reads metadata; refuses what decides something and says two things."""
    found: dict[str, str | bytes] = {}
    for name, value in metadata:
        if name in DECIDING_METADATA and found.get(name, value) != value:
            raise Refusal(
                Kind.INVALID_ARGUMENT,
                "FIELD_INVALID",
                f"{name} was sent twice, with different values.",
                remedy=f"Send {name} once.",
                field=name,
            )
        found[name] = value
    return found
