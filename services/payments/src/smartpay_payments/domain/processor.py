"""What a processor is asked, and what it may answer.

The answers are told apart by what they prove, because only a proven no lets another account be
tried: an explicit decline proves it, silence never does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from smartpay_payments.domain.payment import (
    Attempt,
    Dispute,
    NextAction,
    Payment,
    PendingCommand,
    Refund,
    RefundStatus,
    Transfer,
)


@dataclass(frozen=True, slots=True)
class Charged:
    """Authorized, and captured as far as captured_minor says."""

    processor_payment_id: str
    authorized_minor: int
    captured_minor: int
    fee_minor: int = 0
    transfers: tuple[Transfer, ...] = ()
    """Everything that came in, on rails where the payer sends; may sum to more than captured."""
    refunded_minor: int = 0
    """What was given back already, as far as the processor says so."""


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The payer must act first."""

    processor_payment_id: str
    action: NextAction
    transfers: tuple[Transfer, ...] = ()
    """What came in so far: less than the payment."""


@dataclass(frozen=True, slots=True)
class Pending:
    """The processor itself says that it is at work; asking again later is enough."""

    processor_payment_id: str
    why: str


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
    transfers: tuple[Transfer, ...] = ()
    """What came in nevertheless, to be given back."""


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


Outcome = Charged | ActionRequired | Pending | Declined | Canceled | NotKnown | NotTaken


@dataclass(frozen=True, slots=True)
class RefundOutcome:
    """What became of a refund at the processor."""

    status: RefundStatus
    processor_refund_id: str = ""
    failure_code: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """What else became of a charge since it was made, as the processor tells it now."""

    disputes: tuple[Dispute, ...] = ()
    fee_minor: int = 0
    """What the processor keeps of the charge in all; 0 while it has not said so."""


class Processor(Protocol):
    """One processor. Every call may be repeated with the same key and is then the same call.

    No call raises for what the processor or the network does: that is an outcome.
    """

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

    async def standing(self, payment: Payment, attempt: Attempt) -> Standing | None:
        """Reads what became of a charge since; None when the processor can't be asked now."""
        ...


@runtime_checkable
class TransferRail(Protocol):
    """A rail where the payer sends the money: nobody can stop a transfer that comes late."""

    late_seconds: float
    """How long after the end of an attempt it is watched for late transfers."""

    def dust_minor(self, currency_code: str) -> int:
        """Says up to which amount a refund would cost more than it gives back."""
        ...

    async def transfers(self, payment: Payment, attempt: Attempt) -> Sequence[Transfer] | None:
        """Reads every final transfer to an attempt; None when the chain can't be read now."""
        ...


@runtime_checkable
class DisputeDesk(Protocol):
    """A processor where disputes can be answered."""

    async def submit_evidence(
        self, payment: Payment, attempt: Attempt, dispute: Dispute, evidence: dict[str, str]
    ) -> Dispute | None:
        """Hands in evidence; answers the dispute as it stands then, None when nobody knows."""
        ...

    async def accept(self, payment: Payment, attempt: Attempt, dispute: Dispute) -> Dispute | None:
        """Gives a dispute up; answers it as it stands then, None when nobody knows."""
        ...
