"""Input the contract does not know never reaches a service."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

import httpx
import pytest
from google.protobuf import json_format

from smartpay.payments.v1 import payments_pb2
from smartpay_gateway.testing import PAYMENT_ID, Mesh

BODY_BYTES = 65536
REFUND = f"/payments/{PAYMENT_ID}:refund"


@pytest.fixture(scope="module")
def client(mesh: Mesh) -> Iterator[httpx.Client]:
    scopes = "smartpay/payments.write smartpay/payments.read smartpay/payments.refund smartpay/chat"
    with mesh.rest(authorization=f"Bearer {mesh.issuer.token(scopes)}") as client:
        yield client


def refused(answer: httpx.Response, status: int, reason: str, field: str | None) -> None:
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["reason"], problem.get("field")) == (status, reason, field)
    assert problem["status"] == status
    assert problem["detail"].endswith(".")
    assert problem["remedy"].endswith(".")
    assert problem["requestId"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"captureMethd": "CAPTURE_METHOD_AUTOMATIC"}', "captureMethd"),
        ('{"capture-method": 1}', "capture-method"),
        ('{"CaptureMethod": 1}', "CaptureMethod"),
        ('{"amount": {"minorUnit": 1}}', "amount.minorUnit"),
        ('{"instrument": {"tokens": [{}, {"tokn": "x"}]}}', "instrument.tokens[1].tokn"),
        ('{"amount": {}, "amount": {}}', "amount"),
        ('{"amount": {"minor_units": 1, "minorUnits": 1}}', "amount.minorUnits"),
        ('{"merchantOrderId": "a", "merchant_order_id": "b"}', "merchantOrderId"),
        ('{"metadata": {"a": "1", "a": "2"}}', "metadata.a"),
        ('{"\\u0061mount": {}}', "?u0061mount"),
        ('{"a\\"b": 1}', "a??b"),
        ('{"é": 1}', "??"),
        ('{"instrument": {"tokens": {"token": "x"}}}', "instrument.tokens"),
        ('{"amount": [{}]}', "amount"),
    ],
)
def test_unknown_and_repeated_fields_are_refused_by_name(
    client: httpx.Client, mesh: Mesh, body: str, field: str
) -> None:
    before = mesh.payments.calls
    refused(client.post("/pay", content=body.encode()), 400, "BODY_MALFORMED", field)
    assert mesh.payments.calls == before


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "{}}",
        "{} {}",
        "[]",
        '"text"',
        "null",
        " ",
        "{amount: {}}",
        "{'amount': {}}",
        '{"offSession": true,}',
        '{"offSession": tru}',
        '{"offSession": TRUE}',
        '{"amount": {"minorUnits": 01}}',
        '{"amount": {"minorUnits": +1}}',
        '{"amount": {"minorUnits": 1.}}',
        '{"amount": {"minorUnits": 0x10}}',
        '{"amount": {"minorUnits": NaN}}',
        '{"description": "a\nb"}',
        '{"description": "\\x41"}',
        '{"description": "\\ud800"}',
        '{"description": "open',
        '{"offSession" true}',
        "{/* */}",
        "\ufeff{}",
        '{"metadata": ' + '{"a":' * 40 + "1" + "}" * 41,
    ],
)
def test_what_is_no_strict_json_is_refused(client: httpx.Client, mesh: Mesh, body: str) -> None:
    before = mesh.payments.calls
    answer = client.post("/pay", content=body.encode())
    assert (answer.status_code, answer.json()["reason"]) == (400, "BODY_MALFORMED")
    assert answer.json()["remedy"]
    assert mesh.payments.calls == before


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"amount": {"minorUnits": "abc"}}, "amount.minorUnits"),
        ({"amount": {"minorUnits": 1.5}}, "amount.minorUnits"),
        ({"amount": {"minorUnits": 10**20}}, "amount.minorUnits"),
        ({"amount": 5}, "amount"),
        ({"offSession": "x"}, "offSession"),
        ({"captureMethod": "NOPE"}, "captureMethod"),
        ({"description": 5}, "description"),
        ({"metadata": {"a": 5}}, "metadata"),
    ],
)
def test_a_wrong_type_is_refused_by_field(
    client: httpx.Client, body: dict[str, object], field: str
) -> None:
    answer = client.post("/pay", json=body)
    refused(answer, 400, "BODY_MALFORMED", field)
    assert "TYPE_" not in answer.text


def test_all_documented_forms_of_a_body_are_taken(client: httpx.Client, mesh: Mesh) -> None:
    for body in (
        '{"amount": {"minorUnits": "5", "currencyCode": "USD"}, "captureMethod": 1}',
        '{"amount": {"minor_units": 5, "currency_code": "USD"}, "capture_method": '
        '"CAPTURE_METHOD_AUTOMATIC"}',
        ' {\n "amount" : { "minorUnits" : 5e0 , "currencyCode" : "\\u0055SD" },'
        '"captureMethod":"CAPTURE_METHOD_AUTOMATIC","instrument":{"tokens":[]},'
        '"metadata":{"amout":"x","\\u00e9":"é"},"description":null}\n',
    ):
        assert client.post("/pay", content=body.encode()).status_code == 201, body
        request = mesh.payments.requests[-1]
        assert (request.amount.minor_units, request.amount.currency_code) == (5, "USD")
        assert request.capture_method == 1


def test_a_text_that_looks_like_a_field_is_a_text(client: httpx.Client, mesh: Mesh) -> None:
    text = '","amount":{"minorUnits":9},"x":"'
    assert client.post("/pay", json={"description": text}).status_code == 201
    assert mesh.payments.requests[-1].description == text


def test_an_empty_body_is_an_empty_request(client: httpx.Client, mesh: Mesh) -> None:
    assert client.post("/pay").status_code == 201
    assert mesh.payments.requests[-1].ByteSize() == 0


def test_a_body_where_none_belongs_is_refused(client: httpx.Client) -> None:
    refused(client.request("GET", "/payments", content=b"{}"), 400, "BODY_MALFORMED", None)


@pytest.mark.parametrize("key", ["payment_id", "paymentId", "payment%5Fid", "%70aymentId"])
def test_a_query_parameter_never_replaces_what_the_path_says(
    client: httpx.Client, key: str
) -> None:
    name = key.replace("%5F", "_").replace("%70", "p")
    for query in (f"{key}=pay_other", key, f"&{key}=x"):
        answer = client.get(f"/payments/{PAYMENT_ID}?{query}")
        refused(answer, 400, "FIELD_INVALID", name)


@pytest.mark.parametrize("key", ["payment_id", "paymentId"])
def test_a_body_never_replaces_what_the_path_says(
    client: httpx.Client, mesh: Mesh, key: str
) -> None:
    before = len(mesh.payments.requests)
    refused(client.post(REFUND, json={key: "pay_other"}), 400, "BODY_MALFORMED", "paymentId")
    assert len(mesh.payments.requests) == before


def test_a_query_parameter_never_replaces_what_the_body_says(client: httpx.Client) -> None:
    answer = client.post("/pay?amount.minor_units=1", json={})
    refused(answer, 400, "FIELD_INVALID", "amount.minor_units")


def test_unknown_and_repeated_query_parameters_are_refused(client: httpx.Client) -> None:
    refused(client.get("/payments?limit=5"), 400, "FIELD_INVALID", "limit")
    answer = client.get("/payments?page_size=1&pageSize=2")
    refused(answer, 400, "FIELD_INVALID", "pageSize")
    refused(client.get("/payments?pageSize=x"), 400, "FIELD_INVALID", "pageSize")


def test_query_parameters_are_taken_by_both_their_names(client: httpx.Client) -> None:
    for query in (
        "pageSize=7&pageToken=a%26b&status=STATUS_FAILED",
        "page_size=7&page_token=a%26b&status=9",
    ):
        assert client.get(f"/payments?{query}").json()["nextPageToken"] == "7/a&b/9"


@pytest.mark.parametrize("content_type", ["application/grpcx", "text/plain", "application/x", ""])
def test_the_content_type_opens_no_way_around(
    client: httpx.Client, mesh: Mesh, content_type: str
) -> None:
    before = mesh.payments.calls
    body = json.dumps({"captureMethd": 1})
    answer = client.post("/pay", content=body, headers={"content-type": content_type})
    refused(answer, 400, "BODY_MALFORMED", "captureMethd")
    assert mesh.payments.calls == before


def test_grpc_on_a_rest_path_never_reaches_the_service(client: httpx.Client, mesh: Mesh) -> None:
    before = mesh.payments.calls
    for body in (b'{"captureMethd": 1}', b"{}", b"\0\0\0\0\0"):
        answer = client.post("/pay", content=body, headers={"content-type": "application/grpc"})
        assert answer.headers["grpc-status"] != "0"
    assert mesh.payments.calls == before


def test_json_on_a_grpc_path_is_no_route(client: httpx.Client, mesh: Mesh) -> None:
    before = mesh.payments.calls
    for content_type in ("application/json", "application/grpcx"):
        answer = client.post(
            "/smartpay.payments.v1.PaymentsService/CreatePayment",
            content=b"{}",
            headers={"content-type": content_type},
        )
        refused(answer, 404, "ROUTE_UNKNOWN", None)
    assert mesh.payments.calls == before


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/nope"),
        ("GET", "/"),
        ("GET", "/payments/"),
        ("GET", "/payments/a/b"),
        ("POST", f"/payments/{PAYMENT_ID}:nope"),
        ("POST", "/v2/pay"),
        ("HEAD", "/nope"),
    ],
)
def test_an_unknown_path_is_no_route(client: httpx.Client, verb: str, path: str) -> None:
    answer = client.request(verb, path)
    assert "allow" not in answer.headers
    if verb == "HEAD":
        assert (answer.status_code, answer.content) == (404, b"")
    else:
        refused(answer, 404, "ROUTE_UNKNOWN", None)


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("GET", "/pay", "POST"),
        ("PUT", "/v1/pay", "POST"),
        ("OPTIONS", "/pay", "POST"),
        ("DELETE", f"/payments/{PAYMENT_ID}", "GET"),
        ("POST", f"/payments/{PAYMENT_ID}?paymentId=x", "GET"),
        ("GET", REFUND, "POST"),
        ("PATCH", "/payments", "GET"),
    ],
)
def test_a_verb_a_path_does_not_take_is_refused_with_those_it_takes(
    client: httpx.Client, mesh: Mesh, verb: str, path: str, allowed: str
) -> None:
    before = mesh.payments.calls
    answer = client.request(verb, path)
    refused(answer, 405, "ROUTE_UNKNOWN", None)
    assert answer.headers["allow"] == allowed
    assert answer.json()["remedy"] == f"Use {allowed}."
    assert mesh.payments.calls == before


def test_both_addresses_of_a_route_work(client: httpx.Client) -> None:
    for prefix in ("", "/v1"):
        assert client.get(f"{prefix}/payments/{PAYMENT_ID}").json()["paymentId"] == PAYMENT_ID
        assert client.post(f"{prefix}{REFUND}", json={}).json()["paymentId"] == PAYMENT_ID


def test_a_body_of_the_largest_size_is_taken_and_one_byte_more_refused(
    client: httpx.Client, mesh: Mesh
) -> None:
    frame = len(json.dumps({"description": ""}))
    for size, status in ((BODY_BYTES, 201), (BODY_BYTES + 1, 413), (2_000_000, 413)):
        body = json.dumps({"description": "x" * (size - frame)}).encode()
        assert len(body) == size
        answer = client.post("/pay", content=body)
        assert (size, answer.status_code) == (size, status)
    refused(answer, 413, "BODY_TOO_LARGE", None)


@pytest.mark.parametrize(
    "path", [f"{REFUND[:9]}/%E9", "/payments?pageToken=%ff", "/payments?%c3=x"]
)
def test_text_in_the_address_that_is_no_utf_8_is_refused(client: httpx.Client, path: str) -> None:
    refused(client.get(path), 400, "FIELD_INVALID", None)


def test_text_in_the_address_reaches_the_service_decoded(client: httpx.Client) -> None:
    token = "é漢🙂\U0010ffff"
    answer = client.get("/payments", params={"pageToken": token})
    assert answer.json()["nextPageToken"] == f"0/{token}/"
    assert client.get("/payments/a%2Fb").json()["paymentId"] == "a/b"


def test_an_answer_to_head_has_no_body_that_the_next_answer_would_start_with(
    client: httpx.Client,
) -> None:
    for path, status in (("/payments", 405), ("/nope", 404), (f"/payments/{PAYMENT_ID}", 405)):
        assert client.head(path).status_code == status
        assert client.get("/payments").status_code == 200


def test_a_request_for_another_protocol_is_refused_at_once(client: httpx.Client) -> None:
    headers = {"connection": "upgrade", "upgrade": "websocket"}
    refused(client.get("/payments", headers=headers), 400, "FIELD_INVALID", "upgrade")


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"x-large": "y" * 40_000}, 431), ({f"x-{n}": "y" for n in range(80)}, 431)],
)
def test_headers_beyond_their_limits_are_refused(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    answer = client.get("/payments", headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (status, "FIELD_INVALID")
    assert "headers" in answer.json()["detail"]


GOOD_BODY = json.dumps(
    {
        "amount": {"minorUnits": "1999", "currencyCode": "USD"},
        "instrument": {"tokens": [{"processorAccountId": "pac_1", "token": "pm_1"}]},
        "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
        "offSession": False,
        "metadata": {"order": "7"},
        "description": 'a "b" é',
    }
)
SCRAPS = ["{", "}", "[", "]", '"', ":", ",", "\\", " ", "'", "0", "-", "e", ".", "null", "\n", "//"]
NAMES = ["amount", "minor_units", "minorUnits", "capture_method", "order", "tokens", "nope", "é"]


def spoilt(body: str, chance: random.Random) -> str:
    """Changes one to three places of a body, by scraps or by swapped names."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(body))
        match chance.randrange(4):
            case 0:
                body = body[:at] + chance.choice(SCRAPS) + body[at:]
            case 1:
                body = body[:at] + body[at + 1 :]
            case 2:
                body = body[:at] + chance.choice(SCRAPS) + body[at + 1 :]
            case _:
                names = re.findall(r'"(\w+)":', body) or ["amount"]
                body = body.replace(f'"{chance.choice(names)}"', f'"{chance.choice(NAMES)}"', 1)
    return body


def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a name twice")
    return dict(pairs)


def strictly(body: str) -> payments_pb2.CreatePaymentRequest | None:
    """Reads a body as Python's strict JSON and protobuf's own reader do; None when they refuse."""
    try:
        json.loads(body, object_pairs_hook=once, parse_constant=lambda name: int(name))
        return json_format.Parse(body, payments_pb2.CreatePaymentRequest())
    except (ValueError, json_format.ParseError):
        return None


def test_no_body_is_taken_that_strict_readers_refuse_or_read_otherwise(
    client: httpx.Client, mesh: Mesh
) -> None:
    chance = random.Random(7)
    taken = 0
    for _ in range(600):
        body = spoilt(GOOD_BODY, chance)
        answer = client.post("/pay", content=body.encode())
        if answer.status_code == 201:
            assert mesh.payments.requests[-1] == strictly(body), body
            taken += 1
        else:
            assert (body, answer.status_code) == (body, 400)
    # Both kinds must occur, or the test shows nothing.
    assert 10 < taken < 500


def test_a_script_that_fails_lets_nothing_through(mesh: Mesh) -> None:
    mesh.start(
        "edge-plaintext",
        "spoilt",
        change=lambda template: template.replace(
            "local function check_body(route, text)", "local function check_body(route, text) x()"
        ),
        CERTIFICATE_FOLDER=str(mesh.folder / "certs" / "edge"),
    )
    before = mesh.payments.calls
    url = f"http://127.0.0.1:{mesh.listen_ports['spoilt']}/pay"
    token = mesh.issuer.token("smartpay/payments.write")
    answer = httpx.post(url, json={}, headers={"authorization": f"Bearer {token}"})
    refused(answer, 500, "INTERNAL", None)
    assert mesh.payments.calls == before
