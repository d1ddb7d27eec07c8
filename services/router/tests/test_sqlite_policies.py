from __future__ import annotations

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_chassis.sqlite import SqliteStore
from smartpay_router.adapters.sqlite_policies import SqlitePolicies
from smartpay_router.domain.audit import AuditRecord, changes_between
from smartpay_router.domain.policy import FIRST_POLICY, Mode, PolicyBook, RoutingPolicy, Terms
from smartpay_router.domain.rules import AccountLimit, Action, AmountRange, Condition, Rule
from smartpay_router.domain.splits import Share, Split

MERCHANT = "mer_d1" + "0" * 24
WHEN = Condition(
    minor_units_min=0,
    minor_units_max=500,
    currencies=("USD",),
    countries=("DE", "US"),
    risk_min=0.0,
    risk_max=0.5,
    off_session=False,
    processors=("stripe",),
    weekdays=(1, 7),
    hour_from=0,
    hour_before=24,
)
FULL = Terms(
    kill_switch=True,
    mode=Mode.CANARY,
    canary_percent=10,
    static_order=("pac_1", "pac_2"),
    rules=(Rule("A", Action.PREFER, ("pac_2", "pac_1"), WHEN, disabled=True),),
    splits=(Split("B", (Share("pac_1", 40), Share("pac_2", 60)), WHEN),),
    limits=(AccountLimit("pac_1", (AmountRange("USD", 1, 2),), ("DE",)),),
    fee_basis_points_max=300,
    exploration_basis_points=0,
)


def version(number: int, terms: Terms = FULL, note: str = "a note") -> RoutingPolicy:
    return RoutingPolicy(number, terms, note, 1_000 * number, "ada")


def record(number: int, subject: str = "policy") -> AuditRecord:
    return AuditRecord(
        audit_id=f"aud_{number}",
        merchant_id=MERCHANT,
        livemode=False,
        time_ms=1_000 * number,
        actor="ada",
        action="RoutingPoliciesService.UpdateRoutingPolicy",
        subject_id=subject,
        request_id="r-1",
        changes=changes_between({"version": number - 1}, {"version": number, "note": "a note"}),
    )


async def test_a_stored_policy_is_in_force_at_once_and_read_back_as_it_was(
    store: SqliteStore,
) -> None:
    book = PolicyBook()
    policies = SqlitePolicies(store, book)
    await policies.put(MERCHANT, False, version(2), record(2))
    assert book.of(MERCHANT, livemode=False) == version(2)
    assert book.of(MERCHANT, livemode=True) is FIRST_POLICY
    assert await policies.version(MERCHANT, False, 2) == version(2)
    assert await policies.version(MERCHANT, False, 1) is FIRST_POLICY
    assert await policies.version(MERCHANT, False, 3) is None
    assert await policies.version(MERCHANT, True, 2) is None


async def test_another_replica_sees_a_change_when_it_looks(store: SqliteStore) -> None:
    mine, theirs = PolicyBook(), PolicyBook()
    here, there = SqlitePolicies(store, mine), SqlitePolicies(store, theirs)
    await here.put(MERCHANT, False, version(2), record(2))
    assert theirs.of(MERCHANT, livemode=False) is FIRST_POLICY
    await there.catch_up()
    assert theirs.of(MERCHANT, livemode=False) == version(2)
    await here.put(MERCHANT, False, version(3), record(3))
    await there.catch_up()
    assert theirs.of(MERCHANT, livemode=False).version == 3


async def test_of_two_who_change_the_same_version_one_is_refused(store: SqliteStore) -> None:
    policies = SqlitePolicies(store, PolicyBook())
    await policies.put(MERCHANT, False, version(2), record(2))
    with pytest.raises(Refusal) as caught:
        await policies.put(MERCHANT, False, version(2), record(3))
    assert caught.value.reason == "ETAG_MISMATCH"
    assert (await policies.page_of_records(MERCHANT, False, 2**62, 9))[0] == [record(2)]


async def test_versions_and_records_come_in_pages_newest_first(store: SqliteStore) -> None:
    policies = SqlitePolicies(store, PolicyBook())
    for number in range(2, 6):
        await policies.put(MERCHANT, False, version(number), record(number))
    versions = await policies.page(MERCHANT, False, 5, 2)
    assert [policy.version for policy in versions] == [4, 3]
    records, position = await policies.page_of_records(MERCHANT, False, 2**62, 3)
    assert records == [record(5), record(4), record(3)]
    records, position = await policies.page_of_records(MERCHANT, False, position, 3)
    assert (records, position) == ([record(2)], 0)
    assert await policies.page_of_records(MERCHANT, True, 2**62, 3) == ([], 0)
    found = await policies.page_of_records(MERCHANT, False, 2**62, 3, actor="bob")
    assert found == ([], 0)
