"""Stripe PaymentIntents by the unmodified SDK (API reference: https://docs.stripe.com/api).

The SDK never retries by itself: a retry is a decision of the story, with the stored key and body.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import stripe
import structlog
from stripe import BalanceTransaction, Charge

from smartpay_chassis.ids import derive
from smartpay_payments.adapters.stripe_amounts import from_stripe, to_stripe
from smartpay_payments.adapters.stripe_clients import FAILURES, StripeClients
from smartpay_payments.domain.declines import is_soft
from smartpay_payments.domain.payment import (
    ActionKind,
    Attempt,
    CaptureMethod,
    Dispute,
    DisputeStatus,
    Initiator,
    NextAction,
    Payment,
    PendingCommand,
    Refund,
    RefundReason,
    RefundStatus,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Outcome,
    Pending,
    RefundOutcome,
    Standing,
)

log = structlog.get_logger()

# Stripe forgets a key after 24 h; a replay later would be a second charge.
KEY_LIFE = timedelta(hours=23)
# Stripe's list is sorted by creation; clocks of two machines differ by less than this.
CLOCK_SKEW = timedelta(minutes=5)
LIST_PAGES_MAX = 20  # of 100; a search that goes on longer is left to a person
EXPAND = ["latest_charge.balance_transaction"]
# Stripe knows no overpayments; what is given back as one was charged in addition.
_REFUND_REASONS = {RefundReason.OVERPAYMENT: "duplicate"}


class StripeProcessor:
    """The port `Processor` for Stripe accounts.

    Args:
        keys: secret key by processor account id; read anew for each call.
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
        self._clients = StripeClients(keys, api_base, timeout_seconds)
        self._return_url = return_url
        self._clock = clock

    @property
    def clients(self) -> StripeClients:
        """The SDK's clients, for what else is asked of the same accounts."""
        return self._clients

    async def close(self) -> None:
        """Closes the connections."""
        await self._clients.close()

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        """Writes the body of POST /v1/payment_intents as JSON."""
        order = payment.order
        body: dict[str, Any] = {
            "amount": to_stripe(order.amount.minor_units, order.amount.currency_code),
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
        if processor_account_id in order.payers:
            body["customer"] = order.payers[processor_account_id]
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
        except FAILURES as error:
            if _is_burnt(error):
                return await self._search(payment, attempt)
            return _refused(error)
        return outcome_of(intent)

    async def _search(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Finds the charge by its metadata. Conclusive only once the first call has ended."""
        client = self._clients[attempt.processor_account_id]
        since = int((attempt.start_time - CLOCK_SKEW).timestamp())
        wanted = {"payment_id": payment.payment_id, "attempt_index": str(attempt.attempt_index)}
        try:
            async for intent in _listed(
                client.v1.payment_intents.list_async, {"created": {"gte": since}}
            ):
                if wanted.items() <= _metadata(intent).items():
                    return await self._read(client, payment, intent.id)
        except (*FAILURES, _UnfinishedSearchError) as error:
            return NotKnown(_code(error))
        if self._clock() - attempt.start_time > KEY_LIFE:
            # Nothing there, yet nobody can prove that nothing was charged elsewhere.
            return NotKnown("key_expired")
        # The key is burnt, so execution has ended, and it left no charge.
        return Declined("processing_error", soft=True)

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Reads the intent; one whose id never came back is searched for."""
        if not attempt.processor_payment_id:
            return await self._search(payment, attempt)
        client = self._clients[attempt.processor_account_id]
        try:
            return await self._read(client, payment, attempt.processor_payment_id)
        except FAILURES as error:
            return NotKnown(_code(error), attempt.processor_payment_id)

    async def _read(self, client: stripe.StripeClient, payment: Payment, intent_id: str) -> Outcome:
        intent = await client.v1.payment_intents.retrieve_async(
            intent_id,
            params={"expand": EXPAND},
        )
        if _text(intent, "currency").upper() not in ("", payment.order.amount.currency_code):
            return NotKnown("currency_mismatch", intent_id)
        return outcome_of(intent)

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        """Captures the intent; a replay of a burnt key reads it instead."""
        client = self._clients[attempt.processor_account_id]
        try:
            intent = await client.v1.payment_intents.capture_async(
                attempt.processor_payment_id,
                params={
                    "amount_to_capture": to_stripe(
                        pending.amount_minor, payment.order.amount.currency_code
                    ),
                    "expand": EXPAND,
                },
                options={"idempotency_key": pending.processor_key},
            )
        except FAILURES as error:
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
        except FAILURES as error:
            if _is_burnt(error):
                return await self.look(payment, attempt)
            return _refused(error)
        return outcome_of(intent)

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        """Refunds the intent under the refund's own id as key, or reads how its refund stands."""
        client = self._clients[attempt.processor_account_id]
        try:
            if refund.processor_refund_id:
                made = await client.v1.refunds.retrieve_async(refund.processor_refund_id)
            elif self._clock() - refund.create_time > KEY_LIFE:
                return await self._search_refund(client, attempt, refund)
            else:
                made = await client.v1.refunds.create_async(
                    params={
                        "payment_intent": attempt.processor_payment_id,
                        "amount": to_stripe(refund.amount.minor_units, refund.amount.currency_code),
                        "reason": _REFUND_REASONS.get(refund.reason, refund.reason.value.lower()),
                        "metadata": {"refund_id": refund.refund_id},
                    },
                    options={"idempotency_key": refund.refund_id},
                )
        except FAILURES as error:
            if _is_burnt(error):
                return await self._search_refund(client, attempt, refund)
            refused = _refused(error)
            if isinstance(refused, Declined) and not refund.processor_refund_id:
                return RefundOutcome(RefundStatus.FAILED, failure_code=refused.code)
            return RefundOutcome(RefundStatus.UNKNOWN)
        return _refund_outcome(made)

    async def standing(self, payment: Payment, attempt: Attempt) -> Standing | None:
        """Reads disputes and the fee."""
        client = self._clients[attempt.processor_account_id]
        try:
            intent = await client.v1.payment_intents.retrieve_async(
                attempt.processor_payment_id, params={"expand": EXPAND}
            )
            if not _is_stripes(intent):
                return None
            disputes = [
                _dispute_of(payment, made, self._clock())
                async for made in _listed(
                    client.v1.disputes.list_async,
                    {"payment_intent": attempt.processor_payment_id},
                )
            ]
        except (*FAILURES, _UnfinishedSearchError):
            return None
        outcome = outcome_of(intent)
        fee = outcome.fee_minor if isinstance(outcome, Charged) else 0
        return Standing(tuple(reversed(disputes)), fee)

    async def submit_evidence(
        self, payment: Payment, attempt: Attempt, dispute: Dispute, evidence: dict[str, str]
    ) -> Dispute | None:
        """Hands in evidence for good; repeating it hands in the same."""
        client = self._clients[attempt.processor_account_id]
        try:
            made = await client.v1.disputes.update_async(
                dispute.processor_dispute_id,
                params={"evidence": cast(Any, evidence), "submit": True},
            )
        except FAILURES:
            return None
        return _dispute_of(payment, made, self._clock())

    async def accept(self, payment: Payment, attempt: Attempt, dispute: Dispute) -> Dispute | None:
        """Closes the dispute, which gives it up."""
        client = self._clients[attempt.processor_account_id]
        try:
            made = await client.v1.disputes.close_async(dispute.processor_dispute_id)
        except FAILURES:
            return None
        return _dispute_of(payment, made, self._clock())

    async def _search_refund(
        self, client: stripe.StripeClient, attempt: Attempt, refund: Refund
    ) -> RefundOutcome:
        """Finds the refund by its metadata. Conclusive: the first call ended long ago."""
        filters = {"payment_intent": attempt.processor_payment_id}
        try:
            async for made in _listed(client.v1.refunds.list_async, filters):
                if _metadata(made).get("refund_id") == refund.refund_id:
                    return _refund_outcome(made)
        except (*FAILURES, _UnfinishedSearchError):
            return RefundOutcome(RefundStatus.UNKNOWN)
        return RefundOutcome(RefundStatus.FAILED, failure_code="processing_error")


class _UnfinishedSearchError(Exception):
    """The list is longer than anyone should page through, so nothing is proven."""


async def _listed(
    read_page: Callable[..., Awaitable[Any]], filters: Mapping[str, Any]
) -> AsyncIterator[Any]:
    """Yields what a list of Stripe's holds, page after page, newest first."""
    params: dict[str, Any] = {**filters, "limit": 100}
    for _ in range(LIST_PAGES_MAX):
        page = await read_page(params=params)
        for item in page.data:
            yield item
        if not page.has_more:
            return
        params["starting_after"] = page.data[-1].id
    raise _UnfinishedSearchError


def _metadata(item: stripe.PaymentIntent | stripe.Refund) -> dict[str, str]:
    return item.metadata.to_dict() if item.metadata else {}


def _text(item: object, name: str) -> str:
    """Reads a text that Stripe may leave out; the SDK's objects raise for what is absent."""
    return getattr(item, name, None) or ""


def outcome_of(intent: stripe.PaymentIntent) -> Outcome:
    """Reads what an intent's status means for the story."""
    if not _is_stripes(intent):
        return NotKnown("unreadable_answer")
    match intent.status:
        case "succeeded":
            # By item: on each payment's way, and the SDK's attributes take six times as long.
            charge, currency = intent["latest_charge"], intent["currency"]
            fee = refunded = 0
            if isinstance(charge, Charge):
                refunded = getattr(charge, "amount_refunded", None) or 0
                moved = charge["balance_transaction"]
                # In another currency it is the settlement's to tell.
                if isinstance(moved, BalanceTransaction) and moved["currency"] == currency:
                    fee = from_stripe(moved["fee"], currency)
            return Charged(
                intent["id"],
                from_stripe(intent["amount"], currency),
                from_stripe(intent["amount_received"], currency),
                fee,
                refunded_minor=from_stripe(refunded, currency),
            )
        case "requires_capture":
            return Charged(intent.id, from_stripe(intent.amount_capturable, intent.currency), 0)
        case "requires_action":
            redirect = getattr(intent.next_action, "redirect_to_url", None)
            return ActionRequired(
                intent.id, NextAction(ActionKind.REDIRECT, _text(redirect, "url"))
            )
        case "canceled":
            return Canceled(intent.id)
        case "processing":
            return Pending(intent.id, "processor_is_processing")
        case "requires_payment_method" | "requires_confirmation":
            error = intent.last_payment_error
            code = _text(error, "decline_code") or _text(error, "code")
            soft = is_soft(code, _text(error, "advice_code"))
            return Declined(code or "declined", soft, intent.id)
        case _:
            return NotKnown("processor_is_processing", intent.id)


_DISPUTES = {
    "needs_response": DisputeStatus.NEEDS_RESPONSE,
    "warning_needs_response": DisputeStatus.NEEDS_RESPONSE,
    "under_review": DisputeStatus.UNDER_REVIEW,
    "warning_under_review": DisputeStatus.UNDER_REVIEW,
    "won": DisputeStatus.WON,
    "warning_closed": DisputeStatus.WON,
    "prevented": DisputeStatus.WON,
    "lost": DisputeStatus.LOST,
}


def _dispute_of(payment: Payment, made: stripe.Dispute, now: datetime) -> Dispute:
    due = made.evidence_details.due_by if made.evidence_details else None
    charged = sum(from_stripe(t.fee, t.currency) for t in made.balance_transactions or ())
    return Dispute(
        dispute_id=derive("dis", payment.cell, payment.payment_id, made.id),
        processor_dispute_id=made.id,
        amount_minor=from_stripe(made.amount, made.currency),
        reason=made.reason,
        # A status that is not known yet holds the money: nobody has won.
        status=_DISPUTES.get(made.status, DisputeStatus.UNDER_REVIEW),
        create_time=datetime.fromtimestamp(made.created, UTC),
        update_time=now,
        evidence_due_time=datetime.fromtimestamp(due, UTC) if due else None,
        fee_minor=charged,
    )


def _is_stripes(item: object) -> bool:
    """Tells an object of Stripe's from what a proxy may answer; the SDK takes any JSON for one."""
    return bool(_text(item, "id") and _text(item, "status"))


def _refund_outcome(made: stripe.Refund) -> RefundOutcome:
    if not _is_stripes(made):
        return RefundOutcome(RefundStatus.UNKNOWN)
    match made.status:
        case "succeeded":
            return RefundOutcome(RefundStatus.SUCCEEDED, made.id)
        case "failed" | "canceled":
            return RefundOutcome(
                RefundStatus.FAILED, made.id, _text(made, "failure_reason") or "failed"
            )
        case _:
            return RefundOutcome(RefundStatus.PENDING, made.id)


def _is_burnt(error: Exception) -> bool:
    """Tells whether Stripe replays a stored server error: execution ended, the key is spent."""
    if not isinstance(error, stripe.StripeError):
        return False
    headers = {k.lower(): v for k, v in (error.headers or {}).items()}
    return (error.http_status or 0) >= 500 and headers.get("idempotent-replayed") == "true"


def _code(error: Exception) -> str:
    detail = error.error if isinstance(error, stripe.StripeError) else None
    return _text(error, "code") or _text(detail, "code") or type(error).__name__


def _refused(error: Exception) -> Outcome:
    """Reads an error. Only what Stripe itself is known to refuse is a no; all else is open."""
    match error:
        case stripe.CardError():
            code = _text(error.error, "decline_code") or _code(error)
            soft = is_soft(code, _text(error.error, "advice_code"))
            return Declined(code, soft, _text(getattr(error.error, "payment_intent", None), "id"))
        case stripe.IdempotencyError():
            # The stored body makes this impossible; if it happens, nobody may guess.
            log.error("stripe refused a stored request under its own key", code=_code(error))
            return NotKnown("idempotency_mismatch")
        case stripe.InvalidRequestError():
            # The same body is refused each time, so an earlier call did nothing either.
            return Declined(f"refused_{_code(error)}", soft=True)
        case stripe.RateLimitError():
            return NotTaken(_code(error))
        case stripe.AuthenticationError() | stripe.PermissionError():
            log.error("stripe refused the account's credentials", code=_code(error))
            return NotTaken(_code(error))
        case stripe.StripeError() if error.http_status == 409:
            return NotKnown("first_request_in_flight")
        case _:
            return NotKnown("no_answer")
