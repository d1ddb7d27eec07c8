"""Certificates and key sets that are not quite ours, and somebody who poses as a service."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smartpay_gateway.certificates import LEAF_DAYS, authority_of, issue_leaf, place
from smartpay_gateway.testing.issuer import Issuer, KeyServer, public_key
from smartpay_gateway.testing.lifts import Lift
from smartpay_gateway.testing.mesh import Mesh

Certificate = Callable[[Mesh], Path]
Holes = Callable[[Mesh, contextlib.ExitStack], Mapping[str, str]]


def of_a_stranger(service: str) -> Certificate:
    """Issues a service's certificate by a CA that is not ours; his folder trusts both."""
    return lambda mesh: _issued(mesh, f"strange-{service}", service, authority="stranger")


def of_production(service: str) -> Certificate:
    """Issues by our CA a certificate that names another environment."""
    return lambda mesh: _issued(mesh, f"prod-{service}", service, environment="prod")


def expired(service: str) -> Certificate:
    """Issues by our CA a certificate that ended yesterday."""
    return lambda mesh: _issued(mesh, f"old-{service}", service, days_ago=LEAF_DAYS + 1)


def _issued(
    mesh: Mesh,
    name: str,
    service: str,
    *,
    environment: str = "dev",
    days_ago: int = 0,
    authority: str = "certs",
) -> Path:
    folder = mesh.folder / name
    if not folder.exists():
        now = datetime.datetime.now(datetime.UTC)
        (mesh.folder / authority).mkdir(exist_ok=True)
        issuing = authority_of(mesh.folder / authority, now)
        when = now - datetime.timedelta(days=days_ago)
        leaf = issue_leaf(issuing, service, when, environment)
        place(folder, *leaf, mesh.ca.read_bytes() + issuing.pem())
    return folder


def trusting_both(service: str) -> Holes:
    """Leaves a service its own certificate, and has it trust the stranger's CA as well."""

    def holes(mesh: Mesh, _: contextlib.ExitStack) -> Mapping[str, str]:
        own, both = mesh.folder / "certs" / service, of_a_stranger(service)(mesh) / "ca.crt"
        folder = mesh.folder / f"trusting-{service}"
        certificate, key = (own / "tls.crt").read_bytes(), (own / "tls.key").read_bytes()
        place(folder, certificate, key, both.read_bytes())
        return {"CERTIFICATE_FOLDER": str(folder)}

    return holes


def impostor(certificate: Certificate) -> Lift:
    """Has the edge find somebody with that certificate where it looks for payments."""

    def holes(mesh: Mesh, stack: contextlib.ExitStack) -> Mapping[str, str]:
        folder = str(certificate(mesh))
        there = stack.enter_context(mesh.beside("sidecar-payments", CERTIFICATE_FOLDER=folder))
        return {"PAYMENTS_PORT": str(there.port)}

    return Lift("edge", "an impostor stands there", holes=holes)


def publishing(key: Callable[[Issuer], dict[str, Any]]) -> Holes:
    """Has the edge fetch a key set with one more key."""

    def holes(mesh: Mesh, stack: contextlib.ExitStack) -> Mapping[str, str]:
        server = KeyServer([public_key(mesh.issuer.key), key(mesh.issuer)])
        stack.callback(server.close)
        return {"JWKS_PORT": str(server.port)}

    return holes
