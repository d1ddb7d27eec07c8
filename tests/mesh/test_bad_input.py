"""Whatever a caller gets wrong: a problem that names it, nothing charged, nothing leaked."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from smartpay_sandbox.chaos_mesh import dump
from smartpay_sandbox.launcher import Mesh

if TYPE_CHECKING:
    from tests.mesh.conftest import Edge

pytestmark = pytest.mark.mesh
CARD = "4242 4242 4242 4242"
Order = dict[str, Any]


def key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


async def charges(mesh: Mesh) -> int:
    accounts = (await dump(mesh, "stripe"))["accounts"]
    return sum(len(a["charges"]) for a in accounts.values())


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    assert found["reason"]
    assert found["remedy"].endswith(".")
    return found


def changed(order: Order, **changes: object) -> Order:
    return {k: v for k, v in {**order, **changes}.items() if v is not None}


CASES: dict[str, tuple[Callable[[Order], Order], str]] = {
    "a mistyped required field": (
        lambda o: changed(o, captureMethod=None, captureMethd="CAPTURE_METHOD_AUTOMATIC"),
        "captureMethd",
    ),
    "a missing required field": (lambda o: changed(o, captureMethod=None), "captureMethod"),
    "no amount": (lambda o: changed(o, amount=None), "amount"),
    "no instrument": (lambda o: changed(o, instrument=None), "instrument"),
    "a zero amount": (
        lambda o: changed(o, amount={"minorUnits": 0, "currencyCode": "USD"}),
        "amount",
    ),
    "a negative amount": (
        lambda o: changed(o, amount={"minorUnits": -5, "currencyCode": "USD"}),
        "amount",
    ),
    "a huge amount": (
        lambda o: changed(o, amount={"minorUnits": 10**12, "currencyCode": "USD"}),
        "amount",
    ),
    "an amount beyond 64 bits": (
        lambda o: changed(o, amount={"minorUnits": 10**30, "currencyCode": "USD"}),
        "amount.minorUnits",
    ),
    "a fraction of a minor unit": (
        lambda o: changed(o, amount={"minorUnits": 19.99, "currencyCode": "USD"}),
        "amount.minorUnits",
    ),
    "an unknown currency": (
        lambda o: changed(o, amount={"minorUnits": 5, "currencyCode": "XYZ"}),
        "amount.currencyCode",
    ),
    "a wrong JSON type": (lambda o: changed(o, offSession="maybe"), "offSession"),
    "an unknown enum name": (lambda o: changed(o, captureMethod="LATER"), "captureMethod"),
    "an account of nobody": (
        lambda o: changed(
            o,
            instrument={
                "tokens": [{"processorAccountId": "pac_d1" + "0" * 24, "token": "pm_card_visa"}]
            },
        ),
        "instrument.tokens",
    ),
    "a card number in a note": (lambda o: changed(o, description=CARD), "description"),
    "a card number in metadata": (lambda o: changed(o, metadata={"a": CARD}), "metadata"),
    "a card number as token": (
        lambda o: changed(
            o,
            instrument={
                "tokens": [
                    {
                        "processorAccountId": o["instrument"]["tokens"][0]["processorAccountId"],
                        "token": CARD.replace(" ", ""),
                    }
                ]
            },
        ),
        "instrument.tokens[0].token",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_wrong_field_is_named_and_nothing_is_charged(edge: Edge, case: str) -> None:
    spoil, field = CASES[case]
    before = await charges(edge.mesh)
    async with edge.session() as session:
        answer = await session.post("/pay", json=spoil(edge.order()), headers=key())
    found = problem(answer)
    assert answer.status_code == 400
    assert found["field"].startswith(field)
    assert "4242" not in answer.text
    assert await charges(edge.mesh) == before


async def test_a_body_that_is_no_json_is_refused(edge: Edge) -> None:
    async with edge.session() as session:
        for body in ("{", "[]", '"x"', "null", "{}{}"):
            answer = await session.post("/pay", content=body, headers=key())
            assert answer.status_code == 400, body
            problem(answer)


async def test_an_oversize_body_is_refused(edge: Edge) -> None:
    async with edge.session() as session:
        large = edge.order(description="x" * 70_000)
        answer = await session.post("/pay", json=large, headers=key())
    assert answer.status_code == 413
    assert problem(answer)["reason"] == "BODY_TOO_LARGE"


async def test_money_does_not_move_without_a_key(edge: Edge) -> None:
    async with edge.session() as session:
        answer = await session.post("/pay", json=edge.order())
    assert answer.status_code == 400
    found = problem(answer)
    assert found["reason"] == "IDEMPOTENCY_KEY_REQUIRED"
    assert found["field"] == "idempotency-key"


async def test_a_key_with_another_body_is_refused(edge: Edge) -> None:
    headers = key()
    async with edge.session() as session:
        first = await session.post("/pay", json=edge.order(), headers=headers)
        assert first.status_code == 201
        other = edge.order(amount={"minorUnits": 2000, "currencyCode": "USD"})
        answer = await session.post("/pay", json=other, headers=headers)
    assert answer.status_code == 422
    assert problem(answer)["reason"] == "IDEMPOTENCY_KEY_REUSED"


async def test_racing_callers_with_one_key_make_one_payment(edge: Edge) -> None:
    headers = key()
    order = edge.order(customerId=str(uuid.uuid4()))
    async with edge.session() as session:
        answers = await asyncio.gather(
            *(session.post("/pay", json=order, headers=headers) for _ in range(32))
        )
        replay = await session.post("/pay", json=order, headers=headers)
    assert replay.headers["idempotent-replayed"] == "true"
    assert {a.status_code for a in answers} <= {201, 409}
    paid = {a.json()["paymentId"] for a in answers if a.status_code == 201}
    assert paid == {replay.json()["paymentId"]}


async def test_an_unknown_payment_and_a_strangers_payment_read_the_same(edge: Edge) -> None:
    async with edge.session() as session:
        mine = (await session.post("/pay", json=edge.order(), headers=key())).json()["paymentId"]
    problems = []
    money = {"amount": {"minorUnits": 1, "currencyCode": "USD"}}
    async with edge.session(edge.mesh.token("other")) as stranger:
        for payment_id in (mine, mine[:-4] + "0000"):
            path = f"/payments/{payment_id}"
            answers = [
                await stranger.get(path),
                await stranger.post(f"{path}:capture", json=money, headers=key()),
                await stranger.post(f"{path}:refund", json=money, headers=key()),
                await stranger.post(f"{path}:cancel", json={}, headers=key()),
                await stranger.post(f"{path}:confirm", json={}),
                await stranger.get(f"/rewards/{payment_id}"),
                await stranger.post("/reward", json={"paymentId": payment_id}, headers=key()),
            ]
            assert [a.status_code for a in answers] == [404] * len(answers)
            found = [problem(a) for a in answers]
            for each in found:
                del each["requestId"], each["traceId"]
            question = {"message": f"why was {payment_id} routed?"}
            said = (await stranger.post("/chat:ask", json=question)).json()["answer"]
            problems.append((found, said.replace(payment_id, "")))
    assert problems[0] == problems[1]


def parts(token: str) -> list[str]:
    return token.split(".")


def encoded(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def claims_of(token: str) -> dict[str, Any]:
    payload = parts(token)[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


def tampered(token: str) -> str:
    header, _, signature = parts(token)
    changes = {"scope": "smartpay/admin"}
    return f"{header}.{encoded({**claims_of(token), **changes})}.{signature}"


def unsigned(token: str) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{parts(token)[1]}."


BAD_TOKENS: dict[str, Callable[[Mesh], str]] = {
    "none": lambda mesh: "",
    "garbage": lambda mesh: "garbage",
    "tampered with": lambda mesh: tampered(mesh.token()),
    "unsigned": lambda mesh: unsigned(mesh.token()),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_a_bad_token_opens_nothing(edge: Edge, kind: str) -> None:
    async with edge.session(BAD_TOKENS[kind](edge.mesh)) as session:
        for method, path in (("POST", "/pay"), ("GET", "/payments"), ("POST", "/chat")):
            answer = await session.request(method, path, json={}, headers=key())
            assert answer.status_code == 401
            assert problem(answer)["reason"] == "TOKEN_REFUSED"
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_a_client_of_nobody_is_refused(edge: Edge) -> None:
    async with edge.session(edge.mesh.token("foreign")) as session:
        answer = await session.get("/payments")
    assert answer.status_code == 403
    assert problem(answer)["reason"] == "ACCESS_DENIED"


async def test_a_token_opens_only_what_its_scope_says(edge: Edge) -> None:
    async with edge.session(edge.mesh.token("readonly")) as session:
        assert (await session.get("/payments")).status_code == 200
        answer = await session.post("/pay", json=edge.order(), headers=key())
    assert answer.status_code == 403
    assert problem(answer)["reason"] == "ACCESS_DENIED"


async def test_the_edge_is_healthy_without_a_token(edge: Edge) -> None:
    async with edge.session("") as session:
        assert (await session.get("/healthz")).status_code == 200


async def test_an_unknown_path_is_a_problem(edge: Edge) -> None:
    async with edge.session() as session:
        answer = await session.get("/nothing")
    assert answer.status_code == 404
    assert problem(answer)["reason"] == "ROUTE_UNKNOWN"


async def test_nothing_a_caller_got_wrong_and_no_secret_is_in_the_logs(edge: Edge) -> None:
    token = edge.mesh.token()
    async with edge.session(token) as session:
        for spoil, _ in CASES.values():
            await session.post("/pay", json=spoil(edge.order()), headers=key())
    secrets = [token, *parts(token)[1:], CARD, CARD.replace(" ", ""), "sk_test_"]
    secrets += [p.read_text().strip() for p in edge.mesh.run.secrets.iterdir() if p.is_file()]
    for log in edge.mesh.run.logs.iterdir():
        text = log.read_text(errors="replace")
        assert not [s[:12] for s in secrets if len(s) > 8 and s in text], log.name
