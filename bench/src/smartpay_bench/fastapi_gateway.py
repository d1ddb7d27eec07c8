"""The rival: a FastAPI gateway that does for one route what our edge does. Bench only.

It gets what makes FastAPI fast: uvloop, httptools, async dependencies alone, the signing key kept
once parsed, answers written by pydantic, a pure ASGI middleware, a buffered log. It is spared what
our edge does besides: repeated JSON keys, query parameters, gzip, CORS. Breakers and retries
it has where BENCH_UPSTREAM is the socket of a sidecar of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import jwt
import uvicorn
from fastapi import Depends, FastAPI, Request, Response  # type: ignore[import-not-found]
from fastapi.exceptions import RequestValidationError  # type: ignore[import-not-found]
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.responses import JSONResponse

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.type.v1.money_pb2 import Money as MoneyMessage

SCOPE = "smartpay/fraud.score"
DEADLINE_SECONDS = 2
BODY_BYTES = 64 * 1024
CLOCK_SKEW_SECONDS = 10
KEYS_SECONDS = 300
"""How long the key set is kept, as at our edge."""
LOG_BUFFER_BYTES = 64 * 1024
"""Lines are written together, as Envoy does."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Settings:
    """What the bench says to this process, by environment variables."""

    port: int = int(os.environ["BENCH_PORT"])
    certificates: Path = Path(os.environ["BENCH_CERTIFICATES"])
    upstream: str = os.environ["BENCH_UPSTREAM"]
    """Host and port to call by mutual TLS, or the socket of an own sidecar that does."""
    upstream_name: str = os.environ["BENCH_UPSTREAM_NAME"]
    issuer: str = os.environ["BENCH_ISSUER"]
    keys: str = os.environ["BENCH_KEYS"]
    clients: frozenset[str] = frozenset(os.environ["BENCH_CLIENTS"].split("|"))
    calls_per_second: int = int(os.environ["BENCH_CALLS_PER_SECOND"])
    access_log: Path = Path(os.environ["BENCH_ACCESS_LOG"])


settings = Settings()
signing_keys = jwt.PyJWKClient(settings.keys, cache_keys=True, lifespan=KEYS_SECONDS)
upstream: dict[str, fraud_pb2_grpc.FraudServiceAsyncStub] = {}


class Contract(BaseModel):
    """Refuses what the contract does not know."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Money(Contract):
    """smartpay.type.v1.Money."""

    minor_units: int
    currency_code: str


class ScoreRequest(Contract):
    """smartpay.fraud.v1.ScoreRequest."""

    transaction_id: str = ""
    amount: Money
    customer_id: str = ""
    instrument_fingerprint: str = ""
    device_id: str = ""
    ip_address: str = ""
    terminal_id: str = ""
    merchant_category: str = ""
    country: str = ""


class Reason(Contract):
    """smartpay.fraud.v1.Reason."""

    code: str
    message: str
    contribution: float
    values: dict[str, float]


class Assessment(Contract):
    """smartpay.fraud.v1.Assessment."""

    transaction_id: str
    verdict: str
    score: float
    reasons: list[Reason]
    model_version: str
    create_time: str
    rules_version: str
    """An int64, which proto3's JSON writes as text."""
    matched_rule_ids: list[str]
    matched_list_ids: list[str]
    control: bool


class Problem(Exception):  # noqa: N818 - RFC 9457 calls it a problem
    """A refusal, as problem+json: https://www.rfc-editor.org/rfc/rfc9457."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason = status, reason


@dataclass
class Bucket:
    """What one client may still call."""

    calls: float
    at: float


buckets: dict[str, Bucket] = {}


def take_one(client: str) -> int:
    """Takes a call from the client's bucket; answers what is left, -1 when there was none."""
    now = time.monotonic()
    most = settings.calls_per_second
    bucket = buckets.setdefault(client, Bucket(most, now))
    bucket.calls = min(most, bucket.calls + (now - bucket.at) * most)
    bucket.at = now
    if bucket.calls < 1:
        return -1
    bucket.calls -= 1
    return int(bucket.calls)


@dataclass(frozen=True)
class Caller:
    """Who calls, as verified: the token's payload as sent, and what is left of the limit."""

    payload: str
    calls_left: int


async def caller(request: Request) -> Caller:
    """Verifies the token anew for each call; raises Problem when it gives no right to it."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        if scheme != "Bearer":
            raise jwt.InvalidTokenError
        key = signing_keys.get_signing_key(jwt.get_unverified_header(token)["kid"])
        claims = jwt.decode(
            token,
            key.key,
            algorithms=["RS256"],
            issuer=settings.issuer,
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": ["exp"]},
        )
    except (jwt.PyJWTError, KeyError):
        raise Problem(401, "TOKEN_INVALID", "The token is missing or not valid.") from None
    if claims.get("token_use") != "access" or claims.get("client_id") not in settings.clients:
        raise Problem(403, "ACCESS_DENIED", "The token is not for this.")
    if SCOPE not in claims.get("scope", "").split():
        raise Problem(403, "ACCESS_DENIED", "The token lacks the scope.")
    calls_left = take_one(claims["client_id"])
    if calls_left < 0:
        raise Problem(429, "RATE_LIMITED", "Too many calls.")
    return Caller(token.split(".")[1], calls_left)


async def score(
    body: ScoreRequest,
    request: Request,
    caller: Caller = Depends(caller),  # noqa: B008 - FastAPI's way
) -> Response:
    """Calls the service over mutual TLS and answers as JSON."""
    state = request.state
    message = fraud_pb2.ScoreRequest(
        transaction_id=body.transaction_id,
        amount=MoneyMessage(
            minor_units=body.amount.minor_units, currency_code=body.amount.currency_code
        ),
        customer_id=body.customer_id,
        instrument_fingerprint=body.instrument_fingerprint,
        device_id=body.device_id,
        ip_address=body.ip_address,
        terminal_id=body.terminal_id,
        merchant_category=body.merchant_category,
        country=body.country,
    )
    try:
        answer = await upstream["fraud"].Score(
            message,
            timeout=DEADLINE_SECONDS,
            metadata=(
                ("x-jwt-payload", caller.payload),
                ("x-request-id", state.request_id),
                ("traceparent", state.traceparent),
            ),
        )
    except grpc.aio.AioRpcError as error:
        raise Problem(503, "UNAVAILABLE", error.code().name) from None
    found = answer.assessment
    shown = Assessment.model_construct(
        transaction_id=found.transaction_id,
        verdict=fraud_pb2.Assessment.Verdict.Name(found.verdict),
        score=found.score,
        reasons=[
            Reason.model_construct(
                code=r.code,
                message=r.message,
                contribution=r.contribution,
                values=dict(r.values),
            )
            for r in found.reasons
        ],
        model_version=found.model_version,
        create_time=found.create_time.ToJsonString(),
        rules_version=str(found.rules_version),
        matched_rule_ids=list(found.matched_rule_ids),
        matched_list_ids=list(found.matched_list_ids),
        control=found.control,
    )
    return Response(
        shown.model_dump_json(by_alias=True),
        media_type="application/json",
        headers={
            "x-ratelimit-limit": str(settings.calls_per_second),
            "x-ratelimit-remaining": str(caller.calls_left),
        },
    )


class AroundEachCall:
    """Names each call, bounds its body, and writes its line of the access log."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self.app = app
        self.log = settings.access_log.open("a", buffering=LOG_BUFFER_BYTES)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serves one call."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.monotonic()
        request_id = str(uuid.uuid4())
        headers = dict(scope["headers"])
        trace = headers.get(b"traceparent", b"").decode()
        traceparent = trace or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
        scope["state"] = {"request_id": request_id, "traceparent": traceparent}
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        if int(headers.get(b"content-length", b"0")) > BODY_BYTES:
            await JSONResponse(
                {"status": 413, "reason": "BODY_TOO_LARGE"},
                413,
                media_type="application/problem+json",
            )(scope, receive, answer)
        else:
            await self.app(scope, receive, answer)
        line = {
            "time": time.time(),
            "request_id": request_id,
            "trace_id": traceparent[3:35],
            "client": scope["client"][0],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "duration_ms": round((time.monotonic() - started) * 1000),
        }
        self.log.write(json.dumps(line) + "\n")
        return None


async def problem(_: Request, error: Problem) -> JSONResponse:
    """Answers a refusal."""
    return JSONResponse(
        {"status": error.status, "reason": error.reason, "detail": str(error)},
        error.status,
        media_type="application/problem+json",
    )


async def unfit(_: Request, error: RequestValidationError) -> JSONResponse:
    """Answers input that the contract does not know."""
    fields = [{"field": ".".join(map(str, e["loc"])), "detail": e["msg"]} for e in error.errors()]
    return JSONResponse(
        {"status": 400, "reason": "BODY_MALFORMED", "errors": fields},
        400,
        media_type="application/problem+json",
    )


@asynccontextmanager
async def connected(_: FastAPI) -> AsyncIterator[None]:
    """Holds one channel to the service."""
    async with channel() as opened:
        upstream["fraud"] = fraud_pb2_grpc.FraudServiceStub(opened)
        yield


def channel() -> grpc.aio.Channel:
    """Opens the channel with the edge's certificate, or to an own sidecar, which has it."""
    if settings.upstream.startswith("unix:"):
        authority = ("grpc.default_authority", settings.upstream_name)
        return grpc.aio.insecure_channel(settings.upstream, [authority])
    folder = settings.certificates
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.crt").read_bytes(),
        (folder / "tls.key").read_bytes(),
        (folder / "tls.crt").read_bytes(),
    )
    # grpcio checks names, not SPIFFE ids.
    name = ("grpc.ssl_target_name_override", settings.upstream_name)
    return grpc.aio.secure_channel(settings.upstream, credentials, [name])


def gateway() -> FastAPI:
    """Joins the gateway."""
    app = FastAPI(
        lifespan=connected,
        openapi_url=None,
        exception_handlers={Problem: problem, RequestValidationError: unfit},
    )
    app.add_api_route("/fraud", score, methods=["POST"], response_class=Response)
    app.add_middleware(AroundEachCall)
    return app


if __name__ == "__main__":
    uvicorn.run(
        gateway(),
        host="127.0.0.1",
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        ssl_certfile=settings.certificates / "tls.crt",
        ssl_keyfile=str(settings.certificates / "tls.key"),
    )
