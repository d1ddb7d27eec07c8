"""The contract, seen by a caller of a real server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.calls import Call, set_current_call
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import (
    DEMO_MERCHANT,
    OTHER_MERCHANT,
    FakeClock,
    as_merchant,
    as_service,
    error_info,
    serve_for_test,
)
from smartpay_fraud.adapters.sqlite_history import SqliteHistory
from smartpay_fraud.domain.scoring import History, Scoring
from smartpay_fraud.server.scoring import STREAM_ROWS_MAX, FraudServicer

FRAUD = fraud_pb2.DESCRIPTOR.services_by_name["FraudService"]


def a_request(transaction_id: str = "order-1", **changes: Any) -> fraud_pb2.ScoreRequest:
    fields = {
        "amount": Money(minor_units=4_999, currency_code="USD"),
        "customer_id": f"customer of {transaction_id}",
        "instrument_fingerprint": f"card of {transaction_id}",
        "device_id": f"device of {transaction_id}",
        "ip_address": "203.0.113.7",
    }
    return fraud_pb2.ScoreRequest(transaction_id=transaction_id, **{**fields, **changes})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def fraud(
    make_scoring: Callable[[History], Scoring], clock: FakeClock, tmp_path: Path
) -> AsyncIterator[Any]:
    history = await SqliteHistory.open(tmp_path / "fraud.db")
    servicer = FraudServicer(make_scoring(history), clock)
    served = [(fraud_pb2_grpc.add_FraudServiceServicer_to_server, servicer, FRAUD)]
    async with serve_for_test(served) as channel:
        yield fraud_pb2_grpc.FraudServiceStub(channel)
    await history.close()


async def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_info(caught.value)


async def test_a_newcomer_is_allowed_and_told_why(fraud: Any, clock: FakeClock) -> None:
    response = await fraud.Score(a_request(), metadata=as_merchant())
    assessment = response.assessment
    assert assessment.transaction_id == "order-1"
    assert assessment.verdict == fraud_pb2.Assessment.VERDICT_ALLOW
    assert 0 < assessment.score < 0.02
    assert assessment.model_version.startswith("trees-")
    assert assessment.create_time.ToDatetime(clock.now.tzinfo) == clock.now
    assert len(assessment.reasons) <= 4
    assert all(reason.code and reason.message for reason in assessment.reasons)


async def test_payments_and_the_merchant_share_one_assessment(fraud: Any, clock: FakeClock) -> None:
    first = await fraud.Score(a_request(), metadata=as_service("payments"))
    clock.advance(minutes=5)
    assert await fraud.Score(a_request(), metadata=as_merchant()) == first


async def test_an_answer_survives_a_restart(
    make_scoring: Callable[[History], Scoring], clock: FakeClock, tmp_path: Path
) -> None:
    answers = []
    for _ in range(2):
        history = await SqliteHistory.open(tmp_path / "kept.db")
        scoring = make_scoring(history)
        await scoring.remember(0, 100)
        served = [
            (
                fraud_pb2_grpc.add_FraudServiceServicer_to_server,
                FraudServicer(scoring, clock),
                FRAUD,
            )
        ]
        async with serve_for_test(served) as channel:
            stub: Any = fraud_pb2_grpc.FraudServiceStub(channel)
            answers.append(await stub.Score(a_request(), metadata=as_merchant()))
        await history.close()
        clock.advance(hours=1)
    assert answers[0] == answers[1]


async def test_other_input_under_the_same_id_is_refused_with_the_field(fraud: Any) -> None:
    await fraud.Score(a_request(), metadata=as_merchant())
    error = await refused(fraud.Score(a_request(device_id="other"), metadata=as_merchant()))
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["reason"] == "IDEMPOTENCY_KEY_REUSED"
    assert error["field"] == "transaction_id"
    assert error["remedy"]


async def test_another_merchant_sees_nothing_of_it(fraud: Any) -> None:
    await fraud.Score(a_request(), metadata=as_merchant())
    theirs = await fraud.Score(
        a_request(amount=Money(minor_units=100, currency_code="EUR")),
        metadata=as_merchant(OTHER_MERCHANT),
    )
    assert theirs.assessment.transaction_id == "order-1"
    label = fraud_pb2.RecordLabelRequest(transaction_id="order-2", label=fraud_pb2.LABEL_FRAUD)
    await fraud.Score(a_request("order-2"), metadata=as_merchant(DEMO_MERCHANT))
    error = await refused(fraud.RecordLabel(label, metadata=as_merchant(OTHER_MERCHANT)))
    assert error["code"] == "NOT_FOUND"
    assert error["reason"] == "TRANSACTION_NOT_FOUND"


async def test_a_burst_in_one_batch_is_blocked_in_order(fraud: Any) -> None:
    tester = {
        "device_id": "tester",
        "customer_id": "",
        "amount": Money(minor_units=150, currency_code="USD"),
    }
    requests = [a_request(f"try-{number}", **tester) for number in range(8)]
    response = await fraud.ScoreBatch(
        fraud_pb2.ScoreBatchRequest(transactions=requests), metadata=as_merchant()
    )
    assert [a.transaction_id for a in response.assessments] == [r.transaction_id for r in requests]
    assert response.assessments[0].verdict == fraud_pb2.Assessment.VERDICT_ALLOW
    last = response.assessments[-1]
    assert last.verdict == fraud_pb2.Assessment.VERDICT_BLOCK
    assert last.reasons[0].code == "RULE_CARDS_ON_DEVICE"
    assert last.reasons[0].contribution == 0


async def test_a_batch_with_one_bad_row_names_it(fraud: Any) -> None:
    requests = [a_request("a"), a_request("b", ip_address="nowhere")]
    error = await refused(
        fraud.ScoreBatch(fraud_pb2.ScoreBatchRequest(transactions=requests), metadata=as_merchant())
    )
    assert error["reason"] == "FIELD_INVALID"
    assert error["field"] == "transactions[1].ip_address"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"transaction_id": ""}, "transaction_id"),
        ({"amount": None}, "amount"),
        ({"amount": Money(minor_units=0, currency_code="USD")}, "amount"),
        ({"amount": Money(minor_units=1, currency_code="usd")}, "amount.currency_code"),
        ({"customer_id": "x" * 65}, "customer_id"),
        ({"ip_address": "1.2.3"}, "ip_address"),
    ],
)
async def test_bad_input_is_refused_by_field(
    fraud: Any, change: dict[str, Any], field: str
) -> None:
    request = a_request(**{k: v for k, v in change.items() if k != "transaction_id"})
    request.transaction_id = change.get("transaction_id", "order-1")
    error = await refused(fraud.Score(request, metadata=as_merchant()))
    assert error["code"] == "INVALID_ARGUMENT"
    assert error["field"] == field


async def test_a_label_is_taken_and_counts_for_the_next_score(fraud: Any, clock: FakeClock) -> None:
    await fraud.Score(a_request(), metadata=as_merchant())
    label = fraud_pb2.RecordLabelRequest(transaction_id="order-1", label=fraud_pb2.LABEL_FRAUD)
    clock.advance(days=1)
    for _ in range(2):
        assert await fraud.RecordLabel(label, metadata=as_merchant()) == (
            fraud_pb2.RecordLabelResponse()
        )
    same_card = a_request("order-2", instrument_fingerprint="card of order-1")
    labelled = await fraud.Score(same_card, metadata=as_merchant())
    unlabelled = await fraud.Score(same_card, metadata=as_merchant(OTHER_MERCHANT))
    assert labelled.assessment.score > unlabelled.assessment.score


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"label": fraud_pb2.LABEL_UNSPECIFIED}, "label"),
        ({"known_time": Timestamp(seconds=4_000_000_000)}, "known_time"),
    ],
)
async def test_a_bad_label_is_refused_by_field(
    fraud: Any, change: dict[str, Any], field: str
) -> None:
    await fraud.Score(a_request(), metadata=as_merchant())
    fields = {"transaction_id": "order-1", "label": fraud_pb2.LABEL_FRAUD, **change}
    error = await refused(
        fraud.RecordLabel(fraud_pb2.RecordLabelRequest(**fields), metadata=as_merchant())
    )
    assert error["reason"] == "FIELD_INVALID"
    assert error["field"] == field


async def test_a_service_that_is_not_payments_may_not_score(fraud: Any) -> None:
    error = await refused(fraud.Score(a_request(), metadata=as_service("rewards")))
    assert error["code"] == "PERMISSION_DENIED"


# Deadlines.


async def test_a_call_whose_caller_has_gone_is_neither_scored_nor_counted(
    make_scoring: Callable[[History], Scoring], clock: FakeClock, history: History
) -> None:
    servicer = FraudServicer(make_scoring(history), clock)
    set_current_call(a_call(expires_at=time.monotonic() - 1))
    with pytest.raises(Refusal) as refused:
        await servicer.Score(a_request(), None)  # type: ignore[arg-type]  # it is not asked
    assert refused.value.kind is Kind.DEADLINE_EXCEEDED
    clock.advance(minutes=1)
    set_current_call(a_call())
    later = await servicer.Score(a_request(), None)  # type: ignore[arg-type]
    assert later.assessment.create_time.ToDatetime(clock.now.tzinfo) == clock.now


# The stream, without the wire: the chassis carries it.


def a_call(expires_at: float | None = None) -> Call:
    return Call(
        method="/smartpay.fraud.v1.FraudService/ScoreStream",
        caller="edge",
        merchant_id=DEMO_MERCHANT.merchant_id,
        livemode=False,
        request_id="request-1",
        subject="user",
        idempotency_key="",
        expires_at=time.monotonic() + 60 if expires_at is None else expires_at,
    )


@pytest.fixture
def stream(
    make_scoring: Callable[[History], Scoring], clock: FakeClock, history: History
) -> Callable[[AsyncIterator[Any]], AsyncIterator[Any]]:
    servicer = FraudServicer(make_scoring(history), clock)
    set_current_call(a_call())
    return lambda requests: servicer.ScoreStream(requests, None)  # type: ignore[arg-type]


async def sent(*requests: fraud_pb2.ScoreRequest) -> AsyncIterator[Any]:
    for request in requests:
        yield fraud_pb2.ScoreStreamRequest(transaction=request)


async def test_a_stream_answers_in_order_as_score_would(stream: Any) -> None:
    requests = [a_request(f"order-{n}", device_id="shared") for n in range(3 * STREAM_ROWS_MAX)]
    answers = [answer async for answer in stream(sent(*requests))]
    assert [a.transaction_id for a in answers] == [r.transaction_id for r in requests]
    assert {a.WhichOneof("outcome") for a in answers} == {"assessment"}
    again = [answer async for answer in stream(sent(*requests[:5]))]
    assert again == answers[:5]


async def test_a_bad_transaction_is_answered_and_the_stream_goes_on(stream: Any) -> None:
    other = a_request("order-1", device_id="other")
    bad = a_request("order-2", ip_address="nowhere")
    card = a_request("order-3", customer_id="4242424242424242")
    answers = [a async for a in stream(sent(a_request(), other, bad, card, a_request("order-4")))]
    outcomes = [a.WhichOneof("outcome") for a in answers]
    assert outcomes == ["assessment", "error", "error", "error", "assessment"]
    told = []
    for answer in answers[1:4]:
        info = error_details_pb2.ErrorInfo()
        answer.error.details[0].Unpack(info)
        told.append((info.reason, info.metadata["field"]))
    assert told == [
        ("IDEMPOTENCY_KEY_REUSED", "transaction_id"),
        ("FIELD_INVALID", "ip_address"),
        ("CARD_NUMBER_REFUSED", "customer_id"),
    ]


async def test_a_stream_reads_no_further_than_its_room(stream: Any) -> None:
    read = 0

    async def endless() -> AsyncIterator[Any]:
        nonlocal read
        while True:
            yield fraud_pb2.ScoreStreamRequest(transaction=a_request(f"order-{read}"))
            read += 1

    answers = stream(endless())
    await anext(answers)
    for _ in range(50):  # nobody takes the next answer, however often the loop turns
        await asyncio.sleep(0.001)
    assert read <= STREAM_ROWS_MAX + 1
    await answers.aclose()


async def test_a_stream_that_breaks_midway_keeps_what_was_said(stream: Any) -> None:
    async def broken() -> AsyncIterator[Any]:
        yield fraud_pb2.ScoreStreamRequest(transaction=a_request())
        raise ConnectionError

    answers = stream(broken())
    assert (await anext(answers)).WhichOneof("outcome") == "assessment"
    with pytest.raises(ConnectionError):
        await anext(answers)


async def test_an_empty_stream_is_answered_by_nothing(stream: Any) -> None:
    assert [answer async for answer in stream(sent())] == []


async def test_a_stream_over_the_wire_answers_in_order_and_outlives_a_bad_row(fraud: Any) -> None:
    bad = a_request("order-2", ip_address="nowhere")
    stream = fraud.ScoreStream(sent(a_request(), bad, a_request("order-3")), metadata=as_merchant())
    answers = [answer async for answer in stream]
    assert [a.transaction_id for a in answers] == ["order-1", "order-2", "order-3"]
    assert [a.WhichOneof("outcome") for a in answers] == ["assessment", "error", "assessment"]


async def test_a_stream_of_a_service_that_may_not_score_is_refused(fraud: Any) -> None:
    stream = fraud.ScoreStream(sent(a_request()), metadata=as_service("rewards"))
    error = await refused(stream.read())
    assert error["code"] == "PERMISSION_DENIED"
