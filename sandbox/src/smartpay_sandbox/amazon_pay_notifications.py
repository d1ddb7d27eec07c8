"""Amazon Pay's instant payment notifications, signed and posted as Amazon SNS does.

The body is JSON, sent as `text/plain; charset=UTF-8`, with the headers `x-amz-sns-message-type`,
`-id` and `-topic-arn`:

    Type             "Notification"
    MessageId        a UUID, the same on each delivery of one notification
    TopicArn         "arn:aws:sns:us-east-1:000000000000:" and the merchant id
    Message          JSON as text: MerchantID, ObjectType (CHARGE, CHARGE_PERMISSION, REFUND,
                     CHARGEBACK), ObjectId, ChargePermissionId, NotificationType "STATE_CHANGE",
                     NotificationId, NotificationVersion "V2"
    Timestamp        ISO 8601 in UTC with milliseconds, for example 2026-11-22T18:00:00.000Z
    SignatureVersion "2"
    Signature        base64 of RSA PKCS #1 v1.5 with SHA-256 (version 1 is SHA-1)
    SigningCertURL   where the PEM certificate of the signer is served
    UnsubscribeURL   not signed

What is signed, in UTF-8 (docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html):
for each of Message, MessageId, Subject (left out when the message has none), Timestamp, TopicArn
and Type, in this order, the name, a line break, the value, a line break.

A notification says only that something changed: whoever gets one reads the object.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from smartpay_sandbox.amazon_pay_objects import Json

log = logging.getLogger(__name__)

SIGNED_FIELDS = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
"""In the order in which they are signed; Subject only when the message has one."""
SIGNER_FILE = "amazon_pay_sns.pem"
"""The signer's private key, in the folder of the durable state."""
CERTIFICATE_PATH = "/sns/SimpleNotificationService-sandbox.pem"
"""Where the simulator serves the signer's certificate, below its own root."""
PAUSES_SECONDS = (1.0, 5.0, 30.0)
"""Between deliveries that got no 2xx; then a notification is given up. Amazon tries for hours."""
KEPT_MAX = 1000
"""Notifications kept for the dump; enough for any test, and bounded."""
SEND_SECONDS = 3.0
"""How long a receiver may take: it only stores a hint, and a stop waits for the last one."""
_TOPIC = "arn:aws:sns:us-east-1:000000000000:"
_OBJECT_TYPES = {"charge": "CHARGE", "refund": "REFUND", "chargePermission": "CHARGE_PERMISSION"}


def signed_text(message: Mapping[str, str]) -> bytes:
    """Write what SNS signs of a message."""
    lines = [f"{name}\n{message[name]}\n" for name in SIGNED_FIELDS if name in message]
    return "".join(lines).encode()


class Signer:
    """The key that signs notifications, with a certificate of its own, kept in a folder."""

    def __init__(self, folder: Path) -> None:
        file = folder / SIGNER_FILE
        if file.exists():
            # It was made here, and checking it takes longer than everything else at the start.
            key = load_pem_private_key(
                file.read_bytes(), password=None, unsafe_skip_rsa_key_validation=True
            )
            if not isinstance(key, rsa.RSAPrivateKey):
                raise ValueError(f"{file} holds no RSA key")
        else:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.chmod(0o600)
        self._key = key
        self.certificate = _certificate(key)

    def sign(self, message: Json) -> Json:
        """Answer the message with its signature, version 2."""
        signature = self._key.sign(signed_text(message), padding.PKCS1v15(), hashes.SHA256())
        return {
            **message,
            "SignatureVersion": "2",
            "Signature": base64.b64encode(signature).decode(),
        }


def _certificate(key: rsa.RSAPrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.sandbox.invalid")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(Encoding.PEM)


@dataclass
class Notification:
    """One notification and what became of it."""

    url: str
    body: Json
    deliveries: list[int] = field(default_factory=list)
    """HTTP status of each try; 0 for no answer."""


class Notifier:
    """Posts notifications in the order in which things changed; a slow receiver delays others.

    Args:
        signer: signs them.
        clock: seconds since 1970.
        sleep: pauses between deliveries; injected so that no timing decides a test.
    """

    def __init__(
        self,
        signer: Signer,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._signer = signer
        self._clock = clock
        self._sleep = sleep
        self._waiting: asyncio.Queue[Notification] = asyncio.Queue()
        self.sent: list[Notification] = []

    def tell(self, merchant_id: str, url: str, base_url: str, kind: str, item: Json) -> None:
        """Queue a notification about an object, unless its kind is none of Amazon's.

        Args:
            merchant_id: whose object it is.
            url: where the merchant is notified.
            base_url: the simulator's own, for the certificate.
            kind: of the object.
            item: the object after its change.
        """
        if kind not in _OBJECT_TYPES:
            return
        now = dt.datetime.fromtimestamp(self._clock(), dt.UTC)
        object_id = item[f"{kind}Id"]
        subject = {
            "MerchantID": merchant_id,
            "ObjectType": _OBJECT_TYPES[kind],
            "ObjectId": object_id,
            "ChargePermissionId": object_id[:19],
            "NotificationType": "STATE_CHANGE",
            "NotificationId": str(uuid.uuid4()),
            "NotificationVersion": "V2",
        }
        body = self._signer.sign(
            {
                "Type": "Notification",
                "MessageId": str(uuid.uuid4()),
                "TopicArn": _TOPIC + merchant_id,
                "Message": json.dumps(subject),
                "Timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                "SigningCertURL": base_url + CERTIFICATE_PATH,
                "UnsubscribeURL": f"{base_url}/sns/unsubscribe",
            }
        )
        notification = Notification(url, body)
        self.sent = [*self.sent[1 - KEPT_MAX :], notification]
        self._waiting.put_nowait(notification)

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            notification = await self._waiting.get()
            for pause in (*PAUSES_SECONDS, None):
                status = await asyncio.to_thread(_post, notification)
                notification.deliveries.append(status)
                if 200 <= status < 300 or pause is None:
                    break
                await self._sleep(pause)
            self._waiting.task_done()

    async def delivered(self) -> None:
        """Wait until nothing is left to deliver; for tests."""
        await self._waiting.join()


def _post(notification: Notification) -> int:
    body = notification.body
    request = Request(
        notification.url,
        json.dumps(body).encode(),
        {
            "content-type": "text/plain; charset=UTF-8",
            "user-agent": "Amazon Simple Notification Service Agent",
            "x-amz-sns-message-type": body["Type"],
            "x-amz-sns-message-id": body["MessageId"],
            "x-amz-sns-topic-arn": body["TopicArn"],
        },
    )
    try:
        with urlopen(request, timeout=SEND_SECONDS) as answer:
            return int(answer.status)
    except HTTPError as refused:
        return refused.code
    except OSError:  # nobody listens, or too slowly
        return 0
