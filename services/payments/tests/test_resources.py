"""Reviews, resolutions, refunds and disputes as callers reach them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import grpc
import pytest

from services.payments.tests.conftest import SECOND
from smartpay.payments.v1 import (
    disputes_pb2,
    payment_pb2,
    payments_pb2,
    refunds_pb2,
)
from smartpay.type.v1 import instrument_pb2, money_pb2
from smartpay_chassis.ids import derive
from smartpay_chassis.testing import OTHER_MERCHANT, as_merchant, as_service, error_info
from smartpay_payments.adapters.sqlite_audit import SqliteAudit
from smartpay_payments.domain.instruments import Chargeable
from smartpay_payments.domain.payment import (
    CaptureMethod,
    Dispute,
    DisputeStatus,
    FraudOpinion,
    Payment,
    RefundStatus,
    Status,
)
from smartpay_payments.domain.processor import Standing
from smartpay_payments.server.orders import OrderDesk

P = payment_pb2.Payment
Review = payments_pb2.ReviewPaymentRequest
Resolve = payments_pb2.ResolvePaymentRequest


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), error_info(raised.value)["reason"]


# ---- confirm, review, resolve ----------------------------------------------------------------


async def test_a_payment_confirmed_later_is_charged_where_the_payer_says(house: Any) -> None:
    call = house.pay(confirm_later=True)
    payment = (await call).payment
    assert payment.status == P.STATUS_REQUIRES_CONFIRMATION
    assert dict(await call.initial_metadata())["x-http-status"] == "202"
    request = payments_pb2.ConfirmPaymentRequest(
        payment_id=payment.payment_id, processor_account_id=SECOND
    )
    paid = (await house.stub.ConfirmPayment(request, metadata=as_merchant())).payment
    assert (paid.status, paid.attempts[0].processor_account_id) == (P.STATUS_SUCCEEDED, SECOND)


async def test_an_unconfirmed_payment_is_changed_and_charged_as_it_then_asks(house: Any) -> None:
    created = (await house.pay(confirm_later=True, metadata={"cart": "7", "tier": "b"})).payment
    call = house.update(
        created.payment_id,
        amount=money_pb2.Money(minor_units=2500, currency_code="USD"),
        description="Three tickets",
        metadata={"tier": "", "gift": "yes"},
    )
    changed = (await call).payment
    assert dict(await call.initial_metadata())["etag"] == changed.etag == '"2"'
    assert (changed.status, changed.amount.minor_units) == (P.STATUS_REQUIRES_CONFIRMATION, 2500)
    assert dict(changed.metadata) == {"cart": "7", "gift": "yes"}
    assert changed.merchant_order_id == created.merchant_order_id
    paid = (await house.confirm(created.payment_id)).payment
    assert (paid.status, paid.captured_amount.minor_units) == (P.STATUS_SUCCEEDED, 2500)
    (intent,) = house.story.processor.intents.values()
    assert intent.amount == 2500
    found = await house.listed(currency_code="USD", minor_units_min=2500)
    assert [p.payment_id for p in found.payments] == [created.payment_id]


async def test_an_empty_text_empties_and_an_absent_one_stays(house: Any) -> None:
    created = (
        await house.pay(confirm_later=True, description="Two tickets", customer_id="customer-7")
    ).payment
    changed = (await house.update(created.payment_id, description="")).payment
    assert (changed.description, changed.customer_id) == ("", "customer-7")


async def test_a_change_of_what_is_charged_drops_the_decision_made_for_it(house: Any) -> None:
    decision = "dec_d1" + "0" * 24
    created = (await house.pay(confirm_later=True, decision_id=decision)).payment
    await house.update(created.payment_id, description="the same money")
    assert (await house.stored(created.payment_id)).order.decision_id == decision
    await house.update(
        created.payment_id,
        etag='"2"',
        amount=money_pb2.Money(minor_units=2500, currency_code="USD"),
    )
    assert (await house.stored(created.payment_id)).order.decision_id == ""


async def test_a_stale_etag_changes_nothing(house: Any) -> None:
    created = (await house.pay(confirm_later=True)).payment
    await house.update(created.payment_id, description="first")
    assert await refusal_of(house.update(created.payment_id, description="second")) == (
        grpc.StatusCode.ABORTED,
        "ETAG_MISMATCH",
    )
    assert (await house.get(created.payment_id)).description == "first"


async def test_what_was_charged_or_tried_is_changed_no_more(house: Any) -> None:
    paid = (await house.pay()).payment
    refused = await refusal_of(house.update(paid.payment_id, etag=paid.etag, description="late"))
    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "STATUS_FORBIDS")


async def test_a_change_to_what_nobody_can_charge_is_refused(house: Any) -> None:
    created = (await house.pay(confirm_later=True)).payment
    stranger = instrument_pb2.Instrument(
        tokens=[
            instrument_pb2.ProcessorToken(processor_account_id="pac_d1" + "z" * 24, token="tok_1")
        ]
    )
    assert await refusal_of(house.update(created.payment_id, instrument=stranger)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "NO_ELIGIBLE_ACCOUNT",
    )
    unsold = money_pb2.Money(minor_units=2500, currency_code="XAF")
    assert (await refusal_of(house.update(created.payment_id, amount=unsold)))[1] == (
        "NO_ELIGIBLE_ACCOUNT"
    )
    assert (await house.get(created.payment_id)).etag == created.etag


async def test_of_a_change_and_a_confirmation_at_once_the_charge_is_what_is_stored(
    house: Any,
) -> None:
    created = (await house.pay(confirm_later=True)).payment
    answers = await asyncio.gather(
        house.update(
            created.payment_id, amount=money_pb2.Money(minor_units=2500, currency_code="USD")
        ),
        house.confirm(created.payment_id),
        return_exceptions=True,
    )
    stored = await house.get(created.payment_id)
    if stored.status == P.STATUS_REQUIRES_CONFIRMATION:
        assert isinstance(answers[1], grpc.aio.AioRpcError)
        stored = (await house.confirm(created.payment_id)).payment
    (intent,) = house.story.processor.intents.values()
    assert intent.amount == stored.amount.minor_units == stored.captured_amount.minor_units


async def test_a_saved_instrument_takes_the_place_of_the_one_before(house: Any) -> None:
    house.servicer._orders = OrderDesk(Vault())
    created = (await house.pay(confirm_later=True, customer_id="")).payment
    saved = "ins_d1" + "0" * 24
    changed = (await house.update(created.payment_id, instrument_id=saved)).payment
    assert [t.token for t in changed.instrument.tokens] == ["pm_saved"]
    assert changed.customer_id == "customer-7"
    # The instrument is that customer's, so the payment can't become somebody else's.
    refused = house.update(created.payment_id, etag=changed.etag, customer_id="customer-8")
    assert (await refusal_of(refused))[1] == "INSTRUMENT_NOT_FOUND"


async def held(house: Any) -> Payment:
    story = house.story
    story.advisor.opinion = FraudOpinion("REVIEW", 0.5, "new_device", b"")
    terms = replace(story.terms, holds_what_needs_review=True)
    found: Payment = await story.saga.create(story.draft(), terms)
    return found


@pytest.mark.parametrize(
    ("verdict", "status"),
    [
        (Review.VERDICT_APPROVE, P.STATUS_SUCCEEDED),
        (Review.VERDICT_REJECT, P.STATUS_BLOCKED),
    ],
)
async def test_a_review_ends_the_hold_once(house: Any, verdict: Any, status: Any) -> None:
    payment = await held(house)
    request = Review(payment_id=payment.payment_id, verdict=verdict)

    def review(key: str) -> Any:
        return house.stub.ReviewPayment(request, metadata=as_merchant(idempotency_key=key))

    ended = (await review("k1")).payment
    assert ended.status == status
    repeated = review("k1")
    assert (await repeated).payment == ended
    assert dict(await repeated.initial_metadata())["idempotent-replayed"] == "true"
    assert await refusal_of(review("k2")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "STATUS_FORBIDS",
    )


async def test_fraud_ends_a_hold_for_the_merchant_and_nobody_else_may(house: Any) -> None:
    payment = await held(house)
    request = Review(
        payment_id=payment.payment_id, verdict=Review.VERDICT_APPROVE, note="rev_1 by ada: ok"
    )
    key = ("idempotency-key", "rev_1")
    call = house.stub.ReviewPayment(request, metadata=(*as_service("rewards"), key))
    assert (await refusal_of(call))[0] == grpc.StatusCode.PERMISSION_DENIED
    stranger = (*as_service("fraud", OTHER_MERCHANT), key)
    call = house.stub.ReviewPayment(request, metadata=stranger)
    assert (await refusal_of(call))[1] == "PAYMENT_NOT_FOUND"
    ended = await house.stub.ReviewPayment(request, metadata=(*as_service("fraud"), key))
    assert ended.payment.status == P.STATUS_SUCCEEDED


async def test_only_a_payment_that_needs_review_can_be_resolved(house: Any) -> None:
    payment = (await house.pay()).payment
    request = Resolve(
        payment_id=payment.payment_id, outcome=Resolve.OUTCOME_NOT_CHARGED, evidence="ticket 7"
    )
    call = house.stub.ResolvePayment(request, metadata=as_merchant(idempotency_key="k"))
    assert (await refusal_of(call))[1] == "STATUS_FORBIDS"


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": Resolve.OUTCOME_CHARGED, "evidence": "ticket"},
        {"outcome": Resolve.OUTCOME_NOT_CHARGED},
        {"evidence": "ticket"},
    ],
    ids=["no charge named", "no evidence", "no outcome"],
)
async def test_a_resolution_without_its_grounds_is_refused(
    house: Any, changes: dict[str, Any]
) -> None:
    payment = (await house.pay()).payment
    request = Resolve(payment_id=payment.payment_id, **changes)
    call = house.stub.ResolvePayment(request, metadata=as_merchant(idempotency_key="k"))
    assert await refusal_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


async def test_a_resolved_payment_succeeds_with_the_charge_that_was_found(house: Any) -> None:
    story = house.story
    story.processor.script = ["lost_after"] * 40
    payment = await story.create()
    await story.recover()
    story.processor.script = []
    (intent,) = story.processor.intents.values()
    request = Resolve(
        payment_id=payment.payment_id,
        outcome=Resolve.OUTCOME_CHARGED,
        evidence="statement of June",
        processor_payment_id=intent.intent_id,
        captured_amount=money_pb2.Money(minor_units=1999, currency_code="USD"),
    )
    call = house.stub.ResolvePayment(request, metadata=as_merchant(idempotency_key="k"))
    assert (await call).payment.status == P.STATUS_SUCCEEDED


async def test_the_audit_trail_tells_who_resolved_what_by_which_evidence(house: Any) -> None:
    story = house.story
    paid = (await house.pay()).payment
    story.processor.script = ["lost_before"] * 40
    payment = await story.create("stuck")
    await story.recover()
    request = Resolve(
        payment_id=payment.payment_id,
        outcome=Resolve.OUTCOME_NOT_CHARGED,
        evidence="ticket 4711",
    )
    await house.stub.ResolvePayment(request, metadata=as_merchant(idempotency_key="k"))
    audit = SqliteAudit(story.store)
    records, _ = await audit.page(payment.merchant_id, False, "", 10)
    resolved, created = records
    assert (created.action, created.subject_id) == (
        "PaymentsService.CreatePayment",
        paid.payment_id,
    )
    assert (resolved.action, resolved.actor) == ("PaymentsService.ResolvePayment", created.actor)
    changes = {c.field: (c.before, c.after) for c in resolved.changes}
    assert changes["status"] == ("NEEDS_REVIEW", "FAILED")
    assert changes["note"] == ("", "ticket 4711")


async def test_a_rule_of_the_whole_request_names_the_field_to_change(house: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await house.pay(instrument=None)
    assert error_info(raised.value)["field"] == "instrument"


class Vault:
    """One saved instrument, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []

    async def chargeable(
        self, merchant_id: str, livemode: bool, instrument_id: str, *, payer_is_away: bool
    ) -> Chargeable:
        self.asked.append((instrument_id, payer_is_away))
        return Chargeable({SECOND: "pm_saved"}, {SECOND: "cus_1"}, "print", "customer-7")


async def test_a_saved_instrument_is_charged_for_its_customer(house: Any) -> None:
    vault = Vault()
    house.servicer._orders = OrderDesk(vault)
    saved = derive("ins", "d1", "saved")
    payment = (await house.pay(instrument=None, instrument_id=saved, off_session=True)).payment
    assert (payment.status, payment.instrument_id) == (P.STATUS_SUCCEEDED, saved)
    assert [t.token for t in payment.instrument.tokens] == ["pm_saved"]
    assert payment.customer_id == "customer-7"
    assert vault.asked == [(saved, True)]
    both = house.pay("both", instrument_id=saved)
    assert await refusal_of(both) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


async def test_the_merchant_s_settings_decide_the_capture_when_they_are_asked_to(
    house: Any,
) -> None:
    default = payment_pb2.CAPTURE_METHOD_MERCHANT_DEFAULT
    payment = (await house.pay(capture_method=default)).payment
    assert payment.capture_method == payment_pb2.CAPTURE_METHOD_AUTOMATIC
    terms = replace(house.story.terms, capture_method=CaptureMethod.MANUAL)
    house.servicer._terms = lambda _: terms
    held = (await house.pay("second", capture_method=default)).payment
    assert (held.status, held.capture_method) == (
        P.STATUS_REQUIRES_CAPTURE,
        payment_pb2.CAPTURE_METHOD_MANUAL,
    )


# ---- refunds ---------------------------------------------------------------------------------


async def test_refunds_are_found_by_their_own_ids_and_in_pages(house: Any) -> None:
    payment = (await house.pay()).payment
    other = (await house.pay("other")).payment
    made = [(await house.refund(payment.payment_id, 100, f"r{n}")).refund for n in range(5)]
    await house.refund(other.payment_id, 100, "elsewhere")
    one = await house.refunds.GetRefund(
        refunds_pb2.GetRefundRequest(refund_id=made[2].refund_id), metadata=as_merchant()
    )
    assert one.refund == made[2]

    listed, token = [], ""
    while True:
        page = await house.refunds.ListRefunds(
            refunds_pb2.ListRefundsRequest(
                page_size=2, page_token=token, payment_id=payment.payment_id
            ),
            metadata=as_merchant(),
        )
        listed += page.refunds
        token = page.next_page_token
        if not token:
            break
    assert listed == made[::-1]
    everything = await house.refunds.ListRefunds(
        refunds_pb2.ListRefundsRequest(), metadata=as_merchant()
    )
    assert len(everything.refunds) == 6


async def test_another_merchant_s_refund_reads_like_none(house: Any) -> None:
    payment = (await house.pay()).payment
    refund = (await house.refund(payment.payment_id)).refund
    theirs = as_merchant(OTHER_MERCHANT)
    for refund_id in (refund.refund_id, derive("ref", "d1", "nobody's")):
        call = house.refunds.GetRefund(
            refunds_pb2.GetRefundRequest(refund_id=refund_id), metadata=theirs
        )
        assert await refusal_of(call) == (grpc.StatusCode.NOT_FOUND, "REFUND_NOT_FOUND")
    listed = await house.refunds.ListRefunds(refunds_pb2.ListRefundsRequest(), metadata=theirs)
    assert not listed.refunds
    of_payment = house.refunds.ListRefunds(
        refunds_pb2.ListRefundsRequest(payment_id=payment.payment_id), metadata=theirs
    )
    assert await refusal_of(of_payment) == (grpc.StatusCode.NOT_FOUND, "PAYMENT_NOT_FOUND")


async def test_64_refunds_at_once_never_exceed_what_was_captured(house: Any) -> None:
    payment = (await house.pay()).payment

    async def refund(number: int) -> int:
        try:
            made = (await house.refund(payment.payment_id, 100, f"r{number}")).refund
        except grpc.aio.AioRpcError as error:
            if error_info(error)["reason"] not in {"AMOUNT_TOO_LARGE", "PAYMENT_CHANGED"}:
                raise
            return 0
        return int(made.amount.minor_units)

    given = sum(await asyncio.gather(*(refund(n) for n in range(64))))
    assert given == sum(house.story.processor.refunds.values())
    assert 0 < given <= 1999
    stored = await house.get(payment.payment_id)
    assert stored.refunded_amount.minor_units == given


async def test_a_refund_nobody_answers_for_ends_by_an_operator_s_word(house: Any) -> None:
    payment = (await house.pay()).payment
    house.story.processor.script = ["lost_before"] * 40
    refund = (await house.refund(payment.payment_id)).refund
    await house.story.recover()
    stored = (await house.get(payment.payment_id)).refunds[0]
    assert stored.status == payment_pb2.Refund.STATUS_NEEDS_REVIEW
    request = refunds_pb2.ResolveRefundRequest(
        refund_id=refund.refund_id,
        outcome=refunds_pb2.ResolveRefundRequest.OUTCOME_NOT_REFUNDED,
        evidence="statement of June",
    )
    resolved = await house.refunds.ResolveRefund(request, metadata=as_merchant())
    assert resolved.refund.status == payment_pb2.Refund.STATUS_FAILED
    call = house.refunds.ResolveRefund(request, metadata=as_merchant())
    assert (await refusal_of(call))[1] == "STATUS_FORBIDS"
    assert RefundStatus.FAILED.value in payment_pb2.Refund.Status.Name(resolved.refund.status)


# ---- disputes --------------------------------------------------------------------------------


@pytest.fixture
async def dispute(house: Any) -> Any:
    story = house.story
    payment = (await house.pay()).payment
    story.processor.became = Standing(
        (
            Dispute(
                dispute_id=derive("dis", "d1", payment.payment_id),
                processor_dispute_id="dp_1",
                amount_minor=1999,
                reason="fraudulent",
                status=DisputeStatus.NEEDS_RESPONSE,
                create_time=story.clock(),
                update_time=story.clock(),
            ),
        )
    )
    stored = await story.read(replace(story.draft(), payment_id=payment.payment_id))
    assert stored.status is Status.SUCCEEDED
    await story.payments.postpone(stored, story.clock())
    await story.recovery.step()
    listed = await house.disputes.ListDisputes(
        disputes_pb2.ListDisputesRequest(payment_id=payment.payment_id), metadata=as_merchant()
    )
    return listed.disputes[0]


async def test_a_dispute_is_shown_answered_and_never_answered_twice(
    house: Any, dispute: Any
) -> None:
    shown = await house.disputes.GetDispute(
        disputes_pb2.GetDisputeRequest(dispute_id=dispute.dispute_id), metadata=as_merchant()
    )
    assert shown.dispute == dispute
    request = disputes_pb2.SubmitDisputeEvidenceRequest(
        dispute_id=dispute.dispute_id, uncategorized_text="shipped on Monday"
    )
    told = await house.disputes.SubmitDisputeEvidence(request, metadata=as_merchant())
    assert told.dispute.status == payment_pb2.Dispute.STATUS_UNDER_REVIEW
    call = house.disputes.SubmitDisputeEvidence(request, metadata=as_merchant())
    assert (await refusal_of(call))[1] == "STATUS_FORBIDS"


async def test_evidence_without_a_word_is_refused(house: Any, dispute: Any) -> None:
    request = disputes_pb2.SubmitDisputeEvidenceRequest(dispute_id=dispute.dispute_id)
    call = house.disputes.SubmitDisputeEvidence(request, metadata=as_merchant())
    assert await refusal_of(call) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID")


async def test_a_disputed_payment_can_not_be_refunded_as_well(house: Any, dispute: Any) -> None:
    call = house.refund(dispute.payment_id, 100)
    assert (await refusal_of(call))[1] == "AMOUNT_TOO_LARGE"


async def test_another_merchant_s_dispute_reads_like_none(house: Any, dispute: Any) -> None:
    call = house.disputes.AcceptDispute(
        disputes_pb2.AcceptDisputeRequest(dispute_id=dispute.dispute_id),
        metadata=as_merchant(OTHER_MERCHANT),
    )
    assert await refusal_of(call) == (grpc.StatusCode.NOT_FOUND, "DISPUTE_NOT_FOUND")
    of_payment = house.disputes.ListDisputes(
        disputes_pb2.ListDisputesRequest(payment_id=dispute.payment_id),
        metadata=as_merchant(OTHER_MERCHANT),
    )
    assert await refusal_of(of_payment) == (grpc.StatusCode.NOT_FOUND, "PAYMENT_NOT_FOUND")
