"""Speaks of refunds as resources of their own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from smartpay.payments.v1 import payment_pb2, refunds_pb2, refunds_pb2_grpc
from smartpay_chassis.calls import current_call
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.commands import Commands
from smartpay_payments.domain.payment import Payment
from smartpay_payments.messages import refund_message
from smartpay_payments.server.audit import witness_of
from smartpay_payments.server.payment_parts import PaymentShelf, page_of_parts


class RefundShelf(PaymentShelf, Protocol):
    """Where refunds are found by their own ids."""

    async def refund_holder(
        self, merchant_id: str, livemode: bool, refund_id: str
    ) -> Payment | None:
        """Reads the payment that a refund belongs to."""
        ...

    async def refunds(
        self, merchant_id: str, livemode: bool, payment_id: str, after: str, size: int
    ) -> tuple[list[tuple[str, Payment]], str]:
        """Reads a page of refund ids with their payments, newest first."""
        ...


class RefundsServicer(refunds_pb2_grpc.RefundsServiceServicer):
    """Serves the contract.

    Args:
        shelf: where refunds are found.
        commands: ends those that need review.
        clock: the time, aware.
    """

    def __init__(
        self, shelf: RefundShelf, commands: Commands, clock: Callable[[], datetime]
    ) -> None:
        self._shelf = shelf
        self._commands = commands
        self._clock = clock

    async def GetRefund(
        self, request: refunds_pb2.GetRefundRequest, context: object
    ) -> refunds_pb2.GetRefundResponse:
        """Shows one refund."""
        payment = await self._holder(request.refund_id)
        return refunds_pb2.GetRefundResponse(refund=_refund(payment, request.refund_id))

    async def ListRefunds(
        self, request: refunds_pb2.ListRefundsRequest, context: object
    ) -> refunds_pb2.ListRefundsResponse:
        """Lists refunds, newest first."""
        found, next_page_token = await page_of_parts(
            request, "refunds", self._shelf.refunds, self._shelf
        )
        return refunds_pb2.ListRefundsResponse(
            refunds=[_refund(payment, refund_id) for refund_id, payment in found],
            next_page_token=next_page_token,
        )

    async def ResolveRefund(
        self, request: refunds_pb2.ResolveRefundRequest, context: object
    ) -> refunds_pb2.ResolveRefundResponse:
        """Ends a refund that needs review."""
        payment = await self._holder(request.refund_id)
        succeeded = request.outcome == refunds_pb2.ResolveRefundRequest.OUTCOME_REFUNDED
        payment = await self._commands.resolve_refund(
            payment,
            request.refund_id,
            succeeded,
            witness_of(current_call(), self._clock, request.evidence),
        )
        return refunds_pb2.ResolveRefundResponse(refund=_refund(payment, request.refund_id))

    async def _holder(self, refund_id: str) -> Payment:
        call = current_call()
        payment = await self._shelf.refund_holder(call.merchant_id, call.livemode, refund_id)
        if payment is None:
            raise Refusal(
                Kind.NOT_FOUND,
                "REFUND_NOT_FOUND",
                "There is no such refund.",
                remedy="Check the refund id and the credentials it was made with.",
                field="refund_id",
            )
        return payment


def _refund(payment: Payment, refund_id: str) -> payment_pb2.Refund:
    return refund_message(payment, payment.refund_of(refund_id))
