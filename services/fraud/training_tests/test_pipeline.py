"""The whole training, on somebody's table of a small world: what it prints, writes and repeats."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from smartpay_fraud import train
from smartpay_fraud.adapters.bundle_source import MANIFEST, Folder, source_of
from smartpay_fraud.adapters.model_bundle import load, seal, write
from smartpay_fraud.domain.verdict import Costs
from smartpay_fraud.training import pipeline, published_world
from smartpay_fraud.training.bundle import from_file
from smartpay_fraud.training.champion import IncomparableError
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


def test_a_champion_that_was_not_beaten_keeps_its_place(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = read(table).stream.until(157)
    refused = Ruling(False, gain=0.0, low=0.0, high=0.0, ahead=0.0, weeks=(0.0,) * 4)
    before = from_file(stream, replay(stream), refused, "the same table, so it saw the weeks")
    # Other costs, other verdicts, another version: else it would be the model trained below.
    manifest = seal({**before.manifest, "costs": asdict(Costs(margin_percent=21))}, before.files)
    place = tmp_path / "bundle"
    write(place, manifest, before.files)
    told = ["--transactions", str(table), "--out", str(place), "--champion", str(place)]
    assert train.main(told) == train.CHAMPION_KEPT
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1]).keys() == {"weeks", "auc", "ap", "cp100"}
    assert "the weeks that judge" in said.err
    assert load(Folder(place, "out").read()).version == manifest["model_version"]
    beside = load(Folder(tmp_path / "bundle-refused", "out").read())
    assert beside.version != manifest["model_version"]


def test_a_champion_that_is_none_is_refused_before_anything_is_trained(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--transactions", str(table), "--champion", str(tmp_path / "absent")]
    assert train.main(told) == train.UNUSABLE
    said = capsys.readouterr()
    assert "no such folder" in said.err
    assert "replaying" not in said.out


def test_a_bundle_to_be_replaced_that_reads_other_features_is_told_and_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packaged = dict(source_of("").read())
    manifest = json.loads(packaged.pop(MANIFEST))
    write(tmp_path, manifest, packaged)
    assert pipeline._to_beat(None, tmp_path) == tmp_path
    write(tmp_path, seal({**manifest, "schema_hash": "0" * 64}, packaged), packaged)
    assert pipeline._to_beat(None, tmp_path) is None
    assert "other features" in capsys.readouterr().out
    with pytest.raises(IncomparableError, match="other features"):
        pipeline._to_beat(tmp_path, tmp_path)
    assert pipeline._to_beat(None, tmp_path / "new") is None


def test_a_refused_bundle_never_lies_in_the_package() -> None:
    assert pipeline._beside(Path("models/now")) == Path("models/now-refused")
    assert pipeline._beside(pipeline._PACKAGED) == Path("fraud-bundle-refused")


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
