"""A merchant's backend in a few lines: REST over TLS, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

CALL_SECONDS = 35.0  # above the longest deadline of the contract, so that the edge answers first
PAGE_SIZE = 200  # the largest the contract gives


@dataclass(frozen=True)
class Answer:
    """What the edge answered."""

    status: int
    headers: Mapping[str, str]
    body: Any
    milliseconds: int


class EdgeClient:
    """Calls the edge for one token over one kept connection.

    Args:
        rest: base URL, as in `.run/endpoints.json`.
        ca: file with the certificate that signed the edge's.
        token: Cognito access token.
    """

    def __init__(self, rest: str, ca: str, token: str) -> None:
        address = urlsplit(rest)
        self._connection = http.client.HTTPSConnection(
            str(address.hostname),
            address.port,
            timeout=CALL_SECONDS,
            context=ssl.create_default_context(cafile=ca),
        )
        self._token = token

    def __enter__(self) -> Self:
        """Opens the connection."""
        self._connection.connect()
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the connection."""
        self._connection.close()

    def get(self, path: str) -> Answer:
        """Reads a resource."""
        return self._call("GET", path, None, None)

    def post(self, path: str, body: Mapping[str, Any], key: str | None = None) -> Answer:
        """Posts JSON, with an Idempotency-Key where the method wants one."""
        return self._call("POST", path, body, key)

    def pages(self, path: str, field: str) -> Iterator[dict[str, Any]]:
        """Reads all items of a list, page by page; AIP-158.

        Raises:
            http.client.HTTPException: when a page is refused.
        """
        token = ""
        while True:
            page = self.get(f"{path}?pageSize={PAGE_SIZE}&pageToken={token}")
            if page.status != http.client.OK:
                raise http.client.HTTPException(f"GET {path}: {page.status} {page.body}")
            yield from page.body[field]
            token = page.body["nextPageToken"]
            if not token:
                return

    def stream(self, path: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Posts JSON and reads the server-sent events to the end."""
        response = self._send("POST", path, body, None)
        events = response.read().decode().split("\n\n")
        return [json.loads(event.removeprefix("data: ")) for event in events if event.strip()]

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, key: str | None
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        self._connection.request(
            method, path, body=None if body is None else json.dumps(body), headers=headers
        )
        return self._connection.getresponse()

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, key: str | None
    ) -> Answer:
        started = time.perf_counter()
        response = self._send(method, path, body, key)
        text = response.read()
        return Answer(
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            json.loads(text) if text else None,
            round((time.perf_counter() - started) * 1000),
        )
