"""Turns a model's margin into a probability, and a probability into what to do about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

_MILLION = 1_000_000
_MARGIN_MAX = 30.0  # beyond it a probability is 0 or 1 to all printed digits, and exp may overflow


class Verdict(Enum):
    """What to do with a payment."""

    ALLOW = "ALLOW"
    REVIEW = "REVIEW"
    BLOCK = "BLOCK"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling (Platt 1999): makes a score mean a share of frauds, measured on later days."""

    slope: float
    intercept: float

    def probability(self, margin: float) -> float:
        """The probability of fraud, 0 to 1, for a margin in log-odds."""
        logit = self.slope * margin + self.intercept
        return 1 / (1 + math.exp(-max(-_MARGIN_MAX, min(_MARGIN_MAX, logit))))


@dataclass(frozen=True, slots=True)
class Costs:
    """What each mistake costs, in US cents; the verdict is whatever costs least on average.

    Attributes:
        chargeback_fee_cents: paid on top of the amount when a fraud goes through.
        goodwill_cents: what an honest payer turned away costs besides the sale.
        margin_percent: what the sale itself would have earned.
        review_cents: a person's time, and the payer's patience.
        review_miss_percent: frauds that a person lets through.
    """

    chargeback_fee_cents: int = 1_500
    goodwill_cents: int = 3_000
    margin_percent: int = 20
    review_cents: int = 2_000
    review_miss_percent: int = 30

    def verdict(self, probability: float, cents: int) -> Verdict:
        """The cheapest thing to do with a payment of this size (US cents, whole)."""
        fraud = round(probability * _MILLION)
        honest = _MILLION - fraud
        loss = cents + self.chargeback_fee_cents
        insult = self.goodwill_cents + cents * self.margin_percent // 100
        allow = fraud * loss
        block = honest * insult
        review = _MILLION * self.review_cents + allow * self.review_miss_percent // 100
        if block < min(allow, review):
            return Verdict.BLOCK
        return Verdict.REVIEW if review < allow else Verdict.ALLOW
