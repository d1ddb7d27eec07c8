"""An account that answers again: nobody waits out a long pause."""

from __future__ import annotations

from typing import Any

from services.payments.tests.conftest import FIRST
from smartpay_chassis.testing import FakeClock
from smartpay_payments.domain.payment import Status
from smartpay_payments.domain.silence import Silence


def test_an_account_that_was_never_silent_wakes_nobody() -> None:
    silence = Silence(FakeClock())
    silence.heard(FIRST, True)
    assert silence.take_awake() == []


def test_an_account_that_flickers_is_woken_seldom() -> None:
    clock = FakeClock()
    silence = Silence(clock)
    woken = 0
    for _ in range(100):
        silence.heard(FIRST, False)
        silence.heard(FIRST, True)
        woken += len(silence.take_awake())
        clock.advance(seconds=0.1)
    assert woken == 2


async def test_payments_in_doubt_are_looked_at_as_soon_as_their_account_answers(
    story: Any,
) -> None:
    story.processor.script = ["lost_after"] * 4
    doubtful = await story.create("doubtful")
    for pause in (1, 5, 30):
        story.clock.advance(seconds=pause)
        await story.recovery.step()
    doubtful = await story.read(doubtful)
    assert doubtful.status is Status.UNKNOWN
    assert (doubtful.check_time - story.clock()).total_seconds() > 100
    await story.create("another")
    await story.recovery.step()
    assert (await story.read(doubtful)).status is Status.SUCCEEDED
