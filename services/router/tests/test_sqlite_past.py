from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from smartpay_chassis.sqlite import SqliteStore
from smartpay_chassis.testing import DEMO_ACCOUNTS, FakeClock
from smartpay_router.adapters.sqlite_decisions import SqliteDecisions
from smartpay_router.adapters.sqlite_past import FIRST as NEWEST
from smartpay_router.adapters.sqlite_past import SqlitePast
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.decision import Decision
from smartpay_router.domain.modes import ServedBy
from smartpay_router.domain.outcome import Outcome
from smartpay_router.domain.tenant import Tenant

FIRST, SECOND = DEMO_ACCOUNTS


@pytest.fixture
def past(store: SqliteStore) -> SqlitePast:
    return SqlitePast(store)


async def keep(
    decisions: SqliteDecisions, decision: Decision, charge: Charge, number: int, **route: object
) -> Decision:
    """Stores the decision once more, a second after the one before."""
    made = replace(
        decision,
        decision_id="dec_d1" + str(number) * 24,
        created_at=decision.created_at + timedelta(seconds=number),
        route=replace(decision.route, **route),  # type: ignore[arg-type]
    )
    return await decisions.keep(made, charge)


async def report(
    decisions: SqliteDecisions, decision: Decision, account: str, outcome: Outcome
) -> None:
    await decisions.report(
        decision.decision_id, decision.tenant, 0, account, outcome, decision.created_at
    )


async def test_decisions_come_in_pages_newest_first_and_whole(
    past: SqlitePast, decisions: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    made = [await keep(decisions, decision, charge, number) for number in (1, 2, 3)]
    page, position = await past.page(decision.tenant, NEWEST, 2, ended=False)
    assert [each.decision for each in page] == [made[2], made[1]]
    assert position is not None
    page, position = await past.page(decision.tenant, position, 2, ended=False)
    assert ([each.decision for each in page], position) == ([made[0]], None)


async def test_another_tenant_has_none_of_them(
    past: SqlitePast, decisions: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    made = await keep(decisions, decision, charge, 1)
    await report(decisions, made, FIRST, Outcome.SUCCEEDED)
    other = Tenant(decision.tenant.merchant_id, not decision.tenant.livemode)
    assert await past.page(other, NEWEST, 9, ended=False) == ([], None)
    assert await past.outcomes(made.decision_id, other) == []
    assert await past.tries(other, 2, 0, 9) == []


async def test_only_the_outcome_of_the_first_place_counts_as_the_decisions_own(
    past: SqlitePast, decisions: SqliteDecisions, decision: Decision, charge: Charge
) -> None:
    first, other, open_ = [await keep(decisions, decision, charge, n) for n in (1, 2, 3)]
    await report(decisions, first, FIRST, Outcome.DECLINED)
    await report(decisions, other, SECOND, Outcome.SUCCEEDED)
    page, _ = await past.page(decision.tenant, NEWEST, 9, ended=True)
    assert [(p.decision.decision_id, p.outcome) for p in page] == [
        (other.decision_id, None),
        (first.decision_id, Outcome.DECLINED),
    ]
    page, _ = await past.page(decision.tenant, NEWEST, 9, ended=False)
    assert page[0].decision.decision_id == open_.decision_id
    assert page[0].outcome is None
    assert await past.outcomes(other.decision_id, decision.tenant) == [
        (0, SECOND, Outcome.SUCCEEDED)
    ]


async def test_tries_are_those_that_chance_assigned_under_the_version(
    past: SqlitePast,
    decisions: SqliteDecisions,
    decision: Decision,
    charge: Charge,
    clock: FakeClock,
) -> None:
    cases = [
        (1, ServedBy.LIVE, 2, "ann"),
        (2, ServedBy.HOLDOUT, 2, "bob"),
        (3, ServedBy.SPLIT, 2, "cid"),
        (4, ServedBy.LIVE, 1, "dan"),
    ]
    for number, served_by, version, payer in cases:
        made = await keep(
            decisions,
            decision,
            charge,
            number,
            served_by=served_by,
            routing_policy_version=version,
            payer=payer,
        )
        await report(decisions, made, FIRST, Outcome.DECLINED)
    found = await past.tries(decision.tenant, 2, 0, 9)
    assert {each.fee_share for each in found} == {102 / 2500}
    assert [(each.payer, each.served_by, each.outcome) for each in found] == [
        ("ann", ServedBy.LIVE, Outcome.DECLINED),
        ("bob", ServedBy.HOLDOUT, Outcome.DECLINED),
    ]
    since_ms = round(clock().timestamp() * 1_000) + 1_500
    assert [each.payer for each in await past.tries(decision.tenant, 2, since_ms, 9)] == ["bob"]
    assert [each.payer for each in await past.tries(decision.tenant, 2, 0, 1)] == ["ann"]
