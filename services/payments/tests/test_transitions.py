"""The table of states: nothing happens that is not in it, and every state has its ways out."""

from __future__ import annotations

from typing import Any

import pytest

from smartpay_payments.domain.payment import (
    CANCELABLE,
    NOT_PAID,
    OPEN,
    UNSETTLED,
    Status,
    replace,
)
from smartpay_payments.domain.transitions import (
    BEGINNINGS,
    NEXT,
    TABLE,
    Effect,
    Happening,
    apply,
    calls_processor,
)

TERMINAL = {Status.SUCCEEDED, Status.FAILED, Status.BLOCKED, Status.CANCELED}


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("happening", Happening)
def test_every_pair_is_in_the_table_or_refused(
    story: Any, status: Status, happening: Happening
) -> None:
    payment = story.draft()
    payment = replace(payment, status=status)
    if (status, happening) in TABLE:
        assert apply(payment, happening, "why").status is TABLE[status, happening].status
    else:
        with pytest.raises(ValueError, match="can't happen"):
            apply(payment, happening)


def test_what_has_ended_moves_again_only_for_money_that_turns_up() -> None:
    assert {status for status in Status if not NEXT[status]} == {Status.SUCCEEDED, Status.BLOCKED}
    for (status, happening), step in TABLE.items():
        if status in TERMINAL:
            assert happening in {Happening.CAPTURED, Happening.AUTHORIZED}
            assert step.status in {Status.SUCCEEDED, Status.REQUIRES_CAPTURE}


def test_the_order_id_is_held_again_exactly_where_it_had_been_freed() -> None:
    for (status, _), step in TABLE.items():
        wants_it = status in NOT_PAID and step.status not in NOT_PAID
        assert (Effect.HOLD_ORDER in step.effects) == wants_it


def test_every_open_state_leads_to_an_end() -> None:
    for start in OPEN | {Status.REQUIRES_CAPTURE}:
        seen, front = {start}, {start}
        while front:
            front = {after for status in front for after in NEXT[status]} - seen
            seen |= front
        assert seen & TERMINAL, f"{start} is a trap"


def test_every_state_can_be_reached() -> None:
    seen, front = set(BEGINNINGS), set(BEGINNINGS)
    while front:
        front = {after for status in front for after in NEXT[status]} - seen
        seen |= front
    assert seen == set(Status)


def test_silence_never_ends_a_payment() -> None:
    for (_, happening), step in TABLE.items():
        if happening in {Happening.SILENT, Happening.WORKING, Happening.GAVE_UP}:
            assert step.status not in TERMINAL


def test_the_order_id_is_freed_exactly_where_no_money_was_taken() -> None:
    for step in TABLE.values():
        assert (Effect.FREE_ORDER in step.effects) == (step.status in NOT_PAID)


def test_a_reward_is_marked_exactly_when_money_is_captured() -> None:
    for (_, happening), step in TABLE.items():
        assert (Effect.MARK_REWARD in step.effects) == (happening is Happening.CAPTURED)


def test_a_processor_is_called_only_from_a_state_that_says_so() -> None:
    for status, happening in TABLE:
        if calls_processor(status, happening):
            assert TABLE[status, happening].status in UNSETTLED


def test_a_merchant_can_give_up_whatever_waits() -> None:
    for status in CANCELABLE:
        assert {Happening.CANCEL, Happening.DROPPED} & {h for s, h in TABLE if s is status}
