"""The router's bench: what the loops count, and what is read of the Open Bandit Dataset."""

from __future__ import annotations

import asyncio
import hashlib
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from smartpay_bench import router_open_bandit
from smartpay_bench.loops import Load, closed_loop, open_loop
from smartpay_bench.router_open_bandit import bootstrapped, campaign, wheel

HEADER = (
    ",timestamp,item_id,position,click,propensity_score,"
    "user_feature_0,user_feature_1,user_feature_2,user_feature_3\n"
)


async def test_a_closed_loop_keeps_so_many_calls_under_way_and_counts_their_rows() -> None:
    under_way: list[int] = []
    now = 0

    async def call() -> None:
        nonlocal now
        now += 1
        under_way.append(now)
        await asyncio.sleep(0.001)
        now -= 1

    start = time.monotonic()
    load = await closed_loop(call, 3, 0.05, rows=10)
    seconds = time.monotonic() - start
    assert max(under_way) == 3
    assert len(load.taken_ms) == len(under_way)
    assert load.taken_ms == sorted(load.taken_ms)
    assert load.taken_ms[0] >= 1
    assert load.rate >= 10 * len(under_way) / seconds


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    under_way = most = 0

    async def call() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1

    load = await open_loop(call, 200, 0.1)
    assert len(load.taken_ms) == 20
    assert most > 3


async def test_a_call_that_fails_ends_the_loop() -> None:
    async def call() -> None:
        raise ConnectionError

    with pytest.raises(ExceptionGroup):
        await closed_loop(call, 2, 5)


def test_a_percentile_is_one_of_the_times_seen() -> None:
    load = Load(1.0, [float(ms) for ms in range(200)])
    assert load.percentile_ms(50) == 100
    assert load.percentile_ms(99) == 198
    assert load.percentile_ms(100) == 199


def a_wheel(folder: Path) -> Path:
    """Two logs of two items at three positions; the other policy shows item 1 only, mostly."""
    dice = np.random.default_rng(1)
    path = folder / "obp-0.4.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for policy, shares in (("random", (0.5, 0.5)), ("bts", (0.1, 0.9))):
            text = io.StringIO(HEADER)
            text.seek(0, io.SEEK_END)
            for number in range(3_000):
                item = int(dice.random() < shares[1])
                click = int(dice.random() < (0.1, 0.3)[item])
                text.write(
                    f"{number},t,{item},{number % 3 + 1},{click},{shares[item]},"
                    f"{'ab'[number % 2]},c,d,e\n"
                )
            archive.writestr(f"obp/dataset/obd/{policy}/all/all.csv", text.getvalue())
    return path


def test_the_other_policys_value_is_estimated_from_the_random_log(tmp_path: Path) -> None:
    logs = campaign(a_wheel(tmp_path), "all")
    assert logs.values.shape == (3_000, 1 + 2 + 1)  # intercept, positions, one feature of two kinds
    assert logs.target.shape == (3_000, 2)
    assert logs.target[:, 1] == pytest.approx(0.9, abs=0.05)
    assert logs.truth == pytest.approx(0.28, abs=0.03)
    errors = bootstrapped(logs, 5, seed=1)
    assert set(errors) == {"ipw", "snipw", "dm", "dr"}
    assert all(0 < error < 0.15 for error in errors.values())
    assert errors == bootstrapped(logs, 5, seed=1)


def test_another_file_is_not_taken_for_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = a_wheel(tmp_path)
    with pytest.raises(RuntimeError, match="another file"):
        wheel(tmp_path)
    monkeypatch.setattr(router_open_bandit, "SHA256", hashlib.sha256(made.read_bytes()).hexdigest())
    assert wheel(tmp_path) == made
