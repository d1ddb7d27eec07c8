"""Calls Amazon Pay's API v2 (https://developer.amazon.com/docs/amazon-pay-api-v2/introduction.html).

It never retries by itself: a retry is a decision of the story, with the stored key and body. Only
aiohttp sends a GET or DELETE once more when the kept connection it chose was closed already; both
may be repeated, and POST and PATCH never are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from smartpay_payments.adapters.amazon_pay_signing import (
    ENDPOINTS,
    AmazonPayAccount,
    canonical_query,
    signed_headers,
)

CONNECTIONS_MAX = 100  # more callers than that wait for a connection, within their own timeout
ANSWER_BYTES_MAX = 1 << 20  # an object of Amazon's has a few kilobytes
DOCUMENT_BYTES_MAX = 64 << 20  # a report of 200,000 lines
# They say that Amazon did not finish, so nothing about what happened.
UNFINISHED = frozenset({408, 425})


class AmazonPayRefusedError(Exception):
    """Amazon Pay itself refused a request, and says why."""

    def __init__(self, status: int, reason_code: str) -> None:
        super().__init__(f"{status} {reason_code}")
        self.status = status
        self.reason_code = reason_code


class NoAnswerError(Exception):
    """There is no usable answer: the request may have been executed, or not."""


class AmazonPayClient:
    """One pool of connections for all accounts. Make it inside a running event loop.

    Args:
        accounts: credentials by processor account id; asked anew for each call.
        api_base: address before the version's path; "" for Amazon's own of each account's region.
        timeout_seconds: of one call, everything included.
        clock: the time, aware, in UTC.
    """

    def __init__(
        self,
        accounts: Mapping[str, AmazonPayAccount],
        api_base: str,
        timeout_seconds: float,
        clock: Callable[[], datetime],
    ) -> None:
        self.accounts = accounts
        self._api_base = api_base.rstrip("/")
        self._clock = clock
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.close()

    async def call(
        self,
        processor_account_id: str,
        method: str,
        path: str,
        body: str = "",
        *,
        query: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        simulation_code: str = "",
    ) -> dict[str, Any]:
        """Sends one request and answers the object that Amazon Pay answers.

        Args:
            processor_account_id: whose credentials sign.
            method: upper case.
            path: below the version, for instance "charges/S01-...-C056351".
            body: JSON, sent as it is.
            query: names and values, unencoded.
            idempotency_key: for POST; Amazon keeps the first answer under it for ever.
            simulation_code: what Amazon's sandbox is to simulate; it goes unsigned.

        Raises:
            AmazonPayRefusedError: Amazon Pay refused, with a reason code.
            NoAnswerError: for everything else, a server error included.
        """
        account = self.accounts[processor_account_id]
        base = urlsplit(self._api_base or ENDPOINTS[account.region])
        signed_path = f"{account.version_path}/{path}"
        raw, asked = body.encode(), canonical_query(query or {})
        headers = signed_headers(
            account, method, base.netloc, signed_path, raw, self._clock(), idempotency_key, asked
        )
        if simulation_code:
            headers["x-amz-pay-simulation-code"] = simulation_code
        address = f"{base.scheme}://{base.netloc}{base.path}{signed_path}"
        url = URL(f"{address}?{asked}" if asked else address, encoded=True)
        try:
            async with self._http.request(
                method, url, data=raw, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                found = _object_of(await _read(response, ANSWER_BYTES_MAX))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswerError(type(error).__name__) from error
        if 200 <= status < 300:
            return found
        reason_code = found.get("reasonCode")
        if status >= 500 or status in UNFINISHED or not isinstance(reason_code, str):
            raise NoAnswerError(f"status {status}")
        raise AmazonPayRefusedError(status, reason_code)

    async def download(self, url: str) -> bytes:
        """Fetches a document from the address that Amazon answered; it carries its own signature.

        Raises:
            NoAnswerError: it can't be fetched, for instance since the address is over, or must not
                be, since it would go unencrypted where Amazon's own is not.
        """
        if urlsplit(url).scheme != (urlsplit(self._api_base).scheme or "https"):
            raise NoAnswerError("the document's address is not as safe as Amazon's own")
        try:
            async with self._http.get(URL(url, encoded=True), allow_redirects=False) as response:
                if response.status != 200:
                    raise NoAnswerError(f"status {response.status}")
                return await _read(response, DOCUMENT_BYTES_MAX)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NoAnswerError(type(error).__name__) from error


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise NoAnswerError("the answer is too large")
    return bytes(body)


def _object_of(body: bytes) -> dict[str, Any]:
    """Reads a JSON object; whoever answers something else is not Amazon Pay."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NoAnswerError("the answer is not JSON") from error
    if not isinstance(found, dict):
        raise NoAnswerError("the answer is no JSON object")
    return found
