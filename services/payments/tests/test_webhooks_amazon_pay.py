"""Amazon Pay's notifications: signed by SNS, of the account's own topic, and of these days."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from smartpay_chassis.refusals import Refusal
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, FakeClock
from smartpay_payments.adapters.amazon_pay_notifications import AmazonPayNotices, SnsCertificates
from smartpay_payments.domain.webhooks import Notice, Topic, WebhookAccount
from smartpay_sandbox.amazon_pay_notifications import CERTIFICATE_PATH, Signer, signed_text

TOPIC = "arn:aws:sns:us-east-1:000000000000:ADEMO"
ACCOUNT = WebhookAccount(DEMO_ACCOUNTS[0], "amazon_pay", DEMO_MERCHANT.merchant_id, False, (TOPIC,))
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
PERMISSION = "S01-1234567-1234567"


@dataclass
class Sns:
    """SNS as the sandbox plays it, with the certificate served on this machine."""

    base: str
    signer: Signer
    clock: FakeClock
    served: list[str]
    status: int = 200
    body: bytes = b""

    def message(self, **changes: Any) -> dict[str, Any]:
        about = {
            "MerchantID": "ADEMO",
            "ObjectType": "CHARGE",
            "ObjectId": f"{PERMISSION}-C000001",
            "ChargePermissionId": PERMISSION,
            "NotificationType": "STATE_CHANGE",
            "NotificationId": "n",
            "NotificationVersion": "V2",
            **changes.pop("about", {}),
        }
        message = {
            "Type": "Notification",
            "MessageId": "m-1",
            "TopicArn": TOPIC,
            "Message": json.dumps(about),
            "Timestamp": "2026-06-01T12:00:00.000Z",
            "SigningCertURL": self.base + CERTIFICATE_PATH,
            "UnsubscribeURL": "https://sns.example/",
            **changes,
        }
        return self.signer.sign({k: v for k, v in message.items() if v is not None})

    async def read(
        self, message: dict[str, Any] | bytes, account: WebhookAccount = ACCOUNT
    ) -> Notice:
        reader = AmazonPayNotices(SnsCertificates(self.base + "/"), self.clock)
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await reader.read(account, {}, body)

    async def refused(self, message: Any, account: WebhookAccount = ACCOUNT) -> str:
        with pytest.raises(Refusal) as refused:
            await self.read(message, account)
        return refused.value.reason


@pytest.fixture
async def sns(tmp_path: Path) -> AsyncIterator[Sns]:
    signer = Signer(tmp_path)
    served: list[str] = []

    async def certificate(request: web.Request) -> web.Response:
        served.append(request.path)
        return web.Response(status=made.status, body=made.body or signer.certificate)

    app = web.Application()
    app.router.add_get("/{path:.*}", certificate)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    made = Sns(f"http://127.0.0.1:{port}/amazon_pay", signer, FakeClock(NOW), served)
    yield made
    await runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "topic", "reference"),
    [
        ("CHARGE", Topic.CHARGE, f"{PERMISSION}-C000001"),
        ("CHARGE_PERMISSION", Topic.CHARGE, PERMISSION),
        ("REFUND", Topic.REFUND, PERMISSION),
        ("CHARGEBACK", Topic.DISPUTE, PERMISSION),
        ("SOMETHING_NEW", None, PERMISSION),
    ],
)
async def test_a_genuine_notification_names_what_changed(
    sns: Sns, kind: str, topic: Topic | None, reference: str
) -> None:
    notice = await sns.read(sns.message(about={"ObjectType": kind}))
    assert notice == Notice("m-1", kind.lower(), topic, processor_payment_id=reference)


async def test_names_in_the_older_spelling_are_read_too(sns: Sns) -> None:
    older = json.dumps({"objectType": "CHARGE", "objectId": "S01-1-1-C1", "merchantID": "A"})
    assert (await sns.read(sns.message(Message=older))).processor_payment_id == "S01-1-1-C1"


async def test_the_first_version_of_the_signature_counts_too(sns: Sns) -> None:
    message = sns.message(Subject="with a subject")
    signature = sns.signer._key.sign(signed_text(message), padding.PKCS1v15(), hashes.SHA1())
    message |= {"SignatureVersion": "1", "Signature": base64.b64encode(signature).decode()}
    assert (await sns.read(message)).topic is Topic.CHARGE


@pytest.mark.parametrize(
    "change",
    [
        {"Message": '{"ObjectType": "CHARGE", "ObjectId": "S01-9-9-C9"}'},
        {"MessageId": "m-2"},
        {"Subject": "added"},
        {"Timestamp": "2026-06-01T12:00:01.000Z"},
        {"TopicArn": TOPIC + "2"},
        {"Type": "SubscriptionConfirmation"},
        {"Type": "Other"},
        {"Signature": ""},
        {"Signature": "####"},
        {"Signature": "AAAA"},
        {"SignatureVersion": "1"},
        {"SignatureVersion": "3"},
        {"SigningCertURL": ""},
        {"MessageId": ""},
    ],
)
async def test_what_was_changed_after_signing_is_refused(sns: Sns, change: dict[str, str]) -> None:
    assert await sns.refused(sns.message() | change) == "SIGNATURE_REFUSED"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", b'{"TopicArn": 5}', b'"text"', b"[" * 20_000]
)
async def test_what_is_no_notification_is_refused(sns: Sns, body: bytes) -> None:
    assert await sns.refused(body) == "SIGNATURE_REFUSED"


async def test_a_genuine_message_that_can_not_be_read_is_refused_by_name(sns: Sns) -> None:
    assert await sns.refused(sns.message(Message="no json")) == "BODY_MALFORMED"


async def test_a_strangers_topic_is_refused_before_anything_is_fetched(sns: Sns) -> None:
    # Genuinely signed: anybody may have a topic at SNS.
    stranger = sns.message(TopicArn="arn:aws:sns:us-east-1:999999999999:evil")
    assert await sns.refused(stranger) == "SIGNATURE_REFUSED"
    assert sns.served == []
    nobody = replace(ACCOUNT, secrets=())
    assert await sns.refused(sns.message(), nobody) == "SIGNATURE_REFUSED"
    moved = replace(ACCOUNT, secrets=("arn:old", TOPIC))
    assert (await sns.read(sns.message(), moved)).event_id == "m-1"


@pytest.mark.parametrize(
    ("age", "taken"),
    [
        (timedelta(hours=-1), False),
        (timedelta(minutes=-6), False),
        (timedelta(minutes=-4), True),
        (timedelta(hours=23), True),
        (timedelta(hours=25), False),
        (timedelta(days=400), False),
    ],
)
async def test_a_notification_is_taken_for_a_day_and_never_from_the_future(
    sns: Sns, age: timedelta, taken: bool
) -> None:
    moment = (NOW - age).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    message = sns.message(Timestamp=moment)
    if taken:
        assert (await sns.read(message)).event_id == "m-1"
    else:
        assert await sns.refused(message) == "SIGNATURE_REFUSED"


@pytest.mark.parametrize("moment", ["", "yesterday", "2026-06-01T12:00:00", "2026-06-01"])
async def test_a_time_without_a_zone_is_no_time(sns: Sns, moment: str) -> None:
    assert await sns.refused(sns.message(Timestamp=moment)) == "SIGNATURE_REFUSED"


AMAZONS = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123abcd.pem"


@pytest.mark.parametrize(
    "url",
    [
        AMAZONS,
        "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-x.pem",
        "https://sns.us-gov-west-1.amazonaws.com/SimpleNotificationService-x.pem",
        "https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-x.pem",
    ],
)
def test_amazons_own_addresses_may_sign(url: str) -> None:
    assert SnsCertificates("").may_sign(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        AMAZONS.replace("https", "http"),
        AMAZONS.replace("https://", "https://user@"),
        AMAZONS.replace(".com/", ".com:444/"),
        AMAZONS.replace(".com/", ".com.evil.example/"),
        AMAZONS.replace("amazonaws.com", "amazonaws.com.evil"),
        AMAZONS.replace("https://sns", "https://evil.example/https://sns"),
        AMAZONS.replace("sns.", "evil-sns."),
        AMAZONS.replace("sns.", "s3."),
        AMAZONS + "?x=1",
        AMAZONS + "#x",
        AMAZONS.replace(".pem", ".txt"),
        AMAZONS.replace("/Simple", "/../Simple"),
        AMAZONS + "\n",
        "https://sns.us-east-1.amazonaws.com\\@evil.example/x.pem",
        "http://127.0.0.1:1/x.pem",
    ],
)
def test_no_other_address_may_sign(url: str) -> None:
    assert not SnsCertificates("").may_sign(url)


def test_in_development_the_sandbox_may_sign_and_nobody_beside_it() -> None:
    certificates = SnsCertificates("http://127.0.0.1:1234/amazon_pay/")
    assert certificates.may_sign("http://127.0.0.1:1234/amazon_pay/sns/x.pem")
    assert not certificates.may_sign("http://127.0.0.1:1234/amazon_pay/../stripe/x.pem")
    assert not certificates.may_sign("http://127.0.0.1:12345/amazon_pay/x.pem")


async def test_a_certificate_is_fetched_once(sns: Sns) -> None:
    reader = AmazonPayNotices(SnsCertificates(sns.base + "/"), sns.clock)
    for number in range(3):
        message = sns.message(MessageId=f"m-{number}")
        await reader.read(ACCOUNT, {}, json.dumps(message).encode())
    assert len(sns.served) == 1


@pytest.mark.parametrize(
    ("status", "body"), [(500, b""), (302, b""), (200, b"no certificate"), (200, b"x" * 100_000)]
)
async def test_a_certificate_that_can_not_be_had_asks_for_another_delivery(
    sns: Sns, status: int, body: bytes
) -> None:
    sns.status, sns.body = status, body
    assert await sns.refused(sns.message()) == "UNAVAILABLE"


async def test_a_certificate_that_has_ended_signs_nothing(sns: Sns) -> None:
    sns.clock.advance(days=365 * 20)
    moment = sns.clock.now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert await sns.refused(sns.message(Timestamp=moment)) == "SIGNATURE_REFUSED"


async def test_another_key_signs_nothing(sns: Sns, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    message = Signer(folder).sign(
        {k: v for k, v in sns.message().items() if not k.startswith("Signature")}
    )
    assert await sns.refused(message) == "SIGNATURE_REFUSED"
