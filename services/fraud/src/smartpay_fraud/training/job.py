"""Lets the same training run as a SageMaker training job: where its inputs and outputs lie.

The container's contract (AWS, "How Amazon SageMaker AI provides training information"): data under
/opt/ml/input/data/<channel>, /opt/ml/input/config/hyperparameters.json with text values, the model
is whatever lies in /opt/ml/model at the end, and /opt/ml/output/failure tells why there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/opt/ml")
CHANNELS = ("training", "train", "transactions")
"""Names of the channel looked at, in this order; else the only one there is."""

CHAMPION = "champion"
"""Name of the channel that may hold the unpacked bundle to beat."""

_TABLES = (".parquet", ".pq", ".csv", ".csv.gz")
_FAILURE_MAX = 1024  # characters of it that SageMaker shows


class JobError(Exception):
    """The job was set up in a way that can't be run; the text names what to change."""


@dataclass(frozen=True)
class Job:
    """What a training job was given.

    Attributes:
        transactions: the table to train on; None: the service's own generated streams.
        out: the folder that becomes the model.
        failure: the file that tells why training failed.
        champion: the folder of the bundle to beat, if one was given.
    """

    transactions: Path | None
    out: Path
    failure: Path
    champion: Path | None = None

    def failed(self, error: Exception) -> None:
        """Tells the job's owner why there is no model."""
        self.failure.parent.mkdir(parents=True, exist_ok=True)
        self.failure.write_text(f"{type(error).__name__}: {error}"[:_FAILURE_MAX])


def job_of(environ: Mapping[str, str], root: Path = ROOT) -> Job | None:
    """Finds out whether this process is a training job; None when it is not.

    Raises:
        JobError: the channel holds no table or several, or a hyperparameter is not known.
    """
    config = root / "input" / "config" / "hyperparameters.json"
    if not config.is_file() and "SM_MODEL_DIR" not in environ:
        return None
    if config.is_file():
        for name, value in json.loads(config.read_text()).items():
            known = name.startswith("sagemaker_") or (name, value) == ("protocol", "handbook")
            if not known:
                raise JobError(
                    f"hyperparameters: {name}={value!r} is not known; give protocol=handbook or "
                    "nothing."
                )
    champion = Path(environ.get("SM_CHANNEL_CHAMPION", root / "input" / "data" / CHAMPION))
    return Job(
        transactions=_table(_channel(environ, root)),
        out=Path(environ.get("SM_MODEL_DIR", root / "model")),
        failure=root / "output" / "failure",
        champion=champion if champion.is_dir() else None,
    )


def _channel(environ: Mapping[str, str], root: Path) -> Path | None:
    told = [environ.get(f"SM_CHANNEL_{name.upper()}") for name in CHANNELS]
    data = root / "input" / "data"
    folders = [Path(path) for path in told if path]
    folders += [data / name for name in CHANNELS]
    if data.is_dir():
        others = sorted(path for path in data.iterdir() if path.is_dir() and path.name != CHAMPION)
        folders += others if len(others) == 1 else []
    return next((folder for folder in folders if folder.is_dir()), None)


def _table(channel: Path | None) -> Path | None:
    if channel is None:
        return None
    tables = sorted(path for path in channel.rglob("*") if path.name.endswith(_TABLES))
    if len(tables) != 1:
        raise JobError(
            f"{channel.name}: the channel holds {len(tables)} tables; give exactly one Parquet or "
            "CSV file."
        )
    return tables[0]
