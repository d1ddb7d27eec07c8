"""What REST and native gRPC callers get back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from smartpay.assistant.v1 import assistant_pb2, assistant_pb2_grpc
from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_gateway.testing import PAYMENT_ID, Mesh

SCOPES = "smartpay/payments.write smartpay/payments.read smartpay/payments.refund smartpay/chat"
# Raw text as the service said it, with everything that breaks careless templating.
MESSAGE = 'He said "no",\n{"reason":"EVIL"}'


@pytest.fixture(scope="module")
def client(mesh: Mesh) -> Iterator[httpx.Client]:
    with mesh.rest(authorization=f"Bearer {mesh.issuer.token(SCOPES)}") as client:
        yield client


def refusal(client: httpx.Client, order: str) -> httpx.Response:
    return client.post("/pay", json={"merchantOrderId": f"refuse:{order}"})


@pytest.mark.parametrize("status", ["201", "202"])
def test_the_service_chooses_the_status_and_the_headers(client: httpx.Client, status: str) -> None:
    answer = client.post("/pay", json={"merchantOrderId": status})
    assert answer.status_code == int(status)
    assert answer.headers["location"] == f"/payments/{PAYMENT_ID}"
    assert answer.headers["etag"] == '"7"'
    assert answer.headers["idempotent-replayed"] == "true"
    assert "x-http-status" not in answer.headers


def test_the_body_is_the_one_field_the_contract_names(client: httpx.Client) -> None:
    answer = client.get(f"/payments/{PAYMENT_ID}")
    assert answer.headers["content-type"] == "application/json"
    payment = answer.json()
    assert payment["paymentId"] == PAYMENT_ID
    # Fields without presence are printed even when they are empty.
    assert payment["offSession"] is False
    assert payment["status"] == "STATUS_UNSPECIFIED"


def test_a_route_without_a_named_field_answers_with_the_whole_message(client: httpx.Client) -> None:
    assert client.get("/payments").json() == {"payments": [], "nextPageToken": "0//"}


@pytest.mark.parametrize("size", [70_000, 900_000])
def test_a_large_answer_arrives_whole(client: httpx.Client, size: int) -> None:
    answer = client.post("/pay", json={"merchantOrderId": f"large:{size}"})
    assert (answer.status_code, len(answer.json()["description"])) == (201, size)


def test_an_answer_too_large_for_rest_is_a_problem_too(client: httpx.Client) -> None:
    answer = client.post("/pay", json={"merchantOrderId": "large:5000000"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "INTERNAL"
    assert answer.json()["requestId"] == answer.headers["x-request-id"]
    assert "PaymentsService" not in str(answer.headers)


def test_a_refusal_becomes_a_problem_with_everything_the_service_said(client: httpx.Client) -> None:
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    body = {"merchantOrderId": "refuse:INVALID_ARGUMENT:FIELD_INVALID:amount.minor_units"}
    answer = client.post("/pay", json=body, headers=trace)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "https://smartpay.dev/problems/field-invalid",
        "title": "Field invalid",
        "status": 400,
        "reason": "FIELD_INVALID",
        "detail": MESSAGE,
        "field": "amount.minorUnits",
        "remedy": 'Say "please".',
        "errors": [
            {"field": "amount.minorUnits", "detail": 'must be "good"\nand 漢字', "reason": "RULE"}
        ],
        "requestId": answer.headers["x-request-id"],
        "traceId": "0af7651916cd43dd8448eb211c80319c",
    }


@pytest.mark.parametrize(
    ("proto", "rest"),
    [
        ("capture_method", "captureMethod"),
        ("instrument.tokens[0].processor_account_id", "instrument.tokens[0].processorAccountId"),
        ("idempotency-key", "idempotency-key"),
        ("smartpay-merchant", "smartpay-merchant"),
        ('metadata["a_b"]', 'metadata["a_b"]'),
    ],
)
def test_a_field_is_named_as_rest_spells_it(client: httpx.Client, proto: str, rest: str) -> None:
    problem = refusal(client, f"INVALID_ARGUMENT:FIELD_INVALID:{proto}").json()
    assert problem["field"] == rest
    assert problem["errors"][0]["field"] == rest


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("capture_method must be one of these.", "captureMethod must be one of these."),
        ("Send `off_session`, capture_method.", "Send `offSession`, captureMethod."),
        ("amount.minor_units is 0", "amount.minorUnits is 0"),
        # A processor's code and a caller's own words are no fields of ours.
        ("The code is insufficient_funds.", "The code is insufficient_funds."),
        ("my_capture_method, capture_methods", "my_capture_method, capture_methods"),
        ("CAPTURE_METHOD_MANUAL", "CAPTURE_METHOD_MANUAL"),
    ],
)
def test_texts_spell_fields_as_rest_does(client: httpx.Client, said: str, told: str) -> None:
    problem = refusal(client, f"INVALID_ARGUMENT:FIELD_INVALID:capture_method:{said}").json()
    assert problem["detail"] == problem["remedy"] == problem["errors"][0]["detail"] == told


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("INVALID_ARGUMENT", "FIELD_INVALID", 400),
        ("INVALID_ARGUMENT", "IDEMPOTENCY_KEY_REUSED", 422),
        ("ABORTED", "IDEMPOTENCY_KEY_IN_FLIGHT", 409),
        ("FAILED_PRECONDITION", "STATUS_FORBIDS", 409),
        ("OUT_OF_RANGE", "CURSOR_EXPIRED", 400),
        ("NOT_FOUND", "PAYMENT_NOT_FOUND", 404),
        ("ALREADY_EXISTS", "ORDER_ALREADY_PAID", 409),
        ("PERMISSION_DENIED", "MERCHANT_REQUIRED", 403),
        ("UNAUTHENTICATED", "TOKEN_REFUSED", 401),
        ("RESOURCE_EXHAUSTED", "SCORING_QUEUE_FULL", 429),
        ("UNAVAILABLE", "INDEX_NOT_READY", 503),
        ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", 504),
        ("INTERNAL", "INTERNAL", 500),
        ("DATA_LOSS", "INTERNAL", 500),
    ],
)
def test_each_kind_of_refusal_has_its_status(
    client: httpx.Client, code: str, reason: str, status: int
) -> None:
    answer = refusal(client, f"{code}:{reason}")
    problem = answer.json()
    assert (answer.status_code, problem["status"], problem["reason"]) == (status, status, reason)
    assert problem["type"].endswith("/" + reason.lower().replace("_", "-"))
    assert problem["remedy"] == 'Say "please".'
    assert "field" not in problem
    assert problem["errors"] == []


@pytest.mark.parametrize(
    ("code", "reason", "status"),
    [
        ("UNAVAILABLE", "UNAVAILABLE", 503),
        ("PERMISSION_DENIED", "ACCESS_DENIED", 403),
        ("UNIMPLEMENTED", "ROUTE_UNKNOWN", 404),
        ("UNKNOWN", "INTERNAL", 500),
    ],
)
def test_a_bare_status_gets_our_words_and_never_its_own(
    client: httpx.Client, code: str, reason: str, status: int
) -> None:
    answer = refusal(client, code)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert "EVIL" not in answer.text
    assert answer.json()["remedy"]


def test_a_crash_tells_nothing_of_our_insides(client: httpx.Client) -> None:
    answer = client.post("/pay", json={"merchantOrderId": "crash"})
    assert (answer.status_code, answer.json()["reason"]) == (500, "INTERNAL")
    assert "secret internals" not in answer.text


def test_a_deadline_that_passed_is_a_problem(client: httpx.Client) -> None:
    answer = client.get("/payments/slow", headers={"grpc-timeout": "50m"})
    assert (answer.status_code, answer.json()["reason"]) == (504, "DEADLINE_EXCEEDED")


def test_a_stream_arrives_as_server_sent_events(client: httpx.Client) -> None:
    with client.stream("POST", "/chat", json={"message": "hi"}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        lines = [line for line in answer.iter_lines() if line]
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [p["token"]["text"] for p in pieces[:2]] == ["two ", "words"]
    assert pieces[2] == {"done": {"refused": False}}


def test_a_piece_of_a_stream_arrives_before_the_next_is_made(
    mesh: Mesh, client: httpx.Client
) -> None:
    mesh.assistant.go_on.clear()
    with client.stream("POST", "/chat", json={"message": "wait"}) as answer:
        lines = answer.iter_lines()
        assert "two " in next(lines)
        mesh.assistant.go_on.set()
        assert "done" in [line for line in lines if line][-1]


def test_a_stream_refused_before_its_first_piece_is_a_problem(client: httpx.Client) -> None:
    body = {"message": "refuse:UNAVAILABLE:INDEX_NOT_READY"}
    answer = client.post("/chat", json=body)
    assert (answer.status_code, answer.json()["reason"]) == (503, "INDEX_NOT_READY")


def test_a_refusal_tells_nothing_of_the_servers_make(client: httpx.Client) -> None:
    answer = client.get("/nope")
    assert answer.headers["server"] == "smartpay"
    assert not {name for name in answer.headers if name.startswith(("x-envoy", "x-local"))}


def authorized(mesh: Mesh) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {mesh.issuer.token(SCOPES)}"),)


def test_native_grpc_gets_the_whole_message_and_its_metadata(mesh: Mesh) -> None:
    with mesh.native() as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        request = payments_pb2.CreatePaymentRequest(merchant_order_id="202")
        answer, call = stub.CreatePayment.with_call(request, metadata=authorized(mesh), timeout=10)
    assert answer.payment.payment_id == PAYMENT_ID
    seen = dict(call.initial_metadata())
    assert (seen["location"], seen["x-http-status"]) == (f"/payments/{PAYMENT_ID}", "202")
    assert seen["x-request-id"]


def test_native_grpc_gets_refusals_as_the_service_made_them(mesh: Mesh) -> None:
    with mesh.native() as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        request = payments_pb2.CreatePaymentRequest(
            merchant_order_id="refuse:INVALID_ARGUMENT:FIELD_INVALID:capture_method"
        )
        with pytest.raises(grpc.RpcError) as refusal:
            stub.CreatePayment(request, metadata=authorized(mesh), timeout=10)
    call: Any = refusal.value
    status = rpc_status.from_call(call)
    assert status.message == MESSAGE
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert (info.reason, info.metadata["field"]) == ("FIELD_INVALID", "capture_method")


def test_native_grpc_streams(mesh: Mesh) -> None:
    with mesh.native() as channel:
        stub = assistant_pb2_grpc.AssistantServiceStub(channel)
        pieces = list(
            stub.Chat(
                assistant_pb2.ChatRequest(message="hi"), metadata=authorized(mesh), timeout=10
            )
        )
    assert [p.WhichOneof("piece") for p in pieces] == ["token", "token", "done"]


def test_no_script_stumbled(mesh: Mesh, client: httpx.Client) -> None:
    assert client.get("/nope").status_code == 404
    assert "script log" not in (mesh.folder / "edge.log").read_text()
