"""Which of a merchant's accounts can make a charge at all; the rest are named with the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntFlag
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.policy import Terms
from smartpay_router.domain.rules import Action, Rule
from smartpay_router.domain.splits import Split

WALLET_PROCESSORS = frozenset({"solana"})
"""Where the payer's own wallet must sign, so that nothing can be charged without the payer."""


class Fee(Protocol):
    """What a processor takes of a charge in one currency."""

    def of(self, minor_units: int) -> int:
        """Computes the fee of an amount, both in whole minor units, rounded half up."""
        ...


class Account(Protocol):
    """One account of the merchant at one processor; the router's arm."""

    @property
    def processor_account_id(self) -> str:
        """Our id of the account."""
        ...

    @property
    def processor(self) -> str:
        """The processor's name, for instance "stripe"."""
        ...

    @property
    def fees(self) -> Mapping[str, Fee]:
        """The fee per currency; the account charges only in the currencies named here."""
        ...

    @property
    def enabled(self) -> bool:
        """False while the merchant wants no new charges here."""
        ...


class Obstacle(IntFlag):
    """Why an account can't make a charge; logged as these bits, so none ever changes its value."""

    ACCOUNT_DISABLED = 1
    CURRENCY_UNSUPPORTED = 2
    NO_TOKEN = 4
    PAYER_ABSENT = 8
    AMOUNT_OUT_OF_RANGE = 16
    REGION_UNSUPPORTED = 32
    RULE_EXCLUDED = 64
    RULE_NOT_REQUIRED = 128
    FEE_OVER_CAP = 256

    def codes(self) -> tuple[str, ...]:
        """Spells the bits, lowest first."""
        return tuple(each.name or "" for each in self)


BY_NATURE = (
    Obstacle.ACCOUNT_DISABLED
    | Obstacle.CURRENCY_UNSUPPORTED
    | Obstacle.NO_TOKEN
    | Obstacle.PAYER_ABSENT
)
"""What stands in the way whatever the merchant's policy says."""

_SENTENCES = {
    Obstacle.ACCOUNT_DISABLED: "The account is switched off for new charges.",
    Obstacle.CURRENCY_UNSUPPORTED: "The account doesn't charge in {currency}.",
    Obstacle.NO_TOKEN: "The instrument has no token at this account.",
    Obstacle.PAYER_ABSENT: "The payer's wallet must sign, and the payer is absent.",
    Obstacle.AMOUNT_OUT_OF_RANGE: "The policy's limits of the account don't take this amount.",
    Obstacle.REGION_UNSUPPORTED: "The policy's limits of the account don't take {country}.",
    Obstacle.RULE_EXCLUDED: "The rule {rules} leaves the account out.",
    Obstacle.RULE_NOT_REQUIRED: "The rule {rules} asks for other accounts.",
    Obstacle.FEE_OVER_CAP: "Its fee is above the policy's cap.",
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """One account of the merchant, as it stands before the policy is asked.

    Attributes:
        processor_account_id: the account.
        processor: its processor's name.
        fee_minor: what it would take, in minor units of the charge's currency; 0 when it doesn't
            charge in it.
        obstacles: of those BY_NATURE.
    """

    processor_account_id: str
    processor: str
    fee_minor: int
    obstacles: Obstacle


@dataclass(frozen=True)
class Exclusion:
    """An account that was left out.

    Attributes:
        processor_account_id: the account.
        code: stable name of the first obstacle.
        message: a sentence about it.
        obstacles: all of them, as bits.
        rule_ids: the rules that left it out.
        processor: its processor's name.
        fee_minor: as a candidate's.
    """

    processor_account_id: str
    code: str
    message: str
    obstacles: int = 0
    rule_ids: tuple[str, ...] = ()
    processor: str = ""
    fee_minor: int = 0


@dataclass(frozen=True, slots=True)
class Eligible:
    """What is left once eligibility and the policy's rules were asked.

    Attributes:
        accounts: the eligible ones, in the static order.
        excluded: the others, in the merchant's own order.
        preferred: accounts of the first matching rule that prefers some; they may be excluded.
        preferring_rule: that rule; empty when there is none.
        splits: those that match, in their order.
        matched_rules: rules that matched, in their order.
    """

    accounts: tuple[Candidate, ...]
    excluded: tuple[Exclusion, ...]
    preferred: tuple[str, ...]
    preferring_rule: str
    splits: tuple[Split, ...]
    matched_rules: tuple[str, ...]


def candidates(charge: Charge, accounts: Sequence[Account]) -> tuple[Candidate, ...]:
    """Looks at a merchant's accounts without its policy.

    Args:
        charge: what is to be charged.
        accounts: all accounts of the merchant, in its own order, which the result keeps.

    Raises:
        Refusal: INVALID_ARGUMENT ACCOUNT_UNKNOWN when a token names another account: a
            misspelled id would otherwise look like an account without a token.
    """
    known = {account.processor_account_id for account in accounts}
    if strangers := sorted(charge.tokens.keys() - known):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "ACCOUNT_UNKNOWN",
            "A token names a processor account that this merchant doesn't have.",
            remedy="Send tokens of this merchant's own processor accounts only.",
            field="instrument.tokens",
            facts={"processor_account_id": strangers[0]},
        )
    return tuple(_candidate(charge, account) for account in accounts)


def narrow(charge: Charge, found: Sequence[Candidate], terms: Terms, at: datetime) -> Eligible:
    """Asks the policy's rules, limits and fee cap.

    Args:
        charge: what is to be charged.
        found: the merchant's accounts, in its own order.
        terms: the policy's.
        at: when, with a time zone.
    """
    processors = {c.processor for c in found if not c.obstacles & Obstacle.NO_TOKEN}
    rules = [rule for rule in terms.rules if _asked(rule, charge, processors, at)]
    by_id = {c.processor_account_id: c for c in found}
    excluded = {}
    for candidate in found:
        obstacles, rule_ids = _obstacles(charge, candidate, terms, rules)
        if obstacles:
            excluded[candidate.processor_account_id] = _exclusion(
                charge, candidate, obstacles, rule_ids
            )
    left = terms.ordered(account for account in by_id if account not in excluded)
    prefers = next((rule for rule in rules if rule.action is Action.PREFER), None)
    return Eligible(
        accounts=tuple(by_id[account] for account in left),
        excluded=tuple(excluded.values()),
        preferred=prefers.accounts if prefers is not None else (),
        preferring_rule=prefers.rule_id if prefers is not None else "",
        splits=tuple(split for split in terms.splits if _asked(split, charge, processors, at)),
        matched_rules=tuple(rule.rule_id for rule in rules),
    )


def _asked(row: Rule | Split, charge: Charge, processors: set[str], at: datetime) -> bool:
    return not row.disabled and row.condition.holds(charge, processors, at)


def _candidate(charge: Charge, account: Account) -> Candidate:
    obstacles = Obstacle(0)
    if not account.enabled:
        obstacles |= Obstacle.ACCOUNT_DISABLED
    fee = account.fees.get(charge.currency)
    if fee is None:
        obstacles |= Obstacle.CURRENCY_UNSUPPORTED
    if account.processor_account_id not in charge.tokens:
        obstacles |= Obstacle.NO_TOKEN
    if charge.off_session and account.processor in WALLET_PROCESSORS:
        obstacles |= Obstacle.PAYER_ABSENT
    return Candidate(
        account.processor_account_id,
        account.processor,
        0 if fee is None else fee.of(charge.amount_minor),
        obstacles,
    )


def _obstacles(
    charge: Charge, candidate: Candidate, terms: Terms, rules: Sequence[Rule]
) -> tuple[Obstacle, tuple[str, ...]]:
    obstacles, by = candidate.obstacles, []
    account = candidate.processor_account_id
    for limit in terms.limits:
        if limit.processor_account_id == account:
            if not limit.takes_amount(charge):
                obstacles |= Obstacle.AMOUNT_OUT_OF_RANGE
            if not limit.takes_country(charge):
                obstacles |= Obstacle.REGION_UNSUPPORTED
    for rule in rules:
        if rule.action is Action.EXCLUDE and account in rule.accounts:
            obstacles |= Obstacle.RULE_EXCLUDED
            by.append(rule.rule_id)
        elif rule.action is Action.REQUIRE and account not in rule.accounts:
            obstacles |= Obstacle.RULE_NOT_REQUIRED
            by.append(rule.rule_id)
    # Compared in whole numbers: the fee is rounded, the cap is not.
    cap = terms.fee_basis_points_max * charge.amount_minor
    if terms.fee_basis_points_max and candidate.fee_minor * 10_000 > cap:
        obstacles |= Obstacle.FEE_OVER_CAP
    return obstacles, tuple(by)


def _exclusion(
    charge: Charge, candidate: Candidate, obstacles: Obstacle, rule_ids: tuple[str, ...]
) -> Exclusion:
    first = next(iter(obstacles))
    return Exclusion(
        processor_account_id=candidate.processor_account_id,
        code=first.name or "",
        message=_SENTENCES[first].format(
            currency=charge.currency, country=charge.country, rules=", ".join(rule_ids)
        ),
        obstacles=int(obstacles),
        rule_ids=rule_ids,
        processor=candidate.processor,
        fee_minor=candidate.fee_minor,
    )
