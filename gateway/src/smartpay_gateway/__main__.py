"""The gateway's commands: generate, fill, certificates."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from smartpay_gateway.templates import ACCESS_PAGE, DESCRIPTORS, TEMPLATES, HoleError, fill, load


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 1 and one line on standard error when it refuses."""
    parser = argparse.ArgumentParser(prog="python -m smartpay_gateway", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    generating = commands.add_parser("generate", help="write the templates from the contract")
    generating.add_argument("--descriptors", type=Path, default=DESCRIPTORS)
    generating.add_argument(
        "--out", type=Path, default=TEMPLATES, help="of the templates; openapi.json goes beside it"
    )
    generating.add_argument("--access", type=Path, default=ACCESS_PAGE)

    filling = commands.add_parser("fill", help="fill a template's holes")
    filling.add_argument("--template", required=True, help="a template's name or a file")
    filling.add_argument("--holes", type=Path, required=True, help="a JSON object of texts")
    filling.add_argument("--out", type=Path, required=True)

    issuing = commands.add_parser("certificates", help="issue development certificates")
    issuing.add_argument("--out", type=Path, required=True)
    issuing.add_argument("--environment", required=True)
    while_running = issuing.add_mutually_exclusive_group()
    while_running.add_argument(
        "--rotate", action="store_true", help="renew under the same CA while the mesh runs"
    )
    while_running.add_argument(
        "--rotate-ca", action="store_true", help="renew the CA, too, while the mesh runs"
    )

    chosen = parser.parse_args(arguments)
    command = {"generate": _generate, "fill": _fill, "certificates": _certificates}
    return command[chosen.command](chosen)


def _generate(chosen: argparse.Namespace) -> int:
    # Imported here: the classes take a second to load, and the other commands need none.
    from smartpay_gateway.contract import ContractError
    from smartpay_gateway.generate import generate

    try:
        for path in generate(chosen.descriptors, chosen.out, chosen.access):
            print(path)
    except ContractError as refusal:
        return _refused(refusal)
    return 0


def _fill(chosen: argparse.Namespace) -> int:
    named = Path(chosen.template)
    template = named.read_text() if named.is_file() else load(chosen.template)
    try:
        chosen.out.write_text(fill(template, json.loads(chosen.holes.read_text())))
    except HoleError as refusal:
        return _refused(refusal)
    return 0


def _certificates(chosen: argparse.Namespace) -> int:
    from smartpay_gateway.certificates import (
        SETTLE_SECONDS,
        EnvironmentRefusedError,
        RotationRefusedError,
        issue,
        rotate,
        rotate_authority,
    )

    try:
        if chosen.rotate:
            renewed = rotate(chosen.out, chosen.environment)
        elif chosen.rotate_ca:
            renewed = rotate_authority(
                chosen.out, chosen.environment, lambda: time.sleep(SETTLE_SECONDS)
            )
        else:
            print(issue(chosen.out, chosen.environment))
            return 0
        for service, until in renewed.items():
            print(f"{service}: valid until {until:%Y-%m-%d %H:%M} UTC")
    except (EnvironmentRefusedError, RotationRefusedError) as refusal:
        return _refused(refusal)
    return 0


def _refused(refusal: Exception) -> int:
    print(f"Refused: {refusal}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
