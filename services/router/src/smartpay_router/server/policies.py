"""Speaks the contract of routing policies, and tries proposed ones on past decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Protocol

from smartpay.router.v1 import policies_pb2, policies_pb2_grpc
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_router.domain.accounts import Directory
from smartpay_router.domain.audit import AuditRecord
from smartpay_router.domain.dry_run import DryRun, Past, Report
from smartpay_router.domain.evaluation import Caution, Estimator, Evaluation, Worth, evaluate
from smartpay_router.domain.off_policy import Interval, OffPolicyError
from smartpay_router.domain.policy import (
    FIRST_POLICY,
    PolicyBook,
    RoutingPolicy,
    Terms,
    check_terms,
    etag_mismatch,
    version_not_found,
)
from smartpay_router.domain.route import Pipeline
from smartpay_router.domain.tenant import Tenant
from smartpay_router.server.audit import actor_of, record_of_call
from smartpay_router.server.routing import accounts_of, tenant_of
from smartpay_router.server.terms import policy_message, terms_of

Context = object  # gRPC's own context is the interceptors' business

DRY_RUN_DEFAULT = 1_000
"""Decisions of one dry run when it doesn't say: well under a second."""

EVALUATION_DEFAULT = 5_000
"""Decisions of one evaluation when it doesn't say: a few seconds, and intervals of a point."""

PAGE = 50
"""Decisions decided again at once; between pages payments get their turn, about 8 ms later."""

_FIRST_VERSION = 2**62  # before it, every version

Position = tuple[int, str]
NEWEST: Position = (2**62, "")
"""Before it, every decision."""

_ESTIMATORS = {
    name: policies_pb2.OffPolicyEstimate.Estimator.Value(f"ESTIMATOR_{name.name}")
    for name in Estimator
}
_CAUTIONS = {
    caution: policies_pb2.EvaluateRoutingPolicyResponse.Caution.Value(f"CAUTION_{caution}")
    for caution in Caution
}


class PolicyStore(Protocol):
    """Keeps policies. Every change is stored with its record and then in force."""

    async def catch_up(self) -> None:
        """Puts in force what other replicas stored meanwhile."""
        ...

    async def put(
        self, merchant_id: str, livemode: bool, policy: RoutingPolicy, record: AuditRecord
    ) -> None:
        """Stores the next version; raises Refusal ETAG_MISMATCH when somebody was faster."""
        ...

    async def version(self, merchant_id: str, livemode: bool, version: int) -> RoutingPolicy | None:
        """Reads one version; None when there never was such a one."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, before: int, size: int
    ) -> list[RoutingPolicy]:
        """Reads versions older than `before`, newest first, without what all begin with."""
        ...


class PastReader(Protocol):
    """Reads past decisions back."""

    async def page(
        self, tenant: Tenant, before: Position, size: int, *, ended: bool
    ) -> tuple[list[Past], Position | None]:
        """Reads decisions before a position, newest first, and where to go on; None at the end."""
        ...


class RoutingPoliciesServicer(policies_pb2_grpc.RoutingPoliciesServiceServicer):
    """Serves the policy of the caller's merchant.

    Args:
        book: the policies in force.
        policies: keeps them.
        pipeline: decides again, without a trace.
        past: what was decided.
        directory: the accounts that merchants have added.
        clock: answers the present, with a time zone.
    """

    def __init__(
        self,
        book: PolicyBook,
        policies: PolicyStore,
        pipeline: Pipeline,
        past: PastReader,
        directory: Directory,
        clock: Callable[[], datetime],
    ) -> None:
        self._book = book
        self._policies = policies
        self._pipeline = pipeline
        self._past = past
        self._directory = directory
        self._clock = clock

    async def GetRoutingPolicy(
        self, request: policies_pb2.GetRoutingPolicyRequest, context: Context
    ) -> policies_pb2.GetRoutingPolicyResponse:
        """Shows the policy in force, or an earlier version."""
        call = current_call()
        await self._policies.catch_up()
        policy: RoutingPolicy | None = self._book.of(call.merchant_id, call.livemode)
        if request.version:
            policy = await self._policies.version(call.merchant_id, call.livemode, request.version)
        if policy is None:
            raise version_not_found()
        call.respond_with(headers={"etag": policy.etag})
        return policies_pb2.GetRoutingPolicyResponse(policy=policy_message(policy))

    async def ListRoutingPolicies(
        self, request: policies_pb2.ListRoutingPoliciesRequest, context: Context
    ) -> policies_pb2.ListRoutingPoliciesResponse:
        """Lists the versions, newest first; the last is what every merchant begins with."""
        call, size = current_call(), page_size(request.page_size)
        bound_to = f"routing policies {call.merchant_id} {call.livemode}"
        before = _FIRST_VERSION
        if request.page_token:
            before = int(decode_page_token(request.page_token, bound_to=bound_to))
        found = await self._policies.page(call.merchant_id, call.livemode, before, size + 1)
        if len(found) <= size:
            found.append(FIRST_POLICY)
        shown = found[:size]
        position = str(shown[-1].version) if len(found) > size else ""
        return policies_pb2.ListRoutingPoliciesResponse(
            policies=map(policy_message, shown),
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )

    async def UpdateRoutingPolicy(
        self, request: policies_pb2.UpdateRoutingPolicyRequest, context: Context
    ) -> policies_pb2.UpdateRoutingPolicyResponse:
        """Puts other terms in force; a repeat of the last change answers what is in force."""
        call, now_ms = current_call(), round(self._clock().timestamp() * 1_000)
        await self._policies.catch_up()
        current, actor = self._book.of(call.merchant_id, call.livemode), actor_of(call)
        terms = self._checked(call, request.terms)
        changed = RoutingPolicy(current.version + 1, terms, request.note, now_ms, actor)
        if request.etag != current.etag:
            said = (current.terms, current.note, current.actor)
            before = RoutingPolicy(current.version - 1, terms).etag
            if request.etag != before or said != (terms, request.note, actor):
                raise etag_mismatch()
            changed = current
        else:
            record = record_of_call(call, "policy", _facts(current), _facts(changed), now_ms)
            await self._policies.put(call.merchant_id, call.livemode, changed, record)
        call.respond_with(headers={"etag": changed.etag})
        return policies_pb2.UpdateRoutingPolicyResponse(policy=policy_message(changed))

    async def DryRunRoutingPolicy(
        self, request: policies_pb2.DryRunRoutingPolicyRequest, context: Context
    ) -> policies_pb2.DryRunRoutingPolicyResponse:
        """Decides past payments again by other terms."""
        call = current_call()
        dry_run = self._dry_run(call, self._checked(call, request.terms))
        bound_to = f"routing dry run {call.merchant_id} {call.livemode}"
        position: Position | None = NEWEST
        if request.cursor:
            at, decision_id = decode_page_token(request.cursor, bound_to=bound_to).split()
            position = (int(at), decision_id)
        left = request.decisions_max or DRY_RUN_DEFAULT
        while left and position is not None:
            pasts, position = await self._past.page(
                tenant_of(call), position, min(left, PAGE), ended=False
            )
            dry_run.count(pasts)
            left -= len(pasts)
            await asyncio.sleep(0)
        cursor = ""
        if position is not None:
            cursor = encode_page_token(f"{position[0]} {position[1]}", bound_to=bound_to)
        return _report_message(dry_run.report, cursor)

    async def EvaluateRoutingPolicy(
        self, request: policies_pb2.EvaluateRoutingPolicyRequest, context: Context
    ) -> policies_pb2.EvaluateRoutingPolicyResponse:
        """Estimates what other terms would have earned."""
        call = current_call()
        dry_run = self._dry_run(call, self._checked(call, request.terms))
        position: Position | None = NEWEST
        left, skipped = request.decisions_max or EVALUATION_DEFAULT, 0
        log, target = [], []
        while left and position is not None:
            pasts, position = await self._past.page(
                tenant_of(call), position, min(left, PAGE), ended=True
            )
            for past in pasts:
                if (row := dry_run.chances(past)) is None:
                    skipped += 1
                    continue
                log.append(row[0])
                target.append(row[1])
            left -= len(pasts)
            await asyncio.sleep(0)
        try:
            found = await asyncio.to_thread(evaluate, log, target)
        except OffPolicyError:
            raise _log_too_thin(len(log)) from None
        return _evaluation_message(found, skipped)

    def _checked(self, call: Call, message: policies_pb2.RoutingPolicyTerms) -> Terms:
        terms = terms_of(message)
        check_terms(terms, self._accounts(call))
        return terms

    def _accounts(self, call: Call) -> list[str]:
        return [each.processor_account_id for each in accounts_of(call, self._directory)]

    def _dry_run(self, call: Call, terms: Terms) -> DryRun:
        return DryRun(self._pipeline, terms, self._accounts(call), self._clock().timestamp())


def _log_too_thin(decisions: int) -> Refusal:
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "LOG_TOO_THIN",
        "Too few decisions ended, or none that the policy would make, to evaluate it.",
        remedy="Wait for more payments, or try the policy in MODE_SHADOW or MODE_CANARY.",
        facts={"decisions": str(decisions)},
    )


def _facts(policy: RoutingPolicy) -> dict[str, object]:
    return {"version": policy.version, "note": policy.note or None, **asdict(policy.terms)}


def _report_message(report: Report, cursor: str) -> policies_pb2.DryRunRoutingPolicyResponse:
    codes = sorted(report.excluded_stored.keys() | report.excluded_proposed.keys())
    return policies_pb2.DryRunRoutingPolicyResponse(
        decisions=report.decisions,
        skipped=report.skipped,
        changed=report.changed,
        unroutable_stored=report.unroutable_stored,
        unroutable_proposed=report.unroutable_proposed,
        exclusions=[
            policies_pb2.DryRunExclusion(
                code=code,
                stored=report.excluded_stored[code],
                proposed=report.excluded_proposed[code],
            )
            for code in codes
        ],
        matches=[
            policies_pb2.DryRunMatch(rule_id=rule_id, decisions=count)
            for rule_id, count in report.matches.items()
        ],
        changes=[
            policies_pb2.DryRunChange(
                stored_account_id=stored,
                proposed_account_id=proposed,
                decisions=kind.decisions,
                decision_ids=kind.decision_ids,
            )
            for (stored, proposed), kind in report.most_frequent()
        ],
        differences=[
            policies_pb2.DryRunDifference(
                decisions=total.decisions,
                amount=Money(minor_units=total.amount, currency_code=code),
                stored_fee=Money(minor_units=total.stored_fee, currency_code=code),
                proposed_fee=Money(minor_units=total.proposed_fee, currency_code=code),
                stored_success=total.stored_success / total.decisions,
                proposed_success=total.proposed_success / total.decisions,
            )
            for code, total in sorted(report.sums.items())
        ],
        next_cursor=cursor,
    )


def _evaluation_message(
    found: Evaluation, skipped: int
) -> policies_pb2.EvaluateRoutingPolicyResponse:
    return policies_pb2.EvaluateRoutingPolicyResponse(
        decisions=found.decisions,
        skipped=skipped,
        logged=_worth(found.logged),
        estimates=[
            policies_pb2.OffPolicyEstimate(estimator=_ESTIMATORS[name], worth=_worth(worth))
            for name, worth in found.proposed.items()
        ],
        effective_decisions=found.effective_decisions,
        unsupported_share=found.unsupported_share,
        cautions=[_CAUTIONS[caution] for caution in found.cautions],
    )


def _worth(worth: Worth) -> policies_pb2.RoutingWorth:
    return policies_pb2.RoutingWorth(
        conversion=_interval(worth.conversion), net_value=_interval(worth.net_value)
    )


def _interval(interval: Interval) -> policies_pb2.ShareInterval:
    return policies_pb2.ShareInterval(value=interval.value, low=interval.low, high=interval.high)
