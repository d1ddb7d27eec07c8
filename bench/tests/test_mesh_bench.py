"""Both gateways refuse the same, so the bench compares equals; and a broken path yields no figure.

Run by `make bench-test`: the rival's packages are only in .venv-bench.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import httpx
import jwt
import pytest

from smartpay.fraud.v1 import fraud_pb2_grpc
from smartpay_bench.h2load import Load, LoadError, run_load
from smartpay_bench.mesh import (
    EDGE,
    EDGE_HTTP2,
    MESHED_RIVAL,
    PLAIN,
    RIVAL,
    SIDECARS,
    Result,
    summary,
    table,
)
from smartpay_bench.one_call import REQUEST
from smartpay_bench.paths import RIVALS, Paths, Route, running_paths
from smartpay_gateway.certificates import issue
from smartpay_gateway.testing import free_port
from smartpay_gateway.topology import server_name

GATEWAYS = ("edge", *RIVALS)


@pytest.fixture(scope="module")
def paths() -> Iterator[Paths]:
    with running_paths() as paths:
        paths.routes()  # waits until all answer
        yield paths


@pytest.fixture(params=GATEWAYS)
def gateway(paths: Paths, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with paths.rest(port_of(paths, request.param)) as client:
        yield client


def port_of(paths: Paths, gateway: str) -> int:
    return paths.mesh.edge_port if gateway == "edge" else paths.rival_ports[gateway]


def route_named(paths: Paths, name: str) -> Route:
    (found,) = (route for route in paths.routes() if route.name == name)
    return found


def test_a_good_call_is_answered_and_carries_its_limit(paths: Paths, gateway: httpx.Client) -> None:
    answer = paths.score(gateway)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]
    assert int(answer.headers["x-ratelimit-limit"]) > 0


@pytest.mark.parametrize("rival", RIVALS)
def test_both_gateways_answer_the_same(paths: Paths, rival: str) -> None:
    with paths.rest(paths.mesh.edge_port) as ours, paths.rest(port_of(paths, rival)) as theirs:
        assert paths.score(ours).json() == paths.score(theirs).json()


def test_no_token_is_refused(paths: Paths, gateway: httpx.Client) -> None:
    assert paths.score(gateway, token=None).status_code == 401


@pytest.mark.parametrize(
    "claims", [{"iss": "https://elsewhere.test"}, {"exp": 1}, {"exp": None}], ids=str
)
def test_a_bad_token_is_refused(
    paths: Paths, gateway: httpx.Client, claims: dict[str, object]
) -> None:
    assert paths.score(gateway, token=paths.token(**claims)).status_code == 401


def test_a_token_signed_by_a_stranger_is_refused(paths: Paths, gateway: httpx.Client) -> None:
    claims = jwt.decode(paths.token(), options={"verify_signature": False})
    forged = jwt.encode(
        claims, paths.mesh.issuer.stranger, algorithm="RS256", headers={"kid": "one"}
    )
    assert paths.score(gateway, token=forged).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [{"scope": "smartpay/payments.read"}, {"client_id": "foreign"}, {"token_use": "id"}],
    ids=str,
)
def test_a_token_for_something_else_is_refused(
    paths: Paths, gateway: httpx.Client, claims: dict[str, object]
) -> None:
    assert paths.score(gateway, token=paths.token(**claims)).status_code == 403


def test_an_unknown_field_is_refused(paths: Paths, gateway: httpx.Client) -> None:
    assert paths.score(gateway, transactionid="order-1").status_code == 400


def test_an_unknown_field_inside_another_is_refused(paths: Paths, gateway: httpx.Client) -> None:
    amount = {"minorUnits": "1", "currencyCode": "USD", "currency": "USD"}
    assert paths.score(gateway, amount=amount).status_code == 400


def test_too_large_a_body_is_refused(paths: Paths, gateway: httpx.Client) -> None:
    assert paths.score(gateway, customerId="x" * 70_000).status_code == 413


def test_the_service_behind_them_refuses_callers_without_a_certificate(paths: Paths) -> None:
    credentials = grpc.ssl_channel_credentials(paths.mesh.ca.read_bytes())
    address = f"127.0.0.1:{paths.mesh.ports['fraud']}"
    name = ("grpc.ssl_target_name_override", server_name("fraud"))
    with grpc.secure_channel(address, credentials, [name]) as channel:
        stub = fraud_pb2_grpc.FraudServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Score(REQUEST, timeout=10)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("which", ["edge", "fastapi"])
def test_a_gateway_with_a_strangers_certificate_reaches_nobody(paths: Paths, which: str) -> None:
    strangers = paths.mesh.folder / f"strangers-{which}"
    issue(strangers, "dev")
    if which == "edge":
        paths.mesh.start("edge", "edge-of-strangers", CERTIFICATE_FOLDER=str(strangers / "edge"))
        port = paths.mesh.listen_ports["edge-of-strangers"]
    else:
        port = free_port()
        paths.start_rival(strangers / "edge", port)
    with httpx.Client(
        base_url=f"https://127.0.0.1:{port}",
        transport=httpx.HTTPTransport(verify=False, retries=10),
        timeout=20,
    ) as client:
        assert paths.score(client).status_code == 503


def test_failed_calls_yield_no_figure(paths: Paths) -> None:
    rival = route_named(paths, RIVAL)
    spoiled = tuple(part.replace("Bearer ", "Bearer x") for part in rival.load)
    with pytest.raises(LoadError, match="Calls failed"):
        run_load(spoiled, 1, rival.answer_bytes)


def test_refusals_hidden_in_grpc_trailers_yield_no_figure(paths: Paths) -> None:
    plain = route_named(paths, PLAIN)
    unknown = tuple(part.replace("/Score", "/Nothing") for part in plain.load)
    with pytest.raises(LoadError, match="not"):
        run_load(unknown, 1, plain.answer_bytes)


def test_ratios_are_medians_of_rounds_and_name_what_was_missed() -> None:
    def found(*rates: float) -> list[Result]:
        return [Result(Load(10, rate, 1.0, 2.0), {"service": 100.0}, 9.0, 0.0) for rate in rates]

    said = summary(
        {
            PLAIN: found(1000, 2000, 4000),
            SIDECARS: found(800, 1600, 400),
            EDGE: found(600, 1000, 2000),
            EDGE_HTTP2: found(700, 1400, 2800),
            RIVAL: found(300, 250, 500),
            MESHED_RIVAL: found(200, 200, 500),
        }
    )
    assert (said["sidecars_vs_grpc"], said["edge_vs_grpc"]) == (0.8, 0.5)
    assert (said["edge_vs_fastapi"], said["edge_vs_fastapi_sidecar"]) == (4.0, 4.0)
    assert said["edge_http2_vs_grpc"] == 0.7
    assert said["missed"] == []
    assert "edge_vs_fastapi" in table(said)
