"""Calls whose body carries its own proof: no merchant, no token, and only through the edge."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from google.api import httpbody_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import ServiceDescriptor

from smartpay.access.v1 import access_pb2
from smartpay.payments.v1 import webhooks_pb2, webhooks_pb2_grpc
from smartpay_chassis.access import rules_of
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.testing import DEMO_ACCOUNTS, as_service, error_info, serve_for_test

WEBHOOKS = webhooks_pb2.DESCRIPTOR.services_by_name["WebhooksService"]
CARD = b'{"number": "4242 4242 4242 4242"}'


class Webhooks(webhooks_pb2_grpc.WebhooksServiceServicer):
    calls: list[Call]
    bodies: list[bytes]

    def __init__(self) -> None:
        self.calls, self.bodies = [], []

    async def ReceiveWebhook(
        self, request: webhooks_pb2.ReceiveWebhookRequest, context: object
    ) -> webhooks_pb2.ReceiveWebhookResponse:
        self.calls.append(current_call())
        self.bodies.append(request.body.data)
        return webhooks_pb2.ReceiveWebhookResponse()


def a_notice(**changes: Any) -> webhooks_pb2.ReceiveWebhookRequest:
    fields: dict[str, Any] = {
        "processor": "stripe",
        "processor_account_id": DEMO_ACCOUNTS[0],
        # A card number in the kind too: a processor's words are not ours to refuse.
        "body": httpbody_pb2.HttpBody(content_type="4242424242424242", data=CARD),
    }
    return webhooks_pb2.ReceiveWebhookRequest(**{**fields, **changes})


async def sent(
    servicer: Webhooks,
    request: webhooks_pb2.ReceiveWebhookRequest,
    metadata: tuple[tuple[str, str | bytes], ...],
) -> dict[str, Any]:
    served = [(webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server, servicer, WEBHOOKS)]
    async with serve_for_test(served) as channel:
        stub = webhooks_pb2_grpc.WebhooksServiceStub(channel)
        try:
            await stub.ReceiveWebhook(request, metadata=metadata, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error_info(error)
    return {"code": "OK"}


async def test_a_signed_call_names_no_merchant_and_may_hold_any_digits() -> None:
    servicer = Webhooks()
    assert await sent(servicer, a_notice(), as_service("edge", None)) == {"code": "OK"}
    (call,) = servicer.calls
    assert (call.merchant_id, call.merchant, call.subject) == ("", None, "")
    assert servicer.bodies == [CARD]


@pytest.mark.parametrize("caller", ["router", "payments", "fraud"])
async def test_a_signed_call_comes_through_the_edge_alone(caller: str) -> None:
    servicer = Webhooks()
    error = await sent(servicer, a_notice(), as_service(caller, None))
    assert error["code"] == "PERMISSION_DENIED"
    assert servicer.calls == []


async def test_a_signed_call_keeps_the_contracts_rules() -> None:
    servicer = Webhooks()
    for changes in ({"processor": "paypal"}, {"processor_account_id": "x"}, {"body": None}):
        error = await sent(servicer, a_notice(**changes), as_service("edge", None))
        assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert servicer.calls == []


def test_a_signed_method_can_ask_for_nothing_else() -> None:
    real = WEBHOOKS.methods[0]
    options = descriptor_pb2.MethodOptions()
    options.CopyFrom(real.GetOptions())
    options.Extensions[access_pb2.access].scope = "smartpay/admin"
    method = SimpleNamespace(full_name=real.full_name, GetOptions=lambda: options)
    service = SimpleNamespace(full_name=WEBHOOKS.full_name, methods=[method])
    with pytest.raises(ValueError, match="is signed"):
        rules_of([cast("ServiceDescriptor", service)])
