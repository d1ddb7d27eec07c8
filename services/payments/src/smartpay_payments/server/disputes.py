"""Speaks of disputes: shows them, hands in evidence, gives them up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from smartpay.payments.v1 import disputes_pb2, disputes_pb2_grpc, payment_pb2
from smartpay_chassis.calls import current_call
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.commands import Commands
from smartpay_payments.domain.payment import Payment
from smartpay_payments.messages import dispute_message
from smartpay_payments.server.audit import witness_of
from smartpay_payments.server.payment_parts import PaymentShelf, page_of_parts

EVIDENCE = (
    "product_description",
    "customer_name",
    "access_activity_log",
    "shipping_tracking_number",
    "refund_refusal_explanation",
    "uncategorized_text",
)


class DisputeShelf(PaymentShelf, Protocol):
    """Where disputes are found by their own ids."""

    async def dispute_holder(
        self, merchant_id: str, livemode: bool, dispute_id: str
    ) -> Payment | None:
        """Reads the payment that a dispute belongs to."""
        ...

    async def disputes(
        self, merchant_id: str, livemode: bool, payment_id: str, after: str, size: int
    ) -> tuple[list[tuple[str, Payment]], str]:
        """Reads a page of dispute ids with their payments, newest first."""
        ...


class DisputesServicer(disputes_pb2_grpc.DisputesServiceServicer):
    """Serves the contract.

    Args:
        shelf: where disputes are found.
        commands: answers them.
        clock: the time, aware.
    """

    def __init__(
        self, shelf: DisputeShelf, commands: Commands, clock: Callable[[], datetime]
    ) -> None:
        self._shelf = shelf
        self._commands = commands
        self._clock = clock

    async def GetDispute(
        self, request: disputes_pb2.GetDisputeRequest, context: object
    ) -> disputes_pb2.GetDisputeResponse:
        """Shows one dispute."""
        payment = await self._holder(request.dispute_id)
        return disputes_pb2.GetDisputeResponse(dispute=_dispute(payment, request.dispute_id))

    async def ListDisputes(
        self, request: disputes_pb2.ListDisputesRequest, context: object
    ) -> disputes_pb2.ListDisputesResponse:
        """Lists disputes, newest first."""
        found, next_page_token = await page_of_parts(
            request, "disputes", self._shelf.disputes, self._shelf
        )
        return disputes_pb2.ListDisputesResponse(
            disputes=[_dispute(payment, dispute_id) for dispute_id, payment in found],
            next_page_token=next_page_token,
        )

    async def SubmitDisputeEvidence(
        self, request: disputes_pb2.SubmitDisputeEvidenceRequest, context: object
    ) -> disputes_pb2.SubmitDisputeEvidenceResponse:
        """Hands in evidence."""
        evidence = {name: text for name in EVIDENCE if (text := getattr(request, name))}
        if not evidence:
            raise Refusal(
                Kind.INVALID_ARGUMENT,
                "FIELD_INVALID",
                "The evidence is empty.",
                remedy="Send at least one text; handed in once, it can't be added to.",
                field="product_description",
            )
        payment = await self._holder(request.dispute_id)
        payment = await self._commands.submit_evidence(
            payment, request.dispute_id, evidence, witness_of(current_call(), self._clock)
        )
        return disputes_pb2.SubmitDisputeEvidenceResponse(
            dispute=_dispute(payment, request.dispute_id)
        )

    async def AcceptDispute(
        self, request: disputes_pb2.AcceptDisputeRequest, context: object
    ) -> disputes_pb2.AcceptDisputeResponse:
        """Gives a dispute up."""
        payment = await self._holder(request.dispute_id)
        payment = await self._commands.accept_dispute(
            payment, request.dispute_id, witness_of(current_call(), self._clock)
        )
        return disputes_pb2.AcceptDisputeResponse(dispute=_dispute(payment, request.dispute_id))

    async def _holder(self, dispute_id: str) -> Payment:
        call = current_call()
        payment = await self._shelf.dispute_holder(call.merchant_id, call.livemode, dispute_id)
        if payment is None:
            raise Refusal(
                Kind.NOT_FOUND,
                "DISPUTE_NOT_FOUND",
                "There is no such dispute.",
                remedy="Check the dispute id and the credentials it was made with.",
                field="dispute_id",
            )
        return payment


def _dispute(payment: Payment, dispute_id: str) -> payment_pb2.Dispute:
    found = next(d for d in payment.disputes if d.dispute_id == dispute_id)
    return dispute_message(payment, found)
