"""What a proposed routing policy would have earned, told from the decisions already made.

Only first places and first attempts count: what a cascade does behind them depends on why the
first attempt failed, which no propensity knows. `off_policy` has the estimators and their sources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from smartpay_router.domain import direct_method, off_policy
from smartpay_router.domain.off_policy import Floats, Interval, Logged, OffPolicyError

EFFECTIVE_DECISIONS_MIN = 100
"""Fewer effective decisions than this are called thin: a share of .9 is then known to no better
than 6 points either way, more than most proposals change."""


class Estimator(StrEnum):
    """How a value was estimated; `off_policy` says what each one trusts."""

    IPS = "ips"
    SNIPS = "snips"
    DM = "dm"
    DR = "dr"


class Caution(StrEnum):
    """Why the figures deserve less trust than their intervals say."""

    THIN_SUPPORT = "THIN_SUPPORT"
    """The log made too few of the decisions that the proposal would make."""

    UNSUPPORTED_ACCOUNTS = "UNSUPPORTED_ACCOUNTS"
    """The proposal chooses accounts that could not have been first then: IPS and SNIPS count
    those charges as worth nothing, DM and DR guess them."""


@dataclass(frozen=True)
class LoggedArm:
    """One account that a logged decision could have put first, or that a proposal would.

    Attributes:
        account: its id.
        fee_share: its fee as a share of the amount, 0 to 1.
        propensity: exact probability with which it stood first, 0 to 1; 0 when it was not eligible.
    """

    account: str
    fee_share: float
    propensity: float


@dataclass(frozen=True)
class LoggedDecision:
    """One decision whose first attempt has ended.

    Attributes:
        values: the context, of one schema in the whole log.
        arms: the accounts, each once.
        first: index of the arm that stood first.
        success: what became of its attempt, 0 to 1.
    """

    values: tuple[float, ...]
    arms: tuple[LoggedArm, ...]
    first: int
    success: float


@dataclass(frozen=True)
class Worth:
    """A policy's value per charge.

    Attributes:
        conversion: share of charges that succeed at the first attempt.
        net_value: share of the amount that is left after failures and fees.
    """

    conversion: Interval
    net_value: Interval


@dataclass(frozen=True)
class Evaluation:
    """A proposal beside what was served.

    Attributes:
        decisions: how many the log holds.
        logged: what they earned.
        proposed: what the proposal would have earned, by each estimator.
        effective_decisions: how many of the proposal's own decisions the log is worth.
        unsupported_share: share of charges that the proposal gives to accounts that could not have
            been first.
        cautions: what to know before trusting it.
    """

    decisions: int
    logged: Worth
    proposed: Mapping[Estimator, Worth]
    effective_decisions: float
    unsupported_share: float
    cautions: tuple[Caution, ...]


def evaluate(log: Sequence[LoggedDecision], target: Sequence[Sequence[float]]) -> Evaluation:
    """Estimates what a proposal would have earned in the place of the policies that were served.

    Args:
        log: decisions and what became of them; any order.
        target: for each decision and each of its arms, in their order, the probability that the
            proposal puts it first. What a decision's lack to 1 is charged nowhere and worth 0.

    Raises:
        OffPolicyError: naming the row, when the log is empty or too short for a model, a number is
            out of its range, or the log holds nothing that the proposal would do.
    """
    table = _table(log, target)
    unseen, ridge = direct_method.out_of_fold(*table.examples)
    model = direct_method.fit(*table.examples, ridge)
    conversion = _estimates(table, model, unseen, np.ones_like(table.keeps))
    net_value = _estimates(table, model, unseen, table.keeps)
    keeps = table.logged.of_chosen(table.keeps)
    effective = off_policy.effective_size(table.logged, table.target)
    unsupported = float(table.target[table.propensities == 0].sum()) / len(log)
    cautions = []
    if effective < EFFECTIVE_DECISIONS_MIN:
        cautions.append(Caution.THIN_SUPPORT)
    if unsupported > 0:
        cautions.append(Caution.UNSUPPORTED_ACCOUNTS)
    return Evaluation(
        decisions=len(log),
        logged=Worth(
            off_policy.on_policy(table.logged.rewards),
            off_policy.on_policy(table.logged.rewards * keeps),
        ),
        proposed={name: Worth(conversion[name], net_value[name]) for name in Estimator},
        effective_decisions=effective,
        unsupported_share=unsupported,
        cautions=tuple(cautions),
    )


@dataclass(frozen=True)
class _Table:
    """The log as arrays, a column per account; keeps is what is left after the fee."""

    values: Floats
    logged: Logged
    propensities: Floats
    keeps: Floats
    target: Floats

    @property
    def examples(self) -> tuple[Floats, Logged, int]:
        return self.values, self.logged, self.target.shape[1]


def _table(log: Sequence[LoggedDecision], target: Sequence[Sequence[float]]) -> _Table:
    if not log:
        raise OffPolicyError("the log has no rows")
    if len(target) != len(log):
        raise OffPolicyError("the proposal needs its probabilities for every decision")
    columns: dict[str, int] = {}
    for decision in log:
        for arm in decision.arms:
            columns.setdefault(arm.account, len(columns))
    shape = (len(log), len(columns))
    propensities, keeps, wanted = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    chosen = np.zeros(len(log), np.int64)
    for row, (decision, probabilities) in enumerate(zip(log, target, strict=True)):
        if len(decision.values) != len(log[0].values):
            raise OffPolicyError(f"row {row}: the context is of another schema than the first")
        _check(row, decision, probabilities)
        for arm, probability in zip(decision.arms, probabilities, strict=True):
            column = columns[arm.account]
            propensities[row, column] = arm.propensity
            keeps[row, column] = 1 - arm.fee_share
            wanted[row, column] = probability
        chosen[row] = columns[decision.arms[decision.first].account]
    rewards = np.array([decision.success for decision in log])
    first = propensities[np.arange(len(log)), chosen]
    off_policy.checked_target(wanted)
    return _Table(
        np.array([decision.values for decision in log], dtype=np.float64),
        Logged(chosen, first, rewards),
        propensities,
        keeps,
        wanted,
    )


def _check(row: int, decision: LoggedDecision, probabilities: Sequence[float]) -> None:
    accounts = [arm.account for arm in decision.arms]
    if len(set(accounts)) != len(accounts):
        raise OffPolicyError(f"row {row}: an account stands twice in the decision")
    if len(probabilities) != len(accounts):
        raise OffPolicyError(f"row {row}: the proposal needs a probability for each account")
    if not 0 <= decision.first < len(accounts):
        raise OffPolicyError(f"row {row}: the first place is none of the accounts")
    if not 0 <= decision.success <= 1:
        raise OffPolicyError(f"row {row}: success must be within 0 to 1")
    for arm in decision.arms:
        if not (0 <= arm.propensity <= 1 and 0 <= arm.fee_share <= 1):
            raise OffPolicyError(
                f"row {row}: fee share and propensity of {arm.account} must be within 0 to 1"
            )


def _estimates(
    table: _Table, model: direct_method.DirectMethod, unseen: Floats, worth: Floats
) -> dict[Estimator, Interval]:
    """Values the target when success of an arm is worth so much; `unseen` are predictions."""
    logged = Logged(
        table.logged.chosen,
        table.logged.propensities,
        table.logged.rewards * table.logged.of_chosen(worth),
    )
    model_variance = model.variance(table.values, table.target * worth)
    predicted = model.predict(table.values) * worth
    return {
        Estimator.IPS: off_policy.ips(logged, table.target),
        Estimator.SNIPS: off_policy.snips(logged, table.target),
        Estimator.DM: off_policy.dm(predicted, table.target, model_variance=model_variance),
        Estimator.DR: off_policy.dr(logged, table.target, unseen * worth),
    }
