from __future__ import annotations

from collections import Counter

import pytest

from smartpay_router.domain.modes import ServedBy, learner_share, side_of
from smartpay_router.domain.policy import Mode, Terms
from smartpay_router.domain.splits import Share, Split, drawn, lot
from smartpay_router.domain.tenant import Tenant

SPLIT = Split("HALVES", (Share("a", 50), Share("b", 30), Share("c", 20)))
TENANT = Tenant("mer_d1" + "0" * 24, livemode=False)
PAYERS = [f"payer-{i}" for i in range(5_000)]


def test_shares_are_chances_and_those_of_the_unable_go_to_the_others() -> None:
    assert SPLIT.chances({"a", "b", "c"}) == {"a": 0.5, "b": 0.3, "c": 0.2}
    assert SPLIT.chances({"a", "b"}) == {"a": 0.625, "b": 0.375}
    assert SPLIT.chances({"z"}) == {}


def test_drawn_accounts_come_in_their_shares_and_the_same_for_the_same_payment() -> None:
    chances = SPLIT.chances({"a", "b", "c"})
    counts = Counter(drawn(chances, "split", str(i)) for i in range(10_000))
    for account, chance in chances.items():
        assert counts[account] / 10_000 == pytest.approx(chance, abs=0.015)  # 3 standard errors
    assert drawn(chances, "split", "7") == drawn(chances, "split", "7")


def test_a_lot_is_even_and_parts_do_not_run_into_each_other() -> None:
    lots = [lot("x", str(i)) for i in range(4_000)]
    assert all(0 <= each < 1 for each in lots)
    assert sum(lots) / len(lots) == pytest.approx(0.5, abs=0.014)
    assert lot("ab", "c") != lot("a", "bc")


@pytest.mark.parametrize(
    ("terms", "share", "sides"),
    [
        (Terms(mode=Mode.STATIC), 0, {ServedBy.STATIC}),
        (Terms(mode=Mode.SHADOW), 0, {ServedBy.SHADOW}),
        (Terms(mode=Mode.CANARY, canary_percent=10), 0.1, {ServedBy.CANARY, ServedBy.CONTROL}),
        (Terms(mode=Mode.LIVE, holdout_percent=5), 0.95, {ServedBy.LIVE, ServedBy.HOLDOUT}),
        (Terms(mode=Mode.LIVE), 1, {ServedBy.LIVE}),
    ],
)
def test_each_mode_gives_its_share_of_the_payers_to_the_learner(
    terms: Terms, share: float, sides: set[ServedBy]
) -> None:
    assert learner_share(terms) == share
    served = [side_of(TENANT, payer, terms) for payer in PAYERS]
    assert set(served) == sides
    learners = sum(side.is_learner for side in served) / len(served)
    assert learners == pytest.approx(share, abs=0.013)  # 3 standard errors


def test_a_canary_stays_with_the_learner_when_it_goes_live() -> None:
    canary, live = Terms(mode=Mode.CANARY, canary_percent=20), Terms(holdout_percent=30)
    canaries = {p for p in PAYERS if side_of(TENANT, p, canary).is_learner}
    lives = {p for p in PAYERS if side_of(TENANT, p, live).is_learner}
    assert canaries < lives


def test_two_merchants_hold_out_different_payers() -> None:
    other = Tenant(TENANT.merchant_id, livemode=True)
    terms = Terms(holdout_percent=50)
    sides = [(side_of(TENANT, p, terms), side_of(other, p, terms)) for p in PAYERS]
    same = sum(one == two for one, two in sides) / len(sides)
    assert same == pytest.approx(0.5, abs=0.022)
