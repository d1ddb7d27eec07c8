"""Generates the stubs and the descriptor set from the contract; `make protos` runs it.

Writes to a temporary folder and swaps at the end, so a failed run leaves the old output whole.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
THIRD_PARTY = HERE / "third_party"
GENERATED = HERE / "gen"
DESCRIPTOR_SET = "smartpay.binpb"
# Envoy converts an error to JSON only if every detail type is in the descriptor set.
ERROR_DETAILS = ["google/rpc/status.proto", "google/rpc/error_details.proto"]
HEADER = '"""Generated from the contract by `make protos`; never edit."""\n'


def protoc(*arguments: str) -> None:
    """Runs the compiler of grpcio-tools and stops with its message when it refuses."""
    tools = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--plugin=protoc-gen-mypy={tools / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={tools / 'protoc-gen-mypy_grpc'}",
            f"-I{HERE}",
            f"-I{THIRD_PARTY}",
            *arguments,
        ],
        check=True,
    )


def generate(target: Path) -> None:
    """Writes everything that `gen/` holds into the empty folder `target`."""
    contract = sorted(str(p.relative_to(HERE)) for p in (HERE / "smartpay").rglob("*.proto"))
    services = [p for p in contract if "\nservice " in (HERE / p).read_text()]
    protoc(f"--python_out={target}", f"--mypy_out={target}", *contract)
    protoc(f"--grpc_python_out={target}", f"--mypy_grpc_out={target}", *services)
    # protovalidate's own wheel ships no stubs of its options, so they are ours to make.
    protoc(f"--python_out={target}", "buf/validate/validate.proto")
    protoc(
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={target / DESCRIPTOR_SET}",
        *contract,
        *ERROR_DETAILS,
    )
    for package in ("smartpay", "buf"):
        folders = {p.parent for p in (target / package).rglob("*.py")}
        for folder in folders | {q for p in folders for q in p.parents if target in q.parents}:
            (folder / "__init__.py").write_text(HEADER)
    (target / "smartpay" / "py.typed").touch()


def main() -> None:
    """Replaces `gen/` by fresh output."""
    with tempfile.TemporaryDirectory(dir=HERE) as temporary:
        fresh = Path(temporary) / "gen"
        fresh.mkdir()
        generate(fresh)
        shutil.rmtree(GENERATED, ignore_errors=True)
        fresh.rename(GENERATED)


if __name__ == "__main__":
    main()
