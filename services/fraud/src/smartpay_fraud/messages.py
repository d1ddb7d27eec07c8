"""Spells what several parts of the contract show."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.fraud.v1 import fraud_pb2
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_fraud.domain.assessment import Assessment
from smartpay_fraud.domain.verdict import Verdict

VERDICTS = {
    Verdict.ALLOW: fraud_pb2.Assessment.VERDICT_ALLOW,
    Verdict.REVIEW: fraud_pb2.Assessment.VERDICT_REVIEW,
    Verdict.BLOCK: fraud_pb2.Assessment.VERDICT_BLOCK,
}
NO_VERDICT = fraud_pb2.Assessment.VERDICT_UNSPECIFIED
VERDICT_OF = {spelt: verdict for verdict, spelt in VERDICTS.items()}


def timestamp(at_ms: int) -> Timestamp:
    """Spells a moment in milliseconds since the epoch."""
    seconds, rest_ms = divmod(at_ms, 1_000)
    return Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000)


def moment_ms(text: str, field: str) -> int:
    """Reads a moment of a filter as milliseconds since the epoch.

    Raises:
        Refusal: FIELD_INVALID for a day or an hour that no calendar has.
    """
    try:
        return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "FIELD_INVALID",
            f"{field} is no moment: {text}.",
            remedy="Send RFC 3339 in UTC, for instance 2026-01-31T00:00:00Z.",
            field=field,
        ) from None


def assessment_message(assessment: Assessment) -> fraud_pb2.Assessment:
    """Spells an assessment."""
    # Set part by part: what is handed to a constructor is built once more.
    message = fraud_pb2.Assessment(
        transaction_id=assessment.transaction.transaction_id,
        verdict=VERDICTS[assessment.verdict],
        score=assessment.score,
        model_version=assessment.model_version,
        rules_version=assessment.rules_version,
        control=assessment.control,
    )
    created = message.create_time
    created.seconds, rest_ms = divmod(assessment.scored_ms, 1_000)
    created.nanos = rest_ms * 1_000_000
    if assessment.matched_rules:
        message.matched_rule_ids.extend(assessment.matched_rules)
    if assessment.matched_lists:
        message.matched_list_ids.extend(assessment.matched_lists)
    add = message.reasons.add
    for code, text, contribution, figures in assessment.reasons:
        reason = add()
        reason.code, reason.message, reason.contribution = code, text, contribution
        values = reason.values
        for name, value in figures.items():
            values[name] = value
    return message
