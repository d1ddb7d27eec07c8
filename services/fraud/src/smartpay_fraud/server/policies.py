"""Speaks the contract of policies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from smartpay.fraud.v1 import policies_pb2, policies_pb2_grpc
from smartpay_chassis.calls import current_call
from smartpay_fraud.domain.audit import AuditRecord
from smartpay_fraud.domain.refusals import etag_mismatch
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.verdict import Costs, Policy
from smartpay_fraud.messages import timestamp
from smartpay_fraud.server.audit import record_of_call

Context = object  # gRPC's own context is the interceptors' business

THRESHOLD_CENTS = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000)
"""Sizes of payments for which thresholds are shown: a coffee order to a laptop, in US cents."""


class PolicyStore(Protocol):
    """Keeps policies. Every change is stored with its record and then in force."""

    async def put_policy(
        self, merchant_id: str, livemode: bool, policy: Policy, record: AuditRecord
    ) -> None:
        """Stores the next version; raises Refusal ETAG_MISMATCH when somebody was faster."""
        ...


class PoliciesServicer(policies_pb2_grpc.PoliciesServiceServicer):
    """Serves the policy of the caller's merchant.

    Args:
        rulebook: the policies in force.
        policies: keeps them.
        costs: those of the model in service, for who states none.
        now_ms: the time, in milliseconds since the epoch.
    """

    def __init__(
        self,
        rulebook: Rulebook,
        policies: PolicyStore,
        costs: Callable[[], Costs],
        now_ms: Callable[[], int],
    ) -> None:
        self._rulebook = rulebook
        self._policies = policies
        self._costs = costs
        self._now_ms = now_ms

    async def GetFraudPolicy(
        self, request: policies_pb2.GetFraudPolicyRequest, context: Context
    ) -> policies_pb2.GetFraudPolicyResponse:
        """Shows the policy in force."""
        call = current_call()
        policy = self._rulebook.book(call.merchant_id, call.livemode).policy
        call.respond_with(headers={"etag": policy.etag})
        return policies_pb2.GetFraudPolicyResponse(policy=self._message(policy))

    async def UpdateFraudPolicy(
        self, request: policies_pb2.UpdateFraudPolicyRequest, context: Context
    ) -> policies_pb2.UpdateFraudPolicyResponse:
        """Puts other terms in force."""
        call, now_ms = current_call(), self._now_ms()
        current = self._rulebook.book(call.merchant_id, call.livemode).policy
        if request.etag != current.etag:
            raise etag_mismatch()
        policy = policy_of(request.terms, current.version + 1, now_ms)
        record = record_of_call(call, "policy", _facts(current), _facts(policy), now_ms)
        await self._policies.put_policy(call.merchant_id, call.livemode, policy, record)
        call.respond_with(headers={"etag": policy.etag})
        return policies_pb2.UpdateFraudPolicyResponse(policy=self._message(policy))

    def _message(self, policy: Policy) -> policies_pb2.FraudPolicy:
        costs = policy.costs or self._costs()
        thresholds = []
        for cents in THRESHOLD_CENTS:
            review, block = costs.thresholds(cents, reviews=not policy.reviews_disabled)
            thresholds.append(
                policies_pb2.FraudThreshold(
                    amount_usd_cents=cents, review_from=review, block_from=block
                )
            )
        return policies_pb2.FraudPolicy(
            terms=policies_pb2.FraudPolicyTerms(
                costs=policies_pb2.FraudCosts(
                    chargeback_fee_cents=costs.chargeback_fee_cents,
                    goodwill_cents=costs.goodwill_cents,
                    margin_percent=costs.margin_percent,
                    review_cents=costs.review_cents,
                    review_miss_percent=costs.review_miss_percent,
                ),
                reviews_disabled=policy.reviews_disabled,
                control_basis_points=policy.control_basis_points,
                control_cents_max=policy.control_cents_max,
            ),
            thresholds=thresholds,
            update_time=timestamp(policy.update_ms) if policy.update_ms else None,
            etag=policy.etag,
        )


def policy_of(terms: policies_pb2.FraudPolicyTerms, version: int, now_ms: int) -> Policy:
    """Reads terms."""
    costs = terms.costs
    return Policy(
        costs=Costs(
            chargeback_fee_cents=costs.chargeback_fee_cents,
            goodwill_cents=costs.goodwill_cents,
            margin_percent=costs.margin_percent,
            review_cents=costs.review_cents,
            review_miss_percent=costs.review_miss_percent,
        )
        if terms.HasField("costs")
        else None,
        reviews_disabled=terms.reviews_disabled,
        control_basis_points=terms.control_basis_points,
        control_cents_max=terms.control_cents_max,
        version=version,
        update_ms=now_ms,
    )


def _facts(policy: Policy) -> dict[str, object]:
    return {
        "costs": policy.costs,
        "reviews_disabled": policy.reviews_disabled,
        "control_basis_points": policy.control_basis_points,
        "control_cents_max": policy.control_cents_max,
    }
