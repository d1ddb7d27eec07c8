"""The client speaks the contract, whole: every method, every field, both ways."""

from __future__ import annotations

import ast
import inspect
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from google.protobuf.message import Message

import smartpay_client
from smartpay.access.v1 import access_pb2
from smartpay.payments.v1 import payment_pb2
from smartpay_client import (
    AccountLimit,
    AmazonPayCredentials,
    AmountRange,
    AssessmentVerdict,
    AsyncClient,
    Client,
    Condition,
    ConditionOperator,
    FraudCosts,
    FraudPolicyTerms,
    Instrument,
    MerchantSettings,
    Money,
    Payment,
    PaymentStatus,
    ProcessorFee,
    ProcessorToken,
    RoutingCondition,
    RoutingPolicyTerms,
    RoutingPolicyTermsMode,
    RoutingRule,
    RoutingRuleAction,
    Rule,
    ScreeningEntry,
    SolanaCredentials,
    SplitShare,
    StripeCredentials,
    VolumeSplit,
    WebhookEndpoint,
    _contract,
    _methods,
)
from smartpay_client.method import Method
from smartpay_client.wire import UnreadableError, decode, encode

if TYPE_CHECKING:
    from client.tests.conftest import Caller, FakeEdge

CLIENT = Path(__file__).resolve().parents[1]
ID = "d1" + "0" * 24
PAYMENT, DECISION, ACCOUNT = f"pay_{ID}", f"dec_{ID}", f"pac_{ID}"
SCREENING, REVIEW = f"lst_{ID}", f"rev_{ID}"
REFUND, DISPUTE, INSTRUMENT, ENDPOINT = f"ref_{ID}", f"dis_{ID}", f"ins_{ID}", f"whe_{ID}"
USD = Money(1999, "USD")
CARD = {ACCOUNT: "pm_card_visa"}
KNOWN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STRIPE = StripeCredentials("sk_test_0123456789")
SETTINGS = MerchantSettings(
    fraud_fail_policy=_contract.FraudFailPolicy.RULES,
    fraud_fail_limits=(USD,),
    fraud_review_policy=_contract.FraudReviewPolicy.HOLD,
    capture_method=_contract.CaptureMethod.MANUAL,
    account_order=(ACCOUNT,),
    attempts_max=3,
    cascade_seconds=30,
)
RULE = Rule(
    "TOO_MANY",
    AssessmentVerdict.BLOCK,
    (Condition("device_cards_10m", ConditionOperator.GREATER_OR_EQUAL, number=3),),
    priority=7,
    message="Too many cards.",
    disabled=True,
)
TERMS = FraudPolicyTerms(
    FraudCosts(1_500, 3_000, 20, 2_000, 30),
    reviews_disabled=True,
    control_basis_points=10,
    control_cents_max=500,
)
WHEN = RoutingCondition(
    minor_units_min=1, currency_codes=("USD",), countries=("DE",), hour_from=8, hour_before=18
)
ROUTING = RoutingPolicyTerms(
    mode=RoutingPolicyTermsMode.CANARY,
    kill_switch=True,
    canary_percent=10,
    holdout_percent=5,
    static_order=(ACCOUNT,),
    rules=(RoutingRule("LARGE", WHEN, RoutingRuleAction.PREFER, (ACCOUNT,)),),
    splits=(VolumeSplit("HALF", WHEN, (SplitShare(ACCOUNT, 100),)),),
    limits=(AccountLimit(ACCOUNT, (AmountRange("USD", 1, 2),), ("DE",)),),
    fee_basis_points_max=700,
    exploration_basis_points=200,
)
PAYMENT_FILTERS: dict[str, Any] = {
    "status": ["FAILED", PaymentStatus.SUCCEEDED],
    "processor": "STRIPE",
    "merchant_order_id": "order",
    "customer_id": "payer",
    "create_time_from": KNOWN,
    "create_time_before": "2026-02-01T00:00:00Z",
    "currency_code": "USD",
    "minor_units_min": 1,
    "minor_units_max": 2,
    "metadata": {"a_b": "c"},
}
ENTRY_FILTERS: dict[str, Any] = {
    "account": "merchant:mer_1",
    "payment_id": PAYMENT,
    "currency_code": "USD",
    "post_time_from": KNOWN,
    "post_time_before": "2026-02-01T00:00:00Z",
}
# One call of every method with every argument it takes.
USES: dict[str, Any] = {
    "CreatePayment": lambda c: c.payments.create(
        amount=USD,
        instrument=Instrument((ProcessorToken(ACCOUNT, "pm_card_visa"),), "print"),
        capture_method="MANUAL",
        merchant_order_id="order",
        customer_id="payer",
        device_id="phone",
        ip_address="203.0.113.7",
        initiator="MERCHANT",
        off_session=True,
        statement_descriptor="SHOP",
        description="a note",
        decision_id=DECISION,
        reward_wallet="1" * 32,
        metadata={"a_b": "c"},
        confirm_later=True,
        terminal_id="shop",
        country="DE",
    ),
    "GetPayment": lambda c: c.payments.get(PAYMENT),
    "ListPayments": lambda c: c.payments.list(page_size=3, **PAYMENT_FILTERS),
    "CapturePayment": lambda c: c.payments.capture(PAYMENT, USD),
    "CancelPayment": lambda c: c.payments.cancel(PAYMENT),
    "UpdatePayment": lambda c: c.payments.update(
        PAYMENT,
        "e1",
        amount=USD,
        instrument=CARD,
        customer_id="payer",
        device_id="phone",
        ip_address="203.0.113.7",
        country="DE",
        statement_descriptor="",
        description="a note",
        reward_wallet="1" * 32,
        metadata={"a_b": ""},
    ),
    "ConfirmPayment": lambda c: c.payments.confirm(PAYMENT, processor_account_id=ACCOUNT),
    "RefundPayment": lambda c: c.payments.refund(PAYMENT, USD, reason="FRAUDULENT"),
    "ReviewPayment": lambda c: c.payments.review(PAYMENT, "APPROVE", note="knows the payer"),
    "ResolvePayment": lambda c: c.payments.resolve(
        PAYMENT, "CHARGED", "ticket 7", processor_payment_id="pi_1", captured_amount=USD
    ),
    "GetRefund": lambda c: c.refunds.get(REFUND),
    "ListRefunds": lambda c: c.refunds.list(payment_id=PAYMENT, page_size=3),
    "ResolveRefund": lambda c: c.refunds.resolve(REFUND, "NOT_REFUNDED", "ticket 7"),
    "GetDispute": lambda c: c.disputes.get(DISPUTE),
    "ListDisputes": lambda c: c.disputes.list(payment_id=PAYMENT, page_size=3),
    "SubmitDisputeEvidence": lambda c: c.disputes.submit_evidence(
        DISPUTE,
        product_description="a book",
        customer_name="a name",
        access_activity_log="read it",
        shipping_tracking_number="1Z",
        refund_refusal_explanation="it was read",
        uncategorized_text="twice",
    ),
    "AcceptDispute": lambda c: c.disputes.accept(DISPUTE),
    "CreateCustomer": lambda c: c.customers.create(
        customer_id="a.b@example.com", email="a.b@example.com", name="A B", metadata={"a_b": "c"}
    ),
    "GetCustomer": lambda c: c.customers.get("a.b@example.com"),
    "ListCustomers": lambda c: c.customers.list(page_size=3),
    "UpdateCustomer": lambda c: c.customers.update(
        "payer", "e1", email="", name="", metadata={"a_b": ""}, default_instrument_id=""
    ),
    "CreateErasure": lambda c: c.customers.erase("payer"),
    "GetErasure": lambda c: c.customers.get_erasure(f"era_{ID}"),
    "CreateInstrument": lambda c: c.instruments.create("payer", CARD, off_session=True),
    "GetInstrument": lambda c: c.instruments.get(INSTRUMENT),
    "ListInstruments": lambda c: c.instruments.list("payer"),
    "ConfirmInstrument": lambda c: c.instruments.confirm(INSTRUMENT),
    "DetachInstrument": lambda c: c.instruments.detach(INSTRUMENT),
    "CreateProcessorAccount": lambda c: c.processor_accounts.create(
        "main", [ProcessorFee("USD", 290, 30)], STRIPE, disabled=True
    ),
    "GetProcessorAccount": lambda c: c.processor_accounts.get(ACCOUNT),
    "ListProcessorAccounts": lambda c: c.processor_accounts.list(),
    "UpdateProcessorAccount": lambda c: c.processor_accounts.update(
        ACCOUNT,
        "e1",
        name="main",
        fees=[ProcessorFee("USD", 290, 30)],
        enabled=False,
        credentials=STRIPE,
    ),
    "DisableProcessorAccount": lambda c: c.processor_accounts.disable(ACCOUNT),
    "AddWebhookSecret": lambda c: c.processor_accounts.add_webhook_secret(ACCOUNT, "whsec_" * 4),
    "RemoveWebhookSecret": lambda c: c.processor_accounts.remove_webhook_secret(
        ACCOUNT, f"whs_{ID}"
    ),
    "GetMerchant": lambda c: c.merchant.get(),
    "UpdateMerchant": lambda c: c.merchant.update("e1", SETTINGS),
    "CreateWebhookEndpoint": lambda c: c.webhook_endpoints.create(
        "https://shop.example", description="a note", event_types=["smartpay.refund.*"]
    ),
    "GetWebhookEndpoint": lambda c: c.webhook_endpoints.get(ENDPOINT),
    "ListWebhookEndpoints": lambda c: c.webhook_endpoints.list(page_size=3),
    "UpdateWebhookEndpoint": lambda c: c.webhook_endpoints.update(
        ENDPOINT,
        "https://shop.example",
        enabled=False,
        description="a note",
        event_types=["smartpay.refund.*"],
    ),
    "DeleteWebhookEndpoint": lambda c: c.webhook_endpoints.delete(ENDPOINT),
    "RotateWebhookSecret": lambda c: c.webhook_endpoints.rotate_secret(ENDPOINT, overlap_seconds=9),
    "ListWebhookDeliveries": lambda c: c.webhook_endpoints.deliveries(
        ENDPOINT, status="FAILED", page_size=3
    ),
    "ResendWebhookDelivery": lambda c: c.webhook_endpoints.resend(ENDPOINT, f"whd_{ID}"),
    "ListBalances": lambda c: c.ledger.balances(as_of=KNOWN, currency_code="USD", page_size=3),
    "ListLedgerEntries": lambda c: c.ledger.entries(page_size=3, **ENTRY_FILTERS),
    "ExportPayments": lambda c: c.exports.payments("CSV", after=PAYMENT, **PAYMENT_FILTERS),
    "ExportLedgerEntries": lambda c: c.exports.ledger_entries("CSV", after="7", **ENTRY_FILTERS),
    "ListAuditRecords": lambda c: c.audit.list(
        subject_id=PAYMENT,
        actor="client",
        action="MerchantsService.UpdateMerchant",
        time_from=KNOWN,
        time_before="2026-02-01T00:00:00Z",
        page_size=3,
    ),
    "Score": lambda c: c.fraud.score(
        transaction_id="t-1",
        amount=USD,
        customer_id="payer",
        instrument_fingerprint="print",
        device_id="phone",
        ip_address="203.0.113.7",
        terminal_id="shop",
        merchant_category="5732",
        country="DE",
    ),
    "ScoreBatch": lambda c: c.fraud.score_batch([{"transaction_id": "t-1", "amount": USD}]),
    "RecordLabel": lambda c: c.fraud.label("t-1", "FRAUD", known_time=KNOWN),
    "CreateScreeningList": lambda c: c.fraud_lists.create(
        "thieves", "CUSTOMER", verdict="BLOCK", description="a note"
    ),
    "GetScreeningList": lambda c: c.fraud_lists.get(SCREENING),
    "ListScreeningLists": lambda c: c.fraud_lists.list(page_size=3),
    "DeleteScreeningList": lambda c: c.fraud_lists.delete(SCREENING),
    "AddScreeningEntries": lambda c: c.fraud_lists.add(
        SCREENING, [ScreeningEntry("payer", expire_time=KNOWN, note="a note")]
    ),
    "RemoveScreeningEntries": lambda c: c.fraud_lists.remove(SCREENING, ["payer"]),
    "ListScreeningEntries": lambda c: c.fraud_lists.entries(SCREENING, page_size=3),
    "GetRuleSet": lambda c: c.fraud_rules.get(version=2),
    "ListRuleSets": lambda c: c.fraud_rules.versions(page_size=3),
    "ListRuleFields": lambda c: c.fraud_rules.fields(page_size=3),
    "UpdateRuleSet": lambda c: c.fraud_rules.update(1, rules=[RULE], note="a note"),
    "BacktestRules": lambda c: c.fraud_rules.backtest(
        rules=[RULE],
        policy=TERMS,
        create_time_from=KNOWN,
        create_time_before="2026-02-01T00:00:00Z",
        transactions_max=9,
        cursor="7",
    ),
    "GetFraudPolicy": lambda c: c.fraud_policy.get(),
    "UpdateFraudPolicy": lambda c: c.fraud_policy.update("e1", TERMS),
    "ListReviews": lambda c: c.fraud_reviews.list(
        state="OPEN", assignee="ada", unassigned=True, create_time_before=KNOWN, page_size=3
    ),
    "GetReview": lambda c: c.fraud_reviews.get(REVIEW),
    "AssignReview": lambda c: c.fraud_reviews.assign(REVIEW, "e1"),
    "UnassignReview": lambda c: c.fraud_reviews.unassign(REVIEW, "e1"),
    "ResolveReview": lambda c: c.fraud_reviews.resolve(REVIEW, "e1", "APPROVE", note="knows them"),
    "GetModelStatus": lambda c: c.fraud_model.status(),
    "ListFraudAuditRecords": lambda c: c.fraud_audit.list(
        subject_id="rules", actor="ada", action="RulesService.UpdateRuleSet", page_size=3
    ),
    "Decide": lambda c: c.route.decide(USD, CARD, risk=0.5, country="DE", off_session=True),
    "GetDecision": lambda c: c.route.get(DECISION),
    "RecordOutcome": lambda c: c.route.record_outcome(
        DECISION, ACCOUNT, "DECLINED", attempt_index=1
    ),
    "GetRoutingPolicy": lambda c: c.routing_policy.get(version=2),
    "ListRoutingPolicies": lambda c: c.routing_policy.versions(page_size=3),
    "UpdateRoutingPolicy": lambda c: c.routing_policy.update("e1", ROUTING, note="a note"),
    "DryRunRoutingPolicy": lambda c: c.routing_policy.dry_run(ROUTING, decisions_max=9, cursor="7"),
    "EvaluateRoutingPolicy": lambda c: c.routing_policy.evaluate(ROUTING, decisions_max=9),
    "ExplainDecision": lambda c: c.routing_evidence.explain(DECISION),
    "GetRoutingStatus": lambda c: c.routing_evidence.status(),
    "ListRoutingAuditRecords": lambda c: c.routing_audit.list(
        subject_id="policy",
        actor="ada",
        action="RoutingPoliciesService.UpdateRoutingPolicy",
        page_size=3,
    ),
    "Grant": lambda c: c.rewards.grant(PAYMENT, wallet="1" * 32),
    "GetReward": lambda c: c.rewards.get(PAYMENT),
    "ListRewards": lambda c: c.rewards.list(page_size=3),
    "Ask": lambda c: c.chat.ask("How much?"),
    "Chat": lambda c: c.chat.stream("How much?"),
}
LISTS = [rpc for rpc in USES if rpc.startswith("List")]
STREAMS = [*LISTS, "ExportPayments", "ExportLedgerEntries", "Chat"]
NOTHING_TO_READ = (
    "RecordLabel",
    "RecordOutcome",
    "DeleteWebhookEndpoint",
    "DeleteScreeningList",
)
# Fields that no merchant can set, that the client fills in, or that another one stands for.
NOT_SENT = {
    "Decide": {"payment_id", "decision_id"},
    "CreatePayment": {"instrument_id"},
    "UpdatePayment": {"instrument_id"},
    **{rpc: {"page_token"} for rpc in LISTS},
}


def test_what_is_generated_is_what_the_contract_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CLIENT)
    generate: Any = runpy.run_path(str(CLIENT / "generate.py"))["generate"]
    for file, text in generate().items():
        assert file.read_text() == text, f"{file.name} is old: run `make protos`"


def test_every_method_of_the_contract_can_be_called() -> None:
    declared = {m.name for m in vars(_methods).values() if isinstance(m, Method)}
    assert declared == USES.keys()


@pytest.mark.parametrize("rpc", USES)
async def test_a_call_sends_every_field_and_nothing_the_contract_refuses(
    edge: FakeEdge, caller: Caller, rpc: str
) -> None:
    await (caller.all if rpc in STREAMS else caller)(USES[rpc])
    [call] = edge.calls
    assert call.rpc == rpc
    assert edge.message_problems == []
    sent = {field.name for field, _ in call.message.ListFields()}
    every = {field.name for field in call.message.DESCRIPTOR.fields}
    assert sent == every - NOT_SENT.get(rpc, set())


def check_same(ours: Any, theirs: Any, where: str) -> None:
    """Compares a result with the message it came from, field by field."""
    if isinstance(theirs, Message) and theirs.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
        assert ours == theirs.ToDatetime(UTC), where  # type: ignore[attr-defined]
    elif isinstance(theirs, Message):
        assert is_dataclass(ours), where
        for field in theirs.DESCRIPTOR.fields:
            if field.containing_oneof and not theirs.HasField(field.name):
                assert getattr(ours, field.name) is None, f"{where}.{field.name}"
                continue
            value = getattr(theirs, field.name)
            if field.enum_type is not None:
                names = field.enum_type.values_by_number
                value = [names[v].name for v in value] if field.is_repeated else names[value].name
            check_same(getattr(ours, field.name), value, f"{where}.{field.name}")
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs) > 0, where
        for mine, other in zip(ours, theirs, strict=True):
            check_same(mine, other, where)
    elif isinstance(ours, Mapping):
        assert dict(ours) == dict(theirs), where
    else:
        spelt = getattr(ours, "wire", ours)
        assert type(spelt) is type(theirs), where
        assert spelt == theirs, where


@pytest.mark.parametrize(
    "rpc",
    [n for n in USES if n not in (*STREAMS, *NOTHING_TO_READ, "ScoreBatch")],
)
async def test_every_field_of_an_answer_arrives_with_its_type(
    edge: FakeEdge, caller: Caller, rpc: str
) -> None:
    result = await caller(USES[rpc])
    check_same(result, edge.expected(rpc), rpc)


@pytest.mark.parametrize("rpc", LISTS)
async def test_every_field_of_a_lists_items_arrives_with_its_type(
    edge: FakeEdge, caller: Caller, rpc: str
) -> None:
    answer: Any = edge.expected(rpc)
    check_same(
        tuple(await caller.all(USES[rpc])), getattr(answer, answer.DESCRIPTOR.fields[0].name), rpc
    )


async def test_a_saved_instrument_stands_for_tokens(edge: FakeEdge, caller: Caller) -> None:
    order = {"amount": USD, "capture_method": "AUTOMATIC", "instrument_id": INSTRUMENT}
    await caller(partial(create, order))
    message: Any = edge.calls[0].message
    assert (message.instrument_id, message.HasField("instrument")) == (INSTRUMENT, False)
    assert edge.message_problems == []


@pytest.mark.parametrize(
    ("credentials", "processor"),
    [
        (STRIPE, "stripe"),
        (AmazonPayCredentials("SANDBOX-KEY1", "pem", "store", "A1", "eu"), "amazon_pay"),
        (SolanaCredentials("1" * 32, "1" * 64), "solana"),
    ],
)
async def test_credentials_say_of_which_processor_they_are(
    edge: FakeEdge, caller: Caller, credentials: Any, processor: str
) -> None:
    fees = [ProcessorFee("USD", 290, 30)]
    await caller(lambda c: c.processor_accounts.create("main", fees, credentials))
    message: Any = edge.calls[0].message
    assert message.credentials.WhichOneof("credentials") == processor


async def test_an_absent_field_stays_as_it_is_and_an_empty_one_empties(
    edge: FakeEdge, caller: Caller
) -> None:
    await caller(lambda c: c.customers.update("payer", "e1", name=""))
    message: Any = edge.calls[0].message
    assert [f for f in ("email", "name") if message.HasField(f)] == ["name"]


async def test_settings_that_were_read_go_back_as_they_came(edge: FakeEdge, caller: Caller) -> None:
    read = {"etag": "e1", "settings": encode(SETTINGS)}
    assert "rewardVestingSeconds" not in read["settings"], "absent is not 0"
    edge.script("GetMerchant", httpx.Response(200, json=read))
    merchant = await caller(lambda c: c.merchant.get())
    assert merchant.settings == SETTINGS
    await caller(lambda c: c.merchant.update(merchant.etag, merchant.settings))
    message: Any = edge.calls[-1].message
    assert not message.settings.HasField("reward_vesting_seconds")
    patient = replace(merchant.settings, reward_vesting_seconds=0)
    await caller(lambda c: c.merchant.update(merchant.etag, patient))
    message = edge.calls[-1].message
    assert message.settings.HasField("reward_vesting_seconds")


async def test_one_status_may_stand_for_a_list_of_one(edge: FakeEdge, caller: Caller) -> None:
    for status in ("FAILED", PaymentStatus.FAILED, ["FAILED"], (PaymentStatus.FAILED,)):
        await caller.all(partial(of_status, status))
    messages: list[Any] = [call.message for call in edge.calls]
    assert [list(message.status) for message in messages] == [[9]] * 4


def of_status(status: Any, client: Any) -> Any:
    return client.payments.list(status=status)


def test_secrets_are_in_no_repr() -> None:
    for holder in (
        STRIPE,
        AmazonPayCredentials(private_key="sk_test_0123456789"),
        SolanaCredentials(refund_secret_key="sk_test_0123456789"),
        WebhookEndpoint(secret="sk_test_0123456789"),
    ):
        assert "sk_test" not in repr(holder)


async def test_a_batch_is_answered_in_order(edge: FakeEdge, caller: Caller) -> None:
    [assessment] = await caller(USES["ScoreBatch"])
    assert assessment.score == 0.25


def test_amounts_beyond_a_floats_reach_stay_exact() -> None:
    money = decode(Money, {"minorUnits": "9007199254740993", "currencyCode": "USD"})
    assert money == Money(9007199254740993, "USD")
    assert encode(money) == {"minorUnits": 9007199254740993, "currencyCode": "USD"}


def test_money_is_never_a_float() -> None:
    for amount in (19.99, "1999", True):
        with pytest.raises(TypeError, match="minor_units must be an int"):
            Money(amount, "USD")  # type: ignore[arg-type]


def test_a_word_that_a_newer_edge_says_is_kept() -> None:
    payment = decode(Payment, {"status": "STATUS_TELEPORTED", "newField": {"x": 1}})
    assert payment.status == "TELEPORTED"
    assert isinstance(payment.status, PaymentStatus)
    assert payment.status.wire == "STATUS_TELEPORTED"
    standing = (payment.succeeded, payment.declined, payment.blocked, payment.undecided)
    assert standing == (False, False, False, False)


def test_every_status_of_the_contract_is_decided_or_not() -> None:
    undecided = {s for s in PaymentStatus if Payment(status=s).undecided}
    assert undecided == {PaymentStatus.PROCESSING, PaymentStatus.UNKNOWN}
    names = {v.name for v in payment_pb2.Payment.Status.DESCRIPTOR.values}
    assert {s.wire for s in PaymentStatus} == names


def test_what_is_absent_has_its_default() -> None:
    payment = decode(Payment, {})
    assert payment == Payment()
    assert payment.captured_amount == Money(0, "")
    assert (payment.fraud, payment.create_time, payment.attempts) == (None, None, ())


@pytest.mark.parametrize(
    "body",
    [
        {"status": 5},
        {"amount": {"minorUnits": "x"}},
        {"attempts": [5]},
        {"createTime": "yesterday"},
        {"livemode": "yes"},
        {"metadata": []},
        [],
    ],
)
def test_an_answer_of_another_shape_is_refused(body: object) -> None:
    with pytest.raises(UnreadableError):
        decode(Payment, body)


def test_a_time_without_a_zone_is_refused() -> None:
    assert encode(KNOWN) == "2026-01-02T03:04:05Z"
    with pytest.raises(ValueError, match="time zone"):
        encode(datetime(2026, 1, 2))


def create(order: dict[str, Any], client: Any) -> Any:
    return client.payments.create(**order)


async def test_a_mistyped_argument_is_refused_before_anything_is_sent(
    edge: FakeEdge, caller: Caller
) -> None:
    order = {"amount": USD, "capture_method": "AUTOMATIC"}
    with pytest.raises(TypeError, match="unexpected argument 'amout'"):
        await caller(lambda c: c.payments.create(**order, amout=USD))
    for name in order:
        rest = {k: v for k, v in order.items() if k != name}
        with pytest.raises(TypeError, match=f"missing argument '{name}'"):
            await caller(partial(create, rest))
    assert edge.calls == []


def test_every_type_of_a_result_can_be_imported_from_the_package() -> None:
    kinds = {
        name
        for name, kind in vars(_contract).items()
        if isinstance(kind, type) and kind.__module__ == _contract.__name__
    }
    inner = {"ChatResponse", "ChatError", "ScoreBatchResponse", "ProcessorCredentials"}
    pages = {name for name in kinds if name.startswith("List") and name.endswith("Response")}
    assert kinds - inner - pages <= set(smartpay_client.__all__)


def calls_of(client: Any) -> dict[str, inspect.Signature]:
    """Finds every call a user can make, by its path from the client."""
    return {
        f"{name}.{call}": inspect.signature(getattr(type(resource), call))
        for name, resource in vars(client).items()
        if not name.startswith("_")
        for call in dir(resource)
        if not call.startswith("_")
    }


def test_sync_and_async_take_the_same_arguments(
    edge: FakeEdge, make: Callable[..., Client | AsyncClient]
) -> None:
    sync, other = calls_of(make("sync", edge)), calls_of(make("async", edge))
    assert sync.keys() == other.keys()
    assert len(sync) == len(USES) + len({"payments.wait"})
    for name, signature in sync.items():
        assert signature.parameters == other[name].parameters, name


def test_the_client_needs_nothing_but_httpx() -> None:
    names = set()
    for file in (CLIENT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module))
    foreign = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert foreign == {"httpx", "smartpay_client"}
    code = "import smartpay_client, sys; assert not {'smartpay', 'grpc', 'google'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_deadlines_and_keys_are_those_of_the_contract(edge: FakeEdge) -> None:
    by_name = {m.name: m for m in vars(_methods).values() if isinstance(m, Method)}
    for rpc in edge.rpcs:
        access = rpc.GetOptions().Extensions[access_pb2.access]
        ours = by_name[rpc.name]
        assert ours.deadline_seconds == access.deadline.seconds
        assert ours.needs_key == access.idempotency_key
        assert ours.may_repeat == (rpc.GetOptions().idempotency_level != 0)
