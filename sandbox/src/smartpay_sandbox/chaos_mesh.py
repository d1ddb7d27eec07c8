"""Kills payments amid load behind real Envoys, with Stripe misbehaving, then lets the judge look.

Few kills, since each costs seconds; `chaos` has the many, on all rails and at every point.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx

from smartpay.payments.v1 import payment_pb2, payments_pb2, payments_pb2_grpc
from smartpay_sandbox.edge_session import edge_session
from smartpay_sandbox.judge import OPEN, Evidence, judge
from smartpay_sandbox.launcher import Mesh
from smartpay_sandbox.supervisor import RESTART_WINDOW_SECONDS, RESTARTS_MAX

# Shorter than in production, so that a run meets every kind of trouble within a minute.
STRIPE_TIMEOUT_SECONDS = 1.0
ENVIRONMENT = {
    "payments": {
        "STRIPE_TIMEOUT_SECONDS": str(STRIPE_TIMEOUT_SECONDS),
        "AMAZON_PAY_TIMEOUT_SECONDS": str(STRIPE_TIMEOUT_SECONDS),
        "PAYMENTS_FIRST_LOOK_SECONDS": "5",
        # A slow machine's load outlasts the short pauses; settling must not wait out a long one.
        "PAYMENTS_RECOVERY_SCHEDULE_SECONDS": "[1, 5, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10]",
    }
}
CONCURRENT_CALLERS = 200
TRIES_MAX = 40  # a caller that does not give up repeats its key until it is answered for good
RETRY_SECONDS = 0.25
CALL_SECONDS = 10.0
SETTLE_SECONDS = 90.0  # a few of recovery's pauses, and room for a slow machine
CARDS = (
    *(("pm_card_visa", "pm_card_visa"),) * 7,
    ("pm_card_chargeDeclinedProcessingError", "pm_card_mastercard"),
    ("pm_card_visa_chargeDeclinedInsufficientFunds", "pm_card_visa"),
    ("pm_card_chargeDeclinedProcessingError", "pm_card_chargeDeclinedProcessingError"),
)


def faults(seed: int, slow: float = 0.1) -> list[dict[str, Any]]:
    """Spells what Stripe does wrong during a run.

    Args:
        seed: leads to the same faults for the same order of requests.
        slow: share of charges that are taken at once and answered after our time-out.
    """
    late = int(STRIPE_TIMEOUT_SECONDS * 1500)
    every = {"method": "POST", "path_prefix": "/v1/payment_intents"}
    return [
        {"kind": "error_before", "probability": 0.05, "seed": seed, **every},
        {
            "kind": "slow",
            "when": "after",
            "delay_ms": late,
            "probability": slow,
            "seed": seed + 1,
            **every,
        },
        {"kind": "drop_after_commit", "probability": 0.1, "seed": seed + 2, **every},
        {"kind": "error_after", "probability": 0.04, "seed": seed + 3, **every},
    ]


@dataclass
class Told:
    """What the callers of a run were told."""

    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)


class Customers:
    """Callers as they are in life: some ask twice, some give up after the first error.

    Args:
        mesh: a running mesh.
        seed: leads to the same orders and the same impatience.
    """

    def __init__(self, mesh: Mesh, seed: int) -> None:
        self._mesh = mesh
        self._seed = seed
        merchants = json.loads(mesh.run.merchants.read_text())["merchants"]
        self._accounts = [
            account["processor_account_id"]
            for account in merchants[0]["processor_accounts"]
            if account["processor"] == "stripe"
        ]
        self.told = Told()

    def order(self, number: int, chance: random.Random) -> dict[str, Any]:
        """Makes one order that fraud has no reason to stop."""
        first, second = chance.choice(CARDS)
        return {
            "amount": {"minorUnits": chance.randrange(1000, 20000), "currencyCode": "USD"},
            "instrument": {
                "tokens": [
                    {"processorAccountId": self._accounts[0], "token": first},
                    {"processorAccountId": self._accounts[1], "token": second},
                ],
                "fingerprint": f"card-{self._seed}-{number}",
            },
            "captureMethod": "CAPTURE_METHOD_AUTOMATIC",
            "customerId": f"customer-{self._seed}-{number}",
        }

    async def buy(self, session: httpx.AsyncClient, number: int) -> None:
        """Pays one order the way a caller would."""
        chance = random.Random(f"{self._seed}-{number}")
        body = self.order(number, chance)
        key = f"chaos-{self._seed}-{number}"
        gives_up = chance.random() < 1 / 3
        asks_twice = chance.random() < 0.2
        callers = [self._ask(session, key, body, gives_up) for _ in range(1 + asks_twice)]
        await asyncio.gather(*callers)

    async def _ask(
        self, session: httpx.AsyncClient, key: str, body: dict[str, Any], gives_up: bool
    ) -> None:
        for _ in range(TRIES_MAX):
            try:
                response = await session.post("/pay", json=body, headers={"Idempotency-Key": key})
                self.told.calls[str(response.status_code)] += 1
                if response.status_code == httpx.codes.CREATED:
                    self.told.answers.setdefault(key, []).append(response.json())
                    return
            except httpx.TransportError as error:
                self.told.calls[type(error).__name__] += 1
            if gives_up:
                return
            await asyncio.sleep(RETRY_SECONDS)


async def pages(session: httpx.AsyncClient, path: str, name: str) -> list[dict[str, Any]]:
    """Reads a whole list."""
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        query = {"pageSize": "200", **({"pageToken": token} if token else {})}
        page = (await session.get(path, params=query)).raise_for_status().json()
        found += page[name]
        token = page["nextPageToken"]
        if not token:
            return found


async def events_of(mesh: Mesh) -> list[tuple[str, int, str]]:
    """Reads the whole log of payments as a consumer would, through the service's own socket."""
    socket = mesh.run.sockets / "payments.sock"
    certificate = (("x-forwarded-client-cert", "By=x;URI=spiffe://smartpay/dev/rewards"),)
    async with grpc.aio.insecure_channel(
        f"unix:{socket}", options=[("grpc.default_authority", "payments")]
    ) as channel:
        stub = payments_pb2_grpc.PaymentsServiceStub(channel)
        events = []
        async for step in stub.Watch(payments_pb2.WatchRequest(), metadata=certificate):
            if step.HasField("event"):
                status = payment_pb2.Payment.Status.Name(step.event.payment.status)
                events.append((step.event.subject, step.event.sequence, status))
            if step.caught_up:
                break
        return events


async def evidence_of(
    mesh: Mesh, told: Told, session: httpx.AsyncClient, settle_seconds: float
) -> Evidence:
    """Waits until everything has settled, then gathers what the judge needs."""
    deadline = time.monotonic() + settle_seconds
    while True:
        listed = await pages(session, "/payments", "payments")
        rewards = await pages(session, "/rewards", "rewards")
        is_open = any(p["status"] in OPEN for p in listed)
        earned = {p["paymentId"] for p in listed if p["status"] == "STATUS_SUCCEEDED"}
        final = {r["paymentId"] for r in rewards if r["status"] == "STATUS_FINAL"}
        if (not is_open and earned <= final) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    shown = []
    for payment in listed:
        answer = await session.get(f"/payments/{payment['paymentId']}")
        shown.append(answer.raise_for_status().json())
    dumps = {name: await dump(mesh, name) for name in ("stripe", "solana")}
    return Evidence(
        stripe=dumps["stripe"],
        solana=dumps["solana"],
        reward_mint=mesh.endpoints["mint"],
        payments=shown,
        rewards=rewards,
        events=await events_of(mesh),
        answers=told.answers,
    )


async def dump(mesh: Mesh, name: str) -> dict[str, Any]:
    """Reads what the outside world holds: "stripe" or "solana"."""
    async with httpx.AsyncClient(base_url=mesh.endpoints["sandbox"], trust_env=False) as control:
        found: dict[str, Any] = (await control.get(f"/{name}/dump")).raise_for_status().json()
        return found


async def set_faults(mesh: Mesh, rules: Sequence[dict[str, Any]]) -> None:
    """Tells the sandbox what to do wrong; no rules, no faults."""
    async with httpx.AsyncClient(base_url=mesh.endpoints["sandbox"], trust_env=False) as control:
        (await control.put("/stripe/faults", json={"rules": list(rules)})).raise_for_status()


async def run(
    mesh: Mesh,
    *,
    payments: int,
    kills: int,
    seed: int,
    slow: float = 0.1,
    settle_seconds: float = SETTLE_SECONDS,
) -> dict[str, Any]:
    """Takes payments, kills the service meanwhile, waits for recovery, and judges.

    Args:
        mesh: a mesh that was started with `ENVIRONMENT` and has taken no payments yet.
        payments: how many orders; their callers come CONCURRENT_CALLERS at a time.
        kills: how often payments is killed by SIGKILL, spread over the orders.
        seed: of orders, faults and the moments of the kills.
        slow: share of charges that Stripe answers too late.
        settle_seconds: how long recovery and rewards may take after the load.
    """
    customers = Customers(mesh, seed)
    chance = random.Random(seed)
    started = time.monotonic()
    await set_faults(mesh, faults(seed, slow))
    numbers = iter(range(payments))
    done = 0
    killed = 0
    restarts_before = mesh.process("payments").restarts

    async with edge_session(mesh, call_seconds=CALL_SECONDS) as session:

        async def caller() -> None:
            nonlocal done
            for number in numbers:
                await customers.buy(session, number)
                done += 1

        async def killer() -> None:
            nonlocal killed
            moments = sorted(chance.uniform(0.05, 0.95) * payments for _ in range(kills))
            recent: deque[float] = deque(maxlen=RESTARTS_MAX)
            for moment in moments:
                while done < moment:
                    await asyncio.sleep(0.01)
                if len(recent) == RESTARTS_MAX:
                    # One more within the window, and the supervisor would give the service up.
                    oldest = recent[0] + RESTART_WINDOW_SECONDS + 1
                    await asyncio.sleep(max(0.0, oldest - time.monotonic()))
                if done >= payments:
                    return  # a kill without load proves nothing
                await asyncio.sleep(chance.uniform(0, 0.1))
                if mesh.process("payments").state != "ready":
                    await asyncio.to_thread(
                        mesh.wait_restarted, "payments", restarts_before + killed
                    )
                mesh.kill("payments")
                killed += 1
                recent.append(time.monotonic())
                await asyncio.to_thread(mesh.wait_restarted, "payments", restarts_before + killed)

        await asyncio.gather(killer(), *(caller() for _ in range(CONCURRENT_CALLERS)))
        await set_faults(mesh, [])
        load_seconds = time.monotonic() - started
        evidence = await evidence_of(mesh, customers.told, session, settle_seconds)
    violations = judge(evidence)
    return {
        "payments": len(evidence.payments),
        "kills": killed,
        "seed": seed,
        "statuses": dict(Counter(p["status"] for p in evidence.payments)),
        "calls": dict(customers.told.calls),
        "rewards": len(evidence.rewards or ()),
        "events": len(evidence.events),
        "load_seconds": round(load_seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "violations": len(violations),
        "kinds": dict(Counter(v.partition(":")[0] for v in violations)),
        "examples": violations[:10],
    }
