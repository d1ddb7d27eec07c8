"""A call's trace goes along with the calls made on its behalf, and into its log lines."""

from __future__ import annotations

import pytest
import structlog
from structlog.contextvars import merge_contextvars

from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
from smartpay_chassis.channels import on_behalf_of
from smartpay_chassis.testing import DEMO_MERCHANT, as_service, serve_for_test

TRACE = "0af7651916cd43dd8448eb211c80319c"
SERVICE = payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"]
PAYMENT_ID = "pay_d1" + "0" * 24


class Payments(payments_pb2_grpc.PaymentsServiceServicer):
    """Answers with what it would send along to the next service."""

    async def GetPayment(
        self, request: payments_pb2.GetPaymentRequest, context: object
    ) -> payments_pb2.GetPaymentResponse:
        sent = dict(on_behalf_of(DEMO_MERCHANT.merchant_id, False, "request-1"))
        return payments_pb2.GetPaymentResponse(
            payment=payment_pb2.Payment(payment_id=str(sent.get("traceparent", "none")))
        )


async def asked_with(*trace: tuple[str, str]) -> str:
    served = (payments_pb2_grpc.add_PaymentsServiceServicer_to_server, Payments(), SERVICE)  # type: ignore[abstract]
    async with serve_for_test([served]) as channel:
        stub: payments_pb2_grpc.PaymentsServiceAsyncStub = payments_pb2_grpc.PaymentsServiceStub(
            channel
        )
        answer = await stub.GetPayment(
            payments_pb2.GetPaymentRequest(payment_id=PAYMENT_ID),
            metadata=(*as_service("rewards"), *trace),
        )
    return str(answer.payment.payment_id)


async def test_a_trace_goes_on_to_the_next_service_and_into_the_log() -> None:
    given = f"00-{TRACE}-b7ad6b7169203331-01"
    with structlog.testing.capture_logs(processors=[merge_contextvars]) as lines:
        assert await asked_with(("traceparent", given)) == given
    assert [line["trace_id"] for line in lines if line["event"] == "call"] == [TRACE]


@pytest.mark.parametrize("broken", [(), (("traceparent", "00-no-trace"),)])
async def test_no_trace_or_a_broken_one_is_not_made_up(
    broken: tuple[tuple[str, str], ...],
) -> None:
    assert await asked_with(*broken) == "none"


def test_outside_a_call_there_is_no_trace() -> None:
    assert "traceparent" not in dict(on_behalf_of("mer", False, "request-1"))
