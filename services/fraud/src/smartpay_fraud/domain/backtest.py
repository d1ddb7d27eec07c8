"""What other rules, or another policy, would have done with transactions that were scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from smartpay_fraud.domain.assessment import Finding
from smartpay_fraud.domain.features import Vector
from smartpay_fraud.domain.lists import Lists
from smartpay_fraud.domain.rulebook import decide
from smartpay_fraud.domain.rules import CompiledRules
from smartpay_fraud.domain.transaction import Transaction
from smartpay_fraud.domain.verdict import Costs, Policy, Verdict

EXAMPLES_MAX = 10
"""Transactions named per change of verdict: enough to look at, few enough to read."""

HONEST_AFTER_MS = 7 * 24 * 3_600_000
"""A payment nobody called fraud for a week counts as honest, as in the features."""


@dataclass(frozen=True, slots=True)
class Past:
    """A transaction as it was scored.

    Attributes:
        transaction: what was to be paid, by whom.
        row: its base features then, in today's columns; None when they were not kept.
        probability: the model's.
        verdict: what was answered.
        scored_ms: when.
        finding: what it turned out to be; None while nobody said.
    """

    transaction: Transaction
    row: Vector | None
    probability: float
    verdict: Verdict
    scored_ms: int
    finding: Finding | None


@dataclass(slots=True)
class Outcome:
    """Some transactions and what they turned out to be; amounts in minor units by currency."""

    transactions: int = 0
    frauds: int = 0
    legitimate: int = 0
    amounts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    fraud_amounts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def count(self, past: Past, now_ms: int) -> None:
        """Takes one in."""
        transaction = past.transaction
        self.transactions += 1
        self.amounts[transaction.currency_code] += transaction.amount_minor
        if past.finding is Finding.FRAUD:
            self.frauds += 1
            self.fraud_amounts[transaction.currency_code] += transaction.amount_minor
        elif past.finding is Finding.LEGITIMATE or now_ms - past.scored_ms >= HONEST_AFTER_MS:
            self.legitimate += 1


@dataclass(slots=True)
class Change:
    """Transactions that would be decided otherwise, and some of their ids."""

    outcome: Outcome = field(default_factory=Outcome)
    transaction_ids: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What a back-test found.

    Attributes:
        judged: how many transactions were judged.
        skipped: how many were left out, because their features were not kept.
        stored: by verdict, what was answered then.
        proposed: by verdict, what would be answered.
        rules: by rule, what it matched, whether or not it decided; none is asked where a list
            decides.
        changes: by verdict then and verdict now.
    """

    judged: int = 0
    skipped: int = 0
    stored: dict[Verdict, Outcome] = field(default_factory=lambda: defaultdict(Outcome))
    proposed: dict[Verdict, Outcome] = field(default_factory=lambda: defaultdict(Outcome))
    rules: dict[str, Outcome] = field(default_factory=dict)
    changes: dict[tuple[Verdict, Verdict], Change] = field(
        default_factory=lambda: defaultdict(Change)
    )


class Backtest:
    """Judges past transactions as `decide` would, and keeps count. Nothing goes live by it."""

    def __init__(
        self, rules: CompiledRules, policy: Policy, costs: Costs, lists: Lists, now_ms: int
    ) -> None:
        self._rules = rules
        self._policy = policy
        self._costs = costs
        self._lists = lists
        self._now_ms = now_ms
        self.report = Report(rules={rule.rule_id: Outcome() for rule in rules.rule_set.rules})

    def judge(self, pasts: Iterable[Past]) -> None:
        """Takes transactions in."""
        for past in pasts:
            self._judge(past)

    def _judge(self, past: Past) -> None:
        report, now_ms = self.report, self._now_ms
        if past.row is None:
            report.skipped += 1
            return
        decision = decide(
            past.transaction,
            past.row,
            past.probability,
            self._costs,
            self._policy,
            self._lists,
            self._rules,
            now_ms,
        )
        report.judged += 1
        report.stored[past.verdict].count(past, now_ms)
        report.proposed[decision.verdict].count(past, now_ms)
        for rule_id in decision.matched_rules:
            report.rules[rule_id].count(past, now_ms)
        if decision.verdict is not past.verdict:
            change = report.changes[past.verdict, decision.verdict]
            change.outcome.count(past, now_ms)
            if len(change.transaction_ids) < EXAMPLES_MAX:
                change.transaction_ids.append(past.transaction.transaction_id)
