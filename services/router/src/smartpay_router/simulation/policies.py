"""The policies that a world can be run with by name."""

from __future__ import annotations

import random
from typing import Any

from smartpay_router.domain.breakers import Breakers, Kind
from smartpay_router.domain.exploration import Budgets
from smartpay_router.domain.learner import Arm, Learner
from smartpay_router.domain.linucb import LinUcb
from smartpay_router.domain.schema import FEATURE_RIDGE, INTERCEPT_RIDGE, Schema
from smartpay_router.domain.steering import Option, Steering
from smartpay_router.simulation.runner import Maker, Payment
from smartpay_router.simulation.srv3 import SuccessRateWindow
from smartpay_router.simulation.stream import FEATURES, Stream
from smartpay_router.simulation.world import World

WORLD_SCHEMA = Schema(
    name="world-1",
    features=FEATURES,
    ridges=(INTERCEPT_RIDGE,) + (FEATURE_RIDGE,) * (len(FEATURES) - 1),
)
"""The same 22 values that every policy is given. Pairs of region and method as features of their
own cost more to learn in 6,000 payments than they bring, even where success depends on them."""


class Steered:
    """Ours: the very steering and learner that the service runs, with their own settings.

    Args:
        world: names the arms; each merchant has an account of its own on each.
        seed: of the dice.
        learner: what to steer with; a fresh one when None.
        breakers: False lets them hear nothing.
        budget: True binds exploration to the merchant's order by its budget, as merchants have it
            unless they set another; no rival has such a bond.
    """

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        learner: Learner | None = None,
        breakers: bool = True,
        budget: bool = False,
    ) -> None:
        names = [arm.name for arm in world.arms]
        several = world.merchants.count > 1
        self._accounts = [
            [Arm(f"{merchant}/{name}" if several else name, name) for name in names]
            for merchant in range(world.merchants.count)
        ]
        self._steering = Steering(learner or LinUcb(WORLD_SCHEMA), Breakers(), Budgets())
        self._dice = random.Random(seed)
        self._judged = breakers
        self._budget = budget

    def choose(self, payment: Payment) -> int:
        """Answers what the steering puts first."""
        arms = self._accounts[payment.merchant]
        fees = payment.fee_shares.tolist()
        ranking = self._steering.rank(
            [Option(arm, fee) for arm, fee in zip(arms, fees, strict=True)],
            payment.values,
            baseline=arms[0].account if self._budget else None,
            budget_key=str(payment.merchant),
            at=payment.at,
            dice=self._dice,
        )
        return arms.index(ranking.places[0].option.arm)

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Tells the steering, as the service does."""
        kind = Kind.SUCCESS if succeeded else Kind.TECHNICAL if technical else Kind.DECLINE
        self._steering.settle(
            self._accounts[payment.merchant][arm],
            payment.values,
            kind if self._judged else None,
            float(succeeded),
            payment.at,
            at,
        )


class RiverLinUcb:
    """River's LinUCBDisjoint with its defaults, driven by its own pull and update.

    Its reward is the share of the amount that is left, fee taken off: it learns one number per
    arm, and with success alone it would know nothing of fees.

    Args:
        arms: how many.
        seed: of its ties.
        net: False rewards success alone.
    """

    def __init__(self, arms: int, seed: int, *, net: bool = True) -> None:
        # Imported here because it loads SciPy and takes seconds, which other policies can spare.
        from river import bandit

        self._bandit: Any = bandit.LinUCBDisjoint(seed=seed)
        self._arms = list(range(arms))
        self._net = net

    def choose(self, payment: Payment) -> int:
        """Answers what River pulls."""
        return int(self._bandit.pull(self._arms, context=_named(payment)))

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Updates River."""
        left = 1 - float(payment.fee_shares[arm]) if self._net else 1.0
        self._bandit.update(arm, _named(payment), left * succeeded)


class Static:
    """The merchant's order: always the first arm."""

    def choose(self, payment: Payment) -> int:
        """Answers 0."""
        return 0

    def settle(
        self, payment: Payment, arm: int, succeeded: bool, technical: bool, at: float
    ) -> None:
        """Learns nothing."""


class Chance(Static):
    """Any arm, evenly."""

    def __init__(self, arms: int, seed: int) -> None:
        self._arms = arms
        self._dice = random.Random(seed)

    def choose(self, payment: Payment) -> int:
        """Draws an arm."""
        return self._dice.randrange(self._arms)


class Oracle(Static):
    """The best arm of each payment, from the truth that no policy sees: regret 0."""

    def __init__(self, stream: Stream) -> None:
        self._best = stream.worth.argmax(axis=1)

    def choose(self, payment: Payment) -> int:
        """Looks the answer up."""
        return int(self._best[payment.number])


def _windows(*key: str) -> Maker:
    return lambda world, stream, seed: SuccessRateWindow(len(world.arms), key, seed)


def _steered(breakers: bool, budget: bool) -> Maker:
    return lambda world, stream, seed: Steered(world, seed, breakers=breakers, budget=budget)


def _river(net: bool) -> Maker:
    return lambda world, stream, seed: RiverLinUcb(len(world.arms), seed, net=net)


POLICIES: dict[str, Maker] = {
    "ours": _steered(breakers=True, budget=False),
    "ours-budget": _steered(breakers=True, budget=True),
    "ours-no-breakers": _steered(breakers=False, budget=False),
    "river": _river(net=True),
    "river-success": _river(net=False),
    "srv3": _windows(),
    "srv3-method": _windows("method"),
    "srv3-region-method": _windows("region", "method"),
    "static": lambda world, stream, seed: Static(),
    "random": lambda world, stream, seed: Chance(len(world.arms), seed),
    "oracle": lambda world, stream, seed: Oracle(stream),
}
"""By name. A policy that needs another environment is brought by `bench/`."""


def _named(payment: Payment) -> dict[str, float]:
    return dict(zip(FEATURES, payment.values.tolist(), strict=True))
