"""Speaks gRPC: message in, the domain decides, message out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import grpc

from smartpay.router.v1 import router_pb2
from smartpay.router.v1.router_pb2_grpc import RouterServiceServicer
from smartpay.type.v1.instrument_pb2 import Processor
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis import ids
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.identity import EDGE
from smartpay_chassis.merchants import Merchant
from smartpay_chassis.refusals import Violation, invalid_fields
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.decision import Decision, Decisions, Tenant
from smartpay_router.domain.linucb import Policy
from smartpay_router.domain.outcome import Learner, Outcome
from smartpay_router.domain.route import RankedAccount, rank

Context = grpc.aio.ServicerContext[object, object]


@dataclass(frozen=True)
class Rules:
    """The numbers that the servicer decides by.

    Attributes:
        cell: home cell, part of every decision's id.
        epsilon: share of decisions that explore, 0 to 1.
        decision_ttl: how long a payment may begin to use a decision.
    """

    cell: str
    epsilon: float
    decision_ttl: timedelta


class Router(RouterServiceServicer):
    """The router's methods.

    Args:
        decisions: the durable decisions.
        policy: the learner.
        learner: teaches the policy what the log gained.
        rules: the numbers to decide by.
        directory: the accounts that merchants have added.
        clock: answers the present, with a time zone.
    """

    def __init__(
        self,
        decisions: Decisions,
        policy: Policy,
        learner: Learner,
        rules: Rules,
        directory: Directory,
        clock: Callable[[], datetime],
    ) -> None:
        self._decisions = decisions
        self._policy = policy
        self._learner = learner
        self._rules = rules
        self._directory = directory
        self._clock = clock

    async def Decide(
        self, request: router_pb2.DecideRequest, context: Context
    ) -> router_pb2.DecideResponse:
        """Ranks the merchant's accounts, or binds an earlier ranking to a payment."""
        call = current_call()
        _check_ids(call, request)
        tenant, charge = _tenant(call), _charge(request)
        if request.decision_id:
            decision = await self._decisions.bind(
                request.decision_id, tenant, request.payment_id, charge, self._clock()
            )
        else:
            decision = await self._decisions.keep(
                self._decide(_merchant(call), tenant, charge, request), charge
            )
        return router_pb2.DecideResponse(decision=_message(decision))

    async def GetDecision(
        self, request: router_pb2.GetDecisionRequest, context: Context
    ) -> router_pb2.GetDecisionResponse:
        """Shows an earlier decision of the merchant."""
        decision = await self._decisions.get(request.decision_id, _tenant(current_call()))
        return router_pb2.GetDecisionResponse(decision=_message(decision))

    async def RecordOutcome(
        self, request: router_pb2.RecordOutcomeRequest, context: Context
    ) -> router_pb2.RecordOutcomeResponse:
        """Stores what became of a decision that was followed outside /pay, and learns from it."""
        await self._decisions.report(
            request.decision_id,
            _tenant(current_call()),
            request.attempt_index,
            request.processor_account_id,
            Outcome(router_pb2.Outcome.Name(request.outcome).removeprefix("OUTCOME_")),
        )
        await self._learner.catch_up()
        return router_pb2.RecordOutcomeResponse()

    def _decide(
        self,
        merchant: Merchant,
        tenant: Tenant,
        charge: Charge,
        request: router_pb2.DecideRequest,
    ) -> Decision:
        cell, payment_id = self._rules.cell, request.payment_id
        if payment_id:
            mode = "live" if tenant.livemode else "test"
            decision_id = ids.derive("dec", cell, tenant.merchant_id, mode, payment_id)
        else:
            decision_id = ids.new("dec", cell)
        now = self._clock()
        route = rank(
            charge,
            self._directory.all_of(
                tenant.merchant_id, tenant.livemode, merchant.processor_accounts
            ),
            self._policy,
            risk=request.risk,
            at=now,
            epsilon=self._rules.epsilon,
            # The id is as random as any dice, and lets anyone throw them again.
            dice=random.Random(decision_id),
        )
        return Decision(
            decision_id=decision_id,
            tenant=tenant,
            amount_minor=charge.amount_minor,
            currency=charge.currency,
            instrument_hash=charge.instrument_hash(),
            route=route,
            payment_id=payment_id,
            created_at=now,
            expires_at=now + self._rules.decision_ttl,
        )


def _tenant(call: Call) -> Tenant:
    return Tenant(call.merchant_id, call.livemode)


def _merchant(call: Call) -> Merchant:
    if call.merchant is None:
        raise LookupError("the call names no merchant, though its access rule demands one")
    return call.merchant


def _check_ids(call: Call, request: router_pb2.DecideRequest) -> None:
    """Refuses ids from outside, and a decision that is to be bound to nothing."""
    if call.caller == EDGE:
        for field in ("payment_id", "decision_id"):
            if getattr(request, field):
                raise _invalid(field, "is set by services only; leave it out")
    elif request.decision_id and not request.payment_id:
        raise _invalid("payment_id", "must name the payment that decision_id is to be bound to")


def _charge(request: router_pb2.DecideRequest) -> Charge:
    tokens = {t.processor_account_id: t.token for t in request.instrument.tokens}
    if len(tokens) != len(request.instrument.tokens):
        raise _invalid("instrument.tokens", "must hold at most one token per processor account")
    return Charge(request.amount.minor_units, request.amount.currency_code, tokens)


def _invalid(field: str, message: str) -> Exception:
    return invalid_fields((Violation(field, message, f"{field}.rule"),))


def _message(decision: Decision) -> router_pb2.Decision:
    route = decision.route
    message = router_pb2.Decision(
        decision_id=decision.decision_id,
        ranking=[_ranked(account, decision.currency) for account in route.ranking],
        excluded=[
            router_pb2.ExcludedAccount(
                processor_account_id=e.processor_account_id, code=e.code, message=e.message
            )
            for e in route.excluded
        ],
        policy_version=route.policy_version,
        explored=route.explored,
        context=route.context.values,
        context_schema=route.context.schema,
        payment_id=decision.payment_id,
    )
    message.create_time.FromDatetime(decision.created_at)
    message.expire_time.FromDatetime(decision.expires_at)
    return message


def _ranked(account: RankedAccount, currency: str) -> router_pb2.RankedAccount:
    return router_pb2.RankedAccount(
        processor_account_id=account.processor_account_id,
        processor=Processor.Value(f"PROCESSOR_{account.processor.upper()}"),
        expected_success=account.expected_success,
        expected_fee=Money(minor_units=account.fee_minor, currency_code=currency),
        score=account.score,
        propensity=account.propensity,
        reasons=account.reasons,
    )
