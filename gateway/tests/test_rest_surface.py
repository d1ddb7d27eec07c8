"""What the edge offers to REST beyond the calls themselves: pages, browsers, formats, deadlines."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib
import json
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import httpx
import pytest

from smartpay_gateway.browsers import READ_BY_PAGES
from smartpay_gateway.pages import CONTENT_SECURITY_POLICY, DOCS_PAGE, SCRIPT
from smartpay_gateway.templates import PUBLIC, load
from smartpay_gateway.testing import PAYMENT_ID, Envoy, Mesh

SCOPES = "smartpay/payments.write smartpay/payments.read smartpay/payments.refund smartpay/chat"
# dist/browser/standalone.js of @scalar/api-reference 1.72.1, as published.
SCALAR_SHA256 = "bf091006bdc3af6067af77c2f534812e3e633e94a94e87138069f570f33b762c"
OURS = "http://localhost:5173"
STRANGER = "http://stranger.example"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,idempotency-key",
}


@pytest.fixture(scope="module")
def client(mesh: Mesh) -> Iterator[httpx.Client]:
    with mesh.rest(authorization=f"Bearer {mesh.issuer.token(SCOPES)}") as client:
        yield client


@pytest.fixture(scope="module")
def anybody(mesh: Mesh) -> Iterator[httpx.Client]:
    with mesh.rest() as client:
        yield client


# What anybody may read


def test_the_description_needs_no_token_and_is_the_committed_one(anybody: httpx.Client) -> None:
    answer = anybody.get("/openapi.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.text == (PUBLIC / "openapi.json").read_text()
    assert answer.headers["cache-control"] == "no-cache"


def test_the_description_travels_in_gzip_to_whom_takes_it(anybody: httpx.Client) -> None:
    squeezed = anybody.get("/openapi.json", headers={"accept-encoding": "gzip"})
    plain = anybody.get("/openapi.json", headers={"accept-encoding": "identity"})
    assert squeezed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert squeezed.num_bytes_downloaded < plain.num_bytes_downloaded / 3
    assert squeezed.text == plain.text


def test_a_reader_who_has_the_description_is_not_sent_it_again(anybody: httpx.Client) -> None:
    etag = anybody.get("/openapi.json").headers["etag"]
    answer = anybody.get("/openapi.json", headers={"if-none-match": f'"other", {etag}'})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert "location" not in answer.headers
    old = anybody.get("/openapi.json", headers={"if-none-match": 'W/"old"'})
    assert old.status_code == 200


def test_only_the_pages_themselves_need_no_token(anybody: httpx.Client) -> None:
    for path in ("/docs/SCALAR-LICENSE", "/docs/index.html", "/docs/../pyproject.toml", "/docsx"):
        assert anybody.get(path).status_code == 401
    assert anybody.post("/openapi.json", json={}).status_code == 401
    assert anybody.get("/docs?page=../../etc/passwd").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
def test_the_page_is_served_under_a_strict_policy(anybody: httpx.Client, path: str) -> None:
    answer = anybody.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.text == (DOCS_PAGE / "index.html").read_text()


def test_the_policy_lets_nothing_leave_the_origin() -> None:
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources <= {"'none'", "'self'", "'unsafe-inline'", "data:", "blob:"}
    assert rules["script-src"] == rules["connect-src"] == "'self'"


def test_the_page_names_only_addresses_of_its_own_origin() -> None:
    html = (DOCS_PAGE / "index.html").read_text()
    named = re.findall(r'(?:src|href|data-url)="([^"]*)"', html)
    assert sorted(named) == ["/docs/" + SCRIPT, "/openapi.json", "data:,"]
    assert "://" not in html
    (settings,) = re.findall("data-configuration='([^']*)'", html)
    chosen = json.loads(settings)
    assert (chosen["withDefaultFonts"], chosen["telemetry"]) == (False, False)
    assert chosen["agent"] == chosen["mcp"] == {"disabled": True}


def test_the_script_is_the_published_one_and_kept_by_browsers(anybody: httpx.Client) -> None:
    answer = anybody.get(f"/docs/{SCRIPT}")
    assert hashlib.sha256(answer.content).hexdigest() == SCALAR_SHA256
    vendored = (DOCS_PAGE / f"{SCRIPT}.gz").read_bytes()
    assert hashlib.sha256(gzip.decompress(vendored)).hexdigest() == SCALAR_SHA256
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in answer.headers["cache-control"]
    assert "MIT License" in (DOCS_PAGE / "SCALAR-LICENSE").read_text()


# Other origins


def allowed(answer: httpx.Response) -> str | None:
    origin: str | None = answer.headers.get("access-control-allow-origin")
    return origin


def test_a_preflight_needs_no_token(anybody: httpx.Client) -> None:
    answer = anybody.options("/pay", headers={"origin": OURS, **PREFLIGHT})
    assert (answer.status_code, allowed(answer)) == (200, OURS)
    assert "POST" in answer.headers["access-control-allow-methods"]
    named = answer.headers["access-control-allow-headers"]
    assert {"authorization", "idempotency-key"} <= set(named.split(", "))
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", [STRANGER, "http://localhost:80.evil", "https://localhost:1", "null", "none"]
)
def test_other_origins_are_not_allowed(
    anybody: httpx.Client, client: httpx.Client, origin: str
) -> None:
    preflight = anybody.options("/pay", headers={"origin": origin, **PREFLIGHT})
    answer = client.get("/payments", headers={"origin": origin})
    assert (allowed(preflight), allowed(answer)) == (None, None)


def test_answers_and_problems_can_be_read_from_an_allowed_origin(client: httpx.Client) -> None:
    good = client.post("/pay", json={"merchantOrderId": "201"}, headers={"origin": OURS})
    bad = client.get("/nope", headers={"origin": OURS})
    assert (good.status_code, bad.status_code) == (201, 404)
    for answer in (good, bad):
        assert allowed(answer) == OURS
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert exposed == set(READ_BY_PAGES)
    assert {"location", "etag", "idempotent-replayed", "x-request-id"} <= set(READ_BY_PAGES)


def test_origins_are_those_of_the_environment(mesh: Mesh) -> None:
    console = "https://console.example.com"
    escaped = console.replace(".", r"\.")
    with mesh.plain_edge(BROWSER_ORIGINS=escaped) as edge, edge.rest() as somebody:
        told = {
            origin: allowed(somebody.options("/pay", headers={"origin": origin, **PREFLIGHT}))
            for origin in (console, OURS, "https://consolexexample.com")
        }
    assert told == {console: console, OURS: None, "https://consolexexample.com": None}


def test_no_origin_is_allowed_outside_development_unless_named(mesh: Mesh) -> None:
    with mesh.plain_edge(BROWSER_ORIGINS="none") as edge, edge.rest() as somebody:
        for origin in (OURS, "null"):
            answer = somebody.options("/pay", headers={"origin": origin, **PREFLIGHT})
            assert allowed(answer) is None


# Formats


@pytest.mark.parametrize("accept", ["application/x-ndjson", "Application/X-NDJSON; q=1"])
def test_a_stream_comes_as_lines_when_lines_alone_are_accepted(
    client: httpx.Client, accept: str
) -> None:
    for path in ("/chat", "/v1/chat"):
        answer = client.post(path, json={"message": "hi"}, headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
        pieces = [json.loads(line) for line in answer.text.splitlines()]
        assert [next(iter(piece)) for piece in pieces] == ["token", "token", "done"]


@pytest.mark.parametrize("accept", ["*/*", "text/event-stream", "application/x-ndjson, */*"])
def test_a_stream_comes_as_events_otherwise(client: httpx.Client, accept: str) -> None:
    answer = client.post("/chat", json={"message": "hi"}, headers={"accept": accept})
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text.startswith("data: ")


def test_a_line_arrives_before_the_next_is_made(mesh: Mesh, client: httpx.Client) -> None:
    mesh.assistant.go_on.clear()
    headers = {"accept": "application/x-ndjson", "accept-encoding": "gzip"}
    with client.stream("POST", "/chat", json={"message": "wait"}, headers=headers) as answer:
        lines = answer.iter_lines()
        assert "two " in next(lines)
        mesh.assistant.go_on.set()
        assert "done" in list(lines)[-1]
        assert "content-encoding" not in answer.headers


def test_lines_are_judged_like_events(client: httpx.Client) -> None:
    lines = {"accept": "application/x-ndjson"}
    refused = client.post("/chat", json={"message": "refuse:UNAVAILABLE:X"}, headers=lines)
    assert (refused.status_code, refused.headers["content-type"]) == (
        503,
        "application/problem+json",
    )
    unknown = client.post("/chat", json={"massage": "hi"}, headers=lines)
    assert (unknown.status_code, unknown.json()["field"]) == (400, "massage")
    whole = client.get("/payments", headers=lines)
    assert whole.headers["content-type"] == "application/json"


def test_large_answers_are_compressed_and_small_ones_are_not(client: httpx.Client) -> None:
    large = client.post("/pay", json={"merchantOrderId": "large:20000"})
    small = client.post("/pay", json={"merchantOrderId": "201"})
    assert large.headers["content-encoding"] == "gzip"
    # Two encodings of one thing are not the same bytes.
    assert large.headers["etag"] == 'W/"7"'
    assert len(large.json()["description"]) == 20_000
    assert "content-encoding" not in small.headers
    assert small.headers["etag"] == '"7"'
    plain = client.post(
        "/pay",
        json={"merchantOrderId": "large:20000"},
        headers={"accept-encoding": "identity"},
    )
    assert "content-encoding" not in plain.headers


def test_events_are_never_compressed(client: httpx.Client) -> None:
    answer = client.post("/chat", json={"message": "hi"}, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers


def test_header_names_mean_the_same_in_any_case(client: httpx.Client) -> None:
    headers = {"IDEMPOTENCY-KEY": "k-1", "ACCEPT": "APPLICATION/X-NDJSON"}
    answer = client.post("/pay", json={}, headers=headers)
    assert answer.json()["metadata"]["idempotency-key"] == "k-1"
    raw = {name for name, _ in answer.headers.raw}
    assert {b"location", b"etag", b"idempotent-replayed"} <= raw


def over_http2(mesh: Mesh, path: str, body: bytes) -> tuple[set[bytes], set[bytes]]:
    """Calls by HTTP/2 and lists the names of the answer's headers and of its trailers."""
    context = ssl.create_default_context(cafile=str(mesh.ca))
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection(("127.0.0.1", mesh.edge_port), timeout=10)
    headers: set[bytes] = set()
    trailers: set[bytes] = set()
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as wire:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        connection.initiate_connection()
        connection.send_headers(
            1,
            [
                (":method", "POST"),
                (":path", path),
                (":scheme", "https"),
                (":authority", "localhost"),
                ("authorization", f"Bearer {mesh.issuer.token(SCOPES)}"),
                ("content-type", "application/json"),
            ],
        )
        connection.send_data(1, body, end_stream=True)
        wire.sendall(connection.data_to_send())
        ended = False
        while not ended and (data := wire.recv(65536)):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    headers |= {bytes(name) for name, _ in event.headers or ()}
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers |= {bytes(name) for name, _ in event.headers or ()}
                ended = ended or isinstance(event, h2.events.StreamEnded)
            wire.sendall(connection.data_to_send())
    return headers, trailers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/pay", b'{"merchantOrderId": "201"}'),
        ("/pay", b'{"merchantOrderId": "refuse:ABORTED:X"}'),
        ("/chat", b'{"message": "hi"}'),
    ],
)
def test_rest_hears_nothing_of_grpc(mesh: Mesh, path: str, body: bytes) -> None:
    headers, trailers = over_http2(mesh, path, body)
    assert b":status" in headers
    assert not {name for name in headers | trailers if name.startswith(b"grpc")}


# Deadlines and problems


@contextlib.contextmanager
def hurried(mesh: Mesh) -> Iterator[Envoy]:
    """Runs an edge whose deadline for reading a payment is shorter than the slow service."""
    five, short = '"5s"', '"0.2s"'
    assert five in load("edge-plaintext")
    with mesh.plain_edge((five, short)) as edge:
        yield edge


def test_a_caller_who_names_no_deadline_has_the_methods(mesh: Mesh, client: httpx.Client) -> None:
    token = {"authorization": f"Bearer {mesh.issuer.token(SCOPES)}"}
    with hurried(mesh) as edge, edge.rest(**token) as somebody:
        late = somebody.get("/payments/slow")
        longer = somebody.get("/payments/slow", headers={"grpc-timeout": "5S"})
    assert (late.status_code, late.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
    # Nobody can ask for more than the method has.
    assert longer.status_code == 504
    assert client.get("/payments/slow").status_code == 200


def test_every_problem_names_its_trace(client: httpx.Client, anybody: httpx.Client) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    problems = [
        anybody.get("/payments", headers=headers),
        client.get("/nope", headers=headers),
        client.post("/pay", json={"unknown": 1}, headers=headers),
        client.post("/pay", json={"merchantOrderId": "refuse:ABORTED:X"}, headers=headers),
    ]
    statuses = [(p.status_code, p.json()["traceId"]) for p in problems]
    assert statuses == [(status, trace) for status in (401, 404, 400, 409)]


def test_a_problem_of_a_call_without_a_trace_has_the_request_s_id_as_one(
    client: httpx.Client, anybody: httpx.Client
) -> None:
    problems = [
        anybody.get("/payments"),
        anybody.get("/payments", headers={"traceparent": "00-broken|deadbeef|-01"}),
        client.get("/nope"),
        client.post("/pay", json={"merchantOrderId": "refuse:ABORTED:X"}),
    ]
    for problem in problems:
        assert problem.json()["traceId"] == problem.headers["x-request-id"].replace("-", "")


def test_every_problem_names_its_trace_where_spans_are_collected(mesh: Mesh) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    token = {"authorization": f"Bearer {mesh.issuer.token('smartpay/payments.write')}"}
    with mesh.plain_edge(TRACE_PERCENT="100") as edge, edge.rest(**token) as client:
        problems = [
            client.get("/payments", headers={"authorization": "Bearer x", **headers}),
            client.get("/nope", headers=headers),
            client.post("/pay", json={"merchantOrderId": "refuse:ABORTED:X"}, headers=headers),
        ]
        begun = client.get("/nope").json()
    assert [(p.status_code, p.json()["traceId"]) for p in problems] == [
        (status, trace) for status in (401, 404, 409)
    ]
    assert re.fullmatch("[0-9a-f]{32}", begun["traceId"])
    assert begun["traceId"] not in (trace, begun["requestId"].replace("-", ""))


# The answers and their description


def described_answer(path: str, verb: str, status: str) -> dict[str, Any]:
    document = json.loads((PUBLIC / "openapi.json").read_text())
    answer = document["paths"][path][verb]["responses"][status]
    if "$ref" in answer:
        answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
    (content,) = answer["content"].values()
    return {**content["schema"], "components": document["components"]}


@pytest.mark.parametrize(
    ("path", "verb", "status", "url", "body"),
    [
        ("/pay", "post", "201", "/pay", {"amount": {"minorUnits": 5, "currencyCode": "USD"}}),
        ("/payments/{paymentId}", "get", "200", f"/payments/{PAYMENT_ID}", None),
        ("/payments", "get", "200", "/payments", None),
        ("/chat:ask", "post", "200", "/chat:ask", {"message": "hi"}),
        ("/pay", "post", "400", "/pay", {"merchantOrderId": "refuse:INVALID_ARGUMENT:X:a.b"}),
        ("/pay", "post", "409", "/pay", {"merchantOrderId": "refuse:ABORTED:X"}),
    ],
)
def test_answers_satisfy_their_description(
    client: httpx.Client, path: str, verb: str, status: str, url: str, body: object
) -> None:
    answer = client.request(verb.upper(), url, json=body) if body else client.get(url)
    assert answer.status_code == int(status)
    schema = described_answer(path, verb, status)
    jsonschema = importlib.import_module("jsonschema")
    jsonschema.validate(answer.json(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)


def test_no_script_stumbled_here(mesh: Mesh, client: httpx.Client) -> None:
    assert client.get("/nope").status_code == 404
    assert "script log" not in (mesh.folder / "edge.log").read_text()
