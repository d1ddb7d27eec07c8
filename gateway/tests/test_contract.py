from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from google.api import http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool

from smartpay.access.v1 import access_pb2
from smartpay.type.v1 import error_reason_pb2
from smartpay_gateway.contract import HTTP, Contract, ContractError, read_contract
from smartpay_gateway.strict_input import LUA, answer_script, strict_input_script
from smartpay_gateway.topology import SERVICES

DESCRIPTORS = Path(__file__).parents[2] / "protos" / "gen" / "smartpay.binpb"
SCORE = "/smartpay.fraud.v1.FraudService/Score"


@pytest.fixture(scope="module")
def contract() -> Contract:
    return read_contract(DESCRIPTORS, SERVICES)


def changed(tmp_path: Path, change: Callable[[descriptor_pb2.MethodDescriptorProto], None]) -> Path:
    """Writes the contract with one method changed."""
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    (score,) = (
        method
        for file in files.file
        for service in file.service
        for method in service.method
        if method.name == "Score"
    )
    change(score)
    path = tmp_path / "changed.binpb"
    path.write_bytes(files.SerializeToString())
    return path


def test_every_method_is_read_with_its_access_rule(contract: Contract) -> None:
    score = next(m for m in contract.methods if m.path == SCORE)
    assert score.service == "fraud"
    assert score.scope == "smartpay/fraud.score"
    assert score.callers == ("payments",)
    assert score.deadline_seconds == 2
    assert score.retryable
    assert [b.path for b in score.bindings] == ["/fraud", "/v1/fraud"]


def test_what_only_services_call_is_not_reachable_from_outside(contract: Contract) -> None:
    outside = {m.path for m in contract.from_outside()}
    assert "/smartpay.payments.v1.PaymentsService/Watch" not in outside
    assert SCORE in outside


def test_a_method_without_an_access_rule_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda m: m.options.ClearExtension(access_pb2.access))
    with pytest.raises(ContractError, match=f"{SCORE}: no access rule"):
        read_contract(path, SERVICES)


def test_a_method_without_a_deadline_is_refused(tmp_path: Path) -> None:
    path = changed(
        tmp_path, lambda m: m.options.Extensions[access_pb2.access].ClearField("deadline")
    )
    with pytest.raises(ContractError, match=f"{SCORE}: no deadline"):
        read_contract(path, SERVICES)


def test_a_method_nobody_may_call_is_refused(tmp_path: Path) -> None:
    def forget(method: descriptor_pb2.MethodDescriptorProto) -> None:
        access = method.options.Extensions[access_pb2.access]
        access.ClearField("callers")
        access.ClearField("scope")

    with pytest.raises(ContractError, match="nobody may call it"):
        read_contract(changed(tmp_path, forget), SERVICES)


def test_a_rest_route_without_a_scope_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda m: m.options.Extensions[access_pb2.access].ClearField("scope"))
    with pytest.raises(ContractError, match="a REST route without a scope"):
        read_contract(path, SERVICES)


def test_a_caller_that_is_no_service_is_refused(tmp_path: Path) -> None:
    path = changed(
        tmp_path, lambda m: m.options.Extensions[access_pb2.access].callers.append("stranger")
    )
    with pytest.raises(ContractError, match=r"unknown callers .*stranger"):
        read_contract(path, SERVICES)


def test_a_service_outside_the_topology_is_refused() -> None:
    with pytest.raises(ContractError, match="no service of the topology"):
        read_contract(DESCRIPTORS, ("payments",))


def test_envoys_copy_of_the_contract_is_whole_and_small(contract: Contract) -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(contract.envoy_descriptors)
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    for method in contract.methods:
        pool.FindServiceByName(method.path.split("/")[1])
    # Without these two an error with details would reach REST as an empty body.
    pool.FindMessageTypeByName("google.rpc.ErrorInfo")
    pool.FindMessageTypeByName("google.rpc.BadRequest")
    assert len(contract.envoy_descriptors) < DESCRIPTORS.stat().st_size / 5


def test_envoys_copy_leaves_the_one_field_bodies_to_lua(contract: Contract) -> None:
    files = descriptor_pb2.FileDescriptorSet.FromString(contract.envoy_descriptors)
    rules: list[http_pb2.HttpRule] = [
        method.options.Extensions[HTTP]
        for file in files.file
        for service in file.service
        for method in service.method
    ]
    assert not any(
        rule.response_body or any(b.response_body for b in rule.additional_bindings)
        for rule in rules
    )
    script = strict_input_script(contract.methods)
    assert 'verb = "POST", pattern = "^/pay$"' in script
    create = '["/smartpay.payments.v1.PaymentsService/CreatePayment"]'
    assert f"{create} = {{ opening = '{{\"payment\":' }}" in answer_script(contract.methods)


def test_every_rest_route_stands_in_the_key_table(contract: Contract) -> None:
    script = strict_input_script(contract.methods)
    bindings = [b for m in contract.methods for b in m.bindings]
    assert script.count("{ verb = ") == len(bindings)
    assert len(bindings) > 0


def test_the_edges_own_reasons_are_in_the_contract() -> None:
    prefix = "ERROR_REASON_"
    known = {name.removeprefix(prefix) for name in list(error_reason_pb2.ErrorReason.keys())}
    own = {
        word.strip('",')
        for name in ("strict_input.lua", "problem.lua")
        for line in (LUA / name).read_text().splitlines()
        if "refuse(" in line or line.startswith('  ["') or "problem.reason" in line
        for word in line.replace("(", " ").replace(")", " ").split()
        if word.startswith('"') and word.strip('",').isupper() and "_" in word
    }
    assert "ROUTE_UNKNOWN" in own
    assert "TOKEN_REFUSED" in own
    assert own <= known


def test_the_scripts_hold_no_more_than_one_entry_point_each(contract: Contract) -> None:
    for way, script in (
        ("response", answer_script(contract.methods)),
        ("request", strict_input_script(contract.methods)),
    ):
        assert script.count("function envoy_on_") == script.count(f"function envoy_on_{way}") == 1
