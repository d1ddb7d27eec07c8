"""The client speaks the contract, whole: every method, every field, both ways."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.message import Message

import smartpay_client
from smartpay.access.v1 import access_pb2
from smartpay.payments.v1 import payment_pb2
from smartpay_client import (
    Instrument,
    Money,
    Payment,
    PaymentStatus,
    ProcessorToken,
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
USD = Money(1999, "USD")
CARD = {ACCOUNT: "pm_card_visa"}
KNOWN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
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
    ),
    "GetPayment": lambda c: c.payments.get(PAYMENT),
    "ListPayments": lambda c: c.payments.list(status="SUCCEEDED", page_size=3),
    "CapturePayment": lambda c: c.payments.capture(PAYMENT, USD),
    "CancelPayment": lambda c: c.payments.cancel(PAYMENT),
    "ConfirmPayment": lambda c: c.payments.confirm(PAYMENT),
    "RefundPayment": lambda c: c.payments.refund(PAYMENT, USD, reason="FRAUDULENT"),
    "Score": lambda c: c.fraud.score(
        transaction_id="t-1",
        amount=USD,
        customer_id="payer",
        instrument_fingerprint="print",
        device_id="phone",
        ip_address="203.0.113.7",
    ),
    "ScoreBatch": lambda c: c.fraud.score_batch([{"transaction_id": "t-1", "amount": USD}]),
    "RecordLabel": lambda c: c.fraud.label("t-1", "FRAUD", known_time=KNOWN),
    "Decide": lambda c: c.route.decide(USD, CARD, risk=0.5),
    "GetDecision": lambda c: c.route.get(DECISION),
    "RecordOutcome": lambda c: c.route.record_outcome(
        DECISION, ACCOUNT, "DECLINED", attempt_index=1
    ),
    "Grant": lambda c: c.rewards.grant(PAYMENT, wallet="1" * 32),
    "GetReward": lambda c: c.rewards.get(PAYMENT),
    "ListRewards": lambda c: c.rewards.list(page_size=3),
    "Ask": lambda c: c.chat.ask("How much?"),
    "Chat": lambda c: c.chat.stream("How much?"),
}
STREAMS = ("ListPayments", "ListRewards", "Chat")
# Fields that no merchant can set.
NOT_FOR_MERCHANTS = {"Decide": {"payment_id", "decision_id"}, "ListPayments": {"page_token"}}
NOT_FOR_MERCHANTS["ListRewards"] = {"page_token"}


def test_what_is_generated_is_what_the_contract_says() -> None:
    spec = importlib.util.spec_from_file_location("generate_client", CLIENT / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_client"] = module
    spec.loader.exec_module(module)
    for file, text in module.generate().items():
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
    assert sent == every - NOT_FOR_MERCHANTS.get(rpc, set())


def check_same(ours: Any, theirs: Any, where: str) -> None:
    """Compares a result with the message it came from, field by field."""
    if isinstance(theirs, Message) and theirs.DESCRIPTOR.full_name == "google.protobuf.Timestamp":
        assert ours == theirs.ToDatetime(UTC), where  # type: ignore[attr-defined]
    elif isinstance(theirs, Message):
        assert is_dataclass(ours), where
        for field in theirs.DESCRIPTOR.fields:
            value = getattr(theirs, field.name)
            if field.enum_type is not None:
                value = field.enum_type.values_by_number[value].name
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
    [n for n in USES if n not in (*STREAMS, "ScoreBatch", "RecordLabel", "RecordOutcome")],
)
async def test_every_field_of_an_answer_arrives_with_its_type(
    edge: FakeEdge, caller: Caller, rpc: str
) -> None:
    result = await caller(USES[rpc])
    check_same(result, edge.expected(rpc), rpc)


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
    order = {"amount": USD, "instrument": CARD, "capture_method": "AUTOMATIC"}
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
    inner = {"ChatResponse", "ChatError", "ListPaymentsResponse", "ListRewardsResponse"}
    assert kinds - inner - {"ScoreBatchResponse"} <= set(smartpay_client.__all__)


def test_sync_and_async_take_the_same_arguments() -> None:
    pairs = [
        (getattr(module, name), getattr(module, f"Async{name}"))
        for module, name in (
            (smartpay_client.payments, "Payments"),
            (smartpay_client.fraud, "Fraud"),
            (smartpay_client.route, "Route"),
            (smartpay_client.rewards, "Rewards"),
            (smartpay_client.chat, "Chat"),
        )
    ]
    for sync, other in pairs:
        names = {n for n in vars(sync) if not n.startswith("_")}
        assert names == {n for n in vars(other) if not n.startswith("_")}
        for name in names:
            mine, its = (inspect.signature(getattr(kind, name)) for kind in (sync, other))
            assert mine.parameters == its.parameters, name


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
