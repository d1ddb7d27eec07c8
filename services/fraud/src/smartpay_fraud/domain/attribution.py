"""Says exactly how much each feature added to a score, fast enough for every decision.

Path-dependent Tree SHAP (Lundberg et al. 2020, "From local explanations to global understanding
with explainable AI for trees"): a feature's share is its Shapley value in the game where unknown
features follow the training data's proportions. In a tree, a leaf's share of that game depends only
on which turns of its path the payment takes, so tables with one row per pattern of turns can be
built once at load (Yang 2021, "Fast TreeSHAP", version 2). Here up to four neighbouring leaves,
which share most of their path, share one table: a third of the lookups for the same memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray

LEAF = -1
"""Stands for "no child" in an ensemble's columns."""

ROWS_AT_ONCE = 16
"""Rows explained in one sweep: more no longer fit the processor's cache and take twice as long."""

_NODES_MAX = 8  # turns of a table: their bits are one byte; tables double per turn
# Against these fmax gives a row as it is, and once more with what is missing below everything.
_AS_IT_IS_AND_LOW = np.array([[np.nan], [-np.inf]], np.float32)


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


@dataclass(frozen=True)
class _Leaf:
    """A leaf and the nodes that lead to it, each with whether the way goes left there."""

    node: int
    path: tuple[tuple[int, bool], ...]


class Attribution:
    """The tables of one ensemble; `contributions` reads them for many payments at once.

    Attributes:
        expected: the margin of a payment of which nothing is known, in log-odds.
        column_count: columns of a row.

    Raises:
        ValueError: the columns are no trees over so many columns, or the trees are too deep.
    """

    def __init__(self, ensemble: Ensemble, column_count: int) -> None:
        _check(ensemble, column_count)
        leaves = _leaves(ensemble)
        shares, slots = _shares(ensemble, leaves)
        values = ensemble.value[[leaf.node for leaf in leaves]].astype(np.float64)
        self.expected = float((values * shares.prod(axis=1)).sum() + ensemble.base_margin)
        self.column_count = column_count
        games = _games(values, shares)
        groups = _groups(leaves)
        added_by: list[dict[int, NDArray[np.float64]]] = []
        # Whatever a turn asks stands in the row as it is, or behind it where the missing is low. A
        # place without a turn asks for less than the least there is. The last group is nobody's:
        # its one line holds zeros.
        places = np.zeros((len(groups) + 1, _NODES_MAX), np.intp)
        thresholds = np.full(places.shape, -np.inf, np.float32)
        lines = [1] * len(places)
        for group, members in enumerate(groups):
            turns = list(dict.fromkeys(node for n in members for node, _ in leaves[n].path))
            goes_left_missing = ensemble.missing_left[turns]
            places[group, : len(turns)] = ensemble.feature[turns] + column_count * goes_left_missing
            thresholds[group, : len(turns)] = ensemble.threshold[turns]
            added_by.append(_added(ensemble, leaves, members, turns, slots, games))
            lines[group] = 1 << len(turns)
        self._places = places.ravel()
        self._thresholds = thresholds.ravel()
        # One line per group and pattern, with a column per feature, so that what belongs to one
        # pattern lies side by side in memory.
        self._first_line = np.cumsum([0, *lines[:-1]])
        self._table = np.zeros((sum(lines), _NODES_MAX), np.float32)
        # Feature, and where a group's line holds it; a column that no tree asks for adds a 0.
        cells = [(column, len(groups) * _NODES_MAX) for column in range(column_count)]
        for group, added in enumerate(added_by):
            first = self._first_line[group]
            for place, (feature, gained) in enumerate(added.items()):
                self._table[first : first + len(gained), place] = gained
                cells.append((feature, group * _NODES_MAX + place))
        # Sorted by feature, so that one sweep of sums over neighbours gives each its total.
        cells.sort()
        self._cells = np.array([cell for _, cell in cells], np.intp)
        features = np.array([feature for feature, _ in cells])
        self._starts = np.searchsorted(features, np.arange(column_count))

    def contributions(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds that each column added to `expected`; together they give each row's margin.

        Takes float32 [n, columns], returns float64 [n, columns].
        """
        if len(rows) <= ROWS_AT_ONCE:
            return self._sums(rows).astype(np.float64)
        totals = np.empty((len(rows), self.column_count))
        for first in range(0, len(rows), ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            totals[some] = self._sums(rows[some])
        return totals

    def _sums(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        asked = np.fmax(rows[:, None], _AS_IT_IS_AND_LOW).reshape(len(rows), -1)
        left = asked.take(self._places, axis=1) < self._thresholds
        turns = np.packbits(left, axis=1, bitorder="little")
        table = self._table.take(turns + self._first_line, axis=0)
        gained = table.reshape(len(rows), -1).take(self._cells, axis=1)
        sums: NDArray[np.float32] = np.add.reduceat(gained, self._starts, axis=1)
        return sums


def _check(ensemble: Ensemble, column_count: int) -> None:
    """Refuses columns that are no trees: whoever walks them must come to an end."""
    left, right, roots = ensemble.left, ensemble.right, ensemble.roots
    count = len(left)
    others = (right, ensemble.feature, ensemble.threshold, ensemble.missing_left)
    if any(len(column) != count for column in (*others, ensemble.value, ensemble.cover)):
        raise ValueError("the trees' columns differ in length")
    inner = np.flatnonzero(left != LEAF)
    children = np.concatenate([left[inner], right[inner]])
    parents = np.concatenate([inner, inner])
    # A child stands behind its parent and has no other, so every way down ends.
    if (
        not np.array_equal(left == LEAF, right == LEAF)
        or (children <= parents).any()
        or (children >= count).any()
        or not len(roots)
        or roots.min() < 0
        or roots.max() >= count
        or len(np.unique(np.concatenate([children, roots]))) != len(children) + len(roots)
    ):
        raise ValueError("the trees' nodes do not hang together")
    asked = ensemble.feature[inner]
    if ((asked < 0) | (asked >= column_count)).any():
        raise ValueError("the trees ask for columns that a row does not have")
    numbers = (ensemble.threshold[inner], ensemble.value, ensemble.cover)
    if not all(np.isfinite(column).all() for column in numbers) or (ensemble.cover <= 0).any():
        raise ValueError("the trees hold what is no number")


def _leaves(ensemble: Ensemble) -> list[_Leaf]:
    """Every leaf with its path."""
    leaves: list[_Leaf] = []
    open_nodes: list[_Leaf] = [_Leaf(int(root), ()) for root in ensemble.roots]
    while open_nodes:
        at = open_nodes.pop()
        if len(at.path) > _NODES_MAX:
            raise ValueError(f"a tree is too deep: a path of more than {_NODES_MAX} turns")
        if ensemble.left[at.node] == LEAF:
            leaves.append(at)
            continue
        for children, left in ((ensemble.left, True), (ensemble.right, False)):
            open_nodes.append(_Leaf(int(children[at.node]), (*at.path, (at.node, left))))
    return leaves


def _shares(
    ensemble: Ensemble, leaves: list[_Leaf]
) -> tuple[NDArray[np.float64], list[dict[int, int]]]:
    """Per leaf and slot the share of training payments that go its way, and each feature's slot.

    A path has one slot per feature it asks; a slot that is left free is always met with share 1,
    so it adds exactly 0.
    """
    slots: list[dict[int, int]] = []
    for leaf in leaves:
        features = (int(ensemble.feature[node]) for node, _ in leaf.path)
        slots.append({feature: n for n, feature in enumerate(dict.fromkeys(features))})
    shares = np.ones((len(leaves), max(1, *map(len, slots))))
    for number, leaf in enumerate(leaves):
        ends = [*(node for node, _ in leaf.path[1:]), leaf.node]
        for (node, _), child in zip(leaf.path, ends, strict=bool(leaf.path)):
            slot = slots[number][int(ensemble.feature[node])]
            shares[number, slot] *= float(ensemble.cover[child]) / float(ensemble.cover[node])
    return shares, slots


def _groups(leaves: list[_Leaf]) -> list[list[int]]:
    """Leaves that hang below the same node near the bottom, as numbers."""
    depth = max(len(leaf.path) for leaf in leaves)
    # As many of the lowest levels as fit: below the cut a table has every node, above it one path.
    cut = next(cut for cut in range(depth + 1) if cut + (1 << depth - cut) - 1 <= _NODES_MAX)
    groups: dict[int, list[int]] = {}
    for number, leaf in enumerate(leaves):
        above = leaf.path[cut][0] if len(leaf.path) > cut else leaf.node
        groups.setdefault(above, []).append(number)
    return list(groups.values())


def _added(
    ensemble: Ensemble,
    leaves: list[_Leaf],
    members: list[int],
    turns: list[int],
    slots: list[dict[int, int]],
    games: NDArray[np.float64],
) -> dict[int, NDArray[np.float64]]:
    """What each feature adds through these leaves, per pattern of turns (bit set: goes left)."""
    patterns = np.arange(1 << len(turns))
    goes_left = {node: (patterns >> place & 1).astype(bool) for place, node in enumerate(turns)}
    added: dict[int, NDArray[np.float64]] = {}
    for number in members:
        met: dict[int, NDArray[np.bool_]] = {}
        for node, left in leaves[number].path:
            feature = int(ensemble.feature[node])
            agrees = goes_left[node] == left
            met[feature] = met[feature] & agrees if feature in met else agrees
        free = (1 << games.shape[2]) - (1 << len(slots[number]))  # slots left free are met
        pattern = free + sum(met[feature] << slot for feature, slot in slots[number].items())
        for feature, slot in slots[number].items():
            gained = games[number, pattern, slot]
            added[feature] = added[feature] + gained if feature in added else gained
    return added


def _games(values: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float64]:
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
