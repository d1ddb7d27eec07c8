"""Speaks the payments contract: message in, story told, message out."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import datetime
from typing import Protocol

import structlog
from google.protobuf.message import Message

from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
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
from smartpay_payments.domain.eligibility import Account, MerchantTerms
from smartpay_payments.domain.events import LoggedEvent
from smartpay_payments.domain.idempotency import Claim, request_hash
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import (
    CANCELABLE,
    OPEN,
    OPEN_REFUNDS,
    Command,
    Money,
    Payment,
    Refund,
    RefundStatus,
    Status,
    check_amount,
    payment_not_found,
    status_forbids,
)
from smartpay_payments.domain.saga import Repository, Saga, payment_changed
from smartpay_payments.messages import (
    event_message,
    ledger_message,
    money_of,
    order_of,
    payment_message,
    refund_message,
    refund_reason_of,
    reward_message,
)

log = structlog.get_logger()

# The answer must leave before the caller's deadline does.
ANSWER_MARGIN_SECONDS = 0.5
WATCH_BATCH = 200
# An idle stream says "caught up" so often, so that a dead peer is noticed.
WATCH_HEARTBEAT_SECONDS = 15.0
# Stories at work at once, those of callers who went away included; each holds some kilobytes.
STORIES_MAX = 2048
# Of the refunds of one payment that race, one wins each round; the rest may ask again.
REFUND_TRIES = 16

Context = object  # gRPC's own context is the interceptors' business


class PaymentStore(Repository, Protocol):
    """What is read beside the story."""

    async def claim(self, operation_id: str) -> Claim | None:
        """Reads the claim an idempotency key made."""
        ...

    async def version(self, payment_id: str, version: int) -> Payment | None:
        """Reads an earlier version while its event is kept."""
        ...

    async def page(
        self, merchant_id: str, livemode: bool, status: Status | None, after: str, size: int
    ) -> tuple[list[Payment], str]:
        """Reads a page, newest first, and the position to go on after; "" at the end."""
        ...

    async def ledger(self, payment_id: str) -> Sequence[LedgerEntry]:
        """Reads a payment's ledger entries, oldest first."""
        ...

    async def events_after(self, position: int, limit: int) -> Sequence[LoggedEvent]:
        """Reads the next events of the log; raises Refusal OUT_OF_RANGE when some are gone."""
        ...

    def next_commit(self) -> asyncio.Event:
        """Answers what is set by the next commit; take it before reading, wait on it after."""
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
    )


class PaymentsServicer(payments_pb2_grpc.PaymentsServiceServicer):
    """Serves the contract.

    Args:
        saga: moves payments on.
        payments: the store.
        rewards: asks rewards.
        clock: the time, aware.
        watchers_max: Watch streams at once.
    """

    def __init__(
        self,
        saga: Saga,
        payments: PaymentStore,
        rewards: RewardReader,
        clock: Callable[[], datetime],
        watchers_max: int,
    ) -> None:
        self._saga = saga
        self._payments = payments
        self._rewards = rewards
        self._clock = clock
        self._in_flight: dict[str, str] = {}
        self._running: set[asyncio.Task[Payment]] = set()
        self._watchers_free = watchers_max

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
            draft = Payment(
                payment_id=payment_id,
                merchant_id=call.merchant_id,
                livemode=call.livemode,
                order=order_of(request),
                request_hash=hashed,
                status=Status.PROCESSING,
                create_time=now,
                update_time=now,
            )
            story = self._saga.create(draft, terms_of(_merchant(call)))
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
        story: Coroutine[object, object, Payment],
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
        bound_to = f"payments {call.merchant_id} {call.livemode} {request.status}"
        after = (
            decode_page_token(request.page_token, bound_to=bound_to) if request.page_token else ""
        )
        status = (
            Status(payment_pb2.Payment.Status.Name(request.status).removeprefix("STATUS_"))
            if request.status
            else None
        )
        payments, position = await self._payments.page(
            call.merchant_id, call.livemode, status, after, page_size(request.page_size)
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

    async def ConfirmPayment(
        self, request: payments_pb2.ConfirmPaymentRequest, context: Context
    ) -> payments_pb2.ConfirmPaymentResponse:
        """Looks again at a payment that waited for the payer."""
        payment = await self._payment(request.payment_id)
        if payment.status is Status.REQUIRES_ACTION and payment.pending is None:
            payment = await self._saga.look_again(payment)
        return payments_pb2.ConfirmPaymentResponse(payment=payment_message(payment))

    async def CapturePayment(
        self, request: payments_pb2.CapturePaymentRequest, context: Context
    ) -> payments_pb2.CapturePaymentResponse:
        """Captures an authorized payment."""
        amount = money_of(request.amount)
        payment = await self._command(request, request.payment_id, Command.CAPTURE, amount)
        return payments_pb2.CapturePaymentResponse(payment=payment_message(payment))

    async def CancelPayment(
        self, request: payments_pb2.CancelPaymentRequest, context: Context
    ) -> payments_pb2.CancelPaymentResponse:
        """Cancels a payment before capture."""
        payment = await self._command(request, request.payment_id, Command.CANCEL, None)
        return payments_pb2.CancelPaymentResponse(payment=payment_message(payment))

    async def _command(
        self,
        request: Message,
        payment_id: str,
        command: Command,
        amount: Money | None,
    ) -> Payment:
        payment = await self._commanded(request, payment_id, command, amount)
        if payment.status in OPEN:
            current_call().respond_with(http_status=202)
        return payment

    async def _commanded(
        self,
        request: Message,
        payment_id: str,
        command: Command,
        amount: Money | None,
    ) -> Payment:
        call = current_call()
        operation_id, hashed = self._operation("ope", command.value, request, call)
        replay = await self._is_replay(operation_id, hashed)
        payment = await self._payment(payment_id)
        if replay:
            return payment
        self._refuse_in_flight(operation_id, hashed)
        if amount is not None:
            if payment.status is not Status.REQUIRES_CAPTURE:
                raise status_forbids(payment, "captured", "authorized")
            check_amount(payment, amount, payment.authorized_minor)
        elif payment.status not in CANCELABLE:
            raise status_forbids(payment, "canceled", "authorized or waiting for the payer")
        minor = amount.minor_units if amount is not None else 0
        claim = Claim(operation_id, payment_id, hashed)
        story = self._saga.command(payment, command, minor, claim)
        return await self._tell(story, operation_id, hashed, payment_id)

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
            refunded = await self._saga.refund(payment, refund, claim)
            if refunded is not None:
                return refunded
            payment = await self._payment(request.payment_id)
        raise payment_changed()

    # ---- events ------------------------------------------------------------------------------

    async def Watch(
        self, request: payments_pb2.WatchRequest, context: Context
    ) -> AsyncIterator[payments_pb2.WatchResponse]:
        """Streams the log from a cursor, then waits for more."""
        position = _position_of(request.cursor)
        if self._watchers_free <= 0:
            raise Refusal(
                Kind.RESOURCE_EXHAUSTED,
                "UNAVAILABLE",
                "Too many services watch already.",
                remedy="Close a stream or raise PAYMENTS_WATCHERS_MAX.",
            )
        self._watchers_free -= 1
        try:
            while True:
                committed = self._payments.next_commit()
                events = await self._payments.events_after(position, WATCH_BATCH)
                for event in events:
                    position = event.position
                    yield payments_pb2.WatchResponse(
                        event=event_message(event.payment),
                        cursor=_cursor_of(position),
                    )
                if len(events) < WATCH_BATCH:
                    yield payments_pb2.WatchResponse(cursor=_cursor_of(position), caught_up=True)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(WATCH_HEARTBEAT_SECONDS):
                            await committed.wait()
        finally:
            self._watchers_free += 1


def _merchant(call: Call) -> Merchant:
    assert call.merchant is not None  # the interceptor lets no call through without
    return call.merchant


_CURSOR_PREFIX = b"1 0 "  # form 1, shard 0: the embedded log has one shard


def _cursor_of(position: int) -> str:
    return base64.urlsafe_b64encode(_CURSOR_PREFIX + str(position).encode()).decode()


def _position_of(cursor: str) -> int:
    if not cursor:
        return 0
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    position = raw.removeprefix(_CURSOR_PREFIX)
    if raw.startswith(_CURSOR_PREFIX) and position.isdigit():
        return int(position)
    raise Refusal(
        Kind.INVALID_ARGUMENT,
        "CURSOR_INVALID",
        "The cursor was not made by Watch.",
        remedy="Use the cursor of the last answer, or an empty one.",
        field="cursor",
    )
