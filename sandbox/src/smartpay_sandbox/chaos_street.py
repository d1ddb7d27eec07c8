"""The place of a chaos run: a payments process that may die, all three rails, and neighbours.

Real are the payments service (its process, its SQLite file, its Unix socket), the sandbox with its
simulators (another process) and every byte between them. Stand-ins are the services next door,
fraud and the router, which answer at once; and no sidecar stands between, since the run through
Envoys is `chaos_mesh`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import grpc
from solders.keypair import Keypair

from smartpay.fraud.v1 import fraud_pb2, fraud_pb2_grpc
from smartpay.payments.v1 import payments_pb2_grpc
from smartpay.router.v1 import router_pb2, router_pb2_grpc
from smartpay_chassis.ids import derive
from smartpay_chassis.merchants import Fee, Merchant, ProcessorAccount, ProcessorName
from smartpay_chassis.testing import write_merchants
from smartpay_sandbox.amazon_pay_testing import key_pair, registration
from smartpay_sandbox.chaos_nursery import Child, Nursery
from smartpay_sandbox.solana_wallets import USDC_MINT

CELL = "d1"
RAILS = ("stripe", "amazon_pay", "solana")
ACCOUNTS: dict[str, ProcessorName] = {
    "first": "stripe",
    "second": "stripe",
    "wallet": "amazon_pay",
    "chain": "solana",
    "side_chain": "solana",
}
"""The merchant's accounts by name, with the processor of each."""
STRIPE_IDS = {"first": "acct_first", "second": "acct_second"}
AMAZON_MERCHANT = "AFIRST"
CALL_SECONDS = 0.8
"""How long the service waits for a processor; its slow answers come later than that."""
LATE_SECONDS = 40.0
"""How long the service watches for late transfers."""
SETTINGS = {
    "STRIPE_TIMEOUT_SECONDS": str(CALL_SECONDS),
    "AMAZON_PAY_TIMEOUT_SECONDS": str(CALL_SECONDS),
    "PAYMENTS_SOLANA_TIMEOUT_SECONDS": str(CALL_SECONDS),
    "PAYMENTS_FIRST_LOOK_SECONDS": "2",
    "PAYMENTS_RECOVERY_INTERVAL_SECONDS": "0.2",
    "PAYMENTS_RECOVERY_LEASE_SECONDS": "6",
    # Long enough that nobody gives up during a run, short enough that all settle after it.
    "PAYMENTS_RECOVERY_SCHEDULE_SECONDS": json.dumps([1, 1, 2, 2, *[3] * 200]),
    "PAYMENTS_ACTION_FIRST_POLL_SECONDS": "0.5",
    "PAYMENTS_ACTION_POLL_SECONDS": "1",
    "PAYMENTS_ACTION_SECONDS": "6",
    "PAYMENTS_CONFIRM_SECONDS": "6",
    "PAYMENTS_LATE_POLL_SECONDS": "2",
    "PAYMENTS_SOLANA_LATE_SECONDS": str(LATE_SECONDS),
    "LOG_LEVEL": "WARNING",
}
"""What is shorter here than in production, so that a run meets the end of every wait."""
START_SECONDS = 60.0
POLL_SECONDS = 0.005
ALIVE_SECONDS = 0.02
CLOSE_SECONDS = 1.0
_FEES = {"USD": Fee(basis_points=290, fixed_minor_units=30)}
_COINS = {name: Fee(basis_points=0, fixed_minor_units=0) for name in ("USDC", "SOL")}
REWARDS_CERTIFICATE = (("x-forwarded-client-cert", "By=x;URI=spiffe://smartpay/dev/rewards"),)


def account_id(name: str) -> str:
    """Answers the id of one of ACCOUNTS."""
    return derive("pac", CELL, "chaos", name)


class Neighbours(fraud_pb2_grpc.FraudServiceServicer, router_pb2_grpc.RouterServiceServicer):
    """Fraud, which allows everything, and the router, which ranks as the order lists accounts."""

    async def Score(  # noqa: N802
        self, request: fraud_pb2.ScoreRequest, context: object
    ) -> fraud_pb2.ScoreResponse:
        """Allows a payment."""
        assessment = fraud_pb2.Assessment(
            transaction_id=request.transaction_id, verdict=fraud_pb2.Assessment.VERDICT_ALLOW
        )
        return fraud_pb2.ScoreResponse(assessment=assessment)

    async def Decide(  # noqa: N802
        self, request: router_pb2.DecideRequest, context: object
    ) -> router_pb2.DecideResponse:
        """Ranks the accounts."""
        decision = router_pb2.Decision(
            decision_id=derive("dec", CELL, request.payment_id),
            ranking=[
                router_pb2.RankedAccount(processor_account_id=t.processor_account_id)
                for t in request.instrument.tokens
            ],
        )
        return router_pb2.DecideResponse(decision=decision)


@dataclass
class Life:
    """One process of the service, from its start to its end."""

    child: Child
    channel: grpc.aio.Channel
    stub: payments_pb2_grpc.PaymentsServiceAsyncStub


class Street:
    """One place. Use it as a context: it starts the sandbox and the neighbours, not the service.

    Args:
        folder: an empty folder with a short path, since it holds Unix sockets.
        nursery: forks the processes.
    """

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder = folder
        self._nursery = nursery
        self._stack = AsyncExitStack()
        self._refund_key = Keypair()
        self.recipients = {
            name: str(Keypair().pubkey())
            for name, processor in ACCOUNTS.items()
            if processor == "solana"
        }
        """The wallets that payers pay into, by account."""
        self.merchant = self._merchant()
        self._closing: set[asyncio.Task[None]] = set()
        self.life: Life | None = None
        """The process that answers now."""

    async def __aenter__(self) -> Self:
        """Starts everything but the service."""
        self._write_files()
        state = self.folder / "sandbox"
        state.mkdir()
        port_file = state / "port"
        await self._nursery.fork(
            "sandbox",
            {
                "SANDBOX_STATE_DIR": str(state),
                "SANDBOX_PORT_FILE": str(port_file),
                "SANDBOX_STRIPE_ACCOUNTS": str(self.folder / "stripe-accounts.json"),
                "SANDBOX_AMAZON_PAY_MERCHANTS": str(self.folder / "amazon-merchants.json"),
                "SANDBOX_SOLANA_FUNDS": str(self.folder / "funds.json"),
                "SANDBOX_SOLANA_FINAL_SLOTS": "1",
            },
            self.folder / "sandbox.log",
        )
        async with asyncio.timeout(START_SECONDS):
            while not port_file.exists():
                await asyncio.sleep(POLL_SECONDS)
        self.url = f"http://127.0.0.1:{port_file.read_text()}"
        self.control = await self._stack.enter_async_context(
            aiohttp.ClientSession(self.url, timeout=aiohttp.ClientTimeout(total=60))
        )
        neighbours = Neighbours()  # type: ignore[abstract]
        server = grpc.aio.server()
        fraud_pb2_grpc.add_FraudServiceServicer_to_server(neighbours, server)
        router_pb2_grpc.add_RouterServiceServicer_to_server(neighbours, server)
        server.add_insecure_port(f"unix:{self.folder / 'egress'}")
        await server.start()
        self._stack.push_async_callback(server.stop, None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops everything; the sandbox ends with the nursery."""
        if self.life is not None:
            await self.end(self.life)
        await asyncio.gather(*self._closing)
        await self._stack.aclose()

    def _merchant(self) -> Merchant:
        secrets = {name: self.folder / f"{name}.secret" for name in ACCOUNTS}
        return Merchant(
            merchant_id=derive("mer", CELL, "chaos"),
            name="Chaos",
            livemode=False,
            clients=("chaos-client",),
            processor_accounts=tuple(
                ProcessorAccount(
                    processor_account_id=account_id(name),
                    processor=processor,
                    name=name,
                    fees=_COINS if processor == "solana" else _FEES,
                    secret_file=secrets[name],
                )
                for name, processor in ACCOUNTS.items()
            ),
        )

    def _write_files(self) -> None:
        amazon = registration("first")
        own = {
            **{name: f"sk_test_{name}" for name in STRIPE_IDS},
            "wallet": json.dumps(
                {
                    "public_key_id": amazon.public_key_id,
                    "private_key": key_pair("first")[0],
                    "store_id": amazon.store_id,
                    "merchant_id": amazon.merchant_id,
                }
            ),
            **{
                name: json.dumps(
                    {"recipient": recipient, "refund_secret_key": str(self._refund_key)}
                )
                for name, recipient in self.recipients.items()
            },
        }
        for name, secret in own.items():
            (self.folder / f"{name}.secret").write_text(secret)
        rows = {
            "stripe-accounts": [
                {"id": stripe_id, "secret_key": own[name]} for name, stripe_id in STRIPE_IDS.items()
            ],
            "amazon-merchants": [{k: v for k, v in vars(amazon).items() if v or k != "notify_url"}],
            "funds": [
                *({"address": a, "sol": "1", "usdc": "1"} for a in self.recipients.values()),
                {"address": str(self._refund_key.pubkey()), "sol": "900", "usdc": "900000"},
            ],
        }
        for name, content in rows.items():
            (self.folder / f"{name}.json").write_text(json.dumps(content))
        write_merchants(self.folder / "merchants.json", [self.merchant])

    # ---- the service -------------------------------------------------------------------------

    @property
    def database(self) -> Path:
        """The service's file."""
        return self.folder / "payments.db"

    async def begin(self, prepare: Mapping[str, Any]) -> Life | None:
        """Starts the service; answers once it serves, or None when it died before.

        Args:
            prepare: given to `crash_points.prepare` in the new process.
        """
        listen = self.folder / "listen"
        child = await self._fork(prepare)
        async with asyncio.timeout(START_SECONDS):
            while not _answers(listen):
                if child.ended.done():
                    self._check(child)
                    return None
                await asyncio.sleep(POLL_SECONDS)
        channel = grpc.aio.insecure_channel(
            f"unix:{listen}",
            options=[
                ("grpc.default_authority", "payments"),
                # Or it would share the last life's broken connection, and its pause.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        self.life = Life(child, channel, stub)
        return self.life

    async def begin_in_vain(self, prepare: Mapping[str, Any], seconds: float) -> None:
        """Starts the service and kills it so soon that it may not have served yet."""
        child = await self._fork(prepare)
        await asyncio.sleep(seconds)
        await child.kill()
        self._check(child)

    async def _fork(self, prepare: Mapping[str, Any]) -> Child:
        listen = self.folder / "listen"
        return await self._nursery.fork(
            "payments",
            {
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(self.folder),
                "SMARTPAY_LISTEN_SOCKET": str(listen),
                "SMARTPAY_EGRESS_SOCKET": str(self.folder / "egress"),
                "SMARTPAY_MERCHANTS_FILE": str(self.folder / "merchants.json"),
                "PAYMENTS_STORE_PATH": str(self.database),
                "PAYMENTS_USDC_MINT_ADDRESS": USDC_MINT,
                "STRIPE_API_BASE": f"{self.url}/stripe",
                "AMAZON_PAY_API_BASE": f"{self.url}/amazon_pay",
                "SOLANA_RPC_URL": f"{self.url}/solana",
                **SETTINGS,
            },
            self.folder / "payments.log",
            prepare,
        )

    async def alive(self) -> Life:
        """Answers the process that serves, or waits for the next one to do so."""
        while self.life is None or self.life.child.ended.done():
            await asyncio.sleep(ALIVE_SECONDS)
        return self.life

    async def end(self, life: Life) -> None:
        """Kills a process by SIGKILL, if it is not dead yet, and forgets it."""
        self.life = None
        await life.child.kill()
        self._check(life.child)
        self._closing.add(closing := asyncio.create_task(_close_later(life.channel)))
        closing.add_done_callback(self._closing.discard)

    def errors(self) -> list[str]:
        """Answers what was logged as an error: neither faults nor kills are a reason for one."""
        found = []
        for line in (self.folder / "payments.log").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # the last line of a killed process may be cut
                row = json.loads(line)
                if row.get("level") in ("error", "critical"):
                    found.append(f"logged: {line[:600]}")
        return found

    def _check(self, child: Child) -> None:
        status = child.ended.result()
        if status != -9:
            tail = (self.folder / "payments.log").read_text(errors="replace")[-4000:]
            raise RuntimeError(f"payments ended by itself, with {status}:\n{tail}")

    # ---- the outside world -------------------------------------------------------------------

    async def set_faults(self, rail: str, rules: Sequence[Mapping[str, Any]]) -> None:
        """Tells a simulator what to do wrong; no rules, no faults."""
        async with self.control.put(
            f"/control/{rail}/faults", json={"rules": list(rules)}
        ) as answer:
            if answer.status != 200:
                raise RuntimeError(await answer.text())

    async def dump(self, rail: str) -> dict[str, Any]:
        """Reads what a simulator knows."""
        async with self.control.get(f"/control/{rail}/dump") as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found


async def _close_later(channel: grpc.aio.Channel) -> None:
    """Closes a channel once its calls have learned from the broken connection that they failed."""
    await asyncio.sleep(CLOSE_SECONDS)
    await channel.close()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        try:
            caller.connect(str(path))
        except OSError:
            return False
    return True
