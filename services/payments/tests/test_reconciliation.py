"""Three records of one payment, compared; and 5,000 payments with seeded breaks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from smartpay_payments.domain.ledger import postings
from smartpay_payments.domain.payment import (
    AttemptStatus,
    Money,
    Payment,
    Refund,
    RefundReason,
    RefundStatus,
    Status,
    Transfer,
)
from smartpay_payments.domain.reconciliation import (
    BreakKind,
    ChargeState,
    Compared,
    OurRecord,
    ProcessorCharge,
    Terms,
    compare,
    reconcile,
)
from smartpay_payments.reconcile_proof import (
    ACCOUNTS,
    SETTLE_SECONDS,
    START,
    WINDOW,
    Case,
    honest_case,
    prove,
)

TERMS = Terms(START + WINDOW, SETTLE_SECONDS, frozenset(ACCOUNTS))
B = BreakKind


def case_where(fits: Callable[[Payment], bool]) -> Case:
    """The first of the honest cases that fits."""
    chance = random.Random(3)
    for number in range(500):
        case = honest_case(chance, number, START)
        if fits(case.payment):
            return case
    raise AssertionError("no such case")


def captured(payment: Payment) -> bool:
    return payment.captured_minor > 0 and not payment.refunds and not payment.disputes


def record_of(case: Case) -> OurRecord:
    balances: dict[str, int] = {}
    for entry in case.entries:
        balances[entry.account] = balances.get(entry.account, 0) + entry.minor_units
    return OurRecord(case.payment, {a: m for a, m in balances.items() if m})


def kinds(case: Case, **terms: Any) -> list[BreakKind]:
    found = compare(record_of(case), case.charges, replace(TERMS, **terms))
    return [broken.kind for broken in found.breaks]


def heals(case: Case) -> list[bool]:
    return [b.heals for b in compare(record_of(case), case.charges, TERMS).breaks]


@pytest.mark.parametrize(
    "fits",
    [
        captured,
        lambda p: p.status is Status.REQUIRES_CAPTURE,
        lambda p: p.status is Status.FAILED,
        lambda p: bool(p.refunds),
        lambda p: bool(p.disputes),
        lambda p: p.captured_minor < p.authorized_minor and captured(p),
        lambda p: len(p.attempts) > 1 and captured(p),
    ],
)
def test_records_that_agree_are_no_break(fits: Callable[[Payment], bool]) -> None:
    assert kinds(case_where(fits)) == []


def test_a_difference_that_is_young_is_on_its_way_and_no_break() -> None:
    case = case_where(captured)
    case.charges.pop()
    assert kinds(case) == [B.MISSING_AT_PROCESSOR]
    now = case.payment.update_time + timedelta(seconds=SETTLE_SECONDS - 1)
    assert compare(record_of(case), case.charges, replace(TERMS, now=now)) == Compared(
        too_young=True
    )


@pytest.mark.parametrize(
    ("status", "healing"),
    [
        (Status.UNKNOWN, True),
        (Status.NEEDS_REVIEW, True),
        (Status.PROCESSING, True),
        (Status.FAILED, True),
        (Status.CANCELED, True),
        (Status.BLOCKED, False),
    ],
)
def test_a_late_success_is_a_break_and_heals(status: Status, healing: bool) -> None:
    case = charged_late(status)
    if status is Status.BLOCKED:
        case.payment = replace(case.payment, attempts=())
    assert (kinds(case), heals(case)) == ([B.STATUS_MISMATCH], [healing])


def charged_late(status: Status = Status.FAILED) -> Case:
    """A payment that ended without the money that its charge took."""
    case = case_where(lambda p: captured(p) and p.captured_minor == p.order.amount.minor_units)
    ended = {Status.FAILED: AttemptStatus.DECLINED, Status.CANCELED: AttemptStatus.CANCELED}
    attempts = tuple(
        replace(a, status=ended.get(status, AttemptStatus.UNKNOWN)) for a in case.payment.attempts
    )
    case.payment = replace(
        case.payment,
        status=status,
        attempts=attempts,
        captured_minor=0,
        authorized_minor=0,
        fee_minor=0,
    )
    case.entries = []
    return case


@pytest.mark.parametrize(
    "changes",
    [
        {"processor_payment_id": "pi_of_somebody"},
        {"captured_minor": 1},
        {"refunded_minor": 1},
        {"currency_code": "EUR"},
    ],
    ids=["another charge", "another amount", "given back there", "another currency"],
)
def test_a_late_success_that_does_not_fit_waits_for_a_person(changes: Any) -> None:
    case = charged_late()
    case.charges[-1] = replace(case.charges[-1], **changes)
    assert (kinds(case), heals(case)) == ([B.STATUS_MISMATCH], [False])


def given_back(refund: RefundStatus) -> Case:
    """A payment whose late charge is booked to be given back."""
    case = charged_late()
    payment, charge = case.payment, case.charges[-1]
    late = replace(
        payment.attempts[-1], transfers=(Transfer("pi_late", charge.captured_minor, ""),)
    )
    back = Refund(
        "ref_1",
        Money(charge.captured_minor, charge.currency_code),
        RefundReason.OVERPAYMENT,
        refund,
        START,
        START,
        attempt_index=late.attempt_index,
    )
    case.payment = payment.with_attempt(late).with_refund(back)
    case.entries = list(postings(None, case.payment))
    return case


@pytest.mark.parametrize(
    ("refund", "theirs", "found"),
    [
        (RefundStatus.SUCCEEDED, 1, []),
        (RefundStatus.PENDING, 0, []),
        (RefundStatus.PENDING, 1, []),
        (RefundStatus.SUCCEEDED, 0, [B.REFUND_MISMATCH]),
        (RefundStatus.FAILED, 0, [B.REFUND_MISMATCH]),
    ],
)
def test_a_late_charge_that_goes_back_is_no_break_until_it_stays(
    refund: RefundStatus, theirs: int, found: list[BreakKind]
) -> None:
    case = given_back(refund)
    refunded = theirs * case.charges[-1].captured_minor
    case.charges[-1] = replace(case.charges[-1], refunded_minor=refunded)
    assert kinds(case) == found


def test_a_late_charge_of_which_too_little_is_booked_is_a_break() -> None:
    case = given_back(RefundStatus.SUCCEEDED)
    case.charges[-1] = replace(case.charges[-1], captured_minor=case.charges[-1].captured_minor + 1)
    assert kinds(case) == [B.AMOUNT_MISMATCH]


def test_a_hold_that_lapsed_heals_and_a_capture_that_vanished_does_not() -> None:
    held = case_where(lambda p: p.status is Status.REQUIRES_CAPTURE)
    held.charges[-1] = replace(held.charges[-1], state=ChargeState.ENDED)
    assert (kinds(held), heals(held)) == ([B.STATUS_MISMATCH], [True])
    taken = case_where(captured)
    taken.charges[-1] = replace(taken.charges[-1], state=ChargeState.ENDED)
    assert (kinds(taken), heals(taken)) == ([B.STATUS_MISMATCH], [False])


def test_a_capture_by_other_hands_heals() -> None:
    case = case_where(lambda p: p.status is Status.REQUIRES_CAPTURE)
    case.charges[-1] = replace(case.charges[-1], state=ChargeState.CAPTURED, captured_minor=5)
    assert (kinds(case), heals(case)) == ([B.STATUS_MISMATCH], [True])


def test_a_refund_on_its_way_may_be_counted_or_not() -> None:
    case = case_where(lambda p: any(r.status is RefundStatus.SUCCEEDED for r in p.refunds))
    moving = replace(case.payment.refunds[0], status=RefundStatus.PENDING)
    payment = case.payment.with_refund(moving)
    for theirs in (case.payment.refunded_minor, payment.refunded_minor):
        changed = Case(payment, list(case.charges), list(postings(None, payment)))
        changed.charges[-1] = replace(changed.charges[-1], refunded_minor=theirs)
        assert kinds(changed) == []
    changed.charges[-1] = replace(changed.charges[-1], refunded_minor=10**6)
    assert kinds(changed) == [B.REFUND_MISMATCH]


def test_what_a_processor_does_not_tell_is_not_compared() -> None:
    case = case_where(lambda p: bool(p.refunds) and p.refunded_minor > 0)
    case.charges[-1] = replace(
        case.charges[-1], refunded_minor=None, disputed_minor=None, fee_minor=None
    )
    assert kinds(case) == []


def test_an_account_that_was_not_read_is_compared_with_the_books_only() -> None:
    case = case_where(captured)
    case.charges = []
    assert kinds(case, covered_accounts=frozenset()) == []
    case.entries.pop()
    assert kinds(case, covered_accounts=frozenset()) == [B.LEDGER_MISMATCH]


def test_transfers_are_compared_by_what_came_in() -> None:
    case = case_where(captured)
    minor = case.payment.captured_minor
    sent = replace(
        case.payment.attempts[-1],
        transfers=(Transfer("a", minor, "payer"), Transfer("b", 7, "payer")),
    )
    case.payment = case.payment.with_attempt(sent)
    case.entries = list(postings(None, case.payment))
    case.charges[-1] = replace(
        case.charges[-1], received_minor=minor + 7, refunded_minor=None, fee_minor=None
    )
    assert kinds(case) == []
    case.charges[-1] = replace(case.charges[-1], received_minor=minor + 8)
    assert (kinds(case), heals(case)) == ([B.AMOUNT_MISMATCH], [True])


def test_a_charge_made_long_after_its_payment_is_compared_with_it() -> None:
    case = case_where(captured)
    again = replace(case.charges[-1], processor_payment_id="pi_again")
    found = list(reconcile([], [again], lambda _: record_of(case), TERMS))
    assert [b.kind for c in found for b in c.breaks] == [B.DUPLICATE_CHARGE]
    assert list(reconcile([], [case.charges[-1]], lambda _: record_of(case), TERMS)) == [Compared()]


def test_two_accounts_of_ours_that_are_one_at_the_processor_are_no_duplicate() -> None:
    case = case_where(lambda p: captured(p) and len(p.attempts) == 1)
    case.charges.append(replace(case.charges[-1], processor_account_id=ACCOUNTS[1]))
    assert kinds(case) == []


def test_an_intent_of_nobody_that_took_nothing_is_no_break() -> None:
    charge = ProcessorCharge(
        ACCOUNTS[0], "pi", "", 0, ChargeState.OPEN, "USD", START, authorized_minor=5
    )
    assert list(reconcile([], [charge], lambda _: None, TERMS)) == []
    made = replace(charge, state=ChargeState.AUTHORIZED)
    (found,) = reconcile([], [made], lambda _: None, TERMS)
    assert [b.kind for b in found.breaks] == [B.MISSING_WITH_US]
    (young,) = reconcile([], [replace(made, create_time=TERMS.now)], lambda _: None, TERMS)
    assert young == Compared(too_young=True)


def test_all_seeded_breaks_of_5000_payments_are_found_and_no_other(tmp_path: Path) -> None:
    result = prove(tmp_path, 5000)
    assert result["missed"] == []
    assert result["wrong"] == []
    assert (result["found"], result["false_alarms"]) == (result["seeded"], 0)
    by_kind: Any = result["seeded_by_kind"]
    assert by_kind.keys() == {kind.value for kind in BreakKind}
    assert result["too_young"], "the proof holds no payments that are on their way"
