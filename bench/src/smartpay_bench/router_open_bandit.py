"""Part of `make bench-router`: our off-policy estimators on real logs with a published table.

The Open Bandit Dataset (Saito, Aihara, Matsutani and Narita, arXiv 2008.07146; CC BY 4.0): what
two policies showed on a fashion shop's page, with exact propensities. From the log of the random
one the value of the other, Bernoulli Thompson sampling, is estimated on 30 bootstraps and compared
with the mean of its own log. The published table (zr-obp 0.4.1, examples/obd) names the mean
relative error of each estimator; its model is gradient boosting, ours a ridge regression.

Of the package `obp` only the CSV files are read; it is fetched, never installed or imported.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smartpay_router.domain import direct_method, off_policy
from smartpay_router.domain.off_policy import Floats, Ints, Logged

PACKAGE = "obp==0.4.1"
SHA256 = "87dec9caf4283c25ab13036532e0a24566f1c7bdcad1653a8ded43b2f5ef8208"
CAMPAIGNS = ("all", "men", "women")
BOOTSTRAPS = 30
"""As in the published table."""

MORE_BOOTSTRAPS = 300
"""Thirty samples of a log with 38 clicks are themselves a matter of luck."""

PUBLISHED = {"ipw": 0.311, "snipw": 0.312, "dm": 0.157, "dr": 0.292}
"""Campaign all, from the random log to Bernoulli Thompson sampling."""

_FETCH_SECONDS = 120.0
_USER_FEATURES = tuple(f"user_feature_{number}" for number in range(4))


@dataclass(frozen=True)
class Campaign:
    """Two logs of one campaign.

    Attributes:
        values: contexts of the random log, shape [n, d].
        logged: the random log; an arm is an item.
        target: the other policy's probability of each item at each row's position, shape [n, k].
        truth: the mean reward of the other policy's own log.
    """

    values: Floats
    logged: Logged
    target: Floats
    truth: float

    def sample(self, rows: Ints) -> Campaign:
        """Answers the same of these rows only."""
        logged = self.logged.of_rows(rows)
        return Campaign(self.values[rows], logged, self.target[rows], self.truth)

    def errors(self) -> dict[str, float]:
        """Answers each estimator's error as a share of the truth."""
        unseen, _ = direct_method.out_of_fold(self.values, self.logged, self.target.shape[1])
        found = {
            "ipw": off_policy.ips(self.logged, self.target),
            "snipw": off_policy.snips(self.logged, self.target),
            "dm": off_policy.dm(unseen, self.target),
            "dr": off_policy.dr(self.logged, self.target, unseen),
        }
        return {name: abs(one.value - self.truth) / self.truth for name, one in found.items()}


def wheel(folder: Path) -> Path:
    """Answers the package's file, fetched once into the folder.

    Raises:
        RuntimeError: when it can't be fetched or is not the file it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (kept := sorted(folder.glob("obp-*.whl"))):
        command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input")
        subprocess.run(
            [*command, "--dest", str(folder), PACKAGE], check=True, timeout=_FETCH_SECONDS
        )
        kept = sorted(folder.glob("obp-*.whl"))
    if len(kept) != 1 or hashlib.sha256(kept[0].read_bytes()).hexdigest() != SHA256:
        raise RuntimeError(f"{folder} holds another file than {PACKAGE}; remove it")
    return kept[0]


def campaign(package: Path, name: str) -> Campaign:
    """Reads both logs of one campaign."""
    random, served = (_rows(package, policy, name) for policy in ("random", "bts"))
    items = 1 + max(int(row["item_id"]) for row in random)
    shares = np.zeros((3, items))
    for row in served:
        shares[int(row["position"]) - 1, int(row["item_id"])] += 1
    shares /= shares.sum(axis=1, keepdims=True)
    positions = np.array([int(row["position"]) - 1 for row in random])
    features = [np.ones(len(random)), positions == 1, positions == 2]
    for feature in _USER_FEATURES:
        kinds = sorted({row[feature] for row in random})
        features += [np.array([row[feature] == kind for row in random]) for kind in kinds[1:]]
    return Campaign(
        values=np.column_stack(features).astype(np.float64),
        logged=Logged(
            _column(random, "item_id").astype(np.int64),
            _column(random, "propensity_score"),
            _column(random, "click"),
        ),
        target=shares[positions],
        truth=float(_column(served, "click").mean()),
    )


def bootstrapped(logs: Campaign, count: int, seed: int) -> dict[str, float]:
    """Answers the mean error of each estimator over so many bootstraps."""
    dice, size = np.random.default_rng(seed), len(logs.logged)
    errors = [logs.sample(dice.integers(0, size, size)).errors() for _ in range(count)]
    return {name: float(np.mean([one[name] for one in errors])) for name in PUBLISHED}


def _rows(package: Path, policy: str, name: str) -> list[dict[str, str]]:
    with zipfile.ZipFile(package) as archive:
        text = archive.read(f"obp/dataset/obd/{policy}/{name}/{name}.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def _column(rows: list[dict[str, str]], name: str) -> NDArray[np.float64]:
    return np.array([float(row[name]) for row in rows])


def main() -> None:
    """Prints one JSON object: campaign all under the names of the table, the others beside it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path(".run/open-bandit"))
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    package, told = wheel(chosen.cache), dict[str, float]()
    for name in CAMPAIGNS:
        logs, suffix = campaign(package, name), "" if name == "all" else f"_{name}"
        for estimator, error in bootstrapped(logs, BOOTSTRAPS, chosen.seed).items():
            told[f"ope_{estimator}{suffix}"] = error
        if name == "all":
            for estimator, error in bootstrapped(logs, MORE_BOOTSTRAPS, chosen.seed).items():
                told[f"ope_{estimator}_{MORE_BOOTSTRAPS}"] = error
    print(json.dumps(told))


if __name__ == "__main__":
    main()
