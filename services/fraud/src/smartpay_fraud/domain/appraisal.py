"""The story of one micro-batch: look and count, ask the models, decide, give reasons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.assessment import Assessment, Decision, Shadow
from smartpay_fraud.domain.features import Vector
from smartpay_fraud.domain.memory import Memory, Sighting
from smartpay_fraud.domain.models import Lineup, Model
from smartpay_fraud.domain.reasons import REASONS_MAX, Reason, reasons_of
from smartpay_fraud.domain.transaction import Transaction, reference_cents
from smartpay_fraud.domain.verdict import Costs


class Judge(Protocol):
    """Turns a probability into a verdict: lists and rules first, then what costs least."""

    def decide(
        self,
        transaction: Transaction,
        row: Vector,
        probability: float,
        costs: Costs,
        now_ms: int,
    ) -> Decision:
        """Decides one payment; `costs` are the model's own, for merchants who state none."""
        ...


class Audience(Protocol):
    """Watches what the models say, to notice when the world has moved away from them."""

    def saw(self, rows: NDArray[np.float32], assessments: Sequence[Assessment]) -> None:
        """Takes note of a scored batch."""
        ...

    def compared(
        self, versions: tuple[str, str], pairs: Sequence[tuple[float, float, bool]]
    ) -> None:
        """Takes note of a batch that champion and challenger both scored.

        Each pair holds the champion's score, the challenger's, and whether both models alone
        would do the same.
        """
        ...

    def lost_challenger(self, error: Exception) -> None:
        """Takes note that the challenger failed; nobody was answered by it."""
        ...


class Appraiser:
    """Assesses transactions that arrived together, each as of everything before it."""

    def __init__(self, memory: Memory, lineup: Lineup, judge: Judge, audience: Audience) -> None:
        self._memory = memory
        self._lineup = lineup
        self._judge = judge
        self._audience = audience

    async def appraise(self, visits: Sequence[tuple[Transaction, int]]) -> list[Assessment]:
        """Counts the transactions, in order, and says what to do with each.

        A transaction that was counted before and never stored is assessed as it was seen then.
        """
        sightings = await self._memory.observe(visits)
        # Read after the last wait: the views were made for these two.
        champion, challenger = self._lineup.champion, self._lineup.challenger
        rows = _matrix([sighting.view.row for sighting in sightings])
        graph = _matrix([sighting.view.graph for sighting in sightings])
        found, stack = await champion.infer(rows, graph)
        contributions = await champion.explain(stack)
        margins: list[float] = found.tolist()
        probabilities = [champion.calibration.probability(margin) for margin in margins]
        shadows: Sequence[Shadow | None] = [None] * len(sightings)
        if challenger is not None:
            shadows = await self._shadows(champion, challenger, rows, sightings, probabilities)
        decide, costs = self._judge.decide, champion.costs
        decisions = [
            decide(sighting.transaction, sighting.view.row, p, costs, sighting.at_ms)
            for sighting, p in zip(sightings, probabilities, strict=True)
        ]
        room = [REASONS_MAX - len(decision.reasons) for decision in decisions]
        told = reasons_of(stack, contributions, room)
        assessments = list(
            map(
                _assessment,
                repeat(champion.version),
                sightings,
                decisions,
                told,
                margins,
                shadows,
            )
        )
        self._audience.saw(rows, assessments)
        return assessments

    async def _shadows(
        self,
        champion: Model,
        challenger: Model,
        rows: NDArray[np.float32],
        sightings: Sequence[Sighting],
        probabilities: Sequence[float],
    ) -> Sequence[Shadow | None]:
        """What the challenger says of the same rows; its failure is nobody's business but ours."""
        graph = _matrix([sighting.view.shadow for sighting in sightings])
        try:
            margins, _ = await challenger.infer(rows, graph)
        except Exception as error:  # whatever a model on trial does, the champion has answered
            self._audience.lost_challenger(error)
            return [None] * len(sightings)
        shadows = [
            Shadow(challenger.version, challenger.calibration.probability(margin))
            for margin in margins.tolist()
        ]
        pairs = []
        for sighting, ours, shadow in zip(sightings, probabilities, shadows, strict=True):
            theirs = shadow.probability
            cents = reference_cents(
                sighting.transaction.amount_minor, sighting.transaction.currency_code
            )
            same = champion.costs.verdict(ours, cents) is challenger.costs.verdict(theirs, cents)
            pairs.append((ours, theirs, same))
        self._audience.compared((champion.version, challenger.version), pairs)
        return shadows


def _matrix(rows: Sequence[Vector]) -> NDArray[np.float32]:
    """Rows below each other; a lone one is not copied."""
    return rows[0][None] if len(rows) == 1 else np.array(rows)


def _assessment(
    version: str,
    sighting: Sighting,
    decision: Decision,
    reasons: list[Reason],
    margin: float,
    shadow: Shadow | None,
) -> Assessment:
    return Assessment(
        sighting.transaction,
        decision.verdict,
        decision.probability,
        (*decision.reasons, *reasons),
        version,
        decision.rules_version,
        sighting.at_ms,
        sighting.view.row.tobytes(),
        margin,
        shadow,
        decision.matched_rules,
        decision.matched_lists,
        decision.opens_review,
        decision.control,
    )
