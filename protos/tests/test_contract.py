"""The contract says everything, and what is committed is what it generates."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import MethodDescriptor

from smartpay.access.v1 import access_pb2
from smartpay.assistant.v1 import assistant_pb2
from smartpay.fraud.v1 import fraud_pb2
from smartpay.payments.v1 import payments_pb2
from smartpay.rewards.v1 import rewards_pb2
from smartpay.router.v1 import router_pb2

PROTOS = Path(__file__).resolve().parents[1]
FILES = [fraud_pb2, router_pb2, payments_pb2, rewards_pb2, assistant_pb2]
# Typed by hand: the library's own stub leaves it open.
HTTP: Any = annotations_pb2.http
METHODS = [m for f in FILES for s in f.DESCRIPTOR.services_by_name.values() for m in s.methods]


def names(folder: Path) -> list[str]:
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    )


def test_the_committed_stubs_are_what_the_contract_generates(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("generate", PROTOS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.generate(tmp_path)
    committed = PROTOS / "gen"
    assert names(tmp_path) == names(committed)
    different = [
        n for n in names(tmp_path) if (tmp_path / n).read_bytes() != (committed / n).read_bytes()
    ]
    assert different == [], "run `make protos`"


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]


def test_the_distribution_asks_for_the_versions_the_stubs_demand() -> None:
    stub = (PROTOS / "gen/smartpay/payments/v1/payments_pb2_grpc.py").read_text()
    grpc_floor = found(r"GRPC_GENERATED_VERSION = '([\d.]+)'", stub)
    message = (PROTOS / "gen/smartpay/payments/v1/payments_pb2.py").read_text()
    protobuf_floor = found(r"# Protobuf Python Version: ([\d.]+)", message)
    wanted = tomllib.loads((PROTOS / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"grpcio>={grpc_floor}" in wanted
    assert f"protobuf>={protobuf_floor}" in wanted


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.full_name)
def test_every_method_states_access_deadline_repeatability_and_route(
    method: MethodDescriptor,
) -> None:
    options = method.GetOptions()
    access = options.Extensions[access_pb2.access]
    assert access.scope or access.callers or access.signed
    assert access.deadline.seconds > 0
    assert options.idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
    route = options.Extensions[HTTP]
    bindings = [route, *route.additional_bindings]
    paths = [b.get or b.post for b in bindings if b.get or b.post]
    if method.client_streaming:
        assert paths == [], "REST has no stream of requests"
    elif access.scope or access.signed:
        assert len(paths) == 2
        assert paths[1] == f"/v1{paths[0]}"
    else:
        assert paths == [], "a method for services alone has no REST route"
    if access.idempotency_key:
        assert options.idempotency_level == descriptor_pb2.MethodOptions.IDEMPOTENT


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.DESCRIPTOR.package)
def test_every_service_publishes_its_reasons(file: ModuleType) -> None:
    values = file.DESCRIPTOR.enum_types_by_name["ErrorReason"].values
    assert len(values) > 1
    assert all(v.name.startswith("ERROR_REASON_") for v in values)
