"""Speaks the payments contract: message in, story told, message out."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import TypeVar

from google.protobuf.message import Message

from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
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
from smartpay_payments.adapters.advisors import RewardsService
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.domain.idempotency import Claim, request_hash
from smartpay_payments.domain.payment import (
    UNSETTLED,
    Command,
    Payment,
    Refund,
    RefundStatus,
    Status,
    check_amount,
    payment_not_found,
    status_forbids,
)
from smartpay_payments.domain.saga import Account, MerchantTerms, Saga, payment_changed
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

T = TypeVar("T")

# The answer must leave before the caller's deadline does.
ANSWER_MARGIN_SECONDS = 0.5
WATCH_BATCH = 200
# An idle stream says "caught up" so often, so that a dead peer is noticed.
WATCH_HEARTBEAT_SECONDS = 15.0
# Refunds of one payment race each other rarely; more tries than refunds can race at once.
REFUND_TRIES = 16
OPEN = frozenset({*UNSETTLED, Status.REQUIRES_ACTION, Status.IN_REVIEW, Status.NEEDS_REVIEW})

Context = object  # gRPC's own context is the interceptors' business


def terms_of(merchant: Merchant) -> MerchantTerms:
    """Reads a merchant's rules out of the mounted table."""
    return MerchantTerms(
        merchant_id=merchant.merchant_id,
        livemode=merchant.livemode,
        cell=merchant.merchant_id[4:6],
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
        payments: SqlitePayments,
        rewards: RewardsService,
        clock: Callable[[], datetime],
        watchers_max: int,
    ) -> None:
        self._saga = saga
        self._payments = payments
        self._rewards = rewards
        self._clock = clock
        self._in_flight: dict[str, str] = {}
        self._running: set[asyncio.Task[object]] = set()
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
        stored = await self._payments.get(call.merchant_id, call.livemode, payment_id)
        if stored is not None or payment_id in self._in_flight:
            payment = await self._replay(payment_id, hashed, stored)
            call.respond_with(headers={"idempotent-replayed": "true"})
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
            payment = await self._tell(
                payment_id, hashed, self._saga.create(draft, terms_of(_merchant(call)))
            )
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

    async def _replay(self, operation_id: str, hashed: str, stored: Payment | None) -> Payment:
        """Answers a repeated CreatePayment as the first one was answered."""
        known = self._in_flight.get(operation_id) or (stored and stored.request_hash)
        if known != hashed:
            raise idempotency_key_reused()
        if operation_id in self._in_flight or stored is None:
            raise idempotency_key_in_flight()
        if 0 < stored.answered_version < stored.version:
            answered = await self._payments.version(operation_id, stored.answered_version)
            return answered or stored
        return stored

    async def _tell(self, operation_id: str, hashed: str, story: Awaitable[Payment]) -> Payment:
        """Runs a story to its end even when the caller goes away; answers within the deadline."""
        call = current_call()
        self._in_flight[operation_id] = hashed
        task = asyncio.ensure_future(story)
        self._running.add(task)

        def ended(_: object) -> None:
            self._running.discard(task)
            self._in_flight.pop(operation_id, None)
            if not task.cancelled():
                # Read it, so that a failure after the answer is not reported as forgotten.
                task.exception()

        task.add_done_callback(ended)
        patience = max(0.0, call.deadline_seconds() - ANSWER_MARGIN_SECONDS)
        done, _ = await asyncio.wait({task}, timeout=patience)
        if done:
            return task.result()
        stored = await self._payments.get(call.merchant_id, call.livemode, operation_id)
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
        size = page_size(request.page_size)
        payments = await self._payments.page(
            call.merchant_id, call.livemode, status, after, size + 1
        )
        token = ""
        if len(payments) > size:
            position = self._payments.position_of(payments[size - 1])
            token = encode_page_token(position, bound_to=bound_to)
        return payments_pb2.ListPaymentsResponse(
            payments=[payment_message(p) for p in payments[:size]], next_page_token=token
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
        payment = await self._command(request, request.payment_id, Command.CAPTURE, request.amount)
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
        amount: object,
    ) -> Payment:
        call = current_call()
        operation_id, hashed = self._operation("ope", command.value, request, call)
        payment = await self._payment(payment_id)
        claim = await self._payments.claim(operation_id)
        if claim is not None or operation_id in self._in_flight:
            known = self._in_flight.get(operation_id) or (claim and claim.request_hash)
            if known != hashed:
                raise idempotency_key_reused()
            if operation_id in self._in_flight:
                raise idempotency_key_in_flight()
            call.respond_with(headers={"idempotent-replayed": "true"})
            return payment
        capturing = command is Command.CAPTURE
        allowed = {Status.REQUIRES_CAPTURE} if capturing else CANCELABLE
        if payment.status not in allowed:
            raise status_forbids(
                payment,
                "captured" if capturing else "canceled",
                "authorized" if capturing else "authorized or waiting for the payer",
            )
        minor = 0
        if capturing:
            wanted = money_of(amount)  # type: ignore[arg-type]  # Money where capturing
            check_amount(payment, wanted, payment.authorized_minor)
            minor = wanted.minor_units
        return await self._tell(
            operation_id,
            hashed,
            self._saga.command(payment, command, minor, Claim(operation_id, payment_id, hashed)),
        )

    async def RefundPayment(
        self, request: payments_pb2.RefundPaymentRequest, context: Context
    ) -> payments_pb2.RefundPaymentResponse:
        """Gives captured money back."""
        call = current_call()
        refund_id, hashed = self._operation("ref", "RefundPayment", request, call)
        payment = await self._payment(request.payment_id)
        claim = await self._payments.claim(refund_id)
        if claim is not None or refund_id in self._in_flight:
            known = self._in_flight.get(refund_id) or (claim and claim.request_hash)
            if known != hashed:
                raise idempotency_key_reused()
            if refund_id in self._in_flight:
                raise idempotency_key_in_flight()
            call.respond_with(headers={"idempotent-replayed": "true"})
        else:
            story = self._refund(payment, refund_id, hashed, request)
            payment = await self._tell(refund_id, hashed, story)
        refund = next(r for r in payment.refunds if r.refund_id == refund_id)
        settled = refund.status in (RefundStatus.SUCCEEDED, RefundStatus.FAILED)
        call.respond_with(http_status=201 if settled else 202)
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
                events = await self._payments.events_after(position, WATCH_BATCH)
                for event in events:
                    position = event.position
                    yield payments_pb2.WatchResponse(
                        event=event_message(event.type, event.payment),
                        cursor=_cursor_of(position),
                    )
                if len(events) < WATCH_BATCH:
                    yield payments_pb2.WatchResponse(cursor=_cursor_of(position), caught_up=True)
                    await self._payments.wait_for_commit(WATCH_HEARTBEAT_SECONDS)
        finally:
            self._watchers_free += 1


CANCELABLE = frozenset({Status.REQUIRES_CAPTURE, Status.REQUIRES_ACTION})


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
        if raw.startswith(_CURSOR_PREFIX):
            return int(raw.removeprefix(_CURSOR_PREFIX))
    except (binascii.Error, ValueError):
        pass
    raise Refusal(
        Kind.INVALID_ARGUMENT,
        "CURSOR_INVALID",
        "The cursor was not made by Watch.",
        remedy="Use the cursor of the last answer, or an empty one.",
        field="cursor",
    )
