"""What a learner remembers: its own sums, which only grow, and those that other replicas told.

How outcomes fade, and why sums of several replicas add up, is told in `totals`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from smartpay_router.domain.learner import Arm
from smartpay_router.domain.schema import Values
from smartpay_router.domain.totals import Sum, Totals, merged

_LANDMARK_STEP = 32.0
"""How many memories may pass before the landmark moves: weights stay below e^33, far from both
the end of a float's range and the loss of its precision."""


class Known:
    """The sums of one model, shape [d, d + 1], or of one account, shape [d + 1].

    Attributes:
        own: what came to this replica, weighted by the landmark.
        own_outcomes: how many these were.
        others: what other replicas told, by their landmark; None while they told nothing.
    """

    __slots__ = ("others", "own", "own_outcomes")

    def __init__(self, *shape: int) -> None:
        self.own: Values = np.zeros(shape)
        self.own_outcomes = 0
        self.others: Sum | None = None

    @property
    def outcomes(self) -> int:
        """How many outcomes all replicas had."""
        return self.own_outcomes + (self.others.outcomes if self.others is not None else 0)


class Memory:
    """The sums of all models and accounts.

    Args:
        schema_key: what the features mean.
        features: how many there are.
        memory_seconds: after how long an outcome weighs 1/e.
        owner: which replica this is.
        epoch: which life of the replica this is.
    """

    def __init__(
        self, schema_key: str, features: int, memory_seconds: float, owner: str, epoch: int
    ) -> None:
        self._schema_key = schema_key
        self._features = features
        self._seconds = memory_seconds
        self._owner = owner
        self._epoch = epoch
        self._revision = 0
        self.models: dict[str, Known] = {}
        self.accounts: dict[str, Known] = {}
        self.landmark = self._others_landmark = 0.0
        self._frame = 0.0
        self._own_factor = self._others_factor = 1.0

    @property
    def outcomes(self) -> int:
        """How many outcomes all replicas had."""
        return sum(model.outcomes for model in self.models.values())

    def model(self, name: str) -> Known:
        """Answers a model's sums, empty ones for a new model."""
        known = self.models.get(name)
        if known is None:
            known = self.models[name] = Known(self._features, self._features + 1)
        return known

    def account(self, name: str) -> Known:
        """Answers an account's sums, empty ones for a new account."""
        known = self.accounts.get(name)
        if known is None:
            known = self.accounts[name] = Known(self._features + 1)
        return known

    def weight(self, at: float) -> float:
        """Answers what an outcome weighs that was decided at a time."""
        return math.exp((at - self.landmark) / self._seconds)

    def move_landmark(self, at: float) -> float:
        """Keeps weights small as time goes on; answers what all earlier sums were multiplied by.

        Landmarks stand on a grid, so that they agree however outcomes were ordered.
        """
        step = _LANDMARK_STEP * self._seconds
        if at - self.landmark < step:
            return 1.0
        landmark = math.floor(at / step) * step
        factor = math.exp((self.landmark - landmark) / self._seconds)
        for known in (*self.models.values(), *self.accounts.values()):
            known.own *= factor
        self.landmark = landmark
        # The landmark passes the frame only when all is to be solved anew; until then any number
        # will do that is one.
        self._own_factor = math.exp(min((landmark - self._frame) / self._seconds, 1.0))
        return factor

    def add(self, arm: Arm, vector: Values, reward: float, at: float) -> None:
        """Adds one outcome, decided at a time for which the landmark has been moved."""
        outcome = np.empty(self._features + 1)
        outcome[:-1], outcome[-1] = vector, reward
        outcome *= self.weight(at)
        model, account = self.model(arm.model), self.account(arm.account)
        model.own += np.multiply.outer(vector, outcome)
        account.own += outcome
        model.own_outcomes += 1
        account.own_outcomes += 1
        self._revision += 1

    def add_many(self, arms: Sequence[Arm], vectors: Values, rewards: Values, at: Values) -> None:
        """Adds outcomes, at least one, with the sums of adding them one by one."""
        weights = np.exp((at - self.landmark) / self._seconds)
        outcomes = np.column_stack((vectors, rewards)) * weights[:, None]
        for name, chosen in _grouped([arm.model for arm in arms]).items():
            model = self.model(name)
            model.own += vectors[chosen].T @ outcomes[chosen]
            model.own_outcomes += len(chosen)
        for name, chosen in _grouped([arm.account for arm in arms]).items():
            account = self.account(name)
            account.own += outcomes[chosen].sum(axis=0)
            account.own_outcomes += len(chosen)
        self._revision += len(arms)

    def forget(self, account: str) -> None:
        """Drops an account's sums; its model's contain them for good."""
        if self.accounts.pop(account, None) is not None:
            self._revision += 1

    def look_from(self, at: float) -> float:
        """Chooses the time as of which sums are told; answers it, never before a landmark.

        What was decided before a landmark that lies ahead would weigh without bounds.
        """
        self._frame = frame = max(at, self.landmark, self._others_landmark)
        self._own_factor = math.exp((self.landmark - frame) / self._seconds)
        self._others_factor = math.exp((self._others_landmark - frame) / self._seconds)
        return frame

    def told(self, known: Known) -> Values:
        """Answers the sums of all replicas, as of the time chosen, as a copy."""
        sums = known.own * self._own_factor
        if known.others is not None:
            sums += known.others.values * self._others_factor
        return sums

    def told_weight(self, model: Known) -> float:
        """Answers what all outcomes of a model weigh together, as of the time chosen."""
        weight = float(model.own[0, 0]) * self._own_factor
        if model.others is not None:
            weight += float(model.others.values[0, 0]) * self._others_factor
        return weight

    def faded(self, values: Values) -> Values:
        """Answers sums weighted by the own landmark, as of the time chosen."""
        return values * self._own_factor

    def totals(self) -> Totals:
        """Answers what this replica alone has learned, as a copy."""
        return Totals(
            schema_key=self._schema_key,
            memory_seconds=self._seconds,
            owner=self._owner,
            epoch=self._epoch,
            revision=self._revision,
            landmark=self.landmark,
            models=_copied(self.models),
            accounts=_copied(self.accounts),
        )

    def resume(self, totals: Totals) -> None:
        """Goes on from a snapshot of this replica's own totals.

        Raises:
            ValueError: when something was learned already, or the snapshot is not of this schema
                and memory.
        """
        if self._revision:
            raise ValueError("a learner resumes before it learns")
        self._check_kinship(totals)
        self._revision = totals.revision
        self.landmark = totals.landmark
        for name, told in totals.models.items():
            known = self.model(name)
            known.own, known.own_outcomes = told.values.copy(), told.outcomes
        for name, told in totals.accounts.items():
            known = self.account(name)
            known.own, known.own_outcomes = told.values.copy(), told.outcomes

    def share(self, others: Iterable[Totals]) -> None:
        """Replaces all that is known of other replicas; totals of this one are passed over.

        Raises:
            ValueError: when a total is of another schema or memory; nothing changed then.
        """
        told = [total for total in others if total.owner != self._owner]
        for total in told:
            self._check_kinship(total)
        models: Mapping[str, Sum] = {}
        accounts: Mapping[str, Sum] = {}
        if told:
            union = merged(told)
            models, accounts, self._others_landmark = union.models, union.accounts, union.landmark
        for name in models:
            self.model(name)
        for name in accounts:
            self.account(name)
        for name, known in self.models.items():
            known.others = models.get(name)
        for name, known in self.accounts.items():
            known.others = accounts.get(name)

    def _check_kinship(self, totals: Totals) -> None:
        if (totals.schema_key, totals.memory_seconds) != (self._schema_key, self._seconds):
            raise ValueError("these totals are of another schema or memory")


def _copied(sums: Mapping[str, Known]) -> dict[str, Sum]:
    return {
        name: Sum(known.own.copy(), known.own_outcomes)
        for name, known in sums.items()
        if known.own_outcomes
    }


def _grouped(names: Iterable[str]) -> Mapping[str, Sequence[int]]:
    """Answers each name with the places at which it stands."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    return places
