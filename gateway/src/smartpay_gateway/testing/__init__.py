"""A real mesh in small, for tests: Envoys from the templates, echoing services, an issuer."""

from __future__ import annotations

from smartpay_gateway.testing.issuer import CLIENT_ID, Issuer
from smartpay_gateway.testing.mesh import READY_SECONDS, Envoy, Mesh, free_port, new_mesh
from smartpay_gateway.testing.services import PAYMENT_ID

__all__ = [
    "CLIENT_ID",
    "PAYMENT_ID",
    "READY_SECONDS",
    "Envoy",
    "Issuer",
    "Mesh",
    "free_port",
    "new_mesh",
]
