"""The adapter through the unmodified SDK against the sandbox that speaks Stripe's wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stripe

from smartpay_chassis.ids import derive
from smartpay_chassis.testing import DEMO_ACCOUNTS, FakeClock
from smartpay_payments.adapters import stripe_processor
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.payment import (
    ActionKind,
    Attempt,
    AttemptStatus,
    CaptureMethod,
    Command,
    Money,
    NextAction,
    Order,
    Payment,
    PendingCommand,
    Refund,
    RefundReason,
    RefundStatus,
    Status,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Pending,
    RefundOutcome,
)
from smartpay_sandbox.testing import StripeSandbox, stripe_sandbox

FIRST, SECOND = DEMO_ACCOUNTS
KEYS = {FIRST: "sk_test_first", SECOND: "sk_test_second"}
CREATE = "/v1/payment_intents"
NO_ANSWER = NotKnown("no_answer")


@dataclass
class Counter:
    """One Stripe adapter, its sandbox, and the clock of both."""

    sandbox: StripeSandbox
    processor: StripeProcessor
    clock: FakeClock

    def break_next(self, kind: str, path: str = CREATE, times: int = 1, **more: Any) -> None:
        rule = {"kind": kind, "times": times, "path_prefix": path, "method": "POST", **more}
        self.sandbox.simulator.set_faults([rule])

    def attempt(
        self, token: str = "pm_card_visa", account: str = FIRST, **changes: Any
    ) -> tuple[Payment, Attempt]:
        order = Order(
            amount=Money(1999, "USD"),
            tokens={account: token},
            fingerprint="",
            capture_method=CaptureMethod.AUTOMATIC,
        )
        payment = Payment(
            payment_id=derive("pay", "d1", "key"),
            merchant_id="mer_d1" + "m" * 24,
            livemode=False,
            order=replace(order, **changes),
            request_hash="",
            status=Status.PROCESSING,
            create_time=self.clock(),
            update_time=self.clock(),
        )
        attempt = Attempt(
            attempt_index=0,
            processor_account_id=account,
            processor="stripe",
            processor_key=f"{payment.payment_id}-0",
            request_body=self.processor.prepare(payment, account, 0),
            status=AttemptStatus.STARTED,
            start_time=self.clock(),
        )
        return payment, attempt

    async def charged(self, **order: Any) -> tuple[Payment, Attempt]:
        """Answers a payment and its attempt after a first charge that named an intent."""
        payment, attempt = self.attempt(**order)
        outcome = await self.processor.charge(payment, attempt)
        assert isinstance(outcome, Charged | ActionRequired)
        return payment, replace(attempt, processor_payment_id=outcome.processor_payment_id)

    def charges(self, account: str = "acct_first") -> list[dict[str, Any]]:
        return list(self.sandbox.account(account)["charges"].values())

    def refunds(self) -> list[dict[str, Any]]:
        return list(self.sandbox.account()["refunds"].values())

    def refund(self, minor: int, name: str = "r") -> Refund:
        return Refund(
            refund_id=derive("ref", "d1", name),
            amount=Money(minor, "USD"),
            reason=RefundReason.DUPLICATE,
            status=RefundStatus.PENDING,
            create_time=self.clock(),
            update_time=self.clock(),
        )

    def capture(self, minor: int, key: str = "capture") -> PendingCommand:
        return PendingCommand(Command.CAPTURE, minor, key, self.clock())

    async def payer(self, payment: Payment, attempt: Attempt, outcome: str) -> None:
        action = await self.processor.look(payment, attempt)
        assert isinstance(action, ActionRequired)
        async with (
            aiohttp.ClientSession() as browser,
            browser.post(f"{action.action.url}/authenticate?outcome={outcome}") as page,
        ):
            assert page.status == 200

    def later(self, **duration: float) -> None:
        self.clock.advance(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())


@pytest.fixture
async def counter(tmp_path: Path) -> AsyncIterator[Counter]:
    async with stripe_sandbox(tmp_path) as sandbox:
        clock = FakeClock(datetime.fromtimestamp(sandbox.clock(), UTC))
        processor = StripeProcessor(
            KEYS, sandbox.stripe_url, "https://shop.test/return", 5.0, clock
        )
        yield Counter(sandbox, processor, clock)
        await processor.close()


# ---- charges ---------------------------------------------------------------------------------


async def test_an_approved_charge_tells_amounts_and_fee(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    outcome = await counter.processor.charge(payment, attempt)
    assert isinstance(outcome, Charged)
    assert (outcome.authorized_minor, outcome.captured_minor, outcome.fee_minor) == (
        1999,
        1999,
        88,
    )
    (intent,) = counter.sandbox.account()["payment_intents"].values()
    assert intent["metadata"] == {"payment_id": payment.payment_id, "attempt_index": "0"}


async def test_each_account_charges_with_its_own_key(counter: Counter) -> None:
    payment, attempt = counter.attempt(account=SECOND)
    assert isinstance(await counter.processor.charge(payment, attempt), Charged)
    assert (len(counter.charges("acct_first")), len(counter.charges("acct_second"))) == (0, 1)


async def test_everything_an_order_says_reaches_stripe(counter: Counter) -> None:
    await counter.charged(statement_descriptor="SHOP", merchant_order_id="order-1")
    (intent,) = counter.sandbox.account()["payment_intents"].values()
    assert intent["statement_descriptor_suffix"] == "SHOP"
    assert intent["metadata"]["merchant_order_id"] == "order-1"


@pytest.mark.parametrize(
    ("token", "code", "soft"),
    [
        ("pm_card_chargeDeclined", "generic_decline", True),
        ("pm_card_chargeDeclinedProcessingError", "processing_error", True),
        ("pm_card_chargeDeclinedInsufficientFunds", "insufficient_funds", False),
        ("pm_card_chargeDeclinedLostCard", "lost_card", False),
        ("pm_card_chargeDeclinedStolenCard", "stolen_card", False),
        ("pm_card_chargeDeclinedVelocityLimitExceeded", "card_velocity_exceeded", False),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", False),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc", False),
        ("pm_card_radarBlock", "fraudulent", False),
    ],
)
async def test_a_decline_says_why_and_whether_another_account_may_try(
    counter: Counter, token: str, code: str, soft: bool
) -> None:
    payment, attempt = counter.attempt(token)
    outcome = await counter.processor.charge(payment, attempt)
    assert isinstance(outcome, Declined)
    assert (outcome.code, outcome.soft) == (code, soft)
    assert outcome.processor_payment_id.startswith("pi_")
    assert await counter.processor.charge(payment, attempt) == outcome, "a replay says the same"


async def test_an_off_session_charge_that_wants_the_payer_is_a_hard_decline(
    counter: Counter,
) -> None:
    payment, attempt = counter.attempt("pm_card_authenticationRequired", off_session=True)
    outcome = await counter.processor.charge(payment, attempt)
    assert isinstance(outcome, Declined)
    assert (outcome.code, outcome.soft) == ("authentication_required", False)


async def test_an_unknown_token_is_a_soft_refusal(counter: Counter) -> None:
    payment, attempt = counter.attempt("pm_nobody_knows")
    assert await counter.processor.charge(payment, attempt) == Declined(
        "refused_resource_missing", soft=True
    )


async def test_a_rate_limit_is_turned_away_and_leaves_nothing(counter: Counter) -> None:
    counter.break_next("rate_limit")
    payment, attempt = counter.attempt()
    assert await counter.processor.charge(payment, attempt) == NotTaken("rate_limit")
    assert counter.charges() == []


async def test_a_wrong_secret_key_is_turned_away(counter: Counter) -> None:
    processor = StripeProcessor(
        {FIRST: "sk_test_wrong"}, counter.sandbox.stripe_url, "https://x.test", 5.0, counter.clock
    )
    payment, attempt = counter.attempt()
    assert isinstance(await processor.charge(payment, attempt), NotTaken)
    await processor.close()


# ---- no answer -------------------------------------------------------------------------------


async def test_a_replay_of_the_same_key_is_the_same_charge(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    first = await counter.processor.charge(payment, attempt)
    assert await counter.processor.charge(payment, attempt) == first
    assert len(counter.charges()) == 1


async def test_an_error_before_execution_is_not_known_and_a_retry_charges(
    counter: Counter,
) -> None:
    counter.break_next("error_before")
    payment, attempt = counter.attempt()
    assert await counter.processor.charge(payment, attempt) == NO_ANSWER
    assert isinstance(await counter.processor.charge(payment, attempt), Charged)
    assert len(counter.charges()) == 1


async def test_a_dropped_answer_is_not_known_and_its_replay_is_the_one_charge(
    counter: Counter,
) -> None:
    counter.break_next("drop_after_commit")
    payment, attempt = counter.attempt()
    assert await counter.processor.charge(payment, attempt) == NO_ANSWER
    assert isinstance(await counter.processor.charge(payment, attempt), Charged)
    assert len(counter.charges()) == 1


async def test_a_time_out_is_not_known_in_flight_after_that_and_then_the_one_charge(
    counter: Counter,
) -> None:
    impatient = StripeProcessor(
        KEYS, counter.sandbox.stripe_url, "https://x.test", 0.2, counter.clock
    )
    counter.break_next("slow", delay_ms=60_000)
    payment, attempt = counter.attempt()
    assert await impatient.charge(payment, attempt) == NO_ANSWER
    assert await counter.processor.charge(payment, attempt) == NotKnown("first_request_in_flight")
    counter.sandbox.clock.advance(60)
    while not counter.charges():
        await asyncio.sleep(0)
    assert isinstance(await counter.processor.charge(payment, attempt), Charged)
    assert len(counter.charges()) == 1
    await impatient.close()


async def test_nobody_listening_is_not_known(counter: Counter) -> None:
    away = StripeProcessor(KEYS, "http://127.0.0.1:9", "https://x.test", 1.0, counter.clock)
    payment, attempt = counter.attempt()
    assert await away.charge(payment, attempt) == NO_ANSWER
    assert isinstance(
        await away.look(payment, replace(attempt, processor_payment_id="pi_1")), NotKnown
    )
    await away.close()


async def raw_server(answer: bytes) -> asyncio.Server:
    """Answers every request with these bytes and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 424 X\r\nContent-Length: 34\r\n\r\n{"error":{"type":"external_error"}}'[:-1]
        + b"}",
        b"",
    ],
    ids=["cut body", "garbage", "proxy's 404", "proxy's 403", "bad gateway", "424", "silence"],
)
async def test_what_stripe_itself_did_not_refuse_is_not_known(
    counter: Counter, answer: bytes
) -> None:
    server = await raw_server(answer)
    port = server.sockets[0].getsockname()[1]
    processor = StripeProcessor(
        KEYS, f"http://127.0.0.1:{port}", "https://x.test", 5.0, counter.clock
    )
    payment, attempt = counter.attempt()
    assert await processor.charge(payment, attempt) == NO_ANSWER
    await processor.close()
    server.close()
    await server.wait_closed()


async def test_a_burnt_key_is_no_answer_until_the_charge_is_found(counter: Counter) -> None:
    counter.break_next("error_after")
    payment, attempt = counter.attempt()
    assert await counter.processor.charge(payment, attempt) == NO_ANSWER
    found = await counter.processor.charge(payment, attempt)
    assert isinstance(found, Charged)
    assert found.captured_minor == 1999
    assert len(counter.charges()) == 1


async def test_a_burnt_key_that_left_no_charge_is_a_soft_decline(counter: Counter) -> None:
    counter.break_next("error_after")
    payment, attempt = counter.attempt("pm_nobody_knows")
    await counter.processor.charge(payment, attempt)
    assert await counter.processor.charge(payment, attempt) == Declined(
        "processing_error", soft=True
    )


async def test_a_burnt_key_is_found_beyond_the_first_page(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter.break_next("error_after")
    payment, attempt = counter.attempt()
    await counter.processor.charge(payment, attempt)
    client = counter.sandbox.client()
    for _ in range(101):
        await client.v1.payment_intents.create_async({"amount": 100, "currency": "usd"})

    assert isinstance(await counter.processor.charge(payment, attempt), Charged)

    monkeypatch.setattr(stripe_processor, "LIST_PAGES_MAX", 1)
    unfinished = await counter.processor.charge(payment, attempt)
    assert isinstance(unfinished, NotKnown), "a search that was not finished proves nothing"


async def test_after_23_hours_a_charge_is_only_searched_for(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    await counter.processor.charge(payment, attempt)
    counter.later(hours=23, minutes=1)
    assert isinstance(await counter.processor.charge(payment, attempt), Charged)
    counter.later(hours=2)
    assert isinstance(await counter.processor.charge(payment, attempt), Charged)
    assert len(counter.charges()) == 1


async def test_after_23_hours_nothing_found_proves_nothing_and_charges_nothing(
    counter: Counter,
) -> None:
    payment, attempt = counter.attempt()
    counter.later(hours=23, minutes=1)
    assert await counter.processor.charge(payment, attempt) == NotKnown("key_expired")
    assert counter.charges() == []


async def test_another_body_under_the_key_is_never_guessed_about(counter: Counter) -> None:
    payment, attempt = counter.attempt()
    await counter.processor.charge(payment, attempt)
    other = json.dumps({**json.loads(attempt.request_body), "amount": 1000})
    assert await counter.processor.charge(payment, replace(attempt, request_body=other)) == (
        NotKnown("idempotency_mismatch")
    )


# ---- 3-D Secure ------------------------------------------------------------------------------


async def test_the_payer_is_sent_away_and_comes_back_having_paid(counter: Counter) -> None:
    payment, attempt = await counter.charged(token="pm_card_threeDSecure2Required")
    await counter.payer(payment, attempt, "success")
    looked = await counter.processor.look(payment, attempt)
    assert isinstance(looked, Charged)
    assert looked.captured_minor == 1999


async def test_a_payer_who_fails_the_challenge_is_declined(counter: Counter) -> None:
    payment, attempt = await counter.charged(token="pm_card_threeDSecure2Required")
    await counter.payer(payment, attempt, "fail")
    looked = await counter.processor.look(payment, attempt)
    assert isinstance(looked, Declined)
    assert (looked.code, looked.soft) == ("payment_intent_authentication_failure", False)


async def test_a_cancel_after_the_payer_paid_is_refused_and_the_charge_stands(
    counter: Counter,
) -> None:
    payment, attempt = await counter.charged(token="pm_card_threeDSecure2Required")
    await counter.payer(payment, attempt, "success")
    refused = await counter.processor.cancel(payment, attempt, "cancel")
    assert isinstance(refused, Declined)
    assert isinstance(await counter.processor.look(payment, attempt), Charged)


async def test_a_cancel_before_the_payer_acts_is_a_fence(counter: Counter) -> None:
    payment, attempt = await counter.charged(token="pm_card_threeDSecure2Required")
    assert isinstance(await counter.processor.cancel(payment, attempt, "cancel"), Canceled)
    assert isinstance(await counter.processor.look(payment, attempt), Canceled)


async def test_an_action_that_is_no_redirect_has_no_address() -> None:
    action = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
    intent = stripe.PaymentIntent.construct_from(
        {"id": "pi_1", "status": "requires_action", "next_action": action}, "key"
    )
    assert stripe_processor.outcome_of(intent) == ActionRequired(
        "pi_1", NextAction(ActionKind.REDIRECT, "")
    )


async def test_an_intent_that_is_processing_is_pending() -> None:
    intent = stripe.PaymentIntent.construct_from({"id": "pi_1", "status": "processing"}, "key")
    assert stripe_processor.outcome_of(intent) == Pending("pi_1", "processor_is_processing")


# ---- capture and cancel ----------------------------------------------------------------------


@pytest.mark.parametrize("minor", [1999, 1500])
async def test_an_authorization_is_captured_wholly_or_in_part(counter: Counter, minor: int) -> None:
    payment, attempt = await counter.charged(capture_method=CaptureMethod.MANUAL)
    held = await counter.processor.look(payment, attempt)
    assert held == Charged(attempt.processor_payment_id, 1999, 0)
    taken = await counter.processor.capture(payment, attempt, counter.capture(minor))
    assert isinstance(taken, Charged)
    assert (taken.authorized_minor, taken.captured_minor) == (1999, minor)
    assert taken.fee_minor > 0
    assert await counter.processor.capture(payment, attempt, counter.capture(minor)) == taken


async def test_an_authorization_is_canceled_once(counter: Counter) -> None:
    payment, attempt = await counter.charged(capture_method=CaptureMethod.MANUAL)
    canceled = await counter.processor.cancel(payment, attempt, "cancel")
    assert canceled == Canceled(attempt.processor_payment_id)
    assert await counter.processor.cancel(payment, attempt, "cancel") == canceled
    refused = await counter.processor.capture(payment, attempt, counter.capture(1999))
    assert refused == Declined("refused_payment_intent_unexpected_state", soft=True)


async def test_more_than_was_authorized_is_not_captured(counter: Counter) -> None:
    payment, attempt = await counter.charged(capture_method=CaptureMethod.MANUAL)
    refused = await counter.processor.capture(payment, attempt, counter.capture(2000))
    assert refused == Declined("refused_amount_too_large", soft=True)


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "error_after"])
async def test_a_capture_without_an_answer_is_not_known_and_then_captured_once(
    counter: Counter, kind: str
) -> None:
    payment, attempt = await counter.charged(capture_method=CaptureMethod.MANUAL)
    counter.break_next(kind)
    pending = counter.capture(1500)
    assert await counter.processor.capture(payment, attempt, pending) == NO_ANSWER
    taken = await counter.processor.capture(payment, attempt, pending)
    assert isinstance(taken, Charged)
    assert taken.captured_minor == 1500


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "error_after"])
async def test_a_cancel_without_an_answer_is_not_known_and_then_canceled(
    counter: Counter, kind: str
) -> None:
    payment, attempt = await counter.charged(capture_method=CaptureMethod.MANUAL)
    counter.break_next(kind)
    assert await counter.processor.cancel(payment, attempt, "cancel") == NO_ANSWER
    assert isinstance(await counter.processor.cancel(payment, attempt, "cancel"), Canceled)


# ---- refunds ---------------------------------------------------------------------------------


async def test_money_is_given_back_in_parts_and_never_more_than_was_taken(
    counter: Counter,
) -> None:
    payment, attempt = await counter.charged()
    part = await counter.processor.refund(payment, attempt, counter.refund(1000, "a"))
    assert part.status is RefundStatus.SUCCEEDED
    over = await counter.processor.refund(payment, attempt, counter.refund(1000, "b"))
    assert over.status is RefundStatus.FAILED
    rest = await counter.processor.refund(payment, attempt, counter.refund(999, "c"))
    assert rest.status is RefundStatus.SUCCEEDED
    none = await counter.processor.refund(payment, attempt, counter.refund(1, "d"))
    assert none == RefundOutcome(
        RefundStatus.FAILED, failure_code="refused_charge_already_refunded"
    )
    assert sum(r["amount"] for r in counter.refunds()) == 1999


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "error_after", "rate_limit"])
async def test_a_refund_without_an_answer_is_not_known_and_then_made_once(
    counter: Counter, kind: str
) -> None:
    payment, attempt = await counter.charged()
    counter.break_next(kind, path="/v1/refunds")
    refund = counter.refund(500)
    assert await counter.processor.refund(payment, attempt, refund) == RefundOutcome(
        RefundStatus.UNKNOWN
    )
    made = await counter.processor.refund(payment, attempt, refund)
    assert made.status is RefundStatus.SUCCEEDED
    assert len(counter.refunds()) == 1


async def test_a_burnt_refund_that_left_nothing_has_failed(counter: Counter) -> None:
    payment, attempt = await counter.charged()
    counter.break_next("error_after", path="/v1/refunds")
    refund = counter.refund(5000)
    await counter.processor.refund(payment, attempt, refund)
    assert await counter.processor.refund(payment, attempt, refund) == RefundOutcome(
        RefundStatus.FAILED, failure_code="processing_error"
    )


async def test_after_a_day_a_refund_is_searched_for_and_not_made_again(counter: Counter) -> None:
    payment, attempt = await counter.charged()
    refund = counter.refund(500)
    made = await counter.processor.refund(payment, attempt, refund)
    counter.later(hours=25)
    assert await counter.processor.refund(payment, attempt, refund) == made
    assert len(counter.refunds()) == 1


async def test_a_refund_with_a_known_id_is_read_not_made(counter: Counter) -> None:
    payment, attempt = await counter.charged()
    refund = counter.refund(500)
    made = await counter.processor.refund(payment, attempt, refund)
    known = replace(refund, refund_id="other", processor_refund_id=made.processor_refund_id)
    assert await counter.processor.refund(payment, attempt, known) == made
    assert len(counter.refunds()) == 1
