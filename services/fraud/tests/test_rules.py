"""Rules decide before the model does; every version is kept, and a back-test changes nothing."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import numpy as np
import pytest

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc, lists_pb2, lists_pb2_grpc, rules_pb2
from smartpay.fraud.v1.fraud_pb2 import Assessment
from smartpay.fraud.v1.rules_pb2_grpc import RulesServiceStub
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import OTHER_MERCHANT, as_merchant, error_info
from smartpay_fraud.domain.features import FEATURE_INDEX, FEATURES, Vector
from smartpay_fraud.domain.lists import Kind, Listing, ScreeningList
from smartpay_fraud.domain.rulebook import decide
from smartpay_fraud.domain.rules import (
    DEFAULT_RULES,
    Case,
    CompiledRules,
    Condition,
    Operator,
    Rule,
    RuleSet,
    check_rules,
)
from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.domain.verdict import Costs, Policy, Verdict

BLOCK, ALLOW, REVIEW = (
    Assessment.VERDICT_BLOCK,
    Assessment.VERDICT_ALLOW,
    Assessment.VERDICT_REVIEW,
)
OPERATOR = rules_pb2.Condition
A_TRANSACTION = Transaction("mer", False, "t", 10_000, "EUR", "ada", country="DE")


def a_row(**values: float) -> Vector:
    row = np.zeros(len(FEATURES), np.float32)
    for name, value in values.items():
        row[FEATURE_INDEX[name]] = value
    return row


def holds(
    condition: Condition,
    transaction: Transaction = A_TRANSACTION,
    row: Mapping[str, float] = MappingProxyType({}),
) -> bool:
    rules = CompiledRules(RuleSet(1, (Rule("R", Verdict.BLOCK, (condition,)),)))
    return bool(rules.matches(Case(transaction, a_row(**row), 0.25, {}, 0)))


@pytest.mark.parametrize("rule", DEFAULT_RULES.rules, ids=lambda rule: rule.rule_id)
def test_a_hard_limit_blocks_from_its_number_on(rule: Rule) -> None:
    rules = CompiledRules(DEFAULT_RULES)
    (condition,) = rule.conditions

    def matches(value: float) -> list[Any]:
        row = a_row(**{condition.name: value})
        return rules.matches(Case(A_TRANSACTION, row, 0.0, {}, 0))

    assert matches(condition.number - 1) == []
    (match,) = matches(condition.number)
    assert match.rule is rule
    assert match.reason.code == f"RULE_{rule.rule_id}"
    assert match.reason.message.startswith(f"{condition.number:.0f} ")
    assert match.reason.values == {condition.name: condition.number}


def test_what_is_not_told_answers_only_missing() -> None:
    row = dict.fromkeys(FEATURES, float("nan"))
    for rule in DEFAULT_RULES.rules:
        assert not holds(rule.conditions[0], row=row)
    silent = replace(A_TRANSACTION, customer_id="")
    for operator in (Operator.IN, Operator.NOT_IN):
        assert not holds(Condition("customer_id", operator, texts=("ada",)), silent)
    assert holds(Condition("customer_id", Operator.MISSING), silent)
    assert not holds(Condition("customer_id", Operator.PRESENT), silent)
    assert holds(Condition("device_cards_10m", Operator.MISSING), row=row)
    assert holds(Condition("device_cards_10m", Operator.PRESENT))


@pytest.mark.parametrize(
    ("operator", "below", "equal", "above"),
    [
        (Operator.EQUAL, False, True, False),
        (Operator.NOT_EQUAL, True, False, True),
        (Operator.LESS, True, False, False),
        (Operator.LESS_OR_EQUAL, True, True, False),
        (Operator.GREATER, False, False, True),
        (Operator.GREATER_OR_EQUAL, False, True, True),
    ],
)
def test_numbers_are_compared(operator: Operator, below: bool, equal: bool, above: bool) -> None:
    asked = Condition("minor_units", operator, 10_000)
    amounts = (9_999, 10_000, 10_001)
    told = [holds(asked, replace(A_TRANSACTION, amount_minor=amount)) for amount in amounts]
    assert told == [below, equal, above]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (Condition("country", Operator.IN, texts=("FR", "DE")), True),
        (Condition("country", Operator.NOT_IN, texts=("FR", "DE")), False),
        (Condition("country", Operator.NOT_IN, texts=("FR",)), True),
        (Condition("currency_code", Operator.IN, texts=("EUR",)), True),
        (Condition("amount_usd_cents", Operator.GREATER, 10_000), True),
        (Condition("score", Operator.EQUAL, 0.25), True),
        (Condition("ip_address", Operator.IN, texts=("203.0.113.0/24",)), False),
    ],
)
def test_a_condition_asks_what_it_names(condition: Condition, expected: bool) -> None:
    assert holds(condition) is expected


def test_a_stored_rule_about_what_is_gone_never_matches() -> None:
    assert not holds(Condition("dropped_feature", Operator.LESS, 1e9))
    for operator in (Operator.ON_LIST, Operator.NOT_ON_LIST):
        assert not holds(Condition("country", operator, list_id="lst_gone"))


def test_addresses_are_asked_by_network() -> None:
    at_home = replace(A_TRANSACTION, ip_address="203.0.113.9")
    assert holds(Condition("ip_address", Operator.IN, texts=("203.0.113.0/24",)), at_home)
    assert not holds(Condition("ip_address", Operator.NOT_IN, texts=("203.0.113.0/24",)), at_home)


def test_a_feature_is_asked_in_the_unit_its_reasons_tell() -> None:
    row = {"amount": float(np.log1p(np.float32(100)))}
    assert holds(Condition("amount", Operator.GREATER, 99), row=row)
    assert not holds(Condition("amount", Operator.GREATER, 101), row=row)


def judged(*rules: Rule, probability: float = 0.001, policy: Policy | None = None) -> Any:
    compiled = CompiledRules(RuleSet(7, rules))
    return decide(A_TRANSACTION, a_row(), probability, Costs(), policy or Policy(), {}, compiled, 0)


ALWAYS = (Condition("score", Operator.GREATER_OR_EQUAL, 0),)


def test_the_first_rule_by_priority_that_blocks_or_allows_decides() -> None:
    block, allow = Rule("B", Verdict.BLOCK, ALWAYS, 5), Rule("A", Verdict.ALLOW, ALWAYS, 4)
    decision = judged(block, allow, probability=0.9)
    assert decision.verdict is Verdict.ALLOW
    assert decision.matched_rules == ("A", "B")
    assert [reason.code for reason in decision.reasons] == ["RULE_A"]
    assert decision.rules_version == 7
    assert judged(block, replace(allow, priority=6)).verdict is Verdict.BLOCK
    assert judged(block, replace(allow, disabled=True)).verdict is Verdict.BLOCK


def test_a_rule_that_asks_for_a_review_only_makes_it_stricter() -> None:
    review = Rule("R", Verdict.REVIEW, ALWAYS)
    asked = judged(review)
    assert (asked.verdict, asked.opens_review) == (Verdict.REVIEW, True)
    assert judged(review, probability=0.99).verdict is Verdict.BLOCK
    assert judged(review, Rule("B", Verdict.BLOCK, ALWAYS)).verdict is Verdict.BLOCK
    alone = judged(review, policy=Policy(reviews_disabled=True))
    assert (alone.verdict, alone.opens_review) == (Verdict.REVIEW, False)


def test_without_reviews_the_model_allows_or_blocks() -> None:
    disabled = Policy(reviews_disabled=True)
    verdicts = {judged(probability=number / 100, policy=disabled).verdict for number in range(101)}
    assert verdicts == {Verdict.ALLOW, Verdict.BLOCK}
    assert judged(probability=0.3).verdict is Verdict.REVIEW


def test_chance_lets_a_known_share_of_small_ones_pass_and_overrules_no_rule() -> None:
    policy = Policy(control_basis_points=500, control_cents_max=20_000)
    compiled = CompiledRules(RuleSet(1, (Rule("R", Verdict.BLOCK, ALWAYS, disabled=True),)))

    def passes(number: int, amount: int = 10_000, rules: CompiledRules = compiled) -> bool:
        transaction = replace(A_TRANSACTION, transaction_id=f"t{number}", amount_minor=amount)
        decision = decide(transaction, a_row(), 0.99, Costs(), policy, {}, rules, 0)
        assert decision.control is (decision.verdict is Verdict.ALLOW)
        told = [(reason.code, reason.values) for reason in decision.reasons]
        assert not decision.control or told == [("CONTROL_SHARE", {"propensity": 0.05})]
        return decision.control

    passed = [number for number in range(4_000) if passes(number)]
    assert 140 < len(passed) < 260, "five in a hundred"
    assert all(passes(number) for number in passed), "the lot of a payment is drawn once"
    assert not any(passes(number, amount=20_000) for number in passed)
    for verdict in (Verdict.BLOCK, Verdict.REVIEW):
        asked = CompiledRules(RuleSet(1, (Rule("R", verdict, ALWAYS),)))
        assert not any(passes(number, rules=asked) for number in passed)


@pytest.mark.parametrize("reviews", [True, False])
@pytest.mark.parametrize("cents", [100, 5_000, 80_000])
def test_thresholds_are_where_the_verdict_changes(cents: int, reviews: bool) -> None:
    costs = Costs()
    review, block = costs.thresholds(cents, reviews=reviews)
    for threshold, verdict in ((review, Verdict.REVIEW), (block, Verdict.BLOCK)):
        if threshold is not None:
            assert costs.verdict(threshold, cents, reviews=reviews) is verdict
            below = costs.verdict(threshold - 1e-6, cents, reviews=reviews)
            assert below is not verdict
    scale = [costs.verdict(n / 1_000, cents, reviews=reviews) for n in range(1_001)]
    assert (review is None) is (Verdict.REVIEW not in scale)
    assert (block is None) is (Verdict.BLOCK not in scale)


LISTED = Listing(ScreeningList("lst", "mer", False, "n", Kind.COUNTRY, None, "", 0, 0))


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ([Rule("A", Verdict.BLOCK, ALWAYS), Rule("A", Verdict.ALLOW, ALWAYS)], "rules[1].rule_id"),
        (
            [Rule("A", Verdict.BLOCK, (Condition("no_such", Operator.EQUAL),))],
            "rules[0].conditions[0].name",
        ),
        (
            [Rule("A", Verdict.BLOCK, (*ALWAYS, Condition("country", Operator.LESS)))],
            "rules[0].conditions[1].operator",
        ),
        (
            [Rule("A", Verdict.BLOCK, (Condition("score", Operator.IN, texts=("1",)),))],
            "rules[0].conditions[0].operator",
        ),
        (
            [Rule("A", Verdict.BLOCK, (Condition("ip_address", Operator.IN, texts=("x",)),))],
            "rules[0].conditions[0].texts",
        ),
        (
            [Rule("A", Verdict.BLOCK, (Condition("country", Operator.ON_LIST, list_id="?"),))],
            "rules[0].conditions[0].list_id",
        ),
        (
            [Rule("A", Verdict.BLOCK, (Condition("device_id", Operator.ON_LIST, list_id="lst"),))],
            "rules[0].conditions[0].list_id",
        ),
        ([Rule("A", Verdict.BLOCK, ALWAYS, message="{amount} is much")], "rules[0].message"),
    ],
)
def test_a_rule_that_cant_be_asked_is_refused_by_field(rules: list[Rule], field: str) -> None:
    with pytest.raises(Refusal) as caught:
        check_rules(rules, {"lst": LISTED})
    assert (caught.value.reason, caught.value.field) == ("RULE_INVALID", field)


def test_the_default_rules_can_be_asked() -> None:
    check_rules(DEFAULT_RULES.rules, {})


# ---- through the contract


def a_rule(rule_id: str = "LARGE", verdict: Any = REVIEW, **changes: Any) -> rules_pb2.Rule:
    condition = OPERATOR(name="minor_units", operator=OPERATOR.OPERATOR_GREATER, number=5_000)
    fields = {"rule_id": rule_id, "verdict": verdict, "conditions": [condition], **changes}
    return rules_pb2.Rule(**fields)


def update(base_version: int, *rules: rules_pb2.Rule) -> rules_pb2.UpdateRuleSetRequest:
    return rules_pb2.UpdateRuleSetRequest(base_version=base_version, rules=rules, note="a note")


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


async def test_a_merchant_begins_with_the_limits_against_card_testing(rules: Any) -> None:
    response = await rules.GetRuleSet(rules_pb2.GetRuleSetRequest(), metadata=as_merchant())
    assert response.rule_set.version == 1
    ids = [rule.rule_id for rule in response.rule_set.rules]
    assert ids == ["CARDS_ON_DEVICE", "DECLINES_ON_DEVICE"]
    # What was read goes back as it came.
    same = update(1, *response.rule_set.rules)
    changed = await rules.UpdateRuleSet(same, metadata=as_merchant())
    assert changed.rule_set.rules == response.rule_set.rules


async def test_every_change_is_a_version_and_scores_name_theirs(rules: Any, score: Any) -> None:
    assert (await score("t-1")).rules_version == 1
    await rules.UpdateRuleSet(update(1, a_rule()), metadata=as_merchant())
    reviewed = await score("t-2")
    assert (reviewed.verdict, reviewed.rules_version) == (REVIEW, 2)
    assert list(reviewed.matched_rule_ids) == ["LARGE"]
    assert reviewed.reasons[0].code == "RULE_LARGE"
    assert reviewed.reasons[0].values == {"minor_units": 9_999}
    await rules.UpdateRuleSet(update(2), metadata=as_merchant())
    assert (await score("t-3")).verdict == ALLOW
    assert (await score("t-2")).rules_version == 2, "what was answered stays"
    page = await rules.ListRuleSets(
        rules_pb2.ListRuleSetsRequest(page_size=2), metadata=as_merchant()
    )
    assert [each.version for each in page.rule_sets] == [3, 2]
    rest = await rules.ListRuleSets(
        rules_pb2.ListRuleSetsRequest(page_size=2, page_token=page.next_page_token),
        metadata=as_merchant(),
    )
    assert [each.version for each in rest.rule_sets] == [1]
    assert rest.next_page_token == ""
    second = await rules.GetRuleSet(rules_pb2.GetRuleSetRequest(version=2), metadata=as_merchant())
    assert second.rule_set == page.rule_sets[1]
    assert (second.rule_set.create_actor, second.rule_set.note) == ("user", "a note")
    error = await refused(
        rules.GetRuleSet(rules_pb2.GetRuleSetRequest(version=9), metadata=as_merchant())
    )
    assert error["reason"] == "RULES_VERSION_NOT_FOUND"


async def test_of_changes_that_race_one_wins_and_the_others_lose_nothing(rules: Any) -> None:
    requests = [update(1, a_rule(f"RULE_{number}")) for number in range(16)]
    outcomes = await asyncio.gather(
        *(rules.UpdateRuleSet(request, metadata=as_merchant()) for request in requests),
        return_exceptions=True,
    )
    won = [each for each in outcomes if not isinstance(each, BaseException)]
    assert len(won) == 1
    lost = [error_info(e) for e in outcomes if isinstance(e, grpc.aio.AioRpcError)]
    assert {(error["code"], error["reason"]) for error in lost} == {("ABORTED", "RULES_CHANGED")}
    now = await rules.GetRuleSet(rules_pb2.GetRuleSetRequest(), metadata=as_merchant())
    assert now.rule_set == won[0].rule_set


async def test_a_repeated_change_makes_no_second_version(rules: Any) -> None:
    first = await rules.UpdateRuleSet(update(1, a_rule()), metadata=as_merchant())
    again = await rules.UpdateRuleSet(update(1, a_rule()), metadata=as_merchant())
    assert again == first


async def test_rules_are_their_merchants_alone(rules: Any, desk: Any) -> None:
    await rules.UpdateRuleSet(update(1, a_rule(verdict=BLOCK)), metadata=as_merchant())
    stranger = as_merchant(OTHER_MERCHANT)
    theirs = await rules.GetRuleSet(rules_pb2.GetRuleSetRequest(), metadata=stranger)
    assert theirs.rule_set.version == 1
    fraud = desk.stub(fraud_pb2_grpc.FraudServiceStub)
    amount = Money(minor_units=9_999, currency_code="USD")
    request = fraud_pb2.ScoreRequest(transaction_id="t", amount=amount)
    assert (await fraud.Score(request, metadata=stranger)).assessment.verdict == ALLOW


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rule_id": "small"}, "rules[0].rule_id"),
        ({"conditions": []}, "rules[0].conditions"),
        (
            {"conditions": [OPERATOR(name="score", operator=OPERATOR.OPERATOR_LESS)]},
            "rules[0].conditions[0]",
        ),
        (
            {"conditions": [OPERATOR(name="score", operator=OPERATOR.OPERATOR_MISSING, number=1)]},
            "rules[0].conditions[0]",
        ),
        (
            {"conditions": [OPERATOR(name="no_such", operator=OPERATOR.OPERATOR_LESS, number=1)]},
            "rules[0].conditions[0].name",
        ),
    ],
)
async def test_a_bad_rule_is_refused_by_field(
    rules: Any, change: dict[str, Any], field: str
) -> None:
    bad = a_rule(**{k: v for k, v in change.items() if k != "rule_id"})
    bad.rule_id = change.get("rule_id", bad.rule_id)
    error = await refused(rules.UpdateRuleSet(update(1, bad), metadata=as_merchant()))
    assert (error["code"], error["field"]) == ("INVALID_ARGUMENT", field)


async def test_a_rule_looks_into_a_list_that_cant_go_meanwhile(
    rules: Any, score: Any, desk: Any
) -> None:
    lists = desk.stub(lists_pb2_grpc.ListsServiceStub)
    request = lists_pb2.CreateScreeningListRequest(
        name="watched", kind=lists_pb2.ScreeningList.KIND_TERMINAL
    )
    held = (await lists.CreateScreeningList(request, metadata=as_merchant())).list
    on_list = OPERATOR(name="terminal_id", operator=OPERATOR.OPERATOR_ON_LIST, list_id=held.list_id)
    rule = a_rule("WATCHED", BLOCK, conditions=[on_list])
    await rules.UpdateRuleSet(update(1, rule), metadata=as_merchant())
    add = lists_pb2.AddScreeningEntriesRequest(
        list_id=held.list_id, entries=[lists_pb2.ScreeningEntry(value="kiosk")]
    )
    await lists.AddScreeningEntries(add, metadata=as_merchant())
    assert (await score("t-1", terminal_id="kiosk")).verdict == BLOCK
    assert (await score("t-2", terminal_id="shop")).verdict == ALLOW
    delete = lists_pb2.DeleteScreeningListRequest(list_id=held.list_id)
    error = await refused(lists.DeleteScreeningList(delete, metadata=as_merchant()))
    assert (error["reason"], error["rule"]) == ("LIST_IN_USE", "WATCHED")
    await rules.UpdateRuleSet(update(2), metadata=as_merchant())
    await lists.DeleteScreeningList(delete, metadata=as_merchant())


async def test_rules_survive_a_restart(open_desk: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    async with open_desk(path) as first:
        stub = first.stub(RulesServiceStub)
        for version in range(1, 11):
            await stub.UpdateRuleSet(update(version, a_rule(f"R{version}")), metadata=as_merchant())
    async with open_desk(path) as second:
        stub = second.stub(RulesServiceStub)
        now = await stub.GetRuleSet(rules_pb2.GetRuleSetRequest(), metadata=as_merchant())
        assert now.rule_set.version == 11
        assert [rule.rule_id for rule in now.rule_set.rules] == ["R10"]


async def test_what_rules_may_ask_about_is_listed_and_can_be_asked(rules: Any) -> None:
    fields, token = [], ""
    while True:
        page = await rules.ListRuleFields(
            rules_pb2.ListRuleFieldsRequest(page_size=60, page_token=token), metadata=as_merchant()
        )
        fields += page.fields
        token = page.next_page_token
        if not token:
            break
    names = [field.name for field in fields]
    assert names == sorted(set(names))
    assert set(FEATURES) | {"country", "score", "minor_units"} <= set(names)
    asked = tuple(
        Rule(f"R{n}", Verdict.REVIEW, (Condition(name, Operator.PRESENT),))
        for n, name in enumerate(names)
    )
    check_rules(asked, {})
    sentences = {field.name: field.sentence for field in fields}
    assert sentences["device_cards_10m"].count("{0}") == 1
