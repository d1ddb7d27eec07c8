"""A merchant's routing policy: what it says, when it makes no sense, and which one is in force."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_router.domain.rules import AccountLimit, Rule
from smartpay_router.domain.splits import PERCENT, Split


class Mode(StrEnum):
    """Who puts an account first, where neither a rule nor a split does."""

    STATIC = "STATIC"
    SHADOW = "SHADOW"
    CANARY = "CANARY"
    LIVE = "LIVE"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a merchant wants.

    Attributes:
        kill_switch: True: the static order for everything that is eligible.
        mode: who puts an account first.
        canary_percent: with CANARY, for how many of 100 payers the learner does.
        holdout_percent: with LIVE, for how many of 100 payers the static order does.
        static_order: account ids, best first; those that are missing follow in their own order.
        rules: asked in this order.
        splits: the first one that matches is drawn from.
        limits: what single accounts may be used for.
        fee_basis_points_max: the largest fee, in 1 of 10,000 of the amount; 0 is no cap.
        exploration_basis_points: how many of 10,000 decisions may try what is not yet proven; None
            is the service's own rate.
    """

    kill_switch: bool = False
    mode: Mode = Mode.LIVE
    canary_percent: int = 0
    holdout_percent: int = 0
    static_order: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    splits: tuple[Split, ...] = ()
    limits: tuple[AccountLimit, ...] = ()
    fee_basis_points_max: int = 0
    exploration_basis_points: int | None = None

    def ordered(self, accounts: Iterable[str]) -> list[str]:
        """Puts accounts in the static order; what it doesn't name follows as it came."""
        places = {account: place for place, account in enumerate(self.static_order)}
        return sorted(accounts, key=lambda account: places.get(account, len(places)))

    def rule_ids(self) -> list[str]:
        """Lists the names of rules and splits."""
        return [rule.rule_id for rule in self.rules] + [split.rule_id for split in self.splits]

    def exploration_rate(self) -> float | None:
        """Answers tokens per decision; None is the service's own rate."""
        points = self.exploration_basis_points
        return None if points is None else points / 10_000


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """One version of a merchant's policy.

    Attributes:
        version: counts the changes from 1.
        terms: what it says.
        note: why it was changed.
        created_ms: since when, in milliseconds since the epoch; 0 for what all begin with.
        actor: who changed it; empty for what all begin with.
    """

    version: int
    terms: Terms
    note: str = ""
    created_ms: int = 0
    actor: str = ""

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f'"{self.version}"'


FIRST_POLICY = RoutingPolicy(1, Terms())
"""What every merchant begins with: live, by the order of its accounts."""


class PolicyBook:
    """The policies in force, in memory; whoever stores a change tells it at once."""

    def __init__(self) -> None:
        self._policies: dict[tuple[str, bool], RoutingPolicy] = {}

    def of(self, merchant_id: str, livemode: bool) -> RoutingPolicy:
        """Answers the policy in force."""
        return self._policies.get((merchant_id, livemode), FIRST_POLICY)

    def put(self, merchant_id: str, livemode: bool, policy: RoutingPolicy) -> None:
        """Puts a policy in force, unless a newer one is already."""
        if policy.version > self.of(merchant_id, livemode).version:
            self._policies[merchant_id, livemode] = policy


def check_terms(terms: Terms, accounts: Collection[str]) -> None:
    """Refuses terms that can't be followed; the contract has checked each field by itself.

    Args:
        terms: as asked for.
        accounts: the merchant's accounts.

    Raises:
        Refusal: INVALID_ARGUMENT POLICY_INVALID or ACCOUNT_UNKNOWN, naming the field.
    """
    for field, account in _named_accounts(terms):
        if account not in accounts:
            raise Refusal(
                Kind.INVALID_ARGUMENT,
                "ACCOUNT_UNKNOWN",
                "The policy names a processor account that this merchant doesn't have.",
                remedy="Name this merchant's own processor accounts only.",
                field=f"terms.{field}",
                facts={"processor_account_id": account},
            )
    for field, sentence in _faults(terms):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "POLICY_INVALID",
            sentence,
            remedy="Correct the policy; nothing was changed.",
            field=f"terms.{field}",
        )


def _named_accounts(terms: Terms) -> Iterator[tuple[str, str]]:
    for i, account in enumerate(terms.static_order):
        yield f"static_order[{i}]", account
    for i, rule in enumerate(terms.rules):
        for j, account in enumerate(rule.accounts):
            yield f"rules[{i}].processor_account_ids[{j}]", account
    for i, split in enumerate(terms.splits):
        for j, share in enumerate(split.shares):
            yield f"splits[{i}].shares[{j}].processor_account_id", share.processor_account_id
    for i, limit in enumerate(terms.limits):
        yield f"limits[{i}].processor_account_id", limit.processor_account_id


def _faults(terms: Terms) -> Iterator[tuple[str, str]]:
    if terms.canary_percent and terms.mode is not Mode.CANARY:
        yield "canary_percent", "Only MODE_CANARY has canaries."
    if terms.holdout_percent and terms.mode is not Mode.LIVE:
        yield "holdout_percent", "Only MODE_LIVE has a holdout."
    names: set[str] = set()
    tables: dict[str, Sequence[Rule | Split]] = {"rules": terms.rules, "splits": terms.splits}
    for kind, rows in tables.items():
        for i, row in enumerate(rows):
            if row.rule_id in names:
                yield f"{kind}[{i}].rule_id", f"Two rules or splits are called {row.rule_id}."
            names.add(row.rule_id)
            condition = row.condition
            for low, high, name in (
                (condition.minor_units_min, condition.minor_units_max, "minor_units_max"),
                (condition.risk_min, condition.risk_max, "risk_max"),
            ):
                if low is not None and high is not None and low > high:
                    yield f"{kind}[{i}].condition.{name}", "The range ends before it begins."
    for i, split in enumerate(terms.splits):
        if (total := sum(share.percent for share in split.shares)) != PERCENT:
            yield f"splits[{i}].shares", f"The shares are {total} percent together, not 100."
        if len({share.processor_account_id for share in split.shares}) < len(split.shares):
            yield f"splits[{i}].shares", "An account has two shares."
    limited = [limit.processor_account_id for limit in terms.limits]
    for i, limit in enumerate(terms.limits):
        if limit.processor_account_id in limited[:i]:
            yield f"limits[{i}].processor_account_id", "An account has two limits."
        currencies = [each.currency for each in limit.amounts]
        for j, each in enumerate(limit.amounts):
            if each.currency in currencies[:j]:
                yield f"limits[{i}].amounts[{j}].currency_code", "A currency has two ranges."
            if each.minor_units_max and each.minor_units_max < each.minor_units_min:
                yield (
                    f"limits[{i}].amounts[{j}].minor_units_max",
                    "The range ends before it begins.",
                )


def etag_mismatch() -> Refusal:
    """Refuses a change by somebody who has not seen the last one."""
    return Refusal(
        Kind.ABORTED,
        "ETAG_MISMATCH",
        "Somebody changed the policy since it was read.",
        remedy="Read it again and decide anew.",
        field="etag",
    )


def version_not_found() -> Refusal:
    """Refuses a version that the policy never had."""
    return Refusal(
        Kind.NOT_FOUND,
        "POLICY_VERSION_NOT_FOUND",
        "The routing policy never had such a version.",
        remedy="List the versions to see which there are.",
        field="version",
    )
