"""Joins rewards: settings, store, chain, worker, events, server."""

from __future__ import annotations

from datetime import UTC, datetime

from solders.pubkey import Pubkey

from smartpay.payments.v1.payments_pb2_grpc import PaymentsServiceStub
from smartpay.rewards.v1 import rewards_pb2
from smartpay.rewards.v1.rewards_pb2_grpc import add_RewardsServiceServicer_to_server
from smartpay_chassis.server import App, run
from smartpay_rewards.adapters.payment_events import GrpcPayments, PaymentEvents
from smartpay_rewards.adapters.solana_chain import SolanaChain, SolanaRpc
from smartpay_rewards.adapters.sqlite_rewards import SqliteRewards
from smartpay_rewards.domain.granting import Grants
from smartpay_rewards.domain.issuance import Rules
from smartpay_rewards.server import Rewards
from smartpay_rewards.settings import RewardsSettings
from smartpay_rewards.worker import Worker


def _now() -> datetime:
    return datetime.now(UTC)


async def build(app: App, settings: RewardsSettings) -> None:
    """Opens the store, then serves, follows the payments and mints."""
    store = await SqliteRewards.open(settings.store_path)
    app.on_stop(store.close)
    rpc = SolanaRpc(
        settings.rpc_url,
        timeout_seconds=settings.rpc_timeout_seconds,
        connections_max=settings.in_flight_max,
    )
    app.on_stop(rpc.close)
    chain = SolanaChain(
        rpc,
        settings.authority,
        Pubkey.from_string(settings.mint),
        settings.receipt_key_bytes,
        own_wallets=[settings.treasury_wallet],
        blockhash_seconds=settings.blockhash_seconds,
    )
    rules = Rules(settings.terms, settings.default_wallet, chain.can_hold)
    worker = Worker(store, chain, rules, _now, settings.pace, settings.genesis_hash)
    payments = PaymentsServiceStub(app.channel)
    grants = Grants(store, GrpcPayments(payments, settings.payments_timeout_seconds), rules, _now)
    app.serve(
        add_RewardsServiceServicer_to_server,
        Rewards(grants, store, chain, settings.mint, worker),
        rewards_pb2.DESCRIPTOR.services_by_name["RewardsService"],
    )
    app.background(
        "payment events", PaymentEvents(payments, store, rules, _now, worker.wake).follow
    )
    app.background("minting", worker.run)


if __name__ == "__main__":
    run("rewards", RewardsSettings, build)
