"""Whole payments on the sandbox's Amazon Pay: saga, store, recovery and the real adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from services.payments.tests.amazon_pay_till import account
from smartpay_payments.adapters.amazon_pay_client import AmazonPayClient
from smartpay_payments.adapters.amazon_pay_processor import AmazonPayProcessor
from smartpay_payments.domain.eligibility import Account
from smartpay_payments.domain.payment import (
    ActionKind,
    CaptureMethod,
    Initiator,
    Payment,
    RefundStatus,
    Status,
)
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox

WALLET = "pac_d1" + "w" * 24
ASKED = 1999


@dataclass
class Shop:
    """A story with a wallet account, and the Amazon Pay under it."""

    story: Any
    sandbox: AmazonPaySandbox

    async def order(self, token: str = "checkout", **changes: Any) -> Payment:
        payment: Payment = await self.story.create(tokens={WALLET: token}, **changes)
        return payment

    async def buyer(self, payment: Payment, action: str = "agree?card=1111") -> None:
        assert payment.next_action is not None
        assert payment.next_action.kind is ActionKind.AMAZON_CHECKOUT
        assert await self.sandbox.buyer(payment.next_action.url, action) == 200

    async def recovered(self, payment: Payment, times: int = 4) -> Payment:
        """Lets time pass for both, and recovery look, until nothing is left to find out."""
        for _ in range(times):
            self.story.clock.advance(minutes=2)
            self.sandbox.clock.advance(120)
            while await self.story.recovery.step():
                pass
        found: Payment = await self.story.read(payment)
        return found

    def charges(self) -> list[dict[str, Any]]:
        return list(self.sandbox.merchant()["charges"].values())

    def break_next(self, kind: str, path: str, times: int = 1, **more: Any) -> None:
        rule = {"kind": kind, "times": times, "path_prefix": path, **more}
        self.sandbox.simulator.set_faults([rule])

    async def balanced(self, payment: Payment) -> None:
        """The ledger sums to zero, and what it says Amazon owes us is what Amazon holds."""
        balance = await self.story.balance(payment)
        assert sum(balance.values()) == 0
        merchant = self.sandbox.merchant()
        captured = sum(c["_captured"] for c in merchant["charges"].values())
        returned = sum(
            r["_units"]
            for r in merchant["refunds"].values()
            if r["statusDetails"]["state"] == "Refunded"
        )
        assert balance.get(f"processor:{WALLET}", 0) == captured - returned


@pytest.fixture
async def shop(tmp_path: Path, new_story: Any) -> AsyncIterator[Shop]:
    async with amazon_pay_sandbox(tmp_path) as sandbox, new_story(tmp_path / "p.db") as story:
        # The story's clock starts elsewhere; a signature must be dated as Amazon's clock says.
        sandbox.clock.now = story.clock.now.timestamp()
        accounts = {WALLET: account("first")}
        client = AmazonPayClient(accounts, sandbox.amazon_pay_url, 5.0, story.clock)
        rail = AmazonPayProcessor(client, "https://shop.test/return", story.clock)
        story.more_rails["amazon_pay"] = rail
        account_terms = Account(WALLET, "amazon_pay", frozenset({"USD"}), True)
        story.terms = replace(story.terms, accounts=(account_terms,))
        story.advisor.ranking = (WALLET,)
        await story.restart()
        yield Shop(story, sandbox)
        await rail.close()


async def test_a_payer_agrees_and_the_payment_succeeds_by_itself(shop: Shop) -> None:
    payment = await shop.order()
    assert payment.status is Status.REQUIRES_ACTION
    await shop.buyer(payment)
    payment = await shop.recovered(payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, ASKED)
    (charge,) = shop.charges()
    assert payment.last_attempt.processor_payment_id == charge["chargeId"]
    await shop.balanced(payment)


async def test_a_payer_who_walks_away_cancels_and_one_who_is_declined_fails(shop: Shop) -> None:
    walked, refused = await shop.order(key="a"), await shop.order(key="b")
    await shop.buyer(walked, "cancel")
    await shop.buyer(refused, "agree?card=3434")
    walked, refused = await shop.recovered(walked), await shop.recovered(refused)
    assert walked.status is Status.CANCELED
    assert (refused.status, refused.status_reason) == (Status.FAILED, "payment_declined")
    assert shop.charges() == []


async def test_a_payer_who_takes_too_long_is_fenced_off(shop: Shop) -> None:
    payment = await shop.order()
    shop.story.clock.advance(hours=2)
    shop.sandbox.clock.advance(7200)
    url = payment.next_action
    payment = await shop.recovered(payment, times=1)
    assert (payment.status, payment.status_reason) == (Status.CANCELED, "action_expired")
    assert url is not None
    await shop.sandbox.buyer(url.url)
    assert (await shop.recovered(payment)).status is Status.CANCELED
    assert shop.charges() == []


async def test_a_slow_authorization_is_processing_then_held_then_captured(shop: Shop) -> None:
    payment = await shop.order(capture_method=CaptureMethod.MANUAL)
    await shop.buyer(payment, "agree?card=0701")
    payment = await shop.story.saga.look_again(payment)
    assert (payment.status, payment.status_reason) == (Status.PROCESSING, "authorization_pending")
    payment = await shop.recovered(payment)
    assert payment.status is Status.REQUIRES_CAPTURE
    payment = await shop.story.capture(payment, 1500)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, 1500)
    await shop.balanced(payment)


async def test_a_slow_authorization_may_end_in_a_decline(shop: Shop) -> None:
    payment = await shop.order(capture_method=CaptureMethod.MANUAL)
    await shop.buyer(payment, "agree?card=4354")
    payment = await shop.recovered(payment)
    assert (payment.status, payment.status_reason) == (Status.FAILED, "hard_declined")


async def test_a_late_capture_is_processing_until_amazon_is_done(shop: Shop) -> None:
    payment = await shop.order(capture_method=CaptureMethod.MANUAL)
    await shop.buyer(payment)
    payment = await shop.recovered(payment)
    shop.story.clock.advance(days=8)
    shop.sandbox.clock.advance(8 * 86400)
    payment = await shop.story.capture(payment, ASKED)
    assert (payment.status, payment.status_reason) == (Status.PROCESSING, "capture_pending")
    payment = await shop.recovered(payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, ASKED)
    await shop.balanced(payment)


async def test_a_held_payment_is_canceled_and_one_whose_payer_agreed_just_now_is_not(
    shop: Shop,
) -> None:
    held = await shop.order(key="a", capture_method=CaptureMethod.MANUAL)
    await shop.buyer(held)
    held = await shop.recovered(held, times=1)
    assert (await shop.story.cancel(held, "x")).status is Status.CANCELED

    agreed = await shop.order(key="b")
    await shop.buyer(agreed)
    agreed = await shop.story.cancel(agreed, "y")
    assert (agreed.status, agreed.captured_minor) == (Status.SUCCEEDED, ASKED)
    await shop.balanced(agreed)


async def test_a_refund_is_pending_and_then_done(shop: Shop) -> None:
    payment = await shop.order()
    await shop.buyer(payment)
    payment = await shop.recovered(payment, times=1)
    payment = await shop.story.give_back(payment, 500)
    assert payment.refunds[0].status is RefundStatus.PENDING
    payment = await shop.recovered(payment)
    assert payment.refunds[0].status is RefundStatus.SUCCEEDED
    await shop.balanced(payment)


@pytest.mark.parametrize("kind", ["error_before", "drop_after_commit", "error_after"])
async def test_whatever_gets_lost_on_the_way_the_payer_is_charged_once(
    shop: Shop, kind: str
) -> None:
    if kind != "error_after":
        shop.break_next(kind, "/v2/checkoutSessions")
    payment = await shop.order()
    payment = await shop.recovered(payment, times=1)
    assert payment.status is Status.REQUIRES_ACTION
    await shop.buyer(payment)
    shop.break_next(kind, "/v2/checkoutSessions", method="POST")
    payment = await shop.recovered(payment)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, ASKED)
    assert len(shop.charges()) == 1
    await shop.balanced(payment)


async def test_a_burnt_session_fails_softly_instead_of_keeping_its_payer_waiting(
    shop: Shop,
) -> None:
    shop.break_next("error_after", "/v2/checkoutSessions")
    payment = await shop.order()
    assert payment.status is Status.UNKNOWN
    payment = await shop.recovered(payment)
    assert (payment.status, payment.status_reason) == (Status.FAILED, "processing_error")


async def test_a_burnt_charge_needs_a_person_and_never_a_second_charge(shop: Shop) -> None:
    permission = shop.sandbox.simulator.grant("AFIRST", "1111")["chargePermissionId"]
    shop.break_next("error_after", "/v2/charges")
    payment = await shop.order(permission, off_session=True, initiator=Initiator.MERCHANT)
    assert payment.status is Status.UNKNOWN
    payment = await shop.recovered(payment, times=60)
    assert payment.status is Status.NEEDS_REVIEW
    assert len(shop.charges()) == 1


async def test_a_payer_who_agreed_before_is_charged_while_they_are_away(shop: Shop) -> None:
    permission = shop.sandbox.simulator.grant("AFIRST", "1111")["chargePermissionId"]
    payment = await shop.order(permission, off_session=True, initiator=Initiator.MERCHANT)
    assert (payment.status, payment.captured_minor) == (Status.SUCCEEDED, ASKED)
    await shop.balanced(payment)
