"""Rules that decide before the model does, because no score should outvote them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from operator import eq, ge, gt, le, lt, ne
from typing import NamedTuple

from smartpay_fraud.domain import refusals
from smartpay_fraud.domain.features import FEATURE_INDEX, Vector
from smartpay_fraud.domain.lists import Kind, Lists, Networks, spelt
from smartpay_fraud.domain.reasons import Reason, plain_of, sentence_of
from smartpay_fraud.domain.transaction import Transaction, reference_cents
from smartpay_fraud.domain.verdict import Verdict

RULES_MAX = 100
"""Rules per merchant and mode: each costs every score about a microsecond."""

TEXT_FIELDS: Mapping[str, str] = {
    "customer_id": "customer_id",
    "instrument_fingerprint": "instrument_id",
    "device_id": "device_id",
    "ip_address": "ip_address",
    "terminal_id": "terminal_id",
    "merchant_category": "merchant_category",
    "country": "country",
    "currency_code": "currency_code",
}
"""What a condition may ask about in words, and where a transaction holds it."""

_KIND_OF = {kind.value: kind for kind in Kind}
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class Operator(Enum):
    """How a condition compares."""

    EQUAL = "EQUAL"
    NOT_EQUAL = "NOT_EQUAL"
    LESS = "LESS"
    LESS_OR_EQUAL = "LESS_OR_EQUAL"
    GREATER = "GREATER"
    GREATER_OR_EQUAL = "GREATER_OR_EQUAL"
    IN = "IN"
    NOT_IN = "NOT_IN"
    ON_LIST = "ON_LIST"
    NOT_ON_LIST = "NOT_ON_LIST"
    MISSING = "MISSING"
    PRESENT = "PRESENT"

    @property
    def compares_numbers(self) -> bool:
        """Whether it needs a number to compare with."""
        return self in _COMPARE


_COMPARE: Mapping[Operator, Callable[[float, float], bool]] = {
    Operator.EQUAL: eq,
    Operator.NOT_EQUAL: ne,
    Operator.LESS: lt,
    Operator.LESS_OR_EQUAL: le,
    Operator.GREATER: gt,
    Operator.GREATER_OR_EQUAL: ge,
}
_ABOUT_LISTS = (Operator.ON_LIST, Operator.NOT_ON_LIST)
_ABOUT_TEXTS = (Operator.IN, Operator.NOT_IN)
_NEGATED = (Operator.NOT_IN, Operator.NOT_ON_LIST)


class Case(NamedTuple):
    """What rules are asked about.

    Attributes:
        transaction: what is to be paid, by whom.
        row: its base features.
        probability: the model's.
        lists: the merchant's, as they are now.
        now_ms: when it is judged; entries of lists expire.
    """

    transaction: Transaction
    row: Vector
    probability: float
    lists: Lists
    now_ms: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One question about a transaction; what it doesn't tell answers only MISSING.

    Attributes:
        name: a text field, minor_units, amount_usd_cents, score, or a feature by its name; a
            feature in its plain unit, as reasons tell it.
        operator: how it is compared.
        number: with what, for comparisons.
        texts: with what, for IN and NOT_IN; networks for ip_address.
        list_id: where it is looked up.
    """

    name: str
    operator: Operator
    number: float = 0.0
    texts: tuple[str, ...] = ()
    list_id: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches when all its conditions hold.

    Attributes:
        rule_id: the merchant's name for it; RULE_ and this is its reason code.
        verdict: what a match leads to.
        conditions: what is asked.
        priority: smaller ones are asked first.
        message: the sentence of a match; {name} is the number a condition asks about.
        disabled: kept and not asked.
    """

    rule_id: str
    verdict: Verdict
    conditions: tuple[Condition, ...]
    priority: int = 0
    message: str = ""
    disabled: bool = False

    @property
    def code(self) -> str:
        """The reason code of a match."""
        return f"RULE_{self.rule_id}"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules of a merchant at one time.

    Attributes:
        version: counts the changes from 1.
        rules: in the merchant's order.
        note: why it was changed.
        create_ms: since when it is in force; 0 for what every merchant begins with.
        create_actor: who put it in force; "" for what every merchant begins with.
    """

    version: int
    rules: tuple[Rule, ...]
    note: str = ""
    create_ms: int = 0
    create_actor: str = ""


DEFAULT_RULES = RuleSet(
    version=1,
    rules=(
        Rule(
            # Nobody owns six cards at hand; whoever tries six in ten minutes has a list of them.
            "CARDS_ON_DEVICE",
            Verdict.BLOCK,
            (Condition("device_cards_10m", Operator.GREATER_OR_EQUAL, 6),),
            message="{device_cards_10m} different cards were tried on this device"
            " within 10 minutes.",
        ),
        Rule(
            # An honest payer gives up, or calls the bank, long before the twelfth decline.
            "DECLINES_ON_DEVICE",
            Verdict.BLOCK,
            (Condition("device_declines_1h", Operator.GREATER_OR_EQUAL, 12),),
            message="{device_declines_1h} payments from this device were declined within an hour.",
        ),
    ),
)
"""What every merchant begins with: the limits that stop card testing."""

Question = Callable[[Case], bool]


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that holds for a case."""

    rule: Rule
    reason: Reason


class CompiledRules:
    """A rule set ready to be asked: names looked up, texts in sets, in the order of priority."""

    def __init__(self, rule_set: RuleSet) -> None:
        self.rule_set = rule_set
        asked = [rule for rule in rule_set.rules if not rule.disabled]
        self._rules = [
            (rule, [_question(condition) for condition in rule.conditions])
            for rule in sorted(asked, key=lambda rule: rule.priority)
        ]

    def matches(self, case: Case) -> list[Match]:
        """All rules that hold for a case, in the order they are asked; none for most payments."""
        matches = []
        for rule, questions in self._rules:
            for question in questions:
                if not question(case):
                    break
            else:
                matches.append(Match(rule, _reason(rule, case)))
        return matches


def check_rules(rules: Collection[Rule], lists: Lists) -> None:
    """Refuses rules that can't be asked as they stand.

    Raises:
        Refusal: RULE_INVALID naming the field.
    """
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        if rule.rule_id in seen:
            raise refusals.rule_invalid(
                f"rules[{number}].rule_id", "Another rule of the set has the same rule_id."
            )
        seen.add(rule.rule_id)
        asked = {condition.name for condition in rule.conditions} - TEXT_FIELDS.keys()
        for name in _PLACEHOLDER.findall(rule.message):
            if name not in asked:
                raise refusals.rule_invalid(
                    f"rules[{number}].message", f"No condition asks for the number {name}."
                )
        for place, condition in enumerate(rule.conditions):
            field, sentence = _what_is_wrong(condition, lists)
            if sentence:
                raise refusals.rule_invalid(
                    f"rules[{number}].conditions[{place}].{field}", sentence
                )


def lists_asked(rule_set: RuleSet) -> dict[str, str]:
    """The lists that rules look into, each with the id of one such rule."""
    return {
        condition.list_id: rule.rule_id
        for rule in rule_set.rules
        for condition in rule.conditions
        if condition.list_id
    }


def _what_is_wrong(condition: Condition, lists: Lists) -> tuple[str, str]:
    """The field that can't be, and why; two empty texts when all is well."""
    name, operator = condition.name, condition.operator
    is_text = name in TEXT_FIELDS
    if not is_text and name not in _NUMBERS and name not in FEATURE_INDEX:
        return "name", f"{name} is no field of a transaction and no feature of the model."
    if operator in _COMPARE and is_text:
        return "operator", f"{name} is a text; numbers are compared so."
    if operator in (*_ABOUT_LISTS, *_ABOUT_TEXTS) and not is_text:
        return "operator", f"{name} is a number; texts are looked up so."
    if operator in _ABOUT_TEXTS and name == "ip_address":
        for text in condition.texts:
            try:
                spelt(Kind.NETWORK, text)
            except ValueError as error:
                return "texts", f"{text}: {error}."
    if operator in _ABOUT_LISTS:
        listing = lists.get(condition.list_id)
        if listing is None:
            return "list_id", "The merchant has no such list."
        if listing.about.kind is not _KIND_OF.get(TEXT_FIELDS[name]):
            return "list_id", f"The list holds {listing.about.kind.value}, not {name}."
    return "", ""


def _usd_cents(case: Case) -> float:
    return reference_cents(case.transaction.amount_minor, case.transaction.currency_code)


_NUMBERS: Mapping[str, Callable[[Case], float]] = {
    "minor_units": lambda case: case.transaction.amount_minor,
    "amount_usd_cents": _usd_cents,
    "score": lambda case: case.probability,
}


def number_fields() -> dict[str, str]:
    """Every number rules may ask about, with the sentence reasons tell it in; "" for inputs."""
    features = {name: sentence_of(name) for name in FEATURE_INDEX}
    return {**features, **dict.fromkeys(_NUMBERS, "")}


def _number(name: str) -> Callable[[Case], float]:
    """Finds where a number comes from; NaN when the transaction doesn't tell it."""
    if name in _NUMBERS:
        return _NUMBERS[name]
    at = FEATURE_INDEX.get(name)
    if at is None:  # stored before a release that dropped the feature: the rule waits, unasked
        return lambda case: math.nan
    plain = plain_of(name)
    return lambda case: plain(case.row.item(at))


def _question(condition: Condition) -> Question:
    name, operator = condition.name, condition.operator
    if name not in TEXT_FIELDS:
        return _number_question(_number(name), operator, condition.number)
    attribute, wanted = TEXT_FIELDS[name], operator not in _NEGATED

    def text(case: Case) -> str:
        told: str = getattr(case.transaction, attribute)
        return told

    if operator is Operator.MISSING:
        return lambda case: not text(case)
    if operator is Operator.PRESENT:
        return lambda case: bool(text(case))
    if operator in _ABOUT_LISTS:
        list_id = condition.list_id

        def on_list(case: Case) -> bool:
            listing = case.lists.get(list_id)
            if listing is None or not text(case):
                return False
            return listing.holds(case.transaction, case.now_ms) is wanted

        return on_list
    if name == "ip_address":
        networks = Networks()
        for each in condition.texts:
            networks.add(each, None)
        return lambda case: bool(text(case)) and (networks.hold(text(case), case.now_ms) is wanted)
    texts = frozenset(condition.texts)
    return lambda case: bool(text(case)) and (text(case) in texts) is wanted


def _number_question(
    number: Callable[[Case], float], operator: Operator, wanted: float
) -> Question:
    if operator is Operator.MISSING:
        return lambda case: math.isnan(number(case))
    if operator is Operator.PRESENT:
        return lambda case: not math.isnan(number(case))
    compare = _COMPARE[operator]

    def holds(case: Case) -> bool:
        told = number(case)
        return not math.isnan(told) and compare(told, wanted)

    return holds


def _reason(rule: Rule, case: Case) -> Reason:
    values = {}
    for condition in rule.conditions:
        if condition.name not in TEXT_FIELDS:
            told = _number(condition.name)(case)
            if not math.isnan(told):
                values[condition.name] = told
    message = rule.message or f"The rule {rule.rule_id} matched."
    message = _PLACEHOLDER.sub(
        lambda found: f"{values[found[1]]:.10g}" if found[1] in values else "no", message
    )
    return Reason(rule.code, message, 0.0, values)


def next_version(
    current: RuleSet, rules: tuple[Rule, ...], note: str, now_ms: int, actor: str
) -> RuleSet:
    """The rule set that follows."""
    return replace(
        current,
        version=current.version + 1,
        rules=rules,
        note=note,
        create_ms=now_ms,
        create_actor=actor,
    )
