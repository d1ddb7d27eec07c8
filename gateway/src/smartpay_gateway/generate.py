"""Turns contract and topology into the templates; `python -m smartpay_gateway generate` runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import betterproto2

from smartpay_gateway.access_page import access_page
from smartpay_gateway.contract import Contract, read_contract
from smartpay_gateway.edge import edge
from smartpay_gateway.limits_page import limits_page
from smartpay_gateway.openapi import openapi
from smartpay_gateway.sidecar import sidecar
from smartpay_gateway.templates import ACCESS_PAGE, DESCRIPTORS, TEMPLATES, with_number_holes
from smartpay_gateway.topology import SERVICES
from smartpay_gateway.transport import sds_files

# envoy-data-plane spells fields with a digit before letters wrongly: consecutive5Xx.
_MISSPELT = re.compile(r"(\d)X([a-z])")


def templates(contract: Contract) -> Mapping[str, str]:
    """Writes every template as JSON text, by name."""
    messages: dict[str, betterproto2.Message] = {
        "edge": edge(contract, tls=True),
        "edge-plaintext": edge(contract, tls=False),
        **{f"sidecar-{service}": sidecar(service, contract) for service in SERVICES},
        **sds_files(),
    }
    return {name: as_template(message) for name, message in messages.items()}


def as_template(message: betterproto2.Message) -> str:
    """Prints one message as Envoy's JSON with its holes."""
    document = with_number_holes(_respelt(message.to_dict()))
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _respelt(document: object) -> object:
    if isinstance(document, dict):
        return {_MISSPELT.sub(r"\1x\2", key): _respelt(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_respelt(value) for value in document]
    return document


def generate(
    descriptors: Path = DESCRIPTORS, folder: Path = TEMPLATES, access: Path = ACCESS_PAGE
) -> list[Path]:
    """Writes all templates into `folder`, openapi.json beside it, and the pages in docs/.

    Templates that no longer exist are removed.
    """
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    contract = read_contract(descriptors, SERVICES)
    for name, text in templates(contract).items():
        path = folder / f"{name}.json"
        path.write_text(text)
        written.append(path)
    for stale in set(folder.glob("*.json")) - set(written):
        stale.unlink()
    for path, text in {
        folder.parent / "openapi.json": openapi(contract),
        access: access_page(contract),
        access.with_name("limits.md"): limits_page(),
    }.items():
        path.write_text(text)
        written.append(path)
    return written
