"""One adapter of Amazon Pay with the sandbox it speaks to, shared by its tests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from smartpay_chassis.ids import derive
from smartpay_chassis.testing import DEMO_ACCOUNTS, FakeClock
from smartpay_payments.adapters.amazon_pay_client import AmazonPayClient
from smartpay_payments.adapters.amazon_pay_processor import (
    CHECKOUT,
    AmazonPayProcessor,
)
from smartpay_payments.adapters.amazon_pay_signing import AmazonPayAccount, read_account
from smartpay_payments.domain.payment import (
    Attempt,
    AttemptStatus,
    CaptureMethod,
    Command,
    Money,
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
    Charged,
    NotKnown,
    Pending,
)
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox, key_pair

FIRST, SECOND = DEMO_ACCOUNTS
NO_ANSWER = NotKnown("no_answer")
SESSIONS, CHARGES, REFUNDS = "/v2/checkoutSessions", "/v2/charges", "/v2/refunds"
MANUAL: dict[str, Any] = {"capture_method": CaptureMethod.MANUAL}


@cache
def account(name: str) -> AmazonPayAccount:
    """One of the sandbox's merchants; reading its key takes longer than most tests."""
    secret = {
        "public_key_id": f"SANDBOX-{name.upper()}",
        "private_key": key_pair(name)[0],
        "store_id": f"amzn1.application-oa2-client.{name}",
        "merchant_id": f"A{name.upper()}",
    }
    return read_account(json.dumps(secret), livemode=False)


@dataclass
class Till:
    """One adapter, its sandbox, and the clock of both."""

    sandbox: AmazonPaySandbox
    processor: AmazonPayProcessor
    clock: FakeClock

    def another(self, timeout_seconds: float = 5.0, base: str = "") -> AmazonPayProcessor:
        accounts = {FIRST: account("first"), SECOND: account("second")}
        url = base or self.sandbox.amazon_pay_url
        client = AmazonPayClient(accounts, url, timeout_seconds, self.clock)
        return AmazonPayProcessor(client, "https://shop.test/return", self.clock)

    def break_next(self, kind: str, path: str, times: int = 1, **more: Any) -> None:
        rule = {"kind": kind, "times": times, "path_prefix": path, **more}
        self.sandbox.simulator.set_faults([rule])

    def attempt(
        self, token: str = CHECKOUT, account: str = FIRST, index: int = 0, **changes: Any
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
            attempt_index=index,
            processor_account_id=account,
            processor="amazon_pay",
            processor_key=f"{payment.payment_id}-{index}",
            request_body=self.processor.prepare(payment, account, index),
            status=AttemptStatus.STARTED,
            start_time=self.clock(),
        )
        return payment, attempt

    async def opened(self, **order: Any) -> tuple[Payment, Attempt, str]:
        """Answers a payment whose payer was sent to Amazon, and the page's address."""
        payment, attempt = self.attempt(**order)
        outcome = await self.processor.charge(payment, attempt)
        assert isinstance(outcome, ActionRequired)
        known = replace(attempt, processor_payment_id=outcome.processor_payment_id)
        return payment, known, outcome.action.url

    async def agreed(self, card: str = "1111", **order: Any) -> tuple[Payment, Attempt]:
        """Answers a payment whose payer has agreed and that nobody has completed yet."""
        payment, attempt, url = await self.opened(**order)
        assert await self.sandbox.buyer(url, f"agree?card={card}") == 200
        return payment, attempt

    async def charged(self, card: str = "1111", **order: Any) -> tuple[Payment, Attempt]:
        """Answers a payment with the charge its session came to."""
        payment, attempt = await self.agreed(card, **order)
        outcome = await self.processor.look(payment, attempt)
        assert isinstance(outcome, Charged | Pending), outcome
        return payment, replace(attempt, processor_payment_id=outcome.processor_payment_id)

    def permission(self, card: str = "1111", merchant_id: str = "AFIRST") -> str:
        granted = self.sandbox.simulator.grant(merchant_id, card)
        return str(granted["chargePermissionId"])

    def objects(self, kind: str, merchant_id: str = "AFIRST") -> list[dict[str, Any]]:
        return list(self.sandbox.merchant(merchant_id)[f"{kind}s"].values())

    def charges(self, merchant_id: str = "AFIRST") -> list[dict[str, Any]]:
        return self.objects("charge", merchant_id)

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

    def later(self, **duration: float) -> None:
        self.clock.advance(**duration)
        self.sandbox.clock.advance(timedelta(**duration).total_seconds())


@asynccontextmanager
async def opened_till(folder: Path) -> AsyncIterator[Till]:
    """Starts a sandbox and an adapter whose clocks agree."""
    async with amazon_pay_sandbox(folder) as sandbox:
        clock = FakeClock(datetime.fromtimestamp(sandbox.clock(), UTC))
        made = Till(sandbox, None, clock)  # type: ignore[arg-type]
        made.processor = made.another()
        yield made
        await made.processor.close()
