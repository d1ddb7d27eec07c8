"""The endpoint scores while it answers; whatever else it does, the model here answers."""

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from smartpay_chassis.settings import SettingsError
from smartpay_fraud.adapters.matrix_wire import CONTENT_TYPE, VERSION_PREFIX, matrix, packed
from smartpay_fraud.adapters.model_bundle import ModelBundle, load
from smartpay_fraud.adapters.sagemaker_models import (
    FAILURES_MAX,
    PAUSE_SECONDS,
    Breaker,
    EndpointClient,
    Remote,
    SagemakerModel,
)
from smartpay_fraud.adapters.serving_models import LocalModel
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.domain.graph import GRAPH_WIDTH
from smartpay_fraud.invocations import BODY_BYTES_MAX, server_of

Files = dict[str, bytes]
LOADED = datetime(2026, 1, 1, tzinfo=UTC)
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
PATIENT_SECONDS = 30.0  # no test of a right answer may hang on how busy the machine is


class Wire:
    """Stands between boto3 and the container: SageMaker's address, the container's server."""

    def __init__(self, bundle: ModelBundle) -> None:
        self.server = server_of(bundle, ("127.0.0.1", 0))
        self.port = self.server.server_address[1]
        self.requests: list[str] = []
        handler: Any = self.server.RequestHandlerClass
        wire = self

        class Addressed(handler):  # type: ignore[misc]  # a class made by a function
            """Maps SageMaker's path to the container's, as the platform does."""

            path: str

            def do_POST(self) -> None:
                wire.requests.append(self.path)
                if self.path == "/endpoints/fraud-detection-endpoint/invocations":
                    self.path = "/invocations"
                super().do_POST()

        self.server.RequestHandlerClass = Addressed
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def served(graph_files: Files) -> ModelBundle:
    return load(graph_files)


@pytest.fixture
def wire(served: ModelBundle) -> Iterator[Wire]:
    wire = Wire(served)
    yield wire
    wire.close()


@pytest.fixture
def local(served: ModelBundle, thread: ThreadPoolExecutor) -> LocalModel:
    return LocalModel(served, thread, LOADED)


def a_client(port: int, seconds: float = PATIENT_SECONDS) -> EndpointClient:
    return EndpointClient(
        "fraud-detection-endpoint",
        connect_seconds=seconds,
        read_seconds=seconds,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="eu-west-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )


def a_batch(count: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    rows = rng.normal(3, 2, (count, len(FEATURES))).astype(np.float32)
    rows[0, :3] = np.nan
    return rows, rng.random((count, GRAPH_WIDTH)).astype(np.float32)


async def test_a_batch_is_scored_there_in_one_call_and_explained_here(
    wire: Wire, local: LocalModel
) -> None:
    remote = Remote(a_client(wire.port))
    model = SagemakerModel(local, remote)
    rows, graph = a_batch(100)
    margins, stack = await model.infer(rows, graph)
    expected = await local.infer(rows, graph)
    assert margins == pytest.approx(expected.margins, abs=1e-6)
    assert np.array_equal(stack, expected.stack, equal_nan=True)
    assert np.array_equal(await model.explain(stack), await local.explain(expected.stack))
    assert wire.requests == ["/endpoints/fraud-detection-endpoint/invocations"]
    assert (remote.calls, remote.fallbacks) == (1, 0)


async def test_an_endpoint_with_another_model_is_not_believed(
    wire: Wire, files: Files, thread: ThreadPoolExecutor
) -> None:
    remote = Remote(a_client(wire.port))
    ours = LocalModel(load(files), thread, LOADED)
    rows, graph = a_batch()
    margins, _ = await SagemakerModel(ours, remote).infer(rows, graph)
    assert np.array_equal(margins, (await ours.infer(rows, graph)).margins)
    assert (remote.calls, remote.fallbacks) == (1, 1)


async def test_an_endpoint_that_never_answers_costs_one_short_wait_and_is_asked_once(
    local: LocalModel,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        remote = Remote(a_client(port, seconds=0.05))
        rows, graph = a_batch()
        margins, _ = await SagemakerModel(local, remote).infer(rows, graph)
        silent.settimeout(PATIENT_SECONDS)
        connection, _ = silent.accept()
        connection.close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()
    assert np.array_equal(margins, (await local.infer(rows, graph)).margins)
    assert remote.fallbacks == 1


async def test_an_address_that_is_never_found_does_not_hold_the_batch(
    local: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = a_client(1, seconds=0.01)
    found = threading.Event()
    monkeypatch.setattr(client, "_invoke", lambda body, version: found.wait(PATIENT_SECONDS))
    remote = Remote(client)
    rows, graph = a_batch()
    margins, _ = await SagemakerModel(local, remote).infer(rows, graph)
    found.set()
    assert np.array_equal(margins, (await local.infer(rows, graph)).margins)
    assert remote.fallbacks == 1


def test_an_endpoint_without_a_region_is_refused_with_the_setting_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(SettingsError, match=r"FRAUD_ENDPOINT_NAME.*AWS_REGION"):
        EndpointClient("fraud-detection-endpoint")


class Moody:
    """An endpoint that fails while told to."""

    endpoint = "fraud-detection-endpoint"

    def __init__(self, bundle: ModelBundle) -> None:
        self.bundle = bundle
        self.failing = True
        self.calls = 0
        self.body: bytes | None = None

    async def invoke(self, body: bytes, version: str) -> bytes:
        self.calls += 1
        await asyncio.sleep(0)
        if self.failing:
            raise ConnectionError
        if self.body is not None:
            return self.body
        sent = matrix(body, np.float32).astype(np.float32)
        rows, graph = sent[:, : len(FEATURES)], sent[:, len(FEATURES) :]
        margins, columns = self.bundle.engine.infer(rows.copy(), graph.copy())
        return packed(np.concatenate([margins[:, None], columns.astype(np.float64)], axis=1))


class Monotonic:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_call_try(
    local: LocalModel,
) -> None:
    clock, endpoint = Monotonic(), Moody(local.bundle)
    remote = Remote(endpoint, Breaker(clock))  # type: ignore[arg-type]  # a double
    model = SagemakerModel(local, remote)
    rows, graph = a_batch()
    for _ in range(FAILURES_MAX + 5):
        await model.infer(rows, graph)
    assert endpoint.calls == FAILURES_MAX
    assert remote.breaker.open
    clock.now += PAUSE_SECONDS
    await asyncio.gather(*(model.infer(rows, graph) for _ in range(5)))
    assert endpoint.calls == FAILURES_MAX + 1
    endpoint.failing = False
    clock.now += PAUSE_SECONDS
    await model.infer(rows, graph)
    assert not remote.breaker.open
    await model.infer(rows, graph)
    assert endpoint.calls == FAILURES_MAX + 3
    assert remote.fallbacks == FAILURES_MAX + 5 + 5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80\x04K\x01.",
        packed(np.zeros((4, 18))),
        packed(np.zeros((5, 17))),
        packed(np.full((5, 18), np.nan)),
        packed(np.zeros((5, 18), np.float32)),
        packed(np.zeros((5, 18)))[:-1],
    ],
    ids=["nothing", "pickle", "a row short", "a column short", "no numbers", "floats", "cut"],
)
async def test_an_answer_that_is_none_is_not_believed(local: LocalModel, body: bytes) -> None:
    endpoint = Moody(local.bundle)
    endpoint.failing, endpoint.body = False, body
    remote = Remote(endpoint)  # type: ignore[arg-type]  # a double
    rows, graph = a_batch()
    margins, _ = await SagemakerModel(local, remote).infer(rows, graph)
    assert np.array_equal(margins, (await local.infer(rows, graph)).margins)
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


def test_a_ping_is_answered_with_the_models_name(wire: Wire, served: ModelBundle) -> None:
    status, body, attributes = asked(wire, "GET", "/ping")
    assert (status, body, attributes) == (200, b"", VERSION_PREFIX + served.version)
    assert asked(wire, "GET", "/else")[0] == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"path": "/else"}, 404),
        ({"Content_Type": "text/csv"}, 415),
        ({"version": "other"}, 409),
        ({"body": b"1,2,3"}, 400),
        ({"body": packed(np.zeros((2, 3), np.float32))}, 400),
        ({"body": packed(np.zeros((0, len(FEATURES) + GRAPH_WIDTH), np.float32))}, 400),
        ({"Content_Length": str(BODY_BYTES_MAX + 1)}, 413),
        ({"Content_Length": "-1"}, 413),
        ({"Content_Length": "many"}, 413),
        ({}, 200),
    ],
)
def test_the_container_answers_each_mistake_by_its_status(
    wire: Wire, served: ModelBundle, change: dict[str, object], status: int
) -> None:
    given = {
        "path": "/invocations",
        "Content_Type": CONTENT_TYPE,
        "version": served.version,
        "body": packed(np.concatenate(a_batch(), axis=1)),
        **change,
    }
    attributes = VERSION_PREFIX + str(given.pop("version"))
    path, body = str(given.pop("path")), given.pop("body")
    headers = {name: str(value) for name, value in given.items()}
    headers[ATTRIBUTES.replace("-", "_")] = attributes
    assert asked(wire, "POST", path, body, **headers)[0] == status  # type: ignore[arg-type]
