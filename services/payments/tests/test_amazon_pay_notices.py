"""What the sandbox's Amazon Pay sends is what payments believes, and nothing near it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import FakeClock
from smartpay_payments.adapters.amazon_pay_notifications import AmazonPayNotices, SnsCertificates
from smartpay_payments.domain.webhooks import Topic, WebhookAccount
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox

USD = {"amount": "19.99", "currencyCode": "USD"}
TOPIC = "arn:aws:sns:us-east-1:000000000000:AFIRST"
ACCOUNT = WebhookAccount("pac_d1" + "w" * 24, "amazon_pay", "mer_d1" + "m" * 24, False, (TOPIC,))


@dataclass
class Desk:
    """The reader, and a sandbox with one charge and one refund to tell of."""

    sandbox: AmazonPaySandbox
    notices: AmazonPayNotices
    clock: FakeClock
    charge: dict[str, Any]

    def sent(self) -> list[dict[str, Any]]:
        return [n["body"] for n in self.sandbox.simulator.dump()["notifications"]]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    # Nobody listens there: what is sent is read from the dump.
    async with amazon_pay_sandbox(tmp_path, notify_url="http://127.0.0.1:9/") as sandbox:
        clock = FakeClock(datetime.fromtimestamp(sandbox.clock(), UTC))
        notices = AmazonPayNotices(SnsCertificates(sandbox.amazon_pay_url), clock)
        granted = sandbox.simulator.grant("AFIRST", "1111")
        order = {
            "chargePermissionId": granted["chargePermissionId"],
            "chargeAmount": USD,
            "captureNow": True,
        }
        _, charge = await sandbox.call("POST", "/v2/charges", order)
        body = {"chargeId": charge["chargeId"], "refundAmount": USD}
        await sandbox.call("POST", "/v2/refunds", body)
        yield Desk(sandbox, notices, clock, charge)


async def test_a_notification_names_the_charge_it_is_about(desk: Desk) -> None:
    told = [await desk.notices.read(ACCOUNT, {}, json.dumps(body).encode()) for body in desk.sent()]
    found = [(n.topic, n.processor_payment_id) for n in told if n.event_type != "charge_permission"]
    assert found == [
        (Topic.CHARGE, desk.charge["chargeId"]),
        (Topic.REFUND, desk.charge["chargePermissionId"]),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"Message": "{}"},
        {"MessageId": "another"},
        {"TopicArn": TOPIC + "X"},
        {"SignatureVersion": "1"},
        {"Signature": "AAAA"},
        {"SigningCertURL": "https://sns.evil.example/a.pem"},
    ],
)
async def test_a_changed_notification_is_refused(desk: Desk, change: dict[str, str]) -> None:
    body = desk.sent()[0] | change
    with pytest.raises(Refusal) as refused:
        await desk.notices.read(ACCOUNT, {}, json.dumps(body).encode())
    assert refused.value.reason == "SIGNATURE_REFUSED"


@pytest.mark.parametrize("hours", [-1, 25])
async def test_a_notification_of_another_time_is_refused(desk: Desk, hours: int) -> None:
    body = desk.sent()[0]
    desk.clock.advance(hours=hours)
    with pytest.raises(Refusal):
        await desk.notices.read(ACCOUNT, {}, json.dumps(body).encode())
