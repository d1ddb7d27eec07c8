"""What stands around every call, seen by a caller of a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from smartpay.fraud.v1 import fraud_pb2
from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
from smartpay.type.v1 import instrument_pb2, money_pb2
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    OTHER_MERCHANT,
    as_merchant,
    as_service,
    error_info,
    serve_for_test,
)

if TYPE_CHECKING:
    from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceAsyncStub

PAYMENTS = payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"]


def a_request(**changes: Any) -> payments_pb2.CreatePaymentRequest:
    fields: dict[str, Any] = {
        "amount": money_pb2.Money(minor_units=1999, currency_code="USD"),
        "instrument": instrument_pb2.Instrument(
            tokens=[
                instrument_pb2.ProcessorToken(
                    processor_account_id=DEMO_ACCOUNTS[0], token="pm_card_visa"
                )
            ]
        ),
        "capture_method": payment_pb2.CAPTURE_METHOD_AUTOMATIC,
    }
    return payments_pb2.CreatePaymentRequest(**{**fields, **changes})


class Payments(payments_pb2_grpc.PaymentsServiceServicer):
    call: Call

    async def CreatePayment(
        self, request: payments_pb2.CreatePaymentRequest, context: object
    ) -> payments_pb2.CreatePaymentResponse:
        call = current_call()
        self.call = call
        if request.description == "refuse":
            raise Refusal(Kind.NOT_FOUND, "GONE", "It is gone.", remedy="Look elsewhere.")
        if request.description == "crash":
            raise RuntimeError("secret sk_live_123")
        call.respond_with(http_status=201, headers={"Location": "/payments/x"})
        return payments_pb2.CreatePaymentResponse(
            payment=payment_pb2.Payment(merchant_id=call.merchant_id)
        )

    async def GetPayment(
        self, request: payments_pb2.GetPaymentRequest, context: object
    ) -> payments_pb2.GetPaymentResponse:
        return payments_pb2.GetPaymentResponse(
            payment=payment_pb2.Payment(merchant_id=current_call().merchant_id)
        )

    async def Watch(
        self, request: payments_pb2.WatchRequest, context: object
    ) -> AsyncIterator[payments_pb2.WatchResponse]:
        yield payments_pb2.WatchResponse(cursor="1")
        if request.cursor:
            raise Refusal(Kind.OUT_OF_RANGE, "CURSOR_EXPIRED", "Too old.", remedy="List.")


Served = tuple["PaymentsServiceAsyncStub", Payments]


def a_servicer() -> Payments:
    """Serves only what these tests call."""
    return Payments()  # type: ignore[abstract]


@pytest.fixture
async def payments() -> AsyncIterator[Served]:
    servicer = a_servicer()
    served = [(payments_pb2_grpc.add_PaymentsServiceServicer_to_server, servicer, PAYMENTS)]
    async with serve_for_test(served) as channel:
        yield payments_pb2_grpc.PaymentsServiceStub(channel), servicer


async def refused(call: Awaitable[object]) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_info(caught.value)


async def test_a_user_acts_for_the_merchant_of_its_client(payments: Served) -> None:
    stub, servicer = payments
    call = stub.CreatePayment(a_request(), metadata=as_merchant(idempotency_key="k"))
    response = await call
    assert response.payment.merchant_id == DEMO_MERCHANT.merchant_id
    assert servicer.call.idempotency_key == "k"
    headers = dict(await call.initial_metadata())
    assert headers["x-http-status"] == "201"
    assert headers["location"] == "/payments/x"


async def test_a_person_of_two_merchants_must_choose_one(payments: Served) -> None:
    stub, _ = payments
    names = [f"merchant/{m.merchant_id}" for m in (DEMO_MERCHANT, OTHER_MERCHANT)]
    groups: dict[str, Any] = {"cognito:groups": names}
    person = as_merchant(idempotency_key="k", client_id="console", **groups)
    error = await refused(stub.CreatePayment(a_request(), metadata=person))
    assert (error["code"], error["reason"]) == ("PERMISSION_DENIED", "MERCHANT_REQUIRED")
    chosen = (*person, ("smartpay-merchant", OTHER_MERCHANT.merchant_id))
    response = await stub.CreatePayment(a_request(), metadata=chosen)
    assert response.payment.merchant_id == OTHER_MERCHANT.merchant_id
    stranger = (*person, ("smartpay-merchant", "mer_d1" + "z" * 24))
    assert (await refused(stub.CreatePayment(a_request(), metadata=stranger)))[
        "reason"
    ] == "MERCHANT_REQUIRED"


async def test_an_empty_choice_of_merchant_chooses_nobody(payments: Served) -> None:
    stub, _ = payments
    caller = as_merchant(idempotency_key="k")
    error = await refused(
        stub.CreatePayment(a_request(), metadata=(*caller, ("smartpay-merchant", "")))
    )
    assert (error["code"], error["reason"]) == ("PERMISSION_DENIED", "MERCHANT_REQUIRED")


async def test_a_person_with_groups_never_falls_back_to_the_clients_merchant(
    payments: Served,
) -> None:
    stub, _ = payments
    groups: dict[str, Any] = {"cognito:groups": ["ops"]}
    person = as_merchant(idempotency_key="k", **groups)
    error = await refused(stub.CreatePayment(a_request(), metadata=person))
    assert error["reason"] == "MERCHANT_REQUIRED"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"capture_method": 0}, "capture_method"),
        ({"amount": None}, "amount"),
        ({"amount": money_pb2.Money(minor_units=0, currency_code="USD")}, "amount"),
        ({"amount": money_pb2.Money(minor_units=-1, currency_code="USD")}, "amount"),
        ({"amount": money_pb2.Money(minor_units=10**12, currency_code="USD")}, "amount"),
        (
            {"amount": money_pb2.Money(minor_units=1, currency_code="usd")},
            "amount.currency_code",
        ),
        ({"instrument": None}, "instrument"),
        ({"instrument": instrument_pb2.Instrument()}, "instrument.tokens"),
        ({"ip_address": "1.2.3"}, "ip_address"),
        ({"metadata": {"k": "v" * 201}}, "metadata"),
    ],
)
async def test_a_broken_rule_of_the_contract_names_the_field(
    payments: Served, changes: dict[str, Any], field: str
) -> None:
    stub, _ = payments
    request = a_request(**changes)
    error = await refused(stub.CreatePayment(request, metadata=as_merchant(idempotency_key="k")))
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert error["field"] == field
    assert error["remedy"]
    assert field in [f for f, _ in error["violations"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "card 4242 4242 4242 4242 please"},
        {"metadata": {"note": "5555-5555-5555-4444"}},
        {"metadata": {"378282246310005": "x"}},
        {"customer_id": "6011111111111117"},
        {
            "instrument": instrument_pb2.Instrument(
                tokens=[
                    instrument_pb2.ProcessorToken(
                        processor_account_id=DEMO_ACCOUNTS[0], token="4111111111111111"
                    )
                ]
            )
        },
    ],
)
async def test_a_card_number_is_refused_and_never_repeated(
    payments: Served, changes: dict[str, Any]
) -> None:
    stub, _ = payments
    error = await refused(
        stub.CreatePayment(a_request(**changes), metadata=as_merchant(idempotency_key="k"))
    )
    assert error["reason"] == "CARD_NUMBER_REFUSED"
    assert not any("4242" in str(v) or "11111111" in str(v) for v in error.values())


async def test_money_moves_only_with_an_idempotency_key(payments: Served) -> None:
    stub, _ = payments
    error = await refused(stub.CreatePayment(a_request(), metadata=as_merchant()))
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "IDEMPOTENCY_KEY_REQUIRED")
    assert error["field"] == "idempotency-key"


@pytest.mark.parametrize("name", ["idempotency-key", "smartpay-merchant"])
async def test_what_decides_something_can_not_say_two_things(payments: Served, name: str) -> None:
    twice = (*as_merchant(idempotency_key="k"), (name, "one"), (name, "another"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await payments[0].CreatePayment(a_request(), metadata=twice)
    refused = error_info(raised.value)
    assert (refused["reason"], refused["field"]) == ("FIELD_INVALID", name)


async def test_a_token_of_many_groups_is_not_too_much(payments: Served) -> None:
    large = (*as_merchant(idempotency_key="k"), ("user-note", "x" * 30_000))
    answered = await payments[0].CreatePayment(a_request(), metadata=large)
    assert answered.payment.merchant_id == DEMO_MERCHANT.merchant_id


async def test_a_message_beyond_the_limit_is_refused_before_it_is_read(payments: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await payments[0].CreatePayment(
            a_request(description="x" * 300_000), metadata=as_merchant(idempotency_key="k")
        )
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (raised.value.details() or "")


async def test_a_refusal_keeps_its_reason_and_remedy(payments: Served) -> None:
    stub, _ = payments
    error = await refused(
        stub.CreatePayment(
            a_request(description="refuse"), metadata=as_merchant(idempotency_key="k")
        )
    )
    assert error["code"] == "NOT_FOUND"
    assert error["reason"] == "GONE"
    assert error["remedy"] == "Look elsewhere."


async def test_a_fault_of_ours_leaks_nothing(payments: Served) -> None:
    stub, _ = payments
    error = await refused(
        stub.CreatePayment(
            a_request(description="crash"), metadata=as_merchant(idempotency_key="k")
        )
    )
    assert (error["code"], error["reason"]) == ("INTERNAL", "INTERNAL")
    assert "sk_live" not in str(error)


GET = payments_pb2.GetPaymentRequest(payment_id="pay_d1" + "0" * 24)


async def test_a_listed_service_acts_for_the_merchant_it_names(payments: Served) -> None:
    stub, _ = payments
    response = await stub.GetPayment(GET, metadata=as_service("rewards", OTHER_MERCHANT))
    assert response.payment.merchant_id == OTHER_MERCHANT.merchant_id


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ((), "no certificate"),
        (as_service("fraud"), "a service that is not listed"),
        (as_service("rewards", None), "no merchant named"),
        ((("x-forwarded-client-cert", "URI=spiffe://smartpay/prod/rewards"),), "other environment"),
        ((*as_service("rewards"), *as_merchant()[1:]), "claims from a service"),
        ((*as_merchant(), *as_service("rewards")[1:]), "a context from the edge"),
    ],
)
async def test_nobody_speaks_for_somebody_they_may_not(
    payments: Served, metadata: tuple[tuple[str, str | bytes], ...], why: str
) -> None:
    stub, _ = payments
    error = await refused(stub.GetPayment(GET, metadata=metadata))
    assert error["code"] == "PERMISSION_DENIED", why


async def test_the_edge_cannot_reach_a_method_without_scope(payments: Served) -> None:
    stub, _ = payments
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Watch(payments_pb2.WatchRequest(), metadata=as_merchant()):
            pass
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_an_error_in_the_middle_of_a_stream_keeps_what_was_said(payments: Served) -> None:
    stub, _ = payments
    seen = []
    stream = stub.Watch(
        payments_pb2.WatchRequest(cursor="old"), metadata=as_service("rewards", None)
    )

    async def read() -> None:
        async for response in stream:
            seen.append(response.cursor)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    assert seen == ["1"]
    assert error_info(caught.value)["reason"] == "CURSOR_EXPIRED"


async def test_every_method_of_the_contract_states_callers_and_a_deadline() -> None:
    from smartpay.assistant.v1 import assistant_pb2
    from smartpay.rewards.v1 import rewards_pb2
    from smartpay.router.v1 import router_pb2
    from smartpay_chassis.access import rules_of

    files = [fraud_pb2, router_pb2, payments_pb2, rewards_pb2, assistant_pb2]
    services = [s for f in files for s in f.DESCRIPTOR.services_by_name.values()]
    rules = rules_of(services)
    assert len(rules) == sum(len(s.methods) for s in services)
    assert len(services) == 5


async def test_too_many_calls_are_refused_at_once() -> None:
    served = [(payments_pb2_grpc.add_PaymentsServiceServicer_to_server, a_servicer(), PAYMENTS)]
    async with serve_for_test(served, concurrent_calls_max=0) as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        error = await refused(stub.GetPayment(GET, metadata=as_service("rewards")))
        assert error["code"] == "RESOURCE_EXHAUSTED"
