"""Services that echo what reached them, and refuse as they are told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from smartpay.assistant.v1 import assistant_pb2, assistant_pb2_grpc
from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc

PAYMENT_ID = "pay_d1" + "0" * 24
WAIT_SECONDS = 20


def seen_metadata(context: grpc.ServicerContext) -> dict[str, str]:
    """Shows what reached the service, as texts."""
    return {
        key: value if isinstance(value, str) else value.decode("latin-1")
        for key, value in context.invocation_metadata()
    }


@dataclass
class Payments(payments_pb2_grpc.PaymentsServiceServicer):
    """Echoes; the order id tells it how to behave."""

    calls: int = 0
    failures_left: int = 0
    requests: list[Any] = field(default_factory=list)

    def CreatePayment(  # noqa: N802
        self, request: payments_pb2.CreatePaymentRequest, context: grpc.ServicerContext
    ) -> payments_pb2.CreatePaymentResponse:
        """Echoes the request's metadata, answers 201 or as the order id says."""
        self.calls += 1
        self.requests.append(request)
        order = request.merchant_order_id
        if order.startswith("refuse:"):
            refuse(context, order.removeprefix("refuse:"))
        if order == "crash":
            raise RuntimeError("secret internals")
        status = order if order.startswith("20") else "201"
        context.send_initial_metadata(
            (
                ("x-http-status", status),
                ("location", f"/payments/{PAYMENT_ID}"),
                ("idempotent-replayed", "true"),
                ("etag", '"7"'),
            )
        )
        description = "x" * int(order.removeprefix("large:")) if order.startswith("large:") else ""
        return payments_pb2.CreatePaymentResponse(
            payment=payment_pb2.Payment(
                payment_id=PAYMENT_ID,
                metadata=seen_metadata(context),
                amount=request.amount,
                description=description,
            )
        )

    def GetPayment(  # noqa: N802
        self, request: payments_pb2.GetPaymentRequest, context: grpc.ServicerContext
    ) -> payments_pb2.GetPaymentResponse:
        """Echoes the id, after as many failures as were asked for."""
        self.calls += 1
        if request.payment_id == "slow":
            time.sleep(0.5)
        if self.failures_left:
            self.failures_left -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return payments_pb2.GetPaymentResponse(
            payment=payment_pb2.Payment(
                payment_id=request.payment_id, metadata=seen_metadata(context)
            )
        )

    def RefundPayment(  # noqa: N802
        self, request: payments_pb2.RefundPaymentRequest, context: grpc.ServicerContext
    ) -> payments_pb2.RefundPaymentResponse:
        """Echoes id and amount."""
        self.calls += 1
        self.requests.append(request)
        return payments_pb2.RefundPaymentResponse(
            refund=payment_pb2.Refund(payment_id=request.payment_id, amount=request.amount)
        )

    def ListPayments(  # noqa: N802
        self, request: payments_pb2.ListPaymentsRequest, context: grpc.ServicerContext
    ) -> payments_pb2.ListPaymentsResponse:
        """Echoes the query as the next page's token."""
        self.calls += 1
        statuses = ",".join(map(str, request.status))
        return payments_pb2.ListPaymentsResponse(
            next_page_token=f"{request.page_size}/{request.page_token}/{statuses}"
        )

    def Watch(  # noqa: N802
        self, request: payments_pb2.WatchRequest, context: grpc.ServicerContext
    ) -> Iterator[payments_pb2.WatchResponse]:
        """Says at once that there is nothing."""
        self.calls += 1
        yield payments_pb2.WatchResponse(cursor=request.cursor, caught_up=True)


class Assistant(assistant_pb2_grpc.AssistantServiceServicer):
    """Says two words and is done, or refuses before the first."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def Chat(  # noqa: N802
        self, request: assistant_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[assistant_pb2.ChatResponse]:
        """Streams three pieces; asked to wait, the second only when the test says so."""
        if request.message.startswith("refuse:"):
            refuse(context, request.message.removeprefix("refuse:"))
        yield assistant_pb2.ChatResponse(token=assistant_pb2.Token(text="two "))
        if request.message == "wait":
            self.go_on.wait(WAIT_SECONDS)
        yield assistant_pb2.ChatResponse(token=assistant_pb2.Token(text="words"))
        yield assistant_pb2.ChatResponse(done=assistant_pb2.Done())

    def Ask(  # noqa: N802
        self, request: assistant_pb2.AskRequest, context: grpc.ServicerContext
    ) -> assistant_pb2.AskResponse:
        """Echoes the question."""
        return assistant_pb2.AskResponse(answer=request.message)


def refuse(context: grpc.ServicerContext, text: str) -> None:
    """Aborts as the chassis does; `text` is CODE, CODE:REASON, CODE:REASON:field, or also :words.

    Words are said as the message, as the remedy and of the field.
    """
    code, reason, named, words = [*text.split(":"), "", "", ""][:4]
    details: list[Message] = []
    if reason:
        info = error_details_pb2.ErrorInfo(
            reason=reason,
            domain="smartpay.dev",
            metadata={"remedy": words or 'Say "please".', **({"field": named} if named else {})},
        )
        details.append(info)
    if named:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=named, description=words or 'must be "good"\nand 漢字', reason="RULE"
                    )
                ]
            )
        )
    packed = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(code),
        message=words or 'He said "no",\n{"reason":"EVIL"}',
        details=packed,
    )
    context.abort_with_status(rpc_status.to_status(status))
