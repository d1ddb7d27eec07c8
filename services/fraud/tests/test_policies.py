"""What mistakes cost is the merchant's to say, and every change of it is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartpay.fraud.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    fraud_pb2,
    fraud_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
)
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import OTHER_MERCHANT, as_merchant, error_info

ADA, BOB = as_merchant(sub="ada"), as_merchant(sub="bob")


async def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_info(caught.value)


@pytest.fixture
def score(desk: Any) -> Callable[..., Any]:
    stub = desk.stub(fraud_pb2_grpc.FraudServiceStub)

    async def ask(transaction_id: str, probability: float = 0.3, **changes: Any) -> Any:
        desk.judge.probability = probability
        fields = {"amount": Money(minor_units=20_000, currency_code="USD"), **changes}
        request = fraud_pb2.ScoreRequest(transaction_id=transaction_id, **fields)
        return (await stub.Score(request, metadata=as_merchant())).assessment

    return ask


async def test_a_policy_changes_the_verdicts_and_shows_its_thresholds(
    score: Any, desk: Any
) -> None:
    policies = desk.stub(policies_pb2_grpc.PoliciesServiceStub)
    read = await policies.GetFraudPolicy(policies_pb2.GetFraudPolicyRequest(), metadata=ADA)
    before = read.policy
    assert (before.etag, before.terms.costs.review_cents) == ('"0"', 2_000)
    assert (await score("t-1")).verdict == fraud_pb2.Assessment.VERDICT_REVIEW
    terms = policies_pb2.FraudPolicyTerms(reviews_disabled=True)
    terms.costs.CopyFrom(before.terms.costs)
    terms.costs.goodwill_cents = 0
    terms.costs.margin_percent = 0
    request = policies_pb2.UpdateFraudPolicyRequest(etag=before.etag, terms=terms)
    after = (await policies.UpdateFraudPolicy(request, metadata=ADA)).policy
    assert after.terms == terms
    assert not any(each.HasField("review_from") for each in after.thresholds)
    blocked_from = [each.block_from for each in before.thresholds]
    assert all(
        new.block_from < old for new, old in zip(after.thresholds, blocked_from, strict=True)
    )
    assert (await score("t-2")).verdict == fraud_pb2.Assessment.VERDICT_BLOCK
    error = await refused(policies.UpdateFraudPolicy(request, metadata=BOB))
    assert (error["code"], error["reason"]) == ("ABORTED", "ETAG_MISMATCH")
    theirs = await policies.GetFraudPolicy(
        policies_pb2.GetFraudPolicyRequest(), metadata=as_merchant(OTHER_MERCHANT)
    )
    assert theirs.policy == before


async def test_a_policy_survives_a_restart(open_desk: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    answers = []
    async with open_desk(path) as first:
        policies = first.stub(policies_pb2_grpc.PoliciesServiceStub)
        terms = policies_pb2.FraudPolicyTerms(control_basis_points=10, control_cents_max=500)
        request = policies_pb2.UpdateFraudPolicyRequest(etag='"0"', terms=terms)
        answers.append((await policies.UpdateFraudPolicy(request, metadata=ADA)).policy)
    async with open_desk(path) as second:
        policies = second.stub(policies_pb2_grpc.PoliciesServiceStub)
        read = policies_pb2.GetFraudPolicyRequest()
        answers.append((await policies.GetFraudPolicy(read, metadata=ADA)).policy)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [("margin_percent", 101), ("review_cents", -1), ("chargeback_fee_cents", 10**9)],
)
async def test_a_bad_policy_is_refused_by_field(desk: Any, field: str, value: int) -> None:
    policies = desk.stub(policies_pb2_grpc.PoliciesServiceStub)
    costs = policies_pb2.FraudCosts(**{field: value})
    terms = policies_pb2.FraudPolicyTerms(costs=costs)
    request = policies_pb2.UpdateFraudPolicyRequest(etag='"0"', terms=terms)
    error = await refused(policies.UpdateFraudPolicy(request, metadata=ADA))
    assert (error["code"], error["field"]) == ("INVALID_ARGUMENT", f"terms.costs.{field}")


async def test_the_trail_is_paged_filtered_and_the_merchants_alone(desk: Any) -> None:
    policies = desk.stub(policies_pb2_grpc.PoliciesServiceStub)
    for version in range(3):
        terms = policies_pb2.FraudPolicyTerms(control_cents_max=version + 1)
        request = policies_pb2.UpdateFraudPolicyRequest(etag=f'"{version}"', terms=terms)
        await policies.UpdateFraudPolicy(request, metadata=ADA if version else BOB)
    audit = desk.stub(audit_pb2_grpc.FraudAuditServiceStub)

    async def page(*, metadata: Any = ADA, **filters: Any) -> Any:
        request = audit_pb2.ListFraudAuditRecordsRequest(**filters)
        return await audit.ListFraudAuditRecords(request, metadata=metadata)

    first = await page(page_size=2)
    rest = await page(page_size=2, page_token=first.next_page_token)
    records = [*first.records, *rest.records]
    assert [r.changes[0].after for r in records] == ["3", "2", "1"]
    assert {r.action for r in records} == {"PoliciesService.UpdateFraudPolicy"}
    assert [r.actor for r in (await page(actor="bob")).records] == ["bob"]
    assert len((await page(subject_id="policy")).records) == 3
    assert list((await page(subject_id="rules")).records) == []
    assert list((await page(metadata=as_merchant(OTHER_MERCHANT))).records) == []
