"""Speaks the contract of rules and of their back-test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from smartpay.fraud.v1 import rules_pb2, rules_pb2_grpc
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.calls import current_call
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_fraud.domain.audit import AuditRecord
from smartpay_fraud.domain.backtest import Backtest, Outcome, Past, Report
from smartpay_fraud.domain.refusals import rules_changed, rules_version_not_found
from smartpay_fraud.domain.rulebook import Rulebook
from smartpay_fraud.domain.rules import (
    DEFAULT_RULES,
    TEXT_FIELDS,
    CompiledRules,
    Condition,
    Operator,
    Rule,
    RuleSet,
    check_rules,
    next_version,
    number_fields,
)
from smartpay_fraud.domain.verdict import Costs, Verdict
from smartpay_fraud.messages import VERDICT_OF, VERDICTS, moment_ms, timestamp
from smartpay_fraud.server.audit import actor_of, record_of_call
from smartpay_fraud.server.policies import policy_of

Context = object  # gRPC's own context is the interceptors' business

BACKTEST_DEFAULT = 5_000
"""Transactions of one back-test call when it doesn't say: about half a second."""

BACKTEST_PAGE = 200
"""Transactions judged at once; between pages scores get their turn, about 10 ms later."""

_FIRST = 2**62  # before it, every number of a score
_PREFIX = len("OPERATOR_")
_NAMES = rules_pb2.Condition.Operator


_FIELDS = sorted(
    [rules_pb2.RuleField(name=n, type=rules_pb2.RuleField.TYPE_TEXT) for n in TEXT_FIELDS]
    + [
        rules_pb2.RuleField(name=n, type=rules_pb2.RuleField.TYPE_NUMBER, sentence=sentence)
        for n, sentence in number_fields().items()
    ],
    key=lambda field: field.name,
)


class RuleStore(Protocol):
    """Keeps rules. Every change is stored with its record and then in force."""

    async def rule_set(self, merchant_id: str, livemode: bool, version: int) -> RuleSet | None:
        """Reads a version of a merchant's rules; None when there never was such a one."""
        ...

    async def page_of_rule_sets(
        self, merchant_id: str, livemode: bool, before: int, size: int
    ) -> list[RuleSet]:
        """Reads versions older than `before`, newest first, without what all begin with."""
        ...

    async def put_rules(
        self, merchant_id: str, livemode: bool, rule_set: RuleSet, record: AuditRecord
    ) -> None:
        """Stores the next version; raises Refusal RULES_CHANGED when somebody was faster."""
        ...


class PastReader(Protocol):
    """Reads scored transactions back."""

    async def page(
        self,
        merchant_id: str,
        livemode: bool,
        before: int,
        from_ms: int,
        before_ms: int,
        size: int,
    ) -> tuple[list[Past], int]:
        """Reads transactions before a position, newest first, and where it ended; 0 at the end."""
        ...


class RulesServicer(rules_pb2_grpc.RulesServiceServicer):
    """Serves the rules of the caller's merchant.

    Args:
        rulebook: the rules, lists and policies in force.
        rules: keeps the rules.
        past: what was scored.
        costs: those of the model in service, for who states none.
        now_ms: the time, in milliseconds since the epoch.
    """

    def __init__(
        self,
        rulebook: Rulebook,
        rules: RuleStore,
        past: PastReader,
        costs: Callable[[], Costs],
        now_ms: Callable[[], int],
    ) -> None:
        self._rulebook = rulebook
        self._rules = rules
        self._past = past
        self._costs = costs
        self._now_ms = now_ms

    async def GetRuleSet(
        self, request: rules_pb2.GetRuleSetRequest, context: Context
    ) -> rules_pb2.GetRuleSetResponse:
        """Shows the rules in force, or an earlier version."""
        call = current_call()
        found: RuleSet | None = self._rulebook.book(call.merchant_id, call.livemode).rules.rule_set
        if request.version:
            found = await self._rules.rule_set(call.merchant_id, call.livemode, request.version)
        if found is None:
            raise rules_version_not_found()
        return rules_pb2.GetRuleSetResponse(rule_set=_rule_set_message(found))

    async def ListRuleSets(
        self, request: rules_pb2.ListRuleSetsRequest, context: Context
    ) -> rules_pb2.ListRuleSetsResponse:
        """Lists the versions, newest first; the last is what every merchant begins with."""
        call, size = current_call(), page_size(request.page_size)
        bound_to = f"rule sets {call.merchant_id} {call.livemode}"
        before = _FIRST
        if request.page_token:
            before = int(decode_page_token(request.page_token, bound_to=bound_to))
        found = await self._rules.page_of_rule_sets(
            call.merchant_id, call.livemode, before, size + 1
        )
        if len(found) <= size:
            found.append(DEFAULT_RULES)
        shown = found[:size]
        return rules_pb2.ListRuleSetsResponse(
            rule_sets=map(_rule_set_message, shown),
            next_page_token=(
                encode_page_token(str(shown[-1].version), bound_to=bound_to)
                if len(found) > size
                else ""
            ),
        )

    async def ListRuleFields(
        self, request: rules_pb2.ListRuleFieldsRequest, context: Context
    ) -> rules_pb2.ListRuleFieldsResponse:
        """Lists what rules may ask about, by name."""
        bound_to, size = "rule fields", page_size(request.page_size)
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        left = [field for field in _FIELDS if field.name > after]
        more = len(left) > size
        return rules_pb2.ListRuleFieldsResponse(
            fields=left[:size],
            next_page_token=(
                encode_page_token(left[size - 1].name, bound_to=bound_to) if more else ""
            ),
        )

    async def UpdateRuleSet(
        self, request: rules_pb2.UpdateRuleSetRequest, context: Context
    ) -> rules_pb2.UpdateRuleSetResponse:
        """Puts other rules in force; a repeat of the last change answers what is in force."""
        call, now_ms = current_call(), self._now_ms()
        book = self._rulebook.book(call.merchant_id, call.livemode)
        current, actor = book.rules.rule_set, actor_of(call)
        rules = tuple(map(_rule, request.rules))
        check_rules(rules, book.listings)
        changed = next_version(current, rules, request.note, now_ms, actor)
        if request.base_version != current.version:
            said = (current.rules, current.note, current.create_actor)
            if request.base_version != current.version - 1 or said != (rules, request.note, actor):
                raise rules_changed(current.version)
            changed = current
        else:
            record = record_of_call(call, "rules", _facts(current), _facts(changed), now_ms)
            await self._rules.put_rules(call.merchant_id, call.livemode, changed, record)
        return rules_pb2.UpdateRuleSetResponse(rule_set=_rule_set_message(changed))

    async def BacktestRules(
        self, request: rules_pb2.BacktestRulesRequest, context: Context
    ) -> rules_pb2.BacktestRulesResponse:
        """Judges past transactions by other rules, or another policy."""
        call, now_ms = current_call(), self._now_ms()
        book = self._rulebook.book(call.merchant_id, call.livemode)
        rules = tuple(map(_rule, request.rules))
        check_rules(rules, book.listings)
        policy = book.policy
        if request.HasField("policy"):
            policy = policy_of(request.policy, policy.version, now_ms)
        backtest = Backtest(
            CompiledRules(RuleSet(0, rules)), policy, self._costs(), book.listings, now_ms
        )
        begin, end = request.create_time_from, request.create_time_before
        from_ms = moment_ms(begin, "create_time_from") if begin else 0
        before_ms = moment_ms(end, "create_time_before") if end else now_ms + 1
        bound_to = f"backtest {call.merchant_id} {call.livemode} {begin} {end}"
        position = _FIRST
        if request.cursor:
            position = int(decode_page_token(request.cursor, bound_to=bound_to))
        left = request.transactions_max or BACKTEST_DEFAULT
        while left and position:
            pasts, position = await self._past.page(
                call.merchant_id,
                call.livemode,
                position,
                from_ms,
                before_ms,
                min(left, BACKTEST_PAGE),
            )
            backtest.judge(pasts)
            left -= len(pasts)
            await asyncio.sleep(0)
        cursor = encode_page_token(str(position), bound_to=bound_to) if position else ""
        return _report_message(backtest.report, cursor)


def _facts(rule_set: RuleSet) -> dict[str, object]:
    return {
        "version": rule_set.version,
        "note": rule_set.note or None,
        "rules": ", ".join(rule.rule_id for rule in rule_set.rules),
    }


def _rule(message: rules_pb2.Rule) -> Rule:
    return Rule(
        rule_id=message.rule_id,
        verdict=VERDICT_OF[message.verdict],
        conditions=tuple(
            Condition(
                name=c.name,
                operator=Operator(_NAMES.Name(c.operator)[_PREFIX:]),
                number=c.number,
                texts=tuple(c.texts),
                list_id=c.list_id,
            )
            for c in message.conditions
        ),
        priority=message.priority,
        message=message.message,
        disabled=message.disabled,
    )


def _rule_message(rule: Rule) -> rules_pb2.Rule:
    return rules_pb2.Rule(
        rule_id=rule.rule_id,
        verdict=VERDICTS[rule.verdict],
        conditions=[
            rules_pb2.Condition(
                name=c.name,
                operator=_NAMES.Value(f"OPERATOR_{c.operator.value}"),
                number=c.number if c.operator.compares_numbers else None,
                texts=c.texts,
                list_id=c.list_id,
            )
            for c in rule.conditions
        ],
        priority=rule.priority,
        message=rule.message,
        disabled=rule.disabled,
    )


def _rule_set_message(rule_set: RuleSet) -> rules_pb2.RuleSet:
    return rules_pb2.RuleSet(
        version=rule_set.version,
        rules=map(_rule_message, rule_set.rules),
        note=rule_set.note,
        create_time=timestamp(rule_set.create_ms) if rule_set.create_ms else None,
        create_actor=rule_set.create_actor,
    )


def _report_message(report: Report, cursor: str) -> rules_pb2.BacktestRulesResponse:
    return rules_pb2.BacktestRulesResponse(
        transactions=report.judged,
        skipped=report.skipped,
        verdicts=[
            rules_pb2.BacktestVerdict(
                verdict=VERDICTS[verdict],
                stored=_outcome_message(report.stored[verdict]),
                proposed=_outcome_message(report.proposed[verdict]),
            )
            for verdict in Verdict
        ],
        rules=[
            rules_pb2.BacktestRule(rule_id=rule_id, matched=_outcome_message(outcome))
            for rule_id, outcome in report.rules.items()
        ],
        changes=[
            rules_pb2.BacktestChange(
                stored=VERDICTS[stored],
                proposed=VERDICTS[proposed],
                outcome=_outcome_message(change.outcome),
                transaction_ids=change.transaction_ids,
            )
            for (stored, proposed), change in report.changes.items()
        ],
        next_cursor=cursor,
    )


def _outcome_message(outcome: Outcome) -> rules_pb2.BacktestOutcome:
    return rules_pb2.BacktestOutcome(
        transactions=outcome.transactions,
        frauds=outcome.frauds,
        legitimate=outcome.legitimate,
        amounts=_sums(outcome.amounts),
        fraud_amounts=_sums(outcome.fraud_amounts),
    )


def _sums(amounts: Mapping[str, int]) -> list[Money]:
    return [Money(minor_units=sum_, currency_code=code) for code, sum_ in sorted(amounts.items())]
