"""Proves the reconciliation: many payments, one in a hundred broken by hand; all found, no other.

`python -m smartpay_payments.reconcile_proof` prints one JSON line. Store, books, sorting and
comparison are the real ones; only the processor is a list that tells the truth or a seeded lie.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from smartpay_chassis.ids import derive
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.sqlite_workbench import Workbench
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry, postings
from smartpay_payments.domain.payment import (
    Attempt,
    AttemptStatus,
    CaptureMethod,
    Dispute,
    DisputeStatus,
    Money,
    Order,
    Payment,
    Refund,
    RefundReason,
    RefundStatus,
    Status,
    Transfer,
)
from smartpay_payments.domain.reconciliation import (
    MADE,
    BreakKind,
    ChargeState,
    ProcessorCharge,
    Terms,
    reconcile,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = timedelta(days=1)
SETTLE_SECONDS = 900.0
MERCHANT = derive("mer", "d1", "reconciled")
ACCOUNTS = tuple(derive("pac", "d1", name) for name in ("first", "second"))
# The processor's list is read somewhat beyond the window on both sides.
SIDES = (-timedelta(minutes=10), timedelta(minutes=10))
BATCH = 1000  # payments stored at once; the store commits them together
SEEDED_EVERY = 100  # one payment in so many is broken


@dataclass
class Case:
    """One payment in all three records."""

    payment: Payment
    charges: list[ProcessorCharge]
    entries: list[LedgerEntry]
    expected: tuple[BreakKind, str] | None = None
    """The break seeded here, and the payment or charge it is to be found at."""


@dataclass
class Found:
    """What the comparison of everything said."""

    breaks: Counter[tuple[BreakKind, str]] = field(default_factory=Counter)
    too_young: int = 0


def fee_of(minor: int) -> int:
    """What the processor of this proof keeps."""
    return minor * 29 // 1000 + 30


# ---- payments of every sort ------------------------------------------------------------------


def honest_case(chance: random.Random, number: int, created: datetime) -> Case:
    """Makes a payment whose three records agree."""
    payment_id = derive("pay", "d1", str(number))
    account = chance.randrange(2)
    minor = chance.randint(100, 500_000)
    attempts = [
        _attempt(payment_id, index, ACCOUNTS[index], created, AttemptStatus.DECLINED)
        for index in range(account)
    ]
    attempts.append(
        _attempt(payment_id, account, ACCOUNTS[account], created, AttemptStatus.SUCCEEDED)
    )
    payment = Payment(
        payment_id=payment_id,
        merchant_id=MERCHANT,
        livemode=False,
        order=Order(Money(minor, "USD"), {}, "", CaptureMethod.AUTOMATIC),
        request_hash="",
        status=Status.SUCCEEDED,
        create_time=created,
        update_time=created + timedelta(seconds=2),
        authorized_minor=minor,
        captured_minor=minor,
        attempts=tuple(attempts),
    )
    sort = chance.random()
    if sort < 0.05:
        payment = _ended(payment, chance.choice([Status.FAILED, Status.CANCELED]))
    elif sort < 0.10:
        payment = replace(payment, status=Status.REQUIRES_CAPTURE, captured_minor=0)
    elif sort < 0.20:
        payment = replace(payment, captured_minor=chance.randint(50, minor))
    elif sort < 0.30:
        for part in range(chance.randint(1, 3)):
            payment = payment.with_refund(_refund(payment, part))
    elif sort < 0.34:
        status = chance.choice(list(DisputeStatus))
        payment = payment.with_disputes((_dispute(payment, status),))
    elif sort < 0.36:
        payment = _given_back(payment)
    return _with_records(payment)


def _with_records(payment: Payment) -> Case:
    if payment.captured_minor:
        payment = replace(payment, fee_minor=fee_of(payment.captured_minor))
    charges = [_charge(payment, attempt) for attempt in payment.attempts]
    return Case(payment, charges, list(postings(None, payment)))


def _charge(payment: Payment, attempt: Attempt) -> ProcessorCharge:
    told = ProcessorCharge(
        processor_account_id=attempt.processor_account_id,
        processor_payment_id=attempt.processor_payment_id,
        payment_id=payment.payment_id,
        attempt_index=attempt.attempt_index,
        state=ChargeState.ENDED,
        currency_code="USD",
        create_time=attempt.start_time,
    )
    late = sum(transfer.minor_units for transfer in attempt.transfers)
    if late:
        return replace(
            told,
            state=ChargeState.CAPTURED,
            authorized_minor=late,
            captured_minor=late,
            refunded_minor=late,
            fee_minor=fee_of(late),
        )
    if attempt.status is not AttemptStatus.SUCCEEDED:
        return told
    return replace(
        told,
        state=ChargeState.CAPTURED if payment.captured_minor else ChargeState.AUTHORIZED,
        authorized_minor=payment.authorized_minor,
        captured_minor=payment.captured_minor,
        refunded_minor=payment.refunded_minor,
        disputed_minor=payment.disputed_minor,
        fee_minor=payment.fee_minor if payment.captured_minor else None,
    )


def _attempt(
    payment_id: str, index: int, account: str, start: datetime, status: AttemptStatus
) -> Attempt:
    return Attempt(
        attempt_index=index,
        processor_account_id=account,
        processor="stripe",
        processor_key=f"{payment_id}-{index}",
        request_body="{}",
        status=status,
        start_time=start,
        processor_payment_id=f"pi_{payment_id}_{index}",
    )


def _ended(payment: Payment, status: Status) -> Payment:
    attempts = tuple(replace(a, status=AttemptStatus.DECLINED) for a in payment.attempts)
    return replace(
        payment,
        status=status,
        attempts=attempts,
        authorized_minor=0,
        captured_minor=0,
        refunded_minor=0,
        disputed_minor=0,
        fee_minor=0,
        refunds=(),
        disputes=(),
    )


def _given_back(payment: Payment) -> Payment:
    """Lets a payment have ended before it was charged, so that the charge went back."""
    ended = _ended(payment, Status.FAILED)
    late = ended.last_attempt
    transfer = Transfer(late.processor_payment_id, payment.captured_minor, payer="")
    back = replace(
        _refund(payment, 0),
        amount=Money(payment.captured_minor, "USD"),
        reason=RefundReason.OVERPAYMENT,
        attempt_index=late.attempt_index,
        transfer_id=transfer.transfer_id,
    )
    return ended.with_attempt(replace(late, transfers=(transfer,))).with_refund(back)


def _refund(payment: Payment, part: int) -> Refund:
    return Refund(
        refund_id=derive("ref", "d1", payment.payment_id, str(part)),
        amount=Money(max(1, payment.captured_minor // 4), "USD"),
        reason=RefundReason.REQUESTED_BY_CUSTOMER,
        status=(RefundStatus.SUCCEEDED, RefundStatus.FAILED)[part % 2],
        create_time=payment.create_time,
        update_time=payment.update_time,
    )


def _dispute(payment: Payment, status: DisputeStatus) -> Dispute:
    return Dispute(
        dispute_id=derive("dis", "d1", payment.payment_id),
        processor_dispute_id="dp",
        amount_minor=payment.captured_minor,
        reason="fraudulent",
        status=status,
        create_time=payment.create_time,
        update_time=payment.update_time,
        fee_minor=1500,
    )


# ---- seeded breaks ---------------------------------------------------------------------------


def _paid(change: Callable[[ProcessorCharge, random.Random], ProcessorCharge]) -> Seed:
    """Makes a seed that lies about the charge that was made."""

    def seed(case: Case, chance: random.Random) -> str:
        case.charges[-1] = change(case.charges[-1], chance)
        return case.payment.payment_id

    return seed


def _missing_at_processor(case: Case, chance: random.Random) -> str:
    case.charges.pop()
    return case.payment.payment_id


def _missing_with_us(case: Case, chance: random.Random) -> str:
    told = chance.choice(["", derive("pay", "d1", "nobody's", case.payment.payment_id)])
    orphan = replace(
        case.charges[-1], payment_id=told, processor_payment_id=f"pi_orphan_{chance.random()}"
    )
    case.charges.append(orphan)
    return orphan.processor_payment_id


def _duplicate(case: Case, chance: random.Random) -> str:
    again = replace(
        case.charges[-1],
        processor_account_id=chance.choice(ACCOUNTS),
        processor_payment_id=f"pi_again_{chance.random()}",
    )
    case.charges.append(again)
    return case.payment.payment_id


def _status(case: Case, chance: random.Random) -> str:
    """Either we believe what is not so, or the charge came about after we had given up."""
    if chance.random() < 0.3:
        case.charges[-1] = replace(case.charges[-1], state=ChargeState.ENDED)
        return case.payment.payment_id
    status = chance.choice([Status.FAILED, Status.UNKNOWN, Status.NEEDS_REVIEW, Status.CANCELED])
    case.payment = _ended(case.payment, status)
    case.entries = []
    return case.payment.payment_id


def _ledger(case: Case, chance: random.Random) -> str:
    """Books another amount than was captured, in legs that sum to zero all the same."""
    more = chance.choice([-1, 1]) * chance.randint(1, 40)
    case.entries = [
        replace(e, minor_units=e.minor_units + (more if e.minor_units > 0 else -more))
        if e.transaction_id == "capture"
        else e
        for e in case.entries
    ]
    return case.payment.payment_id


Seed = Callable[[Case, random.Random], str]
SEEDS: dict[BreakKind, Seed] = {
    BreakKind.MISSING_AT_PROCESSOR: _missing_at_processor,
    BreakKind.MISSING_WITH_US: _missing_with_us,
    BreakKind.DUPLICATE_CHARGE: _duplicate,
    BreakKind.STATUS_MISMATCH: _status,
    BreakKind.AMOUNT_MISMATCH: _paid(
        lambda charge, chance: replace(
            charge, captured_minor=charge.captured_minor + chance.choice([-1, 1, 100])
        )
    ),
    BreakKind.CURRENCY_MISMATCH: _paid(lambda charge, _: replace(charge, currency_code="EUR")),
    BreakKind.REFUND_MISMATCH: _paid(
        lambda charge, chance: replace(
            charge, refunded_minor=(charge.refunded_minor or 0) + chance.randint(1, 50)
        )
    ),
    BreakKind.DISPUTE_MISMATCH: _paid(
        lambda charge, _: replace(charge, disputed_minor=(charge.disputed_minor or 0) + 1)
    ),
    BreakKind.FEE_MISMATCH: _paid(
        lambda charge, chance: replace(
            charge, fee_minor=(charge.fee_minor or 0) + chance.choice([-1, 1])
        )
    ),
    BreakKind.LEDGER_MISMATCH: _ledger,
}


def make_cases(payments: int, chance: random.Random) -> list[Case]:
    """Makes payments all over the window and beyond it, one in a hundred broken.

    Just as many differ because they are on their way, and lie about nothing.
    """
    cases: list[Case] = []
    kinds = list(SEEDS)
    seeded = 0
    for number in range(payments):
        created = START + WINDOW * (number / payments)
        case = honest_case(chance, number, created)
        if number % SEEDED_EVERY == 0:
            while not case.payment.captured_minor:
                case = honest_case(chance, number, created)
            kind = kinds[seeded % len(kinds)]
            case.expected = (kind, SEEDS[kind](case, chance))
            seeded += 1
        elif number % SEEDED_EVERY == 1:
            case.payment = replace(case.payment, update_time=START + WINDOW)
            case.charges = [c for c in case.charges if c.state not in MADE]
        elif number % SEEDED_EVERY == 2:
            # Told no payment of ours; known by its own id.
            case.charges = [replace(c, payment_id="") for c in case.charges]
        cases.append(case)
    chance.shuffle(cases)
    return cases


# ---- the proof -------------------------------------------------------------------------------


async def store_all(path: Path, cases: Sequence[Case]) -> None:
    """Stores every payment with its books, as the service does."""
    store = await SqliteStore.open(path, MIGRATIONS)
    payments = SqlitePayments(store)
    for start in range(0, len(cases), BATCH):
        await asyncio.gather(
            *(
                payments.create(
                    case.payment,
                    Claim(case.payment.payment_id, case.payment.payment_id, ""),
                    case.entries,
                )
                for case in cases[start : start + BATCH]
            )
        )
    await store.close()


def compare_all(path: Path, cases: Sequence[Case]) -> Found:
    """Reconciles the middle of the window, so that both ends have neighbours outside."""
    found = Found()
    terms = Terms(START + WINDOW, SETTLE_SECONDS, frozenset(ACCOUNTS))
    with Workbench(path) as bench:
        begin, end = (moment + side for moment, side in zip(window(), SIDES, strict=True))
        bench.take(
            charge for case in cases for charge in case.charges if begin <= charge.create_time < end
        )
        bench.freeze()
        bench.choose(MERCHANT, False, *window())
        for compared in reconcile(bench.ours(), bench.theirs(), bench.find, terms):
            found.too_young += compared.too_young
            for broken in compared.breaks:
                at_charge = broken.kind is BreakKind.MISSING_WITH_US
                place = broken.processor_payment_id if at_charge else broken.payment_id
                found.breaks[broken.kind, place] += 1
    return found


def window() -> tuple[datetime, datetime]:
    """The window that is reconciled: all but its edges."""
    return START + WINDOW / 50, START + WINDOW - WINDOW / 50


def prove(folder: Path, payments: int, seed: int = 7) -> dict[str, object]:
    """Seeds, stores, compares, and answers what `make reconcile-proof` prints.

    Args:
        folder: an empty one, for the store.
        payments: how many.
        seed: of the chances, so that a failure repeats.
    """
    cases = make_cases(payments, random.Random(seed))
    asyncio.run(store_all(folder / "payments.db", cases))
    begin, end = window()
    started = time.perf_counter()
    found = compare_all(folder / "payments.db", cases)
    seconds = time.perf_counter() - started
    seeded = {case.expected: case for case in cases if case.expected is not None}
    # What lies beyond the window may be found as well, by charges made within it.
    expected = {place for place, case in seeded.items() if begin <= case.payment.create_time < end}
    right = expected & found.breaks.keys()
    kinds = Counter(kind for kind, _ in expected)
    false_alarms = sum(
        count if place not in seeded else count - 1 for place, count in found.breaks.items()
    )
    return {
        "payments": payments,
        "seeded": len(expected),
        "found": len(right),
        "false_alarms": false_alarms,
        "seconds": round(seconds, 1),
        "too_young": found.too_young,
        "seeded_by_kind": {kind.value: count for kind, count in sorted(kinds.items())},
        "missed": sorted(f"{kind} {place}" for kind, place in expected - right)[:10],
        "wrong": sorted(f"{kind} {place}" for kind, place in found.breaks.keys() - seeded.keys())[
            :10
        ],
    }


def main() -> None:
    """Runs the proof; exits with 1 when a break was missed or an alarm was false."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--payments", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = prove(Path(folder), arguments.payments, arguments.seed)
    print(json.dumps(result))
    sys.exit(result["found"] != result["seeded"] or result["false_alarms"] != 0)


if __name__ == "__main__":
    main()
