"""What merchants see of routing policies, evidence and the audit trail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from smartpay.router.v1 import audit_pb2, evidence_pb2, policies_pb2, router_pb2
from smartpay.router.v1.audit_pb2_grpc import RoutingAuditServiceStub
from smartpay.router.v1.evidence_pb2_grpc import RoutingEvidenceServiceStub
from smartpay.router.v1.policies_pb2 import (
    RoutingCondition,
    RoutingPolicyTerms,
    RoutingRule,
    SplitShare,
    VolumeSplit,
)
from smartpay.router.v1.policies_pb2_grpc import RoutingPoliciesServiceStub
from smartpay.router.v1.router_pb2_grpc import RouterServiceStub
from smartpay.type.v1.instrument_pb2 import Instrument, Processor, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.sqlite import SqliteStore
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    OTHER_ACCOUNT,
    OTHER_MERCHANT,
    FakeClock,
    as_merchant,
    error_info,
)
from smartpay_router.adapters.sqlite_policies import SqlitePolicies
from smartpay_router.domain.policy import PolicyBook
from smartpay_router.domain.tenant import Tenant
from smartpay_router.joining import Brain

if TYPE_CHECKING:
    from smartpay.router.v1.audit_pb2_grpc import RoutingAuditServiceAsyncStub
    from smartpay.router.v1.evidence_pb2_grpc import RoutingEvidenceServiceAsyncStub
    from smartpay.router.v1.policies_pb2_grpc import RoutingPoliciesServiceAsyncStub
    from smartpay.router.v1.router_pb2_grpc import RouterServiceAsyncStub

FIRST, SECOND = DEMO_ACCOUNTS
LIVE, STATIC = RoutingPolicyTerms.MODE_LIVE, RoutingPolicyTerms.MODE_STATIC
OTHER = as_merchant(OTHER_MERCHANT)
ONLY_SECOND = RoutingRule(
    rule_id="ONLY_SECOND",
    action=RoutingRule.ACTION_REQUIRE,
    processor_account_ids=[SECOND],
    condition=RoutingCondition(countries=["DE"]),
)


@pytest.fixture
def router(channel: grpc.aio.Channel) -> RouterServiceAsyncStub:
    return RouterServiceStub(channel)


@pytest.fixture
def policies(channel: grpc.aio.Channel) -> RoutingPoliciesServiceAsyncStub:
    return RoutingPoliciesServiceStub(channel)


@pytest.fixture
def evidence(channel: grpc.aio.Channel) -> RoutingEvidenceServiceAsyncStub:
    return RoutingEvidenceServiceStub(channel)


@pytest.fixture
def audit(channel: grpc.aio.Channel) -> RoutingAuditServiceAsyncStub:
    return RoutingAuditServiceStub(channel)


def ask(country: str = "", fingerprint: str = "") -> router_pb2.DecideRequest:
    return router_pb2.DecideRequest(
        amount=Money(minor_units=2500, currency_code="USD"),
        instrument=Instrument(
            tokens=[ProcessorToken(processor_account_id=a, token="pm") for a in DEMO_ACCOUNTS],
            fingerprint=fingerprint,
        ),
        country=country,
    )


async def update(
    policies: RoutingPoliciesServiceAsyncStub,
    terms: RoutingPolicyTerms,
    etag: str = '"1"',
    note: str = "",
    metadata: Sequence[tuple[str, str | bytes]] | None = None,
) -> policies_pb2.RoutingPolicy:
    answered = await policies.UpdateRoutingPolicy(
        policies_pb2.UpdateRoutingPolicyRequest(etag=etag, terms=terms, note=note),
        metadata=metadata or as_merchant(),
    )
    return answered.policy


async def get(
    policies: RoutingPoliciesServiceAsyncStub,
    version: int = 0,
    metadata: Sequence[tuple[str, str | bytes]] | None = None,
) -> policies_pb2.RoutingPolicy:
    answered = await policies.GetRoutingPolicy(
        policies_pb2.GetRoutingPolicyRequest(version=version), metadata=metadata or as_merchant()
    )
    return answered.policy


def firsts(decision: router_pb2.Decision) -> str:
    return decision.ranking[0].processor_account_id if decision.ranking else ""


async def decide(router: RouterServiceAsyncStub, **facts: str) -> router_pb2.Decision:
    return (await router.Decide(ask(**facts), metadata=as_merchant())).decision


async def test_a_policy_is_in_force_with_the_next_decision(
    router: RouterServiceAsyncStub, policies: RoutingPoliciesServiceAsyncStub, clock: FakeClock
) -> None:
    first = await get(policies)
    assert (first.version, first.etag, first.terms.mode) == (1, '"1"', LIVE)
    assert not first.HasField("create_time")
    terms = RoutingPolicyTerms(mode=STATIC, static_order=[SECOND], rules=[ONLY_SECOND])
    changed = await update(policies, terms, note="a try")
    assert (changed.version, changed.terms, changed.note) == (2, terms, "a try")
    assert changed.create_time.ToDatetime() == clock().replace(tzinfo=None)
    decision = await decide(router)
    assert firsts(decision) == SECOND
    assert decision.served_by == router_pb2.Decision.SERVED_BY_STATIC
    assert decision.routing_policy_version == 2
    german = await decide(router, country="DE")
    assert [e.processor_account_id for e in german.excluded] == [FIRST]
    assert (german.excluded[0].obstacles, list(german.excluded[0].codes)) == (
        128,
        ["RULE_NOT_REQUIRED"],
    )
    assert list(german.excluded[0].rule_ids) == list(german.matched_rule_ids) == ["ONLY_SECOND"]


async def test_every_term_is_answered_as_it_was_sent(
    policies: RoutingPoliciesServiceAsyncStub,
) -> None:
    condition = RoutingCondition(
        minor_units_min=0,
        minor_units_max=100,
        currency_codes=["USD"],
        countries=["DE"],
        risk_min=0.0,
        risk_max=0.5,
        off_session=False,
        processors=[Processor.PROCESSOR_STRIPE],
        weekdays=[1, 7],
        hour_from=0,
        hour_before=24,
    )
    terms = RoutingPolicyTerms(
        kill_switch=True,
        mode=RoutingPolicyTerms.MODE_CANARY,
        canary_percent=10,
        static_order=[SECOND, FIRST],
        rules=[
            RoutingRule(
                rule_id="A",
                condition=condition,
                action=RoutingRule.ACTION_PREFER,
                processor_account_ids=[FIRST],
                disabled=True,
            )
        ],
        splits=[
            VolumeSplit(
                rule_id="B",
                condition=condition,
                shares=[SplitShare(processor_account_id=FIRST, percent=100)],
                disabled=True,
            )
        ],
        limits=[
            policies_pb2.AccountLimit(
                processor_account_id=FIRST,
                amounts=[
                    policies_pb2.AmountRange(
                        currency_code="USD", minor_units_min=1, minor_units_max=2
                    )
                ],
                countries=["DE"],
            )
        ],
        fee_basis_points_max=700,
        exploration_basis_points=0,
    )
    changed = await update(policies, terms)
    assert changed.terms == terms
    assert await get(policies) == changed


async def test_who_did_not_see_the_last_change_is_refused_and_a_repeat_is_not(
    policies: RoutingPoliciesServiceAsyncStub,
) -> None:
    terms = RoutingPolicyTerms(mode=STATIC)
    changed = await update(policies, terms)
    assert await update(policies, terms) == changed
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(policies, RoutingPolicyTerms(mode=LIVE))
    info = error_info(caught.value)
    assert (info["code"], info["reason"]) == ("ABORTED", "ETAG_MISMATCH")
    assert (await update(policies, RoutingPolicyTerms(mode=LIVE), etag='"2"')).version == 3


async def test_a_change_at_another_replica_is_seen_before_it_is_looked_for(
    policies: RoutingPoliciesServiceAsyncStub, store: SqliteStore
) -> None:
    await update(policies, RoutingPolicyTerms(mode=STATIC), note="here")
    there = SqlitePolicies(store, PolicyBook())
    merchant = DEMO_MERCHANT.merchant_id
    stored = await there.version(merchant, DEMO_MERCHANT.livemode, 2)
    assert stored is not None
    record = (await there.page_of_records(merchant, DEMO_MERCHANT.livemode, 2**62, 1))[0][0]
    await there.put(
        merchant,
        DEMO_MERCHANT.livemode,
        replace(stored, version=3, note="there"),
        replace(record, audit_id="aud_d1" + "2" * 24),
    )
    assert (await get(policies)).note == "there"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(policies, RoutingPolicyTerms(mode=LIVE), '"2"')
    assert error_info(caught.value)["reason"] == "ETAG_MISMATCH"


async def test_versions_are_listed_newest_first_down_to_what_all_begin_with(
    policies: RoutingPoliciesServiceAsyncStub,
) -> None:
    for number in (1, 2, 3):
        await update(policies, RoutingPolicyTerms(mode=STATIC), f'"{number}"', f"note {number}")
    seen, token = [], ""
    while True:
        page = await policies.ListRoutingPolicies(
            policies_pb2.ListRoutingPoliciesRequest(page_size=2, page_token=token),
            metadata=as_merchant(),
        )
        seen += [policy.version for policy in page.policies]
        if not (token := page.next_page_token):
            break
    assert seen == [4, 3, 2, 1]
    assert (await get(policies, version=3)).note == "note 2"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(policies, version=9)
    assert error_info(caught.value)["reason"] == "POLICY_VERSION_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await policies.ListRoutingPolicies(
            policies_pb2.ListRoutingPoliciesRequest(page_token="x"), metadata=as_merchant()
        )
    assert error_info(caught.value)["reason"] == "PAGE_TOKEN_INVALID"


async def test_another_merchant_sees_nothing_of_a_policy_and_its_records(
    policies: RoutingPoliciesServiceAsyncStub, audit: RoutingAuditServiceAsyncStub
) -> None:
    await update(policies, RoutingPolicyTerms(mode=STATIC, static_order=[SECOND]))
    assert (await get(policies, metadata=OTHER)).version == 1
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(policies, version=2, metadata=OTHER)
    assert error_info(caught.value)["reason"] == "POLICY_VERSION_NOT_FOUND"
    records = await audit.ListRoutingAuditRecords(
        audit_pb2.ListRoutingAuditRecordsRequest(), metadata=OTHER
    )
    assert list(records.records) == []


@pytest.mark.parametrize(
    ("terms", "reason", "field"),
    [
        (
            RoutingPolicyTerms(mode=LIVE, static_order=[OTHER_ACCOUNT]),
            "ACCOUNT_UNKNOWN",
            "terms.static_order[0]",
        ),
        (
            RoutingPolicyTerms(mode=STATIC, holdout_percent=5),
            "POLICY_INVALID",
            "terms.holdout_percent",
        ),
        (RoutingPolicyTerms(), "FIELD_INVALID", "terms.mode"),
        (
            RoutingPolicyTerms(
                mode=LIVE,
                rules=[
                    RoutingRule(
                        rule_id="A",
                        action=RoutingRule.ACTION_EXCLUDE,
                        processor_account_ids=[FIRST],
                        condition=RoutingCondition(minor_units_min=5),
                    )
                ],
            ),
            "FIELD_INVALID",
            "terms.rules[0].condition",
        ),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused_by_field(
    policies: RoutingPoliciesServiceAsyncStub, terms: RoutingPolicyTerms, reason: str, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await update(policies, terms)
    info = error_info(caught.value)
    assert (info["reason"], info["field"]) == (reason, field)
    assert info["remedy"]
    assert (await get(policies)).version == 1


async def test_every_change_leaves_a_record_of_who_changed_what(
    policies: RoutingPoliciesServiceAsyncStub, audit: RoutingAuditServiceAsyncStub
) -> None:
    await update(policies, RoutingPolicyTerms(mode=STATIC))
    await update(policies, RoutingPolicyTerms(mode=STATIC, kill_switch=True), '"2"', "fire")
    answered = await audit.ListRoutingAuditRecords(
        audit_pb2.ListRoutingAuditRecordsRequest(page_size=1), metadata=as_merchant()
    )
    [newest] = answered.records
    assert newest.action == "RoutingPoliciesService.UpdateRoutingPolicy"
    assert (newest.subject_id, bool(newest.actor)) == ("policy", True)
    assert {c.field: (c.before, c.after) for c in newest.changes} == {
        "kill_switch": ("False", "True"),
        "note": ("", "fire"),
        "version": ("2", "3"),
    }
    rest = await audit.ListRoutingAuditRecords(
        audit_pb2.ListRoutingAuditRecordsRequest(page_size=1, page_token=answered.next_page_token),
        metadata=as_merchant(),
    )
    assert {c.field for c in rest.records[0].changes} == {"mode", "version"}
    assert rest.next_page_token == ""


async def test_a_dry_run_tells_what_would_change_and_changes_nothing(
    router: RouterServiceAsyncStub, policies: RoutingPoliciesServiceAsyncStub, clock: FakeClock
) -> None:
    made = []
    for country in ("DE", "US", "DE"):
        clock.advance(seconds=1)
        made.append(await decide(router, country=country))
    request = policies_pb2.DryRunRoutingPolicyRequest(
        terms=RoutingPolicyTerms(mode=LIVE, rules=[ONLY_SECOND]), decisions_max=2
    )
    newest = await policies.DryRunRoutingPolicy(request, metadata=as_merchant())
    request.cursor = newest.next_cursor
    oldest = await policies.DryRunRoutingPolicy(request, metadata=as_merchant())
    assert (newest.decisions, oldest.decisions, oldest.next_cursor) == (2, 1, "")
    assert newest.changed + oldest.changed == 2
    assert {(c.stored_account_id, c.proposed_account_id) for c in newest.changes} == {
        (FIRST, SECOND)
    }
    named = [*newest.changes[0].decision_ids, *oldest.changes[0].decision_ids]
    assert set(named) == {made[0].decision_id, made[2].decision_id}
    assert [(e.code, e.stored, e.proposed) for e in oldest.exclusions] == [
        ("RULE_NOT_REQUIRED", 0, 1)
    ]
    assert [(m.rule_id, m.decisions) for m in oldest.matches] == [("ONLY_SECOND", 1)]
    [dollars] = oldest.differences
    assert (dollars.decisions, dollars.amount.minor_units) == (1, 2500)
    assert (dollars.stored_fee.minor_units, dollars.proposed_fee.minor_units) == (103, 110)
    assert dollars.stored_success == pytest.approx(dollars.proposed_success)
    assert (await get(policies)).version == 1


async def test_the_same_terms_in_a_dry_run_change_no_first_place(
    router: RouterServiceAsyncStub, policies: RoutingPoliciesServiceAsyncStub
) -> None:
    halves = RoutingPolicyTerms(
        mode=LIVE,
        splits=[
            VolumeSplit(
                rule_id="HALVES",
                shares=[SplitShare(processor_account_id=a, percent=50) for a in DEMO_ACCOUNTS],
            )
        ],
    )
    await update(policies, halves)
    made = [await decide(router) for _ in range(30)]
    assert {firsts(decision) for decision in made} == {FIRST, SECOND}
    answered = await policies.DryRunRoutingPolicy(
        policies_pb2.DryRunRoutingPolicyRequest(terms=halves), metadata=as_merchant()
    )
    assert (answered.decisions, answered.changed) == (30, 0)
    assert [(m.rule_id, m.decisions) for m in answered.matches] == [("HALVES", 30)]


async def test_a_dry_run_of_another_merchant_sees_none_of_these_decisions(
    router: RouterServiceAsyncStub, policies: RoutingPoliciesServiceAsyncStub
) -> None:
    await decide(router)
    answered = await policies.DryRunRoutingPolicy(
        policies_pb2.DryRunRoutingPolicyRequest(terms=RoutingPolicyTerms(mode=LIVE)),
        metadata=OTHER,
    )
    assert answered.decisions == 0


async def follow(
    router: RouterServiceAsyncStub, number: int, outcome: router_pb2.Outcome.ValueType
) -> router_pb2.Decision:
    """Decides for one payer and tells how the first place did."""
    decision = await decide(router, fingerprint=f"print-{number}")
    await router.RecordOutcome(
        router_pb2.RecordOutcomeRequest(
            decision_id=decision.decision_id,
            processor_account_id=firsts(decision),
            outcome=outcome,
        ),
        metadata=as_merchant(),
    )
    return decision


async def test_an_evaluation_finds_the_better_account_in_the_log_of_a_split(
    router: RouterServiceAsyncStub, policies: RoutingPoliciesServiceAsyncStub
) -> None:
    halves = [SplitShare(processor_account_id=a, percent=50) for a in DEMO_ACCOUNTS]
    split = VolumeSplit(rule_id="HALVES", shares=halves)
    await update(policies, RoutingPolicyTerms(mode=LIVE, splits=[split]))
    for number in range(120):
        decision = await decide(router)
        # The first account succeeds four times in ten, the second nine times.
        good = number % 10 < (4 if firsts(decision) == FIRST else 9)
        await router.RecordOutcome(
            router_pb2.RecordOutcomeRequest(
                decision_id=decision.decision_id,
                processor_account_id=firsts(decision),
                outcome=router_pb2.OUTCOME_SUCCEEDED if good else router_pb2.OUTCOME_DECLINED,
            ),
            metadata=as_merchant(),
        )
    answered = await policies.EvaluateRoutingPolicy(
        policies_pb2.EvaluateRoutingPolicyRequest(
            terms=RoutingPolicyTerms(mode=STATIC, static_order=[SECOND])
        ),
        metadata=as_merchant(),
    )
    assert (answered.decisions, answered.skipped) == (120, 0)
    assert answered.logged.conversion.low < 0.65 < answered.logged.conversion.high
    names = policies_pb2.OffPolicyEstimate.Estimator
    assert [names.Name(e.estimator) for e in answered.estimates] == [
        "ESTIMATOR_IPS",
        "ESTIMATOR_SNIPS",
        "ESTIMATOR_DM",
        "ESTIMATOR_DR",
    ]
    for estimate in answered.estimates:
        conversion = estimate.worth.conversion
        assert conversion.low < 0.9 < conversion.high
        assert conversion.value > answered.logged.conversion.value
    assert answered.unsupported_share == 0
    assert answered.effective_decisions == pytest.approx(60, abs=20)


async def test_an_evaluation_of_nothing_says_so(
    policies: RoutingPoliciesServiceAsyncStub,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await policies.EvaluateRoutingPolicy(
            policies_pb2.EvaluateRoutingPolicyRequest(terms=RoutingPolicyTerms(mode=LIVE)),
            metadata=as_merchant(),
        )
    info = error_info(caught.value)
    assert (info["code"], info["reason"]) == ("FAILED_PRECONDITION", "LOG_TOO_THIN")
    assert info["decisions"] == "0"


async def test_an_explanation_names_every_number_and_what_became_of_it(
    router: RouterServiceAsyncStub, evidence: RoutingEvidenceServiceAsyncStub
) -> None:
    decision = await follow(router, 1, router_pb2.OUTCOME_DECLINED)
    request = evidence_pb2.ExplainDecisionRequest(decision_id=decision.decision_id)
    told = (await evidence.ExplainDecision(request, metadata=as_merchant())).explanation
    assert told.decision == decision
    assert told.mode == LIVE
    assert {c.name: c.value for c in told.context}["intercept"] == 1
    assert len(told.context) == len(decision.context)
    assert list(told.static_order) == [FIRST, SECOND]
    assert [(o.attempt_index, o.processor_account_id, o.outcome) for o in told.outcomes] == [
        (0, FIRST, router_pb2.OUTCOME_DECLINED)
    ]
    assert all(step.endswith(".") for step in told.steps)
    assert "The learner decided." in told.steps
    assert told.steps[-1] == "The static order would have put the same first."
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await evidence.ExplainDecision(request, metadata=OTHER)
    assert error_info(caught.value)["reason"] == "DECISION_NOT_FOUND"


async def test_the_status_shows_a_merchants_own_outcomes_only(
    router: RouterServiceAsyncStub, evidence: RoutingEvidenceServiceAsyncStub, brain: Brain
) -> None:
    await follow(router, 1, router_pb2.OUTCOME_SUCCEEDED)
    await follow(router, 2, router_pb2.OUTCOME_SUCCEEDED)
    request = evidence_pb2.GetRoutingStatusRequest()
    status = (await evidence.GetRoutingStatus(request, metadata=as_merchant())).status
    assert (status.routing_policy_version, status.mode, status.kill_switch) == (1, LIVE, False)
    assert status.learner.startswith("linucb")
    first, second = status.accounts
    assert (first.processor_account_id, first.outcomes, second.outcomes) == (FIRST, 2, 0)
    assert first.effective_successes == pytest.approx(2, rel=0.01)
    assert first.enabled
    assert first.breaker_state == router_pb2.BREAKER_STATE_CLOSED
    assert not first.HasField("breaker_time")
    tenant = Tenant(DEMO_MERCHANT.merchant_id, DEMO_MERCHANT.livemode)
    assert status.exploration_tokens == brain.tokens(tenant.key)
    assert not status.HasField("comparison")
    theirs = (await evidence.GetRoutingStatus(request, metadata=OTHER)).status
    assert [account.outcomes for account in theirs.accounts] == [0]


async def test_an_open_breaker_is_shown_with_its_channel_and_since_when(
    router: RouterServiceAsyncStub, evidence: RoutingEvidenceServiceAsyncStub, clock: FakeClock
) -> None:
    for number in range(3):
        clock.advance(seconds=1)
        await follow(router, number, router_pb2.OUTCOME_TECHNICAL_FAILURE)
    status = (
        await evidence.GetRoutingStatus(
            evidence_pb2.GetRoutingStatusRequest(), metadata=as_merchant()
        )
    ).status
    shown = {a.processor_account_id: a for a in status.accounts}[FIRST]
    assert shown.breaker_state == router_pb2.BREAKER_STATE_OPEN
    assert shown.breaker_channel == "technical"
    assert shown.breaker_time.ToDatetime() == clock().replace(tzinfo=None)
    decision = await decide(router)
    assert firsts(decision) == SECOND
    assert decision.ranking[1].breaker_state == router_pb2.BREAKER_STATE_OPEN


async def test_the_status_compares_the_learner_with_its_holdout(
    router: RouterServiceAsyncStub,
    policies: RoutingPoliciesServiceAsyncStub,
    evidence: RoutingEvidenceServiceAsyncStub,
    clock: FakeClock,
) -> None:
    await follow(router, 0, router_pb2.OUTCOME_SUCCEEDED)  # of the version before: not compared
    await update(policies, RoutingPolicyTerms(mode=LIVE, holdout_percent=40))
    made = [await follow(router, n, router_pb2.OUTCOME_SUCCEEDED) for n in range(20)]
    clock.advance(seconds=1)
    await follow(router, 3, router_pb2.OUTCOME_DECLINED)  # the same payer counts once
    holdout = sum(d.served_by == router_pb2.Decision.SERVED_BY_HOLDOUT for d in made)
    assert 0 < holdout < 20
    status = (
        await evidence.GetRoutingStatus(
            evidence_pb2.GetRoutingStatusRequest(), metadata=as_merchant()
        )
    ).status
    found = status.comparison
    assert (found.static_tries, found.static_succeeded) == (holdout, holdout)
    assert (found.learner_tries, found.learner_succeeded) == (20 - holdout, 20 - holdout)
    assert found.difference_low <= 0 <= found.difference_high
    assert found.net_value_difference_low <= 0 <= found.net_value_difference_high
    assert 0 < found.p_value <= 1
