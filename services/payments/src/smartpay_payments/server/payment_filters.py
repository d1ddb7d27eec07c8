"""Reads filters out of requests: lists and exports ask with the same words."""

from __future__ import annotations

from datetime import datetime

from smartpay.payments.v1 import exports_pb2, payment_pb2, payments_pb2
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.payment import Status
from smartpay_payments.domain.search import PaymentFilter
from smartpay_payments.messages import PROCESSORS

_PROCESSOR_NAMES = {number: name for name, number in PROCESSORS.items()}


def payment_filter_of(
    request: payments_pb2.ListPaymentsRequest | exports_pb2.ExportPaymentsRequest,
) -> PaymentFilter:
    """Reads which payments are asked for.

    Raises:
        Refusal: FIELD_INVALID when a moment is none, or amounts are given without a currency.
    """
    if (request.minor_units_min or request.minor_units_max) and not request.currency_code:
        raise _invalid(
            "currency_code",
            "A range of amounts needs a currency.",
            "Name the currency of the range.",
        )
    return PaymentFilter(
        statuses=tuple(
            Status(payment_pb2.Payment.Status.Name(number).removeprefix("STATUS_"))
            for number in sorted(request.status)
        ),
        processor=_PROCESSOR_NAMES.get(request.processor, ""),
        merchant_order_id=request.merchant_order_id,
        customer_id=request.customer_id,
        create_time_from=moment_of(request.create_time_from, "create_time_from"),
        create_time_before=moment_of(request.create_time_before, "create_time_before"),
        currency_code=request.currency_code,
        minor_units_min=request.minor_units_min or None,
        minor_units_max=request.minor_units_max or None,
        metadata=tuple(sorted(_pair(text) for text in request.metadata)),
    )


def moment_of(text: str, field: str) -> datetime | None:
    """Reads a moment; None when it is absent, Refusal FIELD_INVALID when there is no such one."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise _invalid(
            field, "There is no such moment.", "Give a moment such as 2026-01-31T00:00:00Z."
        ) from None


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _invalid(field: str, message: str, remedy: str) -> Refusal:
    return Refusal(Kind.INVALID_ARGUMENT, "FIELD_INVALID", message, remedy=remedy, field=field)
