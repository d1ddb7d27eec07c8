"""Faults and crashes on the real wire, judged by the sandbox; and proof that the judge can see."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smartpay_chassis.testing import DEMO_ACCOUNTS
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.payment import Attempt, Payment, Status
from smartpay_payments.domain.processor import Outcome
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

PAYMENTS = 24
KEYS = dict(zip(DEMO_ACCOUNTS, ("sk_test_first", "sk_test_second"), strict=True))
TOKENS = dict.fromkeys(DEMO_ACCOUNTS, "pm_card_visa")
FAULTS = [
    {"kind": "drop_after_commit", "probability": 0.25, "seed": 1, "method": "POST"},
    {"kind": "error_after", "probability": 0.1, "seed": 2, "method": "POST"},
    {"kind": "error_before", "probability": 0.1, "seed": 3},
    {"kind": "rate_limit", "probability": 0.1, "seed": 4, "method": "POST"},
]


async def judge(story: Any, sandbox: StripeSandbox) -> list[str]:
    """Names every broken promise; trusts only what the sandbox holds."""
    broken = []
    taken: dict[str, list[int]] = {}
    for account in sandbox.simulator.dump()["accounts"].values():
        for intent in account["payment_intents"].values():
            if intent["amount_received"]:
                taken.setdefault(intent["metadata"]["payment_id"], []).append(
                    intent["amount_received"]
                )
    for number in range(PAYMENTS):
        draft = story.draft(f"key {number}")
        payment: Payment | None = await story.read(draft)
        charges = taken.pop(draft.payment_id, [])
        if len(charges) > 1:
            broken.append(f"{draft.payment_id} was charged {len(charges)} times")
        if payment is None:
            if charges:
                broken.append(f"{draft.payment_id} was charged and is not stored")
            continue
        if bool(charges) is not (payment.status is Status.SUCCEEDED):
            broken.append(f"{draft.payment_id} is {payment.status}, charged {charges}")
        entries = await story.payments.ledger(payment.payment_id)
        booked = sum(
            e.minor_units
            for e in entries
            if e.transaction_id == "capture" and e.account.startswith("processor:")
        )
        if booked != sum(charges[:1]):
            broken.append(f"{draft.payment_id}: the ledger says {booked}, Stripe {charges}")
        if payment.status in (Status.PROCESSING, Status.UNKNOWN):
            broken.append(f"{draft.payment_id} is stuck {payment.status}")
    return broken + [f"{stranger} was charged and is nobody's" for stranger in taken]


@asynccontextmanager
async def on_the_wire(new_story: Any, folder: Path) -> AsyncIterator[tuple[Any, StripeSandbox]]:
    """A story whose processor is the real adapter against the real sandbox."""
    async with stripe_sandbox(folder) as sandbox, new_story(folder / "payments.db") as story:
        story.clock.now = datetime.fromtimestamp(sandbox.clock(), UTC)
        story.processor = StripeProcessor(
            KEYS, sandbox.stripe_url, "https://shop.test/return", 5.0, story.clock
        )
        await story.restart()
        sandbox.simulator.set_faults(FAULTS)
        yield story, sandbox
        await story.processor.close()


async def ordeal(story: Any, crash: type[BaseException]) -> None:
    """Takes payments while things break and the process dies; lets recovery have its time."""
    for number in range(PAYMENTS):
        # Dies at the first, second, third or fourth edge of a write, or survives.
        story.fate.dies_at = story.fate.points + 1 + number % 5
        try:
            await story.saga.create(story.draft(f"key {number}", tokens=TOKENS), story.terms)
        except crash:
            story.fate.dies_at = None
            await story.restart()
    story.fate.dies_at = None
    await story.recover()


async def test_faults_and_crashes_charge_nothing_twice_and_lose_nothing(
    new_story: Any, crash: type[BaseException], tmp_path: Path
) -> None:
    async with on_the_wire(new_story, tmp_path) as (story, sandbox):
        await ordeal(story, crash)
        assert await judge(story, sandbox) == []
        fired = {r["kind"]: r["fired"] for r in sandbox.simulator.dump()["faults"]}
        assert all(fired.values()), f"a fault never happened: {fired}"


def new_key_per_retry(story: Any) -> None:
    """Breaks: a repeated charge is the same charge."""
    charge: Callable[[Payment, Attempt], Awaitable[Outcome]] = story.processor.charge
    sent = 0

    async def charge_anew(payment: Payment, attempt: Attempt) -> Outcome:
        nonlocal sent
        sent += 1
        return await charge(
            payment, replace(attempt, processor_key=f"{attempt.processor_key}-{sent}")
        )

    story.processor.charge = charge_anew


def no_attempt_stored(story: Any) -> None:
    """Breaks: nothing external is called before the intent to call is durable."""
    opened = story.open

    def forget_the_first_commit() -> None:
        create, save = story.payments.create, story.payments.save
        unwritten: dict[str, Any] = {}

        async def remember(payment: Payment, *rest: Any) -> None:
            unwritten[payment.payment_id] = (payment, *rest)

        async def write_late(payment: Payment, *rest: Any) -> bool:
            held = unwritten.pop(payment.payment_id, None)
            if held is not None:
                await create(*held)
            return bool(await save(payment, *rest))

        story.payments.create, story.payments.save = remember, write_late

    async def open_forgetfully() -> None:
        await opened()
        forget_the_first_commit()

    story.open = open_forgetfully
    forget_the_first_commit()


@pytest.mark.parametrize(
    ("sabotage", "crime"),
    [(new_key_per_retry, "times"), (no_attempt_stored, "is not stored")],
)
async def test_the_judge_sees_a_broken_promise(
    sabotage: Callable[[Any], None],
    crime: str,
    new_story: Any,
    crash: type[BaseException],
    tmp_path: Path,
) -> None:
    async with on_the_wire(new_story, tmp_path) as (story, sandbox):
        sabotage(story)
        await ordeal(story, crash)
        assert any(crime in sentence for sentence in await judge(story, sandbox))
