"""Only the very bundle that was trained may serve."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.response
import botocore.stub
import numpy as np
import pytest

from smartpay_fraud.adapters.bundle_source import (
    FILE_BYTES_MAX,
    BundleError,
    Folder,
    S3Object,
    source_of,
    unpacked,
)
from smartpay_fraud.adapters.model_bundle import (
    ARRAY_BYTES_MAX,
    FILES,
    PARITY_MAX,
    SAGE,
    load,
    pack_arrays,
    seal,
    version_of,
    write,
)
from smartpay_fraud.adapters.safetensors_file import tensors

BYTES_MAX = 1_500_000
Files = dict[str, bytes]


def with_manifest(files: Files, change: Callable[[dict[str, Any]], None]) -> Files:
    manifest = json.loads(files["manifest.json"])
    change(manifest)
    return {**files, "manifest.json": json.dumps(manifest).encode()}


def forged(files: Files, **changed: bytes) -> Files:
    """Makes a forger's bundle: hashes and version fit the changed files."""
    contents = {name: data for name, data in files.items() if name != "manifest.json"}
    contents.update({name.replace("_", "."): data for name, data in changed.items()})
    sealed = seal(json.loads(files["manifest.json"]), contents)
    return {**contents, "manifest.json": json.dumps(sealed).encode()}


def arrays_of(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def packed(files: Files, *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member, data in more:
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def a_member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member


# The packaged one, and copies of it.


def test_the_packaged_bundle_loads_and_is_small() -> None:
    files = source_of("").read()
    assert load(files).version.startswith(("trees-", "stack-"))
    assert sum(map(len, files.values())) <= BYTES_MAX


@pytest.mark.parametrize("kind", ["files", "graph_files"])
def test_a_written_bundle_loads_by_path_by_address_and_from_an_archive(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files: Files = request.getfixturevalue(kind)
    manifest = json.loads(files["manifest.json"])
    contents = {name: data for name, data in files.items() if name != "manifest.json"}
    write(tmp_path, manifest, contents)
    version = load(files).version
    assert load(source_of(str(tmp_path)).read()).version == version
    assert load(source_of(tmp_path.as_uri()).read()).version == version
    assert load(unpacked(packed(files))).version == version


def test_a_bundle_with_a_graph_says_so_and_scores_by_it(graph_files: Files) -> None:
    bundle = load(graph_files)
    golden = arrays_of(graph_files["golden.npz"])
    margins, columns = bundle.engine.infer(golden["rows"], golden["graph"])
    elsewhere, _ = bundle.engine.infer(golden["rows"], np.zeros_like(golden["graph"]))
    assert bundle.version.startswith("stack-")
    assert columns.shape[1] == 17
    assert bundle.columns == golden["rows"].shape[1] + 17
    assert np.abs(margins - elsewhere).max() > PARITY_MAX


def test_writing_over_a_bundle_leaves_no_file_of_the_old_one(
    files: Files, graph_files: Files, tmp_path: Path
) -> None:
    for each in (graph_files, files):
        contents = {name: data for name, data in each.items() if name != "manifest.json"}
        write(tmp_path, json.loads(each["manifest.json"]), contents)
    assert not (tmp_path / SAGE).exists()
    load(source_of(str(tmp_path)).read())


# Damaged and foreign bundles.


@pytest.mark.parametrize("name", [*FILES, SAGE])
def test_one_flipped_bit_is_refused(graph_files: Files, name: str) -> None:
    data = bytearray(graph_files[name])
    data[len(data) // 2] ^= 1
    with pytest.raises(BundleError, match=name):
        load({**graph_files, name: bytes(data)})


@pytest.mark.parametrize("name", ["manifest.json", *FILES, SAGE])
@pytest.mark.parametrize("left", [0, 10])
def test_a_truncated_file_is_refused(graph_files: Files, name: str, left: int) -> None:
    with pytest.raises(BundleError, match=name):
        load({**graph_files, name: graph_files[name][:left]})


@pytest.mark.parametrize("name", ["manifest.json", *FILES, SAGE])
def test_a_missing_file_is_refused(graph_files: Files, name: str) -> None:
    with pytest.raises(BundleError, match=name):
        load({other: data for other, data in graph_files.items() if other != name})


@pytest.mark.parametrize("name", ["model.onnx", "trees.npz", "golden.npz", "drift.npz", SAGE])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04K\x01.", b"{}" * 40])
def test_rubbish_with_fitting_hashes_is_refused(
    graph_files: Files, name: str, content: bytes
) -> None:
    with pytest.raises(BundleError, match="can't be used"):
        load(forged(graph_files, **{name.replace(".", "_"): content}))


@pytest.mark.parametrize("schema", ["schema_hash", "graph_hash"])
def test_another_feature_schema_or_graph_is_refused(graph_files: Files, schema: str) -> None:
    with pytest.raises(BundleError, match="other features"):
        load(with_manifest(graph_files, lambda manifest: manifest.update({schema: "0" * 64})))


def test_changed_costs_are_refused(files: Files) -> None:
    with pytest.raises(BundleError, match="changed after training"):
        load(with_manifest(files, lambda manifest: manifest["costs"].update(goodwill_cents=0)))


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"null", b"{}", b'{"format": 1}', b"[" * 100_000, b'{"format": 2, "files": []}'],
    ids=range(7),
)
def test_a_manifest_that_is_none_is_refused(files: Files, manifest: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load({**files, "manifest.json": manifest})


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "model.pkl", ""])
def test_a_manifest_that_names_other_files_is_refused(files: Files, name: str) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load(with_manifest(files, lambda manifest: manifest["files"].update({name: "0" * 64})))


@pytest.mark.parametrize("said", ["margins", "contributions", "graph_columns"])
@pytest.mark.parametrize("off_by", [1e-3, np.nan])
def test_an_engine_that_differs_from_the_trainers_is_refused_even_with_fitting_hashes(
    graph_files: Files, said: str, off_by: float
) -> None:
    golden = arrays_of(graph_files["golden.npz"])
    golden[said][3] += off_by
    with pytest.raises(BundleError, match="differs from XGBoost"):
        load(forged(graph_files, golden_npz=pack_arrays(golden)))


@pytest.mark.parametrize("rows", [0, 5])
def test_golden_rows_of_another_shape_are_refused(files: Files, rows: int) -> None:
    golden = arrays_of(files["golden.npz"])
    golden["rows"] = golden["rows"][:rows, :-1] if rows else golden["rows"][:0]
    with pytest.raises(BundleError, match="can't be used"):
        load(forged(files, golden_npz=pack_arrays(golden)))


def test_a_drift_reference_of_other_features_is_refused(files: Files) -> None:
    reference = {name: array[:-1] for name, array in arrays_of(files["drift.npz"]).items()}
    with pytest.raises(BundleError, match="can't be used"):
        load(forged(files, drift_npz=pack_arrays(reference)))


def test_a_graph_model_without_its_weights_is_refused(files: Files, graph_files: Files) -> None:
    with pytest.raises(BundleError, match="can't be used"):
        load(forged(files, model_onnx=graph_files["model.onnx"]))


# Hostile bundles.


@pytest.mark.parametrize("name", ["trees_npz", "golden_npz", "drift_npz"])
def test_a_pickle_in_disguise_is_refused_and_never_run(files: Files, name: str) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return os.putenv, ("FRAUD_TEST_WAS_RUN", "1")

    buffer = io.BytesIO()
    np.savez(buffer, roots=np.array([Hostile()], dtype=object))
    os.environ.pop("FRAUD_TEST_WAS_RUN", None)
    with pytest.raises(BundleError, match="can't be used"):
        load(forged(files, **{name: buffer.getvalue()}))
    shown = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert "FRAUD_TEST_WAS_RUN" not in shown


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("left", lambda c: np.where(c >= 0, 0, c)),
        ("right", lambda c: np.where(c >= 0, len(c), c)),
        ("right", lambda c: np.where(c >= 0, -1, c)),
        ("left", lambda c: np.where(c >= 0, -2, c)),
        ("feature", lambda c: c + 10_000),
        ("feature", lambda c: c - 10_000),
        ("cover", np.zeros_like),
        ("value", lambda c: c * np.nan),
        ("threshold", lambda c: c[:-1]),
        ("roots", lambda c: c[:0]),
        ("roots", lambda c: c + 1_000_000),
        ("roots", lambda c: np.zeros_like(c)),
    ],
)
def test_trees_that_are_none_are_refused_and_never_walked(
    files: Files, column: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    trees = arrays_of(files["trees.npz"])
    trees[column] = change(trees[column])
    with pytest.raises(BundleError, match=r"can't be used \(ValueError"):
        load(forged(files, trees_npz=pack_arrays(trees)))


def test_arrays_that_would_fill_the_memory_are_refused_unread(files: Files) -> None:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("rows.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(ARRAY_BYTES_MAX // 1_000_000 + 1):
            member.write(bytes(1_000_000))
    with pytest.raises(BundleError, match="can't be used"):
        load(forged(files, golden_npz=buffer.getvalue()))


def test_a_file_larger_than_any_real_one_is_refused_unread(files: Files, tmp_path: Path) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with (tmp_path / "drift.npz").open("ab") as file:
        file.truncate(FILE_BYTES_MAX["drift.npz"] + 1)
    with pytest.raises(BundleError, match=r"drift\.npz"):
        source_of(str(tmp_path)).read()


@pytest.mark.parametrize(
    "header",
    [
        {"weights": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}},
        {"weights": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"weights": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"weights": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {"weights": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
    ],
    ids=["doubles", "too short", "past the end", "negative", "enormous"],
)
def test_tensors_that_do_not_lie_within_their_file_are_refused(header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(ValueError, match="weights"):
        tensors(len(text).to_bytes(8, "little") + text + bytes(4))


def test_a_tensor_that_holds_no_numbers_is_refused() -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    with pytest.raises(ValueError, match="no number"):
        tensors(len(text).to_bytes(8, "little") + text + np.float32(np.nan).tobytes())


def test_an_archive_leads_nowhere_else(files: Files, tmp_path: Path) -> None:
    link = a_member("model.onnx", kind=tarfile.SYMTYPE)
    link.linkname = "/etc/passwd"
    hard = a_member("sage.safetensors", kind=tarfile.LNKTYPE)
    hard.linkname = "manifest.json"
    others = [(link, b""), (hard, b"")]
    others += [(a_member(f"{path}evil", 4), b"evil") for path in ("../", "/", "a/../../", "")]
    read = unpacked(packed({n: d for n, d in files.items() if n != "model.onnx"}, *others))
    assert set(read) == set(files) - {"model.onnx"}


def test_an_archive_that_unpacks_to_more_than_a_bundle_is_refused(files: Files) -> None:
    bomb = [(a_member("card.md", 120_000_000), bytes(120_000_000))]
    archive = packed({"manifest.json": files["manifest.json"]}, *bomb)
    assert len(archive) < 1_000_000
    with pytest.raises(BundleError, match="more than a bundle"):
        unpacked(archive)


@pytest.mark.parametrize("cut", [0, 1, 100, -200])
def test_a_cut_archive_is_refused(files: Files, cut: int) -> None:
    with pytest.raises(BundleError, match="archive"):
        unpacked(packed(files)[:cut])


def test_a_file_that_is_there_twice_is_refused(files: Files) -> None:
    again = files["trees.npz"]
    with pytest.raises(BundleError, match=r"trees\.npz"):
        unpacked(packed(files, (a_member("trees.npz", len(again)), again)))


# Places.


@pytest.mark.parametrize(
    "uri",
    ["s3://bucket/bundle", "s3:///key.tar.gz", "https://host/bundle.tar.gz", "file://host/bundle"],
)
def test_a_place_that_is_not_served_is_refused_with_the_setting_named(uri: str) -> None:
    with pytest.raises(BundleError, match="FRAUD_SHADOW_MODEL_URI"):
        source_of(uri, "FRAUD_SHADOW_MODEL_URI")


def test_a_missing_folder_is_refused_with_the_setting_named() -> None:
    with pytest.raises(BundleError, match="FRAUD_MODEL_URI"):
        source_of("/no/such/folder").read()


def an_object(**answers: dict[str, Any]) -> S3Object:
    """An S3 object whose client answers as S3's own service model allows."""
    connect: Any = boto3.client  # boto3 has no types
    source = S3Object("bucket", "models/bundle.tar.gz", "FRAUD_MODEL_URI")
    source._client = connect(
        "s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    stub: Any = botocore.stub.Stubber(source._client)  # type: ignore[no-untyped-call]
    for operation, answer in answers.items():
        stub.add_response(operation, answer, {"Bucket": "bucket", "Key": "models/bundle.tar.gz"})
    stub.activate()
    return source


def test_a_bundle_in_s3_loads_and_its_tag_is_its_fingerprint(files: Files) -> None:
    archive = packed(files)
    body: Any = botocore.response.StreamingBody(  # type: ignore[no-untyped-call]
        io.BytesIO(archive), len(archive)
    )
    source = an_object(head_object={"ETag": '"one"'}, get_object={"Body": body})
    assert source.fingerprint() == '"one"'
    assert load(source.read()).version == load(files).version


def test_a_bucket_is_asked_in_the_region_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    connect: Any = boto3.client  # boto3 has no types
    clients: list[Any] = []

    def connected(*told: Any, **options: Any) -> Any:
        client = connect(*told, **options)
        stub: Any = botocore.stub.Stubber(client)  # type: ignore[no-untyped-call]
        stub.add_response("head_object", {"ETag": '"1"'})
        stub.activate()
        clients.append(client)
        return client

    monkeypatch.setattr(boto3, "client", connected)
    for region in ("ap-south-1", ""):
        assert source_of("s3://bucket/bundle.tar.gz", region=region).fingerprint() == '"1"'
    assert [client.meta.region_name for client in clients] == ["ap-south-1", "eu-north-1"]


def test_an_object_that_s3_does_not_give_is_refused_without_its_details() -> None:
    source = an_object()
    with pytest.raises(BundleError, match="FRAUD_MODEL_URI: S3 does not give"):
        source.fingerprint()


def test_a_folders_fingerprint_changes_with_its_files_and_with_where_a_link_leads(
    files: Files, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_bytes(files["manifest.json"])
    link = tmp_path / "current"
    link.symlink_to("a")
    source = Folder(link, "FRAUD_MODEL_URI")
    first = source.fingerprint()
    assert source.fingerprint() == first
    link.unlink()
    link.symlink_to("b")
    second = source.fingerprint()
    (tmp_path / "b" / "trees.npz").write_bytes(files["trees.npz"])
    assert len({first, second, source.fingerprint()}) == 3


# What a name stands for.


def test_the_version_depends_on_everything_that_decides(files: Files) -> None:
    manifest = json.loads(files["manifest.json"])
    names = {version_of(manifest)}
    for part in ("files", "schema_hash", "graph_hash", "calibration", "costs"):
        names.add(version_of({**manifest, part: "other"}))
    assert len(names) == 6


def test_the_limit_in_the_manifest_is_the_one_enforced(files: Files) -> None:
    assert json.loads(files["manifest.json"])["parity_max"] == PARITY_MAX


def test_serving_loads_neither_the_trainer_nor_its_libraries() -> None:
    program = (
        "import sys, smartpay_fraud.joining\n"
        "from smartpay_fraud.adapters.bundle_source import source_of\n"
        "from smartpay_fraud.adapters.model_bundle import load\n"
        "load(source_of('').read())\n"
        "print(sorted({'xgboost', 'scipy', 'onnx', 'torch', 'boto3'} & set(sys.modules)))\n"
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
