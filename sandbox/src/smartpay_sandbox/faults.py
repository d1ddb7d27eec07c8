"""Faults on demand: which request goes wrong, how, and the same way again for the same seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "slow": "Waits delay_ms before or after the commit.",
    "drop_after_commit": "Executes, then closes the connection without an answer.",
    "error_before": "Answers 500; nothing was executed, nothing is stored under the key.",
    "error_after": "Executes, answers 500, and stores that 500 under the key.",
    "rate_limit": "Answers 429; nothing was executed, nothing is stored under the key.",
}
"""Every kind of fault and what it does."""

DELAY_MS_MAX = 600_000
"""Ten minutes; longer than any client's timeout, so a longer wait shows nothing new."""
RULES_MAX = 100
"""Each rule is asked on each request; a hundred stay cheap."""


class FaultRuleError(ValueError):
    """A rule that cannot be understood; says which field, why, and what would do."""

    def __init__(self, index: int, name: str, reason: str) -> None:
        super().__init__(f"rules[{index}].{name}: {reason}")
        self.field = f"rules[{index}].{name}"


@dataclass
class FaultRule:
    """One rule with its own random stream; it fires on the requests that match it."""

    kind: str
    account: str | None = None
    method: str | None = None
    path_prefix: str = ""
    probability: float = 1.0
    times: int | None = None
    delay_ms: int = 0
    when: str = "before"
    seed: int = 0
    fired: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def fires(self, account: str, method: str, path: str) -> bool:
        """Decide for one request; draws only when the rule matches, so streams stay separate."""
        if self.account not in (None, account) or self.method not in (None, method):
            return False
        if not path.startswith(self.path_prefix):
            return False
        if self.times is not None and self.fired >= self.times:
            return False
        if self.probability < 1.0 and self._random.random() >= self.probability:
            return False
        self.fired += 1
        return True


@dataclass(frozen=True)
class Trouble:
    """What one request has to go through: waits in milliseconds, and at most one breakage."""

    wait_before_ms: int = 0
    wait_after_ms: int = 0
    breakage: str | None = None


NO_TROUBLE = Trouble()
"""A request that no rule touches."""


class Faults:
    """The rules in force, asked once for each request in the order of arrival."""

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []

    def set(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rules.

        Raises:
            FaultRuleError: if one cannot be understood; the old rules then stay.
        """
        if len(rules) > RULES_MAX:
            raise FaultRuleError(RULES_MAX, "kind", f"at most {RULES_MAX} rules; merge some")
        self._rules = [_parse(index, rule) for index, rule in enumerate(rules)]

    def clear(self) -> None:
        """Forget all rules."""
        self._rules = []

    def meet(self, account: str, method: str, path: str) -> Trouble:
        """Tell what this request goes through; waits add up, the first breakage wins."""
        if not self._rules:
            return NO_TROUBLE
        waits = {"before": 0, "after": 0}
        breakage: str | None = None
        for rule in self._rules:
            if rule.kind == "slow":
                if rule.fires(account, method, path):
                    waits[rule.when] += rule.delay_ms
            elif breakage is None and rule.fires(account, method, path):
                breakage = rule.kind
        return Trouble(waits["before"], waits["after"], breakage)

    def dump(self) -> list[dict[str, Any]]:
        """List the rules with how often each fired."""
        return [
            {name: value for name, value in vars(rule).items() if not name.startswith("_")}
            for rule in self._rules
        ]


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "kind": str,
    "account": str,
    "method": str,
    "path_prefix": str,
    "probability": (int, float),
    "times": int,
    "delay_ms": int,
    "when": str,
    "seed": int,
}


def _parse(index: int, rule: Mapping[str, Any]) -> FaultRule:
    if not isinstance(rule, Mapping):
        raise FaultRuleError(index, "kind", "a rule is a JSON object with at least a kind")
    for name, value in rule.items():
        if name not in _FIELDS:
            raise FaultRuleError(index, name, f"unknown field; use one of {', '.join(_FIELDS)}")
        if isinstance(value, bool) or not isinstance(value, _FIELDS[name]):
            raise FaultRuleError(index, name, "has the wrong JSON type; see the sandbox README")
    if rule.get("kind") not in KINDS:
        raise FaultRuleError(index, "kind", f"must be one of {', '.join(KINDS)}")
    if rule.get("when", "before") not in ("before", "after"):
        raise FaultRuleError(index, "when", "must be before or after (the commit)")
    if not 0 <= rule.get("probability", 1) <= 1:
        raise FaultRuleError(index, "probability", "must lie between 0 and 1")
    if rule.get("times", 1) < 1:
        raise FaultRuleError(index, "times", "must be at least 1; leave it out for no end")
    if not 0 <= rule.get("delay_ms", 0) <= DELAY_MS_MAX:
        raise FaultRuleError(index, "delay_ms", f"must lie between 0 and {DELAY_MS_MAX}")
    if rule["kind"] == "slow" and not rule.get("delay_ms"):
        raise FaultRuleError(index, "delay_ms", "a slow rule needs the wait in milliseconds")
    if rule["kind"] != "slow" and ("delay_ms" in rule or "when" in rule):
        raise FaultRuleError(index, "delay_ms", "only slow rules wait; add a slow rule beside it")
    return FaultRule(**{**rule, "method": rule["method"].upper()} if "method" in rule else rule)
