from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from smartpay.payments.v1 import payment_pb2, payments_pb2
from smartpay.rewards.v1 import rewards_pb2
from smartpay_chassis.testing import (
    OTHER_MERCHANT,
    as_service,
    error_info,
)
from smartpay_payments.domain.payment import Status
from smartpay_payments.server import payments as server

P = payment_pb2.Payment
MANUAL = payment_pb2.CAPTURE_METHOD_MANUAL


async def answer(call: Any) -> tuple[Any, dict[str, str]]:
    return await call, dict(await call.initial_metadata())


async def until(condition: Any) -> None:
    """Waits for what must come."""
    while not condition():
        await asyncio.sleep(0.001)


# ---- create ----------------------------------------------------------------------------------


async def test_an_approved_payment_is_answered_201_with_its_place_and_tag(house: Any) -> None:
    response, headers = await answer(house.pay(metadata={"cart": "7"}))
    payment = response.payment
    assert payment.status == P.STATUS_SUCCEEDED
    assert payment.captured_amount.minor_units == 1999
    assert headers["x-http-status"] == "201"
    assert headers["location"] == f"/payments/{payment.payment_id}"
    assert headers["etag"] == payment.etag == '"2"'
    assert "idempotent-replayed" not in headers
    assert dict(payment.metadata) == {"cart": "7"}


async def test_a_decline_is_an_answer_not_an_error(house: Any) -> None:
    house.story.processor.script = ["hard"]
    response, headers = await answer(house.pay())
    assert (response.payment.status, response.payment.status_reason) == (
        P.STATUS_FAILED,
        "stolen_card",
    )
    assert headers["x-http-status"] == "201"


@pytest.mark.parametrize(
    ("word", "status"),
    [("action", P.STATUS_REQUIRES_ACTION), ("lost_before", P.STATUS_UNKNOWN)],
)
async def test_what_is_still_open_is_answered_202(house: Any, word: str, status: int) -> None:
    house.story.processor.script = [word]
    response, headers = await answer(house.pay())
    assert response.payment.status == status
    assert headers["x-http-status"] == "202"
    assert (response.payment.next_action.redirect_to_url.url != "") is (word == "action")


async def test_a_repeated_key_charges_nothing_twice_and_says_so(house: Any) -> None:
    first, _ = await answer(house.pay())
    again, headers = await answer(house.pay())
    assert again == first
    assert headers["idempotent-replayed"] == "true"
    assert len(house.story.processor.intents) == 1


async def test_a_key_with_another_body_is_refused_whether_stored_or_in_flight(
    house: Any,
) -> None:
    house.story.processor.gate = asyncio.Event()
    first = asyncio.ensure_future(_result(house.pay()))
    await until(lambda: house.story.processor.calls)
    in_flight = await house.refused(house.pay(description="other"))
    house.story.processor.gate.set()
    await first
    stored = await house.refused(house.pay(description="other"))
    for refused in (in_flight, stored):
        assert (refused["code"], refused["reason"]) == (
            "INVALID_ARGUMENT",
            "IDEMPOTENCY_KEY_REUSED",
        )


async def test_sixty_four_racing_callers_make_one_payment(house: Any) -> None:
    async def one() -> Any:
        try:
            return (await house.pay()).payment
        except grpc.aio.AioRpcError as error:
            return error_info(error)["reason"]

    answers = await asyncio.gather(*(one() for _ in range(64)))

    payments = [a for a in answers if not isinstance(a, str)]
    assert payments
    assert all(p == payments[0] for p in payments)
    assert {a for a in answers if isinstance(a, str)} <= {"IDEMPOTENCY_KEY_IN_FLIGHT"}
    assert len(house.story.processor.intents) == 1
    assert house.story.advisor.asked == ["fraud", "router"]


async def test_a_replay_after_a_refund_answers_what_the_first_answer_said(house: Any) -> None:
    first = await house.pay()
    await house.refund(first.payment.payment_id)
    again = await house.pay()
    assert again == first
    assert (await house.get(first.payment.payment_id)).refunded_amount.minor_units == 500


async def test_a_replay_of_an_open_payment_answers_how_it_stands_now(house: Any) -> None:
    house.story.processor.script = ["lost_before"]
    first = await house.pay()
    await house.story.recover()
    again = await house.pay()
    assert first.payment.status == P.STATUS_UNKNOWN
    assert again.payment.status == P.STATUS_SUCCEEDED


async def test_a_key_is_another_key_for_another_operation_or_merchant(house: Any) -> None:
    paid = await house.pay("same", capture_method=MANUAL)
    captured = await house.capture(paid.payment.payment_id, key="same")
    refunded = await house.refund(paid.payment.payment_id, key="same")
    assert captured.payment.status == P.STATUS_SUCCEEDED
    assert refunded.refund.status == payment_pb2.Refund.STATUS_SUCCEEDED
    refused = await house.refused(house.pay("same", OTHER_MERCHANT))
    assert refused["reason"] == "NO_ELIGIBLE_ACCOUNT", "another merchant's key is not this one"


async def test_an_order_that_is_paid_is_refused_by_name(house: Any) -> None:
    await house.pay("a", merchant_order_id="order")
    refused = await house.refused(house.pay("b", merchant_order_id="order"))
    assert (refused["code"], refused["reason"], refused["field"]) == (
        "ALREADY_EXISTS",
        "ORDER_ALREADY_PAID",
        "merchant_order_id",
    )


async def test_a_caller_who_goes_away_still_gets_the_payment_finished(house: Any) -> None:
    house.story.processor.gate = asyncio.Event()
    call = house.pay()
    waiting = asyncio.ensure_future(_result(call))
    await until(lambda: house.story.processor.calls)
    call.cancel()
    assert await waiting is None
    house.story.processor.gate.set()
    await house.servicer.drain()
    again = await house.pay()
    assert again.payment.status == P.STATUS_SUCCEEDED
    assert len(house.story.processor.intents) == 1


async def _result(call: Any) -> Any:
    try:
        return await call
    except asyncio.CancelledError:
        return None


async def test_a_deadline_before_the_processor_s_answer_is_answered_processing(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_MARGIN_SECONDS", 9.9)
    house.story.processor.gate = asyncio.Event()
    response, headers = await answer(house.pay(timeout=10))
    assert response.payment.status == P.STATUS_PROCESSING
    assert headers["x-http-status"] == "202"
    in_flight = await house.refused(house.pay(timeout=10))
    assert in_flight["reason"] == "IDEMPOTENCY_KEY_IN_FLIGHT"

    house.story.processor.gate.set()
    await house.servicer.drain()

    assert (await house.get(response.payment.payment_id)).status == P.STATUS_SUCCEEDED


async def test_a_story_that_breaks_off_leaks_nothing_and_is_found_by_recovery(
    house: Any,
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("sk_test_secret")

    charge, house.story.processor.charge = house.story.processor.charge, broken
    refused = await house.refused(house.pay())
    assert refused["code"] == "INTERNAL"
    assert "sk_test_secret" not in str(refused)
    house.story.processor.charge = charge
    await house.story.recover()
    assert (await house.pay()).payment.status == P.STATUS_SUCCEEDED


async def test_more_stories_than_can_be_told_are_refused(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STORIES_MAX", 0)
    assert (await house.refused(house.pay()))["code"] == "RESOURCE_EXHAUSTED"
    monkeypatch.undo()
    assert (await house.pay()).payment.status == P.STATUS_SUCCEEDED


# ---- read ------------------------------------------------------------------------------------


async def test_get_shows_ledger_and_reward(house: Any) -> None:
    house.rewards.reward_of = rewards_pb2.Reward(
        status=rewards_pb2.Reward.STATUS_FINAL, token_base_units=1_000_000
    )
    payment_id = (await house.pay()).payment.payment_id
    payment = await house.get(payment_id)
    assert sum(e.amount.minor_units for e in payment.ledger) == 0
    assert {e.transaction_id for e in payment.ledger} == {"capture"}
    assert payment.reward.state == payment_pb2.RewardSummary.STATE_MINTED
    house.rewards.reward_of = None
    assert (await house.get(payment_id)).reward.state == (
        payment_pb2.RewardSummary.STATE_UNAVAILABLE
    )


async def test_rewards_is_not_asked_back_when_it_asks(house: Any) -> None:
    payment_id = (await house.pay()).payment.payment_id
    response = await house.stub.GetPayment(
        payments_pb2.GetPaymentRequest(payment_id=payment_id), metadata=as_service("rewards")
    )
    assert response.payment.status == P.STATUS_SUCCEEDED
    assert house.rewards.asked == 0


async def test_pages_neither_skip_nor_repeat_while_payments_come_in(house: Any) -> None:
    made = [(await house.pay(f"k{n}")).payment.payment_id for n in range(7)]
    seen, token = [], ""
    while True:
        page = await house.listed(page_size=3, page_token=token)
        seen += [p.payment_id for p in page.payments]
        token = page.next_page_token
        if not token:
            break
        await house.pay(f"late-{len(seen)}")
    assert seen == made[::-1]


async def test_a_page_token_is_bound_to_its_filters_and_its_merchant(house: Any) -> None:
    for n in range(3):
        await house.pay(f"k{n}")
    house.story.processor.script = ["hard"]
    failed = (await house.pay("failed")).payment.payment_id
    page = await house.listed(page_size=1, status=[P.STATUS_SUCCEEDED])
    assert (
        await house.listed(
            page_size=9, status=[P.STATUS_SUCCEEDED], page_token=page.next_page_token
        )
    ).next_page_token == ""
    for other in (
        house.listed(status=[P.STATUS_FAILED], page_token=page.next_page_token),
        house.listed(OTHER_MERCHANT, status=[P.STATUS_SUCCEEDED], page_token=page.next_page_token),
        house.listed(page_token="garbage"),
    ):
        refused = await house.refused(other)
        assert refused["reason"] == "PAGE_TOKEN_INVALID"
    only = await house.listed(status=[P.STATUS_FAILED])
    assert [p.payment_id for p in only.payments] == [failed]


async def test_another_merchant_s_payment_reads_like_none(house: Any) -> None:
    payment_id = (await house.pay(capture_method=MANUAL)).payment.payment_id
    nobody = "pay_d1" + "0" * 24
    for asked in (payment_id, nobody):
        refused = [
            await house.refused(house.get(asked, OTHER_MERCHANT)),
            await house.refused(house.capture(asked, merchant=OTHER_MERCHANT)),
            await house.refused(house.cancel(asked, merchant=OTHER_MERCHANT)),
            await house.refused(house.confirm(asked, OTHER_MERCHANT)),
            await house.refused(house.update(asked, OTHER_MERCHANT, description="mine")),
            await house.refused(house.refund(asked, merchant=OTHER_MERCHANT)),
        ]
        assert {(r["code"], r["reason"], r["message"]) for r in refused} == {
            ("NOT_FOUND", "PAYMENT_NOT_FOUND", "There is no such payment.")
        }
    assert list((await house.listed(OTHER_MERCHANT)).payments) == []
    assert (await house.get(payment_id)).status == P.STATUS_REQUIRES_CAPTURE


# ---- move on ---------------------------------------------------------------------------------


async def test_an_authorization_is_captured_once_however_often_it_is_asked(house: Any) -> None:
    payment_id = (await house.pay(capture_method=MANUAL)).payment.payment_id
    first = await house.capture(payment_id, 1500)
    again, headers = await answer(house.capture(payment_id, 1500))
    assert again == first
    assert headers["idempotent-replayed"] == "true"
    reused = await house.refused(house.capture(payment_id, 1400))
    assert reused["reason"] == "IDEMPOTENCY_KEY_REUSED"
    late = await house.refused(house.capture(payment_id, 1500, key="other"))
    assert (late["code"], late["reason"]) == ("FAILED_PRECONDITION", "STATUS_FORBIDS")
    assert [v for v, _ in house.story.processor.calls].count("capture") == 1


async def test_a_wrong_amount_is_refused_by_field_with_what_is_left(house: Any) -> None:
    payment_id = (await house.pay(capture_method=MANUAL)).payment.payment_id
    too_large = await house.refused(house.capture(payment_id, 2000))
    assert (too_large["reason"], too_large["field"], too_large["limit"]) == (
        "AMOUNT_TOO_LARGE",
        "amount",
        "1999",
    )
    foreign = await house.refused(house.capture(payment_id, currency="EUR"))
    assert (foreign["reason"], foreign["field"]) == ("CURRENCY_MISMATCH", "amount.currency_code")


async def test_a_capture_still_at_work_at_the_deadline_is_answered_202(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment_id = (await house.pay(capture_method=MANUAL)).payment.payment_id
    monkeypatch.setattr(server, "ANSWER_MARGIN_SECONDS", 9.5)
    house.story.processor.gate = asyncio.Event()
    response, headers = await answer(house.capture(payment_id, timeout=10))
    assert (response.payment.status, response.payment.status_reason) == (
        P.STATUS_PROCESSING,
        "capture",
    )
    assert headers["x-http-status"] == "202"
    house.story.processor.gate.set()
    await house.servicer.drain()
    assert (await house.get(payment_id)).status == P.STATUS_SUCCEEDED


async def test_a_refund_still_at_work_at_the_deadline_is_answered_202(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment_id = (await house.pay()).payment.payment_id
    monkeypatch.setattr(server, "ANSWER_MARGIN_SECONDS", 9.5)
    house.story.processor.gate = asyncio.Event()
    response, headers = await answer(house.refund(payment_id, timeout=10))
    assert response.refund.status == payment_pb2.Refund.STATUS_PENDING
    assert headers["x-http-status"] == "202"
    house.story.processor.gate.set()
    await house.servicer.drain()
    again = await house.refund(payment_id)
    assert again.refund.status == payment_pb2.Refund.STATUS_SUCCEEDED
    assert list(house.story.processor.refunds.values()) == [500]


async def test_a_canceled_payment_is_released_and_stays_canceled(house: Any) -> None:
    payment_id = (await house.pay(capture_method=MANUAL)).payment.payment_id
    assert (await house.cancel(payment_id)).payment.status == P.STATUS_CANCELED
    assert (await house.cancel(payment_id)).payment.status == P.STATUS_CANCELED
    refused = await house.refused(house.cancel(payment_id, "other"))
    assert refused["status"] == "STATUS_CANCELED"


async def test_confirming_early_changes_nothing_and_late_finds_the_payment_paid(
    house: Any,
) -> None:
    house.story.processor.script = ["action"]
    first = (await house.pay()).payment
    assert (await house.confirm(first.payment_id)).payment == first
    (intent,) = house.story.processor.intents.values()
    intent.status, intent.captured = "succeeded", intent.amount
    assert (await house.confirm(first.payment_id)).payment.status == P.STATUS_SUCCEEDED


async def test_a_refund_is_answered_201_and_repeated_from_what_is_stored(house: Any) -> None:
    payment_id = (await house.pay()).payment.payment_id
    first, headers = await answer(house.refund(payment_id))
    assert headers["x-http-status"] == "201"
    again, headers = await answer(house.refund(payment_id))
    assert again == first
    assert headers["idempotent-replayed"] == "true"
    too_much = await house.refused(house.refund(payment_id, 1500, key="more"))
    assert (too_much["reason"], too_much["limit"]) == ("AMOUNT_TOO_LARGE", "1499")


async def test_sixty_four_racing_refunds_never_give_back_more_than_was_taken(
    house: Any,
) -> None:
    payment_id = (await house.pay()).payment.payment_id

    async def one(number: int) -> str:
        try:
            await house.refund(payment_id, 100, key=f"r{number}")
        except grpc.aio.AioRpcError as error:
            return str(error_info(error)["reason"])
        return "made"

    answers = await asyncio.gather(*(one(n) for n in range(64)))

    assert set(answers) <= {"made", "PAYMENT_CHANGED", "AMOUNT_TOO_LARGE"}
    made = answers.count("made")
    assert 1 <= made <= 19
    payment = await house.get(payment_id)
    assert payment.refunded_amount.minor_units == made * 100
    assert sum(house.story.processor.refunds.values()) == made * 100
    assert {r.status for r in payment.refunds} == {payment_pb2.Refund.STATUS_SUCCEEDED}


async def test_racing_repeats_of_one_refund_make_one(house: Any) -> None:
    payment_id = (await house.pay()).payment.payment_id

    async def one() -> str:
        try:
            return str((await house.refund(payment_id)).refund.refund_id)
        except grpc.aio.AioRpcError as error:
            return str(error_info(error)["reason"])

    answers = set(await asyncio.gather(*(one() for _ in range(16))))
    assert len(answers - {"IDEMPOTENCY_KEY_IN_FLIGHT"}) == 1
    assert list(house.story.processor.refunds.values()) == [500]


async def test_what_was_not_captured_is_not_refunded(house: Any) -> None:
    payment_id = (await house.pay(capture_method=MANUAL)).payment.payment_id
    refused = await house.refused(house.refund(payment_id))
    assert (refused["reason"], refused["status"]) == (
        "STATUS_FORBIDS",
        "STATUS_REQUIRES_CAPTURE",
    )


def test_every_status_of_the_domain_is_one_of_the_contract() -> None:
    for status in Status:
        assert P.Status.Value(f"STATUS_{status.value}")
