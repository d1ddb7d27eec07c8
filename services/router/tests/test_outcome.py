from __future__ import annotations

import pytest

from smartpay_router.domain.breakers import Kind
from smartpay_router.domain.outcome import Outcome, arm_of


def test_success_teaches_one_and_what_the_account_failed_at_teaches_nothing_else() -> None:
    for several_rails in (False, True):
        assert Outcome.SUCCEEDED.reward(several_rails=several_rails) == 1
        assert Outcome.DECLINED.reward(several_rails=several_rails) == 0
        assert Outcome.TECHNICAL_FAILURE.reward(several_rails=several_rails) == 0


def test_a_payer_who_walked_away_is_a_lost_sale_only_when_another_rail_could_have_led() -> None:
    assert Outcome.ABANDONED.reward(several_rails=True) == 0
    assert Outcome.ABANDONED.reward(several_rails=False) is None


@pytest.mark.parametrize("outcome", [Outcome.FRAUD, Outcome.UNANSWERED])
def test_refused_fraud_and_a_try_nobody_knows_the_end_of_teach_nothing(outcome: Outcome) -> None:
    assert outcome.reward(several_rails=True) is None


def test_breakers_hear_of_silence_at_once_and_nothing_of_what_payers_did() -> None:
    assert Outcome.UNANSWERED.kind is Kind.TECHNICAL
    assert not Outcome.UNANSWERED.is_final
    assert Outcome.DECLINED.kind is Kind.DECLINE
    assert Outcome.ABANDONED.kind is None
    assert Outcome.FRAUD.kind is None


def test_test_payments_teach_nothing_about_live_ones() -> None:
    live = arm_of("pac", "stripe", livemode=True)
    test = arm_of("pac", "stripe", livemode=False)
    assert (live.model, test.model) == ("live/stripe", "test/stripe")
    assert live.account == test.account == "pac"
