"""A payment: its states, what belongs to it, and which steps are legal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from smartpay_chassis.refusals import Kind, Refusal

if TYPE_CHECKING:
    # Its checker knows the fields.
    from dataclasses import replace as replace
else:
    T = TypeVar("T")

    def replace(thing: T, /, **changes: object) -> T:
        """Answers a payment, or a part of one, with some fields changed.

        As dataclasses.replace, which takes twenty times as long for so many fields, and a payment
        is changed a dozen times on its way. Only for records without slots.

        Raises:
            TypeError: there is no such field.
        """
        fields = thing.__dict__ | changes
        if len(fields) != len(thing.__dict__):
            raise TypeError(f"{type(thing).__name__} lacks a field of {sorted(changes)}")
        made = object.__new__(type(thing))
        # A frozen record takes no fields but at once, which is the fastest way as well.
        object.__setattr__(made, "__dict__", fields)
        return made


METADATA_PAIRS_MAX = 20
"""The merchant's own pairs that a payment or customer may have; the contract says so, too."""


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


# No money was taken or can be: the order id is free again.
NOT_PAID = frozenset({Status.FAILED, Status.BLOCKED, Status.CANCELED})
# The processor has yet to say how it ended.
UNSETTLED = frozenset({Status.PROCESSING, Status.UNKNOWN})
# REST answers 202: the payment is still on its way.
OPEN = frozenset(
    {
        *UNSETTLED,
        Status.REQUIRES_CONFIRMATION,
        Status.REQUIRES_ACTION,
        Status.IN_REVIEW,
        Status.NEEDS_REVIEW,
    }
)
# No processor was asked, or the last one said no: giving up needs nobody's word.
UNSENT = frozenset({Status.REQUIRES_CONFIRMATION, Status.IN_REVIEW})
CANCELABLE = frozenset({*UNSENT, Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION})


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


class ActionKind(StrEnum):
    """How the payer acts; the names are the contract's."""

    REDIRECT = "REDIRECT"
    SOLANA_PAY = "SOLANA_PAY"
    AMAZON_CHECKOUT = "AMAZON_CHECKOUT"
    CHOOSE_RAIL = "CHOOSE_RAIL"


class DisputeStatus(StrEnum):
    """Where a dispute stands; the names are the contract's."""

    NEEDS_RESPONSE = "NEEDS_RESPONSE"
    UNDER_REVIEW = "UNDER_REVIEW"
    WON = "WON"
    LOST = "LOST"


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
    OVERPAYMENT = "OVERPAYMENT"


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
    """What the merchant asked for; changes only until it is confirmed."""

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
    instrument_id: str = ""
    """The saved instrument that the tokens are of; "" for tokens of the request itself."""
    payers: dict[str, str] = field(default_factory=dict)
    """The processors' own id of the customer by account, which saved tokens are charged with."""
    terminal_id: str = ""
    """The point of sale, for fraud."""
    country: str = ""
    """The payer's, by the billing address: ISO 3166-1 alpha-2."""


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
class NextAction:
    """What the payer must do."""

    kind: ActionKind
    url: str = ""
    """Where to send the payer, or what to show them as a QR code (a solana: address)."""
    processor_account_ids: tuple[str, ...] = ()
    """Accounts of other rails that the payer may choose, for CHOOSE_RAIL."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that a payer sent by themselves, final on its chain."""

    transfer_id: str
    """Unique on the rail: the transaction's signature and the instruction's index."""
    minor_units: int
    payer: str
    """The address that sent it, which gets it back if need be."""


@dataclass(frozen=True)  # without slots: see `replace`
class Dispute:
    """A payer's bank that claims captured money back."""

    dispute_id: str
    """Ours: dis_, the cell, 24 characters; derived from the payment and the processor's id."""
    processor_dispute_id: str
    amount_minor: int
    reason: str
    status: DisputeStatus
    create_time: datetime
    update_time: datetime
    evidence_due_time: datetime | None = None
    fee_minor: int = 0


@dataclass(frozen=True)  # without slots: see `replace`
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
    transfers: tuple[Transfer, ...] = ()
    """What the payer sent, as far as it is booked; only on rails where the payer sends."""


@dataclass(frozen=True)  # without slots: see `replace`
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
    attempt_index: int = -1
    """The attempt whose money is given back; -1 for the last one."""
    transfer_id: str = ""
    """The transfer that is given back, when it was more than asked for."""


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """A capture or cancellation that was stored and may be on its way."""

    command: Command
    amount_minor: int
    processor_key: str
    start_time: datetime


@dataclass(frozen=True)  # without slots: see `replace`
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
    fee_minor: int = 0
    """What the processor keeps, as far as it has told."""
    attempts: tuple[Attempt, ...] = ()
    confirm_later: bool = False
    """True when it was created without being charged."""
    late_until: datetime | None = None
    """Until when transfers are looked for that nobody can stop; None on rails without them."""
    refunds: tuple[Refund, ...] = ()
    disputes: tuple[Dispute, ...] = ()
    next_action: NextAction | None = None
    action_expire_time: datetime | None = None
    fraud: FraudOpinion | None = None
    route: RouteAdvice | None = None
    pending: PendingCommand | None = None
    earns_reward: bool = True
    """False when the merchant had rewards switched off as it was created."""
    reward_vesting_seconds: int | None = None
    """How long its reward waits after the capture; None leaves it to rewards."""
    merchant_category: str = ""
    """What the merchant sold as it was created (ISO 18245), so that fraud is told the same again
    whenever it is asked again."""
    reward_mark: RewardMark = RewardMark.NONE
    checks: int = 0
    """How often recovery looked without finding out."""
    retry_time: datetime | None = None
    """When recovery asks about the charge or command again; None when its outcome is known."""
    check_time: datetime | None = None
    """When recovery looks at the payment next, whatever for; None when nothing is open."""
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
    def paid_attempt(self) -> Attempt:
        """The attempt that took the money; raises StopIteration when there is none."""
        return next(a for a in self.attempts if a.status is AttemptStatus.SUCCEEDED)

    @property
    def refundable_minor(self) -> int:
        """What may still be given back: captured less every refund that is not known to fail.

        What disputes hold or took can't be given back a second time.
        """
        claimed = sum(
            r.amount.minor_units
            for r in self.refunds
            if r.status is not RefundStatus.FAILED and r.reason is not RefundReason.OVERPAYMENT
        )
        return self.captured_minor - claimed - self.disputed_minor

    @property
    def overpaid_minor(self) -> int:
        """What the payer sent beyond what was captured."""
        sent = sum(t.minor_units for a in self.attempts for t in a.transfers)
        kept = sum(
            self.captured_minor
            for a in self.attempts
            if a.transfers and a.status is AttemptStatus.SUCCEEDED
        )
        return max(0, sent - kept)

    @property
    def in_doubt(self) -> bool:
        """True while a processor may have done something we don't know of."""
        return self.status in UNSETTLED or any(r.status in OPEN_REFUNDS for r in self.refunds)

    def refund_of(self, refund_id: str) -> Refund:
        """Finds one of the refunds; raises StopIteration when there is none."""
        return next(r for r in self.refunds if r.refund_id == refund_id)

    def with_attempt(self, attempt: Attempt) -> Payment:
        """Answers the payment with an attempt added or replaced by its index."""
        return replace(self, attempts=self.attempts_with(attempt))

    def attempts_with(self, attempt: Attempt) -> tuple[Attempt, ...]:
        """Answers the attempts with one added or replaced; an attempt's index is its place."""
        index = attempt.attempt_index
        return (*self.attempts[:index], attempt, *self.attempts[index + 1 :])

    def with_refund(self, refund: Refund) -> Payment:
        """Answers the payment with a refund added or replaced by its id; amounts follow."""
        if any(r.refund_id == refund.refund_id for r in self.refunds):
            refunds = tuple(refund if r.refund_id == refund.refund_id else r for r in self.refunds)
        else:
            refunds = (*self.refunds, refund)
        refunded = sum(
            r.amount.minor_units
            for r in refunds
            if r.status is RefundStatus.SUCCEEDED and r.reason is not RefundReason.OVERPAYMENT
        )
        return replace(self, refunds=refunds, refunded_minor=refunded)

    def with_disputes(self, disputes: tuple[Dispute, ...]) -> Payment:
        """Answers the payment with its disputes as they stand; the amount follows."""
        disputed = sum(d.amount_minor for d in disputes if d.status is not DisputeStatus.WON)
        return replace(self, disputes=disputes, disputed_minor=disputed)


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


def with_pairs(pairs: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Answers metadata with pairs set; one with an empty value is removed.

    Raises:
        Refusal: FIELD_INVALID when too many pairs would stay.
    """
    kept = {key: value for key, value in {**pairs, **given}.items() if value}
    if len(kept) > METADATA_PAIRS_MAX:
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "FIELD_INVALID",
            f"More than {METADATA_PAIRS_MAX} pairs would stay.",
            remedy="Remove a pair by sending it with an empty value.",
            field="metadata",
        )
    return kept


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
