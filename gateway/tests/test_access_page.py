"""Who may call what is complete, the same everywhere, and written down."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.api import http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool

from smartpay.access.v1 import access_pb2
from smartpay_gateway.access_page import access_page
from smartpay_gateway.contract import HTTP, Contract, read_contract
from smartpay_gateway.templates import load
from smartpay_gateway.topology import SERVICES

ROOT = Path(__file__).parents[2]
DESCRIPTORS = ROOT / "protos" / "gen" / "smartpay.binpb"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return read_contract(DESCRIPTORS, SERVICES)


def declared() -> dict[str, descriptor_pb2.MethodOptions]:
    """Reads every rpc of the contract straight from the descriptor set."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    return {
        f"/{file.package}.{service.name}/{method.name}": method.options
        for file in files.file
        if file.package.startswith("smartpay.")
        for service in file.service
        for method in service.method
    }


def edge_manager(template: str) -> dict[str, Any]:
    document = json.loads(load(template))
    listeners = {entry["name"]: entry for entry in document["staticResources"]["listeners"]}
    manager: dict[str, Any] = listeners["edge"]["filterChains"][0]["filters"][0]["typedConfig"]
    return manager


def filter_of(manager: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (f["typedConfig"] for f in manager["httpFilters"] if f["name"] == name)
    settings: dict[str, Any] = found
    return settings


def test_the_committed_page_is_what_the_contract_generates(contract: Contract) -> None:
    stale = (ROOT / "docs" / "access.md").read_text() != access_page(contract)
    assert not stale, "run: python -m smartpay_gateway generate"


def test_every_rpc_has_a_line_with_all_it_needs(contract: Contract) -> None:
    lines = [row for row in access_page(contract).splitlines() if row.startswith("| `")]
    assert len(lines) == len(declared())
    by_name = {row.split("`")[1]: row.strip("| ").split(" | ") for row in lines}
    for path, options in declared().items():
        access = options.Extensions[access_pb2.access]
        _, routes, callers, scope, deadline, repeated, key = by_name[path.rpartition("/")[2]]
        without_token = "signed body" if access.signed else "none"
        assert scope == (f"`{access.scope}`" if access.scope else without_token)
        outside = {"edge"} if access.scope or access.signed else set()
        assert set(callers.split(", ")) == {*access.callers} | outside
        assert callers
        assert float(deadline.removesuffix(" s")) == access.deadline.ToTimedelta().total_seconds()
        assert float(deadline.removesuffix(" s")) > 0
        assert (repeated == "yes") is (options.idempotency_level != 0)
        assert (key == "required") is access.idempotency_key
        assert (routes == "none") is not options.HasExtension(HTTP)


def test_every_rest_route_reaches_an_rpc_in_envoys_own_copy(contract: Contract) -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(contract.envoy_descriptors)
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    routes: dict[str, str] = {}
    for file in files.file:
        for service in file.service:
            for method in service.method:
                rule: http_pb2.HttpRule = method.options.Extensions[HTTP]
                for binding in (rule, *rule.additional_bindings):
                    if verb := binding.WhichOneof("pattern"):
                        key = f"{verb} {getattr(binding, verb)}"
                        assert key not in routes, f"{key} is bound twice"
                        routes[key] = f"/{file.package}.{service.name}/{method.name}"
    wanted = {f"{b.verb.lower()} {b.path}" for m in contract.methods for b in m.bindings}
    assert routes.keys() == wanted
    served = {m.path for m in contract.from_outside()}
    assert set(routes.values()) <= served


@pytest.mark.parametrize("template", ["edge", "edge-plaintext"])
def test_no_route_of_the_edge_is_without_a_policy(contract: Contract, template: str) -> None:
    manager = edge_manager(template)
    policies = filter_of(manager, "envoy.filters.http.rbac")["rules"]["policies"]
    outside = {m.path for m in contract.from_outside()}
    assert policies.keys() == outside
    (host,) = manager["routeConfig"]["virtualHosts"]
    for route in host["routes"]:
        if "directResponse" in route:
            # Shown to anybody, read by GET alone, and calls nobody.
            assert re.fullmatch(r"healthz|/(openapi\.json|docs.*) (200|304)", route["name"])
        elif route["route"].get("cluster") == "nowhere":
            assert not host.get("cluster")
        else:
            assert route["match"] == {"path": route["name"]}
            assert route["name"] in outside
    nowhere = [
        c
        for c in json.loads(load(template))["staticResources"]["clusters"]
        if c["name"] == "nowhere"
    ]
    assert [c["loadAssignment"] for c in nowhere] == [{"clusterName": "nowhere"}]


@pytest.mark.parametrize("template", ["edge", "edge-plaintext"])
def test_tokens_are_asked_for_everywhere_but_where_nobody_is_called(template: str) -> None:
    manager = edge_manager(template)
    rules = filter_of(manager, "envoy.filters.http.jwt_authn")["rules"]
    without = [rule["match"] for rule in rules if "requires" not in rule]
    assert without == [{"path": "/healthz"}]
    (host,) = manager["routeConfig"]["virtualHosts"]
    for route in host["routes"]:
        settings = route.get("typedPerFilterConfig", {})
        if route["name"] == "signed":
            # Leads to methods that check a signature: see test_signed_bodies.py.
            assert route["route"]["cluster"] == "nowhere"
        elif "envoy.filters.http.jwt_authn" in settings:
            assert "directResponse" in route
            assert "path" in route["match"]


def test_a_sidecar_serves_only_what_has_a_policy(contract: Contract) -> None:
    for service in SERVICES:
        document = json.loads(load(f"sidecar-{service}"))
        (mesh,) = (x for x in document["staticResources"]["listeners"] if x["name"] == "mesh")
        manager = mesh["filterChains"][0]["filters"][0]["typedConfig"]
        routes = {r["name"] for r in manager["routeConfig"]["virtualHosts"][0]["routes"]}
        allowed = [
            f["typedConfig"]["rules"]["policies"]
            for f in manager["httpFilters"]
            if f["name"] == "envoy.filters.http.rbac"
            and f["typedConfig"]["rules"].get("action", "ALLOW") == "ALLOW"
        ]
        assert [policies.keys() for policies in allowed] == [routes]
        assert routes == {m.path for m in contract.of_service(service)}
