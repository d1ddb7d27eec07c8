"""What a processor is asked, and what it may answer.

The answers are told apart by what they prove, because only a proven no lets another account be
tried: an explicit decline proves it, silence never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from smartpay_payments.domain.payment import (
    Attempt,
    Payment,
    PendingCommand,
    Refund,
    RefundStatus,
)


@dataclass(frozen=True, slots=True)
class Charged:
    """Authorized, and captured as far as captured_minor says."""

    processor_payment_id: str
    authorized_minor: int
    captured_minor: int
    fee_minor: int = 0


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The payer must act at this address first."""

    processor_payment_id: str
    url: str


@dataclass(frozen=True, slots=True)
class Declined:
    """An explicit no; nothing was charged and nothing will be."""

    code: str
    soft: bool
    processor_payment_id: str = ""


@dataclass(frozen=True, slots=True)
class Canceled:
    """Given up at the processor; it can never succeed."""

    processor_payment_id: str


@dataclass(frozen=True, slots=True)
class NotKnown:
    """No usable answer: the charge may exist, may come to exist, or not."""

    why: str
    processor_payment_id: str = ""
    """The processor's id, when it named one; then looking is enough."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Turned away at the door (rate limit, credentials): this call did nothing.

    It proves nothing about an earlier call with the same key, which may have charged.
    """

    why: str


Outcome = Charged | ActionRequired | Declined | Canceled | NotKnown | NotTaken


@dataclass(frozen=True, slots=True)
class RefundOutcome:
    """What became of a refund at the processor."""

    status: RefundStatus
    processor_refund_id: str = ""
    failure_code: str = ""


class Processor(Protocol):
    """One processor. Every call may be repeated with the same key and is then the same call."""

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        """Writes the exact charge request, to be stored before it is sent."""
        ...

    async def charge(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Sends the stored request under the stored key, for the first time or again."""
        ...

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Reads how a charge with a known processor id stands now."""
        ...

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        """Takes authorized money."""
        ...

    async def cancel(self, payment: Payment, attempt: Attempt, key: str) -> Outcome:
        """Gives up a charge; Canceled is the fence after which it can never succeed."""
        ...

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        """Gives money back."""
        ...
