"""Speaks the audit contract, and names who makes a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from smartpay.payments.v1 import audit_pb2, audit_pb2_grpc
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import new
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_payments.domain.audit import AuditRecord, Witness, changes_between, facts_of
from smartpay_payments.domain.payment import Payment
from smartpay_payments.messages import timestamp
from smartpay_payments.server.payment_filters import moment_of

Context = object  # gRPC's own context is the interceptors' business


def actor_of(call: Call) -> str:
    """Names who is behind a call: the token's subject, or the calling service."""
    return call.subject or f"service:{call.caller}"


def record_of_call(
    call: Call,
    subject_id: str,
    before: Mapping[str, object],
    after: Mapping[str, object],
    time: datetime,
) -> AuditRecord:
    """Makes the record of a change that the call being served is about to store.

    Args:
        call: the call.
        subject_id: what is changed.
        before: facts before, without secrets and personal data; empty for a new thing.
        after: facts after; empty for a thing that goes.
        time: when.
    """
    return AuditRecord(
        audit_id=new("aud", call.merchant_id[4:6]),
        merchant_id=call.merchant_id,
        livemode=call.livemode,
        time=time,
        actor=actor_of(call),
        action=call.method.rpartition(".")[2].replace("/", "."),
        subject_id=subject_id,
        request_id=call.request_id,
        changes=changes_between(before, after),
    )


def record_of_work(
    work: str,
    merchant_id: str,
    livemode: bool,
    subject_id: str,
    before: Mapping[str, object],
    after: Mapping[str, object],
    time: datetime,
) -> AuditRecord:
    """Makes the record of a change by our own work, for instance "recovery"."""
    return AuditRecord(
        audit_id=new("aud", merchant_id[4:6]),
        merchant_id=merchant_id,
        livemode=livemode,
        time=time,
        actor=f"system:{work}",
        action=work,
        subject_id=subject_id,
        request_id="",
        changes=changes_between(before, after),
    )


def witness_of(call: Call, clock: Callable[[], datetime], note: str = "") -> Witness:
    """Makes whoever calls the witness of what becomes of a payment.

    Args:
        call: the call.
        clock: the time, aware.
        note: what they said of it; kept in the record.
    """

    def witness(before: Payment | None, after: Payment) -> AuditRecord:
        said = {"note": note} if note else {}
        return record_of_call(
            call, after.payment_id, facts_of(before), {**facts_of(after), **said}, clock()
        )

    return witness


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
        time_from: datetime | None = None,
        time_before: datetime | None = None,
    ) -> tuple[list[AuditRecord], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        ...


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Serves the audit trail of the caller's merchant."""

    def __init__(self, audit: AuditReader) -> None:
        self._audit = audit

    async def ListAuditRecords(
        self, request: audit_pb2.ListAuditRecordsRequest, context: Context
    ) -> audit_pb2.ListAuditRecordsResponse:
        """Lists the records, newest first."""
        call = current_call()
        filters = (
            request.subject_id,
            request.actor,
            request.action,
            request.time_from,
            request.time_before,
        )
        bound_to = f"audit {call.merchant_id} {call.livemode} {filters}"
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
            time_from=moment_of(request.time_from, "time_from"),
            time_before=moment_of(request.time_before, "time_before"),
        )
        return audit_pb2.ListAuditRecordsResponse(
            records=[_record_message(r) for r in records],
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )


def _record_message(record: AuditRecord) -> audit_pb2.AuditRecord:
    return audit_pb2.AuditRecord(
        audit_id=record.audit_id,
        time=timestamp(record.time),
        actor=record.actor,
        action=record.action,
        subject_id=record.subject_id,
        request_id=record.request_id,
        changes=[
            audit_pb2.AuditChange(field=c.field, before=c.before, after=c.after)
            for c in record.changes
        ],
    )
