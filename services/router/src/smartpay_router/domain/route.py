"""The ranking: expected value per account, a little chance to keep learning, reasons in words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import Context, describe
from smartpay_router.domain.eligibility import Account, Exclusion, sort_out
from smartpay_router.domain.linucb import PRIOR_SUCCESS, Estimate, Policy


@dataclass(frozen=True)
class RankedAccount:
    """One eligible account in a ranking.

    Attributes:
        processor_account_id: the account.
        processor: its processor's name.
        expected_success: probability of success, 0 to 1.
        fee_minor: what the account would take, in minor units of the charge's currency.
        score: upper bound of success times the share left after the fee, 0 to 1.
        propensity: exact probability that this account stood first, 0 to 1.
        reasons: why it stands here, a sentence each, at most 4.
    """

    processor_account_id: str
    processor: str
    expected_success: float
    fee_minor: int
    score: float
    propensity: float
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Route:
    """A ranking with what is needed to explain it and to learn from it."""

    ranking: tuple[RankedAccount, ...]
    excluded: tuple[Exclusion, ...]
    policy_version: str
    explored: bool
    context: Context


def rank(
    charge: Charge,
    accounts: Sequence[Account],
    policy: Policy,
    *,
    risk: float,
    at: datetime,
    epsilon: float,
    dice: random.Random,
) -> Route:
    """Ranks the accounts that can make a charge, best first; an empty ranking is an answer.

    With probability `epsilon` the first place is drawn evenly among all eligible accounts. So
    the propensity of the best is 1 - epsilon + epsilon/n and of each other epsilon/n, exactly,
    which is what off-policy evaluation divides by. The places behind it stay in order of score.

    Args:
        charge: what is to be charged.
        accounts: all accounts of the merchant, in its own order, which breaks ties.
        policy: the learner.
        risk: probability of fraud, 0 to 1; 0 when unknown.
        at: when, with a time zone.
        epsilon: share of decisions that explore, 0 to 1.
        dice: the chance; only drawn from when there is a choice.

    Raises:
        Refusal: ACCOUNT_UNKNOWN when a token names an account the merchant doesn't have.
    """
    eligible, excluded = sort_out(charge, accounts)
    context = describe(charge, risk, at)
    estimates = policy.estimate([a.processor_account_id for a in eligible], context)
    candidates = [
        _Candidate(account, estimate, charge)
        for account, estimate in zip(eligible, estimates, strict=True)
    ]
    candidates.sort(key=lambda c: (-c.score, c.fee_minor))
    count = len(candidates)
    explored = count > 1 and dice.random() < epsilon
    place = dice.randrange(count) if explored else 0
    ordered = candidates[place : place + 1] + candidates[:place] + candidates[place + 1 :]
    chance = epsilon / count if count > 1 else 0.0
    ranking = tuple(
        RankedAccount(
            processor_account_id=c.account.processor_account_id,
            processor=c.account.processor,
            expected_success=c.estimate.expected(),
            fee_minor=c.fee_minor,
            score=c.score,
            propensity=1 - chance * (count - 1) if c is candidates[0] else chance,
            reasons=_reasons(c, candidates.index(c), count, drawn=explored and c is ordered[0]),
        )
        for c in ordered
    )
    return Route(ranking, excluded, policy.version, explored, context)


class _Candidate:
    """An eligible account with its numbers for one charge."""

    def __init__(self, account: Account, estimate: Estimate, charge: Charge) -> None:
        self.account = account
        self.estimate = estimate
        self.charge = charge
        self.fee_minor = account.fees[charge.currency].of(charge.amount_minor)
        # A tiny charge may cost more than it brings; it is then worth nothing, not less.
        left = max(0, charge.amount_minor - self.fee_minor)
        self.score = estimate.upper_bound() * left / charge.amount_minor


def _reasons(candidate: _Candidate, by_score: int, count: int, *, drawn: bool) -> tuple[str, ...]:
    """Says in words why an account stands where it stands."""
    estimate, charge = candidate.estimate, candidate.charge
    if count == 1:
        place = "It is the only account that can make this charge."
    elif drawn:
        place = f"Drawn at random to keep learning; by score it is number {by_score + 1}."
    else:
        place = f"Number {by_score + 1} of {count} by expected value after fees."
    if estimate.outcomes:
        success = (
            f"Expected to succeed in {estimate.expected():.1%} of such charges, "
            f"having learned from {estimate.outcomes} outcomes."
        )
    else:
        success = f"Nothing was learned about it yet, so {PRIOR_SUCCESS:.0%} success is assumed."
    fee = (
        f"Its fee is {candidate.fee_minor} of {charge.amount_minor} minor units {charge.currency}."
    )
    return (place, success, fee)
