"""What the assistant keeps of a payment: enough to count and to explain, no text of the payer.

Descriptions, metadata, statement descriptors, order and customer ids are left out on purpose:
what is never stored can neither leak nor be taken for an instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Tenant(NamedTuple):
    """Whose payments are meant; taken from the verified call, never from words or arguments."""

    merchant_id: str
    livemode: bool


@dataclass(frozen=True, slots=True)
class FraudSaid:
    """What fraud thought of a payment; score is a probability from 0 to 1."""

    verdict: str
    score: float
    reasons: tuple[str, ...]
    model_version: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """One eligible account of the ranking; expected_success is a probability from 0 to 1."""

    processor_account_id: str
    processor: str
    expected_success: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Excluded:
    """One account that could not be ranked, with the sentence that says why."""

    processor_account_id: str
    message: str


@dataclass(frozen=True, slots=True)
class Route:
    """How the accounts were ranked; explored means the first place was drawn to learn."""

    ranking: tuple[Ranked, ...]
    excluded: tuple[Excluded, ...]
    policy_version: str
    explored: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one account, in order of trying."""

    processor_account_id: str
    processor: str
    status: str
    decline_code: str
    soft_decline: bool


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back; amount_minor is in the payment's currency."""

    refund_id: str
    amount_minor: int
    status: str
    reason: str
    created: datetime


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    """One payment as its newest event tells it; amounts are whole minor units, times are UTC.

    Statuses, processors and verdicts are the contract's names in lower case without prefix.
    """

    tenant: Tenant
    payment_id: str
    sequence: int
    status: str
    reason: str
    currency: str
    amount_minor: int
    captured_minor: int
    created: datetime
    fraud: FraudSaid | None = None
    route: Route | None = None
    attempts: tuple[Attempt, ...] = ()
    refunds: tuple[Refund, ...] = ()

    @property
    def deciding_attempt(self) -> Attempt | None:
        """The try the payment counts for: the one that succeeded, else the last one."""
        for attempt in self.attempts:
            if attempt.status == "succeeded":
                return attempt
        return self.attempts[-1] if self.attempts else None
