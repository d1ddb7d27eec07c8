"""Reads and spells the terms of a routing policy."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

from smartpay.router.v1 import policies_pb2
from smartpay_router.domain.policy import Mode, RoutingPolicy, Terms
from smartpay_router.domain.rules import ALWAYS, AccountLimit, Action, AmountRange, Condition, Rule
from smartpay_router.domain.splits import Share, Split
from smartpay_router.messages import PROCESSORS, timestamp_of_ms

_PROCESSOR_NAMES = {number: name for name, number in PROCESSORS.items()}
_MODES = {mode: policies_pb2.RoutingPolicyTerms.Mode.Value(f"MODE_{mode}") for mode in Mode}
_MODE_OF = {number: mode for mode, number in _MODES.items()}
_ACTIONS = {action: policies_pb2.RoutingRule.Action.Value(f"ACTION_{action}") for action in Action}
_ACTION_OF = {number: action for action, number in _ACTIONS.items()}

V = TypeVar("V")


def mode_value(mode: Mode) -> policies_pb2.RoutingPolicyTerms.Mode.ValueType:
    """Spells a mode."""
    return _MODES[mode]


def terms_of(message: policies_pb2.RoutingPolicyTerms) -> Terms:
    """Reads terms; the contract has checked each field by itself."""
    return Terms(
        kill_switch=message.kill_switch,
        mode=_MODE_OF[message.mode],
        canary_percent=message.canary_percent,
        holdout_percent=message.holdout_percent,
        static_order=tuple(message.static_order),
        rules=tuple(
            Rule(
                rule.rule_id,
                _ACTION_OF[rule.action],
                tuple(rule.processor_account_ids),
                _condition(rule.condition),
                rule.disabled,
            )
            for rule in message.rules
        ),
        splits=tuple(
            Split(
                split.rule_id,
                tuple(Share(s.processor_account_id, s.percent) for s in split.shares),
                _condition(split.condition),
                split.disabled,
            )
            for split in message.splits
        ),
        limits=tuple(
            AccountLimit(
                limit.processor_account_id,
                tuple(
                    AmountRange(a.currency_code, a.minor_units_min, a.minor_units_max)
                    for a in limit.amounts
                ),
                tuple(limit.countries),
            )
            for limit in message.limits
        ),
        fee_basis_points_max=message.fee_basis_points_max,
        exploration_basis_points=_told(
            message, "exploration_basis_points", message.exploration_basis_points
        ),
    )


def policy_message(policy: RoutingPolicy) -> policies_pb2.RoutingPolicy:
    """Spells a version of a policy."""
    return policies_pb2.RoutingPolicy(
        terms=_terms_message(policy.terms),
        version=policy.version,
        note=policy.note,
        create_time=timestamp_of_ms(policy.created_ms) if policy.created_ms else None,
        create_actor=policy.actor,
        etag=policy.etag,
    )


def _terms_message(terms: Terms) -> policies_pb2.RoutingPolicyTerms:
    return policies_pb2.RoutingPolicyTerms(
        kill_switch=terms.kill_switch,
        mode=_MODES[terms.mode],
        canary_percent=terms.canary_percent,
        holdout_percent=terms.holdout_percent,
        static_order=terms.static_order,
        rules=[
            policies_pb2.RoutingRule(
                rule_id=rule.rule_id,
                condition=_condition_message(rule.condition),
                action=_ACTIONS[rule.action],
                processor_account_ids=rule.accounts,
                disabled=rule.disabled,
            )
            for rule in terms.rules
        ],
        splits=[
            policies_pb2.VolumeSplit(
                rule_id=split.rule_id,
                condition=_condition_message(split.condition),
                shares=[
                    policies_pb2.SplitShare(
                        processor_account_id=share.processor_account_id, percent=share.percent
                    )
                    for share in split.shares
                ],
                disabled=split.disabled,
            )
            for split in terms.splits
        ],
        limits=[
            policies_pb2.AccountLimit(
                processor_account_id=limit.processor_account_id,
                amounts=[
                    policies_pb2.AmountRange(
                        currency_code=each.currency,
                        minor_units_min=each.minor_units_min,
                        minor_units_max=each.minor_units_max,
                    )
                    for each in limit.amounts
                ],
                countries=limit.countries,
            )
            for limit in terms.limits
        ],
        fee_basis_points_max=terms.fee_basis_points_max,
        exploration_basis_points=terms.exploration_basis_points,
    )


def _condition(message: policies_pb2.RoutingCondition) -> Condition:
    return Condition(
        minor_units_min=_told(message, "minor_units_min", message.minor_units_min),
        minor_units_max=_told(message, "minor_units_max", message.minor_units_max),
        currencies=tuple(message.currency_codes),
        countries=tuple(message.countries),
        risk_min=_told(message, "risk_min", message.risk_min),
        risk_max=_told(message, "risk_max", message.risk_max),
        off_session=_told(message, "off_session", message.off_session),
        processors=tuple(_PROCESSOR_NAMES[number] for number in message.processors),
        weekdays=tuple(message.weekdays),
        hour_from=_told(message, "hour_from", message.hour_from),
        hour_before=_told(message, "hour_before", message.hour_before),
    )


def _condition_message(condition: Condition) -> policies_pb2.RoutingCondition | None:
    if condition == ALWAYS:
        return None
    return policies_pb2.RoutingCondition(
        minor_units_min=condition.minor_units_min,
        minor_units_max=condition.minor_units_max,
        currency_codes=condition.currencies,
        countries=condition.countries,
        risk_min=condition.risk_min,
        risk_max=condition.risk_max,
        off_session=condition.off_session,
        processors=[PROCESSORS[name] for name in condition.processors],
        weekdays=condition.weekdays,
        hour_from=condition.hour_from,
        hour_before=condition.hour_before,
    )


def _told(message: Message, name: str, value: V) -> V | None:
    """Answers a value that was sent, also a zero; None for one that wasn't."""
    return value if message.HasField(name) else None
