"""Failures on demand for the sandbox's Solana node: what no public local validator offers.

A rule is a JSON object: `kind`, optionally `method` (an RPC method; each kind has a default),
`probability` (0 to 1) or `times` (a count), `seed`, and for `slow` `delay_ms` and `when`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

DELAY_MS_MAX = 60_000  # longer than any client's patience; more would only hold sockets

# Each kind and the method it strikes when the rule names none ("*" is every method).
KINDS = {
    "drop_after_commit": "sendTransaction",  # executed, then the connection closes unanswered
    "error_before": "sendTransaction",  # 504 and nothing executed
    "error_after": "sendTransaction",  # executed, then 504
    "rate_limit": "*",  # 429 and nothing executed
    "node_behind": "*",  # JSON-RPC error -32005, as an unhealthy node answers; nothing executed
    "slow": "*",  # sleeps delay_ms before or after the work
    "stale_reads": "getSignatureStatuses",  # answers as if nothing had landed yet
}
_FIELDS = {"kind", "method", "probability", "times", "delay_ms", "when", "seed"}


class FaultRuleError(ValueError):
    """A fault rule that cannot be followed; the text names the field and the remedy."""


@dataclass
class FaultRule:
    """One rule; `strikes` decides by its own seeded dice, so that a run can be repeated."""

    kind: str
    method: str
    probability: float
    times: int | None
    delay_ms: int
    when: str
    dice: Random = field(repr=False)

    def strikes(self, method: str) -> bool:
        """Decide once for one call; a rule with `times` counts down when it strikes."""
        if self.method not in ("*", method) or self.times == 0:
            return False
        if self.dice.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True)
class Strike:
    """The faults that fell on one call."""

    kinds: frozenset[str] = frozenset()
    delay_before_ms: int = 0
    delay_after_ms: int = 0


class Faults:
    """Holds the rules in force; the first rule of each kind that strikes counts."""

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []

    def set(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace all rules; raises FaultRuleError and changes nothing when one is wrong."""
        self._rules = [_rule(index, rule) for index, rule in enumerate(rules)]

    def clear(self) -> None:
        """Be an honest node again."""
        self._rules = []

    def fall_on(self, method: str) -> Strike:
        """Roll every rule for one call."""
        if not self._rules:
            return Strike()
        struck = [rule for rule in self._rules if rule.strikes(method)]
        slow = [rule for rule in struck if rule.kind == "slow"]
        return Strike(
            kinds=frozenset(rule.kind for rule in struck),
            delay_before_ms=sum(rule.delay_ms for rule in slow if rule.when == "before"),
            delay_after_ms=sum(rule.delay_ms for rule in slow if rule.when == "after"),
        )


def _rule(index: int, rule: Mapping[str, Any]) -> FaultRule:
    def refuse(name: str, remedy: str) -> FaultRuleError:
        return FaultRuleError(f"rules[{index}].{name}: {remedy}")

    unknown = sorted(set(rule) - _FIELDS)
    if unknown:
        raise refuse(unknown[0], f"is no field of a rule; use {', '.join(sorted(_FIELDS))}.")
    kind = rule.get("kind")
    if kind not in KINDS:
        raise refuse("kind", f"must be one of {', '.join(KINDS)}.")
    probability = rule.get("probability", 1)
    if not isinstance(probability, int | float) or not 0 <= probability <= 1:
        raise refuse("probability", "must be a number from 0 to 1.")
    times = rule.get("times")
    if times is not None and (not isinstance(times, int) or times < 1):
        raise refuse("times", "must be a whole number from 1, or left out for always.")
    delay_ms = rule.get("delay_ms", 0)
    if not isinstance(delay_ms, int) or not 0 <= delay_ms <= DELAY_MS_MAX:
        raise refuse("delay_ms", f"must be a whole number from 0 to {DELAY_MS_MAX}.")
    when = rule.get("when", "before")
    if when not in ("before", "after"):
        raise refuse("when", 'must be "before" or "after".')
    return FaultRule(
        kind=kind,
        method=str(rule.get("method") or KINDS[kind]),
        probability=probability,
        times=times,
        delay_ms=delay_ms,
        when=when,
        dice=Random(rule.get("seed", index)),
    )
