"""Puts what raised a score into words: stable codes for machines, one sentence each for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smartpay_fraud.domain.features import FEATURES, Vector

REASONS_MAX = 4
"""The contract's limit; past the fourth cause nobody reads on."""

CONTRIBUTION_MIN = 0.05
"""Log-odds: a cause that changed the odds by less than 5 % is no cause worth telling."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One cause of a score.

    Attributes:
        code: stable, for machines.
        message: one sentence with the figures.
        contribution: log-odds added to the score; 0 for a rule.
    """

    code: str
    message: str
    contribution: float


def _count(value: float) -> str:
    return f"{value:.0f}"


def _dollars(value: float) -> str:
    return f"about {math.expm1(value):,.0f} USD"


def _ago(value: float) -> str:
    seconds = math.expm1(value)
    for length, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes"), (1, "seconds")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def _spreads(value: float) -> str:
    side = "above" if value >= 0 else "below"
    return f"{abs(value):.1f} standard deviations {side}"


def _times(value: float) -> str:
    return f"{math.exp(value):.1f} times"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _flag(value: float) -> str:
    return "is new" if value else "was seen before"


_Wording = tuple[str, Callable[[float], str], str]

_WORDINGS: dict[str, _Wording] = {
    "amount": ("AMOUNT_HIGH", _dollars, "The amount is {0}."),
    "hour": ("HOUR_UNUSUAL", _count, "The payment came in the hour after {0}:00 UTC."),
    "customer_count_1h": (
        "VELOCITY_CUSTOMER",
        _count,
        "The customer paid {0} times within 1 hour.",
    ),
    "customer_count_24h": (
        "VELOCITY_CUSTOMER",
        _count,
        "The customer paid {0} times within 24 hours.",
    ),
    "customer_count_7d": (
        "VELOCITY_CUSTOMER",
        _count,
        "The customer paid {0} times within 7 days.",
    ),
    "customer_count_30d": (
        "VELOCITY_CUSTOMER",
        _count,
        "The customer paid {0} times within 30 days.",
    ),
    "customer_spend_24h": ("VELOCITY_CUSTOMER", _dollars, "The customer paid {0} within 24 hours."),
    "customer_amount_z": (
        "AMOUNT_UNUSUAL",
        _spreads,
        "The amount is {0} what this customer usually pays.",
    ),
    "customer_amount_ratio": (
        "AMOUNT_UNUSUAL",
        _times,
        "The amount is {0} what this customer usually pays.",
    ),
    "customer_idle": ("VELOCITY_CUSTOMER", _ago, "The customer's last payment was {0}."),
    "customer_age": ("NEW_CUSTOMER", _ago, "The customer was first seen {0}."),
    "customer_cards_24h": (
        "NEW_CARD",
        _count,
        "The customer used {0} different cards within 24 hours.",
    ),
    "customer_devices_24h": (
        "NEW_DEVICE",
        _count,
        "The customer used {0} different devices within 24 hours.",
    ),
    "customer_new_card": ("NEW_CARD", _flag, "The card {0} with this customer."),
    "customer_new_device": ("NEW_DEVICE", _flag, "The device {0} with this customer."),
    "customer_new_network": ("NEW_NETWORK", _flag, "The network {0} with this customer."),
    "customer_declines_24h": (
        "DECLINES",
        _count,
        "{0} payments of this customer were declined within 24 hours.",
    ),
    "customer_known_frauds": (
        "KNOWN_FRAUD",
        _count,
        "{0} payments of this customer were reported as fraud.",
    ),
    "card_count_10m": ("VELOCITY_CARD", _count, "The card was used {0} times within 10 minutes."),
    "card_count_1h": ("VELOCITY_CARD", _count, "The card was used {0} times within 1 hour."),
    "card_count_24h": ("VELOCITY_CARD", _count, "The card was used {0} times within 24 hours."),
    "card_spend_24h": ("VELOCITY_CARD", _dollars, "The card paid {0} within 24 hours."),
    "card_amount_z": (
        "AMOUNT_UNUSUAL",
        _spreads,
        "The amount is {0} what this card usually pays.",
    ),
    "card_idle": ("VELOCITY_CARD", _ago, "The card's last payment was {0}."),
    "card_age": ("NEW_CARD", _ago, "The card was first seen {0}."),
    "card_customers_24h": (
        "VELOCITY_CARD",
        _count,
        "{0} different customers used this card within 24 hours.",
    ),
    "card_devices_24h": (
        "NEW_DEVICE",
        _count,
        "The card was used on {0} different devices within 24 hours.",
    ),
    "card_declines_24h": (
        "DECLINES",
        _count,
        "{0} payments with this card were declined within 24 hours.",
    ),
    "card_known_frauds": (
        "KNOWN_FRAUD",
        _count,
        "{0} payments with this card were reported as fraud.",
    ),
    "device_count_10m": (
        "VELOCITY_DEVICE",
        _count,
        "{0} payments came from this device within 10 minutes.",
    ),
    "device_count_1h": (
        "VELOCITY_DEVICE",
        _count,
        "{0} payments came from this device within 1 hour.",
    ),
    "device_count_24h": (
        "VELOCITY_DEVICE",
        _count,
        "{0} payments came from this device within 24 hours.",
    ),
    "device_cards_10m": (
        "CARD_TESTING",
        _count,
        "{0} different cards were used on this device within 10 minutes.",
    ),
    "device_cards_1h": (
        "CARD_TESTING",
        _count,
        "{0} different cards were used on this device within 1 hour.",
    ),
    "device_cards_24h": (
        "CARD_TESTING",
        _count,
        "{0} different cards were used on this device within 24 hours.",
    ),
    "device_customers_24h": (
        "VELOCITY_DEVICE",
        _count,
        "{0} different customers paid from this device within 24 hours.",
    ),
    "device_tiny_1h": (
        "CARD_TESTING",
        _count,
        "{0} very small payments came from this device within 1 hour.",
    ),
    "device_amount_z": (
        "AMOUNT_UNUSUAL",
        _spreads,
        "The amount is {0} what is usual on this device.",
    ),
    "device_idle": ("VELOCITY_DEVICE", _ago, "The device's last payment was {0}."),
    "device_age": ("NEW_DEVICE", _ago, "The device was first seen {0}."),
    "device_declines_1h": (
        "DECLINES",
        _count,
        "{0} payments from this device were declined within 1 hour.",
    ),
    "device_declines_24h": (
        "DECLINES",
        _count,
        "{0} payments from this device were declined within 24 hours.",
    ),
    "device_known_frauds": (
        "KNOWN_FRAUD",
        _count,
        "{0} payments from this device were reported as fraud.",
    ),
    "network_count_10m": (
        "VELOCITY_NETWORK",
        _count,
        "{0} payments came from this network within 10 minutes.",
    ),
    "network_count_1h": (
        "VELOCITY_NETWORK",
        _count,
        "{0} payments came from this network within 1 hour.",
    ),
    "network_count_24h": (
        "VELOCITY_NETWORK",
        _count,
        "{0} payments came from this network within 24 hours.",
    ),
    "network_cards_1h": (
        "VELOCITY_NETWORK",
        _count,
        "{0} different cards were used on this network within 1 hour.",
    ),
    "network_cards_24h": (
        "VELOCITY_NETWORK",
        _count,
        "{0} different cards were used on this network within 24 hours.",
    ),
    "network_customers_1h": (
        "VELOCITY_NETWORK",
        _count,
        "{0} different customers paid from this network within 1 hour.",
    ),
    "network_tiny_1h": (
        "CARD_TESTING",
        _count,
        "{0} very small payments came from this network within 1 hour.",
    ),
    "network_tiny_share_1h": (
        "CARD_TESTING",
        _percent,
        "{0} of this network's payments within 1 hour were very small.",
    ),
    "network_amount_z": (
        "AMOUNT_UNUSUAL",
        _spreads,
        "The amount is {0} what is usual on this network.",
    ),
    "network_age": ("NEW_NETWORK", _ago, "The network was first seen {0}."),
    "network_declines_1h": (
        "DECLINES",
        _count,
        "{0} payments from this network were declined within 1 hour.",
    ),
    "network_decline_share_1h": (
        "DECLINES",
        _percent,
        "{0} of this network's payments within 1 hour were declined.",
    ),
    "network_known_frauds": (
        "KNOWN_FRAUD",
        _count,
        "{0} payments from this network were reported as fraud.",
    ),
    "network_known_fraud_rate": (
        "KNOWN_FRAUD",
        _percent,
        "The network's smoothed rate of reported fraud is {0}.",
    ),
    "merchant_count_10m": (
        "MERCHANT_UNDER_ATTACK",
        _count,
        "The merchant took {0} payments within 10 minutes.",
    ),
    "merchant_count_1h": (
        "MERCHANT_UNDER_ATTACK",
        _count,
        "The merchant took {0} payments within 1 hour.",
    ),
    "merchant_tiny_share_1h": (
        "MERCHANT_UNDER_ATTACK",
        _percent,
        "{0} of the merchant's payments within 1 hour were very small.",
    ),
    "merchant_amount_z": (
        "AMOUNT_UNUSUAL",
        _spreads,
        "The amount is {0} what is usual at this merchant.",
    ),
    "merchant_age": ("NEW_MERCHANT", _ago, "The merchant's first payment was {0}."),
    "merchant_decline_share_1h": (
        "MERCHANT_UNDER_ATTACK",
        _percent,
        "{0} of the merchant's payments within 1 hour were declined.",
    ),
    "merchant_known_frauds": (
        "MERCHANT_UNDER_ATTACK",
        _count,
        "{0} payments of this merchant were reported as fraud.",
    ),
    "merchant_known_fraud_rate": (
        "MERCHANT_UNDER_ATTACK",
        _percent,
        "The merchant's smoothed rate of reported fraud is {0}.",
    ),
}
REASON_CODES = tuple(sorted({code for code, _, _ in _WORDINGS.values()}))
"""Every code a model's reason can carry; each stays for ever once published."""

_WORDINGS_IN_ORDER = [_WORDINGS[name] for name in FEATURES]
_CODE_OF = np.array([REASON_CODES.index(code) for code, _, _ in _WORDINGS_IN_ORDER])
_FEATURES_OF = [np.flatnonzero(np.equal(_CODE_OF, number)) for number in range(len(REASON_CODES))]


def model_reasons(
    features: Vector, contributions: NDArray[np.float64], limit: int = REASONS_MAX
) -> list[Reason]:
    """The causes that raised the score most, strongest first.

    Features of one code are summed and the strongest speaks for them. A missing input is no cause:
    what is not known can't be explained to anyone.
    """
    known = np.where(np.isnan(features), 0.0, contributions)
    totals = np.bincount(_CODE_OF, known, minlength=len(REASON_CODES))
    reasons = []
    for number in np.argsort(-totals, kind="stable")[:limit].tolist():
        total = float(totals[number])
        if total < CONTRIBUTION_MIN:
            break
        members = _FEATURES_OF[number]
        strongest = int(members[known[members].argmax()])
        code, figure, sentence = _WORDINGS_IN_ORDER[strongest]
        reasons.append(Reason(code, sentence.format(figure(float(features[strongest]))), total))
    return reasons
