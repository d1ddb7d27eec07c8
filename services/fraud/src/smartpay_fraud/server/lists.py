"""Speaks the contract of screening lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from smartpay.fraud.v1 import lists_pb2, lists_pb2_grpc
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import derive
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_fraud.domain import refusals
from smartpay_fraud.domain.audit import AuditRecord
from smartpay_fraud.domain.lists import Entry, Kind, ScreeningList, spelt
from smartpay_fraud.messages import NO_VERDICT, VERDICT_OF, VERDICTS, timestamp
from smartpay_fraud.server.audit import actor_of, record_of_call

Context = object  # gRPC's own context is the interceptors' business

_KIND = lists_pb2.ScreeningList
_KINDS = {
    _KIND.KIND_CUSTOMER: Kind.CUSTOMER,
    _KIND.KIND_INSTRUMENT: Kind.INSTRUMENT,
    _KIND.KIND_DEVICE: Kind.DEVICE,
    _KIND.KIND_NETWORK: Kind.NETWORK,
    _KIND.KIND_COUNTRY: Kind.COUNTRY,
    _KIND.KIND_TERMINAL: Kind.TERMINAL,
    _KIND.KIND_CATEGORY: Kind.CATEGORY,
}
_SECONDS_END = 253_402_300_800  # the end of the year 9999, where RFC 3339 ends
_SPELT_KINDS = {kind: spelling for spelling, kind in _KINDS.items()}


class ListStore(Protocol):
    """Keeps lists. Every change is stored with its record and then in force."""

    async def create_list(self, made: ScreeningList, record: AuditRecord) -> ScreeningList:
        """Stores a new list; answers the one that holds the name when it says the same."""
        ...

    async def find_list(self, merchant_id: str, livemode: bool, list_id: str) -> ScreeningList:
        """Reads a list; raises Refusal LIST_NOT_FOUND."""
        ...

    async def page_of_lists(
        self, merchant_id: str, livemode: bool, after: str, size: int
    ) -> tuple[list[ScreeningList], str]:
        """Reads a page by name, and the position to go on after; "" at the end."""
        ...

    async def delete_list(
        self, merchant_id: str, livemode: bool, list_id: str, record: AuditRecord
    ) -> None:
        """Removes a list and its entries."""
        ...

    async def add_entries(
        self, screening: ScreeningList, entries: Sequence[Entry], record: AuditRecord
    ) -> ScreeningList:
        """Stores entries, in the place of earlier ones; answers the list as it is then."""
        ...

    async def remove_entries(
        self, screening: ScreeningList, values: Sequence[str], record: AuditRecord
    ) -> ScreeningList:
        """Removes entries by their values; answers the list as it is then."""
        ...

    async def page_of_entries(
        self, list_id: str, after: str, size: int, now_ms: int
    ) -> tuple[list[Entry], str]:
        """Reads a page by value without expired ones, and the position to go on after."""
        ...


class ListsServicer(lists_pb2_grpc.ListsServiceServicer):
    """Serves the lists of the caller's merchant.

    Args:
        lists: keeps them.
        now_ms: the time, in milliseconds since the epoch.
    """

    def __init__(self, lists: ListStore, now_ms: Callable[[], int]) -> None:
        self._lists = lists
        self._now_ms = now_ms

    async def CreateScreeningList(
        self, request: lists_pb2.CreateScreeningListRequest, context: Context
    ) -> lists_pb2.CreateScreeningListResponse:
        """Makes a list; its id comes from its name, so that a repeat finds it."""
        call, now_ms = current_call(), self._now_ms()
        mode = "live" if call.livemode else "test"
        made = ScreeningList(
            list_id=derive("lst", call.merchant_id[4:6], call.merchant_id, mode, request.name),
            merchant_id=call.merchant_id,
            livemode=call.livemode,
            name=request.name,
            kind=_KINDS[request.kind],
            verdict=VERDICT_OF.get(request.verdict),
            description=request.description,
            create_ms=now_ms,
            update_ms=now_ms,
        )
        record = record_of_call(call, made.list_id, {}, _facts(made), now_ms)
        held = await self._lists.create_list(made, record)
        call.respond_with(http_status=201, headers={"location": f"/fraud/lists/{held.list_id}"})
        return lists_pb2.CreateScreeningListResponse(list=_list_message(held))

    async def GetScreeningList(
        self, request: lists_pb2.GetScreeningListRequest, context: Context
    ) -> lists_pb2.GetScreeningListResponse:
        """Shows a list."""
        held = await self._held(current_call(), request.list_id)
        return lists_pb2.GetScreeningListResponse(list=_list_message(held))

    async def ListScreeningLists(
        self, request: lists_pb2.ListScreeningListsRequest, context: Context
    ) -> lists_pb2.ListScreeningListsResponse:
        """Lists the lists by name."""
        call = current_call()
        bound_to = f"screening lists {call.merchant_id} {call.livemode}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        lists, position = await self._lists.page_of_lists(
            call.merchant_id, call.livemode, after, page_size(request.page_size)
        )
        return lists_pb2.ListScreeningListsResponse(
            lists=map(_list_message, lists),
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )

    async def DeleteScreeningList(
        self, request: lists_pb2.DeleteScreeningListRequest, context: Context
    ) -> lists_pb2.DeleteScreeningListResponse:
        """Removes a list."""
        call = current_call()
        held = await self._held(call, request.list_id)
        record = record_of_call(call, held.list_id, _facts(held), {}, self._now_ms())
        await self._lists.delete_list(call.merchant_id, call.livemode, held.list_id, record)
        return lists_pb2.DeleteScreeningListResponse()

    async def AddScreeningEntries(
        self, request: lists_pb2.AddScreeningEntriesRequest, context: Context
    ) -> lists_pb2.AddScreeningEntriesResponse:
        """Adds entries, all or none."""
        call, now_ms = current_call(), self._now_ms()
        held = await self._held(call, request.list_id)
        values = _spelt_values(
            held.kind, [entry.value for entry in request.entries], "entries", ".value"
        )
        entries = [
            Entry(
                value=value,
                expire_ms=_expiry(entry, number),
                note=entry.note,
                create_ms=now_ms,
                create_actor=actor_of(call),
            )
            for number, (value, entry) in enumerate(zip(values, request.entries, strict=True))
        ]
        record = record_of_call(call, held.list_id, {}, {"added": len(values)}, now_ms)
        changed = await self._lists.add_entries(held, entries, record)
        return lists_pb2.AddScreeningEntriesResponse(list=_list_message(changed))

    async def RemoveScreeningEntries(
        self, request: lists_pb2.RemoveScreeningEntriesRequest, context: Context
    ) -> lists_pb2.RemoveScreeningEntriesResponse:
        """Removes entries."""
        call, now_ms = current_call(), self._now_ms()
        held = await self._held(call, request.list_id)
        values = _spelt_values(held.kind, request.values, "values", "")
        record = record_of_call(call, held.list_id, {}, {"removed": len(values)}, now_ms)
        changed = await self._lists.remove_entries(held, values, record)
        return lists_pb2.RemoveScreeningEntriesResponse(list=_list_message(changed))

    async def ListScreeningEntries(
        self, request: lists_pb2.ListScreeningEntriesRequest, context: Context
    ) -> lists_pb2.ListScreeningEntriesResponse:
        """Lists a list's entries by value."""
        held = await self._held(current_call(), request.list_id)
        bound_to = f"screening entries {held.list_id}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        entries, position = await self._lists.page_of_entries(
            held.list_id, after, page_size(request.page_size), self._now_ms()
        )
        return lists_pb2.ListScreeningEntriesResponse(
            entries=map(_entry_message, entries),
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )

    async def _held(self, call: Call, list_id: str) -> ScreeningList:
        return await self._lists.find_list(call.merchant_id, call.livemode, list_id)


def _expiry(entry: lists_pb2.ScreeningEntry, number: int) -> int | None:
    if not entry.HasField("expire_time"):
        return None
    if not 0 <= entry.expire_time.seconds < _SECONDS_END:
        raise refusals.expiry_out_of_range(f"entries[{number}].expire_time")
    return entry.expire_time.ToMilliseconds()


def _spelt_values(kind: Kind, values: Sequence[str], field: str, part: str) -> list[str]:
    found = []
    for number, value in enumerate(values):
        try:
            found.append(spelt(kind, value))
        except ValueError as error:
            raise refusals.entry_invalid(f"{field}[{number}]{part}", str(error)) from None
    return found


def _facts(held: ScreeningList) -> dict[str, object]:
    return {
        "name": held.name,
        "kind": held.kind.name,
        "verdict": held.verdict and held.verdict.value,
        "description": held.description or None,
    }


def _list_message(held: ScreeningList) -> lists_pb2.ScreeningList:
    return lists_pb2.ScreeningList(
        list_id=held.list_id,
        name=held.name,
        kind=_SPELT_KINDS[held.kind],
        verdict=VERDICTS[held.verdict] if held.verdict else NO_VERDICT,
        description=held.description,
        entry_count=held.entry_count,
        create_time=timestamp(held.create_ms),
        update_time=timestamp(held.update_ms),
    )


def _entry_message(entry: Entry) -> lists_pb2.ScreeningEntry:
    return lists_pb2.ScreeningEntry(
        value=entry.value,
        expire_time=timestamp(entry.expire_ms) if entry.expire_ms is not None else None,
        note=entry.note,
        create_time=timestamp(entry.create_ms),
        create_actor=entry.create_actor,
    )
