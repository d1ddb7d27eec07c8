"""The rules of the books: whatever happens to a payment, in whatever order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_payments.domain.ledger import (
    LedgerEntry,
    expected_balances,
    payout_legs,
    postings,
    reward_legs,
)
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

START = datetime(2026, 1, 1, tzinfo=UTC)
MERCHANT, FIRST, SECOND = "mer", "pac_first", "pac_second"


def draft() -> Payment:
    return Payment(
        payment_id="pay",
        merchant_id=MERCHANT,
        livemode=False,
        order=Order(
            amount=Money(1999, "USD"),
            tokens={},
            fingerprint="",
            capture_method=CaptureMethod.MANUAL,
        ),
        request_hash="",
        status=Status.PROCESSING,
        create_time=START,
        update_time=START,
    ).with_attempt(attempt(0, FIRST))


def attempt(index: int, account: str) -> Attempt:
    return Attempt(
        attempt_index=index,
        processor_account_id=account,
        processor="stripe",
        processor_key=f"key-{index}",
        request_body="",
        status=AttemptStatus.STARTED,
        start_time=START,
    )


def refund(minor: int, number: int = 0, **changes: object) -> Refund:
    made = Refund(
        refund_id=f"ref_{number}",
        amount=Money(minor, "USD"),
        reason=RefundReason.REQUESTED_BY_CUSTOMER,
        status=RefundStatus.PENDING,
        create_time=START,
        update_time=START,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def dispute(minor: int, number: int = 0, status: DisputeStatus = DisputeStatus.NEEDS_RESPONSE,
            fee: int = 0) -> Dispute:  # fmt: skip
    return Dispute(
        dispute_id=f"dis_{number}",
        processor_dispute_id=f"dp_{number}",
        amount_minor=minor,
        reason="fraudulent",
        status=status,
        create_time=START,
        update_time=START,
        fee_minor=fee,
    )


@dataclass
class Book:
    """A payment, and everything its changes have posted."""

    payment: Payment = field(default_factory=draft)
    entries: list[LedgerEntry] = field(default_factory=list)

    def becomes(self, **changes: object) -> Book:
        after = replace(
            self.payment,
            version=self.payment.version + 1,
            update_time=self.payment.update_time + timedelta(seconds=1),
            **changes,  # type: ignore[arg-type]
        )
        posted = postings(self.payment, after)
        taken = {e.transaction_id for e in self.entries}
        assert not taken & {e.transaction_id for e in posted}, "a transaction id came up twice"
        self.payment = after
        self.entries += posted
        self.holds()
        return self

    def balances(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for entry in self.entries:
            total[entry.account] += entry.minor_units
        return {account: minor for account, minor in total.items() if minor}

    def holds(self) -> None:
        """All that must be true of the books at each instant."""
        sums: Counter[tuple[str, str]] = Counter()
        for entry in self.entries:
            sums[entry.transaction_id, entry.currency_code] += entry.minor_units
            assert entry.minor_units, "a leg of nothing"
        assert set(sums.values()) <= {0}
        keys = [(e.transaction_id, e.account) for e in self.entries]
        assert len(set(keys)) == len(keys)
        held, payment = self.balances(), self.payment
        assert held == expected_balances(payment)
        surplus = sum(
            r.amount.minor_units
            for r in payment.refunds
            if r.reason is RefundReason.OVERPAYMENT and r.status is RefundStatus.SUCCEEDED
        )
        assert -held.get(f"merchant:{MERCHANT}", 0) == (
            payment.captured_minor - payment.refunded_minor - payment.disputed_minor
        )
        assert -held.get(f"overpayments:{MERCHANT}", 0) == payment.overpaid_minor - surplus

    def names(self) -> list[str]:
        return list(dict.fromkeys(e.transaction_id for e in self.entries))


def taken(book: Book, minor: int, authorized: int | None = None) -> Book:
    ended = replace(book.payment.last_attempt, status=AttemptStatus.SUCCEEDED)
    return book.becomes(
        attempts=book.payment.with_attempt(ended).attempts,
        status=Status.SUCCEEDED,
        authorized_minor=authorized or minor,
        captured_minor=minor,
    )


# ---- one matter at a time --------------------------------------------------------------------


def test_an_authorization_is_held_and_a_part_captured_lets_all_of_it_go() -> None:
    book = Book()
    ended = replace(book.payment.last_attempt, status=AttemptStatus.SUCCEEDED)
    book.becomes(attempts=(ended,), status=Status.REQUIRES_CAPTURE, authorized_minor=1999)
    assert book.balances() == {f"hold:{FIRST}": 1999, f"held:{MERCHANT}": -1999}
    taken(book, 1500, 1999)
    assert book.balances() == {f"processor:{FIRST}": 1500, f"merchant:{MERCHANT}": -1500}
    assert book.names() == ["authorize", "release:v3", "capture"]


@pytest.mark.parametrize("status", [Status.CANCELED, Status.FAILED])
def test_giving_up_releases_the_hold(status: Status) -> None:
    book = Book().becomes(status=Status.REQUIRES_CAPTURE, authorized_minor=1999)
    book.becomes(status=status)
    assert book.balances() == {}


def test_what_nobody_tried_posts_nothing() -> None:
    blocked = replace(draft(), attempts=(), status=Status.BLOCKED)
    assert postings(None, blocked) == []
    assert expected_balances(blocked) == {}


def test_money_is_owed_by_the_account_that_took_it_not_by_the_one_tried_first() -> None:
    book = Book()
    book.becomes(
        attempts=(
            replace(book.payment.last_attempt, status=AttemptStatus.DECLINED),
            attempt(1, SECOND),
        )
    )
    taken(book, 1999)
    assert book.balances() == {f"processor:{SECOND}": 1999, f"merchant:{MERCHANT}": -1999}
    assert book.names() == ["capture"]


def test_a_fee_told_with_the_capture_is_kept_by_the_processor() -> None:
    book = Book()
    ended = replace(book.payment.last_attempt, status=AttemptStatus.SUCCEEDED)
    book.becomes(
        attempts=(ended,), status=Status.SUCCEEDED, captured_minor=1999, authorized_minor=1999,
        fee_minor=88,
    )  # fmt: skip
    assert book.balances() == {
        f"processor:{FIRST}": 1911,
        f"fees:{FIRST}": 88,
        f"merchant:{MERCHANT}": -1999,
    }
    book.becomes(fee_minor=90)
    assert book.balances()[f"fees:{FIRST}"] == 90
    assert book.names() == ["capture", "fee", "fee:v3"]


def test_a_fee_told_later_is_a_transaction_of_its_own() -> None:
    book = taken(Book(), 1999).becomes(fee_minor=88)
    assert book.balances()[f"processor:{FIRST}"] == 1911
    assert book.names() == ["capture", "fee"]


def test_a_dispute_holds_back_then_gives_back_or_takes() -> None:
    for end, left in ((DisputeStatus.WON, 1999), (DisputeStatus.LOST, 0)):
        book = taken(Book(), 1999)
        book.becomes(**changed_disputes(book, dispute(1999, fee=1500)))
        assert book.balances() == {
            f"processor:{FIRST}": -1500,
            f"fees:{FIRST}": 1500,
            f"disputes:{FIRST}": 1999,
            f"disputed:{MERCHANT}": -1999,
        }
        book.becomes(**changed_disputes(book, dispute(1999, status=DisputeStatus.UNDER_REVIEW,
                                                      fee=1500)))  # fmt: skip
        book.becomes(**changed_disputes(book, dispute(1999, status=end, fee=1500)))
        assert -book.balances().get(f"merchant:{MERCHANT}", 0) == left
        assert f"disputes:{FIRST}" not in book.balances()
        assert book.balances()[f"processor:{FIRST}"] == left - 1500
        assert book.names() == ["capture", "dispute:dis_0", "dispute_fee:dis_0", "dispute:dis_0:v5"]


def changed_disputes(book: Book, *disputes: Dispute) -> dict[str, object]:
    changed = book.payment.with_disputes(disputes)
    return {"disputes": changed.disputes, "disputed_minor": changed.disputed_minor}


def test_a_refund_is_booked_when_it_succeeds_and_taken_back_when_the_bank_returns_it() -> None:
    book = taken(Book(), 1999)
    for status in (RefundStatus.PENDING, RefundStatus.SUCCEEDED, RefundStatus.FAILED):
        changed = book.payment.with_refund(refund(500, status=status))
        book.becomes(refunds=changed.refunds, refunded_minor=changed.refunded_minor)
        owed = 1499 if status is RefundStatus.SUCCEEDED else 1999
        assert book.balances()[f"merchant:{MERCHANT}"] == -owed
    assert book.names() == ["capture", "refund:ref_0", "refund:ref_0:v5"]


def test_what_a_payer_sent_too_much_is_owed_to_them_until_it_is_given_back() -> None:
    book = Book()
    sent = replace(
        book.payment.last_attempt,
        transfers=(Transfer("a", 1000, "payer"),),
        status=AttemptStatus.REQUIRES_ACTION,
    )
    book.becomes(attempts=(sent,), status=Status.REQUIRES_ACTION)
    assert book.balances() == {f"processor:{FIRST}": 1000, f"overpayments:{MERCHANT}": -1000}
    more = replace(sent, transfers=(*sent.transfers, Transfer("b", 1500, "payer")))
    book.becomes(
        attempts=(replace(more, status=AttemptStatus.SUCCEEDED),),
        status=Status.SUCCEEDED,
        captured_minor=1999,
        authorized_minor=1999,
    )
    assert book.balances() == {
        f"processor:{FIRST}": 2500,
        f"merchant:{MERCHANT}": -1999,
        f"overpayments:{MERCHANT}": -501,
    }
    back = refund(
        501,
        status=RefundStatus.SUCCEEDED,
        reason=RefundReason.OVERPAYMENT,
        transfer_id="b",
        attempt_index=0,
    )
    changed = book.payment.with_refund(back)
    book.becomes(refunds=changed.refunds, refunded_minor=changed.refunded_minor)
    assert book.balances() == {f"processor:{FIRST}": 1999, f"merchant:{MERCHANT}": -1999}


def test_a_late_transfer_to_an_attempt_that_was_superseded_is_given_back_from_its_own_account() -> (
    None
):
    book = Book()
    given_up = replace(book.payment.last_attempt, status=AttemptStatus.CANCELED)
    book.becomes(attempts=(given_up, attempt(1, SECOND)))
    taken(book, 1999)
    late = replace(given_up, transfers=(Transfer("late", 700, "payer"),))
    book.becomes(attempts=(late, book.payment.last_attempt))
    back = refund(700, status=RefundStatus.SUCCEEDED, reason=RefundReason.OVERPAYMENT,
                  transfer_id="late", attempt_index=0)  # fmt: skip
    assert book.balances()[f"processor:{FIRST}"] == 700
    changed = book.payment.with_refund(back)
    book.becomes(refunds=changed.refunds, refunded_minor=changed.refunded_minor)
    assert book.balances() == {f"processor:{SECOND}": 1999, f"merchant:{MERCHANT}": -1999}


def test_payouts_and_rewards_sum_to_zero_too() -> None:
    for legs in (
        payout_legs(MERCHANT, FIRST, 500, arrived=False),
        payout_legs(MERCHANT, FIRST, 500, arrived=True),
        reward_legs(MERCHANT, 1_000_000),
    ):
        assert sum(legs.values()) == 0
    sent, arrived = (payout_legs(MERCHANT, FIRST, 500, arrived=there) for there in (False, True))
    total = Counter(sent)
    total.update(arrived)
    assert {a: m for a, m in total.items() if m} == {
        f"merchant:{MERCHANT}": 500,
        f"processor:{FIRST}": -500,
    }


# ---- anything in any order -------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["authorize", "capture", "give_up", "next_attempt", "transfer", "refund", "settle",
             "dispute", "advance", "fee"]
        ),
        st.integers(1, 3000),
    ),
    max_size=25,
)  # fmt: skip
END = [DisputeStatus.UNDER_REVIEW, DisputeStatus.WON, DisputeStatus.LOST]


def step(book: Book, what: str, minor: int) -> None:
    """Does to the payment what is asked, as far as a payment as it stands can bear it."""
    payment = book.payment
    last = payment.last_attempt
    if what == "authorize" and not payment.captured_minor:
        book.becomes(
            attempts=payment.with_attempt(replace(last, status=AttemptStatus.SUCCEEDED)).attempts,
            status=Status.REQUIRES_CAPTURE,
            authorized_minor=max(minor, payment.authorized_minor),
        )
    elif what == "capture" and not payment.captured_minor:
        sent = sum(t.minor_units for t in last.transfers)
        taken(book, min(minor, sent) if sent else minor, max(minor, payment.authorized_minor))
    elif what == "give_up" and not payment.captured_minor:
        book.becomes(status=Status.CANCELED)
    elif what == "next_attempt" and not payment.captured_minor and len(payment.attempts) < 3:
        others = [replace(a, status=AttemptStatus.CANCELED) for a in payment.attempts]
        account = (FIRST, SECOND)[len(others) % 2]
        book.becomes(
            attempts=(*others, attempt(len(others), account)),
            status=Status.PROCESSING,
            authorized_minor=0,
        )
    elif what == "transfer":
        chosen = payment.attempts[minor % len(payment.attempts)]
        if chosen.status is AttemptStatus.SUCCEEDED and not chosen.transfers:
            return
        more = Transfer(f"t{book.payment.version}", minor, "payer")
        book.becomes(
            attempts=tuple(
                replace(a, transfers=(*a.transfers, more)) if a is chosen else a
                for a in payment.attempts
            )
        )
    elif what == "refund" and payment.captured_minor:
        surplus = minor % 3 == 0
        made = refund(
            minor,
            number=len(payment.refunds),
            attempt_index=minor % len(payment.attempts) if surplus else -1,
            reason=RefundReason.OVERPAYMENT if surplus else RefundReason.DUPLICATE,
        )
        book.becomes(refunds=payment.with_refund(made).refunds)
    elif what == "settle" and payment.refunds:
        chosen_refund = payment.refunds[minor % len(payment.refunds)]
        status = RefundStatus.FAILED if minor % 4 == 0 else RefundStatus.SUCCEEDED
        changed = payment.with_refund(replace(chosen_refund, status=status))
        book.becomes(refunds=changed.refunds, refunded_minor=changed.refunded_minor)
    elif what == "dispute" and payment.captured_minor:
        made_dispute = dispute(minor, number=len(payment.disputes), fee=minor % 2 * 1500)
        book.becomes(**changed_disputes(book, *payment.disputes, made_dispute))
    elif what == "advance" and payment.disputes:
        chosen_dispute = payment.disputes[minor % len(payment.disputes)]
        moved = replace(chosen_dispute, status=END[minor % 3], fee_minor=minor % 5 * 100)
        book.becomes(
            **changed_disputes(
                book, *(moved if d is chosen_dispute else d for d in payment.disputes)
            )
        )
    elif what == "fee" and payment.captured_minor:
        book.becomes(fee_minor=minor)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_after_any_changes_in_any_order_the_books_say_what_the_payment_says(
    steps: list[tuple[str, int]],
) -> None:
    book = Book()
    for what, minor in steps:
        step(book, what, minor)
