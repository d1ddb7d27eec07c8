"""Speaks the contract of the audit trail, and names who makes a change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from smartpay.router.v1 import audit_pb2, audit_pb2_grpc
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import new
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_router.domain.audit import AuditRecord, changes_between
from smartpay_router.messages import timestamp_of_ms

Context = object  # gRPC's own context is the interceptors' business

_FIRST = 2**62  # before it, every number of a record


def actor_of(call: Call) -> str:
    """Names who is behind a call: the token's subject, or the calling service."""
    return call.subject or f"service:{call.caller}"


def record_of_call(
    call: Call,
    subject_id: str,
    before: Mapping[str, object],
    after: Mapping[str, object],
    now_ms: int,
) -> AuditRecord:
    """Makes the record of a change that the call being served is about to store."""
    return AuditRecord(
        audit_id=new("aud", call.merchant_id[4:6]),
        merchant_id=call.merchant_id,
        livemode=call.livemode,
        time_ms=now_ms,
        actor=actor_of(call),
        action=call.method.rpartition(".")[2].replace("/", "."),
        subject_id=subject_id,
        request_id=call.request_id,
        changes=changes_between(before, after),
    )


class AuditReader(Protocol):
    """Reads the trail."""

    async def page_of_records(
        self,
        merchant_id: str,
        livemode: bool,
        before: int,
        size: int,
        *,
        subject_id: str = "",
        actor: str = "",
        action: str = "",
    ) -> tuple[list[AuditRecord], int]:
        """Reads a page, newest first, and the number to go on before; 0 at the end."""
        ...


class RoutingAuditServicer(audit_pb2_grpc.RoutingAuditServiceServicer):
    """Serves the audit trail of the caller's merchant."""

    def __init__(self, audit: AuditReader) -> None:
        self._audit = audit

    async def ListRoutingAuditRecords(
        self, request: audit_pb2.ListRoutingAuditRecordsRequest, context: Context
    ) -> audit_pb2.ListRoutingAuditRecordsResponse:
        """Lists the records, newest first."""
        call = current_call()
        filters = (request.subject_id, request.actor, request.action)
        bound_to = f"routing audit {call.merchant_id} {call.livemode} {filters}"
        before = _FIRST
        if request.page_token:
            before = int(decode_page_token(request.page_token, bound_to=bound_to))
        records, position = await self._audit.page_of_records(
            call.merchant_id,
            call.livemode,
            before,
            page_size(request.page_size),
            subject_id=request.subject_id,
            actor=request.actor,
            action=request.action,
        )
        return audit_pb2.ListRoutingAuditRecordsResponse(
            records=map(_record_message, records),
            next_page_token=encode_page_token(str(position), bound_to=bound_to) if position else "",
        )


def _record_message(record: AuditRecord) -> audit_pb2.RoutingAuditRecord:
    return audit_pb2.RoutingAuditRecord(
        audit_id=record.audit_id,
        time=timestamp_of_ms(record.time_ms),
        actor=record.actor,
        action=record.action,
        subject_id=record.subject_id,
        request_id=record.request_id,
        changes=[
            audit_pb2.RoutingAuditChange(field=c.field, before=c.before, after=c.after)
            for c in record.changes
        ],
    )
