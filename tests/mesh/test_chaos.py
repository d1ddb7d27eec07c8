"""Payments killed amid load: nothing charged twice, nothing lost; and the judge can tell."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from smartpay_sandbox.chaos import ENVIRONMENT, run
from smartpay_sandbox.launcher import Mesh

pytestmark = pytest.mark.mesh
SEED = 20261122


@contextmanager
def fresh_mesh(plan: str = "smartpay_sandbox.mesh_plan:plan") -> Iterator[Mesh]:
    with (
        tempfile.TemporaryDirectory(prefix="sp-") as folder,
        Mesh(Path(folder), environment=ENVIRONMENT, plan=plan) as mesh,
    ):
        yield mesh


async def test_killing_payments_amid_200_payments_loses_and_doubles_nothing() -> None:
    with fresh_mesh() as mesh:
        verdict = await run(mesh, payments=200, kills=5, seed=SEED)
    assert verdict["kills"] == 5
    # Some callers meet a dead service first and give up; most orders get through.
    assert verdict["statuses"]["STATUS_SUCCEEDED"] >= 100, verdict
    assert verdict["examples"] == [], verdict


@pytest.mark.parametrize(
    ("plan", "sign"),
    [
        ("smartpay_sandbox.sabotage:new_keys", "double charge"),
        ("smartpay_sandbox.sabotage:no_attempt", "lost charge"),
    ],
)
async def test_the_judge_notices_a_broken_promise(plan: str, sign: str) -> None:
    with fresh_mesh(plan) as mesh:
        # Half of the charges are taken and not yet answered when the kill comes.
        verdict = await run(mesh, payments=80, kills=3, seed=SEED, slow=0.5, settle_seconds=5)
    assert verdict["kinds"].get(sign), verdict
