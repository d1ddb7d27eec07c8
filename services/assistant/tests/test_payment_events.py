from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent, Refund
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.payments.v1.payments_pb2_grpc import (
    PaymentsServiceServicer,
    add_PaymentsServiceServicer_to_server,
)
from smartpay_assistant.adapters.payment_events import follow_payments, record_of
from smartpay_assistant.adapters.sqlite_index import SqlitePaymentIndex
from smartpay_assistant.domain.payment import PaymentRecord
from smartpay_assistant.testing import ACCOUNTS, DEMO, HOSTILE, History, event_of, routed

FIRST, SECOND = list(ACCOUNTS)[:2]


class Log(PaymentsServiceServicer):
    """Payments' own log: gives what comes after a cursor, then says that this was all."""

    def __init__(self, events: list[PaymentEvent], forgotten: bool = False) -> None:
        self.events = events
        self.forgotten = forgotten
        self.asked: list[str] = []

    async def Watch(
        self, request: WatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[WatchResponse]:
        self.asked.append(request.cursor)
        if self.forgotten and request.cursor:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too old")
        start = int(request.cursor or 0)
        for number, event in enumerate(self.events[start:], start=start + 1):
            yield WatchResponse(event=event, cursor=str(number))
        yield WatchResponse(cursor=str(len(self.events)), caught_up=True)
        await asyncio.Event().wait()


class Observed:
    """The index, and a sign when the end of the log was reached."""

    def __init__(self, index: SqlitePaymentIndex) -> None:
        self.index = index
        self.caught_up = asyncio.Event()

    async def cursor(self) -> str:
        return await self.index.cursor()

    async def apply(self, record: PaymentRecord | None, cursor: str, caught_up: bool) -> None:
        await self.index.apply(record, cursor, caught_up)
        if caught_up:
            self.caught_up.set()


async def followed(log: Log, index: SqlitePaymentIndex, folder: Path) -> None:
    """Follows a log until its end over a real channel."""
    server = grpc.aio.server()
    add_PaymentsServiceServicer_to_server(log, server)
    server.add_insecure_port(f"unix:{folder}/s")
    await server.start()
    observed = Observed(index)
    async with grpc.aio.insecure_channel(f"unix:{folder}/s") as channel:
        following = asyncio.create_task(follow_payments(channel, observed))
        await observed.caught_up.wait()
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
    await server.stop(None)


async def test_events_are_followed_from_the_stored_cursor(
    index: SqlitePaymentIndex, tmp_path: Path
) -> None:
    history = History(1)
    first, second = history.payment("succeeded"), history.payment("failed")
    log = Log([event_of(first)])  # type: ignore[abstract]
    await followed(log, index, tmp_path)
    log.events.append(event_of(second))
    await followed(log, index, tmp_path)

    assert log.asked == ["", "1"]
    assert await index.ready()
    for payment in (first, second):
        assert await index.payment(DEMO, payment.payment_id) is not None


async def test_a_forgotten_cursor_starts_over_and_loses_nothing(
    index: SqlitePaymentIndex, tmp_path: Path
) -> None:
    payment = History(2).payment("succeeded")
    await index.apply(record_of(event_of(payment, 5)), "gone", True)
    log = Log([event_of(payment, 4)], forgotten=True)  # type: ignore[abstract]

    await followed(log, index, tmp_path)

    assert log.asked == ["gone", ""]
    record = await index.payment(DEMO, payment.payment_id)
    assert record is not None
    assert record.sequence == 5


def test_an_event_becomes_what_explains_the_payment() -> None:
    payment = routed(History(3).payment("succeeded"), FIRST, SECOND)
    del payment.attempts[:], payment.refunds[:]
    payment.attempts.add(
        processor_account_id=FIRST,
        processor=ACCOUNTS[FIRST],
        status=Attempt.STATUS_DECLINED,
        decline_code="insufficient_funds",
        soft_decline=True,
    )
    payment.attempts.add(
        processor_account_id=SECOND, processor=ACCOUNTS[SECOND], status=Attempt.STATUS_SUCCEEDED
    )
    payment.refunds.add(
        refund_id="ref_0", status=Refund.STATUS_SUCCEEDED, reason=Refund.REASON_OVERPAYMENT
    )
    payment.refunds.add(refund_id="ref_1", status=Refund.STATUS_SUCCEEDED)

    record = record_of(event_of(payment))

    assert [(a.status, a.decline_code, a.soft_decline) for a in record.attempts] == [
        ("declined", "insufficient_funds", True),
        ("succeeded", "", False),
    ]
    assert record.deciding_attempt == record.attempts[1]
    assert record.route is not None
    assert [ranked.processor_account_id for ranked in record.route.ranking] == [FIRST, SECOND]
    assert record.fraud is not None
    assert (record.fraud.verdict, record.fraud.score) == ("allow", 0.125)
    assert [(r.refund_id, r.status) for r in record.refunds] == [("ref_1", "succeeded")]


def test_a_payment_without_assessment_and_route_has_none() -> None:
    record = record_of(event_of(Payment(payment_id="pay_1")))

    assert (record.fraud, record.route, record.deciding_attempt) == (None, None, None)


def test_a_status_that_is_newer_than_this_service_reads_as_unknown() -> None:
    payment = History(4).payment("succeeded")
    payment.status = 99  # type: ignore[assignment]

    assert record_of(event_of(payment)).status == "unknown"


def test_sentences_of_services_are_kept_to_one_short_printable_line() -> None:
    payment = History(5).payment("blocked")
    payment.fraud.reasons[0].message = "first\n\nsecond\u202e line " + "x" * 1000

    record = record_of(event_of(payment))

    assert record.fraud is not None
    (reason,) = record.fraud.reasons
    assert reason.startswith("first second line x")
    assert len(reason) == 300


def test_codes_that_read_like_sentences_are_not_kept() -> None:
    payment = History(6).payment("failed")
    payment.status_reason = HOSTILE

    assert record_of(event_of(payment)).reason == "unrecognised"
