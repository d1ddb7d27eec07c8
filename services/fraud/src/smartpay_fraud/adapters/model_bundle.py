"""Loads a model bundle and refuses every bundle that is not exactly what was trained.

A bundle is a set of files: manifest.json (what it is, with the SHA-256 of each other file),
model.onnx (the graph's head and the trees, served), trees.npz (the same trees, for reasons),
sage.safetensors (how payments of the graph become messages; absent without a graph), golden.npz
(rows with what XGBoost and torch said of them), drift.npz (how the training looked) and model.ubj
(XGBoost's own file, for comparisons; only its hash is checked). Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.adapters.bundle_source import FILE_BYTES_MAX, MANIFEST, BundleError
from smartpay_fraud.adapters.onnx_models import OnnxModel
from smartpay_fraud.adapters.safetensors_file import tensors
from smartpay_fraud.domain.attribution import Attribution, Ensemble
from smartpay_fraud.domain.drift import Reference
from smartpay_fraud.domain.features import FEATURES, schema_hash
from smartpay_fraud.domain.graph import GRAPH_WIDTH, MessageWeights, graph_hash
from smartpay_fraud.domain.verdict import Calibration, Costs

FORMAT = 2
FILES = ("model.onnx", "model.ubj", "trees.npz", "golden.npz", "drift.npz")
"""What every bundle holds beside its manifest."""

SAGE = "sage.safetensors"
"""Held only by a bundle whose model reads the graph."""

PARITY_MAX = 1e-5
"""Largest difference in log-odds from XGBoost on the golden rows: ten times float32's noise."""

ARRAY_BYTES_MAX = 64_000_000
"""The most that one npz file may hold unpacked; compressed zeros can claim to be anything."""

_DECIDING = ("files", "schema_hash", "graph_hash", "calibration", "costs")
_REQUIRED = (*_DECIDING, "training", "metrics", "model_version")


@dataclass(frozen=True)
class ModelBundle:
    """A verified model, ready to score.

    Attributes:
        version: names this bundle by everything that decides its verdicts.
        calibration: turns margins into probabilities.
        costs: turns probabilities into verdicts.
        engine: scores.
        attribution: explains.
        weights: how the graph's payments become messages; None without a graph.
        reference: how the training looked.
        training: on what it was trained, as the manifest tells it.
        metrics: how well it did there.
    """

    version: str
    calibration: Calibration
    costs: Costs
    engine: OnnxModel
    attribution: Attribution
    weights: MessageWeights | None
    reference: Reference
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def columns(self) -> int:
        """How many columns the trees see."""
        return self.attribution.column_count

    def stack(self, rows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the trees see: base rows with the graph's columns beside them."""
        return np.concatenate([rows, columns], axis=1) if columns.shape[1] else rows


def load(files: Mapping[str, bytes]) -> ModelBundle:
    """Verifies the files of a bundle.

    Raises:
        BundleError: a file is missing, damaged or foreign, the features or the graph are not this
            service's, or the engine does not say what XGBoost and torch said.
    """
    manifest = _manifest(files)
    with_graph = SAGE in manifest["files"]
    verified = {
        name: _verified(files, name, manifest["files"])
        for name in (*FILES, *((SAGE,) if with_graph else ()))
    }
    if manifest["schema_hash"] != schema_hash() or manifest["graph_hash"] != (
        graph_hash() if with_graph else ""
    ):
        raise BundleError(
            "manifest.json: the bundle was trained on other features than this service computes; "
            "run `python -m smartpay_fraud.train` with this version of the code."
        )
    if manifest["model_version"] != version_of(manifest):
        raise BundleError("manifest.json: it was changed after training; restore the bundle.")
    try:
        bundle = _read(manifest, verified)
        worst = _difference(bundle, arrays(verified["golden.npz"]))
    except Exception as error:
        raise BundleError(
            f"the bundle's files can't be used ({type(error).__name__}: {str(error)[:200]}); "
            "train it again."
        ) from error
    if not worst <= PARITY_MAX:  # also refuses NaN
        raise BundleError(
            f"golden.npz: the engine differs from XGBoost by {worst:.1e}, more than {PARITY_MAX}; "
            "train the bundle again with this onnxruntime."
        )
    return bundle


def seal(manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, Any]:
    """Completes a manifest with what ties it to the files: hashes, format and the version."""
    sealed = {
        **manifest,
        "format": FORMAT,
        "parity_max": PARITY_MAX,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    return {**sealed, "model_version": version_of(sealed)}


def write(folder: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Writes a sealed bundle; the manifest last, so that a reader finds it whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    for name in FILE_BYTES_MAX.keys() - contents.keys() - {MANIFEST}:
        (folder / name).unlink(missing_ok=True)
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text)


def version_of(manifest: Mapping[str, Any]) -> str:
    """Names a bundle by everything that decides its verdicts, so that no two share a name."""
    text = json.dumps({name: manifest[name] for name in _DECIDING}, sort_keys=True)
    kind = "stack" if SAGE in manifest["files"] else "trees"
    return f"{kind}-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def pack(ensemble: Ensemble) -> bytes:
    """Writes an ensemble's columns for `load`; equal trees give equal bytes."""
    columns = asdict(ensemble)
    columns["base_margin"] = np.array(ensemble.base_margin)
    return pack_arrays(columns)


def pack_arrays(named: Mapping[str, NDArray[Any]]) -> bytes:
    """Writes named arrays as npz without any pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **named)
    return buffer.getvalue()


def arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Reads named arrays; raises ValueError for pickles and for what would not fit in memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(member.file_size for member in archive.infolist()) > ARRAY_BYTES_MAX:
            raise ValueError(f"the arrays take more than {ARRAY_BYTES_MAX} bytes")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _manifest(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        manifest = json.loads(files[MANIFEST])
        whole = manifest["format"] == FORMAT and all(name in manifest for name in _REQUIRED)
        whole = whole and manifest["files"].keys() <= {*FILES, SAGE}
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError("manifest.json: missing or unreadable; give a whole bundle.") from error
    if not whole:
        raise BundleError(
            f"manifest.json: not of format {FORMAT} or not complete; train the bundle again."
        )
    return dict(manifest)


def _verified(files: Mapping[str, bytes], name: str, hashes: Mapping[str, str]) -> bytes:
    data = files.get(name)
    if data is None:
        raise BundleError(f"{name}: missing; give a whole bundle.")
    if hashlib.sha256(data).hexdigest() != hashes.get(name):
        raise BundleError(f"{name}: its hash is not the manifest's; restore the bundle.")
    return data


def _read(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> ModelBundle:
    engine = OnnxModel(files["model.onnx"])
    weights = MessageWeights(**tensors(files[SAGE])) if SAGE in files else None
    if engine.graph is not (weights is not None):
        raise ValueError("the model and the messages' weights do not belong together")
    ensemble = _ensemble(files["trees.npz"])
    reference = Reference(**arrays(files["drift.npz"]))
    if not reference.fits():
        raise ValueError("drift.npz does not describe these features")
    golden = arrays(files["golden.npz"])
    return ModelBundle(
        manifest["model_version"],
        Calibration(**manifest["calibration"]),
        Costs(**manifest["costs"]),
        engine,
        Attribution(ensemble, golden["contributions"].shape[1]),
        weights,
        reference,
        manifest["training"],
        manifest["metrics"],
    )


def _ensemble(data: bytes) -> Ensemble:
    columns: dict[str, Any] = arrays(data)
    columns["base_margin"] = float(columns["base_margin"])
    return Ensemble(**columns)


def _difference(bundle: ModelBundle, golden: Mapping[str, NDArray[Any]]) -> float:
    """The worst difference from what the trainers' own libraries said, together and row by row."""
    rows, margins = golden["rows"], golden["margins"]
    if rows.dtype != np.float32 or rows.shape != (max(1, len(margins)), len(FEATURES)):
        raise ValueError("golden.npz does not hold rows of these features")
    graph = golden["graph"] if bundle.weights else np.zeros((len(rows), GRAPH_WIDTH), np.float32)
    together, columns = bundle.engine.infer(rows, graph)
    alone = np.concatenate(
        [bundle.engine.infer(rows[n : n + 1], graph[n : n + 1])[0] for n in range(len(rows))]
    )
    shares = bundle.attribution.contributions(bundle.stack(rows, columns))
    differences = [
        together - margins,
        alone - margins,
        shares - golden["contributions"],
        bundle.attribution.expected + shares.sum(axis=1) - margins,
    ]
    if bundle.weights:
        differences.append(columns - golden["graph_columns"])
    # Not Python's max, which passes over what is no number.
    return float(np.max([np.abs(difference).max() for difference in differences]))
