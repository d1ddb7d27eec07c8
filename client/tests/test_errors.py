"""Every refusal of the contract becomes one typed error with the edge's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartpay.assistant.v1 import assistant_pb2
from smartpay.fraud.v1 import fraud_pb2
from smartpay.payments.v1 import payments_pb2
from smartpay.rewards.v1 import rewards_pb2
from smartpay.router.v1 import router_pb2
from smartpay.type.v1 import error_reason_pb2
from smartpay_client import (
    AccessDenied,
    Conflict,
    DeadlineExceeded,
    FieldProblem,
    IdempotencyKeyReused,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerFault,
    SmartPayError,
    TokenRefused,
    Unavailable,
)
from smartpay_client.errors import error_of, retry_after

if TYPE_CHECKING:
    from client.tests.conftest import Caller, FakeEdge

PAYMENT = "pay_d1" + "0" * 24
# Reason: HTTP status as the edge answers it, family.
REASONS: dict[str, tuple[int, type[SmartPayError]]] = {
    "FIELD_INVALID": (400, InvalidRequest),
    "BODY_MALFORMED": (400, InvalidRequest),
    "CARD_NUMBER_REFUSED": (400, InvalidRequest),
    "IDEMPOTENCY_KEY_REQUIRED": (400, InvalidRequest),
    "PAGE_TOKEN_INVALID": (400, InvalidRequest),
    "CURRENCY_MISMATCH": (400, InvalidRequest),
    "ACCOUNT_UNKNOWN": (400, InvalidRequest),
    "ACCOUNT_NOT_RANKED": (400, InvalidRequest),
    "WALLET_INVALID": (400, InvalidRequest),
    "CURSOR_INVALID": (400, InvalidRequest),
    "CURSOR_EXPIRED": (400, InvalidRequest),
    "BODY_TOO_LARGE": (413, InvalidRequest),
    "IDEMPOTENCY_KEY_REUSED": (422, IdempotencyKeyReused),
    "IDEMPOTENCY_KEY_IN_FLIGHT": (409, Conflict),
    "STATUS_FORBIDS": (409, Conflict),
    "AMOUNT_TOO_LARGE": (409, Conflict),
    "ORDER_ALREADY_PAID": (409, Conflict),
    "NO_ELIGIBLE_ACCOUNT": (409, Conflict),
    "PAYMENT_CHANGED": (409, Conflict),
    "DECISION_REFUSED": (409, Conflict),
    "DECISION_EXPIRED": (409, Conflict),
    "DECISION_USED": (409, Conflict),
    "DECISION_MISMATCH": (409, Conflict),
    "PAYMENT_NOT_SETTLED": (409, Conflict),
    "WALLET_MISMATCH": (409, Conflict),
    "WEBHOOK_ENDPOINT_NOT_FOUND": (404, NotFound),
    "WEBHOOK_DELIVERY_NOT_FOUND": (404, NotFound),
    "REFUND_NOT_FOUND": (404, NotFound),
    "DISPUTE_NOT_FOUND": (404, NotFound),
    "CUSTOMER_NOT_FOUND": (404, NotFound),
    "ERASURE_NOT_FOUND": (404, NotFound),
    "INSTRUMENT_NOT_FOUND": (404, NotFound),
    "ACCOUNT_NOT_FOUND": (404, NotFound),
    "WEBHOOK_SECRET_NOT_FOUND": (404, NotFound),
    "WEBHOOK_URL_REFUSED": (400, InvalidRequest),
    "INSTRUMENT_UNSUPPORTED": (400, InvalidRequest),
    "CREDENTIALS_REFUSED": (400, InvalidRequest),
    "RULE_INVALID": (400, InvalidRequest),
    "POLICY_INVALID": (400, InvalidRequest),
    "ENTRY_INVALID": (400, InvalidRequest),
    "WEBHOOK_ENDPOINTS_TOO_MANY": (409, Conflict),
    "WEBHOOK_ENDPOINT_DISABLED": (409, Conflict),
    "EVENT_EXPIRED": (409, Conflict),
    "WEBHOOKS_NOT_CONFIGURED": (409, Conflict),
    "RAIL_NOT_CHOSEN": (409, Conflict),
    "EVIDENCE_CONTRADICTED": (409, Conflict),
    "CUSTOMER_EXISTS": (409, Conflict),
    "INSTRUMENT_NOT_READY": (409, Conflict),
    "ACCOUNT_READ_ONLY": (409, Conflict),
    "ETAG_MISMATCH": (409, Conflict),
    "LIMIT_REACHED": (409, Conflict),
    "LOG_TOO_THIN": (409, Conflict),
    "RULES_CHANGED": (409, Conflict),
    "LIST_EXISTS": (409, Conflict),
    "LIST_IN_USE": (409, Conflict),
    "REVIEW_ENDED": (409, Conflict),
    "SIGNATURE_REFUSED": (403, AccessDenied),
    "TOKEN_REFUSED": (401, TokenRefused),
    "ACCESS_DENIED": (403, AccessDenied),
    "MERCHANT_REQUIRED": (403, AccessDenied),
    "ROUTE_UNKNOWN": (404, NotFound),
    "PAYMENT_NOT_FOUND": (404, NotFound),
    "DECISION_NOT_FOUND": (404, NotFound),
    "TRANSACTION_NOT_FOUND": (404, NotFound),
    "REWARD_NOT_FOUND": (404, NotFound),
    "RULES_VERSION_NOT_FOUND": (404, NotFound),
    "POLICY_VERSION_NOT_FOUND": (404, NotFound),
    "LIST_NOT_FOUND": (404, NotFound),
    "REVIEW_NOT_FOUND": (404, NotFound),
    "RATE_LIMITED": (429, RateLimited),
    "SCORING_QUEUE_FULL": (429, RateLimited),
    "UNAVAILABLE": (503, Unavailable),
    "INDEX_NOT_READY": (503, Unavailable),
    "MEMORY_UNAVAILABLE": (503, Unavailable),
    "DEADLINE_EXCEEDED": (504, DeadlineExceeded),
    "INTERNAL": (500, ServerFault),
}
ENUMS: list[Any] = [
    module.ErrorReason
    for module in (
        error_reason_pb2,
        payments_pb2,
        fraud_pb2,
        router_pb2,
        rewards_pb2,
        assistant_pb2,
    )
]


def test_no_reason_of_the_contract_is_forgotten() -> None:
    values = [value for enum in ENUMS for value in enum.DESCRIPTOR.values]
    names = {value.name.removeprefix("ERROR_REASON_") for value in values}
    assert names - {"UNSPECIFIED"} == REASONS.keys()


@pytest.mark.parametrize("reason", REASONS)
async def test_a_reason_becomes_its_family_with_the_edges_words(
    edge: FakeEdge, caller: Caller, reason: str
) -> None:
    status, family = REASONS[reason]
    fault = {"field": "amount.currencyCode", "detail": "must be known", "reason": "cel"}
    told = edge.problem(status, reason, field="amount.currencyCode", errors=[fault])
    edge.script("GetPayment", *[told] * 99)
    with pytest.raises(SmartPayError) as caught:
        await caller(lambda c: c.payments.get(PAYMENT))
    error = caught.value
    assert type(error) is family
    assert (error.status, error.reason, error.request_id) == (status, reason, "r-1")
    assert (error.detail, error.remedy) == ("It is so.", "Do this.")
    assert error.field == "amount.currencyCode"
    assert error.fields == (FieldProblem("amount.currencyCode", "must be known", "cel"),)
    assert str(error) == f"{reason}: It is so. Do this. (status {status}, request r-1)"


@pytest.mark.parametrize(
    ("status", "family"),
    [
        (400, InvalidRequest),
        (401, TokenRefused),
        (403, AccessDenied),
        (404, NotFound),
        (408, DeadlineExceeded),
        (409, Conflict),
        (418, InvalidRequest),
        (422, InvalidRequest),
        (429, RateLimited),
        (499, DeadlineExceeded),
        (500, ServerFault),
        (502, Unavailable),
        (503, Unavailable),
        (504, DeadlineExceeded),
        (302, ServerFault),
    ],
)
def test_a_reason_nobody_knows_stays_usable(status: int, family: type[SmartPayError]) -> None:
    error = error_of(status, {}, b'{"reason": "MOON_IN_THE_WAY", "detail": "It is so."}')
    assert type(error) is family
    assert (error.reason, error.detail) == ("MOON_IN_THE_WAY", "It is so.")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"reason": 5, "errors": [1]}'])
def test_an_error_without_problem_details_still_says_what_it_can(body: bytes) -> None:
    error = error_of(503, {"x-request-id": "r-9"}, body)
    assert type(error) is Unavailable
    assert (error.reason, error.request_id, error.fields) == ("UNAVAILABLE", "r-9", ())
    assert "503" in error.detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "Sun, 01 Mar 2026 10:00:00 GMT"}, None),
        (
            {
                "retry-after": "Sun, 01 Mar 2026 10:00:00 GMT",
                "date": "Sun, 01 Mar 2026 10:00:09 GMT",
            },
            0.0,
        ),
    ],
)
def test_what_the_edge_says_about_waiting_is_read_or_left(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers) == seconds


async def test_a_redirect_is_not_followed_with_a_token(edge: FakeEdge, caller: Caller) -> None:
    elsewhere = httpx.Response(307, headers={"location": "https://elsewhere.test/"})
    edge.script("GetPayment", *[elsewhere] * 99)
    with pytest.raises(ServerFault) as caught:
        await caller(lambda c: c.payments.get(PAYMENT))
    assert caught.value.status == 307
    assert {call.rpc for call in edge.calls} == {"GetPayment"}
