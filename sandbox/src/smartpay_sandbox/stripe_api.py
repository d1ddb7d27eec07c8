"""Stripe's HTTP interface for several accounts, as one bare ASGI app.

A request passes: key, route, form, parameters, faults, idempotency, command, commit, answer.
There is no framework in this path: a load test must measure us and not the sandbox.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import stripe
from starlette.types import ASGIApp, Receive, Scope, Send

from smartpay_sandbox.faults import Faults, Trouble
from smartpay_sandbox.simulator import hang_up
from smartpay_sandbox.stripe_account import Answer, StripeAccount
from smartpay_sandbox.stripe_authentication import authentication_page
from smartpay_sandbox.stripe_form import decode_form
from smartpay_sandbox.stripe_idempotency import KeyRing, StoredAnswer, fingerprint_of
from smartpay_sandbox.stripe_objects import Json, new_id
from smartpay_sandbox.stripe_refusals import (
    StripeRefusalError,
    broken,
    error,
    invalid,
    too_many,
    unauthorized,
)
from smartpay_sandbox.stripe_routes import ROUTES, Route, secret_key_of
from smartpay_sandbox.stripe_schema import check_response, read_request
from smartpay_sandbox.stripe_setup import authenticate_setup
from smartpay_sandbox.stripe_store import StripeStore
from smartpay_sandbox.stripe_webhooks import EventSender

log = logging.getLogger(__name__)

BODY_BYTES_MAX = 256 * 1024
"""No request of a payment comes near; a runaway client is stopped."""
_AUTHENTICATE = "/3ds/"


class StripeSimulator:
    """Stripe's wire for any number of accounts, durable in `state_dir/stripe.sqlite3`.

    Args:
        state_dir: an existing folder; accounts, objects and kept answers live in one file there.
        accounts: (account id, secret key) pairs to have from the start.
        check_responses: hold every answer against the SDK's annotations and answer 500 if it
            breaks them; for tests, since it costs more than the charge itself.
        clock: seconds since 1970; injected so that tests can let idempotency keys die.
        sleep: how slow faults wait, in seconds; injected so that no timing decides a test.
        webhooks: (account id, address, signing secret) of endpoints to have from the start.

    Attributes:
        events: what is sent to webhook endpoints.
    """

    def __init__(
        self,
        state_dir: Path,
        accounts: Sequence[tuple[str, str]] = (),
        *,
        check_responses: bool = False,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        webhooks: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        self.events = EventSender(state_dir / "stripe_events.sqlite3", clock, sleep)
        self._webhooks = tuple(webhooks)
        self._file = state_dir / "stripe.sqlite3"
        self._given = tuple(accounts)
        self._check_responses = check_responses
        self._sleep = sleep
        self._clock: Callable[[], int] = lambda: int(clock())
        self._accounts: dict[str, StripeAccount] = {}
        self._rings: dict[str, KeyRing] = {}
        self._by_key: dict[str, StripeAccount] = {}
        self._served: Counter[str] = Counter()
        self._violations: list[str] = []
        self._faults = Faults()

    # --- the Simulator protocol ---

    @property
    def app(self) -> ASGIApp:
        """The ASGI app; mount it so that `/v1/...` follows its root path."""
        return self._serve

    async def start(self) -> None:
        """Open the file and load what it holds."""
        self._store = StripeStore(self._file)
        await self.events.start()
        for account_id, secret_key in (*self._store.accounts(), *self._given):
            self.add_account(account_id, secret_key)
        for account_id, item in self._store.objects():
            self._accounts[account_id].keep([item])
        for account_id, key, answer in self._store.answers():
            self._rings[account_id].answers[key] = answer
        for account_id, url, secret in self._webhooks:
            self.register_webhook(account_id, url, secret)

    async def stop(self) -> None:
        """Close the files."""
        await self.events.stop()
        self._store.close()

    def dump(self) -> dict[str, Any]:
        """Return every object and key of every account, and what was served."""
        return {
            "accounts": {
                account.id: account.dump() | {"idempotency_keys": self._rings[account.id].dump()}
                for account in self._accounts.values()
            },
            "requests": dict(self._served),
            "faults": self._faults.dump(),
            "webhooks": self.events.dump(),
            "violations": list(self._violations),
        }

    def set_faults(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Replace the fault rules; see faults.py."""
        self._faults.set(rules)

    def clear_faults(self) -> None:
        """Behave again."""
        self._faults.clear()

    # --- for the control API ---

    def add_account(self, account_id: str, secret_key: str) -> None:
        """Add an account, or give an existing one another key (the old one then stops working).

        Raises:
            ValueError: if an id or key has the wrong form, or another account has the key.
        """
        if not account_id.startswith("acct_"):
            raise ValueError("id: must start with acct_")
        if not secret_key.startswith("sk_test_"):
            raise ValueError("secret_key: must start with sk_test_; the sandbox has no live mode")
        holder = self._by_key.get(secret_key)
        if holder is not None and holder.id != account_id:
            raise ValueError("secret_key: belongs to another account; choose a different one")
        self._store.put_account(account_id, secret_key)
        if account_id not in self._accounts:
            self._accounts[account_id] = StripeAccount(account_id, self._clock)
            self._rings[account_id] = KeyRing()
        account = self._accounts[account_id]
        self._by_key = {key: held for key, held in self._by_key.items() if held is not account}
        self._by_key[secret_key] = account

    def register_webhook(self, account_id: str, url: str, secret: str = "") -> str:
        """Send an account's events to an address; answers the secret that signs them.

        Raises:
            ValueError: if there is no such account, or the address is none.
        """
        if account_id not in self._accounts:
            raise ValueError("account: there is no such account; add it first")
        return self.events.register(account_id, url, secret)

    def reset(self) -> None:
        """Forget objects, keys, counts and faults; accounts stay."""
        self._store.wipe()
        for account_id in self._accounts:
            self._rings[account_id] = KeyRing()
            fresh = StripeAccount(account_id, self._clock)
            self._by_key = {
                key: fresh if held.id == account_id else held for key, held in self._by_key.items()
            }
            self._accounts[account_id] = fresh
        self._served.clear()
        self._violations.clear()
        self._faults.clear()
        self.events.reset()

    # --- one request ---

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path.startswith(_AUTHENTICATE):
            await authentication_page(self._intent_of, self._authenticated)(scope, receive, send)
            return
        request_id = new_id("req")
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        extra: dict[str, str] = {}
        try:
            body = await _read(receive)
            status, text = await self._answer(scope, path, headers, body, request_id, extra)
        except StripeRefusalError as refusal:
            status, text = refusal.status, json.dumps(refusal.body)
        except _HangUpError:
            await hang_up(scope, receive)
            self._served[f"{scope['method']} dropped"] += 1
            return
        except Exception:
            log.exception("the Stripe simulator failed on %s %s", scope["method"], path)
            status, text = 500, json.dumps(broken().body)
        self._served[f"{scope['method']} {status}"] += 1
        await _send(send, status, text, {"request-id": request_id, **extra})

    async def _answer(
        self,
        scope: Scope,
        path: str,
        headers: Mapping[bytes, str],
        body: bytes,
        request_id: str,
        extra: dict[str, str],
    ) -> tuple[int, str]:
        method: str = scope["method"]
        account = self._account_of(headers)
        extra["stripe-version"] = _version_of(headers)
        route, object_id = _route_of(method, path)
        encoded = body.decode() if method == "POST" else scope["query_string"].decode()
        form = decode_form(encoded)
        params = route.check(read_request(route.params, form))
        trouble = self._faults.meet(account.id, method, path)
        if trouble.breakage == "rate_limit":
            raise too_many()
        if trouble.breakage == "error_before":
            raise broken()
        key = headers.get(b"idempotency-key") if method == "POST" else None
        ring = self._rings[account.id]
        with ring.hold(key) if key is not None else nullcontext():
            if trouble.wait_before_ms:
                await self._sleep(trouble.wait_before_ms / 1000)
            mark = fingerprint_of(path, form) if key is not None else ""
            stored = ring.recall(key, mark, self._clock()) if key is not None else None
            if stored is not None:
                extra["idempotent-replayed"] = "true"
                extra["original-request"] = stored.request_id
            else:
                base_url = _base_url(scope, headers)
                answer = self._execute(account, route, object_id, params, base_url, trouble)
                text = json.dumps(answer.body)
                stored = StoredAnswer(mark, answer.status, text, request_id, self._clock())
                if method == "POST" or account.staged():
                    self._commit(account, ring, key, stored)
            if trouble.wait_after_ms:
                await self._sleep(trouble.wait_after_ms / 1000)
            if trouble.breakage == "drop_after_commit":
                raise _HangUpError
        if key is not None:
            extra["idempotency-key"] = key
        return stored.status, stored.body

    def _execute(
        self,
        account: StripeAccount,
        route: Route,
        object_id: str,
        params: Json,
        base_url: str,
        trouble: Trouble,
    ) -> Answer:
        """Run one command from check to staged change without a pause, so it is atomic."""
        account.unstage()
        try:
            answer = route.command(account, object_id, params, base_url + _AUTHENTICATE)
        except StripeRefusalError as refusal:
            account.unstage()
            answer = Answer(refusal.status, refusal.body)
        except BaseException:
            account.unstage()
            raise
        if answer.status == 200:
            answer = Answer(200, route.expand(account, answer.body, params.get("expand", ())))
        if self._check_responses:
            self._hold_against_annotations(route, answer)
        if trouble.breakage == "error_after":
            return Answer(500, broken().body)
        return answer

    def _commit(
        self, account: StripeAccount, ring: KeyRing, key: str | None, stored: StoredAnswer
    ) -> None:
        staged = account.staged()
        self._store.commit(account.id, staged, key, stored if key is not None else None)
        self.events.note(account.id, account.changes())
        account.keep(staged)
        account.unstage()
        if key is not None:
            ring.answers[key] = stored

    def _hold_against_annotations(self, route: Route, answer: Answer) -> None:
        if answer.status == 200:
            wrong = check_response(route.answers, answer.body)
        else:
            wrong = check_response(stripe.ErrorObject, answer.body["error"])
        if wrong:
            self._violations.extend(wrong)
            message = f"The answer breaks Stripe's schema: {'; '.join(wrong)}"
            raise StripeRefusalError(500, error("api_error", message))

    def _account_of(self, headers: Mapping[bytes, str]) -> StripeAccount:
        key = secret_key_of(headers.get(b"authorization", ""))
        account = self._by_key.get(key)
        if account is None:
            raise unauthorized(f"Invalid API Key provided: {key[:8]}****{key[-4:]}")
        return account

    # --- 3-D Secure, for authentication_page ---

    def _account_with(self, intent_id: str) -> StripeAccount:
        for account in self._accounts.values():
            try:
                account.find(_kind_of(intent_id), intent_id)
            except StripeRefusalError:
                continue
            return account
        raise invalid(f"No such payment_intent: '{intent_id}'")

    def _intent_of(self, intent_id: str) -> Json:
        return self._account_with(intent_id).find(_kind_of(intent_id), intent_id)

    def _authenticated(self, intent_id: str, succeeded: bool) -> Json:
        account = self._account_with(intent_id)
        account.unstage()
        if _kind_of(intent_id) == "setup_intent":
            intent = authenticate_setup(account, intent_id, succeeded)
        else:
            intent = account.authenticate(intent_id, succeeded)
        staged = account.staged()
        self._store.commit(account.id, staged)
        self.events.note(account.id, account.changes())
        account.keep(staged)
        account.unstage()
        return intent


def _kind_of(intent_id: str) -> str:
    return "setup_intent" if intent_id.startswith("seti_") else "payment_intent"


class _HangUpError(Exception):
    """Raised after the commit when a fault wants the connection dropped."""


def _route_of(method: str, path: str) -> tuple[Route, str]:
    parts = path.strip("/").split("/")
    version, collection, object_id, action = (*parts, "", "", "", "")[:4]
    route = ROUTES.get((method, collection, bool(object_id), action))
    if version != "v1" or route is None or len(parts) > 4:
        raise StripeRefusalError(
            404,
            error("invalid_request_error", f"Unrecognized request URL ({method}: {path})."),
        )
    return route, object_id


def _version_of(headers: Mapping[bytes, str]) -> str:
    version = headers.get(b"stripe-version", stripe.api_version)
    if version != stripe.api_version:
        raise invalid(f"The sandbox speaks Stripe's API version {stripe.api_version} only.")
    return version


def _base_url(scope: Scope, headers: Mapping[bytes, str]) -> str:
    return f"http://{headers.get(b'host', '127.0.0.1')}{scope.get('root_path', '')}"


async def _read(receive: Receive) -> bytes:
    body: bytes = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > BODY_BYTES_MAX:
            raise StripeRefusalError(
                413, error("invalid_request_error", "The request is too large.")
            )
        if not message.get("more_body", False):
            return body


async def _send(send: Send, status: int, text: str, headers: Mapping[str, str]) -> None:
    body = text.encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    fields += [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
