"""The whole training, on somebody's table of a small world: what it prints, writes and repeats."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from smartpay_fraud import train
from smartpay_fraud.adapters.bundle_source import MANIFEST, Folder
from smartpay_fraud.adapters.model_bundle import load
from smartpay_fraud.training import published_world
from smartpay_fraud.training.bundle import from_file
from smartpay_fraud.training.gate import Ruling
from smartpay_fraud.training.published_world import FIRST_DAY, PublishedWorld
from smartpay_fraud.training.replay import replay
from smartpay_fraud.training.transactions_file import read

WORLD = PublishedWorld(seed=3, days=158, customers=60, terminals=600, radius=20)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drawn = published_world.generate(WORLD)
    path = tmp_path_factory.mktemp("data") / "payments.parquet"
    columns = {
        "transaction_id": np.arange(len(drawn)),
        "timestamp": drawn.second + int(FIRST_DAY.timestamp()),
        "customer_id": drawn.customer,
        "terminal_id": drawn.terminal,
        "amount": drawn.amount_cents / 100,
        "is_fraud": drawn.scenario > 0,
    }
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def test_a_table_is_judged_and_becomes_a_bundle_with_its_card(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--transactions", str(table), "--protocol", "handbook", "--out", str(tmp_path)]
    assert train.main(told) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last.keys() == {"weeks", "auc", "ap", "cp100"}
    assert len(last["weeks"]) == 4
    for figure in ("auc", "ap", "cp100"):
        mean = np.mean([week[figure] for week in last["weeks"]])
        assert last[figure] == pytest.approx(mean, abs=1e-4)
        assert 0 < last[figure] <= 1
    bundle = load(Folder(tmp_path, "out").read())
    card = (tmp_path / "model-card.md").read_text()
    assert bundle.version in card
    assert bundle.training["features_sha256"] in card
    assert (tmp_path / "ablation.svg").read_text().startswith("<svg")
    # A second life through the same payments sees the same features, to the last bit.
    again = replay(read(table).stream.until(157))
    assert again.fingerprint == bundle.training["features_sha256"]


def test_a_graph_that_the_gate_let_in_travels_in_the_bundle(table: Path) -> None:
    let_in = Ruling(True, gain=0.1, low=0.05, high=0.15, ahead=1.0, weeks=(0.1,) * 4)
    stream = read(table).stream.until(157)
    packed = from_file(stream, replay(stream), let_in, "a small table")
    bundle = load({MANIFEST: json.dumps(packed.manifest).encode(), **packed.files})
    assert bundle.weights is not None
    assert bundle.version.startswith("stack-")
    assert packed.manifest["gate"]["accepted"]


def test_a_table_that_is_too_short_is_refused_with_the_days_it_needs(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = pyarrow.parquet.read_table(table).slice(0, 1_000)
    pyarrow.parquet.write_table(short, tmp_path / "short.parquet")
    out = tmp_path / "bundle"
    told = ["--transactions", str(tmp_path / "short.parquet"), "--out", str(out)]
    assert train.main(told) == train.UNUSABLE
    assert "at least 157 days" in capsys.readouterr().err
    assert not out.exists()
