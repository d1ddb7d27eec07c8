"""Speaks gRPC: messages in, one domain call, messages out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.fraud.v1 import fraud_pb2 as messages
from smartpay.fraud.v1.fraud_pb2_grpc import FraudServiceServicer
from smartpay_chassis.calls import current_call
from smartpay_fraud.domain.scoring import Assessment, Finding, Scoring
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

Context = grpc.aio.ServicerContext

_VERDICTS = {
    Verdict.ALLOW: messages.Assessment.VERDICT_ALLOW,
    Verdict.REVIEW: messages.Assessment.VERDICT_REVIEW,
    Verdict.BLOCK: messages.Assessment.VERDICT_BLOCK,
}
_FINDINGS = {
    messages.LABEL_FRAUD: Finding.FRAUD,
    messages.LABEL_LEGITIMATE: Finding.LEGITIMATE,
}
_RECORDED = "recorded"
"""Name of RecordLabel's claim: a merchant's later word replaces the earlier one."""


class FraudServicer(FraudServiceServicer):
    """Serves smartpay.fraud.v1; the merchant is always the call's, never a field's."""

    def __init__(self, scoring: Scoring, clock: Callable[[], datetime]) -> None:
        self._scoring = scoring
        self._clock = clock

    async def Score(
        self, request: messages.ScoreRequest, context: Context[object, object]
    ) -> messages.ScoreResponse:
        """Scores one transaction."""
        assessment = await self._scoring.score(_transaction(request), self._now_ms())
        return messages.ScoreResponse(assessment=_assessment(assessment))

    async def ScoreBatch(
        self, request: messages.ScoreBatchRequest, context: Context[object, object]
    ) -> messages.ScoreBatchResponse:
        """Scores several transactions, in order."""
        assessments = await self._scoring.score_all(
            [_transaction(transaction) for transaction in request.transactions], self._now_ms()
        )
        return messages.ScoreBatchResponse(assessments=map(_assessment, assessments))

    async def RecordLabel(
        self, request: messages.RecordLabelRequest, context: Context[object, object]
    ) -> messages.RecordLabelResponse:
        """Records what a transaction turned out to be."""
        call = current_call()
        now_ms = self._now_ms()
        known_ms = request.known_time.ToMilliseconds() if request.HasField("known_time") else None
        await self._scoring.label(
            TransactionKey(call.merchant_id, call.livemode, request.transaction_id),
            _RECORDED,
            _FINDINGS[request.label],
            known_ms,
            now_ms,
        )
        return messages.RecordLabelResponse()

    def _now_ms(self) -> int:
        return int(self._clock().timestamp() * 1000)


def _transaction(request: messages.ScoreRequest) -> Transaction:
    call = current_call()
    return Transaction(
        merchant_id=call.merchant_id,
        livemode=call.livemode,
        transaction_id=request.transaction_id,
        amount_minor=request.amount.minor_units,
        currency_code=request.amount.currency_code,
        customer_id=request.customer_id,
        instrument_id=request.instrument_fingerprint,
        device_id=request.device_id,
        ip_address=request.ip_address,
    )


def _assessment(assessment: Assessment) -> messages.Assessment:
    scored = Timestamp()
    scored.FromMilliseconds(assessment.scored_ms)
    return messages.Assessment(
        transaction_id=assessment.transaction.transaction_id,
        verdict=_VERDICTS[assessment.verdict],
        score=assessment.score,
        reasons=[
            messages.Reason(code=r.code, message=r.message, contribution=r.contribution)
            for r in assessment.reasons
        ],
        model_version=assessment.model_version,
        create_time=scored,
    )
