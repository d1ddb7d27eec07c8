"""Speaks the contract of explanations and of the status of routing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from smartpay.router.v1 import evidence_pb2, evidence_pb2_grpc
from smartpay_chassis.calls import current_call
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.breakers import Standing
from smartpay_router.domain.comparison import Comparison, Try, compare
from smartpay_router.domain.context import FEATURES
from smartpay_router.domain.decision import Decisions
from smartpay_router.domain.eligibility import Account
from smartpay_router.domain.explanation import steps_of
from smartpay_router.domain.learner import Arm, Knowledge
from smartpay_router.domain.modes import learner_share
from smartpay_router.domain.outcome import Outcome, arm_of
from smartpay_router.domain.policy import PolicyBook, RoutingPolicy
from smartpay_router.domain.tenant import Tenant
from smartpay_router.messages import (
    BREAKER_STATES,
    OUTCOMES,
    PROCESSORS,
    decision_message,
    timestamp_of_ms,
)
from smartpay_router.server.routing import accounts_of, tenant_of
from smartpay_router.server.terms import mode_value

Context = object  # gRPC's own context is the interceptors' business

TRIES_MAX = 20_000
"""First tries compared at most, the oldest of the policy's version: half a second of work, and
differences of a point are long told by then."""


class PastReader(Protocol):
    """Reads what became of decisions."""

    async def outcomes(self, decision_id: str, tenant: Tenant) -> list[tuple[int, str, Outcome]]:
        """Reads attempt index, account and outcome of each try."""
        ...

    async def tries(self, tenant: Tenant, version: int, since_ms: int, size: int) -> list[Try]:
        """Reads first tries of payers whom chance assigned, oldest first."""
        ...


class Mind(Protocol):
    """What was learned, as far as it may be shown."""

    @property
    def learner_name(self) -> str:
        """Names the learner, for instance "linucb"."""
        ...

    def knowledge(self, account: str, at: float) -> Knowledge:
        """Answers what outcomes of the very account have taught."""
        ...

    def standing(self, arm: Arm) -> Standing:
        """Answers whether an account's processor works."""
        ...

    def tokens(self, key: str) -> float:
        """Answers what is left of an exploration budget."""
        ...


class RoutingEvidenceServicer(evidence_pb2_grpc.RoutingEvidenceServiceServicer):
    """Serves explanations and status to the caller's merchant.

    Args:
        decisions: the durable decisions.
        past: what became of them.
        mind: what was learned.
        book: the policies in force.
        directory: the accounts that merchants have added.
        patience: how long outcomes are waited for.
        clock: answers the present, with a time zone.
    """

    def __init__(
        self,
        decisions: Decisions,
        past: PastReader,
        mind: Mind,
        book: PolicyBook,
        directory: Directory,
        patience: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._decisions = decisions
        self._past = past
        self._mind = mind
        self._book = book
        self._directory = directory
        self._patience = patience
        self._clock = clock

    async def ExplainDecision(
        self, request: evidence_pb2.ExplainDecisionRequest, context: Context
    ) -> evidence_pb2.ExplainDecisionResponse:
        """Explains one decision of the merchant."""
        tenant = tenant_of(current_call())
        decision = await self._decisions.get(request.decision_id, tenant)
        route = decision.route
        names = FEATURES if route.context.is_current() else map(str, range(64))
        return evidence_pb2.ExplainDecisionResponse(
            explanation=evidence_pb2.Explanation(
                decision=decision_message(decision, self._patience),
                mode=mode_value(route.mode),
                steps=steps_of(decision),
                context=[
                    evidence_pb2.NamedValue(name=name, value=value)
                    for name, value in zip(names, route.context.values, strict=False)
                ],
                static_order=route.static_order,
                outcomes=[
                    evidence_pb2.KnownOutcome(
                        attempt_index=index,
                        processor_account_id=account,
                        outcome=OUTCOMES[outcome],
                    )
                    for index, account, outcome in await self._past.outcomes(
                        request.decision_id, tenant
                    )
                ],
            )
        )

    async def GetRoutingStatus(
        self, request: evidence_pb2.GetRoutingStatusRequest, context: Context
    ) -> evidence_pb2.GetRoutingStatusResponse:
        """Shows what was learned of the merchant's accounts."""
        call = current_call()
        tenant, at = tenant_of(call), self._clock().timestamp()
        policy = self._book.of(tenant.merchant_id, tenant.livemode)
        accounts = {e.processor_account_id: e for e in accounts_of(call, self._directory)}
        comparison = await self._compared(tenant, policy)
        return evidence_pb2.GetRoutingStatusResponse(
            status=evidence_pb2.RoutingStatus(
                routing_policy_version=policy.version,
                kill_switch=policy.terms.kill_switch,
                mode=mode_value(policy.terms.mode),
                learner=self._mind.learner_name,
                accounts=[
                    self._account(accounts[account], tenant, at)
                    for account in policy.terms.ordered(accounts)
                ],
                exploration_tokens=self._mind.tokens(tenant.key),
                comparison=_comparison_message(comparison) if comparison else None,
            )
        )

    async def _compared(self, tenant: Tenant, policy: RoutingPolicy) -> Comparison | None:
        if learner_share(policy.terms) in (0, 1):
            return None  # one side has all payers
        tries = await self._past.tries(tenant, policy.version, policy.created_ms, TRIES_MAX)
        return await asyncio.to_thread(compare, tries, policy.terms)

    def _account(self, account: Account, tenant: Tenant, at: float) -> evidence_pb2.AccountStatus:
        arm = arm_of(account.processor_account_id, account.processor, livemode=tenant.livemode)
        known = self._mind.knowledge(arm.account, at)
        standing = self._mind.standing(arm)
        since = standing.since
        return evidence_pb2.AccountStatus(
            processor_account_id=account.processor_account_id,
            processor=PROCESSORS[account.processor],
            enabled=account.enabled,
            outcomes=known.outcomes,
            effective_outcomes=known.effective_outcomes,
            effective_successes=known.effective_successes,
            breaker_state=BREAKER_STATES[standing.state],
            # Before its first change it stands so since ever.
            breaker_time=timestamp_of_ms(round(since * 1_000)) if since > 0 else None,
            breaker_channel=standing.channel,
        )


def _comparison_message(found: Comparison) -> evidence_pb2.RoutingComparison:
    return evidence_pb2.RoutingComparison(
        learner_tries=found.learner_tries,
        learner_succeeded=found.learner_succeeded,
        static_tries=found.static_tries,
        static_succeeded=found.static_succeeded,
        difference=found.conversion.value,
        difference_low=found.conversion.low,
        difference_high=found.conversion.high,
        p_value=found.conversion.p_value,
        net_value_difference=found.net_value.value,
        net_value_difference_low=found.net_value.low,
        net_value_difference_high=found.net_value.high,
    )
