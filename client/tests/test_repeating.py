"""One call, however many tries: the key, the pauses, the deadline, and what is never repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartpay_client import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    Money,
    NotFound,
    RateLimited,
    ServerFault,
    Unavailable,
    _methods,
    limits,
)
from smartpay_client.method import Idempotency

if TYPE_CHECKING:
    from client.tests.conftest import Caller, FakeEdge

ID = "d1" + "0" * 24
PAYMENT = f"pay_{ID}"
ORDER: dict[str, Any] = {
    "amount": Money(1999, "USD"),
    "instrument": {f"pac_{ID}": "pm_card_visa"},
    "capture_method": "AUTOMATIC",
}
LOST = httpx.ReadError("reset")
TIMEOUT = httpx.ReadTimeout("slow")
NOT_REACHED = httpx.ConnectError("refused")
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def pay(client: Any, **more: Any) -> Any:
    return client.payments.create(**ORDER, **more)


async def test_one_key_and_one_body_over_all_tries(edge: FakeEdge, caller: Caller) -> None:
    edge.script("CreatePayment", LOST, edge.problem(503, "UNAVAILABLE"), TIMEOUT)
    payment = await caller(pay)
    assert payment.payment_id == "a payment_id"
    assert len(edge.calls) == limits.TRIES
    assert len({call.headers["idempotency-key"] for call in edge.calls}) == 1
    assert len({call.content for call in edge.calls}) == 1


async def test_each_call_has_a_fresh_key_of_its_own(edge: FakeEdge, caller: Caller) -> None:
    await caller(pay)
    await caller(pay)
    first, second = (call.headers["idempotency-key"] for call in edge.calls)
    assert first != second
    assert UUID4.fullmatch(first)


async def test_the_callers_own_key_is_sent(edge: FakeEdge, caller: Caller) -> None:
    await caller(lambda c: pay(c, idempotency_key="order-7"))
    await caller(lambda c: c.payments.refund(PAYMENT, Money(1, "USD"), idempotency_key="back-7"))
    assert [c.headers["idempotency-key"] for c in edge.calls] == ["order-7", "back-7"]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\n"])
async def test_a_malformed_key_is_refused_before_it_is_sent(
    edge: FakeEdge, caller: Caller, key: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await caller(lambda c: pay(c, idempotency_key=key))
    assert caught.value.reason == "IDEMPOTENCY_KEY_REQUIRED"
    assert edge.calls == []


async def test_an_error_carries_the_key_to_repeat_the_call_with(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("CreatePayment", *[LOST] * limits.TRIES)
    with pytest.raises(Unavailable) as caught:
        await caller(pay)
    assert caught.value.idempotency_key == edge.calls[0].headers["idempotency-key"]
    assert caught.value.__cause__ is LOST


FAULTS: dict[str, Any] = {
    "lost": lambda edge: LOST,
    "timeout": lambda edge: TIMEOUT,
    "server gone": lambda edge: httpx.RemoteProtocolError("closed"),
    "500": lambda edge: edge.problem(500, "INTERNAL"),
    "502": lambda edge: httpx.Response(502, text="<html>"),
    "503": lambda edge: edge.problem(503, "UNAVAILABLE"),
    "504": lambda edge: edge.problem(504, "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_method_that_is_not_idempotent_is_never_repeated(
    edge: FakeEdge, caller: Caller, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    edge.script("Score", FAULTS[fault](edge))
    assert (await caller(lambda c: c.fraud.score(transaction_id="t", amount=Money(1, "USD")))).score
    assert len(edge.calls) == 2, "the control: an idempotent method is"
    once = replace(_methods.SCORE, idempotency=Idempotency.IDEMPOTENCY_UNKNOWN)
    monkeypatch.setattr(_methods, "SCORE", once)
    edge.script("Score", FAULTS[fault](edge))
    with pytest.raises((Unavailable, DeadlineExceeded, ServerFault)):
        await caller(lambda c: c.fraud.score(transaction_id="t", amount=Money(1, "USD")))
    assert len(edge.calls) == 3


@pytest.mark.parametrize("fault", ["not reached", "429"])
async def test_what_was_never_begun_is_repeated_whatever_the_method(
    edge: FakeEdge, caller: Caller, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    once = replace(_methods.SCORE, idempotency=Idempotency.IDEMPOTENCY_UNKNOWN)
    monkeypatch.setattr(_methods, "SCORE", once)
    is_429 = fault == "429"
    edge.script("Score", edge.problem(429, "RATE_LIMITED") if is_429 else NOT_REACHED)
    await caller(lambda c: c.fraud.score(transaction_id="t", amount=Money(1, "USD")))
    assert len(edge.calls) == 2


@pytest.mark.parametrize(
    ("status", "reason", "family"),
    [
        (400, "FIELD_INVALID", InvalidRequest),
        (404, "PAYMENT_NOT_FOUND", NotFound),
        (409, "STATUS_FORBIDS", Conflict),
        (409, "PAYMENT_CHANGED", Conflict),
    ],
)
async def test_a_refusal_is_not_repeated(
    edge: FakeEdge, caller: Caller, status: int, reason: str, family: type[Exception]
) -> None:
    edge.script("GetPayment", edge.problem(status, reason))
    with pytest.raises(family):
        await caller(lambda c: c.payments.get(PAYMENT))
    assert len(edge.calls) == 1


async def test_a_certificate_nobody_trusts_is_told_at_once(edge: FakeEdge, caller: Caller) -> None:
    untrusted = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    edge.script("GetPayment", untrusted)
    with pytest.raises(Unavailable, match=r"certificate is not trusted.*ca_file"):
        await caller(lambda c: c.payments.get(PAYMENT))
    assert len(edge.calls) == 1


async def test_pauses_double_up_to_a_bound_and_draw_their_length(
    edge: FakeEdge, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TRIES", 9)
    with make("sync", edge, deadline=1000) as client:
        edge.script("GetPayment", *[LOST] * 8)
        client.payments.get(PAYMENT)
    assert edge.clock.slept == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    edge.clock.slept.clear()
    with make("sync", edge, deadline=1000, chance=lambda: 0.5) as client:
        edge.script("GetPayment", *[LOST] * 3)
        client.payments.get(PAYMENT)
    assert edge.clock.slept == [0.125, 0.25, 0.5]


@pytest.mark.parametrize("value", ["3", "Sun, 01 Mar 2026 10:00:03 GMT"], ids=["seconds", "a date"])
async def test_the_edge_says_how_long_to_wait(edge: FakeEdge, caller: Caller, value: str) -> None:
    headers = {"retry-after": value, "date": "Sun, 01 Mar 2026 10:00:00 GMT"}
    edge.script("GetPayment", edge.problem(429, "RATE_LIMITED", headers))
    await caller(lambda c: c.payments.get(PAYMENT))
    assert edge.clock.slept == [3.25]


async def test_a_wait_beyond_the_deadline_is_an_error_at_once(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("GetPayment", edge.problem(429, "RATE_LIMITED", {"retry-after": "60"}))
    with pytest.raises(RateLimited) as caught:
        await caller(lambda c: c.payments.get(PAYMENT, deadline=10))
    assert caught.value.retry_after == 60
    assert edge.clock.slept == []


async def test_a_key_in_flight_is_asked_for_again_until_it_is_answered(
    edge: FakeEdge, caller: Caller
) -> None:
    in_flight = [edge.problem(409, "IDEMPOTENCY_KEY_IN_FLIGHT") for _ in range(20)]
    edge.script("CreatePayment", LOST, *in_flight)
    await caller(pay)
    assert len(edge.calls) == 22, "more than the tries of a failing call"
    assert len({call.headers["idempotency-key"] for call in edge.calls}) == 1
    assert set(edge.clock.slept[1:]) == {limits.IN_FLIGHT_SECONDS}


async def test_a_key_in_flight_for_ever_ends_with_the_deadline(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("CreatePayment", *[edge.problem(409, "IDEMPOTENCY_KEY_IN_FLIGHT")] * 99)
    with pytest.raises(Conflict) as caught:
        await caller(lambda c: pay(c, deadline=10))
    assert caught.value.idempotency_key
    assert edge.clock.now <= 1010


async def test_every_try_ends_with_the_calls_deadline(edge: FakeEdge, caller: Caller) -> None:
    def slow() -> httpx.Response:
        edge.clock.now += 4
        raise TIMEOUT

    edge.script("CreatePayment", slow, slow, slow)
    with pytest.raises(DeadlineExceeded):
        await caller(lambda c: pay(c, deadline=9))
    assert [call.at for call in edge.calls] == [1000, 1004.25, 1008.75]
    asked = [int(call.headers["grpc-timeout"].removesuffix("m")) for call in edge.calls]
    left = [1009 - call.at for call in edge.calls]
    assert all(0 < ms / 1000 < seconds for ms, seconds in zip(asked, left, strict=True))


async def test_without_a_deadline_a_try_gets_what_the_contract_allows(
    edge: FakeEdge, caller: Caller
) -> None:
    await caller(pay)
    await caller(lambda c: c.payments.get(PAYMENT))
    assert [c.headers["grpc-timeout"] for c in edge.calls] == ["30000m", "5000m"]


async def test_a_clients_own_deadline_holds_for_calls_that_name_none(
    edge: FakeEdge, make: Callable[..., Any]
) -> None:
    with make("sync", edge, deadline=4) as client:
        client.payments.get(PAYMENT)
        client.payments.get(PAYMENT, deadline=100)
    assert [c.headers["grpc-timeout"] for c in edge.calls] == ["3000m", "5000m"]


async def test_a_decline_is_a_result(edge: FakeEdge, caller: Caller) -> None:
    edge.script("CreatePayment", edge.payment("FAILED", statusReason="card_declined"))
    payment = await caller(pay)
    assert payment.declined
    assert not payment.succeeded
    assert payment.status_reason == "card_declined"


async def test_waiting_asks_until_the_payment_is_decided(edge: FakeEdge, caller: Caller) -> None:
    edge.script("CreatePayment", edge.payment("PROCESSING", 202))
    edge.script("GetPayment", edge.payment("UNKNOWN", 200), edge.payment("SUCCEEDED", 200))
    payment = await caller(lambda c: pay(c, wait=True))
    assert payment.succeeded
    assert [call.rpc for call in edge.calls] == ["CreatePayment", "GetPayment", "GetPayment"]
    assert edge.clock.slept == [0.5, 0.75]


async def test_without_waiting_an_undecided_payment_is_answered(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("CreatePayment", edge.payment("UNKNOWN", 202))
    payment = await caller(pay)
    assert payment.undecided
    assert len(edge.calls) == 1


@pytest.mark.parametrize("status", ["REQUIRES_ACTION", "IN_REVIEW", "NEEDS_REVIEW"])
async def test_nobody_waits_for_people(edge: FakeEdge, caller: Caller, status: str) -> None:
    edge.script("CreatePayment", edge.payment(status, 202))
    assert (await caller(lambda c: pay(c, wait=True))).status == status
    assert len(edge.calls) == 1


async def test_waiting_ends_with_the_deadline_and_tells_how_it_stands(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("CreatePayment", edge.payment("UNKNOWN", 202))
    edge.script("GetPayment", *[edge.payment("UNKNOWN", 200)] * 99)
    payment = await caller(lambda c: pay(c, wait=True, deadline=20))
    assert payment.undecided
    assert 1015 < edge.clock.now <= 1020


async def test_waiting_does_not_forget_the_payment_when_the_edge_goes_away(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.script("CreatePayment", edge.payment("UNKNOWN", 202))
    edge.script("GetPayment", *[NOT_REACHED] * 99)
    payment = await caller(lambda c: pay(c, wait=True))
    assert payment.undecided
    assert payment.payment_id == PAYMENT


async def test_a_payment_can_be_waited_for_later(edge: FakeEdge, caller: Caller) -> None:
    edge.script("GetPayment", edge.payment("PROCESSING", 200), edge.payment("FAILED", 200))
    assert (await caller(lambda c: c.payments.wait(PAYMENT))).declined


@pytest.mark.parametrize(
    "wrong",
    ["", ".", "..", "@a", "a%2fb", "../rewards", "a/b", "a b", "pay_1:capture", "ü", "x" * 65],
)
async def test_an_id_never_leads_to_another_path(
    edge: FakeEdge, caller: Caller, wrong: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await caller(lambda c: c.payments.get(wrong))
    assert caught.value.field == "payment_id"
    assert edge.calls == []


async def test_lists_read_on_page_by_page_as_they_are_used(edge: FakeEdge, caller: Caller) -> None:
    def page(ids: list[str], token: str) -> httpx.Response:
        payments = [{"paymentId": each} for each in ids]
        return httpx.Response(200, json={"payments": payments, "nextPageToken": token})

    edge.script("ListPayments", page(["a", "b"], "t1"), LOST, page([], "t2"), page(["c"], ""))
    payments = await caller.all(lambda c: c.payments.list(status="FAILED", page_size=2))
    assert [p.payment_id for p in payments] == ["a", "b", "c"]
    messages: list[Any] = [call.message for call in edge.calls]
    assert [m.page_token for m in messages] == ["", "t1", "t1", "t2"]
    assert {(m.page_size, *m.status) for m in messages} == {(2, 9)}, "filters stay the same"


def test_a_list_asks_for_nothing_that_is_not_read(edge: FakeEdge, make: Callable[..., Any]) -> None:
    first = {"payments": [{"paymentId": "a"}, {"paymentId": "b"}], "nextPageToken": "more"}
    edge.script("ListPayments", httpx.Response(200, json=first))
    with make("sync", edge) as client:
        assert next(client.payments.list()).payment_id == "a"
    assert len(edge.calls) == 1


async def test_an_answer_that_is_not_the_contracts_is_a_fault_of_the_other_side(
    edge: FakeEdge, caller: Caller
) -> None:
    for body in ("<html>captive portal</html>", "[]", '{"status": 5}'):
        edge.script("CreatePayment", httpx.Response(200, text=body))
        with pytest.raises(ServerFault) as caught:
            await caller(pay)
        assert caught.value.reason == "ANSWER_UNREADABLE"
        assert caught.value.idempotency_key
