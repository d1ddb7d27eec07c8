"""Posts what processors settle: fees told later, and payouts. Runs beside the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from smartpay_payments.domain.reconciliation import BooksUnreadableError
from smartpay_payments.domain.settlement import (
    AccountFee,
    ChargeFee,
    Payout,
    PayoutState,
    SettlementSource,
    transactions_of,
)

log = structlog.get_logger()

# Lines are read anew for so long: processors' clocks differ, and some write lines late.
OVERLAP = timedelta(hours=1)
# A fee waits so long for its payment's capture; then reconciliation has named the charge.
WAITS_AT_MOST = timedelta(days=2)
# How far back the first reading of an account goes.
FIRST_READING = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class SettledAccount:
    """An account that is read, and whose it is."""

    processor_account_id: str
    processor: str
    merchant_id: str
    livemode: bool


class SettlementBooks(Protocol):
    """Posts lines, each once, and remembers how far an account was read."""

    async def cursor(self, processor_account_id: str) -> datetime | None:
        """Reads until when an account was read; None before the first time."""
        ...

    async def move_cursor(self, processor_account_id: str, until: datetime) -> None:
        """Remembers until when an account was read."""
        ...

    async def open_payouts(self, merchant_id: str, livemode: bool, account: str) -> Sequence[str]:
        """Reads the ids of the payouts that are on their way."""
        ...

    async def post_once(
        self,
        merchant_id: str,
        livemode: bool,
        transaction_id: str,
        legs: Mapping[str, int],
        currency_code: str,
        now: datetime,
    ) -> bool:
        """Posts a transaction; answers False when it is posted already."""
        ...

    async def payment_of(self, processor_account_id: str, processor_payment_id: str) -> str:
        """Finds the payment that a charge belongs to; "" when it is none of ours."""
        ...

    async def settle_fee(
        self,
        merchant_id: str,
        livemode: bool,
        payment_id: str,
        processor_account_id: str,
        fee_minor: int,
        currency_code: str,
        line_id: str,
        now: datetime,
    ) -> bool:
        """Sees to it that a capture's fee is booked; answers False while it is not."""
        ...


class FeeStory(Protocol):
    """Books a fee as part of its payment's story."""

    async def book_fee(
        self,
        merchant_id: str,
        livemode: bool,
        payment_id: str,
        processor_account_id: str,
        fee_minor: int,
    ) -> bool:
        """Stores the fee of the charge that paid; answers False while none has paid."""
        ...


class Settlement:
    """Reads every account from where it was read last, and posts what is new.

    Nothing is posted twice, however often it is read: every transaction has the processor's id.

    Args:
        books: the ledger.
        story: books fees that nothing but a settlement tells.
        sources: by processor.
        accounts: which accounts there are; asked anew each round.
        clock: the time, aware.
        interval_seconds: pause between two rounds.
        sleep: replaced by tests.
    """

    def __init__(
        self,
        books: SettlementBooks,
        story: FeeStory,
        sources: Mapping[str, SettlementSource],
        accounts: Callable[[], Sequence[SettledAccount]],
        clock: Callable[[], datetime],
        interval_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._books = books
        self._story = story
        self._sources = sources
        self._accounts = accounts
        self._clock = clock
        self._interval = interval_seconds
        self._sleep = sleep

    async def run(self) -> None:
        """Runs for ever."""
        while True:
            await self.round()
            await self._sleep(self._interval)

    async def round(self) -> None:
        """Reads every account once. One that can't be read keeps no other from being read."""
        for account in self._accounts():
            source = self._sources.get(account.processor)
            if source is None:
                continue
            try:
                posted = await self._read(account, source)
            except BooksUnreadableError as error:
                log.warning(
                    "settlement: an account can't be read now",
                    processor_account_id=account.processor_account_id,
                    why=str(error),
                )
                continue
            if posted:
                log.info(
                    "settlement posted",
                    processor_account_id=account.processor_account_id,
                    count=posted,
                )

    async def _read(self, account: SettledAccount, source: SettlementSource) -> int:
        now = self._clock()
        last = await self._books.cursor(account.processor_account_id)
        since = now - FIRST_READING if last is None else last - OVERLAP
        until, posted = now, 0
        async for line in source.lines(account.processor_account_id, since):
            if isinstance(line, ChargeFee):
                waits = not await self._settle_fee(account, line, now)
                if waits and now - line.create_time < WAITS_AT_MOST:
                    until = min(until, line.create_time)
            else:
                posted += await self._post(account, line, now)
        for payout_id in await self._books.open_payouts(
            account.merchant_id, account.livemode, account.processor_account_id
        ):
            payout = await source.payout(account.processor_account_id, payout_id)
            if payout.state is not PayoutState.ON_ITS_WAY:
                posted += await self._post(account, payout, now)
        # Only now: what breaks off before is read again.
        await self._books.move_cursor(account.processor_account_id, until)
        return posted

    async def _settle_fee(self, account: SettledAccount, line: ChargeFee, now: datetime) -> bool:
        payment_id = line.payment_id
        if not payment_id and line.processor_payment_id:
            payment_id = await self._books.payment_of(
                account.processor_account_id, line.processor_payment_id
            )
        if not payment_id:
            return False
        booked = await self._books.settle_fee(
            account.merchant_id,
            account.livemode,
            payment_id,
            account.processor_account_id,
            line.fee_minor,
            line.currency_code,
            line.line_id,
            now,
        )
        if booked or not line.is_only_word:
            return booked
        return await self._story.book_fee(
            account.merchant_id,
            account.livemode,
            payment_id,
            account.processor_account_id,
            line.fee_minor,
        )

    async def _post(self, account: SettledAccount, line: AccountFee | Payout, now: datetime) -> int:
        posted = 0
        for transaction_id, legs in transactions_of(
            line, account.merchant_id, account.processor_account_id
        ):
            posted += await self._books.post_once(
                account.merchant_id,
                account.livemode,
                transaction_id,
                legs,
                line.currency_code,
                now,
            )
        return posted
