"""Payments killed amid load behind real Envoys: nothing charged twice, nothing lost.

The many kills, all rails and the broken promises are `tests/chaos`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from smartpay_sandbox.chaos_mesh import ENVIRONMENT, run
from smartpay_sandbox.launcher import Mesh

pytestmark = pytest.mark.mesh
SEED = 20261122


async def test_killing_payments_amid_200_payments_loses_and_doubles_nothing() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="sp-") as folder,
        Mesh(Path(folder), environment=ENVIRONMENT) as mesh,
    ):
        verdict = await run(mesh, payments=200, kills=5, seed=SEED)
    assert verdict["kills"] == 5
    # Some callers meet a dead service first and give up; most orders get through.
    assert verdict["statuses"]["STATUS_SUCCEEDED"] >= 100, verdict
    assert verdict["examples"] == [], verdict
