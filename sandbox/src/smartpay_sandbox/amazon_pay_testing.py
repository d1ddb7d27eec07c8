"""An Amazon Pay sandbox inside a test's own loop, with merchants whose keys the test holds."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import aiohttp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from smartpay_sandbox.amazon_pay_api import AmazonPaySimulator
from smartpay_sandbox.amazon_pay_notifications import SIGNER_FILE
from smartpay_sandbox.amazon_pay_objects import Json, timestamp
from smartpay_sandbox.amazon_pay_signature import SALT_LENGTHS
from smartpay_sandbox.amazon_pay_store import Registration
from smartpay_sandbox.control import sandbox_app
from smartpay_sandbox.listener import listening
from smartpay_sandbox.testing import Clock

ALGORITHM = "AMZN-PAY-RSASSA-PSS-V2"


@cache
def key_pair(name: str) -> tuple[str, str]:
    """Make a private and a public key in PEM; the same for the same name, once per process."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def registration(name: str, *, notify_url: str = "") -> Registration:
    """Register a merchant by a short name; its private key is `key_pair(name)[0]`."""
    return Registration(
        merchant_id=f"A{name.upper()}",
        store_id=f"amzn1.application-oa2-client.{name}",
        public_key_id=f"SANDBOX-{name.upper()}",
        public_key=key_pair(name)[1],
        notify_url=notify_url,
    )


def signed(
    name: str, method: str, path: str, body: bytes, now: float, key: str = ""
) -> dict[str, str]:
    """Sign a request as a merchant's backend would; answers its headers."""
    headers = {
        "accept": "application/json",
        "content-type": "application/json",
        "x-amz-pay-date": timestamp(now),
        "x-amz-pay-host": "pay-api.amazon.com",
        "x-amz-pay-region": "na",
    }
    if key:
        headers["x-amz-pay-idempotency-key"] = key
    path, _, query = path.partition("?")
    query = "&".join(
        f"{quote(found, safe='')}={quote(value, safe='')}"
        for found, value in sorted(parse_qsl(query, keep_blank_values=True))
    )
    names = ";".join(sorted(headers))
    lines = "".join(f"{found}:{headers[found]}\n" for found in sorted(headers))
    digest = hashlib.sha256(body).hexdigest()
    canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{digest}"
    text = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), SALT_LENGTHS[ALGORITHM])
    signature = _private_key(name).sign(text.encode(), pss, hashes.SHA256())
    headers["authorization"] = (
        f"{ALGORITHM} PublicKeyId=SANDBOX-{name.upper()}, SignedHeaders={names}, "
        f"Signature={base64.b64encode(signature).decode()}"
    )
    return headers


@cache
def _private_key(name: str) -> rsa.RSAPrivateKey:
    key = load_pem_private_key(
        key_pair(name)[0].encode(), password=None, unsafe_skip_rsa_key_validation=True
    )
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@dataclass
class AmazonPaySandbox:
    """One running sandbox with two merchants; `simulator` sets faults and dumps."""

    url: str
    simulator: AmazonPaySimulator
    clock: Clock

    @property
    def amazon_pay_url(self) -> str:
        """What stands before `/v2/...`."""
        return f"{self.url}/amazon_pay"

    def merchant(self, merchant_id: str = "AFIRST") -> dict[str, Any]:
        """Return what the judge sees of one merchant."""
        found: dict[str, Any] = self.simulator.dump()["merchants"][merchant_id]
        return found

    async def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        key: str = "",
        code: str = "",
        name: str = "first",
        **headers: str,
    ) -> tuple[int, Json]:
        """Send one signed request; answers status and body.

        Args:
            method: upper case.
            path: from the version on, with the query if there is one.
            body: written as JSON; nothing is sent without one.
            key: idempotency key.
            code: what is to be simulated.
            name: whose key signs.
            headers: by name, in place of what would be sent; an empty one is left out.
        """
        raw = b"" if body is None else json.dumps(body).encode()
        sent = signed(name, method, path, raw, self.clock(), key) | headers
        sent |= {"x-amz-pay-simulation-code": code} if code else {}
        sent = {found: value for found, value in sent.items() if value}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.amazon_pay_url + path, data=raw, headers=sent) as response,
        ):
            return response.status, await response.json()

    async def buyer(self, url: str, action: str = "agree?card=1111") -> int:
        """Act on Amazon's page as the buyer; answers the HTTP status."""
        async with aiohttp.ClientSession() as browser, browser.post(f"{url}/{action}") as page:
            return page.status


@asynccontextmanager
async def amazon_pay_sandbox(
    state_dir: Path, *, notify_url: str = ""
) -> AsyncIterator[AmazonPaySandbox]:
    """Run a sandbox with the merchants AFIRST and ASECOND and a clock that only the test moves."""
    clock = Clock()
    # Making a key takes longer than most tests; all of them may share the signer's.
    (state_dir / SIGNER_FILE).write_text(key_pair("signer")[0])
    merchants = [registration(name, notify_url=notify_url) for name in ("first", "second")]
    simulator = AmazonPaySimulator(state_dir, merchants, clock=clock, sleep=clock.sleep)
    async with listening(sandbox_app({"amazon_pay": simulator})) as url:
        yield AmazonPaySandbox(url, simulator, clock)
