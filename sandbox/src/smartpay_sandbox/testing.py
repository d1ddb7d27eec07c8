"""A Stripe sandbox inside a test's own loop, with the unmodified SDK pointed at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stripe

from smartpay_sandbox.control import sandbox_app
from smartpay_sandbox.listener import listening
from smartpay_sandbox.stripe_api import StripeSimulator

ACCOUNTS = (("acct_first", "sk_test_first"), ("acct_second", "sk_test_second"))
"""(account id, secret key) of the two accounts a test starts with."""
FIRST_SECOND = 1_800_000_000
"""Where a test's clock starts, in seconds since 1970."""


class Clock:
    """Seconds since 1970 that move only when a test says so, and sleeps that wait for them."""

    def __init__(self) -> None:
        self.now: float = FIRST_SECOND
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def __call__(self) -> float:
        """Tell the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until a test has advanced the clock by so many seconds."""
        woken = asyncio.Event()
        self._sleepers.append((self.now + seconds, woken))
        await woken.wait()

    def advance(self, seconds: float) -> None:
        """Move the clock and wake whoever slept until then."""
        self.now += seconds
        for due, woken in self._sleepers:
            if due <= self.now:
                woken.set()


@dataclass
class StripeSandbox:
    """One running sandbox with two Stripe accounts; `simulator` sets faults and dumps."""

    url: str
    simulator: StripeSimulator
    clock: Clock
    _opened: list[stripe.AIOHTTPClient] = field(default_factory=list)

    @property
    def stripe_url(self) -> str:
        """The SDK's `base_addresses["api"]`."""
        return f"{self.url}/stripe"

    def client(
        self, secret_key: str = "sk_test_first", timeout_seconds: float = 5
    ) -> stripe.StripeClient:
        """Point the SDK at one account, without its own retries; closed with the sandbox."""
        stripe.enable_telemetry = False
        http = stripe.AIOHTTPClient(timeout=timeout_seconds)
        self._opened.append(http)
        return stripe.StripeClient(
            secret_key,
            base_addresses={"api": self.stripe_url},
            http_client=http,
            max_network_retries=0,
        )

    def account(self, account_id: str = "acct_first") -> dict[str, Any]:
        """Return what the judge sees of one account."""
        found: dict[str, Any] = self.simulator.dump()["accounts"][account_id]
        return found

    async def close(self) -> None:
        """Close every client made here."""
        for http in self._opened:
            close: Callable[[], Any] = http.close_async
            await close()


@asynccontextmanager
async def stripe_sandbox(state_dir: Path) -> AsyncIterator[StripeSandbox]:
    """Run a sandbox that holds every answer against the SDK's annotations.

    Raises:
        AssertionError: at the end, if an answer broke them.
    """
    clock = Clock()
    simulator = StripeSimulator(
        state_dir, ACCOUNTS, check_responses=True, clock=clock, sleep=clock.sleep
    )
    async with listening(sandbox_app({"stripe": simulator})) as url:
        running = StripeSandbox(url, simulator, clock)
        try:
            yield running
        finally:
            await running.close()
    violations = simulator.dump()["violations"]
    if violations:
        raise AssertionError(f"the simulator broke Stripe's schema: {violations}")
