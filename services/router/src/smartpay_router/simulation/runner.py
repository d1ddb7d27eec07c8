"""Sends a stream of payments through a policy and counts what it lost."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from smartpay_router.simulation.stream import Codes, Floats, Stream
from smartpay_router.simulation.world import World

SHORTFALL_FROM = 200
"""Payments after which a shortfall counts: of fewer, one bad choice is a large share."""

_BOOTSTRAPS = 10_000
_QUANTILES = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Payment:
    """What a policy is told of a payment.

    Attributes:
        number: counts from 0.
        at: seconds since the epoch.
        values: `stream.FEATURES`, shape [22].
        fee_shares: share of the amount that each arm takes, shape [k].
        kinds: codes of merchant type, region, method and currency.
        merchant: whose it is, from 0.
    """

    number: int
    at: float
    values: Floats
    fee_shares: Floats
    kinds: dict[str, int]
    merchant: int


class Policy(Protocol):
    """Something that chooses an arm for each payment and may learn from what comes of it."""

    def choose(self, payment: Payment) -> int:
        """Answers an arm's index."""
        ...

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Hears of an outcome, at the time `at`; `technical` tells failures apart."""
        ...


Maker = Callable[[World, Stream, int], Policy]
"""Makes a policy for a world, its stream, which only an oracle looks at, and a seed."""


@dataclass(frozen=True)
class Run:
    """What one policy made of one stream.

    Attributes:
        choices: the arm of each payment, shape [n].
        lost: expected share of the amount lost against the best arm, per payment, shape [n].
        gained: the same gained over the baseline, per payment, shape [n]; may be negative.
        baseline: expected share of the amount left by the baseline, per payment, shape [n].
    """

    choices: Codes
    lost: Floats
    gained: Floats
    baseline: Floats

    @property
    def regret(self) -> float:
        """What was lost over the whole stream, in average payments."""
        return float(self.lost.sum())

    @property
    def shortfall_percent(self) -> float:
        """How far the total ever fell behind the baseline's, from the 200th payment on; >= 0."""
        behind = -np.cumsum(self.gained)[SHORTFALL_FROM - 1 :]
        if not len(behind):
            return 0.0
        share = behind / np.cumsum(self.baseline)[SHORTFALL_FROM - 1 :]
        return max(0.0, 100 * float(share.max()))

    @property
    def gain_percent(self) -> float:
        """What the whole stream brought more than the baseline would have."""
        return 100 * float(self.gained.sum() / self.baseline.sum())


def run(stream: Stream, policy: Policy, *, delay_payments: int = 0) -> Run:
    """Sends every payment through the policy; outcomes come so many payments later."""
    waiting: deque[tuple[Payment, int]] = deque()
    choices = np.zeros(len(stream.at), np.int64)
    names = tuple(stream.kinds)
    columns = [codes.tolist() for codes in stream.kinds.values()]
    times, merchants = stream.at.tolist(), stream.merchants.tolist()
    for number, at in enumerate(times):
        # Outcomes that are due come first: the payment that waits for them is a later one.
        while waiting and waiting[0][0].number < number - delay_payments:
            _settle(stream, policy, *waiting.popleft(), at)
        payment = Payment(
            number=number,
            at=at,
            values=stream.values[number],
            fee_shares=stream.fee_shares[number],
            kinds=dict(zip(names, (codes[number] for codes in columns), strict=True)),
            merchant=merchants[number],
        )
        arm = policy.choose(payment)
        choices[number] = arm
        if not stream.lost[number]:
            waiting.append((payment, arm))
    worth = stream.worth
    chosen = np.take_along_axis(worth, choices[:, None], axis=1)[:, 0]
    return Run(
        choices=choices,
        lost=worth.max(axis=1) - chosen,
        gained=chosen - worth[:, 0],
        baseline=worth[:, 0],
    )


def _settle(stream: Stream, policy: Policy, payment: Payment, arm: int, at: float) -> None:
    succeeded = bool(stream.succeeds[payment.number, arm])
    technical = not succeeded and bool(stream.technical[payment.number, arm])
    policy.settle(payment, arm, succeeded, technical, at)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Answers the 95 % interval of a mean over seeds: bootstrap, percentiles, always the same."""
    sample = np.asarray(values, float)
    dice = np.random.default_rng(0)
    means = sample[dice.integers(0, len(sample), (_BOOTSTRAPS, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, _QUANTILES)
    return float(low), float(high)


def ratio_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Answers the 95 % interval of a ratio of means over the same seeds: paired bootstrap."""
    pairs = np.column_stack((ours, theirs))
    dice = np.random.default_rng(0)
    sums = pairs[dice.integers(0, len(pairs), (_BOOTSTRAPS, len(pairs)))].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], _QUANTILES)
    return float(low), float(high)


def summary(
    name: str, world: World, policy: str, seeds: Sequence[int], runs: Sequence[Run]
) -> dict[str, Any]:
    """Sums runs up for one JSON line: regret in average payments, shares, percents."""
    regrets = [each.regret for each in runs]
    low, high = interval(regrets)
    chosen = np.concatenate([each.choices for each in runs])
    counts = np.bincount(chosen, minlength=len(world.arms))
    digest = hashlib.sha256(b"".join(each.choices.astype("<i2").tobytes() for each in runs))
    return {
        "world": name,
        "policy": policy,
        "seeds": list(seeds),
        "payments": len(runs[0].choices),
        "regret": round(float(np.mean(regrets)), 2),
        "regret_low": round(low, 2),
        "regret_high": round(high, 2),
        "regrets": [round(regret, 2) for regret in regrets],
        "first_place": {
            arm.name: round(float(count / len(chosen)), 4)
            for arm, count in zip(world.arms, counts, strict=True)
        },
        "shortfall_percent": round(max(each.shortfall_percent for each in runs), 3),
        "gain_percent": round(float(np.mean([each.gain_percent for each in runs])), 3),
        "curve": _curve(runs),
        "decisions_sha256": digest.hexdigest(),
    }


def _curve(runs: Sequence[Run], points: int = 60) -> list[float]:
    """The mean regret so far, at so many evenly spaced payments."""
    total = np.mean([np.cumsum(each.lost) for each in runs], axis=0)
    places = np.linspace(0, len(total) - 1, min(points, len(total))).astype(int)
    return [round(float(value), 2) for value in total[places]]
