"""Speaks the payments contract: message in, story told, message out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Protocol

import structlog
from google.protobuf.message import Message

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.rewards.v1 import rewards_pb2
from smartpay_chassis.calls import Call, current_call
from smartpay_chassis.ids import derive
from smartpay_chassis.merchants import Merchant
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_chassis.refusals import (
    Kind,
    Refusal,
    idempotency_key_in_flight,
    idempotency_key_reused,
)
from smartpay_payments.domain.commands import Commands, Evidence
from smartpay_payments.domain.eligibility import Account, MerchantTerms
from smartpay_payments.domain.idempotency import Claim, request_hash
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.merchants import Profile, check_etag
from smartpay_payments.domain.payment import (
    CANCELABLE,
    OPEN,
    OPEN_REFUNDS,
    Command,
    Payment,
    Refund,
    RefundStatus,
    Status,
    check_amount,
    payment_not_found,
    status_forbids,
)
from smartpay_payments.domain.saga import Saga
from smartpay_payments.domain.search import PaymentFilter
from smartpay_payments.domain.versions import Repository, payment_changed
from smartpay_payments.messages import (
    ledger_message,
    money_of,
    payment_message,
    refund_message,
    refund_reason_of,
    reward_message,
)
from smartpay_payments.server.audit import witness_of
from smartpay_payments.server.orders import OrderDesk, SavedInstruments
from smartpay_payments.server.payment_filters import payment_filter_of
from smartpay_payments.server.watch import EventLog, EventStreams

log = structlog.get_logger()

# The answer must leave before the caller's deadline does.
ANSWER_MARGIN_SECONDS = 0.5
# Stories at work at once, those of callers who went away included; each holds some kilobytes.
STORIES_MAX = 2048
# Of the refunds of one payment that race, one wins each round; the rest may ask again.
REFUND_TRIES = 16

Story = Coroutine[object, object, Payment]
Context = object  # gRPC's own context is the interceptors' business


class PaymentStore(Repository, EventLog, Protocol):
    """What is read beside the story."""

    async def claim(self, operation_id: str) -> Claim | None:
        """Reads the claim an idempotency key made."""
        ...

    async def version(self, payment_id: str, version: int) -> Payment | None:
        """Reads an earlier version while its event is kept."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, wanted: PaymentFilter, after: str, size: int
    ) -> tuple[list[Payment], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        ...

    async def ledger(self, payment_id: str) -> Sequence[LedgerEntry]:
        """Reads a payment's ledger entries, oldest first."""
        ...


class RewardReader(Protocol):
    """Asks rewards."""

    async def reward(self, payment: Payment) -> rewards_pb2.Reward | None:
        """Reads the reward; an empty one when there is none, None when rewards is away."""
        ...


def terms_of(merchant: Merchant) -> MerchantTerms:
    """Reads a merchant's rules out of the mounted table."""
    return MerchantTerms(
        accounts=tuple(
            Account(a.processor_account_id, a.processor, frozenset(a.fees), a.enabled)
            for a in merchant.processor_accounts
        ),
        blocks_when_fraud_is_away=merchant.fraud_fail_policy == "closed",
        blocks_what_needs_review=merchant.fraud_review_policy == "block",
        holds_what_needs_review=merchant.fraud_review_policy == "hold",
    )


class PaymentsServicer(payments_pb2_grpc.PaymentsServiceServicer):
    """Serves the contract.

    Args:
        saga: moves payments on.
        commands: does what is asked of stored payments.
        payments: the store.
        rewards: asks rewards.
        clock: the time, aware.
        watchers_max: Watch streams at once.
        terms: the rules of the call's merchant; those of the mounted table when not given.
        changed_merchants: the profiles that differ from the mounted table.
        saved: finds what an instrument_id stands for; without it there is none.
    """

    def __init__(
        self,
        saga: Saga,
        commands: Commands,
        payments: PaymentStore,
        rewards: RewardReader,
        clock: Callable[[], datetime],
        watchers_max: int,
        terms: Callable[[Call], MerchantTerms] | None = None,
        changed_merchants: Callable[[], Sequence[Profile]] = tuple,
        saved: SavedInstruments | None = None,
    ) -> None:
        self._saga = saga
        self._commands = commands
        self._payments = payments
        self._rewards = rewards
        self._clock = clock
        self._in_flight: dict[str, str] = {}
        self._running: set[asyncio.Task[Payment]] = set()
        self.streams = EventStreams(payments, watchers_max, changed_merchants)
        self._terms = terms or _mounted_terms
        self._orders = OrderDesk(saved)

    async def drain(self) -> None:
        """Waits for stories whose callers went away."""
        if self._running:
            await asyncio.wait(set(self._running))

    # ---- create ------------------------------------------------------------------------------

    async def CreatePayment(
        self, request: payments_pb2.CreatePaymentRequest, context: Context
    ) -> payments_pb2.CreatePaymentResponse:
        """Creates a payment and takes it as far as it goes before the deadline."""
        call = current_call()
        payment_id, hashed = self._operation("pay", "CreatePayment", request, call)
        if await self._is_replay(payment_id, hashed):
            payment = await self._first_answer(payment_id)
        else:
            now = self._clock()
            terms = self._terms(call)
            draft = Payment(
                payment_id=payment_id,
                merchant_id=call.merchant_id,
                livemode=call.livemode,
                order=await self._orders.asked(request, call, terms),
                request_hash=hashed,
                status=(
                    Status.REQUIRES_CONFIRMATION if request.confirm_later else Status.PROCESSING
                ),
                create_time=now,
                update_time=now,
            )
            story = self._saga.create(draft, terms, witness_of(call, self._clock))
            payment = await self._tell(story, payment_id, hashed, payment_id)
        call.respond_with(
            http_status=202 if payment.status in OPEN else 201,
            headers={
                "location": f"/payments/{payment_id}",
                "etag": f'"{payment.version}"',
            },
        )
        return payments_pb2.CreatePaymentResponse(payment=payment_message(payment))

    def _operation(
        self, prefix: str, operation: str, request: Message, call: Call
    ) -> tuple[str, str]:
        """Answers the id that the call's key leads to, and the hash of the request."""
        operation_id = derive(
            prefix,
            call.merchant_id[4:6],
            call.merchant_id,
            "live" if call.livemode else "test",
            operation,
            call.idempotency_key,
        )
        return operation_id, request_hash(request.SerializeToString(deterministic=True))

    async def _is_replay(self, operation_id: str, hashed: str) -> bool:
        """Tells whether the key was used before; refuses it while in work or of another request.

        Read the payment after it, never before: only then is it what the operation left.
        """
        claim = await self._payments.claim(operation_id)
        self._refuse_in_flight(operation_id, hashed)
        if claim is None:
            return False
        if claim.request_hash != hashed:
            raise idempotency_key_reused()
        current_call().respond_with(headers={"idempotent-replayed": "true"})
        return True

    def _refuse_in_flight(self, operation_id: str, hashed: str) -> None:
        known = self._in_flight.get(operation_id, "")
        if known:
            raise idempotency_key_in_flight() if known == hashed else idempotency_key_reused()

    async def _first_answer(self, payment_id: str) -> Payment:
        """Reads what CreatePayment answered first, or how the payment stands while open."""
        payment = await self._payment(payment_id)
        if 0 < payment.answered_version < payment.version:
            answered = await self._payments.version(payment_id, payment.answered_version)
            return answered or payment
        return payment

    async def _tell(
        self,
        story: Story,
        operation_id: str,
        hashed: str,
        payment_id: str,
    ) -> Payment:
        """Runs a story to its end even when the caller goes away; answers within the deadline."""
        call = current_call()
        if len(self._running) >= STORIES_MAX:
            story.close()
            raise Refusal(
                Kind.RESOURCE_EXHAUSTED,
                "UNAVAILABLE",
                "Too many payments are being worked on.",
                remedy="Wait a moment and repeat the call with the same idempotency key.",
            )
        self._in_flight[operation_id] = hashed
        task = asyncio.create_task(story)
        self._running.add(task)

        def ended(_: object) -> None:
            self._running.discard(task)
            self._in_flight.pop(operation_id, None)
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, Refusal):
                # The caller may be gone, so that nobody else would tell.
                log.error("a story broke off", operation_id=operation_id, exc_info=error)

        task.add_done_callback(ended)
        patience = max(0.0, call.deadline_seconds() - ANSWER_MARGIN_SECONDS)
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            return task.result()
        stored = await self._payments.get(call.merchant_id, call.livemode, payment_id)
        if stored is None:
            raise TimeoutError
        return stored

    # ---- read --------------------------------------------------------------------------------

    async def GetPayment(
        self, request: payments_pb2.GetPaymentRequest, context: Context
    ) -> payments_pb2.GetPaymentResponse:
        """Shows one payment with its ledger and reward."""
        payment = await self._payment(request.payment_id)
        message = payment_message(payment)
        if current_call().caller != "rewards":
            # Asking rewards back while it asks us would only go round in a circle.
            ledger, reward = await asyncio.gather(
                self._payments.ledger(payment.payment_id), self._rewards.reward(payment)
            )
            message.ledger.extend(ledger_message(e) for e in ledger)
            message.reward.CopyFrom(reward_message(reward))
        current_call().respond_with(headers={"etag": message.etag})
        return payments_pb2.GetPaymentResponse(payment=message)

    async def ListPayments(
        self, request: payments_pb2.ListPaymentsRequest, context: Context
    ) -> payments_pb2.ListPaymentsResponse:
        """Lists the merchant's payments, newest first."""
        call = current_call()
        wanted = payment_filter_of(request)
        bound_to = f"payments {call.merchant_id} {call.livemode} {wanted}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        payments, position = await self._payments.page(
            call.merchant_id, call.livemode, wanted, after, page_size(request.page_size)
        )
        return payments_pb2.ListPaymentsResponse(
            payments=[payment_message(p) for p in payments],
            next_page_token=encode_page_token(position, bound_to=bound_to) if position else "",
        )

    async def _payment(self, payment_id: str) -> Payment:
        call = current_call()
        payment = await self._payments.get(call.merchant_id, call.livemode, payment_id)
        if payment is None:
            raise payment_not_found()
        return payment

    # ---- move on -----------------------------------------------------------------------------

    async def UpdatePayment(
        self, request: payments_pb2.UpdatePaymentRequest, context: Context
    ) -> payments_pb2.UpdatePaymentResponse:
        """Changes what a payment asks for, before anything is charged."""
        payment = await self._payment(request.payment_id)
        check_etag(request.etag, payment_message(payment).etag)
        call = current_call()
        order = await self._orders.changed(payment.order, request, call)
        payment = await self._saga.amend(
            payment, order, self._terms(call), witness_of(call, self._clock)
        )
        message = payment_message(payment)
        call.respond_with(headers={"etag": message.etag})
        return payments_pb2.UpdatePaymentResponse(payment=message)

    async def ConfirmPayment(
        self, request: payments_pb2.ConfirmPaymentRequest, context: Context
    ) -> payments_pb2.ConfirmPaymentResponse:
        """Charges a payment that waited for it, or looks at what the payer did."""
        payment = await self._payment(request.payment_id)
        call = current_call()
        story = self._saga.confirm(
            payment,
            self._terms(call),
            request.processor_account_id,
            witness_of(call, self._clock),
        )
        operation_id = f"confirm {payment.payment_id}"
        payment = await self._tell(story, operation_id, "", payment.payment_id)
        if payment.status in OPEN:
            call.respond_with(http_status=202)
        return payments_pb2.ConfirmPaymentResponse(payment=payment_message(payment))

    async def ReviewPayment(
        self, request: payments_pb2.ReviewPaymentRequest, context: Context
    ) -> payments_pb2.ReviewPaymentResponse:
        """Charges or blocks a payment that a person looked at."""
        approve = request.verdict == payments_pb2.ReviewPaymentRequest.VERDICT_APPROVE
        call = current_call()
        terms = self._terms(call)
        witness = witness_of(call, self._clock, request.note)

        def review(payment: Payment, claim: Claim) -> Story:
            if payment.status is not Status.IN_REVIEW:
                raise status_forbids(payment, "reviewed", "in review")
            return self._saga.review(payment, terms, approve, claim, witness)

        payment = await self._once(request, request.payment_id, "ReviewPayment", review)
        return payments_pb2.ReviewPaymentResponse(payment=payment_message(payment))

    async def ResolvePayment(
        self, request: payments_pb2.ResolvePaymentRequest, context: Context
    ) -> payments_pb2.ResolvePaymentResponse:
        """Ends a payment that needs review by an operator's word and evidence."""
        charged = request.outcome == payments_pb2.ResolvePaymentRequest.OUTCOME_CHARGED
        evidence = Evidence(
            charged, request.processor_payment_id, request.captured_amount.minor_units
        )

        witness = witness_of(current_call(), self._clock, request.evidence)

        def resolve(payment: Payment, claim: Claim) -> Story:
            if charged:
                amount = money_of(request.captured_amount)
                check_amount(payment, amount, payment.order.amount.minor_units)
            return self._commands.resolve(payment, evidence, claim, witness)

        payment = await self._once(request, request.payment_id, "ResolvePayment", resolve)
        return payments_pb2.ResolvePaymentResponse(payment=payment_message(payment))

    async def CapturePayment(
        self, request: payments_pb2.CapturePaymentRequest, context: Context
    ) -> payments_pb2.CapturePaymentResponse:
        """Captures an authorized payment."""
        amount = money_of(request.amount)

        witness = witness_of(current_call(), self._clock)

        def capture(payment: Payment, claim: Claim) -> Story:
            if payment.status is not Status.REQUIRES_CAPTURE:
                raise status_forbids(payment, "captured", "authorized")
            check_amount(payment, amount, payment.authorized_minor)
            return self._commands.start(
                payment, Command.CAPTURE, amount.minor_units, claim, witness
            )

        payment = await self._once(request, request.payment_id, "CAPTURE", capture)
        return payments_pb2.CapturePaymentResponse(payment=payment_message(payment))

    async def CancelPayment(
        self, request: payments_pb2.CancelPaymentRequest, context: Context
    ) -> payments_pb2.CancelPaymentResponse:
        """Cancels a payment before capture."""
        witness = witness_of(current_call(), self._clock)

        def cancel(payment: Payment, claim: Claim) -> Story:
            if payment.status not in CANCELABLE:
                raise status_forbids(payment, "canceled", "not captured and not at work")
            return self._commands.start(payment, Command.CANCEL, 0, claim, witness)

        payment = await self._once(request, request.payment_id, "CANCEL", cancel)
        return payments_pb2.CancelPaymentResponse(payment=payment_message(payment))

    async def _once(
        self,
        request: Message,
        payment_id: str,
        operation: str,
        begin: Callable[[Payment, Claim], Story],
    ) -> Payment:
        """Runs a command under its idempotency key; a repetition answers the payment as it is.

        Args:
            request: hashed, so that a key belongs to one request.
            payment_id: whose command it is.
            operation: part of what the key leads to.
            begin: checks that the command is legal now, and answers its story, not yet begun.
        """
        call = current_call()
        operation_id, hashed = self._operation("ope", operation, request, call)
        replay = await self._is_replay(operation_id, hashed)
        payment = await self._payment(payment_id)
        if not replay:
            self._refuse_in_flight(operation_id, hashed)
            story = begin(payment, Claim(operation_id, payment_id, hashed))
            payment = await self._tell(story, operation_id, hashed, payment_id)
        if payment.status in OPEN:
            call.respond_with(http_status=202)
        return payment

    async def RefundPayment(
        self, request: payments_pb2.RefundPaymentRequest, context: Context
    ) -> payments_pb2.RefundPaymentResponse:
        """Gives captured money back."""
        call = current_call()
        refund_id, hashed = self._operation("ref", "RefundPayment", request, call)
        replay = await self._is_replay(refund_id, hashed)
        payment = await self._payment(request.payment_id)
        if not replay:
            self._refuse_in_flight(refund_id, hashed)
            story = self._refund(payment, refund_id, hashed, request)
            payment = await self._tell(story, refund_id, hashed, request.payment_id)
        refund = next((r for r in payment.refunds if r.refund_id == refund_id), None)
        if refund is None:
            # The deadline came before the refund was stored.
            raise TimeoutError
        still_open = refund.status in {*OPEN_REFUNDS, RefundStatus.NEEDS_REVIEW}
        call.respond_with(http_status=202 if still_open else 201)
        return payments_pb2.RefundPaymentResponse(refund=refund_message(payment, refund))

    async def _refund(
        self,
        payment: Payment,
        refund_id: str,
        hashed: str,
        request: payments_pb2.RefundPaymentRequest,
    ) -> Payment:
        for _ in range(REFUND_TRIES):
            if payment.status is not Status.SUCCEEDED:
                raise status_forbids(payment, "refunded", "captured")
            amount = money_of(request.amount)
            check_amount(payment, amount, payment.refundable_minor)
            now = self._clock()
            refund = Refund(
                refund_id=refund_id,
                amount=amount,
                reason=refund_reason_of(request.reason),
                status=RefundStatus.PENDING,
                create_time=now,
                update_time=now,
            )
            claim = Claim(refund_id, payment.payment_id, hashed)
            witness = witness_of(current_call(), self._clock)
            refunded = await self._commands.refund(payment, refund, claim, witness)
            if refunded is not None:
                return refunded
            payment = await self._payment(request.payment_id)
        raise payment_changed()

    # ---- events ------------------------------------------------------------------------------

    async def Watch(
        self, request: payments_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[payments_pb2.WatchResponse]:
        """Streams the log from a cursor, then waits for more."""
        async with contextlib.aclosing(self.streams.stream(request.cursor)) as steps:
            async for step in steps:
                yield step


def _mounted_terms(call: Call) -> MerchantTerms:
    assert call.merchant is not None  # the interceptor lets no call through without
    return terms_of(call.merchant)
