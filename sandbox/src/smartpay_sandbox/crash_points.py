"""The named points at which a payments process can die, found in the running code.

Nothing in the service knows of them: a process that is to die is forked with `prepare`, which puts
watchers around a few functions of the service and arms one point. When that point is passed for
the n-th time the process kills itself by SIGKILL, there and then, in whatever thread that is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from typing import Any

POINTS = {
    "after_insert": "C1 is durable: a payment, a next attempt or a command; nothing is sent",
    "before_call": "a request is about to leave for the processor",
    "amid_call": "a request has left some milliseconds ago",
    "after_call": "the processor's answer is read, and nothing of it is stored",
    "after_unknown": "it is durable that nobody knows the outcome",
    "before_commit": "C2 is written inside its transaction, which is not committed",
    "after_commit": "C2 is committed, and the writer has told nobody",
    "after_record": "C2 is durable and the story has heard so",
    "before_ack": "the answer is made and not sent",
    "after_publish": "an event has gone to a watcher who has not asked for the next",
    "after_lease": "recovery has taken payments up and looked at none",
}
"""What has just happened at each point."""
AMID_SECONDS = (0.0, 0.002, 0.005, 0.01, 0.05)
"""How long after a request has left; the sandbox answers within some 5 ms."""


@dataclass
class Trap:
    """Kills this process when its point is passed for the n-th time on its rail.

    Args:
        point: one of POINTS.
        rail: a processor's name; "" for any.
        passes: at which pass.
    """

    point: str
    rail: str = ""
    passes: int = 1
    rails: dict[str, str] = field(default_factory=dict)
    """The rail of each payment seen, by id."""

    def passed(self, point: str, rail: str) -> None:
        """Notes that a point was passed; does not return from the fatal pass."""
        if self._is_fatal(point, rail):
            die()

    def left(self, rail: str) -> None:
        """Notes that a request has left; the fatal one is survived by some milliseconds."""
        if self._is_fatal("amid_call", rail):
            delay = AMID_SECONDS[os.getpid() % len(AMID_SECONDS)]
            asyncio.get_running_loop().call_later(delay, die)

    def _is_fatal(self, point: str, rail: str) -> bool:
        if point != self.point or self.rail not in ("", rail):
            return False
        self.passes -= 1
        return self.passes == 0


def die() -> None:
    """Ends this process as a power cut would: nothing is flushed, closed or said."""
    os.kill(os.getpid(), signal.SIGKILL)


def prepare(*, point: str = "", rail: str = "", passes: int = 1, sabotage: str = "") -> None:
    """Makes this process ready to be a payments service that dies, or breaks a promise.

    Args:
        point: where it dies; "" leaves that to whoever kills it.
        rail: see Trap.
        passes: see Trap.
        sabotage: one of `sabotage.PROMISES`; "" for the service as it is.
    """
    hurry()
    if point:
        arm(Trap(point, rail, passes))
    if sabotage:
        from smartpay_sandbox.sabotage import PROMISES

        PROMISES[sabotage].break_it()


def hurry() -> None:
    """Shortens waits that no setting shortens, so that a run meets their end."""
    from smartpay_payments.adapters import amazon_pay_processor

    amazon_pay_processor.SESSION_PATIENCE = timedelta(seconds=3)


def arm(trap: Trap) -> None:
    """Puts the watchers in place."""
    _watch_store(trap)
    _watch_commits(trap)
    _watch_wires(trap)
    _watch_answers(trap)


def _around(
    owner: type, name: str, before: Callable[..., None], after: Callable[..., None]
) -> None:
    """Puts two watchers around an async method; `after` is given its result, too."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @wraps(original)
    async def watched(self: Any, *args: Any, **named: Any) -> Any:  # noqa: ANN401
        before(self, *args)
        result = await original(self, *args, **named)
        after(result, self, *args)
        return result

    setattr(owner, name, watched)


def _nothing(*_: object) -> None:
    """Watches nothing."""


def rail_of(payment: Any) -> str:  # noqa: ANN401 - a domain payment or a message
    """Names the rail that a payment is on now; "" before its first attempt."""
    attempts = payment.attempts
    return str(attempts[-1].processor) if attempts else ""


_outcomes: dict[tuple[str, int], str] = {}
"""The rail of each version that stores an outcome, until it is written."""


def _watch_store(trap: Trap) -> None:
    from smartpay_payments.adapters.sqlite_payments import SqlitePayments
    from smartpay_payments.domain.payment import RefundStatus, Status

    def begins(_: object, payment: Any, *rest: object) -> None:  # noqa: ANN401
        trap.rails[payment.payment_id] = rail_of(payment)
        if not _is_intent(payment, rest):
            _outcomes[payment.payment_id, payment.version] = rail_of(payment)

    def saved(stored: bool, _: object, payment: Any, *rest: object) -> None:  # noqa: ANN401
        if not stored:
            return
        rail = rail_of(payment)
        if _is_intent(payment, rest):
            trap.passed("after_insert", rail)
            return
        if payment.status is Status.UNKNOWN or any(
            r.status is RefundStatus.UNKNOWN for r in payment.refunds
        ):
            trap.passed("after_unknown", rail)
        trap.passed("after_record", rail)

    def leased(payments: Any, *_: object) -> None:  # noqa: ANN401
        for payment in payments:
            trap.passed("after_lease", rail_of(payment))

    def created(_: object, __: object, payment: Any, *___: object) -> None:  # noqa: ANN401
        trap.rails[payment.payment_id] = rail_of(payment)
        trap.passed("after_insert", rail_of(payment))

    _around(SqlitePayments, "create", _nothing, created)
    _around(SqlitePayments, "save", begins, saved)
    _around(SqlitePayments, "lease_due", _nothing, leased)


def _is_intent(payment: Any, rest: tuple[object, ...]) -> bool:  # noqa: ANN401
    """Tells a version that stores what is about to be done from one that stores how it ended.

    Args:
        payment: about to be stored.
        rest: what else `save` was given: entries, and a claim where a merchant asked.
    """
    if len(rest) > 1 and rest[1] is not None:
        return True
    return payment.status.value == "PROCESSING" and not payment.last_attempt.processor_payment_id


def _watch_commits(trap: Trap) -> None:
    connect = sqlite3.connect

    class WatchedConnection(sqlite3.Connection):
        """Sees which rails' outcomes a transaction holds, and its commit."""

        waiting: list[str] = []  # noqa: RUF012 - one writer

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # noqa: ANN401
            """Runs a statement; at COMMIT the points around it are passed."""
            if sql.startswith("INSERT INTO new_version "):
                payment_id, _, _, _, version = args[0][:5]
                rail = _outcomes.pop((payment_id, version), None)
                if rail is not None:
                    self.waiting.append(rail)
            if sql != "COMMIT":
                return super().execute(sql, *args)
            rails = list(self.waiting)
            self.waiting.clear()
            for rail in rails:
                trap.passed("before_commit", rail)
            done = super().execute(sql, *args)
            for rail in rails:
                trap.passed("after_commit", rail)
            return done

    def connect_watched(*args: Any, **named: Any) -> sqlite3.Connection:  # noqa: ANN401
        return connect(*args, **named, factory=WatchedConnection)

    sqlite3.connect = connect_watched  # type: ignore[assignment]


def _watch_wires(trap: Trap) -> None:
    import stripe

    from smartpay_payments.adapters.amazon_pay_client import AmazonPayClient
    from smartpay_payments.adapters.solana_pay_chain import SolanaRpc

    def watch(owner: type, name: str, rail: str, is_write: Callable[..., bool]) -> None:
        def leaves(_: object, *args: object) -> None:
            if is_write(*args):
                trap.passed("before_call", rail)
                trap.left(rail)

        def answered(_: object, __: object, *args: object) -> None:
            if is_write(*args):
                trap.passed("after_call", rail)

        _around(owner, name, leaves, answered)

    watch(stripe.AIOHTTPClient, "request_async", "stripe", lambda method, *_: method == "post")
    watch(AmazonPayClient, "call", "amazon_pay", lambda _, method, *__: method != "GET")
    # The payer's transfer is found by reading, so here reads count too.
    watch(
        SolanaRpc,
        "call",
        "solana",
        lambda _, method, *__: method in ("sendTransaction", "getTransaction"),
    )


def _watch_answers(trap: Trap) -> None:
    from smartpay_payments.server.payments import PaymentsServicer

    def made(response: Any, *_: object) -> None:  # noqa: ANN401
        told = response.refund if hasattr(response, "refund") else response.payment
        trap.passed("before_ack", trap.rails.get(told.payment_id, ""))

    for verb in ("Create", "Confirm", "Capture", "Cancel", "Refund"):
        _around(PaymentsServicer, f"{verb}Payment", _nothing, made)
    watch = PaymentsServicer.Watch

    async def watched(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: ANN401
        async for step in watch(self, request, context):
            yield step
            if step.HasField("event"):
                trap.passed("after_publish", trap.rails.get(step.event.subject, ""))

    PaymentsServicer.Watch = watched  # type: ignore[method-assign]
