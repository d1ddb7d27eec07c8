"""Templates and their holes: a closed, typed list that launcher and chart fill alike.

A template is the JSON bootstrap of one Envoy. A hole is `{{NAME}}` inside a JSON text; filling
replaces text by text, so that Helm's `replace` does the same as `fill`. One thing is not text:
where TRACE_PERCENT is 0 the listeners' `tracing` is left out (Helm: `unset`), since a tracer that
samples nothing writes every call down all the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from smartpay_gateway import limits
from smartpay_gateway.topology import DEVELOPMENT, SERVICES

_BESIDE_CODE = Path(__file__).parent / "committed_templates"
TEMPLATES = (
    _BESIDE_CODE if _BESIDE_CODE.is_dir() else Path(__file__).resolve().parents[2] / "templates"
)
"""Where the committed templates are: in an installed package, or in the repository."""

PUBLIC = TEMPLATES.parent if TEMPLATES != _BESIDE_CODE else _BESIDE_CODE.parent / "public"
"""What the edge shows to anybody: openapi.json and docs-page/, beside the templates."""

DESCRIPTORS = Path("protos/gen/smartpay.binpb")
"""Where `make protos` puts the descriptor set, seen from the repository's root."""

ACCESS_PAGE = Path("docs/access.md")
"""Where the table of who may call what is written, seen from the repository's root."""

# A Unix socket's path must fit sockaddr_un.sun_path (108 bytes with its end), unix(7).
SOCKET_PATH_BYTES = 107
# No real number is that large: it marks a number's hole until the template is written.
_FIRST_MARK = 4_000_000_000


class HoleError(Exception):
    """A value is missing, unknown, or not what its hole takes; names the hole and the remedy."""


_ORIGIN = r"https?://[A-Za-z0-9\-]+(\\\.[A-Za-z0-9\-]+)*(:([0-9]{1,5}|\[0-9\]\+))?"


class Kind(StrEnum):
    """What a hole takes, as the pattern its value must match whole."""

    HOST = r"[A-Za-z0-9._:\-]{1,253}"
    PORT = r"[0-9]{1,5}"
    COUNT = r"[0-9]{1,7}"
    PERCENT = r"[0-9]{1,3}"
    SOCKET = r'/[^\x00-\x1f"\\]+'
    PATH = r'/[^\x00-\x1f"\\]*'
    NAME = r"[a-z][a-z0-9-]{0,30}"
    SCHEME = r"https?"
    ISSUER = r"https?://[A-Za-z0-9._:\-]+(/[A-Za-z0-9._~/\-]*)?"
    URL_PATH = r"/[A-Za-z0-9._~/\-]*"
    CLIENT_IDS = r"[A-Za-z0-9_\-]{1,128}(\|[A-Za-z0-9_\-]{1,128}){0,99}"
    # A regular expression of exact origins: an unescaped dot would let strangers' names in.
    ORIGINS = rf"none|{_ORIGIN}(\|{_ORIGIN}){{0,19}}"


@dataclass(frozen=True)
class Hole:
    """One thing that differs between machines and environments."""

    kind: Kind
    why: str
    default: str | None = None
    """What fills it when nobody says otherwise; None where only the environment can know."""
    in_dev: str | None = None
    """The default where ENVIRONMENT is dev, if that differs."""


HOLES: dict[str, Hole] = {
    "ENVIRONMENT": Hole(Kind.NAME, "Part of every SPIFFE id: dev, staging or prod."),
    "LISTEN_HOST": Hole(Kind.HOST, "Address of this Envoy's TCP listeners: loopback, pod address."),
    "LISTEN_PORT": Hole(Kind.PORT, "The edge's public port, or a sidecar's mesh port."),
    "OPS_PORT": Hole(Kind.PORT, "Health and metrics, plaintext, for kubelet and Prometheus."),
    "APP_SOCKET": Hole(Kind.SOCKET, "Where the service behind this sidecar listens."),
    "EGRESS_SOCKET": Hole(Kind.SOCKET, "Where the service calls others; Envoy makes it."),
    "ADMIN_SOCKET": Hole(Kind.SOCKET, "Envoy's admin interface; no network reaches it."),
    "CERTIFICATE_FOLDER": Hole(
        Kind.PATH, "Holds tls.crt, tls.key, ca.crt, certificate.json and trust.json; swapped whole."
    ),
    "ACCESS_LOG": Hole(Kind.PATH, "File of the JSON access log; /dev/stdout in containers."),
    "ISSUER": Hole(Kind.ISSUER, "The tokens' iss, exactly."),
    "JWKS_SCHEME": Hole(Kind.SCHEME, "https; http only for a local issuer."),
    "JWKS_HOST": Hole(Kind.HOST, "Host of the issuer's key set."),
    "JWKS_PORT": Hole(Kind.PORT, "Port of the issuer's key set."),
    "JWKS_PATH": Hole(Kind.URL_PATH, "Path of the issuer's key set."),
    "JWKS_CA_FILE": Hole(Kind.PATH, "CA bundle that vouches for JWKS_HOST; must exist."),
    "CLIENT_IDS": Hole(Kind.CLIENT_IDS, "Client ids of ours, joined by |: other clients get 403."),
    "BROWSER_ORIGINS": Hole(
        Kind.ORIGINS,
        "Origins whose pages may call us (CORS), joined by |, dots escaped; `none` for none.",
        default="none",
        in_dev=r"http://localhost:[0-9]+|http://127\.0\.0\.1:[0-9]+",
    ),
    "PUBLIC_FOLDER": Hole(
        Kind.PATH, "Holds openapi.json and docs-page/, shown to anybody.", str(PUBLIC)
    ),
    "CLIENT_CALLS": Hole(
        Kind.COUNT,
        f"Calls of one client per {limits.RATE_WINDOW.seconds} s at one edge.",
        str(limits.CLIENT_CALLS),
    ),
    "TRACE_PERCENT": Hole(
        Kind.PERCENT,
        "Calls whose spans go to the collector; at 0 no listener has a tracer.",
        str(limits.TRACE_PERCENT),
    ),
    "OTLP_HOST": Hole(Kind.HOST, "OpenTelemetry collector (gRPC); may be away.", "127.0.0.1"),
    "OTLP_PORT": Hole(Kind.PORT, "The collector's port.", "4317"),
}
for _service in SERVICES:
    _prefix = _service.upper()
    HOLES |= {
        f"{_prefix}_HOST": Hole(Kind.HOST, f"Mesh host of {_service}'s sidecar."),
        f"{_prefix}_PORT": Hole(Kind.PORT, f"Mesh port of {_service}'s sidecar."),
        f"{_prefix}_WEIGHT": Hole(
            Kind.COUNT, f"Share of {_service}'s stable version.", str(limits.STABLE_WEIGHT)
        ),
        # Nothing listens on the discard port, and at weight 0 nobody asks.
        f"{_prefix}_CANARY_HOST": Hole(Kind.HOST, f"Host of {_service}'s canary.", "127.0.0.1"),
        f"{_prefix}_CANARY_PORT": Hole(Kind.PORT, f"Port of {_service}'s canary.", "9"),
        f"{_prefix}_CANARY_WEIGHT": Hole(
            Kind.COUNT, f"Share of {_service}'s canary.", str(limits.CANARY_WEIGHT)
        ),
    }
_NAMES = tuple(HOLES)
_NUMBERS = (Kind.PORT, Kind.COUNT, Kind.PERCENT)
_HOLE = re.compile(r"\{\{([A-Z0-9_]+)\}\}")


def hole(name: str) -> str:
    """Marks a hole while a template is generated; raises KeyError outside the closed list."""
    if HOLES[name].kind in _NUMBERS:
        raise KeyError(f"{name} is a number: use number_hole")
    return f"{{{{{name}}}}}"


def number_hole(name: str) -> int:
    """Marks a number's hole by one no setting has, because Envoy's classes take only numbers."""
    if HOLES[name].kind not in _NUMBERS:
        raise KeyError(f"{name} is no number")
    return _FIRST_MARK + _NAMES.index(name)


def port_hole(name: str) -> int:
    """Marks a port's hole; raises KeyError for any other."""
    if HOLES[name].kind is not Kind.PORT:
        raise KeyError(f"{name} is no port")
    return number_hole(name)


def with_number_holes(document: object) -> object:
    """Replaces the marks of `number_hole` by holes; protobuf's JSON takes numbers as text too."""
    if isinstance(document, dict):
        return {key: with_number_holes(value) for key, value in document.items()}
    if isinstance(document, list):
        return [with_number_holes(value) for value in document]
    if isinstance(document, int | float) and document >= _FIRST_MARK:
        return f"{{{{{_NAMES[int(document) - _FIRST_MARK]}}}}}"
    return document


def load(name: str, folder: Path = TEMPLATES) -> str:
    """Reads a committed template: "edge", "edge-plaintext", "sidecar-payments", ..."""
    return (folder / f"{name}.json").read_text()


def holes_of(template: str) -> frozenset[str]:
    """Lists the holes a template has, for whoever must fill them."""
    return frozenset(_HOLE.findall(template))


def fill(template: str, values: Mapping[str, str]) -> str:
    """Fills every hole; raises HoleError for a missing, unknown or unfit value.

    A hole with a default may be left out.
    """
    wanted = holes_of(template)
    if undeclared := wanted - HOLES.keys():
        raise HoleError(f"The template has unknown holes {sorted(undeclared)}; generate it anew.")
    values = _defaults(wanted, values.get("ENVIRONMENT")) | dict(values)
    if missing := wanted - values.keys():
        raise HoleError(f"No value for {sorted(missing)}; give one for each hole.")
    if unknown := values.keys() - wanted:
        raise HoleError(f"The template has no holes {sorted(unknown)}; leave them out.")
    for name, value in values.items():
        _check(name, value)
    if int(values.get("TRACE_PERCENT", "100")) == 0:
        template = _without_tracing(template)
    return _HOLE.sub(lambda match: json.dumps(values[match.group(1)])[1:-1], template)


def fill_from(template: str, values: Mapping[str, str]) -> str:
    """Fills a template out of a larger set, as a launcher holds one for all its Envoys."""
    wanted = holes_of(template)
    return fill(template, {name: value for name, value in values.items() if name in wanted})


def _defaults(names: Iterable[str], environment: str | None) -> dict[str, str]:
    defaults = {}
    for name in names:
        in_dev = HOLES[name].in_dev if environment == DEVELOPMENT else None
        if (value := in_dev or HOLES[name].default) is not None:
            defaults[name] = value
    return defaults


def _without_tracing(template: str) -> str:
    document = json.loads(template)
    for listener in document["staticResources"]["listeners"]:
        for chain in listener["filterChains"]:
            for connection_manager in chain["filters"]:
                connection_manager["typedConfig"].pop("tracing", None)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _check(name: str, value: str) -> None:
    kind = HOLES[name].kind
    if not isinstance(value, str) or not re.fullmatch(kind, value):
        raise HoleError(f"{name} is {value!r}; it must be text that matches {kind.value}.")
    if kind is Kind.PORT and not 1 <= int(value) <= 65535:
        raise HoleError(f"{name} is {value}; a port is from 1 to 65535.")
    if kind is Kind.PERCENT and int(value) > 100:
        raise HoleError(f"{name} is {value}; a share is from 0 to 100.")
    if kind is Kind.SOCKET and len(value.encode()) > SOCKET_PATH_BYTES:
        raise HoleError(
            f"{name} has {len(value.encode())} bytes; a socket's path has at most "
            f"{SOCKET_PATH_BYTES}: use a shorter folder."
        )
