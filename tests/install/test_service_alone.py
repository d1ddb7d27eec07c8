"""A service is installed and started alone; its siblings are not even importable."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.install
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with the contract, the chassis and the router."""
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin/python"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "./protos", "./chassis", "./services/router"],
        cwd=ROOT,
        check=True,
    )
    return python


def test_the_router_alone_starts_and_its_siblings_are_absent(alone: Path, tmp_path: Path) -> None:
    for module in ("smartpay_router", "smartpay_chassis", "smartpay.router.v1.router_pb2"):
        subprocess.run([alone, "-c", f"import {module}"], check=True, cwd=tmp_path)
    for sibling in ("fraud", "payments", "rewards", "assistant", "gateway", "sandbox"):
        found = subprocess.run(
            [alone, "-c", f"import smartpay_{sibling}"], cwd=tmp_path, capture_output=True
        )
        assert b"ModuleNotFoundError" in found.stderr, sibling
    merchants = tmp_path / "merchants.json"
    merchants.write_text('{"merchants": []}')
    listening = tmp_path / "r.sock"
    with (tmp_path / "log").open("wb") as log:
        router = subprocess.Popen(
            [alone, "-m", "smartpay_router"],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "SMARTPAY_LISTEN_SOCKET": str(listening),
                "SMARTPAY_EGRESS_SOCKET": str(tmp_path / "e.sock"),
                "SMARTPAY_MERCHANTS_FILE": str(merchants),
                "ROUTER_STORE_PATH": str(tmp_path / "router.sqlite"),
            },
        )
    try:
        deadline = time.monotonic() + 60
        while not listening.exists():
            assert router.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
    finally:
        router.terminate()
        assert router.wait(30) == 0
