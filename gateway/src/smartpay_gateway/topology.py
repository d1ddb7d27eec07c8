"""Names what there is: the services, their identities, and the one edge."""

from __future__ import annotations

SERVICES = ("assistant", "fraud", "payments", "rewards", "router")
"""The houses; package smartpay.<service>.v1 is served by <service>."""

EDGE = "edge"
"""The identity of the edge; the only one that may vouch for a user."""

TRUST_DOMAIN = "smartpay"
"""The SPIFFE trust domain; https://spiffe.io/docs/latest/spiffe-about/spiffe-concepts/."""

DEVELOPMENT = "dev"
"""The only environment for which the development CA issues certificates."""


def spiffe_id(environment: str, service: str) -> str:
    """Names a service as its certificate's URI SAN does."""
    return f"spiffe://{TRUST_DOMAIN}/{environment}/{service}"


def server_name(service: str) -> str:
    """Names a service for TLS clients that know names only; the mesh checks the SPIFFE id."""
    return f"{service}.{TRUST_DOMAIN}"
