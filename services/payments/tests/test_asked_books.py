"""Rails that list nothing are asked for each attempt of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT
from smartpay_payments.adapters.asked_books import charge_of
from smartpay_payments.domain.payment import (
    ActionKind,
    AttemptStatus,
    NextAction,
    Payment,
    Transfer,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Outcome,
)
from smartpay_payments.domain.reconciliation import BooksUnreadableError, BreakKind, ChargeState
from smartpay_payments.reconcile import reconcile_store
from smartpay_payments.settlement import SettledAccount


class Asked:
    """A processor that answers every look alike."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    async def look(self, payment: Payment, attempt: Any) -> Outcome:
        return self.outcome


class Chain(Asked):
    """A rail where the payer sends."""

    late_seconds = 60.0

    def __init__(self, *transfers: int) -> None:
        self.sent = [Transfer(f"t{n}", minor, "payer") for n, minor in enumerate(transfers)]
        self.answers = True

    def dust_minor(self, currency_code: str) -> int:
        return 0

    async def transfers(self, payment: Payment, attempt: Any) -> Sequence[Transfer] | None:
        return self.sent if self.answers else None


@pytest.mark.parametrize(
    ("outcome", "state", "captured"),
    [
        (Charged("pi", 1999, 1999, 88), ChargeState.CAPTURED, 1999),
        (Charged("pi", 1999, 0), ChargeState.AUTHORIZED, 0),
        (Canceled("pi"), ChargeState.ENDED, 0),
        (Declined("no", soft=True), ChargeState.ENDED, 0),
        (ActionRequired("pi", NextAction(ActionKind.REDIRECT, "https://x")), ChargeState.OPEN, 0),
    ],
)
async def test_what_a_look_says_is_what_is_compared(
    story: Any, outcome: Outcome, state: ChargeState, captured: int
) -> None:
    payment = await story.create()
    processor: Any = Asked(outcome)
    charge = await charge_of(processor, payment, payment.last_attempt)
    assert charge is not None
    assert (charge.state, charge.captured_minor, charge.refunded_minor) == (state, captured, None)


@pytest.mark.parametrize("outcome", [NotKnown("no_answer"), NotTaken("rate_limit")])
async def test_without_an_answer_nothing_is_said(story: Any, outcome: Outcome) -> None:
    payment = await story.create()
    processor: Any = Asked(outcome)
    with pytest.raises(BooksUnreadableError):
        await charge_of(processor, payment, payment.last_attempt)
    unnamed = replace(payment.last_attempt, processor_payment_id="")
    assert await charge_of(processor, payment, unnamed) is None


@pytest.mark.parametrize(
    ("sent", "status", "ended", "state"),
    [
        ((1999,), AttemptStatus.SUCCEEDED, True, ChargeState.CAPTURED),
        ((1000, 1500), AttemptStatus.SUCCEEDED, True, ChargeState.CAPTURED),
        ((1998,), AttemptStatus.REQUIRES_ACTION, False, ChargeState.OPEN),
        ((1999,), AttemptStatus.REQUIRES_ACTION, False, ChargeState.CAPTURED),
        ((1999,), AttemptStatus.CANCELED, True, ChargeState.OPEN),
        ((), AttemptStatus.REQUIRES_ACTION, False, ChargeState.OPEN),
    ],
)
async def test_on_a_chain_what_came_in_counts_as_long_as_it_is_awaited(
    story: Any, sent: tuple[int, ...], status: AttemptStatus, ended: bool, state: ChargeState
) -> None:
    payment = await story.create()
    attempt = replace(
        payment.last_attempt, status=status, end_time=payment.create_time if ended else None
    )
    chain: Any = Chain(*sent)
    charge = await charge_of(chain, payment, attempt)
    assert charge is not None
    assert (charge.state, charge.received_minor) == (state, sum(sent))
    chain.answers = False
    with pytest.raises(BooksUnreadableError):
        await charge_of(chain, payment, attempt)


async def test_an_asked_rail_is_reconciled_from_end_to_end(story: Any) -> None:
    payment = await story.create()
    first = SettledAccount(DEMO_ACCOUNTS[0], "stripe", DEMO_MERCHANT.merchant_id, False)
    window = (payment.create_time - timedelta(days=1), payment.create_time + timedelta(days=1))
    later = payment.create_time + timedelta(hours=2)

    async def found(outcome: Outcome) -> Any:
        processors: Any = {"stripe": Asked(outcome)}
        return await reconcile_store(story.path, [first], {}, processors, window, later)

    intent = payment.last_attempt.processor_payment_id
    assert (await found(Charged(intent, 1999, 1999))).breaks == []
    wrong = await found(Charged(intent, 1999, 1500))
    assert [b.kind for b in wrong.breaks] == [BreakKind.AMOUNT_MISMATCH]
    gone = await found(Canceled(intent))
    assert [b.kind for b in gone.breaks] == [BreakKind.STATUS_MISMATCH]
    silent = await found(NotKnown("no_answer"))
    assert (silent.breaks, list(silent.unread_accounts)) == ([], [DEMO_ACCOUNTS[0]])
