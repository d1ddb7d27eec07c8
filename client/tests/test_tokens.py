"""Tokens: renewed early, once for many callers, never shown."""

from __future__ import annotations

import asyncio
import base64
import logging
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartpay_client import AsyncClient, Client, ServerFault, TokenRefused, Unavailable, limits

if TYPE_CHECKING:
    from client.tests.conftest import Caller, FakeEdge

PAYMENT = "pay_d1" + "0" * 24
CALLERS = 8


def get(client: Any) -> Any:
    return client.payments.get(PAYMENT)


def tokens_used(edge: FakeEdge) -> list[str]:
    return [call.headers["authorization"] for call in edge.calls]


async def test_a_token_is_asked_for_by_client_credentials(
    edge: FakeEdge, make: Callable[..., Any]
) -> None:
    with make("sync", edge, scopes=["smartpay/chat", "smartpay/payments.read"]) as client:
        get(client)
    [request] = edge.token_requests
    basic = base64.b64encode(b"merchant:the-client-secret").decode()
    assert request.headers["authorization"] == f"Basic {basic}"
    form = dict(httpx.QueryParams(request.content.decode()))
    assert form == {
        "grant_type": "client_credentials",
        "scope": "smartpay/chat smartpay/payments.read",
    }


async def test_a_token_serves_until_shortly_before_its_end(edge: FakeEdge, caller: Caller) -> None:
    await caller(get)
    edge.clock.now += 3600 - limits.TOKEN_EARLY_SECONDS - 1
    await caller(get)
    assert len(edge.token_requests) == 1
    edge.clock.now += 1
    await caller(get)
    assert tokens_used(edge) == ["Bearer token-1"] * 2 + ["Bearer token-2"]


async def test_a_short_token_serves_for_half_its_life(edge: FakeEdge, caller: Caller) -> None:
    edge.token_life = 20
    for _ in range(3):
        await caller(get)
        edge.clock.now += 9
    assert tokens_used(edge) == ["Bearer token-1"] * 2 + ["Bearer token-2"]


async def test_a_token_of_unknown_life_is_believed_for_a_while(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.token_replies = [httpx.Response(200, json={"access_token": "brief"})]
    await caller(get)
    edge.clock.now += limits.TOKEN_LIFE_SECONDS
    await caller(get)
    assert tokens_used(edge) == ["Bearer brief", "Bearer token-2"]


async def test_a_refused_token_is_replaced_once(edge: FakeEdge, caller: Caller) -> None:
    edge.refused_tokens = {"token-1"}
    assert (await caller(get)).payment_id
    assert tokens_used(edge) == ["Bearer token-1", "Bearer token-2"]
    assert edge.clock.slept == []


async def test_a_fresh_token_that_is_refused_too_is_an_error(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.refused_tokens = {f"token-{n}" for n in range(9)}
    with pytest.raises(TokenRefused):
        await caller(get)
    assert len(edge.calls) == 2


def test_many_threads_ask_for_one_token(edge: FakeEdge, make: Callable[..., Any]) -> None:
    everybody = threading.Barrier(CALLERS)

    def work(client: Client) -> None:
        everybody.wait()
        get(client)

    with make("sync", edge) as client, ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(work, [client] * CALLERS))
        assert len(edge.token_requests) == 1
        edge.refused_tokens = {"token-1"}
        list(pool.map(work, [client] * CALLERS))
    assert len(edge.token_requests) == 2, "one more for all whose token was refused"


async def test_many_tasks_ask_for_one_token(edge: FakeEdge, make: Callable[..., Any]) -> None:
    client: AsyncClient = make("async", edge, transport=SlowIssuer(edge))
    async with client:
        await asyncio.gather(*(get(client) for _ in range(CALLERS)))
        assert len(edge.token_requests) == 1
        edge.refused_tokens = {"token-1"}
        await asyncio.gather(*(get(client) for _ in range(CALLERS)))
    assert len(edge.token_requests) == 2


class SlowIssuer(httpx.AsyncBaseTransport):
    """Lets all other tasks run before it answers."""

    def __init__(self, edge: FakeEdge) -> None:
        self._edge = edge

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for _ in range(CALLERS * 4):
            await asyncio.sleep(0)
        return self._edge.handle(request)


async def test_a_caller_that_gives_up_leaves_the_renewal_to_the_next(
    edge: FakeEdge, make: Callable[..., Any]
) -> None:
    asked = asyncio.Event()

    class StuckIssuer(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.host == "issuer.test" and not asked.is_set():
                asked.set()
                await asyncio.Event().wait()
            return edge.handle(request)

    client: AsyncClient = make("async", edge, transport=StuckIssuer())
    async with client:
        first, second = asyncio.create_task(get(client)), asyncio.create_task(get(client))
        await asked.wait()
        first.cancel()
        assert (await second).payment_id
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_an_issuer_that_is_away_does_not_stop_a_token_that_is_good(
    edge: FakeEdge, caller: Caller
) -> None:
    await caller(get)
    edge.clock.now += 3600 - limits.TOKEN_EARLY_SECONDS
    edge.token_replies = [httpx.ConnectError("away")] * 99
    await caller(get)
    await caller(get)
    assert tokens_used(edge) == ["Bearer token-1"] * 3
    assert len(edge.token_requests) == 2, "it is not asked with every call"
    edge.clock.now += limits.TOKEN_AGAIN_SECONDS
    edge.token_replies = []
    await caller(get)
    assert tokens_used(edge)[-1] == "Bearer token-3"


async def test_an_issuer_that_is_away_for_good_is_an_error(edge: FakeEdge, caller: Caller) -> None:
    edge.token_replies = [httpx.Response(503), httpx.ReadError("reset"), httpx.Response(500)] * 2
    with pytest.raises(Unavailable, match="issuer"):
        await caller(get)
    assert len(edge.token_requests) == limits.TRIES
    assert edge.calls == []


async def test_an_issuer_that_stumbles_is_asked_again(edge: FakeEdge, caller: Caller) -> None:
    edge.token_replies = [
        httpx.Response(503),
        httpx.ConnectError("away"),
        httpx.Response(429, headers={"retry-after": "2"}),
    ]
    assert (await caller(get)).payment_id
    assert edge.clock.slept == [0.25, 0.5, 3.0]


async def test_a_refused_client_is_told_so_and_not_asked_again(
    edge: FakeEdge, caller: Caller
) -> None:
    edge.token_replies = [httpx.Response(400, json={"error": "invalid_client", "x": "the-secret"})]
    with pytest.raises(TokenRefused, match="invalid_client") as caught:
        await caller(get)
    assert "the-secret" not in str(caught.value)
    assert len(edge.token_requests) == 1


@pytest.mark.parametrize("body", ["[]", "<html>", "{}", '{"access_token": 5}'])
async def test_an_issuer_that_talks_nonsense_is_a_fault(
    edge: FakeEdge, caller: Caller, body: str
) -> None:
    edge.token_replies = [httpx.Response(200, text=body)] * 9
    with pytest.raises(ServerFault, match="no token"):
        await caller(get)


async def test_the_wait_for_a_token_ends_with_the_deadline(edge: FakeEdge, caller: Caller) -> None:
    edge.token_replies = [httpx.Response(503)] * 99
    with pytest.raises(Unavailable):
        await caller(lambda c: c.payments.get(PAYMENT, deadline=0.5))
    assert edge.clock.now <= 1000.5


async def test_secrets_and_tokens_are_in_no_log_no_repr_and_no_traceback(
    edge: FakeEdge, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    edge.token_replies = [httpx.Response(200, json={"access_token": "s3cret", "expires_in": 60})]
    edge.script("GetPayment", *[httpx.ReadError("reset")] * 9)
    with pytest.raises(Unavailable) as caught:
        await caller(get)
    connection = caller.client._connection
    tokens = connection.session.tokens
    shown = [
        caplog.text,
        repr(caller.client),
        str(caught.value),
        repr(vars(caught.value)),
        "".join(traceback.format_exception(caught.value)),
        repr(vars(tokens)),
        repr(tokens._credentials.question(1.0)),
    ]
    assert tokens.held("") == "s3cret"
    for text in shown:
        assert "s3cret" not in text
        assert "the-client-secret" not in text
        assert "Basic " not in text
    assert repr(caller.client).endswith("Client('https://edge.test', 'merchant')")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_secrets_never_travel_in_the_clear(kind: type[Client] | type[AsyncClient]) -> None:
    for edge, issuer in (
        ("http://api.example.com", "https://issuer.test"),
        ("https://api.example.com", "http://issuer.test"),
        ("api.example.com", "https://issuer.test"),
        ("https://", "https://issuer.test"),
    ):
        with pytest.raises(ValueError, match="must begin with https://"):
            kind(edge, issuer, "id", "secret")
    kind("https://api.example.com", "http://127.0.0.1:9/oauth2/token", "id", "secret")


def test_an_error_survives_the_way_between_processes() -> None:
    error = TokenRefused("It is so.", status=401, request_id="r-1")
    error.idempotency_key = "k"
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.status, copy.request_id) == (TokenRefused, 401, "r-1")
    assert (copy.idempotency_key, str(copy)) == ("k", str(error))
