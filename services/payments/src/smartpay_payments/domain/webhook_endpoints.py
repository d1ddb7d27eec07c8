"""A merchant's own addresses for events, and the secrets that sign what is sent there."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlsplit

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.public_addresses import is_loopback, is_public

ENDPOINTS_MAX = 16
"""Of one merchant and mode. Each event costs a delivery per endpoint; Stripe allows as many."""
SIGNING_KEY_LETTERS_MIN = 32
"""An operator's key with less could be guessed."""

_HOST = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
)
# Names that no public server has (RFC 6761, RFC 6762, RFC 8375, and what clusters use).
_PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa", ".intranet", ".test")


@dataclass(frozen=True, slots=True)
class SecretName:
    """Which secret: the operator's key it comes from, and the how manieth of the endpoint."""

    key_id: str
    generation: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and what is sent there."""

    webhook_endpoint_id: str
    merchant_id: str
    livemode: bool
    url: str
    description: str
    event_types: tuple[str, ...]
    """Exact types, or all of a subject by a star at the end; empty for all."""
    enabled: bool
    secret: SecretName
    from_position: int
    """Place in the log of events when it was last enabled; later events are sent."""
    create_time: datetime
    update_time: datetime
    previous_secret: SecretName | None = None
    previous_secret_expire_time: datetime | None = None
    failing_since_time: datetime | None = None
    disabled_reason: str = ""
    version: int = 1

    def wants(self, event_type: str) -> bool:
        """Tells whether events of a type are sent there."""
        return not self.event_types or any(
            event_type.startswith(wanted[:-1]) if wanted.endswith("*") else event_type == wanted
            for wanted in self.event_types
        )

    def signing_secrets(self, now: datetime) -> tuple[SecretName, ...]:
        """Lists the secrets that sign now: the newest first, the one before while it lasts."""
        until = self.previous_secret_expire_time
        if self.previous_secret is None or until is None or now >= until:
            return (self.secret,)
        return (self.secret, self.previous_secret)

    def rotated(self, key_id: str, expire_time: datetime, now: datetime) -> Endpoint:
        """Answers the endpoint with its next secret, and the old one until it expires."""
        return replace(
            self,
            secret=SecretName(key_id, self.secret.generation + 1),
            previous_secret=self.secret,
            previous_secret_expire_time=expire_time,
            update_time=now,
            version=self.version + 1,
        )


class SigningKeys:
    """Derives each endpoint's secrets from the operator's keys, so that no store holds one.

    Args:
        keys: the newest first; older ones only as long as endpoints have secrets of theirs.

    Raises:
        ValueError: a key is too short.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if any(len(key) < SIGNING_KEY_LETTERS_MIN for key in keys):
            raise ValueError(f"each key needs {SIGNING_KEY_LETTERS_MIN} characters at least")
        self._keys = {hashlib.sha256(key.encode()).hexdigest()[:8]: key.encode() for key in keys}
        self.newest_id = next(iter(self._keys), "")
        """Names the newest key; empty when the operator has set none."""

    def secret(self, webhook_endpoint_id: str, name: SecretName) -> bytes | None:
        """Answers the 32 bytes of a secret; None when its key is gone."""
        key = self._keys.get(name.key_id)
        if key is None:
            return None
        text = f"webhook secret\0{webhook_endpoint_id}\0{name.generation}"
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    def shown(self, webhook_endpoint_id: str, name: SecretName) -> str:
        """Spells a secret as Standard Webhooks does; empty when its key is gone."""
        secret = self.secret(webhook_endpoint_id, name)
        return "" if secret is None else f"whsec_{base64.b64encode(secret).decode()}"


def check_url(url: str, *, allow_loopback: bool) -> None:
    """Refuses an address that events must not go to, as far as it shows by itself.

    What its name resolves to is checked at each sending, because it may change.

    Raises:
        Refusal: WEBHOOK_URL_REFUSED.
    """
    if not url.isascii() or any(letter <= " " or letter in '\\"<>^`{|}\x7f' for letter in url):
        raise url_refused("holds letters that no address has")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise url_refused("can't be read") from None
    if port == 0:
        raise url_refused("has no such port")
    if parts.username is not None or parts.password is not None:
        raise url_refused("holds a user name")
    if parts.fragment or "#" in url:
        raise url_refused("has a fragment")
    local = _is_local(host)
    if parts.scheme != "https" and not (allow_loopback and local and parts.scheme == "http"):
        raise url_refused("is not https")
    if local:
        if not allow_loopback:
            raise url_refused("is not public")
        return
    _check_host(host)


def _is_local(host: str) -> bool:
    try:
        return is_loopback(ipaddress.ip_address(host))
    except ValueError:
        return host == "localhost"


def _check_host(host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if not is_public(address):
            raise url_refused("is not public")
        return
    # Resolvers read 127.1, 0x7f000001 and 2130706433 as IPv4 addresses: a name ends in a word.
    last = host.rpartition(".")[2]
    if not _HOST.fullmatch(host) or last.isdigit() or last.startswith("0x"):
        raise url_refused("names no public host")
    if host.endswith(_PRIVATE_NAMES):
        raise url_refused("is not public")


def url_refused(why: str) -> Refusal:
    """Refuses an address for events."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "WEBHOOK_URL_REFUSED",
        f"The address {why}.",
        remedy="Send an https address of a public host, without user name and fragment.",
        field="url",
    )


def endpoint_not_found() -> Refusal:
    """Refuses an endpoint that is not the merchant's, or not at all; the two read the same."""
    return Refusal(
        Kind.NOT_FOUND,
        "WEBHOOK_ENDPOINT_NOT_FOUND",
        "There is no such webhook endpoint.",
        remedy="Check the id and the credentials it was made with.",
        field="webhook_endpoint_id",
    )


def too_many_endpoints() -> Refusal:
    """Refuses one endpoint more than a merchant may have."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "WEBHOOK_ENDPOINTS_TOO_MANY",
        f"There are {ENDPOINTS_MAX} webhook endpoints already.",
        remedy="Delete one, or send several types of events to one.",
        facts={"limit": str(ENDPOINTS_MAX)},
    )


def too_busy() -> Refusal:
    """Refuses a change that lost several races against others."""
    return Refusal(
        Kind.UNAVAILABLE,
        "UNAVAILABLE",
        "Others change the webhook endpoint at the same time.",
        remedy="Wait a moment and repeat the call.",
    )


def not_configured() -> Refusal:
    """Refuses endpoints where nothing can be signed."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "WEBHOOKS_NOT_CONFIGURED",
        "Webhooks can't be signed here.",
        remedy="Ask the operator to set PAYMENTS_WEBHOOK_SIGNING_KEY.",
    )
