from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from solders.pubkey import Pubkey

from smartpay_chassis.testing import FakeClock
from smartpay_rewards.adapters.solana_chain import SolanaChain, SolanaRpc
from smartpay_rewards.adapters.sqlite_rewards import SqliteRewards
from smartpay_rewards.deploy import DeploySettings, deploy
from smartpay_rewards.domain.issuance import Chain, Reward, RewardKey, Rules
from smartpay_rewards.domain.reward import SettledPayment
from smartpay_rewards.testing import ISSUER, RECEIPT_KEY, START, WALLET, terms
from smartpay_rewards.worker import Pace, Worker
from smartpay_sandbox.listener import listening
from smartpay_sandbox.solana import SolanaSimulator


@dataclass
class World:
    """A real chain under a clock that stands still, and rewards services on it."""

    clock: FakeClock
    simulator: SolanaSimulator
    url: str
    rpc: SolanaRpc
    folder: Path
    exits: AsyncExitStack
    mint: str = ""
    stores: int = 0
    chains: list[SolanaChain] = field(default_factory=list)

    def chain(self, kind: type[SolanaChain] = SolanaChain, **changes: Any) -> SolanaChain:
        settings: dict[str, Any] = {
            "issuer": ISSUER,
            "mint": Pubkey.from_string(self.mint),
            "receipt_key": RECEIPT_KEY,
            "blockhash_seconds": 5,
            "monotonic": lambda: (self.clock() - START).total_seconds(),
        }
        return kind(self.rpc, **(settings | changes))

    async def store(self) -> SqliteRewards:
        """Open an empty store."""
        self.stores += 1
        store = await SqliteRewards.open(self.folder / f"rewards-{self.stores}.sqlite")
        self.exits.push_async_callback(store.close)
        return store

    def rules(self, chain: Chain) -> Rules:
        return Rules(terms(), WALLET, chain.can_hold)

    def worker(self, store: SqliteRewards, chain: Chain, **changes: Any) -> Worker:
        pace = Pace(in_flight_max=4)
        return Worker(store, chain, self.rules(chain), self.clock, pace, **changes)

    async def deliver(
        self, store: SqliteRewards, chain: Chain, payments: list[SettledPayment]
    ) -> None:
        """Apply the events of payments, as the event stream does."""
        rules = self.rules(chain)
        for payment in payments:
            key = RewardKey(payment.merchant_id, payment.livemode, payment.payment_id)

            def decide(existing: Reward | None, payment: SettledPayment = payment) -> Reward:
                return rules.apply(existing, payment, self.clock())

            await store.change(key, decide, cursor=payment.payment_id)

    async def finish(self, store: SqliteRewards, worker: Worker, rounds: int = 3000) -> None:
        """Go round until nothing is due within the next hours; time passes between rounds."""
        for _ in range(rounds):
            await worker.round()
            self.clock.advance(seconds=1)
            if not await store.due(self.clock() + timedelta(hours=9), 1):
                return
        raise AssertionError("rewards are still on their way")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    clock = FakeClock(START)
    simulator = SolanaSimulator(tmp_path / "chain", lambda: clock().timestamp())
    await simulator.start()
    async with AsyncExitStack() as exits:
        exits.push_async_callback(simulator.stop)
        url = await exits.enter_async_context(listening(simulator.app))
        rpc = SolanaRpc(url, timeout_seconds=5, connections_max=8)
        exits.push_async_callback(rpc.close)
        made = World(clock, simulator, url, rpc, tmp_path, exits)
        settings = DeploySettings(rpc_url=url, mint_authority=SecretStr(str(ISSUER)))
        made.mint = (await deploy(settings))["mint"]
        yield made
