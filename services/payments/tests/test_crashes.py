"""What holds for every story, whenever the process dies and whatever the processor answers."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import CaptureMethod, Payment, Status
from smartpay_payments.domain.transitions import NEXT

MANUAL = CaptureMethod.MANUAL


async def approve(story: Any) -> None:
    await story.create()


async def cascade(story: Any) -> None:
    story.processor.script = ["soft"]
    await story.create()


async def lose_the_answer(story: Any) -> None:
    story.processor.script = ["lost_after"]
    await story.create()


async def recover_and_cascade(story: Any) -> None:
    story.processor.script = ["lost_before", "soft"]
    await story.saga.advance(await story.create(), story.terms)


async def capture_in_part(story: Any) -> None:
    await story.capture(await story.create(capture_method=MANUAL), 700)


async def cancel_it(story: Any) -> None:
    await story.cancel(await story.create(capture_method=MANUAL))


async def refund_some(story: Any) -> None:
    await story.give_back(await story.create())


@pytest.mark.parametrize(
    "plot",
    [
        approve,
        cascade,
        lose_the_answer,
        recover_and_cascade,
        capture_in_part,
        cancel_it,
        refund_some,
    ],
)
async def test_a_crash_at_any_point_charges_once_and_leaves_nothing_open(
    plot: Any, new_story: Any, crash: type[BaseException], tmp_path: Path
) -> None:
    """Dies at the first point, then at the second, and so on until the plot ends unhurt."""
    dies_at = 0
    survived = False
    while not survived:
        dies_at += 1
        async with new_story(tmp_path / f"{dies_at}.db") as story:
            story.fate.dies_at = dies_at
            try:
                await plot(story)
                survived = True
            except crash:
                story.processor.script = []
                await story.restart()
            await story.recover()
            payment = await story.read(story.draft())
            if payment is None:
                assert story.processor.calls == [], "charged, yet nothing is stored"
                continue
            await check(story, payment)
            assert payment.status in (
                Status.SUCCEEDED,
                Status.REQUIRES_CAPTURE,
                Status.CANCELED,
            ), f"left {payment.status} by a crash at point {dies_at}"
    assert dies_at > 4, "the plot had no points to die at"


# ---- what holds for every story --------------------------------------------------------------


def check_ledger(payment: Payment, entries: list[LedgerEntry]) -> None:
    per_transaction: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        per_transaction[entry.transaction_id, entry.currency_code] += entry.minor_units
    assert set(per_transaction.values()) <= {0}, "a transaction does not sum to zero"
    owed = sum(e.minor_units for e in entries if e.account == f"merchant:{payment.merchant_id}")
    assert -owed == payment.captured_minor - payment.refunded_minor


async def check(story: Any, payment: Payment) -> None:
    """Everything that must hold of a payment, against its log and the processor's own truth."""
    history = await story.history(payment)
    assert [p.version for p in history] == list(range(1, payment.version + 1))
    entries = await story.payments.ledger(payment.payment_id)
    for before, after in itertools.pairwise(history):
        assert after.status is before.status or after.status in NEXT[before.status]
    for version in history:
        assert 0 <= version.captured_minor <= max(version.authorized_minor, 0)
        assert version.refunded_minor <= version.captured_minor
        check_ledger(version, [e for e in entries if e.post_time <= version.update_time])
    assert len(story.charged_accounts(payment)) <= 1, "charged twice"
    taken = sum(
        i.captured for i in story.processor.intents.values() if i.payment_id == payment.payment_id
    )
    if payment.status is not Status.NEEDS_REVIEW:
        assert taken == payment.captured_minor, "the processor took other money than we know of"
    if payment.status in (Status.FAILED, Status.BLOCKED, Status.CANCELED):
        assert story.charged_accounts(payment) == []


WORDS = ["ok", "soft", "hard", "action", "lost_before", "lost_after", "turned_away"]
DEEDS = ["recover", "capture", "cancel", "refund", "payer_acts", "restart"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    script=st.lists(st.sampled_from(WORDS), max_size=12),
    deeds=st.lists(st.sampled_from(DEEDS), max_size=6),
    manual=st.booleans(),
)
def test_no_sequence_of_outcomes_breaks_a_rule(
    new_story: Any, script: list[str], deeds: list[str], manual: bool
) -> None:
    async def run(folder: str) -> None:
        async with new_story(Path(folder) / "payments.db") as story:
            story.processor.script = list(script)
            payment = await story.create(
                capture_method=MANUAL if manual else CaptureMethod.AUTOMATIC
            )
            for number, deed in enumerate(deeds):
                story.clock.advance(seconds=1)
                await do(story, payment, deed, number)
                payment = await story.read(payment)
            await story.recover(20)
            payment = await story.read(payment)
            await check(story, payment)
            assert payment.status not in (Status.PROCESSING, Status.UNKNOWN)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


async def do(story: Any, payment: Payment, deed: str, number: int) -> None:
    match deed:
        case "recover":
            await story.recover(1)
        case "restart":
            await story.restart()
        case "capture" if payment.status is Status.REQUIRES_CAPTURE:
            await story.capture(payment, 1000, f"c{number}")
        case "cancel" if payment.status in (Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION):
            await story.cancel(payment, f"x{number}")
        case "refund" if payment.refundable_minor >= 500:
            await story.give_back(payment, 500, f"r{number}")
        case "payer_acts" if payment.status is Status.REQUIRES_ACTION:
            story.payer(payment, "succeeded")
