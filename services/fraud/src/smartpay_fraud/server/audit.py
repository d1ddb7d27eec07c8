"""Speaks the contract of the audit trail, and names who makes a change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from smartpay.fraud.v1 import audit_pb2, audit_pb2_grpc
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import new
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_fraud.domain.audit import AuditRecord, changes_between
from smartpay_fraud.messages import timestamp

Context = object  # gRPC's own context is the interceptors' business


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

    async def page(
        self,
        merchant_id: str,
        livemode: bool,
        after: str,
        size: int,
        *,
        subject_id: str = "",
        actor: str = "",
        action: str = "",
    ) -> tuple[list[AuditRecord], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        ...


class FraudAuditServicer(audit_pb2_grpc.FraudAuditServiceServicer):
    """Serves the audit trail of the caller's merchant."""

    def __init__(self, audit: AuditReader) -> None:
        self._audit = audit

    async def ListFraudAuditRecords(
        self, request: audit_pb2.ListFraudAuditRecordsRequest, context: Context
    ) -> audit_pb2.ListFraudAuditRecordsResponse:
        """Lists the records, newest first."""
        call = current_call()
        filters = (request.subject_id, request.actor, request.action)
        bound_to = f"fraud audit {call.merchant_id} {call.livemode} {filters}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        records, position = await self._audit.page(
            call.merchant_id,
            call.livemode,
            after,
            page_size(request.page_size),
            subject_id=request.subject_id,
            actor=request.actor,
            action=request.action,
        )
        return audit_pb2.ListFraudAuditRecordsResponse(
            records=map(record_message, records),
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )


def record_message(record: AuditRecord) -> audit_pb2.FraudAuditRecord:
    """Spells a record."""
    return audit_pb2.FraudAuditRecord(
        audit_id=record.audit_id,
        time=timestamp(record.time_ms),
        actor=record.actor,
        action=record.action,
        subject_id=record.subject_id,
        request_id=record.request_id,
        changes=[
            audit_pb2.FraudAuditChange(field=c.field, before=c.before, after=c.after)
            for c in record.changes
        ],
    )
