"""A stream of payments drawn from a world: the same seed is the same stream, byte by byte.

Everything chance decides is drawn before any policy is asked, whether a policy will need it or
not. So all policies meet the same payers, the same drift and, on the same arm, the same outcome
(common random numbers), and their difference is their own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartpay_router.simulation.world import World

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

STARTS_AT = 1_767_571_200.0
"""Monday 2026-01-05, 00:00 UTC: streams begin with a day's first hour."""

SHARES: dict[str, tuple[float, ...]] = {
    "merchant_type": (0.35, 0.25, 0.2, 0.12, 0.08),
    "region": (0.45, 0.3, 0.15, 0.1),
    "method": (0.7, 0.2, 0.1),
    "currency": (0.5, 0.25, 0.12, 0.08, 0.05),
}
"""How often each kind of payer comes."""

FEATURES = (
    "intercept",
    "log_amount",
    "risk",
    *(f"{kind}_{code}" for kind, shares in SHARES.items() for code in range(len(shares))),
    "hour_sin",
    "hour_cos",
)
"""The 22 values every policy is given; what it makes of them is its own affair."""

_FIRST = {kind: FEATURES.index(f"{kind}_0") for kind in SHARES}  # where each kind's one-hot begins


@dataclass(frozen=True)
class Stream:
    """What happens, and what would have happened on every arm; n payments, k arms.

    Attributes:
        arms: names, the first being the baseline.
        at: seconds since the epoch, ascending, shape [n].
        amounts: minor units, shape [n].
        values: FEATURES of each payment, shape [n, 22].
        kinds: codes of merchant type, region, method and currency, each of shape [n].
        merchants: whose payment it is, shape [n].
        success: true probability on each arm, which no policy sees, shape [n, k].
        fee_shares: share of the amount each arm takes, 0 to 1, shape [n, k].
        succeeds: whether each arm would have succeeded, shape [n, k].
        technical: whether its failure would have been technical, shape [n, k].
        lost: whether the outcome never comes, shape [n].
        broken: whether the arm has an outage, shape [n, k].
    """

    arms: tuple[str, ...]
    at: Floats
    amounts: Codes
    values: Floats
    kinds: dict[str, Codes]
    merchants: Codes
    success: Floats
    fee_shares: Floats
    succeeds: NDArray[np.bool_]
    technical: NDArray[np.bool_]
    lost: NDArray[np.bool_]
    broken: NDArray[np.bool_]

    @property
    def worth(self) -> Floats:
        """Expected share of the amount that is left, per payment and arm, shape [n, k]."""
        worth: Floats = self.success * (1 - self.fee_shares)
        return worth

    def until(self, payments: int) -> Stream:
        """Answers the first so many payments of the stream, or all when it has fewer."""
        cut: dict[str, Any] = {
            field.name: part[:payments]
            for field in fields(self)
            if isinstance(part := getattr(self, field.name), np.ndarray)
        }
        kinds = {kind: codes[:payments] for kind, codes in self.kinds.items()}
        return replace(self, kinds=kinds, **cut)


def draw(world: World, seed: int) -> Stream:
    """Draws a world's stream for a seed.

    Each part of the world has dice of its own: another drift leaves payers and outages as they
    were.

    Raises:
        ValueError: when the seed is negative.
    """
    parts = np.random.SeedSequence(seed).spawn(6)
    payers, nature, drift, outages, outcomes, owners = (np.random.default_rng(p) for p in parts)
    n, k = world.payments, len(world.arms)
    at = STARTS_AT + np.cumsum(payers.exponential(3_600 / world.payments_per_hour, n))
    amounts = np.maximum(
        1, np.rint(world.median_minor_units * np.exp(payers.normal(0, world.spread, n)))
    ).astype(np.int64)
    kinds = {kind: payers.choice(len(p), n, p=p).astype(np.int64) for kind, p in SHARES.items()}
    values = _describe(at, amounts, payers.beta(1, 12, n), kinds)
    ranks = np.arange(1, world.merchants.count + 1) ** -world.merchants.zipf
    merchants = owners.choice(len(ranks), n, p=ranks / ranks.sum()).astype(np.int64)

    base = np.array([arm.success for arm in world.arms])
    logits = np.log(base / (1 - base)) + world.jitter * nature.standard_normal(k)
    logits = logits + _effects(world, nature, values, kinds, k)
    logits = logits + (world.merchants.own * owners.standard_normal((len(ranks), k)))[merchants]
    step = world.drift.logits_per_thousand_payments / np.sqrt(1_000)
    logits = logits + np.cumsum(step * drift.standard_normal((n, k)), axis=0)
    if world.drift.exchange_every_payments:
        turns = np.arange(n) // world.drift.exchange_every_payments
        logits = np.take_along_axis(logits, (np.arange(k) + turns[:, None]) % k, axis=1)
    success = 1 / (1 + np.exp(-logits))
    names = [arm.name for arm in world.arms]
    technical_share = np.full((n, k), world.technical_share)
    broken = np.zeros((n, k), bool)
    for kind in world.outages:
        slot = n // max(1, kind.count)
        # Dealt like cards: every arm is hit before one is hit again, or the best single arm of
        # a seed would be the one that luck spared.
        deck = np.concatenate([outages.permutation(k) for _ in range(kind.count // k + 1)])
        for turn in range(kind.count):
            first = turn * slot + int(outages.integers(0, slot - kind.payments + 1))
            arm = int(deck[turn]) if kind.arm is None else names.index(kind.arm)
            hit = np.zeros(n, bool)
            hit[first : first + kind.payments] = True
            if kind.method is not None:
                hit &= kinds["method"] == kind.method
            success[hit, arm] = np.minimum(success[hit, arm], kind.success)
            technical_share[hit, arm] = kind.technical_share
            broken[hit, arm] = True
    fees = np.array([[a.fee.basis_points / 10_000, a.fee.fixed_minor_units] for a in world.arms])
    return Stream(
        arms=tuple(names),
        at=at,
        amounts=amounts,
        values=values,
        kinds=kinds,
        merchants=merchants,
        success=success,
        fee_shares=np.minimum(1.0, fees[:, 0] + fees[:, 1] / amounts[:, None]),
        succeeds=outcomes.random((n, k)) < success,
        technical=outcomes.random((n, k)) < technical_share,
        lost=outcomes.random(n) < world.delays.lost_share,
        broken=broken,
    )


def _describe(at: Floats, amounts: Codes, risk: Floats, kinds: dict[str, Codes]) -> Floats:
    values = np.zeros((len(at), len(FEATURES)))
    values[:, 0] = 1
    values[:, 1] = (np.log10(amounts) - 4) / 2
    values[:, 2] = risk
    for kind, codes in kinds.items():
        values[np.arange(len(at)), _FIRST[kind] + codes] = 1
    clock = 2 * np.pi * at / 86_400
    values[:, -2], values[:, -1] = np.sin(clock), np.cos(clock)
    return values


def _effects(
    world: World, nature: np.random.Generator, values: Floats, kinds: dict[str, Codes], arms: int
) -> Floats:
    """Logits each payment's context adds per arm, shape [n, k]; 0 for the average payment."""
    told = world.contexts
    weights = told.shared * nature.standard_normal((values.shape[1], 1))
    weights = weights + told.own * nature.standard_normal((values.shape[1], arms))
    weights[0] = 0  # the arm's own success is the intercept
    effects: Floats = values @ weights
    for scale, one, other in (
        (told.crosses, "region", "method"),
        (told.bends, "merchant_type", "currency"),
    ):
        table = scale * nature.standard_normal((len(SHARES[one]), len(SHARES[other]), arms))
        effects = effects + table[kinds[one], kinds[other]]
    effects -= effects.mean(axis=0)
    return effects
