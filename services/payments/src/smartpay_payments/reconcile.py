"""Reconciles a window of payments with processors and books, and reports every break.

`python -m smartpay_payments.reconcile --since 2026-01-31 --until 2026-02-01 --json breaks.jsonl`
runs with the service's own environment, beside the service or alone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from smartpay_chassis.ids import derive
from smartpay_chassis.merchants import load_merchants
from smartpay_chassis.refusals import Refusal
from smartpay_chassis.server import App
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.asked_books import charge_of
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.sqlite_workbench import Workbench, make_due
from smartpay_payments.books import accounts_of
from smartpay_payments.domain.commands import Commands, Evidence
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.patience import Patience
from smartpay_payments.domain.payment import Status
from smartpay_payments.domain.processor import Processor
from smartpay_payments.domain.reconciliation import (
    BooksUnreadableError,
    Break,
    BreakKind,
    ProcessorBooks,
    ProcessorCharge,
    Terms,
    reconcile,
)
from smartpay_payments.domain.silence import Silence
from smartpay_payments.domain.versions import Versions
from smartpay_payments.rails import open_rails
from smartpay_payments.settings import PaymentsSettings
from smartpay_payments.settlement import SettledAccount

log = structlog.get_logger()

# Clocks differ, and a charge may be made some time after its payment: theirs is read so much
# further on both sides.
SIDE = timedelta(hours=1)
# Outcomes, fees and refunds are told within minutes; only what stays different is a break.
SETTLE_SECONDS = 900.0
TAKEN_AT_ONCE = 1000  # charges held in memory
ASKED_AT_ONCE = 16  # questions to a processor that lists nothing


@dataclass
class Report:
    """What a reconciliation found."""

    payments: int = 0
    too_young: int = 0
    breaks: list[Break] = field(default_factory=list)
    unread_accounts: dict[str, str] = field(default_factory=dict)
    """Accounts whose charges could not be read, and why: compared with the books only."""

    def table(self) -> str:
        """Tells it to people."""
        counts = Counter(found.kind for found in self.breaks)
        lines = [
            f"{self.payments} payments compared, {len(self.breaks)} breaks,"
            f" {self.too_young} differences too young to tell"
        ]
        lines += [f"  {kind.value:22} {counts[kind]}" for kind in BreakKind if counts[kind]]
        lines += [f"not read: {account} ({why})" for account, why in self.unread_accounts.items()]
        for found in self.breaks:
            lines.append(
                f"{found.kind.value:22} {found.payment_id or '-':31}"
                f" {found.processor_payment_id or '-':30} ours: {found.ours} | theirs:"
                f" {found.theirs}{' (heals)' if found.heals else ''}"
            )
        return "\n".join(lines)


async def reconcile_store(
    path: Path,
    accounts: Sequence[SettledAccount],
    books: Mapping[str, ProcessorBooks],
    processors: Mapping[str, Processor],
    window: tuple[datetime, datetime],
    now: datetime,
    settle_seconds: float = SETTLE_SECONDS,
    partial_books: Mapping[str, ProcessorBooks] | None = None,
) -> Report:
    """Compares the payments created in a window.

    Args:
        path: the store; it is only read.
        accounts: every processor account with its merchant.
        books: by processor, those that list charges.
        processors: by name, to ask where nothing is listed.
        window: from when (inclusive) to when (exclusive) payments were created.
        now: the time.
        settle_seconds: how long a difference may last before it is a break.
        partial_books: by processor, those that list some charges: there are found the charges of
            nobody where else each attempt of ours is asked for.
    """
    report = Report()
    since, until = window
    asked = {a.processor_account_id: processors[a.processor] for a in accounts
             if a.processor not in books and a.processor in processors}  # fmt: skip
    covered = {a.processor_account_id for a in accounts if a.processor in books} | asked.keys()
    merchants = {(a.merchant_id, a.livemode) for a in accounts}
    with Workbench(path) as bench:
        for account in accounts:
            if account.processor in books:
                listed = books[account.processor].charges(
                    account.processor_account_id, since - SIDE, until + SIDE
                )
                await _take(bench.take, listed, account.processor_account_id, report)
        await _take_partial(bench, accounts, partial_books or {}, (since, until), report)
        if asked:
            with Workbench(path) as ours:
                for merchant_id, livemode in merchants:
                    ours.choose(merchant_id, livemode, since, until)
                for name in asked:
                    await _take(bench.take, _ask(ours, name, asked[name]), name, report)
        for name in report.unread_accounts:
            bench.drop(name)
        bench.freeze()
        for merchant_id, livemode in merchants:
            report.payments += bench.choose(merchant_id, livemode, since, until)
        terms = Terms(now, settle_seconds, frozenset(covered - report.unread_accounts.keys()))
        for compared in reconcile(bench.ours(), bench.theirs(), bench.find, terms):
            report.too_young += compared.too_young
            report.breaks += compared.breaks
    return report


async def _take_partial(
    bench: Workbench,
    accounts: Sequence[SettledAccount],
    books: Mapping[str, ProcessorBooks],
    window: tuple[datetime, datetime],
    report: Report,
) -> None:
    for processor, listing in books.items():
        names = [a.processor_account_id for a in accounts if a.processor == processor]
        for name in names:
            listed = listing.charges(name, window[0] - SIDE, window[1] + SIDE)
            take = partial(bench.take_clues, processor_account_ids=names)
            await _take(take, listed, name, report)


async def _take(
    take: Callable[[list[ProcessorCharge]], None],
    charges: AsyncIterator[ProcessorCharge],
    account: str,
    report: Report,
) -> None:
    taken: list[ProcessorCharge] = []
    try:
        async for charge in charges:
            taken.append(charge)
            if len(taken) == TAKEN_AT_ONCE:
                take(taken)
                taken = []
        take(taken)
    except BooksUnreadableError as error:
        report.unread_accounts[account] = str(error)


async def _ask(
    ours: Workbench, account: str, processor: Processor
) -> AsyncIterator[ProcessorCharge]:
    pairs = (
        (record.payment, attempt)
        for record in ours.ours()
        for attempt in record.payment.attempts
        if attempt.processor_account_id == account
    )
    while batch := list(itertools.islice(pairs, ASKED_AT_ONCE)):
        for charge in await asyncio.gather(*(charge_of(processor, *pair) for pair in batch)):
            if charge is not None:
                yield charge


async def heal(
    breaks: Sequence[Break],
    store: SqliteStore,
    payments: SqlitePayments,
    commands: Commands,
    now: datetime,
) -> int:
    """Lets the story of each payment mend what it can; answers how many payments that are.

    Nothing is changed behind the story: a payment that waits for a person gets the processor's
    word by the charge's id, as an operator would give it, and all others are due at once.
    """
    due: list[str] = []
    resolved = 0
    for found in breaks:
        if not found.heals:
            continue
        payment = await payments.get(found.merchant_id, found.livemode, found.payment_id)
        if payment is None or payment.status is not Status.NEEDS_REVIEW:
            due.append(found.payment_id)
            continue
        name = derive(
            "ope", payment.cell, "reconcile", found.payment_id, found.processor_payment_id
        )
        evidence = Evidence(True, found.processor_payment_id)
        try:
            await commands.resolve(payment, evidence, Claim(name, payment.payment_id, name))
        except Refusal as refusal:
            log.warning("not healed", payment_id=found.payment_id, reason=refusal.reason)
        else:
            resolved += 1
    return resolved + await make_due(store, due, now)


async def run(
    settings: PaymentsSettings, window: tuple[datetime, datetime], healing: bool
) -> tuple[Report, int]:
    """Reconciles with the service's own settings; answers the report, and how many heal now."""
    app = App(settings, load_merchants(settings.merchants_file))
    store = await SqliteStore.open(settings.store_path, MIGRATIONS)
    app.on_stop(store.close)
    payments = SqlitePayments(store)
    try:
        rails = await open_rails(app, settings, store, payments, _now)
        report = await reconcile_store(
            settings.store_path,
            accounts_of(rails.office.directory),
            rails.books,
            rails.processors,
            window,
            _now(),
            partial_books=rails.partial_books,
        )
        healed = 0
        if healing:
            versions = Versions(payments, rails.processors, _now, Patience(), derive)
            commands = Commands(versions, Silence(_now))
            healed = await heal(report.breaks, store, payments, commands, _now())
        return report, healed
    finally:
        await app.close()


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> None:
    """Reports to people on the output and to programs in a file.

    Exits with 0 when all agree, 1 when there are breaks, 2 when an account could not be read.
    """
    today = _now().replace(hour=0, minute=0, second=0, microsecond=0)
    parser = argparse.ArgumentParser(prog="smartpay_payments.reconcile", description=main.__doc__)
    parser.add_argument("--since", type=_moment, default=today - timedelta(days=1))
    parser.add_argument("--until", type=_moment, default=today)
    parser.add_argument("--json", type=Path, help="write one JSON line per break into this file")
    parser.add_argument(
        "--heal", action="store_true", help="let recovery look at what a look can mend"
    )
    arguments = parser.parse_args()
    settings = PaymentsSettings.from_environment()
    report, healed = asyncio.run(run(settings, (arguments.since, arguments.until), arguments.heal))
    if arguments.json is not None:
        arguments.json.write_text("".join(f"{json.dumps(asdict(b))}\n" for b in report.breaks))
    print(report.table())
    if arguments.heal:
        print(f"{healed} payments are looked at again")
    sys.exit(2 if report.unread_accounts else 1 if report.breaks else 0)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
