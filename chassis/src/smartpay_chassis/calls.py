"""The call being served: for whom, by whom, until when, and what goes beside its answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from smartpay_chassis.merchants import Merchant


@dataclass
class Call:
    """One call, as the interceptors established it. Nothing here comes from a request field."""

    method: str
    """Full gRPC path, for instance /smartpay.payments.v1.PaymentsService/CreatePayment."""
    caller: str
    """SPIFFE name of the calling service; "edge" for users."""
    merchant_id: str
    """The tenant; empty for methods that serve all merchants, or whose body says whom."""
    livemode: bool
    request_id: str
    subject: str
    """The user or client behind the call; empty when a service acts by itself."""
    idempotency_key: str
    """Empty where the method needs none."""
    expires_at: float
    """time.monotonic() after which nobody waits for the answer."""
    traceparent: str = ""
    """The trace it belongs to (https://www.w3.org/TR/trace-context/); empty without a mesh."""
    merchant: Merchant | None = None
    http_status: int | None = None
    response_headers: dict[str, str] = field(default_factory=dict)

    def deadline_seconds(self) -> float:
        """Answers how long the caller still waits."""
        return max(0.0, self.expires_at - time.monotonic())

    def respond_with(
        self, *, http_status: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Says which status and headers REST callers get beside the message (2xx only)."""
        if http_status is not None:
            self.http_status = http_status
        self.response_headers.update(headers or {})


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """Answers the call being served; raises LookupError outside a handler."""
    return _current.get()


def current_traceparent() -> str:
    """Answers the trace of the call being served, for calls made on its behalf; "" if none."""
    call = _current.get(None)
    return call.traceparent if call else ""


def set_current_call(call: Call) -> None:
    """Makes `call` the one being served in this task; for the interceptor and for tests."""
    _current.set(call)
