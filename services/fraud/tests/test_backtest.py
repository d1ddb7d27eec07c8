"""A back-test tells what other rules would have done, and nothing goes live by it."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc, rules_pb2
from smartpay.fraud.v1.fraud_pb2 import Assessment
from smartpay.fraud.v1.rules_pb2_grpc import RulesServiceStub
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import OTHER_MERCHANT, as_merchant, error_info
from smartpay_fraud.domain.features import FEATURES

BLOCK, ALLOW, REVIEW = (
    Assessment.VERDICT_BLOCK,
    Assessment.VERDICT_ALLOW,
    Assessment.VERDICT_REVIEW,
)
OPERATOR = rules_pb2.Condition


def a_rule(rule_id: str = "LARGE", verdict: Any = REVIEW, **changes: Any) -> rules_pb2.Rule:
    condition = OPERATOR(name="minor_units", operator=OPERATOR.OPERATOR_GREATER, number=5_000)
    fields = {"rule_id": rule_id, "verdict": verdict, "conditions": [condition], **changes}
    return rules_pb2.Rule(**fields)


async def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_info(caught.value)


@pytest.fixture
def rules(desk: Any) -> Any:
    return desk.stub(RulesServiceStub)


@pytest.fixture
def score(desk: Any) -> Callable[..., Any]:
    stub = desk.stub(fraud_pb2_grpc.FraudServiceStub)

    async def ask(transaction_id: str, minor_units: int = 9_999, **changes: Any) -> Any:
        amount = Money(minor_units=minor_units, currency_code="USD")
        request = fraud_pb2.ScoreRequest(transaction_id=transaction_id, amount=amount, **changes)
        return (await stub.Score(request, metadata=as_merchant())).assessment

    return ask


async def scored_past(score: Any, desk: Any) -> None:
    """Six payments of 10 to 60 dollars; the two largest turn out to be fraud."""
    fraud = desk.stub(fraud_pb2_grpc.FraudServiceStub)
    for number in range(1, 7):
        await score(f"t-{number}", minor_units=number * 1_000)
    for number in (5, 6):
        label = fraud_pb2.RecordLabelRequest(
            transaction_id=f"t-{number}", label=fraud_pb2.LABEL_FRAUD
        )
        await fraud.RecordLabel(label, metadata=as_merchant())
    desk.clock.advance(days=8)
    await score("t-young", minor_units=1_000)


def backtest(**changes: Any) -> rules_pb2.BacktestRulesRequest:
    condition = OPERATOR(name="minor_units", operator=OPERATOR.OPERATOR_GREATER, number=3_500)
    rule = a_rule("LARGE", BLOCK, conditions=[condition])
    return rules_pb2.BacktestRulesRequest(rules=[rule], **changes)


async def test_a_backtest_tells_what_would_have_changed_and_changes_nothing(
    rules: Any, score: Any, desk: Any
) -> None:
    await scored_past(score, desk)
    report = await rules.BacktestRules(backtest(), metadata=as_merchant())
    assert (report.transactions, report.skipped, report.next_cursor) == (7, 0, "")
    (rule,) = report.rules
    assert rule.rule_id == "LARGE"
    matched = rule.matched
    assert (matched.transactions, matched.frauds, matched.legitimate) == (3, 2, 1)
    assert [(m.minor_units, m.currency_code) for m in matched.amounts] == [(15_000, "USD")]
    assert [m.minor_units for m in matched.fraud_amounts] == [11_000]
    by_verdict = {each.verdict: each for each in report.verdicts}
    assert by_verdict[ALLOW].stored.transactions == 7
    assert by_verdict[ALLOW].proposed.transactions == 4
    assert by_verdict[ALLOW].proposed.legitimate == 3, "the young one may still be anything"
    (change,) = report.changes
    assert (change.stored, change.proposed) == (ALLOW, BLOCK)
    assert list(change.transaction_ids) == ["t-6", "t-5", "t-4"]
    now = await rules.GetRuleSet(rules_pb2.GetRuleSetRequest(), metadata=as_merchant())
    assert now.rule_set.version == 1
    assert (await score("t-after", minor_units=9_000)).verdict == ALLOW


async def test_a_backtest_goes_on_where_it_ended_and_the_figures_add_up(
    rules: Any, score: Any, desk: Any
) -> None:
    await scored_past(score, desk)
    judged_, matched, cursor = 0, 0, ""
    for _ in range(9):
        request = backtest(transactions_max=2, cursor=cursor)
        report = await rules.BacktestRules(request, metadata=as_merchant())
        assert report.transactions <= 2
        judged_ += report.transactions
        matched += report.rules[0].matched.transactions
        cursor = report.next_cursor
        if not cursor:
            break
    assert (judged_, matched, cursor) == (7, 3, "")


async def test_a_backtest_looks_at_the_time_and_the_merchant_it_is_told(
    rules: Any, score: Any, desk: Any
) -> None:
    await scored_past(score, desk)
    late = desk.clock().replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
    request = backtest(create_time_from=late)
    assert (await rules.BacktestRules(request, metadata=as_merchant())).transactions == 1
    request = backtest(create_time_before=late)
    assert (await rules.BacktestRules(request, metadata=as_merchant())).transactions == 6
    stranger = as_merchant(OTHER_MERCHANT)
    assert (await rules.BacktestRules(backtest(), metadata=stranger)).transactions == 0


async def test_a_day_no_calendar_has_is_refused_by_field(rules: Any) -> None:
    request = backtest(create_time_before="2026-02-30T00:00:00Z")
    error = await refused(rules.BacktestRules(request, metadata=as_merchant()))
    assert (error["reason"], error["field"]) == ("FIELD_INVALID", "create_time_before")


async def test_a_backtest_judges_by_the_features_of_the_time(
    rules: Any, score: Any, desk: Any
) -> None:
    for number in range(4):
        await score(f"t-{number}", device_id="till", instrument_fingerprint=f"card-{number}")
    cards = OPERATOR(name="device_cards_10m", operator=OPERATOR.OPERATOR_GREATER_OR_EQUAL, number=3)
    request = rules_pb2.BacktestRulesRequest(rules=[a_rule("CARDS", BLOCK, conditions=[cards])])
    report = await rules.BacktestRules(request, metadata=as_merchant())
    (change,) = report.changes
    assert list(change.transaction_ids) == ["t-3", "t-2"]


async def test_a_row_of_other_features_is_read_by_name(rules: Any, score: Any, desk: Any) -> None:
    await score("t-old", device_id="till", instrument_fingerprint="card")

    def as_it_was(connection: Any) -> None:
        """Puts the row into an older release's columns: half of today's, in another order."""
        kept = [*reversed(FEATURES[::2]), "long_gone"]
        connection.execute("INSERT INTO feature_sets VALUES (77, ?)", (json.dumps(kept),))
        row = np.full(len(kept), 3, "<f4").tobytes()
        connection.execute("UPDATE assessments SET feature_set = 77, row = ?", (row,))

    await desk.history.store.write(as_it_was)

    def asks(name: str, operator: Any, **changes: Any) -> rules_pb2.Rule:
        condition = OPERATOR(name=name, operator=operator, **changes)
        return a_rule(name.upper()[:40], BLOCK, conditions=[condition])

    request = rules_pb2.BacktestRulesRequest(
        rules=[
            asks(FEATURES[0], OPERATOR.OPERATOR_PRESENT),
            asks(FEATURES[1], OPERATOR.OPERATOR_MISSING),
        ]
    )
    report = await rules.BacktestRules(request, metadata=as_merchant())
    assert [rule.matched.transactions for rule in report.rules] == [1, 1]
    await desk.history.store.write(
        lambda c: c.execute("UPDATE assessments SET row = NULL").rowcount
    )
    report = await rules.BacktestRules(request, metadata=as_merchant())
    assert (report.transactions, report.skipped) == (0, 1)
