"""Trains a bundle and says what it is worth: `python -m smartpay_fraud.train`.

Without arguments it makes the packaged bundle from nothing; with `--transactions FILE` it judges
and learns from anybody's payments. Progress goes before, the last line is the headline as JSON.
It runs in `.venv-train` (torch and PyArrow), which `make train` makes; serving needs neither. In a
SageMaker training job the same command finds its data and its output folder by itself.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from smartpay_fraud.training.champion import ChampionKeptError, IncomparableError
from smartpay_fraud.training.job import Job, JobError, job_of
from smartpay_fraud.training.protocol import ProtocolError
from smartpay_fraud.training.stream import TableError

_NEEDED = ("onnx", "pyarrow", "safetensors", "torch", "torch_geometric", "xgboost")
USAGE, UNUSABLE, NO_ENVIRONMENT = 64, 65, 78
"""Exit codes (sysexits.h): a job set up wrongly, data that can't be used, packages missing."""

CHAMPION_KEPT = 3
"""Exit code: all went well, and the model in place is the better one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as told by the arguments, or by SageMaker; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m smartpay_fraud.train", description=__doc__)
    parser.add_argument("--transactions", type=Path, help="Parquet or CSV table of payments")
    parser.add_argument("--protocol", choices=["handbook"], default="handbook", help="the only one")
    parser.add_argument("--out", type=Path, help="folder of the bundle and its model card")
    parser.add_argument(
        "--champion",
        type=Path,
        metavar="BUNDLE",
        help="the bundle to beat, else nothing is replaced; without it the one that --out holds",
    )
    parser.add_argument(
        "--weeks",
        choices=["test", "validation"],
        default="test",
        help="validation: judge on earlier weeks, to choose parameters; writes no bundle",
    )
    given = parser.parse_args(arguments)
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        _say(
            f"this environment has no {', '.join(missing)}; train in .venv-train (`make train` "
            "makes it, from services/fraud/requirements-train.txt)."
        )
        return NO_ENVIRONMENT
    # Only now: without the packages above the import itself would fail, and say less.
    from smartpay_fraud.training import pipeline

    job: Job | None = None
    try:
        job = job_of(os.environ)
        transactions = given.transactions or (job.transactions if job else None)
        out = given.out or (job.out if job else None)
        former = given.champion or (job.champion if job else None)
        pipeline.run(transactions, out, given.weeks == "validation", former)
    except JobError as error:
        _say(str(error))
        return USAGE
    except (TableError, ProtocolError, IncomparableError, ChampionKeptError) as error:
        if job is not None:
            job.failed(error)
        _say(str(error))
        return CHAMPION_KEPT if isinstance(error, ChampionKeptError) else UNUSABLE
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
