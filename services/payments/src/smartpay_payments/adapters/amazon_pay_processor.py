"""Amazon Pay wallets (https://developer.amazon.com/docs/amazon-pay-api-v2/introduction.html).

Two kinds of token. `checkout`: the payer is there, is sent to Amazon's page and agrees; completing
the Checkout Session is the one step that moves money. A Charge Permission's id: the payer agreed
before, and POST /charges charges under the attempt's key.

Why a completion can't charge twice, without a key: a session can be completed once, Amazon refuses
every further try, and the amount must be the one the payer saw. A key would do harm: Amazon keeps
the first answer under a key for ever, so a completion that came before the payer's consent would be
refused for ever. Keys are used where money moves without such a state: charges, captures, refunds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from smartpay_payments.adapters.amazon_pay_client import (
    AmazonPayClient,
    AmazonPayRefusedError,
    NoAnswerError,
)
from smartpay_payments.adapters.amazon_pay_objects import (
    charge_outcome,
    declined,
    minor_units,
    price,
    reason_of,
    refund_outcome,
    snake_case,
    state_of,
)
from smartpay_payments.domain.payment import (
    ActionKind,
    Attempt,
    CaptureMethod,
    Initiator,
    NextAction,
    Payment,
    PendingCommand,
    Refund,
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

CHECKOUT = "checkout"
"""The token of a payer who will agree on Amazon's page."""
SIMULATION = "amazon_pay_simulation_code"
"""Metadata that names what Amazon's sandbox is to simulate; live accounts never send it."""
# What Amazon's sandbox simulates where; any other code on a call is an error there.
SIMULATED_AT_COMPLETION = frozenset(
    {"AmazonCanceled", "AuthorizationInitiated", "BuyerCanceled", "Declined"}
)
SIMULATED_AT_CHARGE = frozenset(
    {
        "AmazonRejected",
        "AuthorizationInitiated",
        "HardDeclined",
        "ProcessingFailure",
        "SoftDeclined",
        "TransactionTimedOut",
    }
)
# A session whose id never came back can't be completed by anybody, so giving it up is safe. Two
# minutes outlive every short outage; longer would only keep a payer waiting at the till.
SESSION_PATIENCE = timedelta(minutes=2)
KEY = re.compile(r"[A-Za-z0-9_-]{1,32}")
CHARGE_ID = re.compile(r"[A-Z]\d{2}-\d{7}-\d{7}-C\d{6}")
SESSION_ID = re.compile(r"[0-9a-f-]{36}")
DESCRIPTOR_LENGTH_MAX, NOTE_LENGTH_MAX = 16, 255  # Amazon's published limits
# Refusals at the door: the request was not looked at.
DOOR = frozenset({401, 403, 429})
DOOR_CODES = frozenset({"InvalidHeaderValue", "MissingHeader", "MissingHeaderValue"})


class AmazonPayProcessor:
    """The port `Processor` for Amazon Pay accounts.

    Args:
        client: calls Amazon Pay.
        return_url: where Amazon sends the payer's browser back to.
        clock: the time, aware.
    """

    def __init__(
        self, client: AmazonPayClient, return_url: str, clock: Callable[[], datetime]
    ) -> None:
        self._client = client
        self._return_url = return_url
        self._clock = clock

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    # ---- charge ------------------------------------------------------------------------------

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        """Writes the body of POST /checkoutSessions or, for a Charge Permission, /charges.

        Raises:
            Refusal: Amazon Pay does not know the currency.
        """
        order = payment.order
        token = order.tokens[processor_account_id]
        amount = price(order.amount.minor_units, order.amount.currency_code)
        captures = order.capture_method is CaptureMethod.AUTOMATIC
        metadata = {"merchantReferenceId": payment.payment_id}
        if order.description:
            metadata["noteToBuyer"] = order.description[:NOTE_LENGTH_MAX]
        if order.merchant_order_id:
            metadata["customInformation"] = f"order {order.merchant_order_id}"
        details: dict[str, Any] = {
            "chargeAmount": amount,
            # Amazon waits for its decision only where we capture later anyway.
            "canHandlePendingAuthorization": not captures,
        }
        if captures and order.statement_descriptor:
            details["softDescriptor"] = order.statement_descriptor[:DESCRIPTOR_LENGTH_MAX]
        if token != CHECKOUT:
            return json.dumps(
                {
                    "chargePermissionId": token,
                    **details,
                    "captureNow": captures,
                    "merchantMetadata": metadata,
                }
            )
        return json.dumps(
            {
                "webCheckoutDetails": {
                    "checkoutMode": "ProcessOrder",
                    "checkoutResultReturnUrl": self._return_url,
                    "checkoutCancelUrl": self._return_url,
                },
                "storeId": self._client.accounts[processor_account_id].store_id,
                "chargePermissionType": "OneTime",
                "paymentDetails": {**details, "paymentIntent": _intent(payment)},
                "merchantMetadata": metadata,
            }
        )

    async def charge(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Sends the stored request under the stored key; Amazon remembers keys for ever."""
        checkout = _is_checkout(attempt)
        order = payment.order
        if checkout and (order.off_session or order.initiator is Initiator.MERCHANT):
            return Declined("authentication_required", soft=False)
        try:
            made = await self._client.call(
                attempt.processor_account_id,
                "POST",
                "checkoutSessions" if checkout else "charges",
                attempt.request_body,
                idempotency_key=_key(attempt.processor_key),
                simulation_code="" if checkout else self._simulated(payment, SIMULATED_AT_CHARGE),
            )
        except AmazonPayRefusedError as error:
            return _refused(error)
        except NoAnswerError:
            if checkout and self._clock() - attempt.start_time > SESSION_PATIENCE:
                return Declined("processing_error", soft=True)
            return NotKnown("no_answer")
        if checkout:
            return self._session_outcome(payment, made)
        return charge_outcome(payment, made)

    def _simulated(self, payment: Payment, known: frozenset[str]) -> str:
        code = payment.order.metadata.get(SIMULATION, "")
        return code if code in known and not payment.livemode else ""

    # ---- look --------------------------------------------------------------------------------

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Reads how the charge stands; completes a session whose payer has agreed meanwhile."""
        object_id = attempt.processor_payment_id
        try:
            if CHARGE_ID.fullmatch(object_id):
                return await self._read_charge(payment, attempt, object_id)
            if SESSION_ID.fullmatch(object_id):
                return await self._look_at_session(payment, attempt, object_id)
        except AmazonPayRefusedError as error:
            return NotKnown(snake_case(error.reason_code), object_id)
        except NoAnswerError:
            return NotKnown("no_answer", object_id)
        return NotKnown("not_an_amazon_pay_id", object_id)

    async def _read_charge(self, payment: Payment, attempt: Attempt, charge_id: str) -> Outcome:
        found = await self._client.call(attempt.processor_account_id, "GET", f"charges/{charge_id}")
        return charge_outcome(payment, found)

    async def _look_at_session(
        self, payment: Payment, attempt: Attempt, session_id: str
    ) -> Outcome:
        account, path = attempt.processor_account_id, f"checkoutSessions/{session_id}"
        session = await self._client.call(account, "GET", path)
        amount = payment.order.amount
        # An attempt that has ended is looked at for what it came to, never to be charged.
        is_open = attempt.end_time is None and not _is_fenced(payment, session)
        if state_of(session) == "Open" and is_open:
            body = {"chargeAmount": price(amount.minor_units, amount.currency_code)}
            try:
                session = await self._client.call(
                    account,
                    "POST",
                    f"{path}/complete",
                    json.dumps(body),
                    simulation_code=self._simulated(payment, SIMULATED_AT_COMPLETION),
                )
            except AmazonPayRefusedError as error:
                if error.status in DOOR:
                    raise
                # The payer has not agreed yet, or another look was faster: ask which.
                session = await self._client.call(account, "GET", path)
        charge_id = session.get("chargeId")
        if state_of(session) == "Completed" and isinstance(charge_id, str):
            try:
                return await self._read_charge(payment, attempt, charge_id)
            except (AmazonPayRefusedError, NoAnswerError):
                return NotKnown("no_answer", charge_id)
        return self._session_outcome(payment, session)

    def _session_outcome(self, payment: Payment, session: dict[str, Any]) -> Outcome:
        """Reads what a session that made no charge means for the story."""
        session_id = session.get("checkoutSessionId")
        if not isinstance(session_id, str):
            return NotKnown("unreadable_answer")
        match state_of(session):
            case "Open" | "Completed" if _is_fenced(payment, session):
                return Canceled(session_id)
            case "Open":
                web = session.get("webCheckoutDetails") or {}
                url = web.get("amazonPayRedirectUrl") or ""
                return ActionRequired(session_id, NextAction(ActionKind.AMAZON_CHECKOUT, url))
            case "Canceled" if reason_of(session) == "Declined":
                return Declined("payment_declined", soft=False, processor_payment_id=session_id)
            case "Canceled":
                return Canceled(session_id)
            case _:
                return NotKnown("unknown_state", session_id)

    # ---- capture and cancel ------------------------------------------------------------------

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        """Captures the charge; when there is no answer, reads whether it is captured."""
        currency = payment.order.amount.currency_code
        charge_id = attempt.processor_payment_id
        try:
            found = await self._client.call(
                attempt.processor_account_id,
                "POST",
                f"charges/{charge_id}/capture",
                json.dumps({"captureAmount": price(pending.amount_minor, currency)}),
                idempotency_key=_key(pending.processor_key),
            )
        except AmazonPayRefusedError as error:
            return _refused(error)
        except NoAnswerError:
            # Under a key that holds a server error every replay is one, so the charge is asked.
            looked = await self.look(payment, attempt)
            if isinstance(looked, Charged) and not looked.captured_minor:
                return NotKnown("no_answer", charge_id)
            return looked
        return charge_outcome(payment, found)

    async def cancel(self, payment: Payment, attempt: Attempt, key: str) -> Outcome:
        """Gives the charge up.

        The fence of an open session: it then offers another amount and no charge at all, so
        that a completion under way is refused. Of a charge out of a session: its permission is
        closed, so that nothing can be charged under it. Of any other charge: it is canceled; the
        payer's permission stays. Repeating any of them changes nothing, so no key is needed.
        """
        object_id = attempt.processor_payment_id
        if CHARGE_ID.fullmatch(object_id):
            return await self._cancel_charge(payment, attempt, object_id)
        if not SESSION_ID.fullmatch(object_id):
            return NotKnown("not_an_amazon_pay_id", object_id)
        offer = {
            "paymentIntent": "Confirm",
            "canHandlePendingAuthorization": False,
            "chargeAmount": price(_fence_minor(payment), payment.order.amount.currency_code),
        }
        try:
            session = await self._client.call(
                attempt.processor_account_id,
                "PATCH",
                f"checkoutSessions/{object_id}",
                json.dumps({"paymentDetails": offer}),
            )
        except AmazonPayRefusedError as error:
            return _refused(error)
        except NoAnswerError:
            return NotKnown("no_answer", object_id)
        return self._session_outcome(payment, session)

    async def _cancel_charge(self, payment: Payment, attempt: Attempt, charge_id: str) -> Outcome:
        account = attempt.processor_account_id
        try:
            if _is_checkout(attempt):
                permission_id = charge_id.rpartition("-")[0]
                await self._client.call(
                    account,
                    "DELETE",
                    f"chargePermissions/{permission_id}/close",
                    json.dumps({"closureReason": "canceled", "cancelPendingCharges": True}),
                )
            else:
                await self._client.call(
                    account,
                    "DELETE",
                    f"charges/{charge_id}/cancel",
                    json.dumps({"cancellationReason": "canceled"}),
                )
        except AmazonPayRefusedError as error:
            if error.status in DOOR:
                return _refused(error)
            log.info("amazon pay refused to cancel", reason_code=error.reason_code)
        except NoAnswerError:
            return NotKnown("no_answer", charge_id)
        outcome = await self.look(payment, attempt)
        if isinstance(outcome, Charged | Pending):
            return Declined("refused_invalid_charge_status", soft=True)
        return outcome

    # ---- refunds -----------------------------------------------------------------------------

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        """Refunds the charge under the refund's own id as key, or reads how its refund stands."""
        account = attempt.processor_account_id
        try:
            if refund.processor_refund_id:
                path = f"refunds/{refund.processor_refund_id}"
                return refund_outcome(await self._client.call(account, "GET", path))
            amount = price(refund.amount.minor_units, refund.amount.currency_code)
            body = {"chargeId": attempt.processor_payment_id, "refundAmount": amount}
            made = await self._client.call(
                account,
                "POST",
                "refunds",
                json.dumps(body),
                idempotency_key=_key(refund.refund_id),
            )
        except AmazonPayRefusedError as error:
            refused = _refused(error)
            if isinstance(refused, Declined) and not refund.processor_refund_id:
                return RefundOutcome(RefundStatus.FAILED, failure_code=refused.code)
            return RefundOutcome(RefundStatus.UNKNOWN)
        except NoAnswerError:
            if refund.processor_refund_id:
                return RefundOutcome(RefundStatus.UNKNOWN)
            return await self._look_for_refund(payment, attempt, refund)
        return refund_outcome(made)

    async def _look_for_refund(
        self, payment: Payment, attempt: Attempt, refund: Refund
    ) -> RefundOutcome:
        """Asks the charge whether the money went back; only a yes is proof.

        Amazon lists no refunds. While others of the charge are open, too, only the money of all
        of them together tells whose it was.
        """
        others = [
            r
            for r in payment.refunds
            if r.refund_id != refund.refund_id and r.attempt_index == refund.attempt_index
        ]
        path = f"charges/{attempt.processor_payment_id}"
        try:
            found = await self._client.call(attempt.processor_account_id, "GET", path)
            gone = minor_units(found.get("refundedAmount"), refund.amount.currency_code)
        except (AmazonPayRefusedError, NoAnswerError, ValueError):
            return RefundOutcome(RefundStatus.UNKNOWN)
        due = refund.amount.minor_units + sum(
            r.amount.minor_units for r in others if r.status is not RefundStatus.FAILED
        )
        if gone == due:
            return RefundOutcome(RefundStatus.SUCCEEDED)
        return RefundOutcome(RefundStatus.UNKNOWN)

    async def standing(self, payment: Payment, attempt: Attempt) -> Standing | None:
        """Knows nothing more: Amazon tells fees in reports, disputes in notifications alone."""
        return Standing()


def _intent(payment: Payment) -> str:
    captures = payment.order.capture_method is CaptureMethod.AUTOMATIC
    return "AuthorizeWithCapture" if captures else "Authorize"


def _is_checkout(attempt: Attempt) -> bool:
    return "chargePermissionId" not in json.loads(attempt.request_body)


def _fence_minor(payment: Payment) -> int:
    """Answers an amount that is surely not the payment's, in minor units."""
    return 2 if payment.order.amount.minor_units == 1 else 1


def _is_fenced(payment: Payment, session: dict[str, Any]) -> bool:
    """Tells whether `cancel` has changed what the session offers."""
    details = session.get("paymentDetails") or {}
    try:
        offered = minor_units(details.get("chargeAmount"), payment.order.amount.currency_code)
    except ValueError:
        return False
    return offered == _fence_minor(payment) and details.get("paymentIntent") == "Confirm"


def _key(text: str) -> str:
    """Answers a key Amazon takes: ours fit but for the eleventh attempt on, which are hashed."""
    return text if KEY.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()[:32]


def _refused(error: AmazonPayRefusedError) -> Outcome:
    """Reads a refusal. Only what Amazon itself is known to refuse is a no; all else is open."""
    code = snake_case(error.reason_code)
    if error.status in DOOR or error.reason_code in DOOR_CODES:
        # A rate limit is weather; wrong credentials are for somebody to mend.
        level = log.warning if error.status == 429 else log.error
        level("amazon pay turned a request away", status=error.status, reason_code=code)
        return NotTaken(code)
    if error.reason_code == "DuplicateIdempotencyKey":
        # The stored body makes this impossible; if it happens, nobody may guess.
        log.error("amazon pay refused a stored request under its own key")
        return NotKnown("idempotency_mismatch")
    if error.status == 409:
        return NotKnown("first_request_in_flight")
    if (no := declined(error.reason_code)) is not None:
        return no
    # The same body is refused each time, so an earlier call did nothing either.
    return Declined(f"refused_{code}", soft=True)
