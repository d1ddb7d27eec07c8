"""What only the mesh may say is not believed of anybody else, at each hop it could be said."""

from __future__ import annotations

import json

import grpc
import httpx
import pytest

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay_gateway.edge import OUTSIDERS_MAY_NOT_SEND
from smartpay_gateway.testing import PAYMENT_ID, Mesh

GET = f"/payments/{PAYMENT_ID}"
REQUEST = payments_pb2.GetPaymentRequest(payment_id=PAYMENT_ID)
FORGED = "Zm9yZ2Vk"  # base64, so that it may stand in a -bin header, too
SPOOFED = (*OUTSIDERS_MAY_NOT_SEND, "x-envoy-original-path", "x-envoy-max-retries")
# The removal at the entrance, and the list of what is forwarded, which knows none of these.
LIST_LIFTED = ("headers:remove(name)", "local kept = name")


def removal_lifted(header: str) -> tuple[str, str]:
    return f'"remove": "{header}"', '"remove": "x-nothing"'


def bearer(mesh: Mesh) -> dict[str, str]:
    return {"authorization": f"Bearer {mesh.issuer.token('smartpay/payments.read')}"}


def spoofing(header: str) -> dict[str, str]:
    return {header: FORGED}


def said_to_service(client: httpx.Client, header: str) -> str:
    return str(client.get(GET, headers=spoofing(header)).json()["metadata"])


@pytest.mark.parametrize("header", SPOOFED)
def test_the_edge_passes_on_nothing_only_we_may_say(mesh: Mesh, header: str) -> None:
    with mesh.rest(**bearer(mesh)) as client:
        assert FORGED not in said_to_service(client, header)
    with mesh.native() as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        value = b"forged" if header.endswith("-bin") else FORGED
        metadata = (*bearer(mesh).items(), (header, value))
        seen = str(stub.GetPayment(REQUEST, metadata=metadata, timeout=10).payment.metadata)
    assert FORGED not in seen
    assert b"forged".hex() not in seen


@pytest.mark.parametrize("header", ["x-http-status", "x-local-reply"])
def test_either_defence_is_enough_and_without_both_a_header_passes(mesh: Mesh, header: str) -> None:
    for lifted, passes in (
        ([removal_lifted(header)], False),
        ([LIST_LIFTED], False),
        ([removal_lifted(header), LIST_LIFTED], True),
    ):
        with mesh.plain_edge(*lifted) as edge, edge.rest(**bearer(mesh)) as client:
            assert (FORGED in said_to_service(client, header)) is passes


def test_a_request_id_of_the_callers_passes_once_its_removal_is_lifted(mesh: Mesh) -> None:
    lifted = removal_lifted("x-request-id")
    with mesh.plain_edge(lifted) as edge, edge.rest(**bearer(mesh)) as client:
        assert FORGED in said_to_service(client, "x-request-id")


def test_a_context_that_slips_through_the_edge_is_refused_by_the_sidecar(mesh: Mesh) -> None:
    lifted = (removal_lifted("smartpay-context-bin"), LIST_LIFTED)
    with mesh.plain_edge(*lifted) as edge, edge.rest(**bearer(mesh)) as client:
        assert client.get(GET, headers=spoofing("smartpay-context-bin")).status_code == 403
        assert client.get(GET).status_code == 200


@pytest.mark.parametrize("header", ["x-jwt-payload", "x-forwarded-client-cert"])
def test_verified_values_replace_forged_ones_even_without_both(mesh: Mesh, header: str) -> None:
    lifted = (removal_lifted(header), LIST_LIFTED)
    with mesh.plain_edge(*lifted) as edge, edge.rest(**bearer(mesh)) as client:
        assert FORGED not in said_to_service(client, header)


def through_egress(mesh: Mesh, header: str) -> grpc.StatusCode:
    path = f"unix:{mesh.folder / 'rewards.egress'}"
    with grpc.insecure_channel(path, [("grpc.default_authority", "egress")]) as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        try:
            seen = stub.GetPayment(REQUEST, metadata=((header, FORGED),), timeout=10)
        except grpc.RpcError as refusal:
            return refusal.code()
    assert FORGED not in str(seen.payment.metadata)
    return grpc.StatusCode.OK


@pytest.mark.parametrize("header", ["x-jwt-payload", "authorization", "x-forwarded-client-cert"])
def test_a_services_own_sidecar_lets_no_forged_user_out(mesh: Mesh, header: str) -> None:
    assert through_egress(mesh, header) is grpc.StatusCode.OK


def test_a_forged_user_let_out_is_refused_where_it_arrives(mesh: Mesh) -> None:
    own = mesh.envoys["rewards"]
    own.terminate()
    own.wait(timeout=10)

    def leaky(template: str) -> str:
        document = json.loads(template)
        egress = document["staticResources"]["listeners"][1]
        routes = egress["filterChains"][0]["filters"][0]["typedConfig"]["routeConfig"]
        routes["requestHeadersToRemove"].remove("x-jwt-payload")
        return json.dumps(document)

    try:
        mesh.start("sidecar-rewards", "rewards", leaky)
        assert through_egress(mesh, "x-jwt-payload") is grpc.StatusCode.PERMISSION_DENIED
        assert through_egress(mesh, "authorization") is grpc.StatusCode.OK
    finally:
        mesh.envoys["rewards"].terminate()
        mesh.envoys["rewards"].wait(timeout=10)
        mesh.start("sidecar-rewards", "rewards")
