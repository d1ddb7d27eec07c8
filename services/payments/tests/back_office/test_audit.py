from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from smartpay.payments.v1 import audit_pb2, customers_pb2
from smartpay_chassis.testing import DEMO_MERCHANT, OTHER_MERCHANT
from smartpay_payments.adapters.sqlite_audit import append_audit
from smartpay_payments.domain.audit import VALUE_LETTERS_MAX, changes_between
from smartpay_payments.server.audit import record_of_work


async def make(office: Any, number: int, merchant: Any = DEMO_MERCHANT) -> str:
    request = customers_pb2.CreateCustomerRequest(customer_id=f"c{number}")
    await office.ask(office.customers.CreateCustomer, request, f"k{number}", merchant)
    return f"c{number}"


async def listed(office: Any, merchant: Any = DEMO_MERCHANT, **request: Any) -> Any:
    return await office.ask(
        office.audit.ListAuditRecords,
        audit_pb2.ListAuditRecordsRequest(**request),
        merchant=merchant,
    )


async def test_a_record_names_who_what_when_and_the_call(office: Any) -> None:
    await make(office, 1)
    (record,) = (await listed(office)).records
    assert record.audit_id.startswith("aud_d1")
    assert (record.actor, record.action) == ("user", "CustomersService.CreateCustomer")
    assert record.request_id
    now = office.story.clock()
    assert now - record.time.ToDatetime(tzinfo=now.tzinfo) < timedelta(seconds=1)


async def test_pages_are_newest_first_whatever_comes_meanwhile(office: Any) -> None:
    for number in range(5):
        await make(office, number)
    seen: list[str] = []
    token = ""
    while True:
        page = await listed(office, page_size=2, page_token=token)
        seen += [r.audit_id for r in page.records]
        token = page.next_page_token
        if not token:
            break
        await make(office, 100 + len(seen))
    everything = [r.audit_id for r in (await listed(office)).records]
    assert len(seen) == len(set(seen)) == 5
    assert seen == everything[-5:]


async def test_filters_are_bound_to_their_page_tokens(office: Any) -> None:
    for number in range(3):
        await make(office, number)
    (newest, *_) = (await listed(office)).records
    only = (await listed(office, subject_id=newest.subject_id)).records
    assert [r.audit_id for r in only] == [newest.audit_id]
    assert not (await listed(office, actor="nobody")).records
    assert not (await listed(office, action="nothing")).records
    page = await listed(office, page_size=1, actor="user")
    refused = await office.refused(
        office.audit.ListAuditRecords,
        audit_pb2.ListAuditRecordsRequest(page_token=page.next_page_token, actor="other"),
    )
    assert refused["reason"] == "PAGE_TOKEN_INVALID"


async def test_records_are_listed_by_when_they_were_made(office: Any) -> None:
    moments = []
    for number in range(4):
        await make(office, number)
        moments.append(office.story.clock().strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        office.story.clock.advance(hours=1)

    async def subjects(**filters: str) -> list[str]:
        return [r.subject_id for r in (await listed(office, **filters)).records]

    newest = await subjects()
    assert len(set(newest)) == 4
    assert await subjects(time_from=moments[1]) == newest[:2]
    assert await subjects(time_before=moments[1]) == newest[2:]
    assert await subjects(time_from=moments[0], time_before=moments[2]) == newest[1:3]
    assert await subjects(time_from=moments[2], time_before=moments[0]) == []
    page = await listed(office, time_from=moments[0], page_size=1)
    rest = await listed(office, time_from=moments[0], page_token=page.next_page_token)
    assert [r.subject_id for r in rest.records] == newest[1:3]


@pytest.mark.parametrize("moment", ["yesterday", "2026-02-30T00:00:00Z"])
async def test_a_moment_that_is_none_is_refused_by_field(office: Any, moment: str) -> None:
    refused = await office.refused(
        office.audit.ListAuditRecords, audit_pb2.ListAuditRecordsRequest(time_from=moment)
    )
    assert (refused["code"], refused["field"]) == ("INVALID_ARGUMENT", "time_from")


async def test_another_merchant_s_records_are_not_shown(office: Any) -> None:
    await make(office, 1)
    assert not (await listed(office, OTHER_MERCHANT)).records


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'nobody'", "DELETE FROM audit"])
async def test_no_record_is_ever_changed_or_removed(office: Any, statement: str) -> None:
    await make(office, 1)
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        await office.story.store.write(lambda connection: connection.execute(statement))
    assert len((await listed(office)).records) == 1


async def test_a_record_stands_or_falls_with_its_change(office: Any) -> None:
    record = record_of_work(
        "recovery", DEMO_MERCHANT.merchant_id, False, "x", {}, {"a": 1}, office.story.clock()
    )

    def work(connection: sqlite3.Connection) -> None:
        append_audit(connection, record)
        raise RuntimeError("the change is refused")

    with pytest.raises(RuntimeError):
        await office.story.store.write(work)
    assert not (await listed(office)).records
    await office.story.store.write(
        lambda connection: append_audit(connection, replace(record, subject_id="y"))
    )
    (stored,) = (await listed(office)).records
    assert (stored.actor, stored.subject_id) == ("system:recovery", "y")


def test_only_what_differs_is_told_and_long_texts_are_cut() -> None:
    before = {"same": 1, "gone": "x", "flag": True}
    after = {"same": 1, "new": "y" * 1000, "flag": False}
    assert [(c.field, c.before, c.after) for c in changes_between(before, after)] == [
        ("flag", "true", "false"),
        ("gone", "x", ""),
        ("new", "", "y" * VALUE_LETTERS_MAX),
    ]
