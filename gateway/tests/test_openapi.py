"""The description of the REST surface says what the contract says, all of it and valid."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import protovalidate
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

from smartpay_gateway.contract import Contract, ContractError, Method, read_contract
from smartpay_gateway.examples import EXAMPLES
from smartpay_gateway.json_schemas import express
from smartpay_gateway.openapi import openapi
from smartpay_gateway.templates import PUBLIC
from smartpay_gateway.topology import SERVICES

DESCRIPTORS = Path(__file__).parents[2] / "protos" / "gen" / "smartpay.binpb"
STUBS = DESCRIPTORS.parent / "smartpay"


@pytest.fixture(scope="module")
def contract() -> Contract:
    # Their messages are looked up by name.
    for stub in STUBS.glob("*/v1/*_pb2.py"):
        importlib.import_module(f"smartpay.{stub.parent.parent.name}.v1.{stub.stem}")
    return read_contract(DESCRIPTORS, SERVICES)


@pytest.fixture(scope="module")
def document(contract: Contract) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(openapi(contract))
    return described


def operations(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{verb.upper()} {path}": operation
        for path, item in document["paths"].items()
        for verb, operation in item.items()
    }


def operation_of(document: Mapping[str, Any], operation_id: str) -> dict[str, Any]:
    (found,) = (o for o in operations(document).values() if o["operationId"] == operation_id)
    return found


def rpc_of(operation: Mapping[str, Any]) -> str:
    """Names an operation's rpc; a second route of it is named by what it fixes, too."""
    name: str = operation["operationId"].partition("By")[0]
    return name.lower()


def schema(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


def test_the_committed_description_is_what_the_contract_generates(contract: Contract) -> None:
    stale = (PUBLIC / "openapi.json").read_text() != openapi(contract)
    assert not stale, "run: python -m smartpay_gateway generate"


def test_a_validator_of_openapi_takes_it(document: dict[str, Any]) -> None:
    importlib.import_module("openapi_spec_validator").validate(document)


def test_a_validator_of_openapi_would_notice_a_fault(document: dict[str, Any]) -> None:
    spoilt = json.loads(json.dumps(document))
    operation_of(spoilt, "getPayment")["parameters"] = []
    validator = importlib.import_module("openapi_spec_validator")
    with pytest.raises(Exception, match="paymentId"):
        validator.validate(spoilt)


def test_every_rest_route_is_described_and_no_other(
    contract: Contract, document: dict[str, Any]
) -> None:
    served = {
        f"{b.verb} {re.sub(r'_([a-z])(?=[a-z_]*})', lambda m: m[1].upper(), b.path)}"
        for m in contract.with_token()
        for b in m.bindings
    }
    described = {
        f"{verb} {server['url'].rstrip('/')}{path}"
        for server in document["servers"]
        for verb, path in (key.split(" ") for key in operations(document))
    }
    assert described == served
    names = [o["operationId"] for o in operations(document).values()]
    assert len(names) == len(set(names))


def test_every_operation_asks_for_its_scope_or_a_token_with_it(
    contract: Contract, document: dict[str, Any]
) -> None:
    by_name = {m.name.rpartition(".")[2].lower(): m for m in contract.methods}
    known = document["components"]["securitySchemes"]["oauth2"]["flows"]["clientCredentials"]
    for operation in operations(document).values():
        scope = by_name[rpc_of(operation)].scope
        assert operation["security"] == [{"oauth2": [scope]}, {"token": []}]
        assert scope in known["scopes"]


def test_the_key_is_asked_for_where_the_contract_requires_it(
    contract: Contract, document: dict[str, Any]
) -> None:
    key = {"$ref": "#/components/parameters/IdempotencyKey"}
    by_name = {m.name.rpartition(".")[2].lower(): m for m in contract.methods}
    for operation in operations(document).values():
        required = by_name[rpc_of(operation)].idempotency_key
        assert (key in operation["parameters"]) is required
        success = next(s for s in operation["responses"] if s.startswith("2"))
        headers = operation["responses"][success]["headers"]
        assert ("Idempotent-Replayed" in headers) is required
    assert document["components"]["parameters"]["IdempotencyKey"]["required"] is True


def test_the_statuses_are_those_the_contract_names(document: dict[str, Any]) -> None:
    answers = operation_of(document, "createPayment")["responses"]
    assert [status for status in answers if status.startswith("2")] == ["201", "202"]
    assert {"Location", "ETag", "X-Request-Id"} <= answers["201"]["headers"].keys()
    assert "200" in operation_of(document, "getPayment")["responses"]
    for operation in operations(document).values():
        assert {"400", "401", "403", "429", "503", "504", "default"} <= operation[
            "responses"
        ].keys()


def test_other_input_under_a_key_or_id_is_told_and_so_is_what_is_not_there(
    document: dict[str, Any],
) -> None:
    reused = {o["operationId"] for o in operations(document).values() if "422" in o["responses"]}
    assert {"createPayment", "cancelPayment", "grant"} < reused  # by their keys
    assert {"score", "scoreBatch", "recordOutcome"} < reused  # by the ids in their bodies
    assert not {"ask", "chat", "getPayment", "listPayments"} & reused
    assert "404" in operation_of(document, "grant")["responses"]
    assert "404" not in operation_of(document, "listPayments")["responses"]
    for by_version in ("getRuleSet", "getRoutingPolicy"):
        assert "404" in operation_of(document, by_version)["responses"]
    assert "409" in operation_of(document, "evaluateRoutingPolicy")["responses"]


def test_requests_are_closed_and_answers_open(document: dict[str, Any]) -> None:
    assert schema(document, "CreatePaymentRequest")["additionalProperties"] is False
    assert schema(document, "MoneyInput")["additionalProperties"] is False
    assert "additionalProperties" not in schema(document, "Money")
    assert "additionalProperties" not in schema(document, "Payment")


def test_the_rules_of_the_contract_are_in_the_schemas(document: dict[str, Any]) -> None:
    request = schema(document, "CreatePaymentRequest")
    assert {"amount", "captureMethod"} <= set(request["required"])
    assert request["properties"]["merchantOrderId"]["maxLength"] == 64
    assert request["properties"]["decisionId"]["pattern"].startswith("^dec_")
    metadata = request["properties"]["metadata"]
    assert (metadata["maxProperties"], metadata["propertyNames"]) == (
        20,
        {"minLength": 1, "maxLength": 40},
    )
    assert metadata["additionalProperties"]["maxLength"] == 200
    # A rule in CEL is told in words, and in the schema what a schema can say.
    amount = request["properties"]["amount"]
    assert "from 1 to 99999999 minor units" in amount["description"]
    assert amount["properties"] == {"minorUnits": {"minimum": 1, "maximum": 99999999}}
    capture = schema(document, "MerchantSettingsInput")["properties"]["captureMethod"]
    assert capture["enum"] == ["CAPTURE_METHOD_AUTOMATIC", "CAPTURE_METHOD_MANUAL"]
    token = schema(document, "ProcessorTokenInput")["properties"]
    assert token["processorAccountId"]["pattern"].startswith("^pac_")
    currencies = schema(document, "MoneyInput")["properties"]["currencyCode"]["enum"]
    assert {"USD", "JPY", "USDC", "SOL"} < set(currencies)
    risk = schema(document, "DecideRequest")["properties"]["risk"]
    assert (risk["minimum"], risk["maximum"]) == (0, 1)
    tokens = schema(document, "InstrumentInput")["properties"]["tokens"]
    assert (tokens["minItems"], tokens["maxItems"]) == (1, 8)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("this.minor_units > 0 && this.minor_units < 9", ("exclusiveMinimum", "exclusiveMaximum")),
        ("this.minor_units >= -1 && this.currency_code != 'X'", ("minimum",)),
        ("this.minor_units >= 1 || this.minor_units <= 9 && this.minor_units <= 5", ()),
        ("this.minor_units >= 1 ? this.minor_units <= 9 : true", ()),
        ("!(this.minor_units >= 1)", ()),
    ],
)
def test_of_a_rule_in_cel_a_schema_says_what_holds_by_itself(
    contract: Contract, rule: str, said: tuple[str, ...]
) -> None:
    (create,) = (m for m in contract.methods if m.name.endswith(".CreatePayment"))
    schema: dict[str, Any] = {}
    express(rule, schema, create.request.fields_by_name["amount"])
    assert tuple(schema.get("properties", {}).get("minorUnits", {})) == said


def test_a_64_bit_integer_is_a_text_and_in_requests_also_a_number(document: dict[str, Any]) -> None:
    asked = schema(document, "MoneyInput")["properties"]["minorUnits"]
    told = schema(document, "Money")["properties"]["minorUnits"]
    assert (asked["type"], told["type"]) == (["string", "integer"], "string")
    assert asked["format"] == told["format"] == "int64"


def test_a_list_of_values_is_closed_only_for_requests(document: dict[str, Any]) -> None:
    asked, told = schema(document, "PaymentStatusInput"), schema(document, "PaymentStatus")
    assert "STATUS_UNSPECIFIED" not in asked["enum"]
    assert "enum" not in told
    assert {"STATUS_UNSPECIFIED", *asked["enum"]} == set(told["x-extensible-enum"])


def test_what_the_path_names_is_not_asked_for_in_the_body(document: dict[str, Any]) -> None:
    assert "paymentId" not in schema(document, "RefundPaymentRequest")["properties"]
    refund = operation_of(document, "refundPayment")
    (parameter,) = (p for p in refund["parameters"] if p.get("in") == "path")
    assert (parameter["name"], parameter["required"]) == ("paymentId", True)
    assert refund["requestBody"]["required"] is True
    assert operation_of(document, "cancelPayment")["requestBody"]["required"] is False


def test_filters_and_pages_are_query_parameters(document: dict[str, Any]) -> None:
    parameters = operation_of(document, "listPayments")["parameters"]
    query = {p["name"]: p for p in parameters if p.get("in") == "query"}
    assert {"pageSize", "pageToken", "status"} <= query.keys()
    assert query["pageToken"]["schema"]["maxLength"] == 512


def test_a_stream_is_described_as_events_and_as_lines(document: dict[str, Any]) -> None:
    content = operation_of(document, "chat")["responses"]["200"]["content"]
    assert content.keys() == {"text/event-stream", "application/x-ndjson"}


def test_every_reason_is_in_the_catalogue_with_its_meaning(
    contract: Contract, document: dict[str, Any]
) -> None:
    catalogue = schema(document, "ErrorReason")["x-error-catalogue"]
    reasons = [v.name for enum in contract.reasons for v in enum.values if v.number]
    assert [f"ERROR_REASON_{entry['reason']}" for entry in catalogue] == reasons
    for entry in catalogue:
        assert entry["meaning"].endswith(".")
        assert "Example" not in entry["meaning"]
        assert entry["example"]["reason"] == entry["reason"]


def test_every_example_passes_the_rules_of_the_contract(contract: Contract) -> None:
    pool = descriptor_pool.Default()
    served = {m.name: m for m in contract.with_token() if m.bindings}
    assert EXAMPLES.keys() == served.keys()
    for name, example in EXAMPLES.items():
        descriptor = pool.FindMessageTypeByName(served[name].request.full_name)
        request = message_factory.GetMessageClass(descriptor)()
        json_format.ParseDict(dict(example), request)
        protovalidate.validate(request)


def test_the_examples_in_the_description_satisfy_their_schemas(document: dict[str, Any]) -> None:
    jsonschema = importlib.import_module("jsonschema")
    checked = 0
    for operation in operations(document).values():
        if "requestBody" in operation:
            content = operation["requestBody"]["content"]["application/json"]
            jsonschema.validate(
                content["example"], {**content["schema"], "components": document["components"]}
            )
            checked += 1
    assert checked > 10


def without_comment(contract: Contract, name: str) -> Contract:
    comments = {key: text for key, text in contract.comments.items() if key != name}
    return replace(contract, comments=comments)


@pytest.mark.parametrize(
    "name",
    [
        "smartpay.payments.v1.Payment",
        "smartpay.payments.v1.Payment.payment_id",
        "smartpay.payments.v1.Payment.Status.STATUS_FAILED",
        "smartpay.payments.v1.PaymentsService",
        "smartpay.payments.v1.PaymentsService.GetPayment",
        "smartpay.type.v1.ErrorReason.ERROR_REASON_INTERNAL",
    ],
)
def test_what_has_no_comment_is_refused(contract: Contract, name: str) -> None:
    with pytest.raises(ContractError, match=f"{name}: no comment"):
        openapi(without_comment(contract, name))


def changed(contract: Contract, rpc: str, **changes: Any) -> Contract:
    def change(method: Method) -> Method:
        return replace(method, **changes) if method.name.endswith(rpc) else method

    return replace(contract, methods=tuple(change(m) for m in contract.methods))


def test_a_route_without_its_version_is_refused(contract: Contract) -> None:
    (method,) = (m for m in contract.methods if m.name.endswith(".GetPayment"))
    with pytest.raises(ContractError, match="with and without /v1"):
        openapi(changed(contract, ".GetPayment", bindings=method.bindings[:1]))


def test_a_method_without_an_example_is_refused(contract: Contract) -> None:
    with pytest.raises(ContractError, match="no example"):
        openapi(changed(contract, ".GetPayment", name="smartpay.payments.v1.PaymentsService.Watch"))
