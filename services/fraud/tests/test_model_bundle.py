"""Only the very bundle that was trained may serve."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smartpay_fraud.adapters.model_bundle import (
    FILES,
    PARITY_MAX,
    BundleError,
    load,
    locate,
    pack_arrays,
    packaged,
    version_of,
)

BYTES_MAX = 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "bundle"
    copy.mkdir()
    for name in ("manifest.json", *FILES):
        (copy / name).write_bytes((packaged() / name).read_bytes())
    return copy


def with_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def sealed_again(folder: Path) -> None:
    """Makes a forger's manifest: hashes and version fit the changed files."""

    def seal(manifest: dict[str, Any]) -> None:
        for name in FILES:
            manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        manifest["model_version"] = version_of(manifest)

    with_manifest(folder, seal)


def test_the_packaged_bundle_loads_and_is_small() -> None:
    assert load(packaged()).version.startswith("trees-")
    sizes = [len((packaged() / name).read_bytes()) for name in ("manifest.json", *FILES)]
    assert sum(sizes) <= BYTES_MAX


def test_a_copy_elsewhere_loads_by_path_and_by_address(folder: Path) -> None:
    version = load(packaged()).version
    assert load(locate(str(folder))).version == version
    assert load(locate(folder.as_uri())).version == version


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["manifest.json", *FILES])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        load(folder)


def test_another_feature_schema_is_refused(folder: Path) -> None:
    with_manifest(folder, lambda manifest: manifest.update(schema_hash="0" * 64))
    with pytest.raises(BundleError, match="other features"):
        load(folder)


def test_changed_costs_are_refused(folder: Path) -> None:
    with_manifest(folder, lambda manifest: manifest["costs"].update(goodwill_cents=0))
    with pytest.raises(BundleError, match="changed after training"):
        load(folder)


def test_an_engine_that_differs_from_xgboost_is_refused_even_with_fitting_hashes(
    folder: Path,
) -> None:
    with np.load(folder / "golden.npz", allow_pickle=False) as stored:
        golden = {name: stored[name] for name in stored.files}
    golden["margins"] = golden["margins"] + 1e-3
    (folder / "golden.npz").write_bytes(pack_arrays(golden))
    sealed_again(folder)
    with pytest.raises(BundleError, match="differs from XGBoost"):
        load(folder)


def test_a_pickle_in_disguise_is_refused(folder: Path) -> None:
    np.savez(folder / "trees.npz", roots=np.array([object()], dtype=object))
    sealed_again(folder)
    with pytest.raises(BundleError, match="can't be used"):
        load(folder)


@pytest.mark.parametrize("uri", ["s3://bucket/bundle", "/no/such/folder"])
def test_a_place_that_is_not_served_is_refused_with_the_setting_named(uri: str) -> None:
    with pytest.raises(BundleError, match="FRAUD_MODEL_URI"):
        locate(uri)


def test_serving_loads_neither_the_trainer_nor_its_libraries() -> None:
    program = (
        "import sys, smartpay_fraud.__main__\n"
        "from smartpay_fraud.adapters.model_bundle import load, packaged\n"
        "load(packaged())\n"
        "print(sorted({'xgboost', 'scipy', 'onnx', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"


def test_the_version_depends_on_everything_that_decides(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {version_of(manifest)}
    for part in ("files", "schema_hash", "calibration", "costs"):
        names.add(version_of({**manifest, part: "other"}))
    assert len(names) == 5


def test_the_limit_in_the_manifest_is_the_one_enforced(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["parity_max"] == PARITY_MAX
