"""Asks fraud, the router and rewards through the sidecar, within their share of the deadline."""

from __future__ import annotations

import hashlib

import grpc
import structlog

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.rewards.v1 import rewards_pb2, rewards_pb2_grpc
from smartpay.router.v1 import router_pb2, router_pb2_grpc
from smartpay.type.v1 import instrument_pb2, money_pb2
from smartpay_chassis.calls import current_call
from smartpay_chassis.channels import on_behalf_of, refusal_reason
from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_payments.domain.payment import FraudOpinion, Order, Payment, RouteAdvice

log = structlog.get_logger()

# The service can't be asked now; everything else it says is about the input.
AWAY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.CANCELLED,
}


def _metadata(payment: Payment) -> tuple[tuple[str, str | bytes], ...]:
    try:
        request_id = current_call().request_id
    except LookupError:
        # Our own work, which nobody's request began: the payment is what its lines have in common.
        request_id = payment.payment_id
    return on_behalf_of(payment.merchant_id, payment.livemode, request_id)


def _money(order: Order) -> money_pb2.Money:
    return money_pb2.Money(
        minor_units=order.amount.minor_units, currency_code=order.amount.currency_code
    )


def fingerprint(order: Order) -> str:
    """Names the instrument: its own fingerprint, or a hash of its tokens."""
    if order.fingerprint:
        return order.fingerprint
    tokens = "\n".join(f"{a}={t}" for a, t in sorted(order.tokens.items()))
    return hashlib.sha256(tokens.encode()).hexdigest()[:32]


class FraudService:
    """The port `FraudAdvisor` over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._stub = fraud_pb2_grpc.FraudServiceStub(channel)
        self._timeout = timeout_seconds

    async def assess(self, payment: Payment) -> FraudOpinion | None:
        """Scores the payment under its id; None when fraud is away."""
        order = payment.order
        request = fraud_pb2.ScoreRequest(
            transaction_id=payment.payment_id,
            amount=_money(order),
            customer_id=order.customer_id,
            instrument_fingerprint=fingerprint(order),
            device_id=order.device_id,
            ip_address=order.ip_address,
            terminal_id=order.terminal_id,
            merchant_category=payment.merchant_category,
            country=order.country,
        )
        try:
            response = await self._stub.Score(
                request, metadata=_metadata(payment), timeout=self._timeout
            )
        except grpc.aio.AioRpcError as error:
            reason = refusal_reason(error)
            if reason == "IDEMPOTENCY_KEY_REUSED":
                raise idempotency_key_reused() from None
            level = log.warning if error.code() in AWAY else log.error
            level("fraud could not be asked", code=error.code().name, reason=reason)
            return None
        assessment = response.assessment
        return FraudOpinion(
            verdict=fraud_pb2.Assessment.Verdict.Name(assessment.verdict).removeprefix("VERDICT_"),
            score=assessment.score,
            reason=assessment.reasons[0].code if assessment.reasons else "",
            document=assessment.SerializeToString(),
        )


class RouterService:
    """The port `RouteAdvisor` over gRPC."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._stub = router_pb2_grpc.RouterServiceStub(channel)
        self._timeout = timeout_seconds

    async def rank(self, payment: Payment) -> RouteAdvice | None:
        """Ranks the accounts for the payment under its id; None when the router is away."""
        order = payment.order
        request = router_pb2.DecideRequest(
            amount=_money(order),
            instrument=instrument_pb2.Instrument(
                tokens=[
                    instrument_pb2.ProcessorToken(processor_account_id=a, token=t)
                    for a, t in order.tokens.items()
                ],
                fingerprint=order.fingerprint,
            ),
            payment_id=payment.payment_id,
            decision_id=order.decision_id,
            risk=payment.fraud.score if payment.fraud is not None else 0.0,
            country=order.country,
            off_session=order.off_session,
        )
        try:
            response = await self._stub.Decide(
                request, metadata=_metadata(payment), timeout=self._timeout
            )
        except grpc.aio.AioRpcError as error:
            reason = refusal_reason(error)
            if reason == "IDEMPOTENCY_KEY_REUSED":
                raise idempotency_key_reused() from None
            if reason.startswith("DECISION_"):
                raise _decision_refused(reason) from None
            level = log.warning if error.code() in AWAY else log.error
            level("the router could not be asked", code=error.code().name, reason=reason)
            if order.decision_id and error.code() in AWAY:
                # A decision that can't be checked may have been used: refusing is safe.
                raise _decision_refused("DECISION_UNCHECKED") from None
            return None
        decision = response.decision
        return RouteAdvice(
            decision_id=decision.decision_id,
            ranking=tuple(r.processor_account_id for r in decision.ranking),
            document=decision.SerializeToString(),
        )


def _decision_refused(reason: str) -> Refusal:
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "DECISION_REFUSED",
        "The routing decision can't be used for this payment.",
        remedy="Ask POST /route again with this amount and instrument, or leave decision_id out.",
        field="decision_id",
        facts={"cause": reason},
    )


class RewardsService:
    """Asks rewards what became of a payment's reward."""

    def __init__(self, channel: grpc.aio.Channel, timeout_seconds: float) -> None:
        self._stub = rewards_pb2_grpc.RewardsServiceStub(channel)
        self._timeout = timeout_seconds

    async def reward(self, payment: Payment) -> rewards_pb2.Reward | None:
        """Reads the reward; an empty one when there is none, None when rewards is away."""
        try:
            response = await self._stub.GetReward(
                rewards_pb2.GetRewardRequest(payment_id=payment.payment_id),
                metadata=_metadata(payment),
                timeout=self._timeout,
            )
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return rewards_pb2.Reward()
            log.info("rewards could not be asked", code=error.code().name)
            return None
        return response.reward
