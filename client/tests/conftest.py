"""A fake edge and issuer behind httpx' mock transport; it holds every request to the contract."""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import protovalidate
import pytest
from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from smartpay.access.v1 import access_pb2
from smartpay.assistant.v1 import assistant_pb2
from smartpay.fraud.v1 import (
    audit_pb2 as fraud_audit_pb2,
)
from smartpay.fraud.v1 import (
    fraud_pb2,
    lists_pb2,
    model_pb2,
    policies_pb2,
    reviews_pb2,
    rules_pb2,
)
from smartpay.payments.v1 import (
    audit_pb2,
    customers_pb2,
    disputes_pb2,
    exports_pb2,
    instruments_pb2,
    ledger_pb2,
    merchants_pb2,
    payments_pb2,
    processor_accounts_pb2,
    refunds_pb2,
    webhook_endpoints_pb2,
    webhooks_pb2,
)
from smartpay.rewards.v1 import rewards_pb2
from smartpay.router.v1 import audit_pb2 as routing_audit_pb2
from smartpay.router.v1 import evidence_pb2, router_pb2
from smartpay.router.v1 import policies_pb2 as routing_policies_pb2
from smartpay_client import AsyncClient, Client
from smartpay_sandbox.launcher import Mesh

PAYMENT_ID = "pay_d1" + "0" * 24
DECISION_ID = "dec_d1" + "0" * 24
ACCOUNT_ID = "pac_d1" + "0" * 24
EDGE, ISSUER = "https://edge.test", "https://issuer.test/oauth2/token"
SECRET = "the-client-secret"
FILES = [
    assistant_pb2,
    fraud_pb2,
    lists_pb2,
    rules_pb2,
    policies_pb2,
    reviews_pb2,
    model_pb2,
    fraud_audit_pb2,
    payments_pb2,
    rewards_pb2,
    router_pb2,
    routing_policies_pb2,
    evidence_pb2,
    routing_audit_pb2,
    audit_pb2,
    customers_pb2,
    disputes_pb2,
    exports_pb2,
    instruments_pb2,
    ledger_pb2,
    merchants_pb2,
    processor_accounts_pb2,
    refunds_pb2,
    webhook_endpoints_pb2,
    webhooks_pb2,
]
HTTP: Any = annotations_pb2.http
ACCESS: Any = access_pb2.access


def rpcs() -> list[MethodDescriptor]:
    """Lists the methods that merchants reach over REST."""
    every = [m for f in FILES for s in f.DESCRIPTOR.services_by_name.values() for m in s.methods]
    return [m for m in every if m.GetOptions().HasExtension(HTTP) and scope_of(m)]


def scope_of(rpc: MethodDescriptor) -> str:
    """Answers the scope a token needs; what processors send needs none."""
    return str(rpc.GetOptions().Extensions[ACCESS].scope)


def sample(message: Message, depth: int = 0) -> Message:
    """Fills every field of a message with something that is not its default."""
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof and field.containing_oneof.fields[0] is not field:
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            is_text = field.message_type.fields_by_name["value"].type == field.TYPE_STRING
            getattr(message, field.name)["key"] = "value" if is_text else 0.25
        elif field.message_type and field.message_type.full_name == "google.protobuf.Timestamp":
            getattr(message, field.name).FromJsonString("2026-03-01T10:20:30.123456Z")
        elif field.message_type:
            held = getattr(message, field.name)
            sample(held.add() if field.is_repeated else held, depth + 1)
        else:
            value = _scalar(field)
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                setattr(message, field.name, value)
    return message


def _scalar(field: Any) -> object:
    if field.enum_type is not None:
        return field.enum_type.values[1].number
    return {
        FieldDescriptor.TYPE_STRING: f"a {field.name}",
        FieldDescriptor.TYPE_BOOL: True,
        FieldDescriptor.TYPE_INT32: 7,
        FieldDescriptor.TYPE_INT64: 9_007_199_254_740_993,  # more than a float can hold
        FieldDescriptor.TYPE_DOUBLE: 0.25,
    }[field.type]


def as_json(message: Message) -> dict[str, Any]:
    """Spells a message as the edge's transcoder does."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


class FakeClock:
    """Time that only moves when somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


@dataclass(frozen=True)
class Call:
    """One request as the edge saw it."""

    rpc: str
    headers: httpx.Headers
    content: bytes
    message: Message
    at: float


Reply = httpx.Response | Exception | Callable[[], httpx.Response]


def problem(
    status: int, reason: str, headers: dict[str, str] | None = None, **more: object
) -> httpx.Response:
    """Spells problem details as the edge does."""
    body = {
        "type": "https://smartpay.dev/problems/x",
        "title": reason,
        "status": status,
        "reason": reason,
        "detail": "It is so.",
        "remedy": "Do this.",
        "errors": [],
        "requestId": "r-1",
        **more,
    }
    kind = {"content-type": "application/problem+json", **(headers or {})}
    return httpx.Response(status, headers=kind, content=json.dumps(body).encode())


def sse(*pieces: dict[str, Any]) -> httpx.Response:
    """Spells pieces as the edge's transcoder streams them."""
    text = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)


class FakeEdge:
    """Answers every method of the contract; `script` puts other answers first."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.calls: list[Call] = []
        self.token_requests: list[httpx.Request] = []
        self.token_life: object = 3600
        self.token_replies: list[Reply] = []
        self.refused_tokens: set[str] = set()
        self.on_token: Callable[[], None] = lambda: None
        self.message_problems: list[str] = []
        self._scripts: dict[str, list[Reply]] = defaultdict(list)

    problem = staticmethod(problem)
    sse = staticmethod(sse)

    @property
    def rpcs(self) -> list[MethodDescriptor]:
        return rpcs()

    def expected(self, name: str) -> Message:
        """Answers what a method usually answers, as the contract's message."""
        [rpc] = [m for m in rpcs() if m.name == name]
        message = sample(GetMessageClass(rpc.output_type)())
        body = rpc.GetOptions().Extensions[HTTP].response_body
        answer: Message = getattr(message, body) if body else message
        return answer

    def payment(self, status: str, http_status: int = 201, **fields: object) -> httpx.Response:
        """Spells a payment that stands so."""
        body = {"paymentId": PAYMENT_ID, "status": f"STATUS_{status}", **fields}
        return httpx.Response(http_status, json=body)

    def script(self, rpc: str, *replies: Reply) -> None:
        self._scripts[rpc] += replies

    def handle(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "issuer.test":
            return self._issue(request)
        rpc, path_values = self._find(request)
        call = Call(
            rpc.name,
            request.headers,
            request.content,
            self._read(rpc, path_values, request),
            self.clock(),
        )
        self.calls.append(call)
        token = request.headers["authorization"].removeprefix("Bearer ")
        if token in self.refused_tokens:
            return problem(401, "TOKEN_REFUSED")
        if self._scripts[rpc.name]:
            return _answer(self._scripts[rpc.name].pop(0))
        return self.usual(rpc)

    def usual(self, rpc: MethodDescriptor) -> httpx.Response:
        if rpc.output_type.name == "HttpBody":
            return httpx.Response(200, content=b"payment_id,amount\r\npay_1,5\r\nend,1\r\n")
        message = sample(GetMessageClass(rpc.output_type)())
        if rpc.server_streaming:
            pieces: list[dict[str, Any]] = [
                {"token": {"text": "Hello"}},
                {"done": {"refused": False}},
            ]
            return sse(*pieces)
        if body := rpc.GetOptions().Extensions[HTTP].response_body:
            return httpx.Response(200, json=as_json(getattr(message, body)))
        answer = as_json(message)
        if "nextPageToken" in answer:
            answer["nextPageToken"] = ""
        return httpx.Response(200, json=answer)

    def _issue(self, request: httpx.Request) -> httpx.Response:
        self.token_requests.append(request)
        self.on_token()
        if self.token_replies:
            return _answer(self.token_replies.pop(0))
        number = len(self.token_requests)
        token = {"access_token": f"token-{number}", "expires_in": self.token_life}
        return httpx.Response(200, json=token)

    def _find(self, request: httpx.Request) -> tuple[MethodDescriptor, dict[str, str]]:
        path = request.url.raw_path.decode().partition("?")[0]
        matches = []
        for rpc in rpcs():
            rule = rpc.GetOptions().Extensions[HTTP]
            for binding in (rule, *rule.additional_bindings):
                verb = binding.WhichOneof("pattern")
                template = re.escape(getattr(binding, verb))
                pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", template)
                found = re.fullmatch(pattern, path)
                if found and verb.upper() == request.method:
                    matches.append((rpc, found.groupdict()))
        assert matches, f"no route: {request.method} {path}"
        # As at the edge, a path that is spelt out goes before one with a variable in its place.
        return min(matches, key=lambda match: len(match[1]))

    def _read(
        self, rpc: MethodDescriptor, path_values: dict[str, str], request: httpx.Request
    ) -> Message:
        """Reads a request as strictly as the edge; what it would refuse is noted."""
        message = GetMessageClass(rpc.input_type)()
        body = json.loads(request.content) if request.content else {}
        assert not body.keys() & path_values.keys()
        query: dict[str, Any] = {}
        for name, value in request.url.params.multi_items():
            field = message.DESCRIPTOR.fields_by_camelcase_name[name]
            told = value == "true" if field.type == field.TYPE_BOOL else value
            query[name] = [*query.get(name, []), told] if field.is_repeated else told
        json_format.ParseDict({**body, **query, **path_values}, message)
        try:
            protovalidate.validate(message)
        except protovalidate.ValidationError as error:
            self.message_problems.append(str(error))
        needs_key = rpc.GetOptions().Extensions[ACCESS].idempotency_key
        assert ("idempotency-key" in request.headers) == needs_key, rpc.name
        return message


def _answer(reply: Reply) -> httpx.Response:
    if isinstance(reply, Exception):
        raise reply
    return reply() if callable(reply) else reply


class Caller:
    """Either client, called the same way."""

    def __init__(self, client: Client | AsyncClient) -> None:
        self.client = client

    async def __call__(self, use: Callable[[Any], Any]) -> Any:
        result = use(self.client)
        return await result if inspect.isawaitable(result) else result

    async def all(self, use: Callable[[Any], Any]) -> list[Any]:
        result = use(self.client)
        if hasattr(result, "__aiter__"):
            return [item async for item in result]
        return list(result)

    async def close(self) -> None:
        await self(lambda client: client.close())


def client_of(kind: str, edge: FakeEdge, **arguments: Any) -> Client | AsyncClient:
    """Makes either client of a fake edge; the longest pause is always drawn."""
    given = {
        "base_url": EDGE,
        "token_url": ISSUER,
        "client_id": "merchant",
        "client_secret": SECRET,
        "transport": httpx.MockTransport(edge.handle),
        "clock": edge.clock,
        "chance": lambda: 1.0,
        **arguments,
    }
    if kind == "sync":
        return Client(**{"sleep": edge.clock.sleep, **given})
    return AsyncClient(**{"sleep": edge.clock.sleep_async, **given})


@pytest.fixture
def edge() -> FakeEdge:
    return FakeEdge()


@pytest.fixture(params=["sync", "async"])
async def caller(request: pytest.FixtureRequest, edge: FakeEdge) -> AsyncIterator[Caller]:
    made = Caller(client_of(request.param, edge))
    yield made
    await made.close()


@pytest.fixture
def make() -> Callable[..., Client | AsyncClient]:
    """Makes a client with other arguments: `make("sync", edge, deadline=3)`."""
    return client_of


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    # Short, because Unix sockets live in it.
    with tempfile.TemporaryDirectory(prefix="sp-") as folder, Mesh(Path(folder)) as running:
        yield running
