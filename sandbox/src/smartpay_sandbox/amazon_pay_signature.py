"""Verifies the signature of a request as Amazon Pay does.

Written from developer.amazon.com/docs/amazon-pay-api-v2/signing-requests.html, apart from the code
that signs in payments, and held against Amazon's own SDK in the tests. The canonical request has
these lines: method, path, sorted query, one `name:value` for each signed header, nothing, the
signed names joined by semicolons, the hex SHA-256 of the body. What is signed is the algorithm's
name, a line break, and the hex SHA-256 of the canonical request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from smartpay_sandbox.amazon_pay_refusals import (
    bad_header,
    bad_signature,
    missing_header,
    unauthorized,
)

SALT_LENGTHS = {"AMZN-PAY-RSASSA-PSS-V2": 32, "AMZN-PAY-RSASSA-PSS": 20}
"""Bytes of salt by algorithm; the older one is what the SDKs use unless told otherwise."""
SKEW_SECONDS_MAX = 300
"""How far a request's date may be off; Amazon names no figure, AWS takes five minutes."""
MUST_BE_SIGNED = ("accept", "content-type", "x-amz-pay-date", "x-amz-pay-host", "x-amz-pay-region")
REGIONS = ("na", "eu", "jp")

_AUTHORIZATION = re.compile(
    r"(?P<algorithm>[A-Z0-9-]+) PublicKeyId=(?P<key>[^,\s]+), "
    r"SignedHeaders=(?P<names>[a-z0-9;-]+), Signature=(?P<signature>[A-Za-z0-9+/=]+)"
)


@dataclass(frozen=True)
class Claim:
    """What a request's Authorization header says."""

    algorithm: str
    public_key_id: str
    signed_headers: tuple[str, ...]
    signature: bytes


def read_claim(authorization: str) -> Claim:
    """Take the header apart.

    Raises:
        AmazonPayRefusalError: 401 or 403 if it is absent or has another form.
    """
    if not authorization:
        raise unauthorized("The request is not signed.")
    found = _AUTHORIZATION.fullmatch(authorization.strip())
    if found is None or found["algorithm"] not in SALT_LENGTHS:
        raise bad_signature("The Authorization header can't be read.")
    try:
        signature = base64.b64decode(found["signature"], validate=True)
    except binascii.Error as cause:
        raise bad_signature("The signature is not base64.") from cause
    return Claim(found["algorithm"], found["key"], tuple(found["names"].split(";")), signature)


def load_public_key(pem: str) -> RSAPublicKey:
    """Read an account's public key.

    Raises:
        ValueError: if it is no RSA public key in PEM.
    """
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, RSAPublicKey):
        raise ValueError("public_key: must be an RSA public key in PEM")
    return key


def verify(
    claim: Claim,
    key: RSAPublicKey,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    now: float,
) -> None:
    """Check who signed the request, that nothing of it was changed, and that it is fresh.

    Args:
        claim: from the Authorization header.
        key: the account's public key.
        method: upper case.
        path: from the API's version on, with its leading slash.
        query: as it came.
        headers: by lower-case name.
        body: as it came.
        now: seconds since 1970.

    Raises:
        AmazonPayRefusalError: 400 for a header that is absent or wrong, 403 for the signature.
    """
    for name in MUST_BE_SIGNED:
        if name not in headers:
            raise missing_header(name)
    needed = {*MUST_BE_SIGNED, *({"x-amz-pay-idempotency-key"} & headers.keys())}
    unsigned = needed - set(claim.signed_headers)
    if unsigned:
        raise bad_signature(f"Not signed: {', '.join(sorted(unsigned))}.")
    if list(claim.signed_headers) != sorted(set(claim.signed_headers)):
        raise bad_signature("SignedHeaders must be sorted and name each header once.")
    absent = [name for name in claim.signed_headers if name not in headers]
    if absent:
        raise bad_signature(f"Signed and not sent: {', '.join(absent)}.")
    if headers["x-amz-pay-region"] not in REGIONS:
        raise bad_header("x-amz-pay-region", f"must be one of {', '.join(REGIONS)}")
    if abs(_seconds(headers["x-amz-pay-date"]) - now) > SKEW_SECONDS_MAX:
        raise bad_signature("x-amz-pay-date is too far from Amazon's clock.")
    lines = [f"{name}:{' '.join(headers[name].split())}\n" for name in claim.signed_headers]
    canonical = "\n".join(
        (
            method,
            path,
            _sorted_query(query),
            "".join(lines),
            ";".join(claim.signed_headers),
            hashlib.sha256(body).hexdigest(),
        )
    )
    signed = f"{claim.algorithm}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), SALT_LENGTHS[claim.algorithm])
    try:
        key.verify(claim.signature, signed.encode(), pss, hashes.SHA256())
    except InvalidSignature as cause:
        raise bad_signature("The signature does not fit the request.") from cause


def _sorted_query(query: str) -> str:
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)


def _seconds(date: str) -> float:
    for form in ("%Y%m%dT%H%M%SZ", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            return datetime.strptime(date, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    raise bad_header("x-amz-pay-date", "must be ISO 8601 in UTC, for example 20261122T180000Z")
