"""Files of exports come through the edge piece by piece, as they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import grpc
import httpx
import pytest
from google.api import httpbody_pb2

from smartpay.payments.v1 import exports_pb2, exports_pb2_grpc, payments_pb2_grpc
from smartpay_gateway.testing import Mesh, new_mesh
from smartpay_gateway.testing.services import Payments

SCOPES = "smartpay/payments.read"
CSV = "/exports/payments?format=EXPORT_FORMAT_CSV"
LINES = "/v1/exports/payments?format=EXPORT_FORMAT_JSONL&status=STATUS_FAILED&status=STATUS_BLOCKED"
PIECE = b"pay_1,1999\r\n" * 20_000
"""Some hundred kilobytes, as real pieces are."""


@dataclass
class Exports(exports_pb2_grpc.ExportsServiceServicer):
    """Sends many pieces; waits before the last one, or breaks off in their midst."""

    requests: list[exports_pb2.ExportPaymentsRequest] = field(default_factory=list)
    go_on: threading.Event = field(default_factory=threading.Event)
    pieces: int = 3

    def ExportPayments(
        self, request: exports_pb2.ExportPaymentsRequest, context: grpc.ServicerContext
    ) -> Iterator[httpbody_pb2.HttpBody]:
        self.requests.append(request)
        if request.customer_id == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        csv = request.format == exports_pb2.EXPORT_FORMAT_CSV
        kind = "text/csv; charset=utf-8" if csv else "application/x-ndjson"
        context.send_initial_metadata((("content-disposition", 'attachment; filename="a.csv"'),))
        for _ in range(self.pieces):
            yield httpbody_pb2.HttpBody(content_type=kind, data=PIECE if csv else b'{"a":1}\n')
        if request.customer_id == "break off":
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self.go_on.wait(10)
        yield httpbody_pb2.HttpBody(content_type=kind, data=b"end,3\r\n")

    def ExportLedgerEntries(
        self, request: exports_pb2.ExportLedgerEntriesRequest, context: grpc.ServicerContext
    ) -> Iterator[httpbody_pb2.HttpBody]:
        yield httpbody_pb2.HttpBody(content_type="text/csv; charset=utf-8", data=b"end,0\r\n")


@pytest.fixture(scope="module")
def exports() -> Exports:
    return Exports()


@pytest.fixture(scope="module")
def mesh(exports: Exports) -> Iterator[Mesh]:
    """Runs edge and payments; payments also exports."""
    mesh = new_mesh()

    def add(servicer: Payments, server: grpc.Server) -> None:
        payments_pb2_grpc.add_PaymentsServiceServicer_to_server(servicer, server)
        exports_pb2_grpc.add_ExportsServiceServicer_to_server(exports, server)

    try:
        mesh.serve("payments", add, mesh.payments)
        mesh.start("sidecar-payments", "payments")
        mesh.start("edge", "edge")
        yield mesh
    finally:
        mesh.stop()


@pytest.fixture
def client(mesh: Mesh, exports: Exports) -> Iterator[httpx.Client]:
    exports.go_on.set()
    exports.requests.clear()
    exports.pieces = 3
    with mesh.rest(authorization=f"Bearer {mesh.issuer.token(SCOPES)}") as client:
        yield client


def test_a_file_arrives_byte_for_byte_under_its_own_content_type(client: httpx.Client) -> None:
    answer = client.get(CSV)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    assert answer.headers["content-disposition"] == 'attachment; filename="a.csv"'
    assert answer.content == PIECE * 3 + b"end,3\r\n"


@pytest.mark.parametrize("accept", ["*/*", "application/x-ndjson", "text/event-stream"])
def test_lines_of_json_arrive_as_they_were_written_whatever_is_accepted(
    client: httpx.Client, exports: Exports, accept: str
) -> None:
    answer = client.get(LINES, headers={"accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.content == b'{"a":1}\n' * 3 + b"end,3\r\n"
    (asked,) = exports.requests
    assert len(asked.status) == 2, "a filter may be given several times"


def test_the_ledger_is_a_file_too(client: httpx.Client) -> None:
    assert client.get("/exports/ledger?format=EXPORT_FORMAT_CSV").content == b"end,0\r\n"


def test_a_piece_arrives_before_the_next_one_is_made(
    client: httpx.Client, exports: Exports
) -> None:
    exports.go_on.clear()
    with client.stream("GET", CSV) as answer:
        got = b""
        for piece in answer.iter_raw():
            got += piece
            if len(got) == 3 * len(PIECE):
                exports.go_on.set()
    assert got.endswith(b"end,3\r\n")


def test_a_file_larger_than_any_message_passes(client: httpx.Client, exports: Exports) -> None:
    exports.pieces = 100
    assert len(client.get(CSV).content) == 100 * len(PIECE) + 7


def test_a_file_that_breaks_off_has_no_end(client: httpx.Client) -> None:
    try:
        content = client.get(f"{CSV}&customerId=break%20off").content
    except httpx.RemoteProtocolError:
        return
    assert b"end" not in content


def test_what_is_refused_before_the_first_piece_is_a_problem(client: httpx.Client) -> None:
    answer = client.get(f"{CSV}&customerId=refuse")
    assert (answer.status_code, answer.headers["content-type"]) == (
        400,
        "application/problem+json",
    )


@pytest.mark.parametrize("more", ["&colour=red", "&after=a&after=b", "&page_size=5"])
def test_parameters_that_the_contract_lacks_are_refused(client: httpx.Client, more: str) -> None:
    answer = client.get(CSV + more)
    assert (answer.status_code, answer.json()["reason"]) == (400, "FIELD_INVALID")


def test_a_token_of_another_scope_exports_nothing(mesh: Mesh, exports: Exports) -> None:
    exports.requests.clear()
    token = mesh.issuer.token("smartpay/payments.write")
    with mesh.rest(authorization=f"Bearer {token}") as client:
        assert client.get(CSV).status_code == 403
    assert exports.requests == []
