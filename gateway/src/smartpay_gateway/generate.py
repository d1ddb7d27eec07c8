"""Turns contract and topology into the templates; `python -m smartpay_gateway generate` runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import betterproto2

from smartpay_gateway.contract import Contract, read_contract
from smartpay_gateway.edge import edge
from smartpay_gateway.sidecar import sidecar
from smartpay_gateway.templates import DESCRIPTORS, TEMPLATES, with_port_holes
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
    document = with_port_holes(_respelt(message.to_dict()))
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _respelt(document: object) -> object:
    if isinstance(document, dict):
        return {_MISSPELT.sub(r"\1x\2", key): _respelt(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_respelt(value) for value in document]
    return document


def generate(descriptors: Path = DESCRIPTORS, folder: Path = TEMPLATES) -> list[Path]:
    """Writes all templates into `folder` and removes those that no longer exist."""
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in templates(read_contract(descriptors, SERVICES)).items():
        path = folder / f"{name}.json"
        path.write_text(text)
        written.append(path)
    for stale in set(folder.glob("*.json")) - set(written):
        stale.unlink()
    return written
