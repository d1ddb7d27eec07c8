"""Loads a model bundle and refuses every bundle that is not exactly what was trained.

A bundle is a folder: manifest.json (what it is, with the SHA-256 of each other file), model.onnx
(the trees, served), trees.npz (the same trees, for reasons), golden.npz (rows with what XGBoost
said of them) and model.ubj (XGBoost's own file, for comparisons; only its hash is checked here).
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.adapters.onnx_models import OnnxTrees
from smartpay_fraud.domain.attribution import Attribution, Ensemble
from smartpay_fraud.domain.features import FEATURES, Vector, schema_hash
from smartpay_fraud.domain.verdict import Calibration, Costs

FORMAT = 1
FILES = ("model.onnx", "trees.npz", "golden.npz", "model.ubj")

PARITY_MAX = 1e-5
"""Largest difference in log-odds from XGBoost on the golden rows: ten times float32's noise."""


class BundleError(Exception):
    """The bundle must not serve; the text names what is wrong and what to do."""


@dataclass(frozen=True)
class ModelBundle:
    """A verified model, ready to score.

    Attributes:
        version: names this bundle: its training's and its files' fingerprint.
        calibration: turns margins into probabilities.
        costs: turns probabilities into verdicts.
        trees: the engine.
        attribution: what explains a score.
    """

    version: str
    calibration: Calibration
    costs: Costs
    trees: OnnxTrees
    attribution: Attribution

    def contributions(self, row: Vector) -> NDArray[np.float64]:
        """What each feature added to a row's margin, in log-odds."""
        return self.attribution.contributions(row)


def packaged() -> Traversable:
    """The bundle that ships with the service."""
    return resources.files("smartpay_fraud") / "bundle"


def locate(uri: str) -> Traversable:
    """Finds the bundle's folder: "" is the packaged one, else a path or a file:// address."""
    if not uri:
        return packaged()
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        raise BundleError(
            f"FRAUD_MODEL_URI: the scheme {parts.scheme!r} is not served; "
            "mount the bundle and give its path or a file:// address."
        )
    folder = Path(unquote(parts.path))
    if not folder.is_dir():
        raise BundleError("FRAUD_MODEL_URI: there is no such folder; give the bundle's folder.")
    return folder


def load(folder: Traversable) -> ModelBundle:
    """Reads and verifies a bundle.

    Raises:
        BundleError: a file is missing, damaged or foreign, the features are not this service's,
            or the engine does not say what XGBoost said.
    """
    manifest = _manifest(folder)
    files = {name: _verified(folder, name, manifest["files"]) for name in FILES}
    if manifest["schema_hash"] != schema_hash():
        raise BundleError(
            "manifest.json: the bundle was trained on other features than this service computes; "
            "run `python -m smartpay_fraud.train` with this version of the code."
        )
    if manifest["model_version"] != version_of(manifest):
        raise BundleError("manifest.json: it was changed after training; restore the bundle.")
    try:
        trees = OnnxTrees(files["model.onnx"])
        attribution = Attribution(_ensemble(files["trees.npz"]), len(FEATURES))
        golden = _arrays(files["golden.npz"])
        calibration = Calibration(**manifest["calibration"])
        costs = Costs(**manifest["costs"])
    except Exception as error:
        raise BundleError(
            f"the bundle's files can't be used ({type(error).__name__}); train it again."
        ) from error
    _check_parity(trees, attribution, golden)
    return ModelBundle(manifest["model_version"], calibration, costs, trees, attribution)


def version_of(manifest: dict[str, Any]) -> str:
    """Names a bundle by everything that decides its verdicts, so that no two share a name."""
    deciding = {name: manifest[name] for name in ("files", "schema_hash", "calibration", "costs")}
    text = json.dumps(deciding, sort_keys=True)
    return "trees-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def pack(ensemble: Ensemble) -> bytes:
    """Writes an ensemble's columns for `load`; equal trees give equal bytes."""
    columns = asdict(ensemble)
    columns["base_margin"] = np.array(ensemble.base_margin)
    return pack_arrays(columns)


def pack_arrays(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Writes named arrays as npz without any pickle."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _manifest(folder: Traversable) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        usable = manifest["format"] == FORMAT
        for name in ("files", "schema_hash", "calibration", "costs", "model_version"):
            usable = usable and name in manifest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError("manifest.json: missing or unreadable; give a whole bundle.") from error
    if not usable:
        raise BundleError(f"manifest.json: not of format {FORMAT}; train the bundle again.")
    return dict(manifest)


def _verified(folder: Traversable, name: str, hashes: dict[str, str]) -> bytes:
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{name}: missing; give a whole bundle.") from error
    if hashlib.sha256(data).hexdigest() != hashes.get(name):
        raise BundleError(f"{name}: its hash is not the manifest's; restore the bundle.")
    return data


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _ensemble(data: bytes) -> Ensemble:
    columns: dict[str, Any] = _arrays(data)
    columns["base_margin"] = float(columns["base_margin"])
    return Ensemble(**columns)


def _check_parity(
    trees: OnnxTrees, attribution: Attribution, golden: dict[str, NDArray[Any]]
) -> None:
    rows = golden["rows"]
    margins = trees.margins(rows)
    alone = np.array([trees.margins(row[None])[0] for row in rows])
    shares = np.array([attribution.contributions(row) for row in rows])
    worst = max(
        float(np.abs(margins - golden["margins"]).max()),
        float(np.abs(alone - golden["margins"]).max()),
        float(np.abs(shares - golden["contributions"]).max()),
        float(np.abs(attribution.expected + shares.sum(axis=1) - golden["margins"]).max()),
    )
    if not worst <= PARITY_MAX:  # also refuses NaN
        raise BundleError(
            f"golden.npz: the engine differs from XGBoost by {worst:.1e}, more than {PARITY_MAX}; "
            "train the bundle again with this onnxruntime."
        )
