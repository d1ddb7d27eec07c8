from __future__ import annotations

import pytest

from smartpay_router.domain.chargebacks import (
    CHARGEBACKS_MIN,
    DAY_SECONDS,
    MATURE_DAYS,
    WINDOW_DAYS,
    Losses,
    Tally,
    window,
)


def test_nothing_is_lost_until_enough_was_seen() -> None:
    losses = Losses()
    losses.refresh({"live/stripe": Tally(successes=50, chargebacks=CHARGEBACKS_MIN - 1)})
    assert losses.expected("live/stripe") == 0


def test_the_account_that_lets_fraud_through_is_worth_less() -> None:
    losses = Losses()
    losses.refresh(
        {
            "live/stripe": Tally(successes=100_000, chargebacks=100, lost_shares=100.0),
            "live/amazon_pay": Tally(successes=100_000, chargebacks=900, lost_shares=900.0),
        }
    )
    assert losses.expected("live/stripe") == pytest.approx(0.001, rel=0.1)
    assert losses.expected("live/amazon_pay") == pytest.approx(0.009, rel=0.1)


def test_who_has_little_is_believed_to_be_like_the_others_of_its_mode() -> None:
    losses = Losses()
    losses.refresh(
        {
            "live/stripe": Tally(successes=100_000, chargebacks=500, lost_shares=500.0),
            "live/solana": Tally(successes=10, chargebacks=1, lost_shares=1.0),
            "test/stripe": Tally(successes=10),
        }
    )
    assert losses.expected("live/solana") == pytest.approx(0.0055, rel=0.01)
    assert losses.expected("live/amazon_pay") == pytest.approx(0.005, rel=0.01)
    assert losses.expected("test/stripe") == 0


def test_a_refresh_replaces_what_was_known() -> None:
    losses = Losses()
    losses.refresh({"live/stripe": Tally(1000, 50, 50.0)})
    assert losses.expected("live/stripe") > 0
    losses.refresh({})
    assert losses.expected("live/stripe") == 0


def test_only_days_old_enough_to_be_judged_count() -> None:
    today = 20_000
    first, last = window(today * DAY_SECONDS + 7.0)
    assert last == today - MATURE_DAYS
    assert last - first + 1 == WINDOW_DAYS
