"""Generates the client's calls, results and words from the contract; `make protos` runs it.

Needs the contract's stubs and ruff; the client itself needs neither.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from generator.calls import methods_module, resources_module
from generator.contract import read
from generator.types import types_module

HERE = Path(__file__).resolve().parent
DESCRIPTORS = HERE.parent / "protos" / "gen" / "smartpay.binpb"
TARGET = HERE / "src" / "smartpay_client"


def formatted(text: str) -> str:
    """Lays the code out as the house does, without imports that nothing uses."""
    ruff = Path(sys.executable).parent / "ruff"
    named = ["--stdin-filename", str(TARGET / "generated.py"), "-"]
    for command in (["check", "--select", "F401,I", "--fix", "--exit-zero", "--quiet"], ["format"]):
        run = subprocess.run(
            [str(ruff), *command, *named], input=text, capture_output=True, check=True, text=True
        )
        text = run.stdout
    return text


def generate() -> dict[Path, str]:
    """Answers every generated file with its text."""
    contract = read(DESCRIPTORS)
    return {
        TARGET / "_contract.py": formatted(types_module(contract)),
        TARGET / "_methods.py": formatted(methods_module(contract)),
        TARGET / "_resources.py": formatted(resources_module(contract, "")),
        TARGET / "_async_resources.py": formatted(resources_module(contract, "Async")),
    }


if __name__ == "__main__":
    for file, text in generate().items():
        file.write_text(text)
