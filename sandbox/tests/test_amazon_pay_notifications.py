from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from smartpay_sandbox.amazon_pay_account import REFUND_SECONDS
from smartpay_sandbox.amazon_pay_notifications import PAUSES_SECONDS, Signer, signed_text
from smartpay_sandbox.amazon_pay_testing import AmazonPaySandbox, amazon_pay_sandbox
from smartpay_sandbox.listener import listening

USD = {"amount": "19.99", "currencyCode": "USD"}


@dataclass
class Receiver:
    """A merchant's endpoint that keeps what it got."""

    sandbox: AmazonPaySandbox
    got: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        self.got.append((dict(request.headers), json.loads(await request.body())))
        return Response(status_code=self.statuses.pop(0) if self.statuses else 204)

    async def charge(self) -> dict[str, Any]:
        await self.sandbox.call("GET", "/v2/charges/none")  # tells the simulator its address
        granted = self.sandbox.simulator.grant("AFIRST", "1111")
        body = {
            "chargePermissionId": granted["chargePermissionId"],
            "chargeAmount": USD,
            "captureNow": True,
        }
        status, charge = await self.sandbox.call("POST", "/v2/charges", body)
        assert status == 201
        return charge

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(body["Message"]) for _, body in self.got]


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    made = Receiver(None)  # type: ignore[arg-type]
    app = Starlette(routes=[Route("/ipn", made.take, methods=["POST"])])
    async with listening(app) as url, amazon_pay_sandbox(tmp_path, notify_url=f"{url}/ipn") as box:
        made.sandbox = box
        yield made


async def test_every_change_of_state_is_told_in_order_with_the_objects_ids(
    receiver: Receiver,
) -> None:
    charge = await receiver.charge()
    body = {"chargeId": charge["chargeId"], "refundAmount": USD}
    _, refund = await receiver.sandbox.call("POST", "/v2/refunds", body)
    receiver.sandbox.clock.advance(REFUND_SECONDS)
    await receiver.sandbox.call("GET", f"/v2/refunds/{refund['refundId']}")
    await receiver.sandbox.simulator.notifier.delivered()
    permission = charge["chargePermissionId"]
    assert [(m["ObjectType"], m["ObjectId"]) for m in receiver.messages()] == [
        ("CHARGE_PERMISSION", permission),
        ("CHARGE", charge["chargeId"]),
        ("REFUND", refund["refundId"]),
        ("REFUND", refund["refundId"]),
    ]
    for message in receiver.messages():
        assert message["MerchantID"] == "AFIRST"
        assert message["ChargePermissionId"] == permission
        assert message["NotificationType"] == "STATE_CHANGE"


async def test_what_changes_by_itself_is_told_without_anybody_asking(receiver: Receiver) -> None:
    charge = await receiver.charge()
    body = {"chargeId": charge["chargeId"], "refundAmount": USD}
    await receiver.sandbox.call("POST", "/v2/refunds", body)
    receiver.sandbox.clock.advance(REFUND_SECONDS)
    while len(receiver.got) < 4:
        await asyncio.sleep(0.01)
    assert receiver.messages()[-1]["ObjectType"] == "REFUND"


async def test_a_notification_is_signed_as_sns_signs(receiver: Receiver) -> None:
    await receiver.charge()
    await receiver.sandbox.simulator.notifier.delivered()
    headers, body = receiver.got[0]
    assert headers["content-type"] == "text/plain; charset=UTF-8"
    assert headers["x-amz-sns-message-type"] == body["Type"] == "Notification"
    assert headers["x-amz-sns-message-id"] == body["MessageId"]
    assert body["TopicArn"].endswith(":AFIRST")
    assert body["SignatureVersion"] == "2"
    async with (
        aiohttp.ClientSession() as client,
        client.get(body["SigningCertURL"]) as answer,
    ):
        assert answer.content_type == "application/x-pem-file"
        certificate = x509.load_pem_x509_certificate(await answer.read())
    key = certificate.public_key()
    assert isinstance(key, RSAPublicKey)
    text = (
        f"Message\n{body['Message']}\nMessageId\n{body['MessageId']}\n"
        f"Timestamp\n{body['Timestamp']}\nTopicArn\n{body['TopicArn']}\nType\nNotification\n"
    ).encode()
    signature = base64.b64decode(body["Signature"])
    key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
    with pytest.raises(InvalidSignature):
        key.verify(signature, text + b" ", padding.PKCS1v15(), hashes.SHA256())


def test_a_subject_is_signed_where_there_is_one() -> None:
    message = {"Type": "T", "Message": "M", "Subject": "S", "Signature": "never"}
    assert signed_text(message) == b"Message\nM\nSubject\nS\nType\nT\n"


async def test_a_notification_that_got_no_2xx_comes_again_with_the_same_id(
    receiver: Receiver,
) -> None:
    receiver.statuses = [500, 404]
    await receiver.charge()
    for expected, pause in ((2, PAUSES_SECONDS[0]), (3, PAUSES_SECONDS[1])):
        while len(receiver.got) < expected:
            receiver.sandbox.clock.advance(pause)
            await asyncio.sleep(0.01)
    await receiver.sandbox.simulator.notifier.delivered()
    ids = [body["MessageId"] for _, body in receiver.got]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    sent = receiver.sandbox.simulator.dump()["notifications"]
    assert [n["deliveries"] for n in sent] == [[500, 404, 204], [204]]


async def test_nobody_listening_costs_a_few_tries(tmp_path: Path) -> None:
    async with amazon_pay_sandbox(tmp_path, notify_url="http://127.0.0.1:9/ipn") as box:
        await Receiver(box).charge()
        delivering = asyncio.create_task(box.simulator.notifier.delivered())
        while not delivering.done():
            box.clock.advance(max(PAUSES_SECONDS))
            await asyncio.sleep(0.01)
        sent = box.simulator.dump()["notifications"]
    assert [n["deliveries"] for n in sent] == [[0] * (1 + len(PAUSES_SECONDS))] * 2


def test_the_signer_keeps_its_key_over_a_restart(tmp_path: Path) -> None:
    first = Signer(tmp_path)
    assert Signer(tmp_path).certificate == first.certificate
    assert [f.stat().st_mode & 0o777 for f in tmp_path.iterdir()] == [0o600]
