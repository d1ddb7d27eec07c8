"""Compares three records of every payment: ours, the processor's, and the books.

Pure, and a stream: both sides come sorted by payment id, and one payment at a time is looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from smartpay_payments.domain.late_charges import gives_back, may_be_charged_late, takes_up
from smartpay_payments.domain.ledger import expected_balances
from smartpay_payments.domain.payment import (
    NOT_PAID,
    OPEN_REFUNDS,
    Attempt,
    AttemptStatus,
    Payment,
    RefundReason,
    RefundStatus,
)


class BooksUnreadableError(Exception):
    """A processor's charges could not be read to the end, so nothing can be said of them."""


class BreakKind(StrEnum):
    """In what two records differ."""

    MISSING_AT_PROCESSOR = "MISSING_AT_PROCESSOR"
    """We hold a charge for made that the processor doesn't know."""
    MISSING_WITH_US = "MISSING_WITH_US"
    """The processor made a charge that belongs to no payment of ours."""
    DUPLICATE_CHARGE = "DUPLICATE_CHARGE"
    """The processor made a second charge for a payment."""
    STATUS_MISMATCH = "STATUS_MISMATCH"
    """Charged there and not here, or here and not there."""
    AMOUNT_MISMATCH = "AMOUNT_MISMATCH"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    REFUND_MISMATCH = "REFUND_MISMATCH"
    DISPUTE_MISMATCH = "DISPUTE_MISMATCH"
    FEE_MISMATCH = "FEE_MISMATCH"
    """The processor keeps another fee than we know of."""
    LEDGER_MISMATCH = "LEDGER_MISMATCH"
    """The books say something else than the payment."""


class ChargeState(StrEnum):
    """What a processor did with a charge, in the words of this comparison."""

    OPEN = "OPEN"
    """Asked for and not made (yet)."""
    AUTHORIZED = "AUTHORIZED"
    CAPTURED = "CAPTURED"
    ENDED = "ENDED"
    """Declined, canceled or expired: nothing was taken."""


MADE = frozenset({ChargeState.AUTHORIZED, ChargeState.CAPTURED})


@dataclass(frozen=True, slots=True)
class ProcessorCharge:
    """One charge as the processor keeps it; what it did not tell is None and not compared."""

    processor_account_id: str
    processor_payment_id: str
    payment_id: str
    """Ours, as the processor was told; empty when it was told none."""
    attempt_index: int
    state: ChargeState
    currency_code: str
    create_time: datetime
    authorized_minor: int = 0
    captured_minor: int = 0
    refunded_minor: int | None = None
    disputed_minor: int | None = None
    """What disputes hold back or took."""
    fee_minor: int | None = None
    received_minor: int | None = None
    """What payers sent, on rails where the payer sends."""


class ProcessorBooks(Protocol):
    """Lists what a processor keeps of an account."""

    def charges(
        self, processor_account_id: str, since: datetime, until: datetime
    ) -> AsyncIterator[ProcessorCharge]:
        """Yields every charge that was asked for in a window.

        Raises:
            BooksUnreadableError: when iterated, and the processor gave no usable answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class OurRecord:
    """A payment with what the books say of it."""

    payment: Payment
    booked: Mapping[str, int]
    """Minor units by account, in the payment's own currency; accounts at zero are left out."""


@dataclass(frozen=True, slots=True)
class Break:
    """One difference that time alone will not explain."""

    kind: BreakKind
    merchant_id: str
    """Empty, like payment_id, for a charge of nobody."""
    livemode: bool
    payment_id: str
    processor_account_id: str
    processor_payment_id: str
    ours: str
    theirs: str
    heals: bool = False
    """True when the story of the payment mends it by itself, once it looks there."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What the comparison of one payment found."""

    breaks: tuple[Break, ...] = ()
    too_young: bool = False
    """True when there are differences that may be on their way to vanish."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a comparison takes for granted.

    Args:
        now: the time.
        settle_seconds: differences of anything that changed since are no breaks yet.
        covered_accounts: processor accounts whose charges were read.
    """

    now: datetime
    settle_seconds: float
    covered_accounts: frozenset[str]


def reconcile(
    ours: Iterable[OurRecord],
    theirs: Iterable[ProcessorCharge],
    find: Callable[[str], OurRecord | None],
    terms: Terms,
) -> Iterator[Compared]:
    """Compares two streams that are sorted by payment id.

    Args:
        ours: the payments of the window, each once.
        theirs: the processors' charges of the window and somewhat beyond, sorted by payment id.
        find: reads a payment of ours that lies outside the window.
        terms: what is taken for granted.

    Yields:
        One result per payment of ours, and per charge of theirs that belongs to none.
    """
    charges = itertools.groupby(theirs, key=lambda charge: charge.payment_id)
    payment_id, group = next(charges, ("", None))
    for record in ours:
        while group is not None and payment_id < record.payment.payment_id:
            yield from _of_strangers(payment_id, list(group), find, terms)
            payment_id, group = next(charges, ("", None))
        matching: Sequence[ProcessorCharge] = ()
        if group is not None and payment_id == record.payment.payment_id:
            matching = list(group)
            payment_id, group = next(charges, ("", None))
        yield compare(record, matching, terms)
    while group is not None:
        yield from _of_strangers(payment_id, list(group), find, terms)
        payment_id, group = next(charges, ("", None))


def _of_strangers(
    payment_id: str,
    charges: Sequence[ProcessorCharge],
    find: Callable[[str], OurRecord | None],
    terms: Terms,
) -> Iterator[Compared]:
    made = _made(charges)
    if not made:
        return
    record = find(payment_id) if payment_id else None
    if record is not None:
        yield compare(record, charges, terms, all_charges=False)
        return
    for charge in made:
        if _is_young(charge.create_time, terms):
            yield Compared(too_young=True)
            continue
        found = Break(
            BreakKind.MISSING_WITH_US,
            "",
            False,
            payment_id,
            charge.processor_account_id,
            charge.processor_payment_id,
            ours="no payment",
            theirs=_spelt(charge),
        )
        yield Compared((found,))


def compare(
    record: OurRecord,
    charges: Sequence[ProcessorCharge],
    terms: Terms,
    *,
    all_charges: bool = True,
) -> Compared:
    """Compares one payment with its charges and its books.

    Args:
        record: the payment.
        charges: its charges as the processors keep them.
        terms: what is taken for granted.
        all_charges: False when it may have earlier ones that were not read, because the payment
            is older than what is reconciled; then nothing that is missing is a break.
    """
    payment = record.payment
    found = [*_with_processor(record, charges, terms, all_charges), *_with_books(record)]
    if not found:
        return Compared()
    moments = [payment.update_time, *(charge.create_time for charge in charges)]
    if any(_is_young(moment, terms) for moment in moments):
        return Compared(too_young=True)
    return Compared(tuple(found))


def _is_young(moment: datetime, terms: Terms) -> bool:
    return terms.now - moment < timedelta(seconds=terms.settle_seconds)


# ---- ours and the processor's ----------------------------------------------------------------


def _with_processor(
    record: OurRecord, charges: Sequence[ProcessorCharge], terms: Terms, all_charges: bool
) -> Iterator[Break]:
    payment = record.payment
    made = _made(charges)
    paid = _paid_attempt(payment)
    matching = None
    if paid is not None and paid.processor_account_id in terms.covered_accounts:
        matching = _charge_of(paid, charges)
        if matching is not None or all_charges:
            yield from _paid_mismatches(payment, paid, matching)
    paid_elsewhere = matching is not None or (paid is not None and not all_charges)
    matched = matching.processor_payment_id if matching is not None else ""
    others = []
    for charge in made:
        if charge.processor_payment_id == matched:
            continue
        if (late := _attempt_given_back(payment, charge)) is not None:
            yield from _given_back_mismatches(payment, late, charge)
        else:
            others.append(charge)
    for number, charge in enumerate(others):
        if paid_elsewhere or number:
            yield _break(
                BreakKind.DUPLICATE_CHARGE,
                payment,
                charge,
                "one charge",
                heals=_is_booked_late(payment, charge),
            )
        else:
            # Nothing here says that we are paid, and there it is.
            heals = payment.status not in NOT_PAID or _is_booked_late(payment, charge)
            yield _break(
                BreakKind.STATUS_MISMATCH, payment, charge, payment.status.value, heals=heals
            )
    for charge in charges:
        yield from _receipt_mismatches(payment, charge)


def _made(charges: Sequence[ProcessorCharge]) -> list[ProcessorCharge]:
    """Answers the charges that took or hold money, each once.

    Two accounts of ours may be one at the processor, which then lists its charges for both.
    """
    made = {c.processor_payment_id: c for c in charges if c.state in MADE}
    return list(made.values())


def _paid_attempt(payment: Payment) -> Attempt | None:
    """Answers the attempt that holds money or a hold, as far as we know."""
    for attempt in payment.attempts:
        if attempt.status is AttemptStatus.SUCCEEDED:
            return attempt
    # A command without an answer leaves the attempt unknown and the hold as it is.
    if payment.pending is not None and payment.authorized_minor:
        return payment.last_attempt
    return None


def _is_booked_late(payment: Payment, charge: ProcessorCharge) -> bool:
    """Tells whether a look at the payment books a charge; see `late_charges`."""
    if charge.currency_code != payment.order.amount.currency_code or charge.refunded_minor:
        return False
    is_ours = any(
        may_be_charged_late(attempt)
        and attempt.processor_account_id == charge.processor_account_id
        and attempt.processor_payment_id in ("", charge.processor_payment_id)
        for attempt in payment.attempts
    )
    if not charge.captured_minor:
        return is_ours
    return is_ours and (gives_back(payment) or takes_up(payment, charge.captured_minor))


def _attempt_given_back(payment: Payment, charge: ProcessorCharge) -> Attempt | None:
    """Finds the attempt whose late charge was booked to be given back."""
    return next(
        (
            attempt
            for attempt in payment.attempts
            if attempt.status is not AttemptStatus.SUCCEEDED
            and attempt.processor_payment_id == charge.processor_payment_id
            and attempt.transfers
            and charge.received_minor is None
        ),
        None,
    )


def _given_back_mismatches(
    payment: Payment, attempt: Attempt, charge: ProcessorCharge
) -> Iterator[Break]:
    booked = sum(transfer.minor_units for transfer in attempt.transfers)
    if booked != charge.captured_minor:
        yield _break(BreakKind.AMOUNT_MISMATCH, payment, charge, f"{booked}")
        return
    refunds = [r for r in payment.refunds if r.attempt_index == attempt.attempt_index]
    back = sum(r.amount.minor_units for r in refunds if r.status is RefundStatus.SUCCEEDED)
    under_way = sum(r.amount.minor_units for r in refunds if r.status in OPEN_REFUNDS)
    refunded = back if charge.refunded_minor is None else charge.refunded_minor
    if not back <= refunded <= back + under_way or back + under_way < booked:
        yield _break(BreakKind.REFUND_MISMATCH, payment, charge, f"{back} of {booked} given back")


def _charge_of(attempt: Attempt, charges: Sequence[ProcessorCharge]) -> ProcessorCharge | None:
    return next(
        (c for c in charges if c.processor_payment_id == attempt.processor_payment_id), None
    )


def _paid_mismatches(
    payment: Payment, paid: Attempt, charge: ProcessorCharge | None
) -> Iterator[Break]:
    if charge is None:
        yield Break(
            BreakKind.MISSING_AT_PROCESSOR,
            payment.merchant_id,
            payment.livemode,
            payment.payment_id,
            paid.processor_account_id,
            paid.processor_payment_id,
            ours=payment.status.value,
            theirs="no charge",
        )
        return
    if charge.state not in MADE:
        if payment.captured_minor or payment.pending is None:
            heals = not payment.captured_minor
            yield _break(
                BreakKind.STATUS_MISMATCH, payment, charge, payment.status.value, heals=heals
            )
        return
    if charge.currency_code != payment.order.amount.currency_code:
        yield _break(
            BreakKind.CURRENCY_MISMATCH, payment, charge, payment.order.amount.currency_code
        )
        return
    if not payment.captured_minor and charge.captured_minor:
        yield _break(BreakKind.STATUS_MISMATCH, payment, charge, payment.status.value, heals=True)
        return
    if charge.received_minor is None:
        if payment.captured_minor != charge.captured_minor:
            yield _break(BreakKind.AMOUNT_MISMATCH, payment, charge, f"{payment.captured_minor}")
        elif not payment.captured_minor and payment.authorized_minor != charge.authorized_minor:
            yield _break(BreakKind.AMOUNT_MISMATCH, payment, charge, f"{payment.authorized_minor}")
    yield from _later_mismatches(payment, charge)


def _later_mismatches(payment: Payment, charge: ProcessorCharge) -> Iterator[Break]:
    under_way = sum(
        refund.amount.minor_units
        for refund in payment.refunds
        if refund.status in OPEN_REFUNDS and refund.reason is not RefundReason.OVERPAYMENT
    )
    at_most = payment.refunded_minor + under_way
    refunded = charge.refunded_minor
    if refunded is not None and not payment.refunded_minor <= refunded <= at_most:
        yield _break(BreakKind.REFUND_MISMATCH, payment, charge, f"{payment.refunded_minor}")
    if charge.disputed_minor not in (None, payment.disputed_minor):
        yield _break(
            BreakKind.DISPUTE_MISMATCH, payment, charge, f"{payment.disputed_minor}", heals=True
        )
    if charge.fee_minor not in (None, payment.fee_minor):
        yield _break(BreakKind.FEE_MISMATCH, payment, charge, f"{payment.fee_minor}", heals=True)


def _receipt_mismatches(payment: Payment, charge: ProcessorCharge) -> Iterator[Break]:
    """Compares what payers sent to an attempt, whatever became of it."""
    if charge.received_minor is None:
        return
    booked = sum(
        transfer.minor_units
        for attempt in payment.attempts
        if attempt.processor_payment_id == charge.processor_payment_id
        for transfer in attempt.transfers
    )
    if booked != charge.received_minor:
        yield _break(BreakKind.AMOUNT_MISMATCH, payment, charge, f"{booked}", heals=True)


def _break(
    kind: BreakKind, payment: Payment, charge: ProcessorCharge, ours: str, *, heals: bool = False
) -> Break:
    return Break(
        kind,
        payment.merchant_id,
        payment.livemode,
        payment.payment_id,
        charge.processor_account_id,
        charge.processor_payment_id,
        ours,
        _spelt(charge),
        heals,
    )


def _spelt(charge: ProcessorCharge) -> str:
    parts = [
        f"{charge.state.value} {charge.captured_minor or charge.authorized_minor}"
        f" {charge.currency_code}"
    ]
    for word, minor in (
        ("refunded", charge.refunded_minor),
        ("disputed", charge.disputed_minor),
        ("fee", charge.fee_minor),
        ("received", charge.received_minor),
    ):
        if minor:
            parts.append(f"{word} {minor}")
    return ", ".join(parts)


# ---- ours and the books ----------------------------------------------------------------------


def _with_books(record: OurRecord) -> Iterator[Break]:
    payment, booked = record.payment, record.booked
    expected = expected_balances(payment)
    wrong = {
        account: (expected.get(account, 0), booked.get(account, 0))
        for account in sorted({*expected, *booked})
        if expected.get(account, 0) != booked.get(account, 0)
    }
    if wrong:
        last = payment.last_attempt if payment.attempts else None
        yield Break(
            BreakKind.LEDGER_MISMATCH,
            payment.merchant_id,
            payment.livemode,
            payment.payment_id,
            last.processor_account_id if last else "",
            last.processor_payment_id if last else "",
            ours=", ".join(f"{account} {should}" for account, (should, _) in wrong.items()),
            theirs=", ".join(f"{account} {does}" for account, (_, does) in wrong.items()),
        )
