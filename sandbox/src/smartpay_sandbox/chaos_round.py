"""One round of chaos: a service killed again and again amid orders, then judged.

A round has a place of its own and ends with a verdict, so that what went wrong in it can be lived
again by its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from smartpay.payments.v1 import payment_pb2, payments_pb2
from smartpay_chassis.testing import as_merchant
from smartpay_sandbox.chaos_customers import Customer, GivenUpError, RefusedError, Told
from smartpay_sandbox.chaos_nursery import Nursery
from smartpay_sandbox.chaos_orders import ORDERS, Order
from smartpay_sandbox.chaos_street import (
    CALL_SECONDS,
    RAILS,
    REWARDS_CERTIFICATE,
    Life,
    Street,
)
from smartpay_sandbox.crash_points import POINTS
from smartpay_sandbox.judge import Evidence, judge
from smartpay_sandbox.solana_wallets import USDC_MINT

CALLERS = 12  # orders under way at once
RANDOM, STARTING = "random", "starting"
PASSES_MAX = 8  # a life ends at one of the first so many passes of its point
RANDOM_SECONDS = (0.02, 0.8)
REACH_SECONDS = 5.0  # a point that is not passed by then is left for a random moment
START_SECONDS = (0.0, 0.3)  # how long a process that dies while it starts has lived
FINISH_SECONDS = 180.0  # an order ends by itself, since the service is left alone then
SETTLE_SECONDS = 60.0
JUDGE_AGAIN_SECONDS = 1.0
DUST = {"USDC": 500_000, "SOL": 3_000_000}  # what the service keeps by its default
UNENDED = (
    payment_pb2.Payment.STATUS_REQUIRES_CONFIRMATION,
    payment_pb2.Payment.STATUS_REQUIRES_ACTION,
    payment_pb2.Payment.STATUS_PROCESSING,
    payment_pb2.Payment.STATUS_UNKNOWN,
)
Event = tuple[str, int, str]


@dataclass(frozen=True)
class Kill:
    """How one life ends: at a point on a rail, at a random moment, or before it serves."""

    point: str = RANDOM
    rail: str = ""


def kills_for(number: int, seed: int) -> list[Kill]:
    """Spreads kills evenly over all points and rails, random moments among them, shuffled."""
    kinds = [
        *(Kill(point, rail) for point in POINTS for rail in RAILS),
        *(Kill() for _ in RAILS),
        Kill(STARTING),
    ]
    chance = random.Random(seed)
    chance.shuffle(kinds)
    kills = list(itertools.islice(itertools.cycle(kinds), number))
    chance.shuffle(kills)
    return kills


def faults(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Spells what the processors do wrong during a round, the same for the same requests."""
    numbers = itertools.count(seed)

    def rules(shares: Mapping[str, float], **scope: str) -> list[dict[str, Any]]:
        late = {"when": "after", "delay_ms": int(CALL_SECONDS * 1500)}
        return [
            {
                "kind": kind,
                "probability": share,
                "seed": next(numbers),
                **scope,
                **(late if kind == "slow" else {}),
            }
            for kind, share in shares.items()
        ]

    lost = {"error_before": 0.05, "slow": 0.04, "drop_after_commit": 0.05, "rate_limit": 0.04}
    kept = {"error_after": 0.05}
    reads = {"error_before": 0.03, "rate_limit": 0.02}
    # A server error kept under the key of a new Amazon charge hides its id for ever, and Amazon
    # lists none: only a notification or a person can tell, so that one is not for this run.
    with_memory = ("/v2/checkoutSessions", "/v2/charges/", "/v2/refunds")
    chain = {"error_before": 0.05, "slow": 0.02, "drop_after_commit": 0.1, "error_after": 0.05}
    return {
        "stripe": [*rules(lost | kept, method="POST"), *rules(reads, method="GET")],
        "amazon_pay": [
            *rules(lost, method="POST"),
            *(
                rule
                for path in with_memory
                for rule in rules(kept, method="POST", path_prefix=path)
            ),
            *rules(reads, method="GET"),
        ],
        "solana": [*rules(chain, method="sendTransaction"), *rules({"node_behind": 0.03})],
    }


@dataclass(frozen=True)
class Plan:
    """What happens in a round.

    Attributes:
        seed: of orders, faults, kills and moments.
        kills: how each life ends; the last life is left alone.
        orders: what is bought.
        begins_with: the first order of all.
        gives_up: share of the callers who never come back after the first error.
        orders_min: so many at least, even when all kills are done.
        faults: by rail, what its simulator does wrong.
        sabotage: a promise that the service breaks; "" for the service as it is.
        settle_seconds: how long recovery may take after the load.
        keep: where the evidence goes if there is a violation; None keeps none.
        enough: ends the wait for a verdict early, given the violations so far.
    """

    seed: int
    kills: Sequence[Kill]
    orders: Sequence[Order] = ORDERS
    begins_with: Order | None = None
    gives_up: float = 1 / 3
    orders_min: int = 0
    faults: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    sabotage: str = ""
    settle_seconds: float = SETTLE_SECONDS
    keep: Path | None = None
    enough: Callable[[list[str]], bool] = lambda violations: not violations


@dataclass
class Verdict:
    """What a round came to."""

    seed: int
    kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    """Kills by "point rail"."""
    payments: int = 0
    rails: Counter[str] = field(default_factory=Counter)
    """Payments by the rail they ended on."""
    statuses: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    """Seconds from a kill to the end of the doubt, for each payment that was in flight."""
    faults: Counter[str] = field(default_factory=Counter)
    """How often Stripe and Amazon Pay did what wrong."""
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Round:
    """Lives one round; see `play`."""

    def __init__(self, plan: Plan, street: Street) -> None:
        self._plan = plan
        self._street = street
        self._chance = random.Random(f"{plan.seed} moments")
        self._told = Told()
        self._verdict = Verdict(plan.seed)
        self._watched: set[Event] = set()
        self._in_flight: dict[str, float] = {}
        self._is_over = False
        self._bought = 0

    async def play(self) -> Verdict:
        """Kills, sells, settles, judges."""
        started = time.monotonic()
        kills = [*self._plan.kills, None]
        await self._begin(kills[0])
        for rail, rules in self._plan.faults.items():
            await self._street.set_faults(rail, rules)
        follower = asyncio.create_task(self._follow())
        callers = [asyncio.create_task(self._call(number)) for number in range(CALLERS)]
        try:
            for kill, following in itertools.pairwise(kills):
                assert kill is not None
                await self._live(kill, following)
            async with asyncio.timeout(FINISH_SECONDS):
                while self._bought < self._plan.orders_min:
                    await asyncio.sleep(0.05)
            await self._end_faults()
            self._is_over = True
            async with asyncio.timeout(FINISH_SECONDS):
                await asyncio.gather(*callers)
            await self._settle()
        finally:
            self._is_over = True
            for task in (*callers, follower):
                task.cancel()
            await asyncio.gather(*callers, follower, return_exceptions=True)
        self._verdict.calls = self._told.calls
        self._verdict.seconds = time.monotonic() - started
        return self._verdict

    # ---- lives and deaths --------------------------------------------------------------------

    def _arm(self, kill: Kill | None) -> dict[str, Any]:
        """Answers how the process of a life is prepared; None: nobody is going to kill it."""
        prepare: dict[str, Any] = {"sabotage": self._plan.sabotage}
        if kill is not None and kill.point in POINTS:
            passes = self._chance.randint(1, PASSES_MAX)
            prepare |= {"point": kill.point, "rail": kill.rail, "passes": passes}
        return prepare

    async def _begin(self, kill: Kill | None) -> None:
        """Starts the next life."""
        prepare = self._arm(kill)
        while await self._street.begin(prepare) is None:
            # Recovery led it past its point before it served anybody.
            prepare["passes"] += PASSES_MAX

    async def _live(self, kill: Kill, following: Kill | None) -> None:
        """Waits for the end of the present life, and starts the next one."""
        life = self._street.life
        assert life is not None
        point = f"{kill.point} {kill.rail}".strip()
        if kill.point in POINTS:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(life.child.ended), REACH_SECONDS)
            if not life.child.ended.done():
                point = f"{RANDOM} (missed {point})"
        else:
            await asyncio.sleep(self._chance.uniform(*RANDOM_SECONDS))
        await self._street.end(life)
        died = time.monotonic()
        if kill.point == STARTING:
            await self._street.begin_in_vain(
                {"sabotage": self._plan.sabotage}, self._chance.uniform(*START_SECONDS)
            )
        self._verdict.kills += 1
        self._verdict.points[point] += 1
        for payment_id in in_doubt(self._street.database):
            self._in_flight.setdefault(payment_id, died)
        await self._begin(following)

    # ---- load --------------------------------------------------------------------------------

    async def _call(self, caller: int) -> None:
        chance = random.Random(f"{self._plan.seed} caller {caller}")
        rails = sorted({o.rail for o in self._plan.orders})
        for number in itertools.count():
            if self._is_over:
                return
            rail = rails[(caller + number) % len(rails)]
            orders = [o for o in self._plan.orders if o.rail == rail]
            (order,) = chance.choices(orders, [o.weight for o in orders])
            gives_up = self._plan.gives_up
            if caller == number == 0 and self._plan.begins_with is not None:
                order, gives_up = self._plan.begins_with, 0.0
            name = f"{self._plan.seed}-{caller}-{number}"
            try:
                await order.story(Customer(self._street, self._told, name, gives_up))
            except GivenUpError:
                self._told.calls["given up"] += 1
            except RefusedError as refused:
                self._told.calls[f"{order.name} refused: {refused}"] += 1
            self._bought += 1

    # ---- events ------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Consumes the log as rewards does: each event once, going on from the last cursor."""
        cursor = ""
        open_ = {"STATUS_PROCESSING", "STATUS_UNKNOWN"}
        while True:
            life = await self._street.alive()
            request = payments_pb2.WatchRequest(cursor=cursor)
            try:
                async for step in life.stub.Watch(request, metadata=REWARDS_CERTIFICATE):
                    if step.HasField("event"):
                        event = event_of(step)
                        self._watched.add(event)
                        if event[2] not in open_:
                            self._note_end(step.event.payment)
                    cursor = step.cursor
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)

    def _note_end(self, payment: payment_pb2.Payment) -> None:
        if any(r.status == payment_pb2.Refund.STATUS_UNKNOWN for r in payment.refunds):
            return
        died = self._in_flight.pop(payment.payment_id, None)
        if died is not None:
            self._verdict.recoveries.append(time.monotonic() - died)

    async def _end_faults(self) -> None:
        for rail in RAILS:
            dump = await self._street.dump(rail)
            for rule in dump.get("faults", ()):
                self._verdict.faults[rule["kind"]] += rule["fired"]
            await self._street.set_faults(rail, [])

    # ---- the end -----------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Waits until all is as it should be, or the time for that is over."""
        deadline = time.monotonic() + self._plan.settle_seconds
        while await self._some_are_open() and time.monotonic() < deadline:
            await asyncio.sleep(JUDGE_AGAIN_SECONDS)
        while True:
            evidence = await self._evidence()
            violations = [*judge(evidence), *self._street.errors()]
            if self._plan.enough(violations) or time.monotonic() > deadline:
                break
            await asyncio.sleep(JUDGE_AGAIN_SECONDS)
        self._verdict.violations = violations
        if violations and self._plan.keep is not None:
            keep_evidence(evidence, self._street, self._plan.keep)
        self._verdict.payments = len(evidence.payments)
        self._verdict.statuses = Counter(p["status"] for p in evidence.payments)
        self._verdict.rails = Counter(
            p["attempts"][-1]["processor"].removeprefix("PROCESSOR_").lower()
            for p in evidence.payments
            if p.get("attempts")
        )

    async def _some_are_open(self) -> bool:
        """Tells whether any payment has still to end, which costs less than to judge them all."""
        life = self._street.life
        assert life is not None
        page = await life.stub.ListPayments(
            payments_pb2.ListPaymentsRequest(page_size=1, status=UNENDED),
            metadata=as_merchant(self._street.merchant),
        )
        return bool(page.payments)

    async def _evidence(self) -> Evidence:
        life = self._street.life
        assert life is not None
        listed = [payment async for payment in _payments(life, self._street)]
        shown = await _shown(life, self._street, listed)
        events = await _events(life)
        # What was stored while we read on is in neither; the next look has it.
        return Evidence(
            payments=shown,
            events=events,
            answers=self._told.answers,
            stripe=await self._street.dump("stripe"),
            amazon_pay=await self._street.dump("amazon_pay"),
            solana=await self._street.dump("solana"),
            recipients=list(self._street.recipients.values()),
            mints={"": "SOL", USDC_MINT: "USDC"},
            dust=DUST,
            watched=list(self._watched),
        )


def keep_evidence(evidence: Evidence, street: Street, folder: Path) -> None:
    """Keeps what the judge saw, and the service's file and log."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("payments", "events", "answers", "stripe", "amazon_pay", "solana", "watched"):
        (folder / f"{name}.json").write_text(json.dumps(getattr(evidence, name), indent=1))
    for file in street.folder.glob("payments.*"):
        shutil.copy(file, folder)


def event_of(step: payments_pb2.WatchResponse) -> Event:
    """Reads what the judge needs of an event."""
    status = payment_pb2.Payment.Status.Name(step.event.payment.status)
    return step.event.subject, step.event.sequence, status


def in_doubt(database: Path) -> list[str]:
    """Reads, between two lives, which payments were in flight."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [
            row[0] for row in connection.execute("SELECT payment_id FROM payment WHERE in_doubt")
        ]


async def _payments(life: Life, street: Street) -> AsyncIterator[payment_pb2.Payment]:
    token = ""
    while True:
        page = await life.stub.ListPayments(
            payments_pb2.ListPaymentsRequest(page_size=200, page_token=token),
            metadata=as_merchant(street.merchant),
        )
        for payment in page.payments:
            yield payment
        token = page.next_page_token
        if not token:
            return


async def _shown(
    life: Life, street: Street, listed: Sequence[payment_pb2.Payment]
) -> list[dict[str, Any]]:
    """Reads each payment as it shows itself, with its ledger."""
    metadata = as_merchant(street.merchant)
    shown: list[dict[str, Any]] = []
    for batch in _batches(listed, 16):
        answers = await asyncio.gather(
            *(
                life.stub.GetPayment(
                    payments_pb2.GetPaymentRequest(payment_id=p.payment_id), metadata=metadata
                )
                for p in batch
            )
        )
        shown += [MessageToDict(answer.payment) for answer in answers]
    return shown


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


async def _events(life: Life) -> list[Event]:
    found: list[Event] = []
    stream = life.stub.Watch(payments_pb2.WatchRequest(), metadata=REWARDS_CERTIFICATE)
    async for step in stream:
        if step.HasField("event"):
            found.append(event_of(step))
        if step.caught_up:
            break
    stream.cancel()
    return found


async def play(plan: Plan, nursery: Nursery) -> Verdict:
    """Plays one round in a place of its own."""
    # A Unix socket's path may have some 100 characters.
    with tempfile.TemporaryDirectory(prefix="sp-") as folder:
        async with Street(Path(folder), nursery) as street:
            return await Round(plan, street).play()


def median_recovery(verdicts: Sequence[Verdict]) -> float:
    """Answers the median time from a kill to the end of the doubt; 0 when nothing was in doubt."""
    all_ = [seconds for verdict in verdicts for seconds in verdict.recoveries]
    return statistics.median(all_) if all_ else 0.0
