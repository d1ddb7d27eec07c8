"""Speaks the contract of scores and labels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import grpc

from smartpay.fraud.v1 import fraud_pb2 as messages
from smartpay.fraud.v1.fraud_pb2_grpc import FraudServiceServicer
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.contract_check import check_request
from smartpay_chassis.interceptors import status_of
from smartpay_chassis.refusals import Refusal
from smartpay_fraud.domain.assessment import Finding
from smartpay_fraud.domain.scoring import Scoring
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.messages import assessment_message

Context = grpc.aio.ServicerContext

_FINDINGS = {
    messages.LABEL_FRAUD: Finding.FRAUD,
    messages.LABEL_LEGITIMATE: Finding.LEGITIMATE,
}
_RECORDED = "recorded"
"""Name of RecordLabel's claim: a merchant's later word replaces the earlier one."""

STREAM_ROWS_MAX = 64
"""Transactions of one stream in work at once; the next is read when the first is answered, so a
caller that sends faster than we score is held back by gRPC's own flow control."""


class FraudServicer(FraudServiceServicer):
    """Serves smartpay.fraud.v1; the merchant is always the call's, never a field's."""

    def __init__(self, scoring: Scoring, clock: Callable[[], datetime]) -> None:
        self._scoring = scoring
        self._clock = clock

    async def Score(
        self, request: messages.ScoreRequest, context: Context[object, object]
    ) -> messages.ScoreResponse:
        """Scores one transaction."""
        call = current_call()
        assessment = await self._scoring.score(
            _transaction(request, call), self._now_ms(), call.expires_at
        )
        return messages.ScoreResponse(assessment=assessment_message(assessment))

    async def ScoreBatch(
        self, request: messages.ScoreBatchRequest, context: Context[object, object]
    ) -> messages.ScoreBatchResponse:
        """Scores several transactions, in order."""
        call = current_call()
        assessments = await self._scoring.score_all(
            [_transaction(transaction, call) for transaction in request.transactions],
            self._now_ms(),
            call.expires_at,
        )
        return messages.ScoreBatchResponse(assessments=map(assessment_message, assessments))

    async def ScoreStream(
        self,
        request_iterator: AsyncIterator[messages.ScoreStreamRequest],
        context: Context[object, object],
    ) -> AsyncIterator[messages.ScoreStreamResponse]:
        """Scores transactions as they come and answers in their order."""
        answers: asyncio.Queue[asyncio.Task[messages.ScoreStreamResponse] | None]
        answers = asyncio.Queue()
        room = asyncio.Semaphore(STREAM_ROWS_MAX)

        async def read() -> None:
            try:
                async for request in request_iterator:
                    await room.acquire()
                    answers.put_nowait(asyncio.create_task(self._answer(request.transaction)))
            finally:
                answers.put_nowait(None)

        reading = asyncio.create_task(read())
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
                room.release()
            await reading
        finally:
            reading.cancel()
            while not answers.empty():
                if left := answers.get_nowait():
                    left.cancel()

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

    async def _answer(self, request: messages.ScoreRequest) -> messages.ScoreStreamResponse:
        """Scores one transaction of a stream; a refusal is its answer and ends nothing."""
        answer = messages.ScoreStreamResponse(transaction_id=request.transaction_id)
        try:
            check_request(request)
            call = current_call()
            assessment = await self._scoring.score(
                _transaction(request, call), self._now_ms(), call.expires_at
            )
        except Refusal as refusal:
            answer.error.CopyFrom(status_of(refusal))
        else:
            answer.assessment.CopyFrom(assessment_message(assessment))
        return answer

    def _now_ms(self) -> int:
        return int(self._clock().timestamp() * 1000)


def _transaction(request: messages.ScoreRequest, call: Call) -> Transaction:
    amount = request.amount
    return Transaction(
        merchant_id=call.merchant_id,
        livemode=call.livemode,
        transaction_id=request.transaction_id,
        amount_minor=amount.minor_units,
        currency_code=amount.currency_code,
        customer_id=request.customer_id,
        instrument_id=request.instrument_fingerprint,
        device_id=request.device_id,
        ip_address=request.ip_address,
        terminal_id=request.terminal_id,
        merchant_category=request.merchant_category,
        country=request.country,
    )
