"""The payments service with one promise broken, to prove that the judge would notice.

`python -m smartpay_sandbox.sabotage <promise>` stands in for `python -m smartpay_payments`; the
functions below are plans for `Mesh(..., plan="smartpay_sandbox.sabotage:new_keys")`.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from smartpay_payments import __main__ as payments
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.stripe_processor import StripeProcessor
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry
from smartpay_payments.domain.payment import Attempt, Payment
from smartpay_payments.domain.processor import Outcome
from smartpay_sandbox.mesh_plan import plan
from smartpay_sandbox.processes import Process
from smartpay_sandbox.run_folder import RunFolder

NEW_KEYS = "new-key-per-retry"
NO_ATTEMPT = "no-attempt-stored"


def new_keys(run: RunFolder, overrides: Mapping[str, Mapping[str, str]]) -> tuple[Process, ...]:
    """Plans a mesh whose payments charge every retry under a fresh key."""
    return _with_payments(plan(run, overrides), NEW_KEYS)


def no_attempt(run: RunFolder, overrides: Mapping[str, Mapping[str, str]]) -> tuple[Process, ...]:
    """Plans a mesh whose payments store an attempt only after the call."""
    return _with_payments(plan(run, overrides), NO_ATTEMPT)


def _with_payments(processes: tuple[Process, ...], promise: str) -> tuple[Process, ...]:
    command = (sys.executable, "-m", "smartpay_sandbox.sabotage", promise)
    return tuple(replace(p, command=command) if p.name == "payments" else p for p in processes)


def _break_the_keys() -> None:
    charge = StripeProcessor.charge

    async def charge_anew(self: StripeProcessor, payment: Payment, attempt: Attempt) -> Outcome:
        fresh = f"{attempt.processor_key}-{secrets.token_hex(4)}"
        return await charge(self, payment, replace(attempt, processor_key=fresh))

    StripeProcessor.charge = charge_anew  # type: ignore[method-assign]


def _break_the_order() -> None:
    create, save = SqlitePayments.create, SqlitePayments.save
    unwritten: dict[str, tuple[Payment, Claim, Sequence[LedgerEntry]]] = {}

    async def remember(
        self: SqlitePayments, payment: Payment, claim: Claim, entries: Sequence[LedgerEntry]
    ) -> Payment | None:
        unwritten[payment.payment_id] = (payment, claim, entries)
        return None

    async def write_late(
        self: SqlitePayments,
        payment: Payment,
        entries: Sequence[LedgerEntry],
        claim: Claim | None = None,
    ) -> bool:
        held = unwritten.pop(payment.payment_id, None)
        if held is not None:
            await create(self, *held)
        return await save(self, payment, entries, claim)

    SqlitePayments.create = remember  # type: ignore[method-assign]
    SqlitePayments.save = write_late  # type: ignore[method-assign]


if __name__ == "__main__":
    {NEW_KEYS: _break_the_keys, NO_ATTEMPT: _break_the_order}[sys.argv[1]]()
    payments.main()
