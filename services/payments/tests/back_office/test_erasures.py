from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from smartpay.payments.v1 import customers_pb2, instruments_pb2, payments_pb2
from smartpay.type.v1 import instrument_pb2
from smartpay_chassis.testing import DEMO_ACCOUNTS, OTHER_MERCHANT
from smartpay_payments.domain.customers import TOMBSTONE
from smartpay_payments.domain.payment import Status

C = customers_pb2
PERSONAL = {
    "customer_id": "zoe-7",
    "device_id": "phone-of-zoe",
    "ip_address": "203.0.113.77",
    "country": "MT",
    "description": "Zoe's flowers",
    "metadata": {"greeting": "Dear Zoe"},
}
TRACES = ("zoe", "Zoe", "203.0.113.77")


async def erase(office: Any, key: str = "e", customer_id: str = "zoe-7", **more: Any) -> Any:
    response = await office.ask(
        office.customers.CreateErasure,
        C.CreateErasureRequest(customer_id=customer_id),
        key,
        **more,
    )
    return response.erasure


async def erasure(office: Any, made: Any) -> Any:
    request = C.GetErasureRequest(erasure_id=made.erasure_id)
    return (await office.ask(office.customers.GetErasure, request)).erasure


async def test_an_erasure_keeps_the_books_and_nothing_personal(office: Any) -> None:
    await office.ask(
        office.customers.CreateCustomer,
        C.CreateCustomerRequest(customer_id="zoe-7", email="zoe@example.com", name="Zoe"),
        "k",
    )
    token = instrument_pb2.ProcessorToken(processor_account_id=DEMO_ACCOUNTS[0], token="pm_zoe")
    instrument = instrument_pb2.Instrument(tokens=[token])
    await office.ask(
        office.instruments.CreateInstrument,
        instruments_pb2.CreateInstrumentRequest(customer_id="zoe-7", instrument=instrument),
        "i",
    )
    paid = await office.story.create(**PERSONAL, merchant_order_id="order-1")
    await office.story.give_back(paid)
    before = await office.story.read(paid)
    books = await office.story.balance(paid)

    asked = await erase(office)
    assert asked.state == C.Erasure.STATE_RUNNING
    await office.eraser.round()

    done = await erasure(office, asked)
    assert (done.state, done.erased_payments) == (C.Erasure.STATE_DONE, 1)
    everything = await office.tables()
    assert [trace for trace in TRACES if trace in everything] == []
    after = await office.story.read(paid)
    assert (
        replace(
            after,
            order=before.order,
            version=before.version,
            event_type=before.event_type,
            update_time=before.update_time,
        )
        == before
    )
    assert after.order.merchant_order_id == "order-1"
    assert after.order.metadata == {"greeting": TOMBSTONE}
    assert (after.order.country, after.order.ip_address) == ("", "")
    assert await office.story.balance(paid) == books
    assert not office.vault.payers


async def test_readers_of_the_log_hear_of_it_and_old_events_are_erased_too(office: Any) -> None:
    await office.story.create(**PERSONAL)
    seen = len(await office.log()) - 1
    await erase(office)
    await office.eraser.round()
    log = await office.log()
    assert len(log) == seen + 3
    assert log[-3].event.type == "smartpay.payment.erased.v1"
    for step in log[:-2]:
        assert step.event.payment.customer_id == TOMBSTONE
        assert step.event.device_id == TOMBSTONE
        assert step.event.ip_address == ""


async def test_its_end_tells_others_whom_to_forget_without_naming_them(office: Any) -> None:
    asked = await erase(office)
    await office.eraser.round()
    (step, _) = await office.log()
    event = step.customer_event
    assert not step.HasField("event")
    assert (event.type, event.subject) == ("smartpay.customer.erased.v1", asked.erasure_id)
    assert event.id == asked.erasure_id.replace("era_", "evt_")
    assert (event.merchant_id, event.livemode, event.sequence) == (*tenant(office), 1)
    assert event.source == "smartpay/payments/d1"
    lines = f"{event.merchant_id}\ntest\nzoe-7"
    assert event.customer_key == hashlib.sha256(lines.encode()).hexdigest()
    assert [e.payment for e in await office.story.payments.events_after(0, 10)] == []
    await office.eraser.round()
    assert len(await office.log()) == 2, "an end is told once"


async def test_watchers_who_wait_hear_of_an_erasure_at_once(office: Any) -> None:
    await erase(office)
    waiting = office.story.payments.next_commit()
    await office.eraser.round()
    assert waiting.is_set()


async def test_a_payment_on_its_way_is_waited_for(office: Any) -> None:
    office.story.processor.script = ["lost_before"]
    open_one = await office.story.create(**PERSONAL)
    asked = await erase(office)
    await office.eraser.round()
    assert (await erasure(office, asked)).state == C.Erasure.STATE_RUNNING
    assert (await office.story.read(open_one)).order.customer_id == "zoe-7"

    await office.story.recover()
    await office.eraser.round()

    assert (await office.story.read(open_one)).status is Status.SUCCEEDED
    assert (await erasure(office, asked)).state == C.Erasure.STATE_DONE
    assert "zoe" not in await office.tables()


async def test_a_processor_that_does_not_answer_is_asked_again(office: Any) -> None:
    customer = await office.ask(
        office.customers.CreateCustomer, C.CreateCustomerRequest(customer_id="zoe-7"), "k"
    )
    held = await office.parts.store.get(*tenant(office), customer.customer.customer_id)
    await office.parts.store.save(
        replace(held, payers={DEMO_ACCOUNTS[0]: "p_1"}, version=held.version + 1)
    )
    asked = await erase(office)
    office.vault.script = ["lost_before"]
    await office.eraser.round()
    assert (await erasure(office, asked)).state == C.Erasure.STATE_RUNNING
    await office.eraser.round()
    assert (await erasure(office, asked)).state == C.Erasure.STATE_DONE


def tenant(office: Any) -> tuple[str, bool]:
    draft = office.story.draft()
    return draft.merchant_id, draft.livemode


async def test_whenever_the_process_dies_the_next_one_finishes(office: Any) -> None:
    """Dies at each write of the erasure in turn; what is left is never less than before."""
    for death in range(12):
        for number in range(3):
            await office.story.create(f"{death}-{number}", **PERSONAL)
        asked = await erase(office, f"e{death}")
        write, left = office.story.store.write, death

        async def dying_write(work: Any, write: Any = write) -> Any:
            nonlocal left
            if left == 0:
                raise RuntimeError("killed")
            left -= 1
            return await write(work)

        office.story.store.write = dying_write
        await office.eraser.round()
        office.story.store.write = write
        await office.eraser.round()

        done = await erasure(office, asked)
        assert done.state == C.Erasure.STATE_DONE, death
        everything = await office.tables()
        assert [trace for trace in TRACES if trace in everything] == [], death


async def test_a_refund_that_races_an_erasure_is_neither_lost_nor_erased_half(
    office: Any,
) -> None:
    paid = await office.story.create(**PERSONAL)
    erase_events = office.parts.store.erase_events

    async def racing(payment_id: str, after: int) -> int:
        office.parts.store.erase_events = erase_events
        await office.story.give_back(paid)
        return int(await erase_events(payment_id, after))

    office.parts.store.erase_events = racing
    asked = await erase(office)
    await office.eraser.round()
    await office.eraser.round()
    after = await office.story.read(paid)
    assert after.refunded_minor == 500
    assert (await erasure(office, asked)).state == C.Erasure.STATE_DONE
    assert "zoe" not in await office.tables()


async def test_a_repeated_erasure_is_the_same_one_and_a_second_finds_nothing(office: Any) -> None:
    await office.story.create(**PERSONAL)
    asked = await erase(office)
    await office.eraser.round()
    response, headers = await office.headers(
        office.customers.CreateErasure, C.CreateErasureRequest(customer_id="zoe-7"), "e"
    )
    assert response.erasure == await erasure(office, asked)
    assert headers["idempotent-replayed"] == "true"
    assert headers["x-http-status"] == "200"
    reused = await office.refused(
        office.customers.CreateErasure, C.CreateErasureRequest(customer_id="bob"), "e"
    )
    assert reused["reason"] == "IDEMPOTENCY_KEY_REUSED"
    second = await erase(office, "e2")
    await office.eraser.round()
    assert (await erasure(office, second)).erased_payments == 0


async def test_there_is_an_end_even_when_nobody_is_found(office: Any) -> None:
    asked = await erase(office, customer_id="nobody")
    await office.eraser.round()
    assert (await erasure(office, asked)).state == C.Erasure.STATE_DONE


async def test_what_stands_for_the_erased_is_nobody_to_be_erased(office: Any) -> None:
    refused = await office.refused(
        office.customers.CreateErasure, C.CreateErasureRequest(customer_id=TOMBSTONE), "e"
    )
    assert (refused["reason"], refused["field"]) == ("FIELD_INVALID", "customer_id")


async def test_nobody_erases_another_merchant_s_customer(office: Any) -> None:
    paid = await office.story.create(**PERSONAL)
    asked = await erase(office, merchant=OTHER_MERCHANT)
    await office.eraser.round()
    assert (await office.story.read(paid)).order.customer_id == "zoe-7"
    refused = await office.refused(
        office.customers.GetErasure, C.GetErasureRequest(erasure_id=asked.erasure_id)
    )
    assert (refused["code"], refused["reason"]) == ("NOT_FOUND", "ERASURE_NOT_FOUND")


async def test_the_trail_tells_who_asked_and_when_it_ended_without_a_name(office: Any) -> None:
    await office.story.create(**PERSONAL)
    asked = await erase(office)
    await office.eraser.round()
    begun, ended = await office.records(subject_id=asked.erasure_id)
    assert (begun.actor, begun.action) == ("user", "CustomersService.CreateErasure")
    assert (ended.actor, ended.action) == ("system:erasure", "erasure")
    assert ("erased_payments", "", "1") in [(c.field, c.before, c.after) for c in ended.changes]


async def test_an_erased_payment_is_still_read_listed_and_replayed(office: Any) -> None:
    paid = await office.story.create(**PERSONAL)
    await erase(office)
    await office.eraser.round()
    request = payments_pb2.GetPaymentRequest(payment_id=paid.payment_id)
    stored = await office.story.read(paid)
    assert stored.captured_minor == 1999
    listed = await office.ask(office.payments.ListPayments, payments_pb2.ListPaymentsRequest())
    assert [p.payment_id for p in listed.payments] == [request.payment_id]
    assert listed.payments[0].customer_id == TOMBSTONE
