"""One running mesh per test module, and what tables of refusals need."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from smartpay.assistant.v1 import assistant_pb2_grpc
from smartpay.payments.v1 import payments_pb2_grpc
from smartpay_gateway.testing import Mesh, new_mesh
from smartpay_gateway.testing.refusals import Places, Refusals, in_order, one_left

with warnings.catch_warnings():
    # envoy-data-plane 2.2.0 is written for an older pydantic; its import alone warns.
    warnings.simplefilter("ignore", DeprecationWarning)
    import smartpay_gateway.generate  # noqa: F401


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """Runs edge, payments, assistant and rewards, each service behind its sidecar."""
    mesh = new_mesh()
    try:
        mesh.serve(
            "payments", payments_pb2_grpc.add_PaymentsServiceServicer_to_server, mesh.payments
        )
        mesh.serve(
            "assistant", assistant_pb2_grpc.add_AssistantServiceServicer_to_server, mesh.assistant
        )
        for service in ("payments", "assistant", "rewards"):
            mesh.start(f"sidecar-{service}", service)
        mesh.start("edge", "edge")
        yield mesh
    finally:
        mesh.stop()


@pytest.fixture(scope="module")
def places(mesh: Mesh) -> Iterator[Places]:
    """Starts, beside the mesh, what the rows of a table of refusals switch off."""
    places = Places(mesh)
    try:
        yield places
    finally:
        places.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives a table's tests its rows."""
    if metafunc.cls is None or not issubclass(metafunc.cls, Refusals):
        return
    rows = metafunc.cls.rows
    if "kept" in metafunc.fixturenames:
        pairs = one_left(rows)
        ids = [f"{row}, {kept.defence} is left" for row, kept in pairs]
        metafunc.parametrize(("row", "kept"), pairs, ids=ids)
    elif "row" in metafunc.fixturenames:
        metafunc.parametrize("row", in_order(rows), ids=str)
