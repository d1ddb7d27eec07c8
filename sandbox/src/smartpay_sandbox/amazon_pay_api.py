"""Amazon Pay's HTTP interface (API v2) for several merchants, as one bare ASGI app.

A request passes: key, signature, operation, body, faults, idempotency, command, commit, answer.
Idempotency keys (developer.amazon.com/docs/amazon-pay-api-v2/idempotency.html) belong to a
merchant, count for POST only and are kept for ever; a changed request under a used key is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from starlette.types import ASGIApp, Receive, Scope, Send

from smartpay_sandbox.amazon_pay_account import KINDS, AmazonPayAccount, Answer
from smartpay_sandbox.amazon_pay_checkout import CHECKOUT, checkout_page
from smartpay_sandbox.amazon_pay_notifications import CERTIFICATE_PATH, Notifier, Signer
from smartpay_sandbox.amazon_pay_objects import Json
from smartpay_sandbox.amazon_pay_refusals import (
    AmazonPayRefusalError,
    bad_header,
    broken,
    invalid,
    key_in_use,
    key_reused,
    not_found,
    too_many,
    unauthorized,
    unsupported,
)
from smartpay_sandbox.amazon_pay_reports import DOWNLOADS, download
from smartpay_sandbox.amazon_pay_requests import OPERATIONS, Operation
from smartpay_sandbox.amazon_pay_signature import load_public_key, read_claim, verify
from smartpay_sandbox.amazon_pay_store import AmazonPayStore, Registration, StoredAnswer
from smartpay_sandbox.faults import Faults
from smartpay_sandbox.simulator import hang_up

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 256 * 1024
"""No request of a payment comes near; a runaway client is stopped."""
KEY_FORM = re.compile(r"[A-Za-z0-9_-]{1,32}")
"""What Amazon takes as an idempotency key."""
SETTLE_SECONDS = 0.5
"""How often asynchronous results are looked for when nobody asks; notifications follow."""


class _Tenant:
    """One merchant: registration, key, objects, idempotency keys."""

    def __init__(self, registration: Registration, clock: Callable[[], float]) -> None:
        self.registration = registration
        self.public_key: RSAPublicKey = load_public_key(registration.public_key)
        self.account = AmazonPayAccount(registration.merchant_id, registration.store_id, clock)
        self.answers: dict[str, StoredAnswer] = {}
        self.seen: Counter[str] = Counter()
        self.replayed: Counter[str] = Counter()
        self.under_way: set[str] = set()

    def keys(self) -> Json:
        """List every key seen, with counts and the status kept (null: nothing was kept)."""
        return {
            key: {
                "seen": self.seen[key],
                "replayed": self.replayed[key],
                "status": self.answers[key].status if key in self.answers else None,
            }
            for key in {**self.answers, **self.seen}
        }


class AmazonPaySimulator:
    """Amazon Pay's wire for any number of merchants, durable in `state_dir/amazon_pay.sqlite3`.

    Args:
        state_dir: an existing folder; merchants, objects and kept answers live in one file there.
        merchants: registered from the start.
        clock: seconds since 1970; injected so that tests can let sessions expire.
        sleep: how slow faults wait, in seconds; injected so that no timing decides a test.
    """

    def __init__(
        self,
        state_dir: Path,
        merchants: Sequence[Registration] = (),
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._folder = state_dir
        self._given = tuple(merchants)
        self._clock = clock
        self._sleep = sleep
        self._tenants: dict[str, _Tenant] = {}
        self._by_key: dict[str, _Tenant] = {}
        self._served: Counter[str] = Counter()
        self._faults = Faults()
        self._base_url = ""
        self._page = checkout_page(self._session_of, self._agree, self._walk_away)
        self._tasks: list[asyncio.Task[None]] = []

    # --- the Simulator protocol ---

    @property
    def app(self) -> ASGIApp:
        """The ASGI app; mount it so that `/v2/...` follows its root path."""
        return self._serve

    async def start(self) -> None:
        """Open the file and load what it holds."""
        self._store = AmazonPayStore(self._folder / "amazon_pay.sqlite3")
        self._signer = Signer(self._folder)
        self.notifier = Notifier(self._signer, self._clock, self._sleep)
        for registration in (*self._store.registrations(), *self._given):
            self.register(registration)
        for merchant_id, kind, item in self._store.objects():
            self._tenants[merchant_id].account.keep([(kind, item)])
        for merchant_id, key, answer in self._store.answers():
            self._tenants[merchant_id].answers[key] = answer
        loops = (self.notifier.run(), self._settle_for_ever())
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Close the file."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._store.close()

    def dump(self) -> dict[str, Any]:
        """Return every object and key of every merchant, what was served, who was notified."""
        return {
            "merchants": {
                merchant_id: tenant.account.dump() | {"idempotency_keys": tenant.keys()}
                for merchant_id, tenant in self._tenants.items()
            },
            "requests": dict(self._served),
            "faults": self._faults.dump(),
            "notifications": [vars(sent) for sent in self.notifier.sent],
        }

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules; see faults.py. `account` is the merchant id."""
        self._faults.set(rules)

    def clear_faults(self) -> None:
        """Behave again."""
        self._faults.clear()

    # --- for the control API ---

    def register(self, registration: Registration) -> None:
        """Add a merchant, or change what it registered.

        Raises:
            ValueError: if the key can't be read, is none of a sandbox, or belongs to another.
        """
        if registration.public_key_id.startswith("LIVE-"):
            raise ValueError("public_key_id: the sandbox has no live mode")
        holder = self._by_key.get(registration.public_key_id)
        if holder and holder.registration.merchant_id != registration.merchant_id:
            raise ValueError("public_key_id: belongs to another merchant; choose a different one")
        fresh = _Tenant(registration, self._clock)
        known = self._tenants.get(registration.merchant_id)
        self._store.register(registration)
        if known is None:
            known = self._tenants[registration.merchant_id] = fresh
        known.registration, known.public_key = registration, fresh.public_key
        known.account.store_id = registration.store_id
        self._by_key = {
            tenant.registration.public_key_id: tenant for tenant in self._tenants.values()
        }

    def grant(self, merchant_id: str, card: str, kind: str = "Recurring") -> Json:
        """Let a buyer agree to later charges of a merchant; answers the Charge Permission.

        Raises:
            AmazonPayRefusalError: if there is no such merchant or card.
        """
        tenant = self._tenants.get(merchant_id)
        if tenant is None:
            raise not_found("merchant", merchant_id)
        return self._act(tenant, lambda: tenant.account.grant(card, kind))

    def reset(self) -> None:
        """Forget objects, keys, counts and faults; merchants stay."""
        self._store.wipe()
        self._tenants = {
            merchant_id: _Tenant(tenant.registration, self._clock)
            for merchant_id, tenant in self._tenants.items()
        }
        self._by_key = {
            tenant.registration.public_key_id: tenant for tenant in self._tenants.values()
        }
        self.notifier.sent = []
        self._served.clear()
        self._faults.clear()

    # --- one request ---

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        headers = _headers(scope)
        host = headers.get("host", "127.0.0.1")
        self._base_url = f"{scope['scheme']}://{host}{scope.get('root_path', '')}"
        if path.startswith(CHECKOUT):
            await self._page(scope, receive, send)
            return
        if path.startswith(DOWNLOADS):
            await self._download(send, path.removeprefix(DOWNLOADS))
            return
        if path == CERTIFICATE_PATH:
            await _send(send, 200, self._signer.certificate, b"application/x-pem-file")
            return
        try:
            body = await _read(receive)
            status, text = await self._answer(scope, path, headers, body)
        except AmazonPayRefusalError as refusal:
            status, text = refusal.status, json.dumps(refusal.body)
        except _HangUpError:
            await hang_up(scope, receive)
            self._served[f"{scope['method']} dropped"] += 1
            return
        except Exception:
            log.exception("the Amazon Pay simulator failed on %s %s", scope["method"], path)
            status, text = 500, json.dumps(broken().body)
        self._served[f"{scope['method']} {status}"] += 1
        await _send(send, status, text.encode(), b"application/json")

    async def _answer(
        self, scope: Scope, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, str]:
        method: str = scope["method"]
        tenant = self._authenticated(scope, path, headers, body)
        operation, object_id, canonical_path = _operation_of(method, path)
        query = scope["query_string"].decode("latin-1")
        params = operation.read(body) | operation.read_query(query)
        code = headers.get("x-amz-pay-simulation-code", "")
        if code and code not in operation.codes:
            raise AmazonPayRefusalError(
                400, "InvalidSandboxSimulationSpecified", f"{code} is not simulated here."
            )
        merchant_id = tenant.registration.merchant_id
        trouble = self._faults.meet(merchant_id, method, canonical_path)
        if trouble.breakage == "rate_limit":
            raise too_many()
        if trouble.breakage == "error_before":
            raise broken()
        key = headers.get("x-amz-pay-idempotency-key", "") if method == "POST" else ""
        if "x-amz-pay-idempotency-key" in headers and method == "POST":
            _check_key(key)
        tenant.seen[key] += 1 if key else 0
        if key in tenant.under_way:
            raise key_in_use()
        tenant.under_way |= {key} if key else set()
        try:
            if trouble.wait_before_ms:
                await self._sleep(trouble.wait_before_ms / 1000)
            mark = hashlib.sha256(canonical_path.encode() + b"\0" + body).hexdigest()
            stored = tenant.answers.get(key) if key else None
            if stored is not None and stored.fingerprint != mark:
                raise key_reused()
            if stored is None:
                url = self._base_url
                answer = self._execute(
                    tenant,
                    lambda: operation.command(tenant.account, object_id, params, url, code),
                )
                if trouble.breakage == "error_after":
                    answer = Answer(500, dict(broken().body))
                stored = StoredAnswer(mark, answer.status, json.dumps(answer.body))
                self._commit(tenant, key, stored if key else None)
            else:
                tenant.replayed[key] += 1
            if trouble.wait_after_ms:
                await self._sleep(trouble.wait_after_ms / 1000)
            if trouble.breakage == "drop_after_commit":
                raise _HangUpError
        finally:
            tenant.under_way.discard(key)
        return stored.status, stored.body

    def _authenticated(
        self, scope: Scope, path: str, headers: Mapping[str, str], body: bytes
    ) -> _Tenant:
        claim = read_claim(headers.get("authorization", ""))
        tenant = self._by_key.get(claim.public_key_id)
        if tenant is None:
            raise unauthorized("Nobody registered this public key.")
        named = claim.public_key_id.startswith("SANDBOX-")
        if named is path.startswith(("/sandbox/", "/live/")):
            raise unauthorized("Keys that name their environment go without it in the path.")
        query = scope["query_string"].decode("latin-1")
        now = self._clock()
        verify(claim, tenant.public_key, scope["method"], path, query, headers, body, now)
        return tenant

    def _execute(self, tenant: _Tenant, command: Callable[[], Answer]) -> Answer:
        """Run one command; what it changed is staged, and committed without a pause after it."""
        self._settle(tenant)
        try:
            return command()
        except AmazonPayRefusalError as refusal:
            tenant.account.unstage()
            return Answer(refusal.status, dict(refusal.body))
        except BaseException:
            tenant.account.unstage()
            raise

    def _commit(self, tenant: _Tenant, key: str = "", stored: StoredAnswer | None = None) -> None:
        """Make what the last command staged durable, and tell the merchant about it."""
        registration, staged = tenant.registration, tenant.account.staged()
        if staged or stored is not None:
            rows = [(kind, item[KINDS[kind]], item) for kind, item in staged]
            self._store.commit(registration.merchant_id, rows, key, stored)
        news = tenant.account.keep(staged)
        tenant.account.unstage()
        if stored is not None:
            tenant.answers[key] = stored
        # Before the first request nobody knows under which address the certificate is served.
        if registration.notify_url and self._base_url:
            for kind, item in news:
                self.notifier.tell(
                    registration.merchant_id, registration.notify_url, self._base_url, kind, item
                )

    async def _download(self, send: Send, token: str) -> None:
        for tenant in self._tenants.values():
            if (content := download(tenant.account, token)) is not None:
                await _send(send, 200, content.encode(), b"text/plain;charset=utf-8")
                return
        await _send(send, 403, b"Request has expired", b"text/plain")

    # --- what time does ---

    def _settle(self, tenant: _Tenant) -> None:
        tenant.account.settle()
        self._commit(tenant)

    async def _settle_for_ever(self) -> None:
        while True:
            for tenant in self._tenants.values() if self._base_url else ():
                self._settle(tenant)
            await asyncio.sleep(SETTLE_SECONDS)

    # --- the buyer's page ---

    def _tenant_with(self, session_id: str) -> _Tenant:
        for tenant in self._tenants.values():
            with suppress(AmazonPayRefusalError):
                tenant.account.find("checkoutSession", session_id)
                return tenant
        raise not_found("checkoutSession", session_id)

    def _session_of(self, session_id: str) -> Json:
        tenant = self._tenant_with(session_id)
        self._settle(tenant)
        return tenant.account.find("checkoutSession", session_id)

    def _agree(self, session_id: str, card: str) -> Json:
        tenant = self._tenant_with(session_id)
        return self._act(tenant, lambda: tenant.account.agree(session_id, card))

    def _walk_away(self, session_id: str) -> Json:
        tenant = self._tenant_with(session_id)
        return self._act(tenant, lambda: tenant.account.walk_away(session_id))

    def _act(self, tenant: _Tenant, command: Callable[[], Json]) -> Json:
        self._settle(tenant)
        try:
            item = command()
        except BaseException:
            tenant.account.unstage()
            raise
        self._commit(tenant)
        return item


class _HangUpError(Exception):
    """Raised after the commit when a fault wants the connection dropped."""


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _check_key(key: str) -> None:
    if not KEY_FORM.fullmatch(key):
        raise bad_header("x-amz-pay-idempotency-key", "1 to 32 of A-Z, a-z, 0-9, - and _")


def _operation_of(method: str, path: str) -> tuple[Operation, str, str]:
    """Find the operation, the object it names, and the path without its environment."""
    canonical = path.removeprefix("/sandbox")
    version, collection, object_id, action = (*canonical.strip("/").split("/"), "", "", "")[:4]
    operation = OPERATIONS.get((method, collection, bool(object_id), action))
    if version != "v2" or operation is None or canonical.count("/") > 4:
        raise unsupported(method, path)
    return operation, object_id, canonical


async def _read(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise invalid("body", "is too large")
        if not message.get("more_body", False):
            return body


async def _send(send: Send, status: int, body: bytes, content_type: bytes) -> None:
    fields = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
