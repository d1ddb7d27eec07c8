"""How good scores are, in the measures that fraud papers publish."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]
Days = NDArray[np.int64]

CARDS_PER_DAY = 100
"""How many cards a day investigators can look at: the 100 of card precision@100."""


def average_precision(fraud: Flags, scores: Scores) -> float:
    """The mean precision over all frauds, ranked by score; ties count as one step."""
    order = np.argsort(-scores, kind="stable")
    ranked = fraud[order]
    last_of_tie = np.r_[np.diff(scores[order]) != 0, True]
    caught = np.cumsum(ranked)[last_of_tie]
    taken = np.flatnonzero(last_of_tie) + 1
    gained = np.diff(np.r_[0, caught]) / max(1, int(caught[-1]))
    return float((caught / taken * gained).sum())


def roc_auc(fraud: Flags, scores: Scores) -> float:
    """The chance that a fraud scores above an honest payment; ties count half."""
    _, rank, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle = last - (counts - 1) / 2
    frauds = int(fraud.sum())
    honest = len(fraud) - frauds
    return float((middle[rank][fraud].sum() - frauds * (frauds + 1) / 2) / (frauds * honest))


def card_precision(fraud: Flags, scores: Scores, cards: Days, days: Days) -> float:
    """Of the 100 most suspicious cards a day, the share with a fraud that day, averaged over days.

    A card caught on an earlier day is left out from then on (Dal Pozzolo 2015).
    """
    caught: set[int] = set()
    precisions = []
    for day in np.unique(days).tolist():
        today = np.flatnonzero(days == day)
        best: dict[int, float] = {}
        bad: set[int] = set()
        for index in today.tolist():
            card = int(cards[index])
            if card in caught:
                continue
            best[card] = max(best.get(card, -np.inf), float(scores[index]))
            if fraud[index]:
                bad.add(card)
        shown = sorted(best, key=lambda card: (-best[card], card))[:CARDS_PER_DAY]
        found = bad.intersection(shown)
        caught |= found
        precisions.append(len(found) / CARDS_PER_DAY)
    return float(np.mean(precisions))
