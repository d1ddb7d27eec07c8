"""Lists decide before rules and model do, from the next score on, for their merchant alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc, lists_pb2, lists_pb2_grpc
from smartpay.fraud.v1.fraud_pb2 import Assessment
from smartpay.fraud.v1.lists_pb2 import ScreeningEntry, ScreeningList
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import OTHER_MERCHANT, as_merchant, error_info
from smartpay_fraud.adapters.sqlite_audit import SqliteAudit
from smartpay_fraud.adapters.sqlite_rulebook import SqliteRulebook
from smartpay_fraud.domain.audit import AuditRecord
from smartpay_fraud.domain.lists import Entry, Kind, Listing, spelt
from smartpay_fraud.domain.lists import ScreeningList as Held
from smartpay_fraud.domain.transaction import Transaction

BLOCK, ALLOW, REVIEW = (
    Assessment.VERDICT_BLOCK,
    Assessment.VERDICT_ALLOW,
    Assessment.VERDICT_REVIEW,
)


def a_listing(kind: Kind, *values: str, expire_ms: int | None = None) -> Listing:
    listing = Listing(Held("lst", "mer", False, "name", kind, None, "", 0, 0))
    listing.add([Entry(spelt(kind, value), expire_ms, "", 0, "") for value in values])
    return listing


def a_transaction(**changes: Any) -> Transaction:
    return Transaction("mer", False, "t", 100, "USD", **changes)


@pytest.mark.parametrize(
    ("kind", "entry", "on", "off"),
    [
        (Kind.CUSTOMER, "ada", {"customer_id": "ada"}, {"customer_id": "bob"}),
        (Kind.INSTRUMENT, "card", {"instrument_id": "card"}, {"instrument_id": ""}),
        (Kind.DEVICE, "phone", {"device_id": "phone"}, {"device_id": "Phone"}),
        (Kind.TERMINAL, "shop", {"terminal_id": "shop"}, {"customer_id": "shop"}),
        (Kind.COUNTRY, "DE", {"country": "DE"}, {"country": "FR"}),
        (Kind.CATEGORY, "5732", {"merchant_category": "5732"}, {"merchant_category": "5733"}),
        (Kind.NETWORK, "203.0.113.7", {"ip_address": "203.0.113.7"}, {"ip_address": "203.0.113.8"}),
        (
            Kind.NETWORK,
            "203.0.113.77/24",
            {"ip_address": "203.0.113.255"},
            {"ip_address": "203.0.114.0"},
        ),
        (Kind.NETWORK, "203.0.113.0/24", {"ip_address": "::ffff:203.0.113.9"}, {"ip_address": "x"}),
        (
            Kind.NETWORK,
            "::ffff:203.0.113.0/120",
            {"ip_address": "203.0.113.9"},
            {"ip_address": "::9"},
        ),
        (
            Kind.NETWORK,
            "2001:db8::/32",
            {"ip_address": "2001:db8:7::1"},
            {"ip_address": "2001:db9::1"},
        ),
    ],
)
def test_a_list_holds_what_it_names(
    kind: Kind, entry: str, on: dict[str, str], off: dict[str, str]
) -> None:
    listing = a_listing(kind, entry)
    assert listing.holds(a_transaction(**on), 0)
    assert not listing.holds(a_transaction(**off), 0)
    assert not listing.holds(a_transaction(), 0), "what is not told is on no list"
    listing.discard([spelt(kind, entry)])
    assert not listing.holds(a_transaction(**on), 0)


def test_an_entry_counts_until_it_expires() -> None:
    for kind, value in ((Kind.CUSTOMER, "ada"), (Kind.NETWORK, "203.0.113.7")):
        listing = a_listing(kind, value, expire_ms=1_000)
        transaction = a_transaction(**{kind.value: value})
        assert listing.holds(transaction, 999)
        assert not listing.holds(transaction, 1_000)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Kind.COUNTRY, "de"),
        (Kind.COUNTRY, "DEU"),
        (Kind.CATEGORY, "57"),
        (Kind.NETWORK, "nowhere"),
        (Kind.NETWORK, "0.0.0.0/0"),
        (Kind.NETWORK, "16.0.0.0/7"),
        (Kind.NETWORK, "::/3"),
    ],
)
def test_what_a_list_cant_hold_is_refused(kind: Kind, value: str) -> None:
    with pytest.raises(ValueError, match=r"a (country|merchant category|network)"):
        spelt(kind, value)


# ---- through the contract


def a_request(transaction_id: str, **changes: Any) -> fraud_pb2.ScoreRequest:
    amount = Money(minor_units=1_999, currency_code="USD")
    return fraud_pb2.ScoreRequest(transaction_id=transaction_id, amount=amount, **changes)


async def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_info(caught.value)


@pytest.fixture
def lists(desk: Any) -> Any:
    return desk.stub(lists_pb2_grpc.ListsServiceStub)


@pytest.fixture
def score(desk: Any) -> Callable[..., Any]:
    stub = desk.stub(fraud_pb2_grpc.FraudServiceStub)

    async def ask(transaction_id: str, *, metadata: Any = None, **changes: Any) -> Any:
        request = a_request(transaction_id, **changes)
        return (await stub.Score(request, metadata=metadata or as_merchant())).assessment

    return ask


def thieves(**changes: Any) -> lists_pb2.CreateScreeningListRequest:
    fields = {"name": "thieves", "kind": ScreeningList.KIND_CUSTOMER, "verdict": BLOCK, **changes}
    return lists_pb2.CreateScreeningListRequest(**fields)


async def made(lists: Any, **changes: Any) -> Any:
    response = await lists.CreateScreeningList(thieves(**changes), metadata=as_merchant())
    return response.list


async def put(lists: Any, list_id: str, *values: str) -> Any:
    entries = [ScreeningEntry(value=value) for value in values]
    request = lists_pb2.AddScreeningEntriesRequest(list_id=list_id, entries=entries)
    return (await lists.AddScreeningEntries(request, metadata=as_merchant())).list


async def test_the_next_score_sees_an_entry_and_its_removal(lists: Any, score: Any) -> None:
    held = await made(lists)
    assert (await score("t-1", customer_id="oscar")).verdict == ALLOW
    assert (await put(lists, held.list_id, "oscar", "mallory")).entry_count == 2
    blocked = await score("t-2", customer_id="oscar")
    assert blocked.verdict == BLOCK
    assert list(blocked.matched_list_ids) == [held.list_id]
    assert blocked.reasons[0].code == "LIST_BLOCK"
    assert "thieves" in blocked.reasons[0].message
    assert "oscar" not in blocked.reasons[0].message
    assert blocked.score < 1, "a list decides, it forges no score"
    request = lists_pb2.RemoveScreeningEntriesRequest(
        list_id=held.list_id, values=["oscar", "none"]
    )
    changed = await lists.RemoveScreeningEntries(request, metadata=as_merchant())
    assert changed.list.entry_count == 1
    assert (await score("t-3", customer_id="oscar")).verdict == ALLOW


async def test_a_block_outweighs_an_allowance_and_an_allowance_the_rules(
    lists: Any, score: Any
) -> None:
    friends = await made(lists, name="friends", verdict=ALLOW)
    await put(lists, friends.list_id, "ada")
    tester = {"customer_id": "ada", "device_id": "till"}
    for number in range(9):  # card after card on one device breaks a hard limit
        card = f"card-{number}"
        told = await score(f"t-{number}", instrument_fingerprint=card, **tester)
        assert told.verdict == ALLOW
        assert told.reasons[0].code == "LIST_ALLOW"
    tills = await made(lists, name="tills", kind=ScreeningList.KIND_DEVICE)
    await put(lists, tills.list_id, "till")
    blocked = await score("t-last", **tester)
    assert blocked.verdict == BLOCK
    assert set(blocked.matched_list_ids) == {friends.list_id, tills.list_id}


async def test_a_list_that_asks_for_a_review_lets_rules_block(lists: Any, score: Any) -> None:
    held = await made(lists, name="odd", verdict=REVIEW, kind=ScreeningList.KIND_DEVICE)
    await put(lists, held.list_id, "till")
    verdicts = [
        (await score(f"t-{n}", device_id="till", instrument_fingerprint=f"card-{n}")).verdict
        for n in range(9)
    ]
    assert verdicts[0] == REVIEW
    assert verdicts[-1] == BLOCK


async def test_a_repeated_list_is_the_same_and_another_of_its_name_is_refused(lists: Any) -> None:
    assert await made(lists) == await made(lists)
    error = await refused(lists.CreateScreeningList(thieves(verdict=ALLOW), metadata=as_merchant()))
    assert (error["code"], error["reason"]) == ("ALREADY_EXISTS", "LIST_EXISTS")


async def test_one_bad_value_adds_nothing(lists: Any) -> None:
    held = await made(lists, kind=ScreeningList.KIND_COUNTRY)
    entries = [ScreeningEntry(value="DE"), ScreeningEntry(value="Germany")]
    request = lists_pb2.AddScreeningEntriesRequest(list_id=held.list_id, entries=entries)
    error = await refused(lists.AddScreeningEntries(request, metadata=as_merchant()))
    assert (error["reason"], error["field"]) == ("ENTRY_INVALID", "entries[1].value")
    shown = await lists.GetScreeningList(
        lists_pb2.GetScreeningListRequest(list_id=held.list_id), metadata=as_merchant()
    )
    assert shown.list.entry_count == 0


@pytest.mark.parametrize("seconds", [-1, 253_402_300_800, 2**62])
async def test_an_expiry_outside_every_calendar_is_refused(lists: Any, seconds: int) -> None:
    held = await made(lists)
    entry = ScreeningEntry(value="oscar", expire_time=Timestamp(seconds=seconds))
    request = lists_pb2.AddScreeningEntriesRequest(list_id=held.list_id, entries=[entry])
    error = await refused(lists.AddScreeningEntries(request, metadata=as_merchant()))
    assert (error["reason"], error["field"]) == ("FIELD_INVALID", "entries[0].expire_time")


async def test_entries_are_paged_by_value_without_expired_ones(lists: Any, desk: Any) -> None:
    held = await made(lists)
    await put(lists, held.list_id, *(f"c-{n}" for n in range(5)))
    soon = Timestamp()
    soon.FromMilliseconds(desk.now_ms() + 60_000)
    entry = ScreeningEntry(value="c-2", expire_time=soon, note="a hunch")
    request = lists_pb2.AddScreeningEntriesRequest(list_id=held.list_id, entries=[entry])
    await lists.AddScreeningEntries(request, metadata=as_merchant())
    desk.clock.advance(minutes=2)
    seen, token = [], ""
    while True:
        page = await lists.ListScreeningEntries(
            lists_pb2.ListScreeningEntriesRequest(
                list_id=held.list_id, page_size=2, page_token=token
            ),
            metadata=as_merchant(),
        )
        seen += [entry.value for entry in page.entries]
        assert all(entry.create_actor == "user" for entry in page.entries)
        token = page.next_page_token
        if not token:
            break
    assert seen == ["c-0", "c-1", "c-3", "c-4"]


async def test_another_merchant_finds_no_list_and_is_not_judged_by_it(
    lists: Any, score: Any
) -> None:
    held = await made(lists)
    await put(lists, held.list_id, "oscar")
    stranger = as_merchant(OTHER_MERCHANT)
    for call, request in (
        (lists.GetScreeningList, lists_pb2.GetScreeningListRequest(list_id=held.list_id)),
        (lists.DeleteScreeningList, lists_pb2.DeleteScreeningListRequest(list_id=held.list_id)),
        (lists.ListScreeningEntries, lists_pb2.ListScreeningEntriesRequest(list_id=held.list_id)),
        (
            lists.RemoveScreeningEntries,
            lists_pb2.RemoveScreeningEntriesRequest(list_id=held.list_id, values=["oscar"]),
        ),
    ):
        error = await refused(call(request, metadata=stranger))
        assert (error["code"], error["reason"]) == ("NOT_FOUND", "LIST_NOT_FOUND")
    page = await lists.ListScreeningLists(lists_pb2.ListScreeningListsRequest(), metadata=stranger)
    assert list(page.lists) == []
    assert (await score("t-1", customer_id="oscar", metadata=stranger)).verdict == ALLOW


async def test_lists_survive_a_restart(open_desk: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    async with open_desk(path) as first:
        stub = first.stub(lists_pb2_grpc.ListsServiceStub)
        held = await made(stub, kind=ScreeningList.KIND_NETWORK)
        await put(stub, held.list_id, "203.0.113.0/24")
        gone = await made(stub, name="gone")
        request = lists_pb2.DeleteScreeningListRequest(list_id=gone.list_id)
        await stub.DeleteScreeningList(request, metadata=as_merchant())
    async with open_desk(path) as second:
        fraud = second.stub(fraud_pb2_grpc.FraudServiceStub)
        told = await fraud.Score(a_request("t", ip_address="203.0.113.9"), metadata=as_merchant())
        assert told.assessment.verdict == BLOCK
        page = await second.stub(lists_pb2_grpc.ListsServiceStub).ListScreeningLists(
            lists_pb2.ListScreeningListsRequest(), metadata=as_merchant()
        )
        assert [each.name for each in page.lists] == ["thieves"]


async def test_a_merchant_has_so_many_lists_and_no_more(
    lists: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smartpay_fraud.adapters.sqlite_rulebook.LISTS_MAX", 2)
    monkeypatch.setattr("smartpay_fraud.adapters.sqlite_rulebook.ENTRIES_MAX", 3)
    held = [await made(lists, name=f"list {n}") for n in range(2)]
    error = await refused(lists.CreateScreeningList(thieves(), metadata=as_merchant()))
    assert (error["reason"], error["limit"]) == ("LIMIT_REACHED", "2")
    await put(lists, held[0].list_id, "a", "b", "c")
    entries = [ScreeningEntry(value="d")]
    request = lists_pb2.AddScreeningEntriesRequest(list_id=held[0].list_id, entries=entries)
    error = await refused(lists.AddScreeningEntries(request, metadata=as_merchant()))
    assert error["reason"] == "LIMIT_REACHED"
    assert (await put(lists, held[0].list_id, "a")).entry_count == 3


async def test_expired_entries_make_room_for_new_ones(lists: Any, desk: Any) -> None:
    held = await made(lists)
    soon = Timestamp()
    soon.FromMilliseconds(desk.now_ms() + 60_000)
    entry = ScreeningEntry(value="oscar", expire_time=soon)
    request = lists_pb2.AddScreeningEntriesRequest(list_id=held.list_id, entries=[entry])
    assert (await lists.AddScreeningEntries(request, metadata=as_merchant())).list.entry_count == 1
    desk.clock.advance(minutes=2)
    assert (await put(lists, held.list_id, "eve")).entry_count == 1
    book = desk.rulebook.book(held_by(desk), False)
    assert len(book.listings[held.list_id]) == 1


def held_by(desk: Any) -> str:
    (merchant_id, _) = next(iter(desk.rulebook._books))
    return str(merchant_id)


async def test_the_trail_counts_entries_and_names_none(lists: Any, desk: Any) -> None:
    held = await made(lists)
    await put(lists, held.list_id, "oscar", "eve")
    request = lists_pb2.RemoveScreeningEntriesRequest(list_id=held.list_id, values=["eve"])
    await lists.RemoveScreeningEntries(request, metadata=as_merchant())
    records, _ = await SqliteAudit(desk.history.store).page(
        held_by(desk), False, "", 9, subject_id=held.list_id
    )
    told = [(change.field, change.after) for record in records for change in record.changes]
    assert told[:2] == [("removed", "1"), ("added", "2")]


async def test_a_change_whose_caller_went_away_is_in_force_all_the_same(
    lists: Any, score: Any, desk: Any
) -> None:
    held = await made(lists)
    books = SqliteRulebook(desk.history.store, desk.rulebook)
    screening = await books.find_list(held_by(desk), False, held.list_id)
    record = AuditRecord("aud_1", held_by(desk), False, desk.now_ms(), "ada", "x", "x", "", ())
    adding = asyncio.create_task(
        books.add_entries(screening, [Entry("oscar", None, "", 0, "ada")], record)
    )
    await asyncio.sleep(0)
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    await desk.history.store.write(lambda connection: None)  # whatever was queued is stored by now
    shown = await lists.GetScreeningList(
        lists_pb2.GetScreeningListRequest(list_id=held.list_id), metadata=as_merchant()
    )
    assert shown.list.entry_count == 1
    assert (await score("t", customer_id="oscar")).verdict == BLOCK
