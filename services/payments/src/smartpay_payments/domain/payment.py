"""A payment: its states, what belongs to it, and which steps are legal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from smartpay_chassis.refusals import Kind, Refusal


class Status(StrEnum):
    """Where a payment stands; the names are the contract's."""

    REQUIRES_CONFIRMATION = "REQUIRES_CONFIRMATION"
    REQUIRES_ACTION = "REQUIRES_ACTION"
    IN_REVIEW = "IN_REVIEW"
    PROCESSING = "PROCESSING"
    UNKNOWN = "UNKNOWN"
    NEEDS_REVIEW = "NEEDS_REVIEW"
    REQUIRES_CAPTURE = "REQUIRES_CAPTURE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    BLOCKED = "BLOCKED"
    CANCELED = "CANCELED"


# Which status may follow which. UNKNOWN leads wherever the truth turns out to be.
NEXT: dict[Status, frozenset[Status]] = {
    Status.PROCESSING: frozenset(
        {
            Status.REQUIRES_ACTION,
            Status.UNKNOWN,
            Status.REQUIRES_CAPTURE,
            Status.SUCCEEDED,
            Status.FAILED,
            Status.CANCELED,
        }
    ),
    Status.UNKNOWN: frozenset(
        {
            Status.PROCESSING,
            Status.REQUIRES_ACTION,
            Status.NEEDS_REVIEW,
            Status.REQUIRES_CAPTURE,
            Status.SUCCEEDED,
            Status.FAILED,
            Status.CANCELED,
        }
    ),
    Status.REQUIRES_ACTION: frozenset(
        {
            Status.PROCESSING,
            Status.UNKNOWN,
            Status.REQUIRES_CAPTURE,
            Status.SUCCEEDED,
            Status.FAILED,
            Status.CANCELED,
        }
    ),
    Status.REQUIRES_CAPTURE: frozenset({Status.PROCESSING}),
    Status.NEEDS_REVIEW: frozenset(),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.BLOCKED: frozenset(),
    Status.CANCELED: frozenset(),
    Status.REQUIRES_CONFIRMATION: frozenset(),
    Status.IN_REVIEW: frozenset(),
}
# No money was taken or can be: the order id is free again.
NOT_PAID = frozenset({Status.FAILED, Status.BLOCKED, Status.CANCELED})
# The processor has yet to say how it ended.
UNSETTLED = frozenset({Status.PROCESSING, Status.UNKNOWN})
# REST answers 202: the payment is still on its way.
OPEN = frozenset({*UNSETTLED, Status.REQUIRES_ACTION, Status.IN_REVIEW, Status.NEEDS_REVIEW})
CANCELABLE = frozenset({Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION})


class AttemptStatus(StrEnum):
    """How a try at one processor account ended."""

    STARTED = "STARTED"
    SUCCEEDED = "SUCCEEDED"
    REQUIRES_ACTION = "REQUIRES_ACTION"
    DECLINED = "DECLINED"
    UNKNOWN = "UNKNOWN"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class RefundStatus(StrEnum):
    """Where a refund stands."""

    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    NEEDS_REVIEW = "NEEDS_REVIEW"


OPEN_REFUNDS = frozenset({RefundStatus.PENDING, RefundStatus.UNKNOWN})


class CaptureMethod(StrEnum):
    """Whether money is taken at once."""

    AUTOMATIC = "AUTOMATIC"
    MANUAL = "MANUAL"


class Initiator(StrEnum):
    """Who started the payment."""

    CUSTOMER = "CUSTOMER"
    MERCHANT = "MERCHANT"


class RefundReason(StrEnum):
    """Why money is given back."""

    REQUESTED_BY_CUSTOMER = "REQUESTED_BY_CUSTOMER"
    DUPLICATE = "DUPLICATE"
    FRAUDULENT = "FRAUDULENT"


class RewardMark(StrEnum):
    """How the reward is marked on the chain, fixed when the payment is captured."""

    NONE = "UNSPECIFIED"
    RECEIPT = "RECEIPT"


class Command(StrEnum):
    """What a merchant asks of an authorized payment."""

    CAPTURE = "CAPTURE"
    CANCEL = "CANCEL"


@dataclass(frozen=True, slots=True)
class Money:
    """Whole minor units of one currency."""

    minor_units: int
    currency_code: str


@dataclass(frozen=True, slots=True)
class Order:
    """What the merchant asked for; never changes."""

    amount: Money
    tokens: dict[str, str]
    """Token of the instrument by processor account id."""
    fingerprint: str
    capture_method: CaptureMethod
    merchant_order_id: str = ""
    customer_id: str = ""
    device_id: str = ""
    ip_address: str = ""
    initiator: Initiator = Initiator.CUSTOMER
    off_session: bool = False
    statement_descriptor: str = ""
    description: str = ""
    decision_id: str = ""
    reward_wallet: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FraudOpinion:
    """What fraud said, and its answer kept whole for the record."""

    verdict: str
    score: float
    reason: str
    """Code of the strongest reason; empty when there is none."""
    document: bytes
    """The contract's Assessment, as it was answered."""


@dataclass(frozen=True, slots=True)
class RouteAdvice:
    """In which order the router would try the accounts, and its answer kept whole."""

    decision_id: str
    ranking: tuple[str, ...]
    document: bytes
    """The contract's Decision, as it was answered."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one processor account; key and body are stored before the call."""

    attempt_index: int
    processor_account_id: str
    processor: str
    processor_key: str
    request_body: str
    """Exactly what is sent, so that a replay is the same request."""
    status: AttemptStatus
    start_time: datetime
    end_time: datetime | None = None
    processor_payment_id: str = ""
    decline_code: str = ""
    soft_decline: bool = False


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back through the account that charged it."""

    refund_id: str
    amount: Money
    reason: RefundReason
    status: RefundStatus
    create_time: datetime
    update_time: datetime
    failure_code: str = ""
    processor_refund_id: str = ""
    checks: int = 0
    """How often recovery looked without finding out."""
    check_time: datetime | None = None
    """When recovery looks next; None when it is known how the refund ended."""


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """A capture or cancellation that was stored and may be on its way."""

    command: Command
    amount_minor: int
    processor_key: str
    start_time: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """One payment as stored; every change makes the next version and one event."""

    payment_id: str
    merchant_id: str
    livemode: bool
    order: Order
    request_hash: str
    status: Status
    create_time: datetime
    update_time: datetime
    version: int = 1
    event_type: str = ""
    """What made this version."""
    status_reason: str = ""
    authorized_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0
    disputed_minor: int = 0
    attempts: tuple[Attempt, ...] = ()
    refunds: tuple[Refund, ...] = ()
    action_url: str = ""
    action_expire_time: datetime | None = None
    fraud: FraudOpinion | None = None
    route: RouteAdvice | None = None
    pending: PendingCommand | None = None
    reward_mark: RewardMark = RewardMark.NONE
    checks: int = 0
    """How often recovery looked without finding out."""
    check_time: datetime | None = None
    """When recovery looks next; None when nothing is open."""
    answered_version: int = 0
    """The version that first answered the merchant's request for good; 0 while open."""

    @property
    def cell(self) -> str:
        """The payment's home region."""
        return self.payment_id[4:6]

    @property
    def last_attempt(self) -> Attempt:
        """The attempt in work; raises IndexError when fraud or routing ended it before one."""
        return self.attempts[-1]

    @property
    def refundable_minor(self) -> int:
        """What may still be given back: captured less every refund that is not known to fail."""
        claimed = sum(
            r.amount.minor_units for r in self.refunds if r.status is not RefundStatus.FAILED
        )
        return self.captured_minor - claimed

    def refund_of(self, refund_id: str) -> Refund:
        """Finds one of the refunds; raises StopIteration when there is none."""
        return next(r for r in self.refunds if r.refund_id == refund_id)

    def moved_to(self, status: Status, reason: str = "") -> Payment:
        """Answers the payment in another status; raises ValueError when the step is illegal."""
        if status is not self.status and status not in NEXT[self.status]:
            raise ValueError(f"{self.payment_id}: {self.status} can't become {status}")
        return replace(self, status=status, status_reason=reason)

    def with_attempt(self, attempt: Attempt) -> Payment:
        """Answers the payment with an attempt added or replaced by its index."""
        others = tuple(a for a in self.attempts if a.attempt_index != attempt.attempt_index)
        return replace(self, attempts=(*others, attempt))

    def with_refund(self, refund: Refund) -> Payment:
        """Answers the payment with a refund added or replaced by its id.

        Amounts and the time of the next look follow: a payment with refunds is captured, so
        nothing but refunds can be open.
        """
        if any(r.refund_id == refund.refund_id for r in self.refunds):
            refunds = tuple(refund if r.refund_id == refund.refund_id else r for r in self.refunds)
        else:
            refunds = (*self.refunds, refund)
        refunded = sum(r.amount.minor_units for r in refunds if r.status is RefundStatus.SUCCEEDED)
        check_times = [r.check_time for r in refunds if r.check_time is not None]
        return replace(
            self,
            refunds=refunds,
            refunded_minor=refunded,
            check_time=min(check_times, default=None),
        )


def payment_not_found() -> Refusal:
    """Refuses a payment that is not the merchant's, or not at all; the two read the same."""
    return Refusal(
        Kind.NOT_FOUND,
        "PAYMENT_NOT_FOUND",
        "There is no such payment.",
        remedy="Check the payment id and the credentials it was made with.",
        field="payment_id",
    )


def status_forbids(payment: Payment, what: str, needed: str) -> Refusal:
    """Refuses a command in the wrong status."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "STATUS_FORBIDS",
        f"The payment can't be {what}: its status is {payment.status.value.lower()}.",
        remedy=f"Read the payment; only one that is {needed} can be {what}.",
        field="payment_id",
        facts={"status": f"STATUS_{payment.status.value}"},
    )


def check_amount(payment: Payment, amount: Money, limit: int) -> None:
    """Refuses another currency, or more than the limit."""
    if amount.currency_code != payment.order.amount.currency_code:
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "CURRENCY_MISMATCH",
            "The amount is not in the payment's currency.",
            remedy=f"Send the amount in {payment.order.amount.currency_code}.",
            field="amount.currency_code",
        )
    if amount.minor_units > limit:
        raise Refusal(
            Kind.FAILED_PRECONDITION,
            "AMOUNT_TOO_LARGE",
            f"At most {limit} minor units are left.",
            remedy="Read the payment and send at most what is left.",
            field="amount",
            facts={"limit": str(limit)},
        )
