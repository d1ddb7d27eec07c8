"""Turns a model's margin into a probability, and a probability into what to do about it."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum

_MILLION = 1_000_000
_MARGIN_MAX = 30.0  # beyond it a probability is 0 or 1 to all printed digits, and exp may overflow


class Verdict(Enum):
    """What to do with a payment."""

    ALLOW = "ALLOW"
    REVIEW = "REVIEW"
    BLOCK = "BLOCK"


_STRICTNESS = {Verdict.ALLOW: 0, Verdict.REVIEW: 1, Verdict.BLOCK: 2}


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

    def verdict(self, probability: float, cents: int, *, reviews: bool = True) -> Verdict:
        """The cheapest thing to do with a payment of this size (US cents, whole).

        Args:
            probability: of fraud, 0 to 1.
            cents: the size.
            reviews: False when nobody is there to look at payments.
        """
        return self._cheapest(round(probability * _MILLION), cents, reviews)

    def thresholds(self, cents: int, *, reviews: bool = True) -> tuple[float | None, float | None]:
        """The smallest probabilities that are reviewed and blocked at this size.

        Blocking gets cheaper and allowing dearer with every step, so each verdict is one range.
        """
        found: list[float | None] = []
        for wanted in (Verdict.REVIEW, Verdict.BLOCK):
            at = bisect_left(
                range(_MILLION + 1),
                _STRICTNESS[wanted],
                key=lambda fraud: _STRICTNESS[self._cheapest(fraud, cents, reviews)],
            )
            reached = at <= _MILLION and self._cheapest(at, cents, reviews) is wanted
            found.append(at / _MILLION if reached else None)
        return found[0], found[1]

    def _cheapest(self, fraud: int, cents: int, reviews: bool) -> Verdict:
        honest = _MILLION - fraud
        loss = cents + self.chargeback_fee_cents
        insult = self.goodwill_cents + cents * self.margin_percent // 100
        allow = fraud * loss
        block = honest * insult
        review = _MILLION * self.review_cents + allow * self.review_miss_percent // 100
        if block < (min(allow, review) if reviews else allow):
            return Verdict.BLOCK
        return Verdict.REVIEW if reviews and review < allow else Verdict.ALLOW


@dataclass(frozen=True, slots=True)
class Policy:
    """How a merchant weighs fraud against turning honest payers away.

    Attributes:
        costs: what mistakes cost; None: as the model bundle says.
        reviews_disabled: nobody looks at payments; the model allows or blocks.
        control_basis_points: of what the model would not allow, how many in 10,000 pass.
        control_cents_max: larger payments (US cents) never pass by chance.
        version: counts the changes; 0 is what every merchant begins with.
        update_ms: when it was put in force; 0 for version 0.
    """

    costs: Costs | None = None
    reviews_disabled: bool = False
    control_basis_points: int = 0
    control_cents_max: int = 0
    version: int = 0
    update_ms: int = 0

    @property
    def etag(self) -> str:
        """Names this version of it."""
        return f'"{self.version}"'
