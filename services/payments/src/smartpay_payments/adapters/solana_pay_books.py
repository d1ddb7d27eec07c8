"""What came in to merchants' wallets on Solana, whether anybody waited for it or not.

A transfer that names the reference of an attempt is that attempt's; what no attempt of ours knows
is found here. Other tokens than USDC are not looked at: nothing of ours is ever paid in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from smartpay_payments.adapters.solana_pay_chain import (
    ChainUnsureError,
    HistoryRow,
    SolanaChain,
    arrivals_in,
    token_account,
)
from smartpay_payments.adapters.solana_pay_processor import SolanaAccount
from smartpay_payments.domain.reconciliation import (
    BooksUnreadableError,
    ChargeState,
    ProcessorCharge,
)

READ_AT_ONCE = 16  # transactions; public nodes turn away who asks for more
PAGES_MAX = 1000  # a million transactions of one wallet in one window


@dataclass(frozen=True, slots=True)
class Purse:
    """One account of a merchant's wallet: what is looked at, and in which coin."""

    account: SolanaAccount
    currency: str
    mint: str
    dust_minor: int

    @property
    def address(self) -> str:
        """Where transfers of the coin arrive."""
        recipient = self.account.recipient
        return token_account(recipient, self.mint) if self.mint else recipient


class SolanaBooks:
    """The port `ProcessorBooks` for accounts on Solana; it lists what arrived, nothing else.

    Args:
        accounts: by processor account id; it raises KeyError or ValueError for one without
            usable credentials.
        chain: where payers pay.
        mints: address of the mint by currency; empty for SOL.
        dust: by currency, up to which amount nobody asks where it came from.
    """

    def __init__(
        self,
        accounts: Mapping[str, SolanaAccount],
        chain: SolanaChain,
        mints: Mapping[str, str],
        dust: Mapping[str, int],
    ) -> None:
        self._accounts = accounts
        self._chain = chain
        self._mints = mints
        self._dust = dust

    async def charges(
        self, processor_account_id: str, since: datetime, until: datetime
    ) -> AsyncIterator[ProcessorCharge]:
        """Yields what arrived in a window: per reference one charge, without one each transfer."""
        try:
            account = self._accounts[processor_account_id]
        except (KeyError, ValueError):
            raise BooksUnreadableError(f"{processor_account_id}: no usable credentials") from None
        try:
            await self._chain.verify()
            for currency, mint in self._mints.items():
                purse = Purse(account, currency, mint, self._dust[currency])
                for charge in await self._arrived(processor_account_id, purse, since, until):
                    yield charge
        except ChainUnsureError as error:
            raise BooksUnreadableError(f"{processor_account_id}: {error.why}") from error

    async def _arrived(
        self, name: str, purse: Purse, since: datetime, until: datetime
    ) -> list[ProcessorCharge]:
        found: dict[str, ProcessorCharge] = {}
        rows: list[HistoryRow] = []
        async for row in self._chain.rows(purse.address, PAGES_MAX):
            moment = _time_of(row, since)
            if moment < since:
                break
            if moment < until:
                rows.append(row)
        for first in range(0, len(rows), READ_AT_ONCE):
            for charge in await self._read(name, purse, rows[first : first + READ_AT_ONCE], since):
                known = found.get(charge.processor_payment_id)
                before = known.captured_minor if known is not None else 0
                found[charge.processor_payment_id] = replace(
                    charge, captured_minor=before + charge.captured_minor
                )
        return [charge for charge in found.values() if charge.captured_minor > purse.dust_minor]

    async def _read(
        self, name: str, purse: Purse, rows: Sequence[HistoryRow], since: datetime
    ) -> list[ProcessorCharge]:
        views = await asyncio.gather(*(self._chain.transaction(r["signature"]) for r in rows))
        own = {purse.account.recipient, str(purse.account.refund_key.pubkey())}
        return [
            ProcessorCharge(
                processor_account_id=name,
                processor_payment_id=reference or transfer.transfer_id,
                payment_id="",
                attempt_index=0,
                state=ChargeState.CAPTURED,
                currency_code=purse.currency,
                create_time=_time_of(row, since),
                captured_minor=transfer.minor_units,
            )
            for row, view in zip(rows, views, strict=True)
            for reference, transfer in arrivals_in(
                row["signature"], view, purse.account.recipient, purse.mint
            )
            # Money that a merchant moves between their own wallets pays nothing.
            if transfer.payer not in own
        ]


def _time_of(row: HistoryRow, unknown: datetime) -> datetime:
    """Answers when a transaction was; nodes may have forgotten, and then it can't be ruled out."""
    seconds = row.get("blockTime")
    return unknown if seconds is None else datetime.fromtimestamp(seconds, UTC)
