"""Joins the books: balances, ledger entries, exports, and what keeps them quick."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime

from smartpay.payments.v1 import exports_pb2, exports_pb2_grpc, ledger_pb2, ledger_pb2_grpc
from smartpay_chassis.server import App
from smartpay_chassis.sqlite import SqliteStore
from smartpay_payments.adapters.merchant_directory import MerchantDirectory
from smartpay_payments.adapters.sqlite_ledger import SqliteLedger
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.adapters.sqlite_reward_watch import SqliteRewardWatch
from smartpay_payments.domain.settlement import SettlementSource
from smartpay_payments.reward_books import RewardBooks, RewardReader
from smartpay_payments.server.exports import ExportsServicer
from smartpay_payments.server.ledger import LedgerServicer
from smartpay_payments.settlement import FeeStory, SettledAccount, Settlement

# Legs of so long are added up anew for each balance that is asked for.
ADD_UP_INTERVAL_SECONDS = 10.0
# A reward is final some seconds after its payment; nobody waits for its booking.
REWARD_INTERVAL_SECONDS = 5.0


def build_books(
    app: App,
    store: SqliteStore,
    payments: SqlitePayments,
    directory: MerchantDirectory,
    story: FeeStory,
    sources: Mapping[str, SettlementSource],
    rewards: RewardReader,
    settlement_interval_seconds: float,
    now: Callable[[], datetime],
) -> None:
    """Serves the ledger and the exports; settles and adds up beside the calls.

    Args:
        app: the service.
        store: the embedded store.
        payments: the payments in it.
        directory: whose accounts there are.
        story: books fees that nothing but a settlement tells.
        sources: by processor, those that tell what they settle.
        rewards: asks rewards.
        settlement_interval_seconds: pause between two readings of all accounts.
        now: the clock.
    """
    ledger = SqliteLedger(store)
    app.serve(
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
        LedgerServicer(ledger),
        ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
    )
    app.serve(
        exports_pb2_grpc.add_ExportsServiceServicer_to_server,
        ExportsServicer(payments, ledger),
        exports_pb2.DESCRIPTOR.services_by_name["ExportsService"],
    )

    async def add_up() -> None:
        while True:
            while await ledger.add_up():
                pass
            await asyncio.sleep(ADD_UP_INTERVAL_SECONDS)

    app.background("ledger sums", add_up)
    settlement = Settlement(
        ledger, story, sources, lambda: accounts_of(directory), now, settlement_interval_seconds
    )
    app.background("settlement", settlement.run)
    reward_books = RewardBooks(
        SqliteRewardWatch(store), payments, rewards, now, REWARD_INTERVAL_SECONDS
    )
    app.background("reward books", reward_books.run)


def accounts_of(directory: MerchantDirectory) -> list[SettledAccount]:
    """Lists every processor account with its merchant, disabled ones included."""
    return [
        SettledAccount(
            account.processor_account_id, account.processor, profile.merchant_id, profile.livemode
        )
        for profile in directory.all()
        for account in (*profile.table_accounts, *profile.accounts)
    ]
