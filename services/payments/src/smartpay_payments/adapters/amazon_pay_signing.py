"""Signs requests to Amazon Pay: AMZN-PAY-RSASSA-PSS-V2.

https://developer.amazon.com/docs/amazon-pay-api-v2/signing-requests.html. The canonical request has
these lines: method, path, sorted query, one `name:value` for each signed
header, nothing, the signed names joined by semicolons, the hex SHA-256 of the body. Signed are the
algorithm's name, a line break, and the hex SHA-256 of the canonical request.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ALGORITHM = "AMZN-PAY-RSASSA-PSS-V2"
# The algorithm's name fixes the salt; V1, which the SDKs use unless told otherwise, has 20 bytes.
SALT_BYTES = 32
ENDPOINTS = {
    "na": "https://pay-api.amazon.com",
    "eu": "https://pay-api.amazon.eu",
    "jp": "https://pay-api.amazon.jp",
}
# Keys made since 2022 name their environment; with older ones the path must do it.
ENVIRONMENTS = ("SANDBOX-", "LIVE-")


@dataclass(frozen=True, slots=True)
class AmazonPayAccount:
    """One merchant's credentials at Amazon Pay."""

    public_key_id: str
    store_id: str
    merchant_id: str
    region: str
    is_live: bool
    private_key: RSAPrivateKey = field(repr=False)

    @property
    def version_path(self) -> str:
        """Where the API's version 2 begins, for this key."""
        if self.public_key_id.startswith(ENVIRONMENTS):
            return "/v2"
        return "/live/v2" if self.is_live else "/sandbox/v2"


def read_account(secret: str, *, livemode: bool) -> AmazonPayAccount:
    """Reads the credentials of an account out of its secret.

    Args:
        secret: a JSON object with public_key_id, private_key (PEM), store_id, merchant_id and,
            unless it is na, region (na, eu or jp).
        livemode: whether the merchant's credentials are live ones.

    Raises:
        ValueError: naming what is missing or wrong; never the secret itself.
    """
    try:
        found = json.loads(secret)
    except ValueError:
        raise ValueError("the secret is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("the secret is no JSON object")
    names = ("public_key_id", "private_key", "store_id", "merchant_id")
    absent = [name for name in names if not isinstance(found.get(name), str) or not found[name]]
    if absent:
        raise ValueError(f"the secret lacks {', '.join(absent)}")
    region = found.get("region", "na")
    if region not in ENDPOINTS:
        raise ValueError(f"region must be one of {', '.join(ENDPOINTS)}")
    key_id: str = found["public_key_id"]
    if key_id.startswith(ENVIRONMENTS) and key_id.startswith("LIVE-") is not livemode:
        raise ValueError("public_key_id belongs to the other mode than the merchant")
    try:
        key = load_pem_private_key(found["private_key"].encode(), password=None)
    except (ValueError, TypeError):
        raise ValueError("private_key is no PEM private key without a password") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("private_key must be an RSA key")
    return AmazonPayAccount(key_id, found["store_id"], found["merchant_id"], region, livemode, key)


def canonical_query(query: Mapping[str, str]) -> str:
    """Writes a query sorted by name, percent-encoded as RFC 3986 has it."""
    return "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(query.items())
    )


def canonical_request(
    method: str, path: str, headers: Mapping[str, str], body: bytes, query: str = ""
) -> str:
    """Writes what both sides hash; header names are lower case, values free of line breaks."""
    names = sorted(headers)
    lines = "".join(f"{name}:{headers[name]}\n" for name in names)
    digest = hashlib.sha256(body).hexdigest()
    return "\n".join((method, path, query, lines, ";".join(names), digest))


def signed_headers(
    account: AmazonPayAccount,
    method: str,
    host: str,
    path: str,
    body: bytes,
    now: datetime,
    idempotency_key: str = "",
    query: str = "",
) -> dict[str, str]:
    """Answers every header of a request, the authorization included.

    Args:
        account: who signs.
        method: upper case.
        host: without a scheme.
        path: with its leading slash, without a query.
        body: exactly what is sent.
        now: aware; Amazon refuses a date that is minutes off.
        idempotency_key: for POST only; at most 32 of A-Z, a-z, 0-9, - and _.
        query: canonical, without the question mark.
    """
    headers = {
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "smartpay-payments",
        "x-amz-pay-date": now.strftime("%Y%m%dT%H%M%SZ"),
        "x-amz-pay-host": host,
        "x-amz-pay-region": account.region,
    }
    if idempotency_key:
        headers["x-amz-pay-idempotency-key"] = idempotency_key
    canonical = canonical_request(method, path, headers, body, query)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signature = account.private_key.sign(
        f"{ALGORITHM}\n{digest}".encode(),
        padding.PSS(padding.MGF1(hashes.SHA256()), SALT_BYTES),
        hashes.SHA256(),
    )
    authorization = (
        f"{ALGORITHM} PublicKeyId={account.public_key_id}, "
        f"SignedHeaders={';'.join(sorted(headers))}, "
        f"Signature={base64.b64encode(signature).decode()}"
    )
    return {**headers, "authorization": authorization}
