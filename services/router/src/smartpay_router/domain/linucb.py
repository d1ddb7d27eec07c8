"""LinUCB over additive sums: what each account achieves, and how much of that is not yet known.

One ridge regression per model (Li et al. 2010, arXiv 1003.0146), with what payments need: a prior
around the success that cards have, outcomes that fade with time, a shrunk correction for each
account, and decisions that narrow the width before their outcomes come.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from smartpay_router.domain.learner import VARIANCE_FLOOR, Arm, Estimates, Knowledge
from smartpay_router.domain.memory import Known, Memory
from smartpay_router.domain.schema import Schema, Values
from smartpay_router.domain.shrinkage import shrinkage
from smartpay_router.domain.totals import Totals

TIME_MAX_SECONDS = float(2**33)
"""The year 2242. A time in milliseconds would make all that was learned weigh nothing."""


@dataclass(frozen=True)
class Tuning:
    """The learner's numbers; chosen on the training seeds of the bench's worlds.

    Attributes:
        prior_success: what a model is believed to achieve before its first outcome. Near what
            cards achieve: with 0 the first account that works is never compared with another.
        memory_seconds: after how long an outcome weighs 1/e; infinity never forgets.
        ridge_doubt: how far the schema's ridges may be off, as a standard deviation of their
            logarithm; 0 keeps them whatever is seen. See `shrinkage`.
        residual_outcomes: how many outcomes of its own an account needs before half of what sets
            it apart from its model is believed.
        refresh_share: part of the memory after which estimates are solved anew, so that what
            fades is at most that share behind.
        refresh_changes: changes of a model after which its are, so that rounding never adds up.
        pending_seconds: how long a decision waits for its outcome before it counts no more.
        pending_max: how many wait at most; beyond, the oldest counts no more. Bounds memory to
            some 15 MB.
    """

    prior_success: float = 0.9
    memory_seconds: float = 151_200.0
    ridge_doubt: float = 0.6
    residual_outcomes: float = 15.0
    refresh_share: float = 1 / 64
    refresh_changes: int = 512
    pending_seconds: float = 86_400.0
    pending_max: int = 20_000


class _Model:
    """What is solved of one model, and its row in the learner's stack."""

    __slots__ = ("changes", "known", "pending", "row", "steps")

    def __init__(self, row: int, known: Known) -> None:
        self.row = row
        self.known = known
        self.pending: Values = np.zeros((len(known.own), len(known.own)))
        self.changes = 0  # tells accounts that the weights have moved
        self.steps = 0  # since it was solved


class _Account:
    """What follows from one account's sums."""

    __slots__ = ("changes", "correction", "known", "square", "waiting")

    def __init__(self, known: Known) -> None:
        self.known = known
        self.waiting = 0
        self.changes = -1  # of the model when the following were computed; -1 never
        self.correction = 0.0
        self.square = 0.0


class LinUcb:
    """The served learner. For one thread: the event loop's, or a simulation's.

    Per model it holds A = R + sum w x x' and b = R m + sum w r x, with ridges R that never fade
    around the prior m, and outcomes that do; these also tell how strong R should be (`shrinkage`).
    Solved are A^-1 and the weights A^-1 b; each outcome then moves both exactly (Sherman and
    Morrison, 1950) until they are solved anew. A second inverse includes decisions that wait for
    their outcome, and answers the width.

    Args:
        schema: what contexts mean.
        tuning: the learner's numbers.
        owner: which replica this is; its totals bear the name.
        epoch: which life of the replica this is; larger than in any life before.
    """

    def __init__(
        self, schema: Schema, tuning: Tuning = Tuning(), owner: str = "one", epoch: int = 0
    ) -> None:
        self._schema = schema
        self._tuning = tuning
        self._size = size = len(schema.features)
        self._memory = Memory(schema.key, size, tuning.memory_seconds, owner, epoch)
        self._ridges = np.diag(schema.ridges)  # as chosen last
        self._prior = np.zeros(size)
        self._prior[0] = tuning.prior_success
        self._models: dict[str, _Model] = {}
        self._accounts: dict[str, _Account] = {}
        self._pending: OrderedDict[tuple[Arm, float, bytes], int] = OrderedDict()
        # Row 0 is a model that nobody has seen. Each row's last line holds the weights, so that
        # one product with a context answers for all models.
        self._stack: Values = np.zeros((1, size + 1, size))
        self._stack[0, :size] = np.diag(1 / np.array(schema.ridges))
        self._stack[0, size] = self._prior
        self._inverses = self._stack[:, :size].copy()
        self._lay_out()
        self._buffers = np.zeros(size), np.zeros((size, size))
        self._frame = 0.0  # the time for which estimates are solved
        self._fresh = (0.0, tuning.refresh_share * tuning.memory_seconds)
        self._lessons = self._lessons_known = 0  # since the last refresh, and known by then

    @property
    def version(self) -> str:
        """Names the learner and the meaning of its contexts."""
        return f"linucb-{self._schema.key}"

    @property
    def outcomes(self) -> int:
        """How many outcomes it knows of, those of other replicas included."""
        return self._memory.outcomes

    def estimates(
        self, arms: Sequence[Arm], values: Sequence[float] | Values, at: float
    ) -> Estimates:
        """Estimates each arm's success for one context."""
        vector = self._schema.checked(values)
        if len(self._stack) > _WHOLE_STACK_ROWS:
            many = self.estimates_many(arms, vector[None], at)
            return Estimates(many.success[0], many.width[0], many.spread[0], many.outcomes)
        self._keep_fresh(at)
        self._flat.dot(vector, self._products)
        self._lines.dot(vector, self._squares)
        means, squares = self._means.tolist(), self._squares.tolist()
        success, width, spread, outcomes = [], [], [], []
        # A few plain floats are quicker than as many calls on tiny arrays.
        for arm in arms:
            row, correction, square, count = self._looked_up(arm)
            mean, doubt = means[row] + correction, math.sqrt(squares[row] + square)
            variance = mean * (1.0 - mean)
            success.append(mean)
            width.append(doubt)
            spread.append(
                doubt * math.sqrt(variance if variance > VARIANCE_FLOOR else VARIANCE_FLOOR)
            )
            outcomes.append(count)
        return Estimates(np.array(success), np.array(width), np.array(spread), outcomes)

    def estimates_many(
        self, arms: Sequence[Arm], matrix: Sequence[Sequence[float]] | Values, at: float
    ) -> Estimates:
        """Estimates each arm's success for many contexts at once."""
        vectors = self._schema.checked_many(matrix)
        self._keep_fresh(at)
        found = [self._looked_up(arm) for arm in arms]
        stack = self._stack[[row for row, _, _, _ in found]]
        products = (vectors @ stack.reshape(-1, self._size).T).reshape(
            len(vectors), len(found), self._size + 1
        )
        squares = np.matmul(products[:, :, :-1], vectors[:, :, None])[:, :, 0]
        return Estimates.of(
            products[:, :, -1] + np.array([correction for _, correction, _, _ in found]),
            np.sqrt(squares + np.array([square for _, _, square, _ in found])),
            [outcomes for _, _, _, outcomes in found],
        )

    def pull(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        """Narrows the width for a decision whose outcome is not known yet.

        Else all decisions made while outcomes are under way would explore the same thing.

        Raises:
            ValueError: when the values or the time make no sense.
        """
        vector = self._schema.checked(values)
        self._keep_fresh(at)
        self._let_go(at - self._tuning.pending_seconds)
        key = (arm, at, vector.tobytes())
        self._pending[key] = self._pending.get(key, 0) + 1
        self._count(arm, vector, at, 1)

    def release(self, arm: Arm, values: Sequence[float] | Values, at: float) -> None:
        """Widens again what `pull` narrowed; one that is not waiting any more changes nothing.

        Args:
            arm: as pulled.
            values: as pulled.
            at: as pulled: when the decision was made.
        """
        vector = self._schema.checked(values)
        key = (arm, at, vector.tobytes())
        waiting = self._pending.get(key, 0)
        if waiting == 0:
            return
        if waiting == 1:
            del self._pending[key]
        else:
            self._pending[key] = waiting - 1
        self._count(arm, vector, at, -1)

    def learn(
        self, arm: Arm, values: Sequence[float] | Values, reward: float, decided_at: float
    ) -> None:
        """Takes in one outcome; it weighs by the time of its decision, however late it comes.

        Raises:
            ValueError: when the reward is not within 0 to 1, or the values or the time make no
                sense; nothing was learned then.
        """
        vector = self._schema.checked(values)
        if not 0 <= reward <= 1:  # also false for NaN
            raise ValueError("a reward must be within 0 to 1")
        _checked_time(decided_at)
        if decided_at > self._fresh[1]:
            self._refresh(decided_at)
        self._move_landmark(decided_at)
        self._memory.add(arm, vector, reward, decided_at)
        self._account(arm.account)
        model = self._model(arm.model)
        weight = math.exp((decided_at - self._frame) / self._tuning.memory_seconds)
        weights = self._stack[model.row, self._size]
        surprise = reward - float(weights.dot(vector))
        gain = self._rank_one(self._inverses[model.row], vector, weight)
        weights += gain * surprise
        self._rank_one(self._stack[model.row, : self._size], vector, weight)
        model.changes += 1
        self._stepped(model)
        self._lessons += 1
        if self._lessons > self._lessons_known:
            self._fresh = _NEVER  # twice as much is known: the ridges may be seen otherwise

    def learn_many(
        self,
        arms: Sequence[Arm],
        matrix: Sequence[Sequence[float]] | Values,
        rewards: Sequence[float] | Values,
        decided_at: Sequence[float] | Values,
    ) -> None:
        """Takes in many outcomes at once, as on start, with the sums of doing it one by one.

        Raises:
            ValueError: when any of them could not be learned alone; nothing was learned then.
        """
        vectors = self._schema.checked_many(matrix)
        reward = np.asarray(rewards, dtype=np.float64)
        times = np.asarray(decided_at, dtype=np.float64)
        if not len(arms) == len(vectors) == len(reward) == len(times):
            raise ValueError("each outcome needs an arm, values, a reward and a time")
        if not ((reward >= 0) & (reward <= 1)).all():
            raise ValueError("a reward must be within 0 to 1")
        if not len(arms):
            return
        for end in (float(times.min()), float(times.max())):
            _checked_time(end)
        self._move_landmark(float(times.max()))
        self._memory.add_many(arms, vectors, reward, times)
        self._follow_memory()

    def forget(self, account: str) -> None:
        """Drops what sets an account apart once its merchant removed it; its model stays."""
        self._memory.forget(account)
        self._accounts.pop(account, None)

    def knowledge(self, account: str, at: float) -> Knowledge:
        """Tells how much of an account's own past still counts; zeros for one never seen."""
        found = self._accounts.get(account)
        if found is None:
            return Knowledge(0, 0.0, 0.0)
        self._keep_fresh(at)
        sums = self._memory.told(found.known)
        return Knowledge(found.known.outcomes, float(sums[0]), float(sums[-1]))

    def totals(self) -> Totals:
        """Answers what this replica alone has learned, as a copy."""
        return self._memory.totals()

    def resume(self, totals: Totals) -> None:
        """Goes on from a snapshot of this replica's own totals.

        Raises:
            ValueError: when something was learned already, or the snapshot is not of this schema
                and memory.
        """
        self._memory.resume(totals)
        self._follow_memory()

    def share(self, others: Iterable[Totals]) -> None:
        """Replaces all that is known of other replicas; totals of this one are passed over.

        Raises:
            ValueError: when a total is of another schema or memory; nothing changed then.
        """
        self._memory.share(others)
        self._follow_memory()

    def _follow_memory(self) -> None:
        """Has everything solved anew before it is asked for again, after sums were replaced."""
        for name in self._memory.models:
            self._model(name)
        for name in self._memory.accounts:
            self._account(name)
        self._fresh = _NEVER

    def _looked_up(self, arm: Arm) -> tuple[int, float, float, int]:
        """Answers an arm's row of the stack, its account's correction and square, and outcomes.

        The square is what is not known of the correction: the part of the model's outcomes that
        other accounts had, over those that the account has, its prior's included. So a new
        account of a well-known model is in doubt, and one that is all its model is not twice.
        """
        model = self._models.get(arm.model)
        if model is None:
            return 0, 0.0, 0.0, 0
        account = self._accounts.get(arm.account)
        if account is None:
            apart = 1.0 if model.known.outcomes else 0.0
            return model.row, 0.0, apart / self._tuning.residual_outcomes, 0
        if account.changes != model.changes:
            self._correct(account, model)
        return model.row, account.correction, account.square, account.known.outcomes

    def _correct(self, account: _Account, model: _Model) -> None:
        """Computes the account's mean surprise, shrunk by n / (n + residual_outcomes)."""
        sums, all_weight = self._memory.told(account.known), self._memory.told_weight(model.known)
        weight = float(sums[0])
        surprise = float(sums[-1] - np.dot(self._stack[model.row, self._size], sums[:-1]))
        known = weight + self._tuning.residual_outcomes
        account.correction = surprise / known
        # Rounding may leave a little more to the account than to all.
        apart = max(0.0, 1.0 - weight / all_weight) if all_weight else 0.0
        account.square = apart / (known + account.waiting)
        account.changes = model.changes

    def _model(self, name: str) -> _Model:
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = _Model(len(self._stack), self._memory.model(name))
            self._stack = np.concatenate((self._stack, self._stack[:1]))
            self._inverses = np.concatenate((self._inverses, self._inverses[:1]))
            self._lay_out()
        return model

    def _lay_out(self) -> None:
        """Prepares what one product over all models needs, so that no decision allocates it."""
        rows, lines, size = self._stack.shape
        self._flat = self._stack.reshape(rows * lines, size)
        self._products = np.zeros(rows * lines)
        table = self._products.reshape(rows, lines)
        self._lines, self._means = table[:, :size], table[:, size]
        self._squares = np.zeros(rows)

    def _account(self, name: str) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = _Account(self._memory.account(name))
        return account

    def _let_go(self, before: float) -> None:
        """Stops waiting for the outcomes of decisions that are too old, or too many."""
        for _ in range(_LET_GO_MAX):
            if not self._pending:
                return
            key = next(iter(self._pending))
            arm, at, data = key
            if at >= before and len(self._pending) < self._tuning.pending_max:
                return
            waiting = self._pending.pop(key)
            vector = np.frombuffer(data)
            for _ in range(waiting):
                self._count(arm, vector, at, -1)

    def _count(self, arm: Arm, vector: Values, at: float, sign: int) -> None:
        """Adds a waiting decision to the width, or takes it away."""
        model = self._model(arm.model)
        account = self._account(arm.account)
        account.waiting = max(0, account.waiting + sign)  # it may have been forgotten meanwhile
        account.changes = -1
        self._move_landmark(at)
        square = self._buffers[1]
        np.multiply.outer(vector, vector, out=square)
        square *= sign * self._memory.weight(at)
        model.pending += square
        weight = math.exp((at - self._frame) / self._tuning.memory_seconds)
        self._rank_one(self._stack[model.row, : self._size], vector, sign * weight)
        self._stepped(model)

    def _rank_one(self, inverse: Values, vector: Values, weight: float) -> Values:
        """Makes (A + w x x')^-1 of A^-1 in place; answers the gain w A'^-1 x of the new one."""
        column, square = self._buffers
        inverse.dot(vector, column)
        gain = column * (weight / (1.0 + weight * float(column.dot(vector))))
        np.multiply.outer(gain, column, out=square)
        inverse -= square
        return gain

    def _move_landmark(self, at: float) -> None:
        factor = self._memory.move_landmark(at)
        if factor != 1.0:
            for model in self._models.values():
                model.pending *= factor

    def _stepped(self, model: _Model) -> None:
        model.steps += 1
        if model.steps >= self._tuning.refresh_changes:
            self._solve(model)

    def _keep_fresh(self, at: float) -> None:
        if not self._fresh[0] <= at <= self._fresh[1]:
            _checked_time(at)
            self._refresh(at)

    def _refresh(self, at: float) -> None:
        """Solves all estimates anew, as of a time."""
        slack = self._tuning.refresh_share * self._tuning.memory_seconds
        self._frame = self._memory.look_from(at)
        self._fresh = (at - slack, self._frame + slack)
        self._lessons, self._lessons_known = 0, self._memory.outcomes
        self._choose_ridges()
        for model in self._models.values():
            self._solve(model)

    def _choose_ridges(self) -> None:
        ridges = np.array(self._schema.ridges)
        ridges[1:] *= shrinkage(
            (self._memory.told(model.known) for model in self._models.values()),
            ridges,
            self._tuning.prior_success,
            self._tuning.ridge_doubt,
        )
        self._ridges = np.diag(ridges)
        self._stack[0, : self._size] = np.diag(1 / ridges)

    def _solve(self, model: _Model) -> None:
        sums, size = self._memory.told(model.known), self._size
        precision = sums[:, :size] + self._ridges
        inverse = _inverted(precision)
        target = sums[:, size] + self._ridges @ self._prior
        self._inverses[model.row] = inverse
        self._stack[model.row, size] = inverse @ target
        waiting = precision + self._memory.faded(model.pending)
        self._stack[model.row, :size] = _inverted(waiting)
        model.changes += 1
        model.steps = 0


_LET_GO_MAX = 8  # with each pull: more than come in, and none has to wait for a day's worth
_WHOLE_STACK_ROWS = 8  # up to here one product over all models beats picking those asked for
_NEVER = (math.inf, -math.inf)


def _inverted(precision: Values) -> Values:
    inverse = np.linalg.inv(precision)
    return (inverse + inverse.T) / 2


def _checked_time(at: float) -> None:
    if not 0 <= at <= TIME_MAX_SECONDS:  # also false for NaN
        raise ValueError("a time must be in seconds since 1970, before 2242")
