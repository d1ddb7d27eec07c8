"""Says exactly how much each feature added to a score, fast enough for every decision.

Path-dependent Tree SHAP (Lundberg et al. 2020, "From local explanations to global understanding
with explainable AI for trees"): a feature's share is its Shapley value in the game where unknown
features follow the training data's proportions. In a tree, a leaf's share of that game depends only
on which features of its path the payment satisfies, so every leaf gets a table with one row per
pattern, built once at load (Yang 2021, "Fast TreeSHAP", version 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray

LEAF = -1
"""Stands for "no child" in an ensemble's columns."""

_SLOTS_MAX = 8  # patterns of met conditions are numbered in one byte; tables double per slot


@dataclass(frozen=True)
class Ensemble:
    """Boosted trees as columns, one entry per node; children are indices into the same columns.

    A payment goes left when its float32 value is below `threshold`, or when the value is missing
    and `missing_left` says so. `value` counts at leaves and is in log-odds; `cover` is the weight
    of the training payments that reached the node. `roots` holds each tree's first node.
    """

    roots: NDArray[np.int32]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float32]
    cover: NDArray[np.float32]
    base_margin: float


@dataclass
class _Condition:
    """What a path demands of one feature: lower <= value < upper, or missing where allowed."""

    lower: np.float32
    upper: np.float32
    missing: bool
    share: float

    def narrowed(
        self, threshold: np.float32, left: bool, missing: bool, share: float
    ) -> _Condition:
        return _Condition(
            lower=self.lower if left else max(self.lower, threshold),
            upper=min(self.upper, threshold) if left else self.upper,
            missing=self.missing and missing,
            share=self.share * share,
        )


_ANYTHING = _Condition(np.float32(-np.inf), np.float32(np.inf), True, 1.0)


class Attribution:
    """The tables of one ensemble; `contributions` reads them for one payment."""

    def __init__(self, ensemble: Ensemble, feature_count: int) -> None:
        leaves = _leaves(ensemble)
        slots = max(1, max(len(path) for _, path in leaves))
        if slots > _SLOTS_MAX:
            raise ValueError(f"a tree asks for {slots} features on one path, at most {_SLOTS_MAX}")
        conditions: dict[tuple[int, float, float, bool], int] = {}
        condition_of = np.zeros((len(leaves), slots), np.intp)
        feature_of = np.zeros((len(leaves), slots), np.intp)
        # A slot that a short path leaves free is always met with share 1, so it adds exactly 0.
        shares = np.ones((len(leaves), slots))
        free = conditions.setdefault((0, -np.inf, np.inf, True), 0)
        condition_of[:] = free
        for row, (_, path) in enumerate(leaves):
            for slot, (feature, need) in enumerate(path.items()):
                name = (feature, float(need.lower), float(need.upper), need.missing)
                condition_of[row, slot] = conditions.setdefault(name, len(conditions))
                feature_of[row, slot] = feature
                shares[row, slot] = need.share
        values = np.array([ensemble.value[leaf] for leaf, _ in leaves], np.float64)
        self._tables = _tables(values, shares).reshape(-1, slots).astype(np.float32)
        self._first_row = np.arange(len(leaves), dtype=np.intp) << slots
        self._powers = (1 << np.arange(slots)).astype(np.uint8)
        self._condition_of = np.ascontiguousarray(condition_of.T)
        self._features = feature_of.ravel()
        self._feature_count = feature_count
        self._feature = np.array([name[0] for name in conditions], np.intp)
        self._lower = np.array([name[1] for name in conditions], np.float32)
        self._upper = np.array([name[2] for name in conditions], np.float32)
        self._missing = np.array([name[3] for name in conditions])
        self.expected = float((values * shares.prod(axis=1)).sum() + ensemble.base_margin)

    def contributions(self, row: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds that each feature added to `expected`; together they give the payment's margin.

        Takes float32 [features], returns float64 [features].
        """
        values = row.take(self._feature)
        met = values >= self._lower
        met &= values < self._upper
        met |= self._missing & np.isnan(values)
        bits = met.view(np.uint8).take(self._condition_of)
        shares = self._tables.take(self._first_row + self._powers @ bits, axis=0)
        totals = np.bincount(self._features, shares.ravel(), minlength=self._feature_count)
        return totals.astype(np.float64, copy=False)


def _leaves(ensemble: Ensemble) -> list[tuple[int, dict[int, _Condition]]]:
    """Every leaf with what its path demands, feature by feature."""
    leaves: list[tuple[int, dict[int, _Condition]]] = []
    open_nodes: list[tuple[int, dict[int, _Condition]]] = [(int(r), {}) for r in ensemble.roots]
    while open_nodes:
        node, path = open_nodes.pop()
        if ensemble.left[node] == LEAF:
            leaves.append((node, path))
            continue
        feature, threshold = int(ensemble.feature[node]), ensemble.threshold[node]
        missing_left = bool(ensemble.missing_left[node])
        for child, left in ((int(ensemble.left[node]), True), (int(ensemble.right[node]), False)):
            share = float(ensemble.cover[child]) / float(ensemble.cover[node])
            need = path.get(feature, _ANYTHING)
            narrowed = need.narrowed(threshold, left, missing_left is left, share)
            open_nodes.append((child, {**path, feature: narrowed}))
    return leaves


def _tables(values: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shapley values [leaf, pattern of met slots, slot] of the product game of every leaf."""
    leaf_count, slots = shares.shape
    patterns = (np.arange(1 << slots)[:, None] >> np.arange(slots)) & 1
    tables = np.zeros((leaf_count, 1 << slots, slots))
    for slot in range(slots):
        others = [other for other in range(slots) if other != slot]
        weighted = np.zeros((leaf_count, 1 << slots))
        for size in range(slots):
            weight = factorial(size) * factorial(slots - size - 1) / factorial(slots)
            for known in combinations(others, size):
                unknown = [other for other in others if other not in known]
                met = patterns[:, list(known)].all(axis=1)
                weighted += weight * np.outer(shares[:, unknown].prod(axis=1), met)
        gain = patterns[None, :, slot] - shares[:, slot, None]
        tables[:, :, slot] = values[:, None] * gain * weighted
    return tables
