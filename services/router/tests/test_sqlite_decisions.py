from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, OTHER_MERCHANT, FakeClock
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.adapters.sqlite_outcomes import SqliteOutcomes
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.decision import Decision
from smartpay_router.domain.outcome import Outcome, arm_of
from smartpay_router.domain.tenant import Tenant

PAYMENT, OTHER_PAYMENT = "pay_d1" + "p" * 24, "pay_d1" + "q" * 24


def numbered(decision: Decision, number: int, payment_id: str = "") -> Decision:
    return replace(decision, decision_id=f"dec_d1{number:024d}", payment_id=payment_id)


async def test_a_decision_comes_back_as_it_was_made(
    decisions: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    await decisions.keep(decision, charge)
    assert await decisions.get(decision.decision_id, decision.tenant) == decision


@pytest.mark.parametrize(
    "stranger",
    [Tenant(OTHER_MERCHANT.merchant_id, livemode=False), Tenant("mer_d1" + "m" * 24, True)],
)
async def test_another_tenants_decision_is_not_found(
    decisions: SqliteDecisions,
    decision: Decision,
    charge: Charge,
    clock: FakeClock,
    stranger: Tenant,
) -> None:
    await decisions.keep(decision, charge)
    attempts = (
        decisions.get(decision.decision_id, stranger),
        decisions.bind(decision.decision_id, stranger, PAYMENT, charge, clock()),
        decisions.report(
            decision.decision_id, stranger, 0, DEMO_ACCOUNTS[0], Outcome.SUCCEEDED, clock()
        ),
    )
    for attempt in attempts:
        with pytest.raises(Refusal) as caught:
            await attempt
        assert caught.value.reason == "DECISION_NOT_FOUND"


async def test_racing_calls_of_one_payment_share_the_first_decision(
    decisions: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    made = [numbered(decision, n, PAYMENT) for n in range(8)]
    kept = await asyncio.gather(*(decisions.keep(d, charge) for d in made))
    assert set(kept) == {made[0]}


async def test_a_payment_that_changed_its_terms_is_refused(
    decisions: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    await decisions.keep(numbered(decision, 1, PAYMENT), charge)
    with pytest.raises(Refusal) as caught:
        await decisions.keep(numbered(decision, 2, PAYMENT), replace(charge, amount_minor=9))
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_of_two_payments_that_race_for_a_decision_one_gets_it(
    decisions: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await decisions.keep(decision, charge)
    results = await asyncio.gather(
        *(
            decisions.bind(decision.decision_id, decision.tenant, payment, charge, clock())
            for payment in (PAYMENT, OTHER_PAYMENT, PAYMENT)
        ),
        return_exceptions=True,
    )
    assert results[0] == results[2] == replace(decision, payment_id=PAYMENT)
    assert isinstance(results[1], Refusal)
    assert results[1].reason == "DECISION_USED"


async def test_a_payment_can_not_take_a_second_decision(
    decisions: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await decisions.keep(numbered(decision, 1, PAYMENT), charge)
    await decisions.keep(decision, charge)
    with pytest.raises(Refusal) as caught:
        await decisions.bind(decision.decision_id, decision.tenant, PAYMENT, charge, clock())
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_the_payment_that_bound_a_decision_gets_it_also_without_naming_it(
    decisions: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await decisions.keep(decision, charge)
    bound = await decisions.bind(decision.decision_id, decision.tenant, PAYMENT, charge, clock())
    assert await decisions.keep(numbered(decision, 9, PAYMENT), charge) == bound


async def test_an_outcome_told_twice_counts_once_and_told_otherwise_is_refused(
    decisions: SqliteDecisions,
    outcomes: SqliteOutcomes,
    decision: Decision,
    charge: Charge,
    clock: FakeClock,
) -> None:
    await decisions.keep(decision, charge)
    told = (decision.decision_id, decision.tenant, 0, DEMO_ACCOUNTS[0])
    await decisions.report(*told, Outcome.DECLINED, clock())
    await decisions.report(*told, Outcome.DECLINED, clock() + timedelta(seconds=9))
    assert (await outcomes.after(0, "one", "charge-2")).outcomes == ["DECLINED"]
    with pytest.raises(Refusal) as caught:
        await decisions.report(*told, Outcome.SUCCEEDED, clock())
    assert (caught.value.reason, caught.value.field) == ("IDEMPOTENCY_KEY_REUSED", "attempt_index")


async def test_a_decision_followed_outside_can_not_be_bound_afterwards(
    decisions: SqliteDecisions, decision: Decision, charge: Charge, clock: FakeClock
) -> None:
    await decisions.keep(decision, charge)
    await decisions.report(
        decision.decision_id, decision.tenant, 0, DEMO_ACCOUNTS[0], Outcome.SUCCEEDED, clock()
    )
    with pytest.raises(Refusal) as caught:
        await decisions.bind(decision.decision_id, decision.tenant, PAYMENT, charge, clock())
    assert caught.value.reason == "DECISION_USED"


async def test_decisions_past_their_retention_make_room_for_new_ones(
    decisions: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    for number in range(3):
        await decisions.keep(numbered(decision, number), charge)
    later = replace(numbered(decision, 9), created_at=decision.created_at + timedelta(days=31))
    await decisions.keep(later, charge)
    found = await asyncio.gather(
        *(decisions.get(f"dec_d1{n:024d}", decision.tenant) for n in (0, 1, 2, 9)),
        return_exceptions=True,
    )
    assert [isinstance(f, Decision) for f in found] == [False, False, True, True]


async def test_a_decision_is_waited_for_until_its_try_has_ended(
    decisions: SqliteDecisions,
    outcomes: SqliteOutcomes,
    decision: Decision,
    charge: Charge,
    clock: FakeClock,
) -> None:
    await decisions.keep(decision, charge)
    (waiting,) = await outcomes.open_decisions(0)
    assert waiting.decision_id == decision.decision_id
    assert waiting.arm == arm_of(DEMO_ACCOUNTS[0], "stripe", livemode=False)
    assert waiting.decided_at == decision.created_at.timestamp()
    await decisions.report(
        decision.decision_id, decision.tenant, 0, DEMO_ACCOUNTS[0], Outcome.DECLINED, clock()
    )
    assert not await outcomes.open_decisions(0)
