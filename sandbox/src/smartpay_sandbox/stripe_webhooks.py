"""Stripe's events: made from what a request changed, signed, and sent to the account's endpoint.

Signed by the SDK's own helper (docs.stripe.com/webhooks#verify-manually). Events are kept in a
file of their own and sent again after a restart until the endpoint took them or the tries are
over; like Stripe's, they may come twice and in any order, and on demand they do.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import stripe

from smartpay_sandbox.stripe_objects import Json, new_id

PAUSES_SECONDS = (1.0, 5.0, 30.0, 120.0, 600.0)
"""Between tries that got no 2xx; Stripe goes on for three days."""
SEND_SECONDS = 5.0
"""How long an endpoint may take; a stop waits for the last one."""
KEPT_MAX = 2000
"""Events kept for the dump; enough for any test, and bounded."""
KINDS = {
    "duplicate": "Sent twice, each time with a signature of its own.",
    "late": "Sent after delay_ms; what comes after it overtakes it.",
    "out_of_order": "Held back until the account's next event was sent.",
}
"""Every kind of fault and what it does."""
RULES_MAX = 20
"""Each rule is asked for each event."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS endpoint (
    account TEXT PRIMARY KEY, url TEXT NOT NULL, secret TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS event (
    position INTEGER PRIMARY KEY, account TEXT NOT NULL, body TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS event_waiting ON event (position) WHERE NOT done;
"""


def types_of(before: Json | None, after: Json) -> Iterator[str]:
    """Name the events of one object's change, in Stripe's words."""
    kind = after["object"]
    was = before or {}
    if kind == "payment_intent":
        yield from _of_intent(was, after)
    elif kind == "charge":
        yield from _of_charge(was, after)
    elif kind == "refund":
        if not was:
            yield "refund.created"
        elif was["status"] != after["status"]:
            yield "refund.failed" if after["status"] == "failed" else "refund.updated"
    elif kind == "dispute":
        if not was:
            yield "charge.dispute.created"
            yield "charge.dispute.funds_withdrawn"
        elif was["status"] != after["status"]:
            ended = after["status"] in ("won", "lost", "warning_closed")
            yield "charge.dispute.closed" if ended else "charge.dispute.updated"


def _of_intent(was: Json, after: Json) -> Iterator[str]:
    if not was:
        yield "payment_intent.created"
    status = after["status"]
    if status == was.get("status"):
        return
    failed = status == "requires_payment_method" and after["last_payment_error"] is not None
    named = {
        "succeeded": "succeeded",
        "canceled": "canceled",
        "processing": "processing",
        "requires_action": "requires_action",
        "requires_capture": "amount_capturable_updated",
    }
    if failed or status in named:
        yield f"payment_intent.{'payment_failed' if failed else named[status]}"


def _of_charge(was: Json, after: Json) -> Iterator[str]:
    if not was:
        yield "charge.failed" if after["status"] == "failed" else "charge.succeeded"
        return
    if after["captured"] and not was["captured"]:
        yield "charge.captured"
    elif after["amount_refunded"] != was["amount_refunded"]:
        yield "charge.refunded" if after["captured"] else "charge.expired"
    else:
        yield "charge.updated"


@dataclass
class EventFault:
    """One rule with its own random stream; it fires on the events that match it."""

    kind: str
    account: str | None = None
    type_prefix: str = ""
    probability: float = 1.0
    times: int | None = None
    delay_ms: int = 0
    seed: int = 0
    fired: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def fires(self, account: str, kind: str) -> bool:
        """Decide for one event."""
        if self.account not in (None, account) or not kind.startswith(self.type_prefix):
            return False
        if self.times is not None and self.fired >= self.times:
            return False
        if self.probability < 1.0 and self._random.random() >= self.probability:
            return False
        self.fired += 1
        return True


def read_event_faults(rules: object) -> list[EventFault]:
    """Read rules from JSON.

    Raises:
        ValueError: naming the field, the reason and what would do.
    """
    if not isinstance(rules, list) or len(rules) > RULES_MAX:
        raise ValueError(f"rules: must be a list of at most {RULES_MAX}")
    found = []
    for index, rule in enumerate(rules):
        if not isinstance(rule, dict) or rule.get("kind") not in KINDS:
            raise ValueError(f"rules[{index}].kind: must be one of {', '.join(KINDS)}")
        try:
            fault = EventFault(**{name: value for name, value in rule.items() if name != "fired"})
        except TypeError:
            raise ValueError(f"rules[{index}]: has a field that no rule has") from None
        if not 0 <= fault.probability <= 1:
            raise ValueError(f"rules[{index}].probability: must lie between 0 and 1")
        if fault.kind == "late" and fault.delay_ms <= 0:
            raise ValueError(f"rules[{index}].delay_ms: a late rule needs milliseconds")
        found.append(fault)
    return found


@dataclass
class _Sending:
    """One event on its way."""

    position: int
    account: str
    event: Json
    deliveries: list[int] = field(default_factory=list)
    """HTTP status of each try; 0 for no answer."""


class EventSender:
    """Sends the events of all accounts that registered an endpoint, one after the other.

    Args:
        file: where endpoints and events are kept.
        clock: seconds since 1970.
        sleep: pauses; injected so that no timing decides a test.
    """

    def __init__(
        self,
        file: Path,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._file = file
        self._clock = clock
        self._sleep = sleep
        self._endpoints: dict[str, tuple[str, str]] = {}
        self._faults: list[EventFault] = []
        self._waiting: asyncio.Queue[_Sending] = asyncio.Queue()
        self._held: dict[str, list[_Sending]] = {}
        self._sent: list[_Sending] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the file and go on with what it holds."""
        self._db = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_SCHEMA)
        for account, url, secret in self._db.execute("SELECT account, url, secret FROM endpoint"):
            self._endpoints[account] = (url, secret)
        rows = self._db.execute(
            "SELECT position, account, body FROM event WHERE NOT done ORDER BY position"
        ).fetchall()
        for position, account, body in rows:
            self._queue(_Sending(position, account, json.loads(body)))
        self._start(self._run())

    async def stop(self) -> None:
        """End what is under way; it is sent after the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._db.close()

    def register(self, account: str, url: str, secret: str = "") -> str:
        """Send an account's events to an address from now on; answers the signing secret.

        Raises:
            ValueError: if the address is none.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError("url: must begin with http:// or https://")
        known = self._endpoints.get(account, ("", ""))[1]
        secret = secret or known or f"whsec_{secrets.token_hex(16)}"
        self._db.execute("INSERT OR REPLACE INTO endpoint VALUES (?, ?, ?)", (account, url, secret))
        self._endpoints[account] = (url, secret)
        return secret

    def note(self, account: str, changes: Sequence[tuple[Json | None, Json]]) -> None:
        """Make and queue the events of one request's changes, if anybody wants them.

        Args:
            account: whose objects they are.
            changes: each object before (None for a new one) and after.
        """
        if account not in self._endpoints:
            return
        for before, after in changes:
            for kind in types_of(before, after):
                event = self._event(kind, after)
                cursor = self._db.execute(
                    "INSERT INTO event (account, body) VALUES (?, ?)", (account, json.dumps(event))
                )
                self._queue(_Sending(cursor.lastrowid or 0, account, event))

    def set_faults(self, faults: list[EventFault]) -> None:
        """Replace the rules."""
        self._faults = faults

    def reset(self) -> None:
        """Forget events and faults; endpoints stay."""
        self._faults, self._held, self._sent = [], {}, []
        self._waiting = asyncio.Queue()
        self._db.execute("DELETE FROM event")

    def dump(self) -> dict[str, Any]:
        """Copy out endpoints (without secrets), events and how often each was tried."""
        return {
            "endpoints": {account: url for account, (url, _) in self._endpoints.items()},
            "events": [
                {"account": s.account, "id": s.event["id"], "type": s.event["type"]}
                | {"deliveries": list(s.deliveries)}
                for s in self._sent
            ],
        }

    async def delivered(self) -> None:
        """Wait until the queue is empty; what is late or held back may still be to come."""
        await self._waiting.join()

    def _event(self, kind: str, item: Json) -> Json:
        return {
            "id": new_id("evt"),
            "object": "event",
            "api_version": stripe.api_version,
            "created": int(self._clock()),
            "data": {"object": item},
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
        }

    def _queue(self, sending: _Sending) -> None:
        self._sent = [*self._sent[1 - KEPT_MAX :], sending]
        self._waiting.put_nowait(sending)

    async def _run(self) -> None:
        waiting = self._waiting
        while True:
            sending = await waiting.get()
            fired = {
                fault.kind: fault
                for fault in self._faults
                if fault.fires(sending.account, sending.event["type"])
            }
            if "out_of_order" in fired:
                self._held.setdefault(sending.account, []).append(sending)
            elif "late" in fired:
                self._start(self._later(sending, fired["late"].delay_ms / 1000))
            else:
                await self._deliver(sending)
                if "duplicate" in fired:
                    await self._deliver(sending)
                for held in self._held.pop(sending.account, []):
                    await self._deliver(held)
            waiting.task_done()
            waiting = self._waiting

    async def _later(self, sending: _Sending, seconds: float) -> None:
        await self._sleep(seconds)
        await self._deliver(sending)

    async def _deliver(self, sending: _Sending, tries: int = 0) -> None:
        endpoint = self._endpoints.get(sending.account)
        if endpoint is None:
            return
        url, secret = endpoint
        body = json.dumps(sending.event)
        header = stripe.WebhookSignature.generate_signature_header(body, secret, int(self._clock()))
        status = await asyncio.to_thread(_post, url, body.encode(), header)
        sending.deliveries.append(status)
        if 200 <= status < 300 or tries >= len(PAUSES_SECONDS):
            self._db.execute("UPDATE event SET done = 1 WHERE position = ?", (sending.position,))
        else:
            # Others need not wait for what failed.
            self._start(self._again(sending, tries))

    async def _again(self, sending: _Sending, tries: int) -> None:
        await self._sleep(PAUSES_SECONDS[tries])
        await self._deliver(sending, tries + 1)

    def _start(self, work: Any) -> None:  # noqa: ANN401 - any coroutine of ours
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _post(url: str, body: bytes, signature: str) -> int:
    headers = {
        "content-type": "application/json; charset=utf-8",
        "stripe-signature": signature,
        "user-agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
    }
    try:
        # Trusts what SSL_CERT_FILE names, which may be written only after the start.
        with urlopen(Request(url, body, headers), timeout=SEND_SECONDS) as answer:
            return int(answer.status)
    except HTTPError as refused:
        return refused.code
    except OSError:  # nobody listens, or too slowly, or under a certificate nobody vouches for
        return 0
