"""What carries its own proof comes in without a token, byte for byte, and nothing else does."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import json_format

from smartpay.payments.v1 import (
    payment_pb2,
    payments_pb2_grpc,
    webhooks_pb2,
    webhooks_pb2_grpc,
)
from smartpay_gateway import limits
from smartpay_gateway.contract import Contract, read_contract
from smartpay_gateway.templates import DESCRIPTORS, load
from smartpay_gateway.testing import PAYMENT_ID, Mesh, new_mesh
from smartpay_gateway.testing.services import Payments, seen_metadata
from smartpay_gateway.topology import SERVICES

ACCOUNT = "pac_d1" + "a" * 24
WEBHOOK = f"/webhooks/stripe/{ACCOUNT}"
NATIVE = "/smartpay.payments.v1.WebhooksService/ReceiveWebhook"


@dataclass
class Webhooks(webhooks_pb2_grpc.WebhooksServiceServicer):
    """Keeps what it is sent; a body that says so is refused."""

    requests: list[webhooks_pb2.ReceiveWebhookRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)

    def ReceiveWebhook(
        self, request: webhooks_pb2.ReceiveWebhookRequest, context: grpc.ServicerContext
    ) -> webhooks_pb2.ReceiveWebhookResponse:
        self.requests.append(request)
        self.metadata.append(seen_metadata(context))
        if request.body.data == b"refuse me":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        return webhooks_pb2.ReceiveWebhookResponse()


@pytest.fixture(scope="module")
def webhooks() -> Webhooks:
    return Webhooks()


@pytest.fixture(scope="module")
def mesh(webhooks: Webhooks) -> Iterator[Mesh]:
    """Runs edge and payments; payments also takes webhooks."""
    mesh = new_mesh()

    def add(servicer: Payments, server: grpc.Server) -> None:
        payments_pb2_grpc.add_PaymentsServiceServicer_to_server(servicer, server)
        webhooks_pb2_grpc.add_WebhooksServiceServicer_to_server(webhooks, server)

    try:
        mesh.serve("payments", add, mesh.payments)
        mesh.start("sidecar-payments", "payments")
        mesh.start("edge", "edge")
        yield mesh
    finally:
        mesh.stop()


@pytest.fixture(scope="module")
def contract() -> Contract:
    return read_contract(DESCRIPTORS, SERVICES)


BODIES = {
    "json": b'{"id": "evt_1",  "type":"x", "n": 1.0 }\n',
    "spaces and doubled keys": b' {"a":1, "a":2}\r\n\t',
    "not json": b"\x00\x01\xff\xfe%20+&=\n",
    "every byte": bytes(range(256)) * 4,
    "a card number": b'{"card": "4242424242424242"}',
    "utf-8": '{"name": "Zoë 漢字"}'.encode(),
    "compressed": gzip.compress(b'{"a": 1}', mtime=0),
    "nearly the limit": os.urandom(limits.BODY_BYTES - 2048),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=UTF-8", None])
def test_each_byte_of_the_body_arrives(
    mesh: Mesh, webhooks: Webhooks, name: str, kind: str | None
) -> None:
    body = BODIES[name]
    headers = {"stripe-signature": "t=1,v1=ab", **({"content-type": kind} if kind else {})}
    with mesh.rest() as client:
        answer = client.post(WEBHOOK, content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {})
    taken = webhooks.requests[-1]
    assert (taken.processor, taken.processor_account_id) == ("stripe", ACCOUNT)
    assert hashlib.sha256(taken.body.data).hexdigest() == hashlib.sha256(body).hexdigest()
    assert taken.body.content_type == (kind or "")
    assert webhooks.metadata[-1]["stripe-signature"] == "t=1,v1=ab"


def test_the_versioned_route_takes_it_too(mesh: Mesh, webhooks: Webhooks) -> None:
    with mesh.rest() as client:
        answer = client.post(f"/v1/webhooks/amazon_pay/{ACCOUNT}", content=b"{}")
    assert answer.status_code == 200
    assert webhooks.requests[-1].processor == "amazon_pay"


def test_a_body_in_pieces_arrives_whole(mesh: Mesh, webhooks: Webhooks) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield b"0123456789"

    with mesh.rest() as client:
        assert client.post(WEBHOOK, content=pieces()).status_code == 200
    assert webhooks.requests[-1].body.data == b"0123456789" * 50


def test_only_the_signature_comes_with_it(mesh: Mesh, webhooks: Webhooks) -> None:
    sent = {
        "stripe-signature": "t=1,v1=ab",
        "authorization": "Bearer token",
        "x-jwt-payload": "forged",
        "smartpay-context-bin": "Zm9yZ2Vk",
        "x-forwarded-client-cert": "URI=spiffe://smartpay/dev/router",
        "cookie": "a=b",
        "x-other": "1",
    }
    with mesh.rest(**sent) as client:
        assert client.post(WEBHOOK, content=b"{}").status_code == 200
    seen = webhooks.metadata[-1]
    assert seen["stripe-signature"] == "t=1,v1=ab"
    assert "URI=spiffe://smartpay/dev/edge" in seen["x-forwarded-client-cert"]
    for name in set(sent) - {"stripe-signature", "x-forwarded-client-cert"}:
        assert name not in seen


def test_what_the_service_refuses_is_a_problem(mesh: Mesh) -> None:
    with mesh.rest() as client:
        answer = client.post(WEBHOOK, content=b"refuse me")
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_too_large_never_reaches_the_service(mesh: Mesh, webhooks: Webhooks) -> None:
    before = len(webhooks.requests)
    with mesh.rest() as client:
        answer = client.post(WEBHOOK, content=b"x" * (limits.BODY_BYTES + 1))
    assert (answer.status_code, answer.json()["reason"]) == (413, "BODY_TOO_LARGE")
    assert len(webhooks.requests) == before


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", WEBHOOK),
        ("PUT", WEBHOOK),
        ("POST", "/webhooks"),
        ("POST", "/webhooks/stripe"),
        ("POST", f"{WEBHOOK}/more"),
        ("POST", f"{WEBHOOK}:capture"),
        ("POST", f"/webhooks/../payments/{PAYMENT_ID}:refund"),
        ("POST", f"/webhooks/stripe/..%2f..%2fpayments%2f{PAYMENT_ID}:refund"),
        ("POST", f"/webhooks/stripe/%2e%2e/../payments/{PAYMENT_ID}:refund"),
        ("POST", "/x/webhooks/stripe/y"),
        ("POST", f"/pay?x=/webhooks/stripe/{ACCOUNT}"),
        ("POST", "/pay;/webhooks/stripe/x"),
        ("POST", NATIVE),
        ("POST", "/smartpay.payments.v1.PaymentsService/CreatePayment"),
    ],
)
def test_nothing_beside_it_needs_no_token(
    mesh: Mesh, webhooks: Webhooks, verb: str, path: str
) -> None:
    before = (mesh.payments.calls, len(webhooks.requests))
    with mesh.rest() as client:
        # httpx would tidy the path up.
        url = httpx.URL(f"https://127.0.0.1:{mesh.edge_port}").copy_with(raw_path=path.encode())
        answer = client.request(verb, url, content=b"{}")
    assert answer.status_code == 401 or answer.json()["reason"] in (
        "ROUTE_UNKNOWN",
        "FIELD_INVALID",
    )
    assert (mesh.payments.calls, len(webhooks.requests)) == before


@pytest.mark.parametrize("path", ["/webhooks/stripe//pay", "/webhooks/a%2fb/..%2f..%2fpay"])
def test_odd_names_of_accounts_reach_the_one_method_that_refuses_them(
    mesh: Mesh, webhooks: Webhooks, path: str
) -> None:
    calls, before = mesh.payments.calls, len(webhooks.requests)
    with mesh.rest() as client:
        url = httpx.URL(f"https://127.0.0.1:{mesh.edge_port}").copy_with(raw_path=path.encode())
        assert client.post(url, content=b"{}").status_code == 200
    assert len(webhooks.requests) == before + 1
    assert mesh.payments.calls == calls


def test_every_other_method_still_asks_for_a_token(mesh: Mesh, contract: Contract) -> None:
    before = mesh.payments.calls
    with mesh.rest() as client:
        for method in contract.methods:
            if method.signed:
                continue
            for binding in method.bindings:
                path = binding.path.replace("{", "").replace("}", "")
                answer = client.request(binding.verb, path)
                assert (path, answer.status_code) == (path, 401)
            framed = {"content-type": "application/grpc", "te": "trailers"}
            answer = client.post(method.path, content=b"\0\0\0\0\0", headers=framed)
            assert answer.headers["grpc-status"] == str(grpc.StatusCode.UNAUTHENTICATED.value[0])
    assert mesh.payments.calls == before


def test_native_grpc_has_no_such_door(mesh: Mesh, webhooks: Webhooks) -> None:
    before = len(webhooks.requests)
    token = mesh.issuer.token("smartpay/payments.write smartpay/admin")
    with mesh.native() as channel:
        stub = webhooks_pb2_grpc.WebhooksServiceStub(channel)
        for metadata in ((), (("authorization", f"Bearer {token}"),)):
            with pytest.raises(grpc.RpcError) as refusal:
                stub.ReceiveWebhook(
                    webhooks_pb2.ReceiveWebhookRequest(), metadata=metadata, timeout=10
                )
            assert refusal.value.code() in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.UNIMPLEMENTED,
            )
    assert len(webhooks.requests) == before


@pytest.mark.parametrize(
    "kind", ["application/grpc", "application/grpc+proto", "application/grpcx"]
)
def test_a_body_that_calls_itself_grpc_is_no_way_around(
    mesh: Mesh, webhooks: Webhooks, kind: str
) -> None:
    before = (mesh.payments.calls, len(webhooks.requests))
    with mesh.rest() as client:
        answer = client.post(WEBHOOK, content=b"\0\0\0\0\0", headers={"content-type": kind})
    if len(webhooks.requests) > before[1]:
        # Taken as a plain body: the content type decides nothing.
        assert webhooks.requests[-1].body.data == b"\0\0\0\0\0"
    else:
        assert answer.headers.get("grpc-status", "") != "0"
    assert mesh.payments.calls == before[0]


def test_query_parameters_are_refused(mesh: Mesh, webhooks: Webhooks) -> None:
    before = len(webhooks.requests)
    with mesh.rest() as client:
        for query in ("processor=solana", "processorAccountId=x", "body.data=eA==", "x=1"):
            answer = client.post(f"{WEBHOOK}?{query}", content=b"{}")
            assert (query, answer.status_code) == (query, 400)
    assert len(webhooks.requests) == before


def test_an_address_has_a_bound_of_its_own(mesh: Mesh) -> None:
    def fewer(template: str) -> str:
        document = json.loads(template)
        text = json.dumps(document)
        assert text.count('"signed_calls"') == 1
        routes = _routes(document)
        (signed,) = (r for r in routes if r["name"] == "signed")
        limit = signed["typedPerFilterConfig"]["smartpay.client_calls"]
        bucket = limit["descriptors"][0]["tokenBucket"]
        bucket["maxTokens"] = bucket["tokensPerFill"] = 3
        bucket["fillInterval"] = "3600s"
        return json.dumps(document)

    with mesh.beside("edge-plaintext", fewer) as edge, edge.rest() as client:
        statuses = [client.post(WEBHOOK, content=b"{}").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        # The others' bucket is untouched.
        assert client.get("/healthz").status_code == 200


def test_a_template_without_the_route_asks_for_a_token(mesh: Mesh) -> None:
    def without(template: str) -> str:
        document = json.loads(template)
        host = document["staticResources"]["listeners"][0]["filterChains"][0]["filters"][0]
        table = host["typedConfig"]["routeConfig"]["virtualHosts"][0]
        table["routes"] = [r for r in table["routes"] if r["name"] != "signed"]
        return json.dumps(document)

    with mesh.beside("edge-plaintext", without) as edge, edge.rest() as client:
        assert client.post(WEBHOOK, content=b"{}").status_code == 401


def _filters(document: dict[str, Any]) -> list[dict[str, Any]]:
    host = document["staticResources"]["listeners"][0]["filterChains"][0]["filters"][0]
    filters: list[dict[str, Any]] = host["typedConfig"]["httpFilters"]
    return filters


def _routes(document: dict[str, Any]) -> list[dict[str, Any]]:
    host = document["staticResources"]["listeners"][0]["filterChains"][0]["filters"][0]
    routes: list[dict[str, Any]] = host["typedConfig"]["routeConfig"]["virtualHosts"][0]["routes"]
    return routes


@pytest.mark.parametrize("template", ["edge", "edge-plaintext"])
def test_the_one_route_past_the_token_check_leads_to_signed_methods_alone(
    contract: Contract, template: str
) -> None:
    routes = _routes(json.loads(load(template)))
    past = [
        route
        for route in routes
        if "envoy.filters.http.jwt_authn" in route.get("typedPerFilterConfig", {})
        and "directResponse" not in route
    ]
    assert [route["name"] for route in past] == ["signed"]
    pattern = re.compile(past[0]["match"]["safeRegex"]["regex"])
    for method in contract.methods:
        for binding in method.bindings:
            path = re.sub(r"[{}]", "", binding.path)
            assert bool(pattern.fullmatch(path)) is method.signed, path
        assert not pattern.fullmatch(method.path)


@pytest.mark.parametrize("template", ["edge", "edge-plaintext"])
def test_signed_methods_alone_ask_for_no_claim(contract: Contract, template: str) -> None:
    policies = json.loads(load(template))
    (rules,) = (f for f in _filters(policies) if f["name"] == "envoy.filters.http.rbac")
    free = {
        path
        for path, policy in rules["typedConfig"]["rules"]["policies"].items()
        if policy["principals"] == [{"any": True}]
    }
    assert free == {method.path for method in contract.signed()}
    assert len(free) == 1


def test_a_merchants_events_print_a_payment_as_the_edge_does(mesh: Mesh) -> None:
    payment = payment_pb2.Payment(payment_id=PAYMENT_ID)
    printed = json_format.MessageToDict(payment, always_print_fields_with_no_presence=True)
    token = mesh.issuer.token("smartpay/payments.read")
    with mesh.rest(authorization=f"Bearer {token}") as client:
        answer = client.get(f"/payments/{PAYMENT_ID}").json()
    # The echoing service puts what it saw into the metadata.
    assert {**answer, "metadata": {}} == printed
