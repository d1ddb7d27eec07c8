"""Reads Amazon Pay's notifications, which Amazon SNS signs and delivers.

Rules: https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html and
https://developer.amazon.com/docs/amazon-pay-checkout/set-up-instant-payment-notifications.html.
Anybody may have a topic at SNS and sign by it, so a genuine signature proves little: what an
account's "webhook secrets" hold here are the ARNs of the topics that Amazon Pay uses for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.webhooks import (
    REPLAY_WINDOW,
    Notice,
    Topic,
    WebhookAccount,
    body_malformed,
    signature_refused,
)

AGE_MAX = timedelta(days=1)
"""How old a notification may be. SNS repeats one for hours with its first time, so five minutes
would refuse what was missed in an outage; within a day the message id tells a repeat."""
CERTIFICATE_BYTES_MAX = 16 * 1024
"""Amazon's have about 2 KiB."""
CERTIFICATES_MAX = 16
"""Kept at once; Amazon has one per region and changes it about once a year."""
FETCH_SECONDS = 3.0
"""For a certificate; SNS itself waits 15 seconds for our answer."""

_AMAZONS = re.compile(
    r"https://sns\.[a-z]{2}(-[a-z]+)+-\d\.amazonaws\.com(\.cn)?/[A-Za-z0-9_\-]{1,128}\.pem"
)
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        *("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    ),
}
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"1": hashes.SHA1(), "2": hashes.SHA256()}
_TOPICS = {
    "CHARGE": Topic.CHARGE,
    "CHARGE_PERMISSION": Topic.CHARGE,
    "REFUND": Topic.REFUND,
    "CHARGEBACK": Topic.DISPUTE,
}
_texts = msgspec.json.Decoder(dict[str, Any]).decode


class CertificateUnavailableError(Exception):
    """A certificate can't be had at the moment."""


class SnsCertificates:
    """Fetches the certificates SNS signs with, from Amazon alone, and keeps them.

    Args:
        development_base: an address whose certificates are taken too: the sandbox's, else "".
    """

    def __init__(self, development_base: str) -> None:
        self._development_base = development_base
        self._kept: OrderedDict[str, x509.Certificate] = OrderedDict()
        self._fetching = asyncio.Lock()

    def may_sign(self, url: str) -> bool:
        """Tells whether an address is one of Amazon's, by host and form."""
        if _AMAZONS.fullmatch(url):
            return True
        path = url.removeprefix(self._development_base)
        return bool(self._development_base) and path != url and ".." not in path

    async def at(self, url: str) -> x509.Certificate:
        """Answers the certificate at an address that `may_sign`.

        Raises:
            CertificateUnavailableError: nobody answers, or what comes is no certificate.
        """
        async with self._fetching:
            if url not in self._kept:
                self._kept[url] = await _fetched(url)
                if len(self._kept) > CERTIFICATES_MAX:
                    self._kept.popitem(last=False)
            return self._kept[url]


async def _fetched(url: str) -> x509.Certificate:
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise CertificateUnavailableError(f"status {answer.status}")
            pem = await answer.content.read(CERTIFICATE_BYTES_MAX)
            while len(pem) < CERTIFICATE_BYTES_MAX and (more := await answer.content.readany()):
                pem += more
        return x509.load_pem_x509_certificate(pem[:CERTIFICATE_BYTES_MAX])
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise CertificateUnavailableError(type(error).__name__) from None


class AmazonPayNotices:
    """The port `NoticeReader` for Amazon Pay.

    Args:
        certificates: where the signers' certificates come from.
        clock: the time, aware.
    """

    def __init__(self, certificates: SnsCertificates, clock: Callable[[], datetime]) -> None:
        self._certificates = certificates
        self._clock = clock

    async def read(
        self, account: WebhookAccount, headers: Mapping[str, str], body: bytes
    ) -> Notice:
        """Checks topic, time and signature, and reads the notification."""
        message = _message_of(body)
        # The topic first: only who knows it can make us fetch anything.
        if message.get("TopicArn") not in account.secrets:
            raise signature_refused()
        now = self._clock()
        if not -REPLAY_WINDOW <= now - _moment(message.get("Timestamp", "")) <= AGE_MAX:
            raise signature_refused()
        await self._verify(message, now)
        if message["Type"] != "Notification":
            # Amazon Pay subscribes by itself: nobody has to visit an address for it.
            return Notice(message["MessageId"], message["Type"], None)
        return _notice(message)

    async def _verify(self, message: Mapping[str, str], now: datetime) -> None:
        names = _SIGNED.get(message.get("Type", ""))
        algorithm = _HASHES.get(message.get("SignatureVersion", ""))
        url = message.get("SigningCertURL", "")
        if names is None or algorithm is None or not self._certificates.may_sign(url):
            raise signature_refused()
        try:
            certificate = await self._certificates.at(url)
        except CertificateUnavailableError:
            raise _certificate_unavailable() from None
        key = certificate.public_key()
        is_valid = certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
        if not is_valid or not isinstance(key, rsa.RSAPublicKey):
            raise signature_refused()
        signed = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
        try:
            signature = base64.b64decode(message.get("Signature", ""), validate=True)
            key.verify(signature, signed.encode(), padding.PKCS1v15(), algorithm)
        except (binascii.Error, InvalidSignature):
            raise signature_refused() from None


def _message_of(body: bytes) -> dict[str, str]:
    """Reads SNS's envelope; what can't be read is not proven either."""
    try:
        message = _texts(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise signature_refused() from None
    texts = {name: value for name, value in message.items() if isinstance(value, str)}
    if not texts.get("MessageId"):
        raise signature_refused()
    return texts


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise signature_refused() from None
    if moment.tzinfo is None:
        raise signature_refused()
    return moment


def _notice(message: Mapping[str, str]) -> Notice:
    try:
        # Amazon's documents spell the names in two ways.
        found = {name.lower(): value for name, value in _texts(message["Message"]).items()}
    except (msgspec.DecodeError, KeyError):
        raise body_malformed() from None
    kind = str(found.get("objecttype", "")).upper()
    # A charge is known by its own id; refunds and chargebacks name the permission it came from.
    reference = "objectid" if kind == "CHARGE" else "chargepermissionid"
    return Notice(
        event_id=message["MessageId"],
        event_type=kind.lower()[:64],
        topic=_TOPICS.get(kind),
        processor_payment_id=str(found.get(reference, "")),
    )


def _certificate_unavailable() -> Refusal:
    """Refuses for now, so that SNS delivers it again."""
    return Refusal(
        Kind.UNAVAILABLE,
        "UNAVAILABLE",
        "The signer's certificate can't be fetched at the moment.",
        remedy="Deliver the notification again later.",
    )
