"""Follows payments' events into the index, and leaves behind every text of payer and merchant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Protocol

import grpc
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.fraud.v1.fraud_pb2 import Assessment
from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
from smartpay.router.v1.router_pb2 import Decision
from smartpay.type.v1.instrument_pb2 import Processor
from smartpay_assistant.domain.payment import (
    Attempt,
    Excluded,
    FraudSaid,
    PaymentRecord,
    Ranked,
    Refund,
    Route,
    Tenant,
)
from smartpay_chassis.event_log import follow

_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_STRANGE_CODE = "unrecognised"
_SENTENCE_LETTERS_MAX = 300  # our services' sentences are shorter; bounds what a row can hold


class Projection(Protocol):
    """Where records of payments go; the effect and the cursor are stored together."""

    async def cursor(self) -> str:
        """Answers where to go on."""
        ...

    async def apply(self, record: PaymentRecord | None, cursor: str, caught_up: bool) -> None:
        """Stores one step."""
        ...


async def follow_payments(channel: grpc.aio.Channel, projection: Projection) -> None:
    """Applies the events of all merchants to the projection, for ever."""
    stub = payments_pb2_grpc.PaymentsServiceStub(channel)

    async def apply(step: payments_pb2.WatchResponse) -> None:
        record = record_of(step.event) if step.HasField("event") else None
        await projection.apply(record, step.cursor, step.caught_up)

    await follow(
        lambda cursor: aiter(stub.Watch(payments_pb2.WatchRequest(cursor=cursor))),
        projection.cursor,
        apply,
        name="payments",
    )


def record_of(event: payment_pb2.PaymentEvent) -> PaymentRecord:
    """Takes from an event what can be counted and explained; all free text stays behind."""
    payment = event.payment
    return PaymentRecord(
        tenant=Tenant(event.merchant_id, event.livemode),
        payment_id=payment.payment_id,
        sequence=event.sequence,
        status=_word(payment_pb2.Payment.Status.DESCRIPTOR, "STATUS_", payment.status),
        reason=_code(payment.status_reason),
        currency=_code(payment.amount.currency_code),
        amount_minor=payment.amount.minor_units,
        captured_minor=payment.captured_amount.minor_units,
        created=_time(payment.create_time),
        fraud=_fraud(payment.fraud) if payment.HasField("fraud") else None,
        route=_route(payment.route) if payment.HasField("route") else None,
        attempts=tuple(
            Attempt(
                processor_account_id=_code(attempt.processor_account_id),
                processor=_word(Processor.DESCRIPTOR, "PROCESSOR_", attempt.processor),
                status=_word(payment_pb2.Attempt.Status.DESCRIPTOR, "STATUS_", attempt.status),
                decline_code=_code(attempt.decline_code),
                soft_decline=attempt.soft_decline,
            )
            for attempt in payment.attempts
        ),
        refunds=tuple(
            Refund(
                refund_id=_code(refund.refund_id),
                amount_minor=refund.amount.minor_units,
                status=_word(payment_pb2.Refund.Status.DESCRIPTOR, "STATUS_", refund.status),
                reason=_word(payment_pb2.Refund.Reason.DESCRIPTOR, "REASON_", refund.reason),
                created=_time(refund.create_time),
            )
            for refund in payment.refunds
            # What was sent too much was never taken, so it is nobody's refund.
            if refund.reason != payment_pb2.Refund.REASON_OVERPAYMENT
        ),
    )


def _fraud(assessment: Assessment) -> FraudSaid:
    return FraudSaid(
        verdict=_word(Assessment.Verdict.DESCRIPTOR, "VERDICT_", assessment.verdict),
        score=assessment.score,
        reasons=_sentences(reason.message for reason in assessment.reasons),
        model_version=_code(assessment.model_version),
    )


def _route(decision: Decision) -> Route:
    return Route(
        ranking=tuple(
            Ranked(
                processor_account_id=_code(ranked.processor_account_id),
                processor=_word(Processor.DESCRIPTOR, "PROCESSOR_", ranked.processor),
                expected_success=ranked.expected_success,
                reasons=_sentences(ranked.reasons),
            )
            for ranked in decision.ranking
        ),
        excluded=tuple(
            Excluded(_code(excluded.processor_account_id), _sentence(excluded.message))
            for excluded in decision.excluded
        ),
        policy_version=_code(decision.policy_version),
        explored=decision.explored,
    )


def _word(enum: EnumDescriptor, prefix: str, number: int) -> str:
    """Spells an enum value as the domain does; a value newer than this service is "unknown"."""
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(prefix).lower() if value else "unknown"


def _code(text: str) -> str:
    """Lets a machine's code pass and nothing that reads like a sentence."""
    return text if not text or _CODE.fullmatch(text) else _STRANGE_CODE


def _sentence(text: str) -> str:
    """Keeps one line of printable text; line breaks could pose as another part of an answer."""
    line = " ".join(text.split())
    return "".join(letter for letter in line if letter.isprintable())[:_SENTENCE_LETTERS_MAX]


def _sentences(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sentence for text in texts if (sentence := _sentence(text)))


def _time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
