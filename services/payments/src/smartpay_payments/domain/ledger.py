"""The double-entry ledger: every movement is a transaction whose legs sum to zero per currency.

The accounts of a merchant, each per currency; a debit is positive, a credit negative:

| account | says |
|---|---|
| `hold:<pac>`, `held:<mer>` | what an account has authorized and not yet captured, both sides |
| `processor:<pac>` | what the processor owes: captures less refunds, disputes, fees and payouts |
| `fees:<pac>` | what the processor keeps |
| `merchant:<mer>` | what is owed to the merchant: captures less refunds, disputes and payouts |
| `disputes:<pac>`, `disputed:<mer>` | what open disputes hold back, both sides |
| `overpayments:<mer>` | what payers sent beyond what was captured; it is owed to them |
| `payouts:<pac>` | what is on its way to the merchant's bank |
| `rewards:<mer>`, `reward_liability:<mer>` | tokens granted to payers, both sides |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from smartpay_payments.domain.payment import (
    NOT_PAID,
    Attempt,
    AttemptStatus,
    Dispute,
    DisputeStatus,
    Payment,
    Refund,
    RefundReason,
    RefundStatus,
)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One leg: debit positive, credit negative. (payment, transaction_id, account) is unique."""

    transaction_id: str
    account: str
    minor_units: int
    currency_code: str
    post_time: datetime


@dataclass(frozen=True, slots=True)
class PostedEntry:
    """A leg as the books keep it."""

    position: int
    """Counts all legs in the order in which they were posted; post times never go back."""
    payment_id: str
    """Empty for what concerns an account as a whole, for instance a payout."""
    entry: LedgerEntry


@dataclass(frozen=True, slots=True)
class Balance:
    """What the legs of one account and currency sum to."""

    account: str
    currency_code: str
    minor_units: int


@dataclass(frozen=True, slots=True)
class EntryFilter:
    """Which legs are asked for; what is empty admits all."""

    account: str = ""
    payment_id: str = ""
    currency_code: str = ""
    post_time_from: datetime | None = None
    post_time_before: datetime | None = None


REWARD_CURRENCY = "REWARD"
"""Base units of the reward's token, 6 decimals; no currency anybody pays in."""

Legs = Mapping[str, int]
"""Minor units by account; they sum to zero."""


def processor_account(processor_account_id: str) -> str:
    """What the processor owes us, per account."""
    return f"processor:{processor_account_id}"


def merchant_account(merchant_id: str) -> str:
    """What we owe the merchant."""
    return f"merchant:{merchant_id}"


def fees_account(processor_account_id: str) -> str:
    """What the processor keeps."""
    return f"fees:{processor_account_id}"


def payouts_account(processor_account_id: str) -> str:
    """What is on its way to the merchant's bank."""
    return f"payouts:{processor_account_id}"


# ---- what a payment's own change posts -------------------------------------------------------


def postings(before: Payment | None, after: Payment) -> Sequence[LedgerEntry]:
    """Derives what a change of a payment posts, by comparing what stood and what stands.

    Each matter of a payment (its hold, its capture, a refund, a dispute ...) has legs that follow
    from the payment alone, so whatever path led there the books say the same.

    Args:
        before: the payment as stored; None when it is created.
        after: the payment about to be stored, with its version and update_time.
    """
    stood = {} if before is None else _matters(before)
    stands = _matters(after)
    entries: list[LedgerEntry] = []
    for matter in {**stands, **stood}:
        is_, was = stands.get(matter, {}), stood.get(matter, {})
        # Counters would say it shorter and take three times as long.
        change = {a: is_.get(a, 0) - was.get(a, 0) for a in {**is_, **was}}
        name = matter if matter not in stood else _renamed(matter, change, after.version)
        entries += _entries(after, name, change)
    return entries


def _renamed(matter: str, change: Legs, version: int) -> str:
    """Names a later change of a matter; the version keeps the name unique."""
    gives_up_hold = matter.startswith("authorize") and any(
        account.startswith("hold:") and minor < 0 for account, minor in change.items()
    )
    return f"{'release' if gives_up_hold else matter}:v{version}"


def _entries(payment: Payment, transaction_id: str, legs: Legs) -> Iterator[LedgerEntry]:
    currency = payment.order.amount.currency_code
    for account, minor_units in legs.items():
        if minor_units:
            yield LedgerEntry(transaction_id, account, minor_units, currency, payment.update_time)


def expected_balances(payment: Payment) -> dict[str, int]:
    """Answers what the legs of a payment must sum to by account; accounts at zero are left out."""
    total: Counter[str] = Counter()
    for legs in _matters(payment).values():
        total.update(legs)
    return {account: minor for account, minor in total.items() if minor}


def _matters(payment: Payment) -> dict[str, Legs]:
    """Answers the legs of each matter. A matter that came up once stays, with legs of zero."""
    if not payment.attempts:
        return {}
    matters: dict[str, Legs] = {}
    merchant = merchant_account(payment.merchant_id)
    paying_attempt = _paying_attempt(payment)
    paying = paying_attempt.processor_account_id
    if payment.authorized_minor:
        open_minor = open_hold_minor(payment)
        index = paying_attempt.attempt_index
        matters[f"authorize:{index}" if index else "authorize"] = {
            f"hold:{paying}": open_minor,
            f"held:{payment.merchant_id}": -open_minor,
        }
    if payment.captured_minor:
        matters["capture"] = {
            processor_account(paying): payment.captured_minor,
            merchant: -payment.captured_minor,
        }
    if payment.fee_minor:
        matters["fee"] = fee_legs(paying, payment.fee_minor)
    for attempt in payment.attempts:
        if attempt.transfers:
            matters[f"transfers:{attempt.attempt_index}"] = _transfer_legs(payment, attempt)
    for refund in payment.refunds:
        if refund.status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED):
            matters[f"refund:{refund.refund_id}"] = _refund_legs(payment, refund)
    for dispute in payment.disputes:
        matters[f"dispute:{dispute.dispute_id}"] = _dispute_legs(payment, paying, dispute)
        fee = fee_legs(paying, dispute.fee_minor)
        matters[f"dispute_fee:{dispute.dispute_id}"] = fee
    return matters


def open_hold_minor(payment: Payment) -> int:
    """Answers what is authorized and neither captured nor given up."""
    if payment.captured_minor or payment.status in NOT_PAID:
        return 0
    return payment.authorized_minor


def unapplied_minor(payment: Payment, attempt: Attempt) -> int:
    """Answers what a payer sent to an attempt and what was not captured of it."""
    sent = sum(transfer.minor_units for transfer in attempt.transfers)
    applied = payment.captured_minor if attempt.status is AttemptStatus.SUCCEEDED else 0
    return sent - applied


def fee_legs(processor_account_id: str, fee_minor: int) -> Legs:
    """Answers the legs of what a processor keeps."""
    return {
        fees_account(processor_account_id): fee_minor,
        processor_account(processor_account_id): -fee_minor,
    }


def _transfer_legs(payment: Payment, attempt: Attempt) -> Legs:
    unapplied = unapplied_minor(payment, attempt)
    return {
        processor_account(attempt.processor_account_id): unapplied,
        f"overpayments:{payment.merchant_id}": -unapplied,
    }


def _refund_legs(payment: Payment, refund: Refund) -> Legs:
    minor = refund.amount.minor_units if refund.status is RefundStatus.SUCCEEDED else 0
    gives_surplus_back = refund.reason is RefundReason.OVERPAYMENT
    owed_by = (
        f"overpayments:{payment.merchant_id}"
        if gives_surplus_back
        else merchant_account(payment.merchant_id)
    )
    account = _refunded_attempt(payment, refund).processor_account_id
    return {owed_by: minor, processor_account(account): -minor}


def _dispute_legs(payment: Payment, paying: str, dispute: Dispute) -> Legs:
    taken = 0 if dispute.status is DisputeStatus.WON else dispute.amount_minor
    held_back = 0 if dispute.status is DisputeStatus.LOST else taken
    return {
        processor_account(paying): -taken,
        f"disputes:{paying}": held_back,
        merchant_account(payment.merchant_id): taken,
        f"disputed:{payment.merchant_id}": -held_back,
    }


def _paying_attempt(payment: Payment) -> Attempt:
    """Answers the attempt that authorized or took the money; the one in work while none did."""
    for attempt in payment.attempts:
        if attempt.status is AttemptStatus.SUCCEEDED:
            return attempt
    return payment.last_attempt


def _refunded_attempt(payment: Payment, refund: Refund) -> Attempt:
    if refund.attempt_index < 0:
        return _paying_attempt(payment)
    return next(a for a in payment.attempts if a.attempt_index == refund.attempt_index)


# ---- what a processor settles ----------------------------------------------------------------


def payout_legs(
    merchant_id: str, processor_account_id: str, minor_units: int, *, arrived: bool
) -> Legs:
    """Answers the legs of a payout: it leaves the processor, then it arrives at the bank."""
    on_its_way, left = (
        payouts_account(processor_account_id),
        processor_account(processor_account_id),
    )
    if arrived:
        return {merchant_account(merchant_id): minor_units, on_its_way: -minor_units}
    return {on_its_way: minor_units, left: -minor_units}


def reward_legs(merchant_id: str, base_units: int) -> Legs:
    """Answers the legs of tokens granted to a payer."""
    return {f"rewards:{merchant_id}": base_units, f"reward_liability:{merchant_id}": -base_units}
