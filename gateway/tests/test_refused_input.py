"""Which requests are refused: by path, fields, content type, framing, size.

Each refusal is seen on real Envoys beside its two controls: `smartpay_gateway.testing.refusals`.
"""

from __future__ import annotations

import json
import re

import pytest

from smartpay_gateway.testing import PAYMENT_ID
from smartpay_gateway.testing.attacks import GET_PATH, Act, http1, native, rest
from smartpay_gateway.testing.lifts import (
    Document,
    at_edge,
    filter_of,
    listener_of,
    manager_of,
    script,
    without_filter,
)
from smartpay_gateway.testing.refusals import Places, Refusals, Row

OTHER = "pay_d1" + "9" * 24
REFUND = f"{GET_PATH}:refund"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
LARGE = json.dumps({"description": "x" * 70_000})


def acts_on(answer: object) -> str:
    """Finds the payment an answer is about; without strict input nobody unwraps it."""
    found = re.search(r"'paymentId': '(\w+)'", str(answer))
    return found[1] if found else "none"


def read(query: str) -> Act:
    return rest(path=f"{GET_PATH}{query}", saw=acts_on)


def refund(body: str) -> Act:
    return rest("POST", REFUND, content=body.encode(), saw=acts_on)


def pay(body: str, kind: str = "application/json", *, in_pieces: bool = False) -> Act:
    headers = {"content-type": kind}
    return rest("POST", "/pay", content=body.encode(), headers=headers, in_pieces=in_pieces)


def collisions_taken(document: Document) -> None:
    rules = filter_of(document, "edge", TRANSCODER)["requestValidationOptions"]
    del rules["rejectBindingBodyFieldCollisions"]


def any_query_taken(document: Document) -> None:
    settings = filter_of(document, "edge", TRANSCODER)
    del settings["requestValidationOptions"]["rejectUnknownQueryParameters"]
    settings["ignoreUnknownQueryParameters"] = True


def two_lengths_taken(document: Document) -> None:
    manager_of(document, "edge")["httpProtocolOptions"] = {"allowChunkedLength": True}


def more_header_bytes(document: Document) -> None:
    manager_of(document, "edge")["maxRequestHeadersKb"] = 64


def more_headers(document: Document) -> None:
    manager_of(document, "edge")["commonHttpProtocolOptions"]["maxHeadersCount"] = 128


def larger_buffer(document: Document) -> None:
    listener_of(document, "edge")["perConnectionBufferLimitBytes"] = 131_072


def larger_body(document: Document) -> None:
    filter_of(document, "edge", TRANSCODER)["maxRequestBodySize"] = 131_072


STRICT = at_edge("strict input", without_filter("edge", "smartpay.strict_input"))
COLLISIONS = at_edge("the transcoder on collisions", collisions_taken)
QUERY = at_edge("the transcoder on queries", any_query_taken)
BODY = (
    at_edge(
        "size in strict input",
        script("edge", "smartpay.strict_input", "BODY_BYTES = 65536", "BODY_BYTES = 131072"),
    ),
    at_edge("size in the transcoder", larger_body),
    at_edge("size of the buffer", larger_buffer),
)
HEADERS = at_edge("size of headers", more_header_bytes)
NUMBER = at_edge("number of headers", more_headers)

FIELDS = [
    *(
        Row(
            "path variable",
            f"by the query, as {name}",
            read(f"?{name}={OTHER}"),
            "400 FIELD_INVALID",
            read(""),
            (STRICT,),
            OTHER,
            PAYMENT_ID,
        )
        for name in ("payment_id", "paymentId", "payment%5Fid")
    ),
    Row(
        "path variable",
        "by the body",
        refund(f'{{"payment_id": "{OTHER}"}}'),
        "400 BODY_MALFORMED",
        refund("{}"),
        (STRICT, COLLISIONS),
        OTHER,
        PAYMENT_ID,
    ),
    # The transcoder alone would overlook that it is said twice, though the path wins.
    Row(
        "path variable",
        "by the body, as JSON spells it",
        refund(f'{{"paymentId": "{OTHER}"}}'),
        "400 BODY_MALFORMED",
        refund("{}"),
        (STRICT,),
        PAYMENT_ID,
    ),
    *(
        Row("unknown field", name, pay(bad), "400 BODY_MALFORMED", pay(good), (STRICT,), "201")
        for name, bad, good in (
            ("misspelt", '{"captureMethd": 1}', '{"captureMethod": 1}'),
            ("inside another", '{"amount": {"minorUnit": 1}}', '{"amount": {"minorUnits": 1}}'),
            ("given twice", '{"amount": {}, "amount": {}}', '{"amount": {}}'),
            ("in JSON that is none", "{'offSession': true,}", '{"offSession": true}'),
        )
    ),
    Row(
        "unknown field",
        "in the query",
        rest(path="/payments?limit=5"),
        "400 FIELD_INVALID",
        rest(path="/payments?pageSize=5"),
        (STRICT, QUERY),
        "200",
    ),
    Row(
        "unknown field",
        "twice in the query",
        rest(path="/payments?page_size=1&pageSize=2"),
        "400 FIELD_INVALID",
        rest(path="/payments?pageSize=2"),
        (STRICT,),
        "200",
    ),
    Row(
        "application/grpcx",
        "as a way around",
        pay('{"captureMethd": 1}', "application/grpcx"),
        "400 BODY_MALFORMED",
        pay('{"captureMethod": 1}', "application/grpcx"),
        (STRICT,),
        "201",
    ),
]
SIZES = [
    *(
        Row(
            "content-length and transfer-encoding",
            f"{framing.split(':')[0]} first",
            http1(framing),
            "400, closed",
            http1("transfer-encoding: chunked"),
            (at_edge("one length alone", two_lengths_taken),),
            "201",
        )
        for framing in (
            "content-length: 5\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\ncontent-length: 5",
        )
    ),
    Row(
        "oversized",
        "headers",
        rest(headers={"x-large": "x" * 33 * 1024}),
        "431 FIELD_INVALID",
        rest(headers={"x-large": "x" * 30 * 1024}),
        (HEADERS,),
        "200",
    ),
    Row(
        "oversized",
        "headers of native gRPC",
        native(headers={"x-large": "x" * 33 * 1024}),
        "closed",
        native(headers={"x-large": "x" * 30 * 1024}),
        (HEADERS,),
        "OK",
    ),
    Row(
        "oversized",
        "number of headers",
        rest(headers={f"x-{number}": "x" for number in range(64)}),
        "431 FIELD_INVALID",
        rest(headers={f"x-{number}": "x" for number in range(50)}),
        (NUMBER,),
        "200",
    ),
    *(
        Row(
            "oversized",
            f"body{', of no stated length' * in_pieces}",
            pay(LARGE, in_pieces=in_pieces),
            "413 BODY_TOO_LARGE",
            pay(LARGE[:60_000] + '"}', in_pieces=in_pieces),
            BODY,
            "201",
        )
        for in_pieces in (False, True)
    ),
]


class TestInput(Refusals):
    rows = (*FIELDS, *SIZES)
    defences = frozenset(
        {
            "path variable",
            "unknown field",
            "application/grpcx",
            "content-length and transfer-encoding",
            "oversized",
        }
    )


# No setting of Envoy lets these pass, so the one control is the honest call.


@pytest.mark.parametrize(
    "framing",
    [
        "content-length: 5\ncontent-length: 6",
        "content-length: 5\ncontent-length: 5",
        "content-length: 5, 5",
        "content-length: +5",
        "content-length: 0x5",
        "content-length : 5",
        "transfer-encoding : chunked",
        "transfer-encoding:\x0bchunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked\ntransfer-encoding: identity",
        "transfer-encoding: chunked\ntransfer-encoding: chunked",
        "user-agent: a\0b",
    ],
)
def test_a_request_two_readers_could_read_in_two_ways_is_refused(
    places: Places, framing: str
) -> None:
    assert http1(framing)(places.own) in ("400, closed", "501, closed")
    assert http1("transfer-encoding: chunked")(places.own) == "201"


@pytest.mark.parametrize(
    "said",
    [
        {"content-length": "3"},
        {"content-length": "300"},
        {"transfer-encoding": "chunked"},
        {"connection": "close"},
        {"te": "gzip"},
        {"user-agent": "a\r\nx-jwt-payload: e30"},
        {"user-agent": "a\nb"},
        {"user-agent": "a\0b"},
        {"X-Jwt-Payload": "e30"},
        {"x jwt": "e30"},
        {":evil": "x"},
    ],
    ids=str,
)
def test_http_2_that_could_be_read_in_another_way_further_on_is_refused(
    places: Places, said: dict[str, str]
) -> None:
    assert native(headers=said)(places.own) == "closed"
    assert native(headers={"user-agent": "a"})(places.own) == "OK"
