"""Spells what several parts of the contract show."""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.router.v1 import router_pb2
from smartpay.type.v1.instrument_pb2 import Processor
from smartpay.type.v1.money_pb2 import Money
from smartpay_router.domain.breakers import State
from smartpay_router.domain.decision import Decision
from smartpay_router.domain.eligibility import Obstacle
from smartpay_router.domain.modes import ServedBy
from smartpay_router.domain.outcome import Outcome

PROCESSORS = {name.removeprefix("PROCESSOR_").lower(): number for name, number in Processor.items()}
OUTCOMES = {name.removeprefix("OUTCOME_"): number for name, number in router_pb2.Outcome.items()}
BREAKER_STATES = {
    State.CLOSED: router_pb2.BREAKER_STATE_CLOSED,
    State.OPEN: router_pb2.BREAKER_STATE_OPEN,
    State.PROBING: router_pb2.BREAKER_STATE_PROBING,
}
_SERVED_BY = {
    served: router_pb2.Decision.ServedBy.Value(f"SERVED_BY_{served}") for served in ServedBy
}


def timestamp(at: datetime) -> Timestamp:
    """Spells a moment with a time zone."""
    microseconds = round(at.timestamp() * 1_000_000)
    seconds, rest = divmod(microseconds, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1_000)


def timestamp_of_ms(at_ms: int) -> Timestamp:
    """Spells a moment in milliseconds since the epoch."""
    seconds, rest_ms = divmod(at_ms, 1_000)
    return Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000)


def outcome_of(number: router_pb2.Outcome.ValueType) -> Outcome:
    """Reads an outcome that somebody told."""
    return Outcome(router_pb2.Outcome.Name(number).removeprefix("OUTCOME_"))


def decision_message(decision: Decision, patience: timedelta) -> router_pb2.Decision:
    """Spells a decision.

    Args:
        decision: the decision.
        patience: how long its outcome is waited for.
    """
    route, currency = decision.route, decision.currency
    message = router_pb2.Decision(
        decision_id=decision.decision_id,
        policy_version=route.policy_version,
        explored=route.explored,
        context=route.context.values,
        context_schema=route.context.schema,
        payment_id=decision.payment_id,
        create_time=timestamp(decision.created_at),
        expire_time=timestamp(decision.expires_at),
        served_by=_SERVED_BY[route.served_by],
        routing_policy_version=route.routing_policy_version,
        alternative_account_id=route.alternative,
        outcome_due_time=timestamp(decision.created_at + patience),
        matched_rule_ids=route.matched_rules,
    )
    # Added in place: handing them to the constructor would build every one twice.
    for ranked in route.ranking:
        message.ranking.add(
            processor_account_id=ranked.processor_account_id,
            processor=PROCESSORS[ranked.processor],
            expected_success=ranked.expected_success,
            expected_fee=Money(minor_units=ranked.fee_minor, currency_code=currency),
            score=ranked.score,
            propensity=ranked.propensity,
            reasons=ranked.reasons,
            width=ranked.width,
            upper_bound=ranked.upper_bound,
            expected_value=ranked.expected_value,
            breaker_state=BREAKER_STATES[ranked.breaker],
        )
    for excluded in route.excluded:
        message.excluded.add(
            processor_account_id=excluded.processor_account_id,
            code=excluded.code,
            message=excluded.message,
            obstacles=excluded.obstacles,
            codes=Obstacle(excluded.obstacles).codes(),
            rule_ids=excluded.rule_ids,
        )
    return message
