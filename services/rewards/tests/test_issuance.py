from dataclasses import replace
from datetime import timedelta

import pytest

from smartpay_rewards.domain.issuance import (
    WALLET_MISSING,
    WALLET_UNUSABLE,
    Minted,
    Reward,
    Rules,
    State,
    Step,
    backoff,
    finalized,
    next_step,
    parked,
    sent,
)
from smartpay_rewards.domain.reward import Refunded
from smartpay_rewards.testing import OTHER_WALLET, START, WALLET, a_payment, terms

LATER = START + timedelta(seconds=10)


def rules(
    *, default_wallet: str = WALLET, vesting: timedelta = timedelta(0), **rates: str
) -> Rules:
    return Rules(
        terms(vesting=vesting, **rates), default_wallet, lambda wallet: wallet != "unusable"
    )


def a_sent_reward() -> Reward:
    return sent(rules().apply(None, a_payment(), START), "signature", LATER, LATER)


def test_the_wallet_is_the_granted_one_then_the_payments_then_the_default() -> None:
    with_own = a_payment(wallet=OTHER_WALLET)
    assert rules().apply(None, a_payment(), START).wallet == WALLET
    assert rules().apply(None, with_own, START).wallet == OTHER_WALLET
    assert rules().apply(None, with_own, START, granted="chosen").wallet == "chosen"


def test_a_granted_wallet_survives_the_event_that_comes_later() -> None:
    granted = rules().apply(None, a_payment(mark=None, sequence=0), START, granted="chosen")
    assert granted.payment.mark is None
    told = rules().apply(granted, a_payment(wallet=OTHER_WALLET), LATER)
    assert (told.wallet, told.payment.mark, told.create_time) == ("chosen", a_payment().mark, START)


def test_an_event_that_is_not_newer_changes_nothing() -> None:
    first = rules().apply(None, a_payment(sequence=3), START)
    for sequence in (1, 2, 3):
        older = a_payment(sequence=sequence, captured_minor_units=1)
        assert rules().apply(first, older, LATER) is first


def test_a_newer_event_never_changes_what_was_sent() -> None:
    reward = a_sent_reward()
    final = finalized(reward, Minted("signature", WALLET, 2_000_000), LATER)
    refused = parked(reward, "CHAIN_REFUSED: x")
    for existing in (reward, final, refused):
        newer = a_payment(sequence=9, captured_minor_units=1, wallet=OTHER_WALLET)
        assert rules().apply(existing, newer, LATER) is existing


def test_a_later_event_does_not_move_the_moment_vesting_counts_from() -> None:
    week = timedelta(days=7)
    first = rules(vesting=week).apply(None, a_payment(), START)
    told = a_payment(
        sequence=5, settle_time=START + timedelta(days=3), refunds=(Refunded(LATER, 4_000),)
    )
    second = rules(vesting=week).apply(first, told, START + timedelta(days=3))
    assert second.look_time == START + week
    assert second.token_base_units == 1_200_000


def test_nothing_is_looked_at_before_it_vests() -> None:
    reward = rules(vesting=timedelta(days=7)).apply(None, a_payment(), START)
    assert reward.look_time == START + timedelta(days=7)


@pytest.mark.parametrize(("wallet", "hold"), [("", WALLET_MISSING), ("unusable", WALLET_UNUSABLE)])
def test_a_missing_or_unusable_wallet_holds_the_reward(wallet: str, hold: str) -> None:
    reward = rules(default_wallet="").apply(None, a_payment(wallet=wallet), START)
    assert reward.hold == hold
    assert next_step(reward, marked=False, now=LATER) is Step.PARK


def test_the_receipt_decides_before_anything_else() -> None:
    new = rules().apply(None, a_payment(), START)
    held = rules().apply(None, a_payment(currency_code="CHF"), START)
    empty = replace(new, token_base_units=0)
    for reward in (new, held, empty, a_sent_reward()):
        assert next_step(reward, marked=True, now=LATER) is Step.SETTLE
    assert next_step(new, marked=False, now=LATER) is Step.SEND
    assert next_step(held, marked=False, now=LATER) is Step.PARK
    assert next_step(empty, marked=False, now=LATER) is Step.CANCEL


def test_what_was_sent_is_waited_for_and_then_sent_again() -> None:
    reward = a_sent_reward()
    assert next_step(reward, marked=False, now=START) is Step.WAIT
    assert next_step(reward, marked=False, now=LATER) is Step.SEND


def test_a_parked_reward_is_tried_again_by_the_terms_in_force_then() -> None:
    held = rules().apply(None, a_payment(currency_code="CHF"), START)
    held = parked(held, held.hold)
    again = rules().resumed(held, LATER)
    assert (again.state, again.hold) == (State.NEW, held.hold)
    known = rules(CHF="11/10").resumed(held, LATER)
    assert (known.state, known.hold, known.token_base_units) == (State.NEW, "", 2_200_000)
    assert known.create_time == START


def test_a_restart_looks_at_what_was_sent_at_once_and_leaves_the_rest() -> None:
    reward = a_sent_reward()
    resumed = rules().resumed(reward, LATER)
    assert (resumed.state, resumed.resend_time, resumed.signature) == (
        State.SENT,
        LATER,
        "signature",
    )
    final = finalized(reward, Minted("signature", WALLET, 1), LATER)
    assert rules().resumed(final, LATER) is final


def test_waits_double_up_to_the_longest() -> None:
    first, longest = timedelta(seconds=1), timedelta(seconds=60)
    waits = [backoff(attempts, first, longest).total_seconds() for attempts in (0, 1, 2, 3, 7, 999)]
    assert waits == [1, 1, 2, 4, 60, 60]
