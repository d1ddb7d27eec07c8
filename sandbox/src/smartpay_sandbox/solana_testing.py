"""A Solana node inside a test's own loop, with payers at hand and slots that pass on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartpay_sandbox.listener import listening
from smartpay_sandbox.solana import SolanaSimulator
from smartpay_sandbox.solana_ledger import FINALITY_SLOTS, SLOT_MILLISECONDS
from smartpay_sandbox.solana_wallets import Funds, PayOrder
from smartpay_sandbox.testing import Clock


@dataclass
class SolanaSandbox:
    """One running node; `simulator` sets faults and dumps."""

    url: str
    simulator: SolanaSimulator
    clock: Clock

    def pay(self, url: str, **changes: Any) -> dict[str, str]:  # noqa: ANN401 - a PayOrder's fields
        """Follow a solana: address as a person does, or stray from it."""
        return self.simulator.pay(PayOrder(url, **changes))

    def fund(self, address: str, sol: str = "0", usdc: str = "0") -> None:
        """Fill a wallet up."""
        self.simulator.fund(Funds(address, sol, usdc))

    def pass_slots(self, count: int = FINALITY_SLOTS) -> None:
        """Let slots pass; by default so many that what has landed is final."""
        self.clock.advance(count * SLOT_MILLISECONDS / 1000)

    def fail_next(self, kind: str, method: str, times: int = 1) -> None:
        """Make the next calls of a method go wrong."""
        self.simulator.set_faults([{"kind": kind, "method": method, "times": times}])


@asynccontextmanager
async def solana_sandbox(state_dir: Path) -> AsyncIterator[SolanaSandbox]:
    """Run a node until the block ends."""
    clock = Clock()
    simulator = SolanaSimulator(state_dir, clock)
    await simulator.start()
    try:
        async with listening(simulator.app) as url:
            yield SolanaSandbox(url, simulator, clock)
    finally:
        await simulator.stop()
