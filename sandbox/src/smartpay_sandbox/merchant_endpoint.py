"""A merchant's own endpoint for our events, as one would write it from Standard Webhooks' text.

Shares no code with the sender. `/merchant/{name}` takes events: verifies the signature when the
merchant told its secrets, refuses old ones, knows a repeat by its webhook-id, keeps the newest
snapshot of each payment by sequence, and misbehaves on demand.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from smartpay_sandbox.faults import Faults

TOLERANCE_SECONDS = 300
"""How old or early a delivery may be; Standard Webhooks' own recommendation."""
KEPT_MAX = 2000
"""Deliveries kept of each merchant; enough for any test, and bounded."""
BODY_BYTES_MAX = 1024 * 1024
"""No event comes near."""


def is_genuine(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Tell whether a delivery is signed by one of the secrets, and of now."""
    identifier, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not identifier or not stamp.isdigit() or abs(now - int(stamp)) > TOLERANCE_SECONDS:
        return False
    wanted = set()
    for secret in secrets:
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            continue
        digest = hmac.new(key, f"{identifier}.{stamp}.".encode() + body, hashlib.sha256).digest()
        wanted.add(f"v1,{base64.b64encode(digest).decode()}")
    given = headers.get("webhook-signature", "").split()
    return any(hmac.compare_digest(one, other) for one in wanted for other in given)


class MerchantEndpoints:
    """The simulator of merchants' endpoints, in memory: what a merchant lost, we send again.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._secrets: dict[str, list[str]] = {}
        self._deliveries: dict[str, list[dict[str, Any]]] = {}
        self._payments: dict[str, dict[str, dict[str, Any]]] = {}
        self._faults = Faults()

    @property
    def app(self) -> ASGIApp:
        """The ASGI app; mount it so that `/{name}` follows its root path."""
        return Starlette(routes=[Route("/{name}", self._take, methods=["POST"])])

    def dump(self) -> dict[str, Any]:
        """Return what each merchant got, and the payments as it would show them."""
        return {
            "deliveries": {name: list(got) for name, got in self._deliveries.items()},
            "payments": {name: dict(known) for name, known in self._payments.items()},
            "faults": self._faults.dump(),
        }

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules of faults.py; `account` is the merchant's name here."""
        self._faults.set(rules)

    def clear_faults(self) -> None:
        """Behave again."""
        self._faults.clear()

    def tell_secrets(self, name: str, secrets: Sequence[str]) -> None:
        """Let a merchant verify signatures from now on; several while one replaces another."""
        self._secrets[name] = list(secrets)

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to release."""

    async def _take(self, request: Request) -> Response:
        name = request.path_params["name"]
        body = await request.body()
        trouble = self._faults.meet(name, "POST", f"/{name}")
        if trouble.breakage in ("error_before", "rate_limit"):
            return Response(status_code=429 if trouble.breakage == "rate_limit" else 500)
        secrets = self._secrets.get(name)
        headers = dict(request.headers)
        genuine = is_genuine(secrets, headers, body, self._clock()) if secrets else None
        if genuine is False or len(body) > BODY_BYTES_MAX:
            self._note(name, headers, "refused", genuine)
            return JSONResponse({"error": "the signature does not fit"}, status_code=400)
        repeated = any(
            delivery["webhook_id"] == headers.get("webhook-id") and delivery["fate"] == "taken"
            for delivery in self._deliveries.get(name, [])
        )
        self._note(name, headers, "repeated" if repeated else "taken", genuine)
        self._apply(name, json.loads(body))
        return Response(status_code=500 if trouble.breakage == "error_after" else 204)

    def _note(self, name: str, headers: Mapping[str, str], fate: str, genuine: bool | None) -> None:
        got = self._deliveries.setdefault(name, [])
        got.append(
            {
                "webhook_id": headers.get("webhook-id", ""),
                "fate": fate,
                "genuine": genuine,
            }
        )
        del got[:-KEPT_MAX]

    def _apply(self, name: str, event: Mapping[str, Any]) -> None:
        """Keep the newest snapshot: events come in any order."""
        known = self._payments.setdefault(name, {})
        before = known.get(event["subject"])
        if before is None or int(event["sequence"]) > before["sequence"]:
            known[event["subject"]] = {
                "sequence": int(event["sequence"]),
                "type": event["type"],
                "status": event["data"]["status"],
            }
