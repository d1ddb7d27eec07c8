"""Hard limits that decide before the model does, because no score should outvote them."""

from __future__ import annotations

from dataclasses import dataclass

from smartpay_fraud.domain.features import FEATURE_INDEX, Vector

RULES_VERSION = 1
"""Raise it with every change below: an old assessment then still says what it was judged by."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Blocks once a feature reaches a limit; a missing input never does.

    Attributes:
        code: the stable reason code.
        feature: the column that is watched.
        limit: the first value that blocks.
        message: one sentence with room for the figure, {0}.
    """

    code: str
    feature: str
    limit: int
    message: str


RULES: tuple[Rule, ...] = (
    Rule(
        # Nobody owns six cards at hand; whoever tries six in ten minutes has a list of them.
        code="RULE_CARDS_ON_DEVICE",
        feature="device_cards_10m",
        limit=6,
        message="{0} different cards were tried on this device within 10 minutes.",
    ),
    Rule(
        # An honest payer gives up, or calls the bank, long before the twelfth decline.
        code="RULE_DECLINES_ON_DEVICE",
        feature="device_declines_1h",
        limit=12,
        message="{0} payments from this device were declined within an hour.",
    ),
)


def broken_rules(features: Vector) -> list[tuple[Rule, str]]:
    """The rules that a payment breaks, each with its sentence; none for most payments."""
    broken = []
    for rule in RULES:
        value = float(features[FEATURE_INDEX[rule.feature]])
        if value >= rule.limit:
            broken.append((rule, rule.message.format(int(value))))
    return broken
