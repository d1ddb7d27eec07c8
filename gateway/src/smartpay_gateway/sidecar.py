"""One service's Envoy: who may come in, whom the service may call, and a look at its health."""

from __future__ import annotations

import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap
import envoy_data_plane.envoy.config.listener.v3 as listener
import envoy_data_plane.envoy.config.rbac.v3 as rbac
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm

from smartpay_gateway import filters, limits, traces, transport
from smartpay_gateway.contract import Contract, Method
from smartpay_gateway.templates import hole, port_hole
from smartpay_gateway.topology import EDGE

# The verified user comes only from the edge; the merchant context only from inside.
USER_HEADER = "x-jwt-payload"
CONTEXT_HEADER = "smartpay-context-bin"


def sidecar(service: str, contract: Contract) -> bootstrap.Bootstrap:
    """Builds the sidecar of one service from the access table."""
    targets = sorted({m.service for m in contract.called_by(service)})
    return filters.envoy(
        service,
        [
            _mesh_listener(service, contract.of_service(service)),
            _egress_listener(service, contract.called_by(service)),
            filters.ops_listener(transport.APP),
        ],
        [
            transport.app(),
            transport.app_gauges(),
            *transport.clusters(targets),
            transport.admin(),
            traces.collector(),
        ],
        limits.SIDECAR_CONNECTIONS,
        limits.SIDECAR_HEAP_BYTES,
    )


def _mesh_listener(service: str, methods: tuple[Method, ...]) -> listener.Listener:
    routes = filters.route_table(
        "mesh", [filters.method_route(method, transport.APP) for method in methods]
    )
    manager = filters.connection_manager(
        "mesh", routes, [_forgeries_denied(), _callers_allowed(methods), filters.router_filter()]
    )
    manager.tracing = traces.tracing(service)
    manager.forward_client_cert_details = (
        hcm.HttpConnectionManagerForwardClientCertDetails.SANITIZE_SET
    )
    manager.set_current_client_cert_details = hcm.HttpConnectionManagerSetCurrentClientCertDetails(
        uri=True
    )
    return filters.http_listener(
        "mesh",
        transport.tcp(hole("LISTEN_HOST"), port_hole("LISTEN_PORT")),
        manager,
        transport.mutual_tls_server(),
    )


def _forgeries_denied() -> hcm.HttpFilter:
    """Refuses a user vouched for by anybody but the edge, and a context that came through it."""
    return filters.rules(
        "forgeries_",
        rbac.RbacAction.DENY,
        {
            "user-not-from-edge": rbac.Policy(
                permissions=[filters.carrying(USER_HEADER)],
                principals=[rbac.Principal(not_id=filters.peer(EDGE))],
            ),
            "context-from-edge": rbac.Policy(
                permissions=[filters.carrying(CONTEXT_HEADER)], principals=[filters.peer(EDGE)]
            ),
        },
    )


def _callers_allowed(methods: tuple[Method, ...]) -> hcm.HttpFilter:
    return filters.rules(
        "callers_",
        rbac.RbacAction.ALLOW,
        {
            method.path: rbac.Policy(
                permissions=[filters.calling(method.path)],
                principals=[
                    filters.peer(caller)
                    for caller in ((EDGE,) if method.from_outside else ()) + method.callers
                ],
            )
            for method in methods
        },
    )


def _egress_listener(service: str, methods: tuple[Method, ...]) -> listener.Listener:
    """Takes the service's own calls; what it may not call has no route and goes nowhere."""
    routes = filters.route_table(
        "egress",
        [filters.method_route(method, method.service, retries=True) for method in methods],
        headers_to_remove=[USER_HEADER, "authorization", "x-forwarded-client-cert"],
    )
    manager = filters.connection_manager("egress", routes, [filters.router_filter()])
    # A call that went well stands in the log of who was called, with the same request id.
    manager.access_log = [filters.access_log(of=filters.gone_wrong())]
    manager.tracing = traces.tracing(service)
    return filters.http_listener(
        "egress", transport.socket(hole("EGRESS_SOCKET"), transport.OWNER_ONLY), manager
    )
