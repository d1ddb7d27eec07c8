"""The router's callers in the crash proof: merchants, and payments with its stream of events.

They do what real callers do when a service dies under them: they repeat the call until somebody
answers, and they remember what was answered. That memory is what the router is judged by.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc

from smartpay.payments.v1 import payments_pb2, payments_pb2_grpc
from smartpay.payments.v1.payment_pb2 import Attempt, Payment, PaymentEvent
from smartpay.router.v1 import router_pb2
from smartpay.type.v1.instrument_pb2 import Instrument, ProcessorToken
from smartpay.type.v1.money_pb2 import Money
from smartpay_chassis.testing import DEMO_ACCOUNTS, DEMO_MERCHANT, as_merchant, as_service

if TYPE_CHECKING:
    from smartpay.router.v1.router_pb2_grpc import RouterServiceAsyncStub

AnswerT = TypeVar("AnswerT")
Metadata = tuple[tuple[str, str | bytes], ...]

CALL_SECONDS_MAX = 5.0
PAUSE_SECONDS = 0.02  # between repeats; a start takes a second or two

# Nobody got as far as an answer; whether the call was done, nobody knows.
_AWAY = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}

Tries = tuple[tuple[float, router_pb2.Outcome.ValueType, Attempt.Status.ValueType], ...]

TRIES: Tries = (
    (0.85, router_pb2.OUTCOME_SUCCEEDED, Attempt.STATUS_SUCCEEDED),
    (0.10, router_pb2.OUTCOME_DECLINED, Attempt.STATUS_DECLINED),
    (0.03, router_pb2.OUTCOME_TECHNICAL_FAILURE, Attempt.STATUS_FAILED),
    (0.02, router_pb2.OUTCOME_ABANDONED, Attempt.STATUS_CANCELED),
)


HEALTHY: Tries = TRIES[:1]
"""Nothing but success: no breaker ever holds an outcome back, whoever hears of it when."""


@dataclass
class Ledger:
    """What the router has said to whom.

    Attributes:
        outcomes: told and acknowledged, by decision and try: the account and what happened.
        decisions: acknowledged decisions that rank somebody.
        bound: the acknowledged decision of each payment.
        events: payments' own log.
        wrong: answers that contradict an earlier one.
    """

    outcomes: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    decisions: set[str] = field(default_factory=set)
    bound: dict[str, str] = field(default_factory=dict)
    events: list[PaymentEvent] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Customers:
    """Callers who never stop until they are told to.

    Args:
        stubs: the routers; each call, and each repeat, goes to any of them.
        ledger: where they write down what was answered.
        seed: of all they do.
        news: told when payments' log has grown.
        tries: how tries end, with their shares.
    """

    def __init__(
        self,
        stubs: Sequence[RouterServiceAsyncStub],
        ledger: Ledger,
        seed: int,
        news: asyncio.Condition,
        tries: Tries = TRIES,
    ) -> None:
        self._stubs = stubs
        self._ledger = ledger
        self._dice = random.Random(seed)
        self._news = news
        self._tries = tries
        self._number = 0
        self._stopping = False

    def stop(self) -> None:
        """Lets everybody finish what they are at."""
        self._stopping = True

    async def shop(self) -> None:
        """Asks for one ranking after the other, and tells what became of each."""
        while not self._stopping:
            if self._dice.random() < 0.6:
                await self._pay_elsewhere()
            else:
                await self._pay_here()

    async def _pay_elsewhere(self) -> None:
        """Follows a decision outside /pay, and tells each try by the API; some of it twice."""
        charge = self._charge()
        decision = await self._decide(charge, as_merchant())
        self._ledger.decisions.add(decision.decision_id)
        if self._dice.random() < 0.1:
            return  # nobody ever tells what became of it
        for index, ranked in enumerate(decision.ranking):
            outcome, _ = self._try()
            told = router_pb2.RecordOutcomeRequest(
                decision_id=decision.decision_id,
                attempt_index=index,
                processor_account_id=ranked.processor_account_id,
                outcome=outcome,
            )
            for _ in range(1 + (self._dice.random() < 0.1)):
                await self._tell(told)
                self._ledger.outcomes[decision.decision_id, index] = (
                    ranked.processor_account_id,
                    router_pb2.Outcome.Name(outcome).removeprefix("OUTCOME_"),
                )
            if outcome != router_pb2.OUTCOME_DECLINED:
                return

    async def _pay_here(self) -> None:
        """Pays by /pay, at once or with an earlier decision; the payment's event tells the rest."""
        charge = self._charge()
        self._number += 1
        payment_id = f"pay_d1{self._number:024d}"
        if self._dice.random() < 0.4:
            earlier = await self._decide(charge, as_merchant())
            self._ledger.decisions.add(earlier.decision_id)
            charge.decision_id = earlier.decision_id
        charge.payment_id = payment_id
        for _ in range(1 + (self._dice.random() < 0.2)):
            decision = await self._decide(charge, as_service("payments"))
            known = self._ledger.bound.setdefault(payment_id, decision.decision_id)
            if known != decision.decision_id:
                self._ledger.wrong.append(f"{payment_id} was given two decisions")
        self._ledger.decisions.add(decision.decision_id)
        attempts = []
        for index, ranked in enumerate(decision.ranking):
            _, status = self._try()
            attempts.append(
                Attempt(
                    attempt_index=index,
                    processor_account_id=ranked.processor_account_id,
                    processor=ranked.processor,
                    status=status,
                )
            )
            if status != Attempt.STATUS_DECLINED:
                break
        event = PaymentEvent(
            merchant_id=DEMO_MERCHANT.merchant_id,
            sequence=1,
            payment=Payment(payment_id=payment_id, route=decision, attempts=attempts),
        )
        event.time.GetCurrentTime()
        async with self._news:
            self._ledger.events.append(event)
            self._news.notify_all()

    def _charge(self) -> router_pb2.DecideRequest:
        return router_pb2.DecideRequest(
            amount=Money(minor_units=self._dice.randrange(100, 90_000), currency_code="USD"),
            instrument=Instrument(
                tokens=[
                    ProcessorToken(processor_account_id=account, token="pm_card")
                    for account in DEMO_ACCOUNTS
                ]
            ),
            risk=self._dice.random() / 10,
        )

    def _try(self) -> tuple[router_pb2.Outcome.ValueType, Attempt.Status.ValueType]:
        ((_, outcome, status),) = self._dice.choices(self._tries, [t[0] for t in self._tries])
        return outcome, status

    async def _decide(self, charge: router_pb2.DecideRequest, who: Metadata) -> router_pb2.Decision:
        answer = await self._insist(lambda stub: stub.Decide(charge, metadata=who))
        return answer.decision

    async def _tell(self, told: router_pb2.RecordOutcomeRequest) -> None:
        await self._insist(lambda stub: stub.RecordOutcome(told, metadata=as_merchant()))

    async def _insist(
        self, call: Callable[[RouterServiceAsyncStub], Awaitable[AnswerT]]
    ) -> AnswerT:
        """Repeats a call until a router is there to answer it."""
        while True:
            try:
                return await asyncio.wait_for(
                    call(self._dice.choice(self._stubs)), CALL_SECONDS_MAX
                )
            except TimeoutError:
                pass
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AWAY:
                    self._ledger.wrong.append(f"{error.code().name}: {error.details()}")
                    raise
            await asyncio.sleep(PAUSE_SECONDS)


@contextlib.asynccontextmanager
async def payments(socket: Path, ledger: Ledger, news: asyncio.Condition) -> AsyncIterator[None]:
    """Serves payments' Watch where the sidecar's egress would be."""

    class Payments(payments_pb2_grpc.PaymentsServiceServicer):
        async def Watch(  # noqa: N802 - gRPC names the methods
            self, request: payments_pb2.WatchRequest, context: object
        ) -> AsyncIterator[payments_pb2.WatchResponse]:
            position = int(request.cursor or 0)
            while True:
                async with news:
                    while len(ledger.events) <= position:
                        await news.wait()
                for event in ledger.events[position:]:
                    position += 1
                    yield payments_pb2.WatchResponse(event=event, cursor=str(position))

    server = grpc.aio.server()
    payments_pb2_grpc.add_PaymentsServiceServicer_to_server(Payments(), server)  # type: ignore[abstract]
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)
