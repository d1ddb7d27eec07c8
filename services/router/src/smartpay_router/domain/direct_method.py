"""A model of what each arm would have brought, for the estimators that ask one.

One ridge regression over all arms, and for each arm a second one over what the first left, held
near zero by an amount that the log itself chooses. So an arm that was rarely tried is predicted
as arms in general are, and one with a long record by its record. What holds for arms in general
is learned as if all had been tried evenly, or the choices of the policy that was served would pass
for effects of the context.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smartpay_router.domain.off_policy import Floats, Logged, OffPolicyError

FOLDS = 3
"""Parts of the log; each is predicted by a model of the others. As many as the Open Bandit
Pipeline's published protocol uses (arXiv 2008.07146)."""

RIDGES = (10.0, 100.0, 1_000.0, 10_000.0)
"""How many outcomes it may take to move an arm half way from all arms to its own record; the
value that predicts the parts left out best is taken, and none believes an arm on its first few."""

_POOLED_RIDGE = 10.0  # outcomes; all arms together have plenty

_EVENNESS_MAX = 20.0
"""How many times a rarely chosen arm's row counts at most; more would only let few rows speak."""


@dataclass(frozen=True)
class DirectMethod:
    """A fitted model.

    Attributes:
        pooled: weights of all arms, shape [d].
        own: what each arm's weights add, shape [k, d].
        covariances: how uncertain each arm's are, shape [k, d, d].
    """

    pooled: Floats
    own: Floats
    covariances: Floats

    def predict(self, values: Floats) -> Floats:
        """Answers each arm's expected reward in each context [n, d]; shape [n, k]."""
        return values @ (self.pooled + self.own).T

    def variance(self, values: Floats, weights: Floats) -> float:
        """Answers the variance of mean(sum(weights * predict(values))) that is the model's own.

        Args:
            values: contexts, shape [n, d].
            weights: what each arm's prediction counts, shape [n, k].
        """
        means = weights.T @ values / len(values)
        return float(np.einsum("kd,kde,ke->", means, self.covariances, means))


def fit(values: Floats, logged: Logged, arms: int, ridge: float) -> DirectMethod:
    """Fits the model to a whole log.

    Args:
        values: contexts, the first feature being the intercept, shape [n, d].
        logged: which arm was chosen, 0 to arms - 1, and what it brought.
        arms: how many arms there are.
        ridge: as `out_of_fold` chose it.
    """
    sums = _Sums.of(values, logged, arms)
    # As if arms had little in common: how much they have is itself a guess.
    return DirectMethod(sums.pooled, sums.own(ridge), sums.covariances(min(RIDGES)))


def out_of_fold(values: Floats, logged: Logged, arms: int) -> tuple[Floats, float]:
    """Predicts every row [n, k] by models that have not seen it; answers the best ridge as well.

    Arguments are those of `fit`.

    Raises:
        OffPolicyError: when there are fewer rows than FOLDS, or a context is no such vector.
    """
    if len(values) < FOLDS:
        raise OffPolicyError(f"the model needs at least {FOLDS} rows")
    if not np.isfinite(values).all():
        raise OffPolicyError("the contexts must be finite")
    if not (values[:, 0] == 1).all():
        raise OffPolicyError("the contexts' first feature must be the intercept, 1")
    folds = np.arange(len(values)) % FOLDS
    predicted = np.empty((len(RIDGES), len(values), arms))
    for fold in range(FOLDS):
        inside, outside = folds != fold, folds == fold
        sums = _Sums.of(values[inside], logged.of_rows(inside), arms)
        for number, ridge in enumerate(RIDGES):
            weights = sums.pooled + sums.own(ridge)
            predicted[number, outside] = values[outside] @ weights.T
    rows = np.arange(len(values))
    errors = (predicted[:, rows, logged.chosen] - logged.rewards) ** 2 @ _evenness(logged)
    best = int(errors.argmin())
    return predicted[best], RIDGES[best]


@dataclass(frozen=True)
class _Sums:
    """The normal equations of the arms' own parts: what the pooled model left to explain."""

    pooled: Floats
    squares: Floats
    products: Floats
    noise: Floats

    @classmethod
    def of(cls, values: Floats, logged: Logged, arms: int) -> _Sums:
        width, chosen, rewards = values.shape[1], logged.chosen, logged.rewards
        evenly = _evenness(logged)
        mean = float(rewards @ evenly / evenly.sum())  # what the pooled model is held near
        weighed = values * evenly[:, None]
        held = weighed.T @ values + _POOLED_RIDGE * np.eye(width)
        pooled = np.asarray(np.linalg.solve(held, weighed.T @ (rewards - mean)), np.float64)
        pooled[0] += mean
        left = rewards - values @ pooled
        squares, products = np.zeros((arms, width, width)), np.zeros((arms, width))
        noise = np.full(arms, float(left.var()))
        for arm in range(arms):
            mine = chosen == arm
            squares[arm] = values[mine].T @ values[mine]
            products[arm] = values[mine].T @ left[mine]
            if np.count_nonzero(mine) > width:  # fewer say little of their own noise
                noise[arm] = float(left[mine].var())
        return cls(pooled, squares, products, noise)

    def own(self, ridge: float) -> Floats:
        return np.asarray(np.linalg.solve(self._held(ridge), self.products[..., None])[..., 0])

    def covariances(self, ridge: float) -> Floats:
        return np.asarray(np.linalg.inv(self._held(ridge)) * self.noise[:, None, None])

    def _held(self, ridge: float) -> Floats:
        return self.squares + ridge * np.eye(self.squares.shape[1])


def _evenness(logged: Logged) -> Floats:
    """Weighs each row as if all arms had been tried evenly; as many rows in all."""
    weights = np.minimum(1 / logged.propensities, _EVENNESS_MAX)
    return np.asarray(weights * (len(logged) / weights.sum()))
