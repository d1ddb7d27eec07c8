"""Trains the trees, reads them out of XGBoost and calibrates what they say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from smartpay_fraud.domain.attribution import LEAF, Ensemble
from smartpay_fraud.domain.features import FEATURES
from smartpay_fraud.domain.verdict import Calibration

Matrix = NDArray[np.float32]
Flags = NDArray[np.bool_]

TREES = 150
SEED = 7

# More of these can only raise the score: a model that learned otherwise from a quirk of the
# stream could be bought by one more declined card.
_RISING = frozenset(
    name
    for name in FEATURES
    if name.startswith("device_cards")
    or name.endswith(("_known_frauds", "_declines_1h", "_declines_24h", "_new_device"))
)

PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "max_bin": 256,
    "max_depth": 4,
    "eta": 0.08,
    "subsample": 0.8,
    "colsample_bytree": 0.6,
    "min_child_weight": 3,
    "lambda": 1.0,
    "base_score": 0.02,  # stated, because the library would otherwise estimate it from the data
    "monotone_constraints": "(" + ",".join(str(int(n in _RISING)) for n in FEATURES) + ")",
    "seed": SEED,
    "nthread": 1,  # one thread adds in one order, so that equal data give equal bytes
}


@dataclass(frozen=True)
class Split:
    """Days of the stream, each [first, last): no payment is judged by labels not yet known.

    Frauds become known within 7 days. Training ends on day 35 and everything up to day 42 only
    waits for labels, of which the calibration's own week is one; testing starts when both the
    training's and the calibration's labels are in.
    """

    train: tuple[int, int] = (0, 35)
    calibrate: tuple[int, int] = (35, 42)
    test: tuple[int, int] = (49, 63)


def train(rows: Matrix, fraud: Flags) -> xgboost.Booster:
    """Fits the trees; equal rows give equal bytes."""
    return xgboost.train(PARAMETERS, xgboost.DMatrix(rows, label=fraud, nthread=1), TREES)


def margins(booster: xgboost.Booster, rows: Matrix) -> NDArray[np.float64]:
    """XGBoost's own log-odds of fraud, float64 [rows]: the reference for every other engine."""
    predicted = booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True)
    return np.asarray(predicted, np.float64)


def contributions(booster: xgboost.Booster, rows: Matrix) -> NDArray[np.float64]:
    """XGBoost's own Shapley values, float64 [rows, features + 1], the last one is expected."""
    predicted = booster.predict(xgboost.DMatrix(rows, nthread=1), pred_contribs=True)
    return np.asarray(predicted, np.float64)


def read_out(booster: xgboost.Booster) -> Ensemble:
    """Copies the trees out of XGBoost's documented JSON model into plain columns."""
    model = json.loads(bytes(booster.save_raw("json")))["learner"]
    base_score = float(str(model["learner_model_param"]["base_score"]).strip("[]"))
    roots, parts = [], []
    offset = 0
    for tree in model["gradient_booster"]["model"]["trees"]:
        left = np.array(tree["left_children"], np.int32)
        right = np.array(tree["right_children"], np.int32)
        inner = left != LEAF
        condition = np.array(tree["split_conditions"], np.float32)
        roots.append(offset)
        parts.append(
            (
                np.where(inner, left + offset, LEAF).astype(np.int32),
                np.where(inner, right + offset, LEAF).astype(np.int32),
                np.array(tree["split_indices"], np.int32),
                np.where(inner, condition, 0).astype(np.float32),
                np.array(tree["default_left"], np.bool_),
                np.where(inner, 0, condition).astype(np.float32),
                np.array(tree["sum_hessian"], np.float32),
            )
        )
        offset += len(left)
    left, right, feature, threshold, missing_left, value, cover = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    return Ensemble(
        roots=np.array(roots, np.int32),
        left=left,
        right=right,
        feature=feature,
        threshold=threshold,
        missing_left=missing_left,
        value=value,
        cover=cover,
        base_margin=float(np.log(base_score / (1 - base_score))),
    )


def calibrate(margin: NDArray[np.float64], fraud: Flags) -> Calibration:
    """Fits Platt scaling by Newton's method on payments that the trees never saw."""
    # Platt's targets: counting one imagined payment of each kind keeps probabilities off 0 and 1.
    frauds = int(fraud.sum())
    honest = len(fraud) - frauds
    target = np.where(fraud, (frauds + 1) / (frauds + 2), 1 / (honest + 2))
    design = np.stack([margin, np.ones_like(margin)], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (probability - target)
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-12:
            break
    return Calibration(slope=float(weights[0]), intercept=float(weights[1]))
