"""Speaks the contract of decisions: message in, the domain decides, message out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from smartpay.router.v1 import router_pb2
from smartpay.router.v1.router_pb2_grpc import RouterServiceServicer
from smartpay_chassis import ids
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.identity import EDGE
from smartpay_chassis.refusals import Violation, invalid_fields
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.decision import Decision, Decisions
from smartpay_router.domain.eligibility import Account, candidates
from smartpay_router.domain.learner import Arm, Estimates
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.outcome import arm_of
from smartpay_router.domain.policy import PolicyBook
from smartpay_router.domain.route import Pipeline, Plan
from smartpay_router.domain.schema import Values
from smartpay_router.domain.tenant import Tenant
from smartpay_router.messages import decision_message, outcome_of

Context = object  # gRPC's own context is the interceptors' business


@dataclass(frozen=True)
class Numbers:
    """The numbers that decisions are made with.

    Attributes:
        cell: home cell, part of every decision's id.
        decision_ttl: how long a payment may begin to use a decision.
        outcome_patience: how long its outcome is waited for.
    """

    cell: str
    decision_ttl: timedelta
    outcome_patience: timedelta


class RemoteLearner(Protocol):
    """A learner elsewhere."""

    async def ask(self, arms: Sequence[Arm], values: Values, at: float) -> Estimates:
        """Estimates each arm's success, or lets our own learner do it; never fails."""
        ...


class Router(RouterServiceServicer):
    """The router's methods.

    Args:
        decisions: the durable decisions.
        pipeline: makes new ones.
        learning: waits for their outcomes.
        book: the policies in force.
        directory: the accounts that merchants have added.
        numbers: what to decide with.
        clock: answers the present, with a time zone.
        remote: a learner elsewhere; None when ours answers.
    """

    def __init__(
        self,
        decisions: Decisions,
        pipeline: Pipeline,
        learning: Learning,
        book: PolicyBook,
        directory: Directory,
        numbers: Numbers,
        clock: Callable[[], datetime],
        remote: RemoteLearner | None = None,
    ) -> None:
        self._decisions = decisions
        self._pipeline = pipeline
        self._learning = learning
        self._book = book
        self._directory = directory
        self._numbers = numbers
        self._clock = clock
        self._remote = remote

    async def Decide(
        self, request: router_pb2.DecideRequest, context: Context
    ) -> router_pb2.DecideResponse:
        """Ranks the merchant's accounts, or binds an earlier ranking to a payment."""
        call = current_call()
        _check_ids(call, request)
        charge = _charge(request)
        if request.decision_id:
            decision = await self._decisions.bind(
                request.decision_id, tenant_of(call), request.payment_id, charge, self._clock()
            )
        else:
            decision = await self._decide(call, charge, request.payment_id)
        return router_pb2.DecideResponse(decision=self._message(decision))

    async def GetDecision(
        self, request: router_pb2.GetDecisionRequest, context: Context
    ) -> router_pb2.GetDecisionResponse:
        """Shows an earlier decision of the merchant."""
        decision = await self._decisions.get(request.decision_id, tenant_of(current_call()))
        return router_pb2.GetDecisionResponse(decision=self._message(decision))

    async def RecordOutcome(
        self, request: router_pb2.RecordOutcomeRequest, context: Context
    ) -> router_pb2.RecordOutcomeResponse:
        """Stores what became of a decision that was followed outside /pay, and learns from it."""
        await self._decisions.report(
            request.decision_id,
            tenant_of(current_call()),
            request.attempt_index,
            request.processor_account_id,
            outcome_of(request.outcome),
            self._clock(),
        )
        await self._learning.catch_up()
        return router_pb2.RecordOutcomeResponse()

    async def _decide(self, call: Call, charge: Charge, payment_id: str) -> Decision:
        tenant, now = tenant_of(call), self._clock()
        policy = self._book.of(tenant.merchant_id, tenant.livemode)
        found = candidates(charge, accounts_of(call, self._directory))
        plan = self._pipeline.plan(tenant, charge, found, policy, now)
        decision_id = self._id(tenant, payment_id)
        known = None
        if self._remote is not None and plan.options and not policy.terms.kill_switch:
            known = await self._remote.ask(plan.arms, plan.values, plan.at)
        made = Decision(
            decision_id=decision_id,
            tenant=tenant,
            amount_minor=charge.amount_minor,
            currency=charge.currency,
            instrument_hash=charge.instrument_hash(),
            route=self._pipeline.route(plan, decision_id, known),
            payment_id=payment_id,
            created_at=now,
            expires_at=now + self._numbers.decision_ttl,
        )
        return await self._keep(made, charge, plan)

    async def _keep(self, made: Decision, charge: Charge, plan: Plan) -> Decision:
        """Stores a decision, and waits for its outcome from then on."""
        if not made.route.ranking:
            return await self._decisions.keep(made, charge)
        first = made.route.ranking[0]
        arm = arm_of(first.processor_account_id, first.processor, livemode=made.tenant.livemode)
        kept = None
        try:
            kept = await self._decisions.keep(made, charge)
        finally:
            if kept is made:
                self._learning.opened(made.decision_id, arm, plan.context.values, plan.at)
            else:
                # Another decision of the payment stands, or none does: nobody follows this one.
                self._learning.dropped(arm, plan.context.values, plan.at)
        return kept

    def _id(self, tenant: Tenant, payment_id: str) -> str:
        if not payment_id:
            return ids.new("dec", self._numbers.cell)
        mode = "live" if tenant.livemode else "test"
        return ids.derive("dec", self._numbers.cell, tenant.merchant_id, mode, payment_id)

    def _message(self, decision: Decision) -> router_pb2.Decision:
        return decision_message(decision, self._numbers.outcome_patience)


def tenant_of(call: Call) -> Tenant:
    """Names whose call it is."""
    return Tenant(call.merchant_id, call.livemode)


def accounts_of(call: Call, directory: Directory) -> Sequence[Account]:
    """Lists the accounts of the calling merchant, in its own order."""
    if call.merchant is None:
        raise LookupError("the call names no merchant, though its access rule demands one")
    return directory.all_of(call.merchant_id, call.livemode, call.merchant.processor_accounts)


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
    return Charge(
        request.amount.minor_units,
        request.amount.currency_code,
        tokens,
        fingerprint=request.instrument.fingerprint,
        risk=request.risk,
        country=request.country,
        off_session=request.off_session,
    )


def _invalid(field: str, message: str) -> Exception:
    return invalid_fields((Violation(field, message, f"{field}.rule"),))
