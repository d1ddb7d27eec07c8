"""A review is decided once, counts as a label at once, and payments hears of it, whatever fails."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartpay.fraud.v1 import (
    fraud_pb2,
    fraud_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
    reviews_pb2,
)
from smartpay.fraud.v1.reviews_pb2 import Review
from smartpay.fraud.v1.reviews_pb2_grpc import ReviewsServiceStub
from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.payments.v1.payment_pb2 import Payment
from smartpay.payments.v1.payments_pb2 import ReviewPaymentRequest
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.calls import current_call
from smartpay_chassis.refusals import Kind, Refusal
from smartpay_chassis.testing import OTHER_MERCHANT, as_merchant, error_info, serve_for_test
from smartpay_fraud.adapters.payments_desk import PaymentsDesk
from smartpay_fraud.adapters.sqlite_audit import SqliteAudit, record_of_work
from smartpay_fraud.domain.assessment import Finding
from smartpay_fraud.domain.reviews import Answer, Delivery, Resolution, State
from smartpay_fraud.domain.reviews import Review as Held

PAYMENT = "pay_d1" + "0" * 24
DEMO = "mer_d1" + "m" * 24
ADA, BOB = as_merchant(sub="ada"), as_merchant(sub="bob")


def a_review(**changes: Any) -> Held:
    fields: dict[str, Any] = {
        "review_id": "rev_1",
        "merchant_id": "mer",
        "livemode": False,
        "transaction_id": PAYMENT,
        "state": State.OPEN,
        "amount_minor": 100,
        "currency_code": "USD",
        "score": 0.3,
        "create_ms": 0,
    }
    return Held(**{**fields, **changes})


@pytest.mark.parametrize(
    ("statuses", "state", "reason"),
    [
        (["PROCESSING", "IN_REVIEW"], State.OPEN, ""),
        (["IN_REVIEW", "PROCESSING"], State.CLOSED, "processing"),
        (["IN_REVIEW", "BLOCKED"], State.CLOSED, "blocked"),
        (["IN_REVIEW", "CANCELED"], State.CLOSED, "canceled"),
        (["PROCESSING", "FAILED"], State.CLOSED, "failed"),
        (["BLOCKED"], State.CLOSED, "blocked"),
        # Charged at once, because the merchant holds nothing: it may still turn out to be fraud.
        (["PROCESSING", "SUCCEEDED"], State.OPEN, ""),
    ],
)
def test_a_review_follows_its_payment(statuses: list[str], state: State, reason: str) -> None:
    review = a_review()
    for status in statuses:
        review = review.after_payment(status, 7)
    assert (review.state, review.close_reason) == (state, reason)
    assert review.after_payment(statuses[-1], 9) is review


def test_what_a_person_decided_stays_whatever_the_payment_does() -> None:
    review = a_review(held=True).resolved(Resolution.FRAUD, "", "ada", '"1"', 5)
    assert review.after_payment("BLOCKED", 9) is review


@pytest.mark.parametrize(
    ("resolution", "finding"),
    [
        (Resolution.APPROVE, Finding.LEGITIMATE),
        (Resolution.FRAUD, Finding.FRAUD),
        (Resolution.REJECT, None),
    ],
)
def test_a_decision_says_what_it_says(resolution: Resolution, finding: Finding | None) -> None:
    claim = a_review().resolved(resolution, "", "ada", '"1"', 5).claim()
    assert (claim and (claim.finding, claim.known_ms)) == (finding and (finding, 5))


# ---- through the contract


async def refused(call: Any) -> dict[str, Any]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_info(caught.value)


@pytest.fixture
def reviews(desk: Any) -> Any:
    return desk.stub(ReviewsServiceStub)


@pytest.fixture
def score(desk: Any) -> Callable[..., Any]:
    stub = desk.stub(fraud_pb2_grpc.FraudServiceStub)

    async def ask(transaction_id: str, probability: float = 0.3, **changes: Any) -> Any:
        desk.judge.probability = probability
        fields = {"amount": Money(minor_units=20_000, currency_code="USD"), **changes}
        request = fraud_pb2.ScoreRequest(transaction_id=transaction_id, **fields)
        return (await stub.Score(request, metadata=as_merchant())).assessment

    return ask


async def queue(reviews: Any, *, metadata: Any = ADA, **filters: Any) -> list[Any]:
    request = reviews_pb2.ListReviewsRequest(**filters)
    return list((await reviews.ListReviews(request, metadata=metadata)).reviews)


def resolve(review: Any, resolution: Any = Review.RESOLUTION_FRAUD, **changes: Any) -> Any:
    fields = {"review_id": review.review_id, "etag": review.etag, "note": "seen before", **changes}
    return reviews_pb2.ResolveReviewRequest(resolution=resolution, **fields)


async def shown(reviews: Any, review_id: str) -> Any:
    return await reviews.GetReview(reviews_pb2.GetReviewRequest(review_id=review_id), metadata=ADA)


async def test_a_verdict_of_review_opens_one_and_no_other_does(reviews: Any, score: Any) -> None:
    await score("t-allowed", 0.001)
    await score("t-blocked", 0.99)
    assert (await score("t-review")).verdict == fraud_pb2.Assessment.VERDICT_REVIEW
    await score("t-review")
    (review,) = await queue(reviews)
    assert (review.transaction_id, review.state) == ("t-review", Review.STATE_OPEN)
    assert (review.amount.minor_units, review.score) == (20_000, 0.3)


async def test_no_review_is_opened_where_nobody_looks(reviews: Any, score: Any, desk: Any) -> None:
    policies = desk.stub(policies_pb2_grpc.PoliciesServiceStub)
    terms = policies_pb2.FraudPolicyTerms(reviews_disabled=True)
    request = policies_pb2.UpdateFraudPolicyRequest(etag='"0"', terms=terms)
    await policies.UpdateFraudPolicy(request, metadata=ADA)
    assert (await score("t")).verdict != fraud_pb2.Assessment.VERDICT_REVIEW
    assert await queue(reviews) == []


async def test_the_queue_is_paged_oldest_first_and_filtered(
    reviews: Any, score: Any, desk: Any
) -> None:
    for number in range(5):
        await score(f"t-{number}")
        desk.clock.advance(minutes=1)
    seen, token = [], ""
    while True:
        page = await reviews.ListReviews(
            reviews_pb2.ListReviewsRequest(page_size=2, page_token=token), metadata=ADA
        )
        seen += [review.transaction_id for review in page.reviews]
        await score(f"t-new-{len(seen)}")  # what comes meanwhile neither repeats nor hides others
        token = page.next_page_token
        if not token or len(seen) > 20:
            break
    assert seen[:5] == [f"t-{n}" for n in range(5)]
    assert len(seen) == len(set(seen))
    first, second, *_ = await queue(reviews)
    await reviews.AssignReview(
        reviews_pb2.AssignReviewRequest(review_id=first.review_id, etag=first.etag), metadata=ADA
    )
    await reviews.ResolveReview(resolve(second), metadata=BOB)
    assert [r.review_id for r in await queue(reviews, assignee="ada")] == [first.review_id]
    assert first.review_id not in {r.review_id for r in await queue(reviews, unassigned=True)}
    ended = await queue(reviews, state=Review.STATE_RESOLVED)
    assert [r.review_id for r in ended] == [second.review_id]
    old = await queue(reviews, create_time_before="2026-01-01T12:02:00Z")
    assert [r.transaction_id for r in old] == ["t-0", "t-1"]


async def test_a_review_shows_what_helps_to_decide_it(reviews: Any, score: Any, desk: Any) -> None:
    await score("t-1", 0.001, customer_id="ada", device_id="phone")
    await score("t-2", 0.001, customer_id="ada")
    await score("t-3", 0.001, customer_id="bob", device_id="phone")
    await score("t-4", 0.001, customer_id="eve")
    fraud = desk.stub(fraud_pb2_grpc.FraudServiceStub)
    label = fraud_pb2.RecordLabelRequest(transaction_id="t-3", label=fraud_pb2.LABEL_FRAUD)
    await fraud.RecordLabel(label, metadata=ADA)
    assessment = await score("t-5", customer_id="ada", device_id="phone", country="DE")
    (review,) = await queue(reviews)
    file = await shown(reviews, review.review_id)
    assert file.review == review
    assert file.assessment == assessment
    assert (file.transaction.customer_id, file.transaction.country) == ("ada", "DE")
    assert [(r.transaction_id, list(r.shared), r.label) for r in file.related] == [
        ("t-3", ["device_id"], fraud_pb2.LABEL_FRAUD),
        ("t-2", ["customer_id"], fraud_pb2.LABEL_UNSPECIFIED),
        ("t-1", ["customer_id", "device_id"], fraud_pb2.LABEL_UNSPECIFIED),
    ]


async def test_a_review_changes_hands_and_every_step_is_told(reviews: Any, score: Any) -> None:
    await score("t")
    (review,) = await queue(reviews)

    async def move(call: Any, request: Any, etag: str, metadata: Any) -> Any:
        asked = request(review_id=review.review_id, etag=etag)
        return (await call(asked, metadata=metadata)).review

    assign, unassign = reviews_pb2.AssignReviewRequest, reviews_pb2.UnassignReviewRequest
    adas = await move(reviews.AssignReview, assign, review.etag, ADA)
    assert adas.assignee == "ada"
    assert await move(reviews.AssignReview, assign, review.etag, ADA) == adas, "a repeat"
    error = await refused(move(reviews.AssignReview, assign, review.etag, BOB))
    assert (error["code"], error["reason"]) == ("ABORTED", "ETAG_MISMATCH")
    bobs = await move(reviews.AssignReview, assign, adas.etag, BOB)
    free = await move(reviews.UnassignReview, unassign, bobs.etag, ADA)
    assert (bobs.assignee, free.assignee) == ("bob", "")
    await reviews.ResolveReview(resolve(free), metadata=BOB)
    records = (await shown(reviews, review.review_id)).records
    assert [(r.actor, r.action.rpartition(".")[2]) for r in records] == [
        ("bob", "ResolveReview"),
        ("ada", "UnassignReview"),
        ("bob", "AssignReview"),
        ("ada", "AssignReview"),
    ]
    told = {change.field: (change.before, change.after) for change in records[0].changes}
    assert told["state"] == ("OPEN", "RESOLVED")
    assert told["resolution"] == ("", "FRAUD")
    assert told["note"] == ("", "seen before")


async def test_of_64_who_decide_at_once_one_does(reviews: Any, score: Any, desk: Any) -> None:
    await score("t")
    (review,) = await queue(reviews)
    choices = (Review.RESOLUTION_APPROVE, Review.RESOLUTION_FRAUD)
    outcomes = await asyncio.gather(
        *(
            reviews.ResolveReview(
                resolve(review, choices[n % 2]), metadata=as_merchant(sub=f"person-{n}")
            )
            for n in range(64)
        ),
        return_exceptions=True,
    )
    (won,) = [each for each in outcomes if not isinstance(each, BaseException)]
    reasons = {error_info(e)["reason"] for e in outcomes if isinstance(e, grpc.aio.AioRpcError)}
    assert reasons <= {"ETAG_MISMATCH", "REVIEW_ENDED"}
    assert (await shown(reviews, review.review_id)).review == won.review
    happenings = [h async for h in desk.history.replay(0, 100) if h.finding]
    decided = won.review.resolution == Review.RESOLUTION_FRAUD
    assert [h.finding for h in happenings] == [Finding.FRAUD if decided else Finding.LEGITIMATE]


async def test_of_64_who_read_the_same_version_one_stores_the_next(
    reviews: Any, score: Any, desk: Any
) -> None:
    await score("t")
    (shown_,) = await queue(reviews)
    read = await desk.reviews.get(DEMO, False, shown_.review_id)
    decided = [read.resolved(Resolution.FRAUD, "", f"p-{n}", read.etag, 5) for n in range(64)]
    stored = await asyncio.gather(
        *(desk.reviews.save(each, record_of_work("w", read, each, 5)) for each in decided)
    )
    assert stored.count(True) == 1
    kept = await desk.reviews.get(DEMO, False, shown_.review_id)
    assert kept == decided[stored.index(True)]
    records, _ = await SqliteAudit(desk.history.store).page(DEMO, False, "", 99)
    assert len(records) == 1, "who was slower left no trace"


async def test_a_repeated_decision_is_answered_and_another_is_refused(
    reviews: Any, score: Any
) -> None:
    await score("t")
    (review,) = await queue(reviews)
    first = await reviews.ResolveReview(resolve(review), metadata=ADA)
    assert await reviews.ResolveReview(resolve(review), metadata=ADA) == first
    for request, metadata in (
        (resolve(review), BOB),
        (resolve(first.review, Review.RESOLUTION_APPROVE), ADA),
    ):
        error = await refused(reviews.ResolveReview(request, metadata=metadata))
        assert (error["reason"], error["state"]) == ("REVIEW_ENDED", "STATE_RESOLVED")


async def test_a_decision_counts_for_the_next_score(reviews: Any, score: Any, desk: Any) -> None:
    await score("t", customer_id="ada")
    (review,) = await queue(reviews)
    await reviews.ResolveReview(resolve(review), metadata=ADA)
    happenings = [h async for h in desk.history.replay(0, 100) if h.finding]
    assert [(h.finding, h.at_ms) for h in happenings] == [(Finding.FRAUD, desk.now_ms())]


async def test_another_merchant_finds_no_review(reviews: Any, score: Any) -> None:
    await score("t")
    (review,) = await queue(reviews)
    stranger = as_merchant(OTHER_MERCHANT)
    assert await queue(reviews, metadata=stranger) == []
    for call, request in (
        (reviews.GetReview, reviews_pb2.GetReviewRequest(review_id=review.review_id)),
        (
            reviews.AssignReview,
            reviews_pb2.AssignReviewRequest(review_id=review.review_id, etag=review.etag),
        ),
        (reviews.ResolveReview, resolve(review)),
    ):
        error = await refused(call(request, metadata=stranger))
        assert (error["code"], error["reason"]) == ("NOT_FOUND", "REVIEW_NOT_FOUND")


# ---- payments hears of it


async def test_payments_is_told_until_it_answers(reviews: Any, score: Any, desk: Any) -> None:
    await score(PAYMENT)
    (review,) = await queue(reviews)
    desk.payments.answers = [Answer.AWAY, Answer.AWAY, Answer.TAKEN]
    told = await reviews.ResolveReview(resolve(review), metadata=ADA)
    assert told.review.delivery == Review.DELIVERY_PENDING
    assert await desk.courier.carry() == 1
    for pause in (1, 5):
        assert await desk.courier.carry() == 0, "payments is not pressed"
        desk.clock.advance(seconds=pause)
        assert await desk.courier.carry() == 1
    assert [r.resolution for r in desk.payments.told] == [Resolution.FRAUD] * 3
    assert (await shown(reviews, review.review_id)).review.delivery == Review.DELIVERY_DONE
    desk.clock.advance(days=1)
    assert await desk.courier.carry() == 0, "what is heard is told no more"


async def test_a_decision_outlives_the_process(open_desk: Any, tmp_path: Path) -> None:
    path = tmp_path / "kept.db"
    async with open_desk(path) as first:
        first.judge.probability = 0.3
        request = fraud_pb2.ScoreRequest(
            transaction_id=PAYMENT, amount=Money(minor_units=20_000, currency_code="USD")
        )
        await first.stub(fraud_pb2_grpc.FraudServiceStub).Score(request, metadata=ADA)
        stub = first.stub(ReviewsServiceStub)
        (review,) = await queue(stub)
        await stub.ResolveReview(resolve(review), metadata=ADA)
    async with open_desk(path) as second:
        assert await second.courier.carry() == 1
        assert [r.review_id for r in second.payments.told] == [review.review_id]


@pytest.mark.parametrize(
    ("answers", "delivery"),
    [
        ([Answer.NOT_HELD], Delivery.MOOT),
        # Scored before payments stored it: so it may be unknown at first, and not for long.
        ([Answer.UNKNOWN_PAYMENT, Answer.TAKEN], Delivery.DONE),
        ([Answer.UNKNOWN_PAYMENT] * 9, Delivery.MOOT),
    ],
)
async def test_what_payments_doesnt_hold_needs_no_telling(
    reviews: Any, score: Any, desk: Any, answers: list[Answer], delivery: Delivery
) -> None:
    await score(PAYMENT)
    (review,) = await queue(reviews)
    desk.payments.answers = list(answers)
    await reviews.ResolveReview(resolve(review), metadata=ADA)
    for _ in range(9):
        await desk.courier.carry()
        desk.clock.advance(minutes=10)
    stored = await desk.reviews.get(DEMO, False, review.review_id)
    assert stored.delivery is delivery


async def test_a_transaction_that_is_no_payment_is_told_to_nobody(
    reviews: Any, score: Any, desk: Any
) -> None:
    await score("order-1")
    (review,) = await queue(reviews)
    told = await reviews.ResolveReview(resolve(review), metadata=ADA)
    assert told.review.delivery == Review.DELIVERY_UNSPECIFIED
    assert await desk.courier.carry() == 1
    assert await desk.courier.carry() == 0
    assert desk.payments.told == []


async def test_the_courier_carries_a_new_decision_at_once(
    reviews: Any, score: Any, desk: Any
) -> None:
    await score(PAYMENT)
    (review,) = await queue(reviews)
    running = asyncio.create_task(desk.courier.run())
    await reviews.ResolveReview(resolve(review), metadata=ADA)
    async with asyncio.timeout(30):
        while not desk.payments.told:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


class Payments(payments_pb2_grpc.PaymentsServiceServicer):
    """Notes what it is told, and refuses when it should."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, ReviewPaymentRequest]] = []
        self.refusal: Refusal | None = None
        self.status = Payment.STATUS_SUCCEEDED

    async def ReviewPayment(
        self, request: ReviewPaymentRequest, context: object
    ) -> payments_pb2.ReviewPaymentResponse:
        call = current_call()
        assert call.caller == "fraud"
        assert call.merchant_id == DEMO
        self.heard.append((call.idempotency_key, request))
        if self.refusal is not None:
            raise self.refusal
        return payments_pb2.ReviewPaymentResponse(payment=Payment(status=self.status))


@pytest.mark.parametrize(
    ("kind", "reason", "answer"),
    [
        (None, "", Answer.TAKEN),
        (Kind.FAILED_PRECONDITION, "STATUS_FORBIDS", Answer.NOT_HELD),
        (Kind.NOT_FOUND, "PAYMENT_NOT_FOUND", Answer.UNKNOWN_PAYMENT),
        (Kind.UNAVAILABLE, "UNAVAILABLE", Answer.AWAY),
        (Kind.PERMISSION_DENIED, "ACCESS_DENIED", Answer.AWAY),
    ],
)
async def test_payments_is_told_for_the_merchant_with_the_review_as_key(
    kind: Kind | None, reason: str, answer: Answer
) -> None:
    payments: Any = Payments()  # type: ignore[abstract]  # only ReviewPayment is called
    if kind is not None:
        payments.refusal = Refusal(kind, reason, "No.", remedy="None.")
    service = payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"]
    add = payments_pb2_grpc.add_PaymentsServiceServicer_to_server
    async with serve_for_test([(add, payments, service)]) as channel:
        as_fraud: Any = AsFraud(channel)
        review = a_review(merchant_id=DEMO).resolved(Resolution.APPROVE, "ok", "ada", '"1"', 5)
        assert await PaymentsDesk(as_fraud).tell(review) is answer
    ((key, request),) = payments.heard
    assert key == review.review_id
    assert request.payment_id == PAYMENT
    assert request.verdict == ReviewPaymentRequest.VERDICT_APPROVE
    assert request.note == "rev_1 by ada: ok"


async def test_an_answer_before_the_end_of_the_story_is_asked_again() -> None:
    payments: Any = Payments()  # type: ignore[abstract]  # only ReviewPayment is called
    payments.status = Payment.STATUS_IN_REVIEW
    service = payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"]
    add = payments_pb2_grpc.add_PaymentsServiceServicer_to_server
    async with serve_for_test([(add, payments, service)]) as channel:
        as_fraud: Any = AsFraud(channel)
        review = a_review(merchant_id=DEMO).resolved(Resolution.FRAUD, "", "ada", '"1"', 5)
        assert await PaymentsDesk(as_fraud).tell(review) is Answer.AWAY


class AsFraud:
    """A channel whose calls carry fraud's certificate, as its sidecar would add it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        call = self._channel.unary_unary(*arguments, **options)
        certificate = ("x-forwarded-client-cert", "By=x;URI=spiffe://smartpay/dev/fraud")
        return lambda request, *, metadata, **rest: call(
            request, metadata=(certificate, *metadata), **rest
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)
