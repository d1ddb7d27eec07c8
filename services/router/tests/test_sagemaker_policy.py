"""The endpoint estimates while it answers; whatever else it does, the learner here answers."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartpay_chassis.settings import SettingsError
from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.estimates_wire import (
    ARMS_MAX,
    CONTENT_TYPE,
    VERSION_PREFIX,
    question,
)
from smartpay_router.adapters.migrations import MIGRATIONS
from smartpay_router.adapters.sagemaker_policy import (
    CALLS_MAX,
    FAILURES_MAX,
    PAUSE_SECONDS,
    Breaker,
    SagemakerEndpoint,
    SagemakerPolicy,
)
from smartpay_router.adapters.sqlite_replicas import SqliteReplicas
from smartpay_router.domain.context import CHARGE_SCHEMA
from smartpay_router.domain.learner import Arm, Estimates
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.replicas import ReplicaState
from smartpay_router.domain.schema import Schema, Values
from smartpay_router.invocations import BODY_BYTES_MAX, export, load, server_of

NAME = "routing-endpoint"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
PATIENT_SECONDS = 30.0  # no test of a right answer may hang on how busy the machine is
AT = 1_800_000_000.0
SCHEMA = Schema("small-1", ("intercept", "risk"), (1.0, 20.0))
ARMS = (Arm("first", "test/stripe"), Arm("second", "test/amazon_pay"), Arm("new", "test/solana"))
VALUES = np.array([1.0, 0.25])


def a_learner(seed: int = 1) -> LinUcb:
    """One that has learned something of two arms."""
    learner, dice = LinUcb(SCHEMA), np.random.default_rng(seed)
    for number in range(60):
        risk = float(dice.random())
        success = float(dice.random() < 0.9 - risk / 2)
        learner.learn(ARMS[number % 2], np.array([1.0, risk]), success, AT - 100 + number)
    return learner


def same(found: Estimates, expected: Estimates) -> bool:
    return bool(
        np.allclose(found.success, expected.success, rtol=0, atol=1e-12)
        and np.allclose(found.width, expected.width, rtol=0, atol=1e-12)
        and np.allclose(found.spread, expected.spread, rtol=0, atol=1e-12)
        and list(found.outcomes) == list(expected.outcomes)
    )


class Wire:
    """Stands between boto3 and the container: SageMaker's address, the container's server."""

    def __init__(self, learner: LinUcb) -> None:
        self.server = server_of(learner, ("127.0.0.1", 0))
        self.port = self.server.server_address[1]
        self.requests: list[str] = []
        handler: Any = self.server.RequestHandlerClass
        wire = self

        class Addressed(handler):  # type: ignore[misc]  # a class made by a function
            """Maps SageMaker's path to the container's, as the platform does."""

            path: str

            def do_POST(self) -> None:
                wire.requests.append(self.path)
                if self.path == f"/endpoints/{NAME}/invocations":
                    self.path = "/invocations"
                super().do_POST()

        self.server.RequestHandlerClass = Addressed
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire(a_learner(seed=1))
    yield wire
    wire.close()


def an_endpoint(port: int, seconds: float = PATIENT_SECONDS) -> SagemakerEndpoint:
    return SagemakerEndpoint(
        NAME,
        connect_seconds=seconds,
        read_seconds=seconds,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="eu-west-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )


async def test_the_endpoint_estimates_in_one_call_and_not_the_learner_here(wire: Wire) -> None:
    endpoint = an_endpoint(wire.port)
    remote = SagemakerPolicy(a_learner(seed=2), endpoint)
    found = await remote.ask(ARMS, VALUES, AT)
    await endpoint.close()
    assert same(found, a_learner(seed=1).estimates(ARMS, VALUES, AT))
    assert not same(found, a_learner(seed=2).estimates(ARMS, VALUES, AT))
    assert wire.requests == [f"/endpoints/{NAME}/invocations"]
    assert (remote.calls, remote.fallbacks) == (1, 0)


async def test_an_endpoint_with_other_contexts_is_not_believed(wire: Wire) -> None:
    endpoint = an_endpoint(wire.port)
    local = LinUcb(Schema("other-1", ("intercept", "amount"), (1.0, 20.0)))
    remote = SagemakerPolicy(local, endpoint)
    assert same(await remote.ask(ARMS, VALUES, AT), local.estimates(ARMS, VALUES, AT))
    await endpoint.close()
    assert (remote.calls, remote.fallbacks) == (1, 1)


async def test_an_endpoint_that_never_answers_costs_one_short_wait_and_is_asked_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = an_endpoint(silent.getsockname()[1], seconds=0.05)
        remote = SagemakerPolicy(a_learner(), endpoint)
        found = await remote.ask(ARMS, VALUES, AT)
        silent.settimeout(PATIENT_SECONDS)
        connection, _ = silent.accept()
        connection.close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()
    await endpoint.close()
    assert same(found, a_learner().estimates(ARMS, VALUES, AT))
    assert remote.fallbacks == 1


async def test_calls_that_hang_never_queue_others_and_are_no_failures_of_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = an_endpoint(1, seconds=PATIENT_SECONDS)
    answered, asked = threading.Event(), []

    def hang(body: bytes, version: str) -> bytes:
        asked.append(version)
        answered.wait(PATIENT_SECONDS)
        raise ConnectionError

    monkeypatch.setattr(endpoint, "_invoke", hang)
    remote = SagemakerPolicy(a_learner(), endpoint)
    waiting = [asyncio.create_task(remote.ask(ARMS, VALUES, AT)) for _ in range(CALLS_MAX)]
    await asyncio.sleep(0)  # until all have asked
    found = await remote.ask(ARMS, VALUES, AT)
    assert same(found, a_learner().estimates(ARMS, VALUES, AT))
    assert not any(task.done() for task in waiting)
    assert not remote.breaker.open
    answered.set()
    await asyncio.gather(*waiting)
    await endpoint.close()
    assert len(asked) == CALLS_MAX
    assert remote.fallbacks == CALLS_MAX + 1


def test_an_endpoint_without_a_region_is_refused_with_the_setting_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(SettingsError, match=r"ROUTING_ENDPOINT_NAME.*AWS_REGION"):
        SagemakerEndpoint(NAME)


class Moody:
    """An endpoint that fails while told to."""

    name = NAME

    def __init__(self, body: bytes | None = None) -> None:
        self.failing = body is None
        self.calls = 0
        self.body = body or b'{"success": [0.5], "width": [0.25], "outcomes": [4]}'

    async def invoke(self, body: bytes, version: str) -> bytes:
        self.calls += 1
        await asyncio.sleep(0)
        if self.failing:
            raise ConnectionError
        return self.body


class Monotonic:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_call_try() -> None:
    clock, endpoint = Monotonic(), Moody()
    remote = SagemakerPolicy(a_learner(), endpoint, Breaker(clock))

    async def ask() -> Estimates:
        return await remote.ask(ARMS[:1], VALUES, AT)

    for _ in range(FAILURES_MAX + 5):
        await ask()
    assert endpoint.calls == FAILURES_MAX
    assert remote.breaker.open
    clock.now += PAUSE_SECONDS
    await asyncio.gather(*(ask() for _ in range(5)))
    assert endpoint.calls == FAILURES_MAX + 1
    endpoint.failing = False
    clock.now += PAUSE_SECONDS
    found = await ask()
    assert same(found, Estimates.of(np.array([0.5]), np.array([0.25]), [4]))
    assert not remote.breaker.open
    await ask()
    assert endpoint.calls == FAILURES_MAX + 3
    assert remote.fallbacks == FAILURES_MAX + 5 + 5


def said(success: object = 0.5, width: object = 0.25, outcomes: object = 4) -> bytes:
    return json.dumps({"success": [success], "width": [width], "outcomes": [outcomes]}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"nothing",
        b"[]",
        b"{}",
        said(success="x"),
        said(success=math.nan),
        said(success=7.0),
        said(width=-0.1),
        said(width=math.inf),
        said(outcomes=-1),
        said(outcomes=None),
        b'{"success": [0.5, 0.5], "width": [0.25, 0.25], "outcomes": [4, 4]}',
        b'{"success": 0.5, "width": 0.25, "outcomes": [4]}',
    ],
)
async def test_an_answer_that_is_none_is_not_believed(body: bytes) -> None:
    remote = SagemakerPolicy(a_learner(), Moody(body))
    found = await remote.ask(ARMS[:1], VALUES, AT)
    assert same(found, a_learner().estimates(ARMS[:1], VALUES, AT))
    assert remote.fallbacks == 1


# The container's own contract.


def asked(
    wire: Wire, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", wire.port, timeout=PATIENT_SECONDS)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    found = (answer.status, answer.read(), answer.headers.get(ATTRIBUTES))
    connection.close()
    return found


def test_a_ping_is_answered_with_the_learners_name(wire: Wire) -> None:
    version = VERSION_PREFIX + a_learner().version
    assert asked(wire, "GET", "/ping") == (200, b"", version)
    assert asked(wire, "GET", "/else")[0] == 404


def a_question(**change: object) -> bytes:
    return json.dumps({**json.loads(question(ARMS, VALUES, AT)), **change}).encode()


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 200),
        ({"path": "/else"}, 404),
        ({"Content_Type": "text/csv"}, 415),
        ({"version": "other"}, 409),
        ({"body": b"1,2,3"}, 400),
        ({"body": b"{}"}, 400),
        ({"body": a_question(values=[1.0])}, 400),
        ({"body": a_question(values=[1.0, math.nan])}, 400),
        ({"body": a_question(values=["a", "b"])}, 400),
        ({"body": a_question(arms=[])}, 400),
        ({"body": a_question(arms=[{"account": 1, "model": "m"}])}, 400),
        ({"body": a_question(arms=[{"account": "a", "model": "m"}] * (ARMS_MAX + 1))}, 400),
        ({"Content_Length": str(BODY_BYTES_MAX + 1)}, 413),
        ({"Content_Length": "-1"}, 413),
        ({"Content_Length": "many"}, 413),
    ],
)
def test_the_container_answers_each_mistake_by_its_status(
    wire: Wire, change: dict[str, object], status: int
) -> None:
    given: dict[str, Any] = {
        "path": "/invocations",
        "Content_Type": CONTENT_TYPE,
        "version": a_learner().version,
        "body": a_question(),
        **change,
    }
    version, path, body = (given.pop(name) for name in ("version", "path", "body"))
    headers = {**given, ATTRIBUTES.replace("-", "_"): VERSION_PREFIX + version}
    assert asked(wire, "POST", path, body, **headers)[0] == status


def test_a_container_knows_what_all_replicas_learned(tmp_path: Path) -> None:
    values: Values = np.zeros(len(CHARGE_SCHEMA.features))
    values[0] = 1.0
    for owner in ("one", "two"):
        replica = LinUcb(CHARGE_SCHEMA, owner=owner)
        replica.learn(ARMS[0], values, 0.0, AT)
        (tmp_path / f"{owner}.totals").write_bytes(replica.totals().encode())
    estimates = load(tmp_path).estimates(ARMS[:1], values, AT)
    assert list(estimates.outcomes) == [2]
    assert estimates.success[0] < LinUcb(CHARGE_SCHEMA).estimates(ARMS[:1], values, AT).success[0]


async def test_a_container_serves_what_was_exported_from_a_routers_store(tmp_path: Path) -> None:
    values: Values = np.zeros(len(CHARGE_SCHEMA.features))
    values[0] = 1.0
    store = await SqliteStore.open(tmp_path / "router.db", MIGRATIONS)
    replicas = SqliteReplicas(store)
    for owner in ("one", "two"):
        learner = LinUcb(CHARGE_SCHEMA, owner=owner, epoch=await replicas.join(owner))
        learner.learn(ARMS[0], values, 1.0, AT)
        totals = learner.totals()
        await replicas.put(ReplicaState(owner, totals.epoch, 1, AT, totals.encode(), b""))
    assert await export(tmp_path / "router.db", tmp_path) == 2
    await store.close()
    assert list(load(tmp_path).estimates(ARMS[:1], values, AT).outcomes) == [2]
    with pytest.raises(ValueError, match="no store"):
        await export(tmp_path / "other.db", tmp_path)


def test_a_container_without_totals_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \*.totals file"):
        load(tmp_path)
    (tmp_path / "one.totals").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="no total"):
        load(tmp_path)
