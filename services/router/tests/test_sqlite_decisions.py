from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, OTHER_MERCHANT, FakeClock
from smartpay_router.adapters.river_policy import RiverPolicy
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.context import Context, describe
from smartpay_router.domain.decision import Decision, Tenant
from smartpay_router.domain.outcome import Learner, Outcome, Sample

PAYMENT, OTHER_PAYMENT = "pay_d1" + "p" * 24, "pay_d1" + "q" * 24
RETENTION = timedelta(days=30)


def numbered(decision: Decision, number: int, payment_id: str = "") -> Decision:
    return replace(decision, decision_id=f"dec_d1{number:024d}", payment_id=payment_id)


async def test_a_decision_comes_back_as_it_was_made(
    store: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    await store.keep(decision, charge)
    assert await store.get(decision.decision_id, decision.tenant) == decision


@pytest.mark.parametrize(
    "stranger",
    [Tenant(OTHER_MERCHANT.merchant_id, livemode=False), Tenant("mer_d1" + "m" * 24, True)],
)
async def test_another_tenants_decision_is_not_found(
    store: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock, stranger: Tenant
) -> None:
    await store.keep(decision, charge)
    attempts = (
        store.get(decision.decision_id, stranger),
        store.bind(decision.decision_id, stranger, PAYMENT, charge, clock()),
        store.report(decision.decision_id, stranger, 0, DEMO_ACCOUNTS[0], Outcome.SUCCEEDED),
    )
    for attempt in attempts:
        with pytest.raises(Refusal) as caught:
            await attempt
        assert caught.value.reason == "DECISION_NOT_FOUND"


async def test_racing_calls_of_one_payment_share_the_first_decision(
    store: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    made = [numbered(decision, n, PAYMENT) for n in range(8)]
    kept = await asyncio.gather(*(store.keep(d, charge) for d in made))
    assert set(kept) == {made[0]}


async def test_a_payment_that_changed_its_terms_is_refused(
    store: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    await store.keep(numbered(decision, 1, PAYMENT), charge)
    with pytest.raises(Refusal) as caught:
        await store.keep(numbered(decision, 2, PAYMENT), replace(charge, amount_minor=9))
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_of_two_payments_that_race_for_a_decision_one_gets_it(
    store: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await store.keep(decision, charge)
    results = await asyncio.gather(
        *(
            store.bind(decision.decision_id, decision.tenant, payment, charge, clock())
            for payment in (PAYMENT, OTHER_PAYMENT, PAYMENT)
        ),
        return_exceptions=True,
    )
    assert results[0] == results[2] == replace(decision, payment_id=PAYMENT)
    assert isinstance(results[1], Refusal)
    assert results[1].reason == "DECISION_USED"


async def test_a_payment_can_not_take_a_second_decision(
    store: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await store.keep(numbered(decision, 1, PAYMENT), charge)
    await store.keep(decision, charge)
    with pytest.raises(Refusal) as caught:
        await store.bind(decision.decision_id, decision.tenant, PAYMENT, charge, clock())
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_the_payment_that_bound_a_decision_gets_it_also_without_naming_it(
    store: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await store.keep(decision, charge)
    bound = await store.bind(decision.decision_id, decision.tenant, PAYMENT, charge, clock())
    assert await store.keep(numbered(decision, 9, PAYMENT), charge) == bound


async def test_an_outcome_told_twice_counts_once_and_told_otherwise_is_refused(
    store: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    await store.keep(decision, charge)
    told = (decision.decision_id, decision.tenant, 0, DEMO_ACCOUNTS[0])
    await store.report(*told, Outcome.DECLINED)
    await store.report(*told, Outcome.DECLINED)
    assert len(await store.after(0)) == 1
    with pytest.raises(Refusal) as caught:
        await store.report(*told, Outcome.SUCCEEDED)
    assert (caught.value.reason, caught.value.field) == ("IDEMPOTENCY_KEY_REUSED", "attempt_index")


async def test_a_decision_followed_outside_can_not_be_bound_afterwards(
    store: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await store.keep(decision, charge)
    await store.report(
        decision.decision_id, decision.tenant, 0, DEMO_ACCOUNTS[0], Outcome.SUCCEEDED
    )
    with pytest.raises(Refusal) as caught:
        await store.bind(decision.decision_id, decision.tenant, PAYMENT, charge, clock())
    assert caught.value.reason == "DECISION_USED"


async def test_decisions_past_their_retention_make_room_for_new_ones(
    store: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    for number in range(3):
        await store.keep(numbered(decision, number), charge)
    later = replace(numbered(decision, 9), created_at=decision.created_at + timedelta(days=31))
    await store.keep(later, charge)
    found = await asyncio.gather(
        *(store.get(f"dec_d1{n:024d}", decision.tenant) for n in (0, 1, 2, 9)),
        return_exceptions=True,
    )
    assert [isinstance(f, Decision) for f in found] == [False, False, True, True]


def sample(context: Context, number: int, arm: str, outcome: Outcome) -> Sample:
    return Sample(f"dec_d1{number:024d}", 0, "mer_d1" + "m" * 24, False, arm, outcome, context)


async def test_the_cursor_and_the_outcomes_before_it_are_kept_together(
    store: SqliteDecisions, context: Context
) -> None:
    assert await store.cursor() == ""
    first = sample(context, 1, DEMO_ACCOUNTS[0], Outcome.SUCCEEDED)
    assert await store.take_in([first], "cursor-1") == 1
    assert await store.take_in([first], "cursor-2") == 0
    assert await store.cursor() == "cursor-2"
    assert [s for _, s in await store.after(0)] == [first]


async def test_what_was_learned_survives_a_restart_exactly(tmp_path: Path) -> None:
    path, clock, dice = tmp_path / "router.db", FakeClock(), random.Random(5)
    store = await SqliteDecisions.open(path, RETENTION)
    online = RiverPolicy()
    learner = Learner(online, store)
    context = describe(Charge(100, "USD", {}), 0, clock())
    for number in range(60):
        clock.advance(minutes=dice.randrange(60))
        context = describe(Charge(dice.randrange(100, 9000), "USD", {}), dice.random(), clock())
        outcome = dice.choice(tuple(Outcome))
        await store.take_in(
            [sample(context, number, dice.choice(DEMO_ACCOUNTS), outcome)], str(number)
        )
        await learner.catch_up()
    # A second connection to a file that nobody closed is what a start after kill -9 sees.
    reopened = await SqliteDecisions.open(path, RETENTION)
    replayed = RiverPolicy()
    await Learner(replayed, reopened).catch_up()
    assert replayed.version == online.version != "river-linucb-0"
    assert replayed.estimate(DEMO_ACCOUNTS, context) == online.estimate(DEMO_ACCOUNTS, context)
    assert await reopened.cursor() == "59"
    await reopened.close()
    await store.close()
