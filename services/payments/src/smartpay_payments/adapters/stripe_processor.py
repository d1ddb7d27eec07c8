"""Stripe PaymentIntents by the unmodified SDK (API reference: https://docs.stripe.com/api).

The SDK never retries by itself: a retry is a decision of the story, with the stored key and body.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import stripe
import structlog

from smartpay_payments.domain.declines import is_soft
from smartpay_payments.domain.payment import (
    Attempt,
    CaptureMethod,
    Initiator,
    Payment,
    PendingCommand,
    Refund,
    RefundStatus,
)
from smartpay_payments.domain.saga import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    Outcome,
    RefundOutcome,
)

# Otherwise the SDK writes an id into the home folder and sends the platform with each call.
stripe.enable_telemetry = False

log = structlog.get_logger()

# Stripe forgets a key after 24 h; a replay later would be a second charge.
KEY_LIFE = timedelta(hours=23)
# Stripe's list is sorted by creation; clocks of two machines differ by less than this.
CLOCK_SKEW = timedelta(minutes=5)
LIST_PAGES_MAX = 20
EXPAND = ["latest_charge.balance_transaction"]


class StripeProcessor:
    """The port `Processor` for Stripe accounts.

    Args:
        keys: secret key by processor account id.
        api_base: Stripe's address, or the sandbox's.
        return_url: where the payer's browser goes after 3-D Secure.
        timeout_seconds: of one call.
        clock: the time, aware.
    """

    def __init__(
        self,
        keys: Mapping[str, str],
        api_base: str,
        return_url: str,
        timeout_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        self._http = stripe.AIOHTTPClient(timeout=timeout_seconds)
        self._clients = {
            account: stripe.StripeClient(
                key,
                base_addresses={"api": api_base},
                http_client=self._http,
                max_network_retries=0,
            )
            for account, key in keys.items()
        }
        self._return_url = return_url
        self._clock = clock

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        """Writes the body of POST /v1/payment_intents as JSON."""
        order = payment.order
        body: dict[str, Any] = {
            "amount": order.amount.minor_units,
            "currency": order.amount.currency_code.lower(),
            "payment_method": order.tokens[processor_account_id],
            "allowed_payment_method_types": ["card"],
            "confirm": True,
            "capture_method": (
                "automatic" if order.capture_method is CaptureMethod.AUTOMATIC else "manual"
            ),
            "metadata": {
                "payment_id": payment.payment_id,
                "attempt_index": str(attempt_index),
            },
            "expand": EXPAND,
        }
        if order.off_session or order.initiator is Initiator.MERCHANT:
            body["off_session"] = True
        else:
            body["return_url"] = self._return_url
        if order.statement_descriptor:
            body["statement_descriptor_suffix"] = order.statement_descriptor
        if order.merchant_order_id:
            body["metadata"]["merchant_order_id"] = order.merchant_order_id
        return json.dumps(body)

    async def charge(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Sends the stored request under the stored key while Stripe remembers the key."""
        client = self._clients[attempt.processor_account_id]
        if self._clock() - attempt.start_time > KEY_LIFE:
            return await self._search(payment, attempt)
        try:
            intent = await client.v1.payment_intents.create_async(
                params=json.loads(attempt.request_body),
                options={"idempotency_key": attempt.processor_key},
            )
        except stripe.StripeError as error:
            if _is_burnt(error):
                return await self._search(payment, attempt)
            return _refused(error)
        return outcome_of(intent)

    async def _search(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Finds the charge by its metadata. Conclusive only once the first call has ended."""
        client = self._clients[attempt.processor_account_id]
        since = int((attempt.start_time - CLOCK_SKEW).timestamp())
        params: dict[str, Any] = {"created": {"gte": since}, "limit": 100, "expand": []}
        wanted = {"payment_id": payment.payment_id, "attempt_index": str(attempt.attempt_index)}
        try:
            for _ in range(LIST_PAGES_MAX):
                page = await client.v1.payment_intents.list_async(params=params)  # type: ignore[arg-type]
                for intent in page.data:
                    metadata = intent.metadata.to_dict() if intent.metadata else {}
                    if wanted.items() <= metadata.items():
                        return await self._read(client, intent.id)
                if not page.has_more:
                    break
                params["starting_after"] = page.data[-1].id
        except stripe.StripeError as error:
            return NotKnown(_code(error))
        if self._clock() - attempt.start_time > KEY_LIFE:
            # Nothing there, yet nobody can prove that nothing was charged elsewhere.
            return NotKnown("key_expired")
        # The key is burnt, so execution has ended, and it left no charge.
        return Declined("processing_error", soft=True)

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Reads the intent."""
        client = self._clients[attempt.processor_account_id]
        try:
            return await self._read(client, attempt.processor_payment_id)
        except stripe.StripeError as error:
            return NotKnown(_code(error), attempt.processor_payment_id)

    async def _read(self, client: stripe.StripeClient, intent_id: str) -> Outcome:
        intent = await client.v1.payment_intents.retrieve_async(
            intent_id,
            params={"expand": EXPAND},
        )
        return outcome_of(intent)

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        """Captures the intent; a replay of a burnt key reads it instead."""
        client = self._clients[attempt.processor_account_id]
        try:
            intent = await client.v1.payment_intents.capture_async(
                attempt.processor_payment_id,
                params={"amount_to_capture": pending.amount_minor, "expand": EXPAND},
                options={"idempotency_key": pending.processor_key},
            )
        except stripe.StripeError as error:
            if _is_burnt(error):
                return await self.look(payment, attempt)
            return _refused(error)
        return outcome_of(intent)

    async def cancel(self, payment: Payment, attempt: Attempt, key: str) -> Outcome:
        """Cancels the intent."""
        client = self._clients[attempt.processor_account_id]
        try:
            intent = await client.v1.payment_intents.cancel_async(
                attempt.processor_payment_id, options={"idempotency_key": key}
            )
        except stripe.StripeError as error:
            if _is_burnt(error):
                return await self.look(payment, attempt)
            return _refused(error)
        return outcome_of(intent)

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        """Refunds the intent under the refund's own id as key."""
        client = self._clients[attempt.processor_account_id]
        try:
            made = await client.v1.refunds.create_async(
                params={
                    "payment_intent": attempt.processor_payment_id,
                    "amount": refund.amount.minor_units,
                    "reason": refund.reason.value.lower(),
                    "metadata": {"refund_id": refund.refund_id},
                },
                options={"idempotency_key": refund.refund_id},
            )
        except stripe.StripeError as error:
            if _is_burnt(error):
                return await self._search_refund(client, attempt, refund)
            refused = _refused(error)
            if isinstance(refused, Declined):
                return RefundOutcome(RefundStatus.FAILED, failure_code=refused.code)
            return RefundOutcome(RefundStatus.UNKNOWN)
        return _refund_outcome(made)

    async def _search_refund(
        self, client: stripe.StripeClient, attempt: Attempt, refund: Refund
    ) -> RefundOutcome:
        try:
            page = await client.v1.refunds.list_async(
                params={"payment_intent": attempt.processor_payment_id, "limit": 100}
            )
        except stripe.StripeError:
            return RefundOutcome(RefundStatus.UNKNOWN)
        for made in page.data:
            metadata = made.metadata.to_dict() if made.metadata else {}
            if metadata.get("refund_id") == refund.refund_id:
                return _refund_outcome(made)
        return RefundOutcome(RefundStatus.FAILED, failure_code="processing_error")


def outcome_of(intent: stripe.PaymentIntent) -> Outcome:
    """Reads what an intent's status means for the story."""
    match intent.status:
        case "succeeded":
            charge = intent.latest_charge
            fee = 0
            if isinstance(charge, stripe.Charge) and isinstance(
                charge.balance_transaction, stripe.BalanceTransaction
            ):
                fee = charge.balance_transaction.fee
            return Charged(intent.id, intent.amount, intent.amount_received, fee)
        case "requires_capture":
            return Charged(intent.id, intent.amount_capturable, 0)
        case "requires_action":
            action = intent.next_action
            redirect = action.redirect_to_url if action is not None else None
            return ActionRequired(intent.id, (redirect.url or "") if redirect else "")
        case "canceled":
            return Canceled(intent.id)
        case "requires_payment_method" | "requires_confirmation":
            error = intent.last_payment_error
            code = (error.decline_code or error.code or "") if error is not None else ""
            advice = (error.advice_code or "") if error is not None else ""
            return Declined(code or "declined", is_soft(code, advice), intent.id)
        case _:
            return NotKnown("processor_is_processing", intent.id)


def _refund_outcome(made: stripe.Refund) -> RefundOutcome:
    match made.status:
        case "succeeded":
            return RefundOutcome(RefundStatus.SUCCEEDED, made.id)
        case "failed" | "canceled":
            return RefundOutcome(RefundStatus.FAILED, made.id, made.failure_reason or "failed")
        case _:
            return RefundOutcome(RefundStatus.PENDING, made.id)


def _is_burnt(error: stripe.StripeError) -> bool:
    """Tells whether Stripe replays a stored server error: execution ended, the key is spent."""
    headers = {k.lower(): v for k, v in (error.headers or {}).items()}
    return (error.http_status or 0) >= 500 and headers.get("idempotent-replayed") == "true"


def _code(error: stripe.StripeError) -> str:
    return error.code or type(error).__name__


def _refused(error: stripe.StripeError) -> Outcome:
    """Reads an error: an explicit no, or no usable answer."""
    if isinstance(error, stripe.CardError):
        detail = error.error
        intent = detail.payment_intent if detail is not None else None
        code = (detail.decline_code if detail is not None else None) or _code(error)
        advice = (getattr(detail, "advice_code", None) if detail is not None else None) or ""
        return Declined(code, is_soft(code, advice), intent.id if intent is not None else "")
    if isinstance(error, stripe.IdempotencyError):
        # The stored body makes this impossible; if it happens, nobody may guess.
        log.error("stripe refused a stored request under its own key", code=_code(error))
        return NotKnown("idempotency_mismatch")
    if isinstance(error, stripe.APIConnectionError) or (error.http_status or 500) >= 500:
        return NotKnown("no_answer")
    if error.http_status == 409:
        return NotKnown("first_request_in_flight")
    # 400, 401, 403, 404, 429: refused before execution, so another account may be tried.
    return Declined(f"refused_{_code(error)}", soft=True)
