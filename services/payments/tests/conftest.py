"""What the tests of payments share: a story over a real store, and a processor that can lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from smartpay.payments.v1 import (
    disputes_pb2,
    disputes_pb2_grpc,
    payment_pb2,
    payments_pb2,
    payments_pb2_grpc,
    refunds_pb2,
    refunds_pb2_grpc,
)
from smartpay.rewards.v1 import rewards_pb2
from smartpay.type.v1 import money_pb2
from smartpay_chassis.ids import derive
from smartpay_chassis.sqlite import SqliteStore
from smartpay_chassis.testing import (
    DEMO_ACCOUNTS,
    DEMO_MERCHANT,
    FakeClock,
    as_merchant,
    as_service,
    error_info,
    serve_for_test,
)
from smartpay_payments.adapters.migrations import MIGRATIONS
from smartpay_payments.adapters.sqlite_payments import SqlitePayments
from smartpay_payments.domain.commands import Commands
from smartpay_payments.domain.eligibility import Account, MerchantTerms
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.patience import Patience
from smartpay_payments.domain.payment import (
    ActionKind,
    Attempt,
    CaptureMethod,
    Command,
    Dispute,
    DisputeStatus,
    FraudOpinion,
    Money,
    NextAction,
    Order,
    Payment,
    PendingCommand,
    Refund,
    RefundReason,
    RefundStatus,
    RouteAdvice,
    Status,
    Transfer,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Outcome,
    RefundOutcome,
    Standing,
)
from smartpay_payments.domain.saga import Saga
from smartpay_payments.domain.silence import Silence
from smartpay_payments.domain.versions import Versions
from smartpay_payments.recovery import Recovery
from smartpay_payments.server.disputes import DisputesServicer
from smartpay_payments.server.payments import PaymentsServicer
from smartpay_payments.server.refunds import RefundsServicer

FIRST, SECOND = DEMO_ACCOUNTS
WALLET = "pac_d1" + "w" * 24
TERMS = MerchantTerms(
    accounts=(
        *(Account(a, "stripe", frozenset({"USD"}), True) for a in DEMO_ACCOUNTS),
        Account(WALLET, "solana", frozenset({"USD"}), True),
    ),
    blocks_when_fraud_is_away=True,
    blocks_what_needs_review=False,
)


class Crash(BaseException):  # nothing in the service may catch it, as nothing catches a SIGKILL
    """The process dies here."""


class Fate:
    """Counts the points at which a process can die, and dies at one of them."""

    def __init__(self) -> None:
        self.points = 0
        self.dies_at: int | None = None

    def point(self) -> None:
        self.points += 1
        if self.points == self.dies_at:
            raise Crash


@dataclass
class Intent:
    """The processor's own truth about one key."""

    intent_id: str
    payment_id: str
    account: str
    amount: int
    status: str
    captured: int = 0


@dataclass
class PretendProcessor:
    """A processor with keys and a truth of its own, whose answers follow a script.

    Words of the script, one per call, "ok" when it is empty: ok, soft, hard, action (what the
    first call with a key comes to), lost_before (nothing happens, no answer), lost_after (it
    happens, no answer), turned_away (rate limit), pending (of refunds).
    """

    fate: Fate
    stored: Callable[[Payment], Any]
    script: list[str] = field(default_factory=list)
    intents: dict[str, Intent] = field(default_factory=dict)
    refunds: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Outcome] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    became: Standing | None = field(default_factory=Standing)
    evidence: list[dict[str, str]] = field(default_factory=list)

    async def _called(self, verb: str, payment: Payment, key: str) -> str:
        stored = await self.stored(payment)
        assert stored is not None, "a processor was called before anything was durable"
        # Looking does nothing, so an operator may name a charge that is not stored.
        assert verb == "look" or key in repr(stored), (
            f"{verb} was sent under a key that is not durable"
        )
        self.calls.append((verb, key))
        self.fate.point()
        if self.gate is not None:
            await self.gate.wait()
        word = self.script.pop(0) if self.script else "ok"
        self.fate.point()
        return word

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        return (
            f"{processor_account_id} {attempt_index} {payment.order.tokens[processor_account_id]}"
        )

    async def charge(self, payment: Payment, attempt: Attempt) -> Outcome:
        word = await self._called("charge", payment, attempt.processor_key)
        if word == "turned_away":
            return NotTaken("rate_limit")
        if word == "lost_before":
            return NotKnown("no_answer")
        intent = self.intents.get(attempt.processor_key)
        if intent is None:
            manual = payment.order.capture_method is CaptureMethod.MANUAL
            good = "requires_capture" if manual else "succeeded"
            amount = payment.order.amount.minor_units
            intent = Intent(
                intent_id=f"pi_{len(self.intents)}",
                payment_id=payment.payment_id,
                account=attempt.processor_account_id,
                amount=amount,
                status=word if word in ("soft", "hard", "action") else good,
            )
            intent.captured = amount if intent.status == "succeeded" else 0
            self.intents[attempt.processor_key] = intent
        return NotKnown("no_answer") if word == "lost_after" else self._outcome(intent)

    def _outcome(self, intent: Intent) -> Outcome:
        match intent.status:
            case "succeeded" | "requires_capture":
                return Charged(intent.intent_id, intent.amount, intent.captured)
            case "action":
                return ActionRequired(
                    intent.intent_id, NextAction(ActionKind.REDIRECT, "https://bank.test/3ds")
                )
            case "canceled":
                return Canceled(intent.intent_id)
            case _:
                soft = intent.status == "soft"
                code = "do_not_honor" if soft else "stolen_card"
                return Declined(code, soft, intent.intent_id)

    def _intent(self, attempt: Attempt) -> Intent:
        if not attempt.processor_payment_id:
            return self.intents[attempt.processor_key]
        return next(i for i in self.intents.values() if i.intent_id == attempt.processor_payment_id)

    async def standing(self, payment: Payment, attempt: Attempt) -> Standing | None:
        return self.became

    async def submit_evidence(
        self, payment: Payment, attempt: Attempt, dispute: Dispute, evidence: dict[str, str]
    ) -> Dispute | None:
        self.evidence.append(evidence)
        return self._told(dispute, DisputeStatus.UNDER_REVIEW)

    async def accept(self, payment: Payment, attempt: Attempt, dispute: Dispute) -> Dispute | None:
        return self._told(dispute, DisputeStatus.LOST)

    def _told(self, dispute: Dispute, status: DisputeStatus) -> Dispute | None:
        word = self.script.pop(0) if self.script else "ok"
        return None if word == "lost_before" else replace(dispute, status=status)

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        word = await self._called("look", payment, attempt.processor_payment_id)
        if word in ("lost_before", "lost_after", "turned_away"):
            return NotKnown("no_answer", attempt.processor_payment_id)
        return self._outcome(self._intent(attempt))

    async def _command(
        self, verb: str, payment: Payment, attempt: Attempt, key: str, captured: int
    ) -> Outcome:
        word = await self._called(verb, payment, attempt.processor_payment_id)
        if word == "turned_away":
            return NotTaken("rate_limit")
        if word == "lost_before":
            return NotKnown("no_answer")
        intent = self._intent(attempt)
        if key not in self.answers:
            allowed = ("requires_capture",) if captured else ("requires_capture", "action")
            if intent.status in allowed:
                intent.status = "succeeded" if captured else "canceled"
                intent.captured = captured
                self.answers[key] = self._outcome(intent)
            else:
                self.answers[key] = Declined("refused_unexpected_state", True)
        return NotKnown("no_answer") if word == "lost_after" else self.answers[key]

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        return await self._command(
            "capture", payment, attempt, pending.processor_key, pending.amount_minor
        )

    async def cancel(self, payment: Payment, attempt: Attempt, key: str) -> Outcome:
        return await self._command("cancel", payment, attempt, key, 0)

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        word = await self._called("refund", payment, refund.refund_id)
        if word in ("lost_before", "turned_away"):
            return RefundOutcome(RefundStatus.UNKNOWN)
        if word == "hard":
            return RefundOutcome(RefundStatus.FAILED, failure_code="charge_disputed")
        if word == "pending":
            return RefundOutcome(RefundStatus.PENDING, f"re_{refund.refund_id}")
        self.refunds[refund.refund_id] = refund.amount.minor_units
        if word == "lost_after":
            return RefundOutcome(RefundStatus.UNKNOWN)
        return RefundOutcome(RefundStatus.SUCCEEDED, f"re_{refund.refund_id}")


class PretendWallet:
    """A rail where the payer sends: what came in stands in `sent`, by the attempt's reference."""

    late_seconds = 7 * 86400.0

    def __init__(self) -> None:
        self.sent: dict[str, list[Transfer]] = {}
        self.returned: dict[str, tuple[str, int]] = {}
        self.is_down = False

    def pays(self, payment: Payment, minor: int, payer: str = "ann", index: int = -1) -> None:
        """Lets a payer send money to one of the attempts."""
        reference = payment.attempts[index].processor_key
        transfers = self.sent.setdefault(reference, [])
        transfers.append(Transfer(f"{reference}/{len(transfers)}", minor, payer))

    def dust_minor(self, currency_code: str) -> int:
        return 5

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        return f"wallet:{payment.payment_id}-{attempt_index}"

    async def charge(self, payment: Payment, attempt: Attempt) -> Outcome:
        return await self.look(payment, attempt)

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        if self.is_down:
            return NotKnown("no_answer", attempt.processor_payment_id)
        transfers = tuple(self.sent.get(attempt.processor_key, ()))
        asked = payment.order.amount.minor_units
        came = sum(t.minor_units for t in transfers)
        if came >= asked:
            return Charged(attempt.processor_key, asked, asked, transfers=transfers)
        url = f"{attempt.request_body}?amount={asked - came}"
        return ActionRequired(
            attempt.processor_key, NextAction(ActionKind.SOLANA_PAY, url), transfers
        )

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        raise AssertionError("nothing is authorized on this rail")

    async def cancel(self, payment: Payment, attempt: Attempt, key: str) -> Outcome:
        outcome = await self.look(payment, attempt)
        if isinstance(outcome, ActionRequired):
            return Canceled(attempt.processor_key, outcome.transfers)
        return outcome

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        if self.is_down:
            return RefundOutcome(RefundStatus.UNKNOWN)
        transfer = next(t for t in attempt.transfers if refund.transfer_id in ("", t.transfer_id))
        self.returned[refund.refund_id] = (transfer.payer, refund.amount.minor_units)
        return RefundOutcome(RefundStatus.SUCCEEDED, f"sig_{refund.refund_id}")

    async def standing(self, payment: Payment, attempt: Attempt) -> Standing | None:
        return Standing()

    async def transfers(self, payment: Payment, attempt: Attempt) -> list[Transfer] | None:
        return None if self.is_down else list(self.sent.get(attempt.processor_key, ()))


class FatefulPayments(SqlitePayments):
    """The real store; the process may die before and after each write."""

    def __init__(self, store: SqliteStore, fate: Fate) -> None:
        super().__init__(store)
        self._fate = fate

    async def create(self, *args: Any) -> Payment | None:
        self._fate.point()
        stored = await super().create(*args)
        self._fate.point()
        return stored

    async def save(self, *args: Any) -> bool:
        self._fate.point()
        saved = await super().save(*args)
        self._fate.point()
        return saved


@dataclass
class Advisor:
    """Fraud and router in one: what they answer, and whether they were asked."""

    opinion: FraudOpinion | None = field(
        default_factory=lambda: FraudOpinion("ALLOW", 0.1, "", b"")
    )
    ranking: tuple[str, ...] | None = DEMO_ACCOUNTS
    refusal: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def assess(self, payment: Payment) -> FraudOpinion | None:
        self.asked.append("fraud")
        return self.opinion

    async def rank(self, payment: Payment) -> RouteAdvice | None:
        self.asked.append("router")
        if self.refusal is not None:
            raise self.refusal
        return None if self.ranking is None else RouteAdvice("dec", self.ranking, b"")


class TickingClock(FakeClock):
    """Moves a microsecond each time it is read, so that no two versions have one time."""

    def __call__(self) -> datetime:
        self.advance(microseconds=1)
        return self.now


class Story:
    """A saga, its recovery and its processor over one store that can be reopened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = TickingClock()
        self.fate = Fate()
        self.advisor = Advisor()
        self.terms = TERMS
        # Recovery's leaps through time must not end the cascade.
        self.patience = Patience(cascade_seconds=86400.0)
        self.processor = PretendProcessor(self.fate, self.read)
        self.wallet = PretendWallet()
        self.more_rails: dict[str, Any] = {}
        self.payments: FatefulPayments

    async def open(self) -> None:
        self.store = await SqliteStore.open(self.path, MIGRATIONS)
        self.payments = FatefulPayments(self.store, self.fate)
        versions = Versions(
            self.payments,
            {"stripe": self.processor, "solana": self.wallet, **self.more_rails},
            self.clock,
            self.patience,
            derive,
        )
        silence = Silence(self.clock)
        self.commands = Commands(versions, silence)
        self.saga = Saga(versions, self.commands, self.advisor, self.advisor, silence)
        self.recovery = Recovery(
            self.payments,
            self.saga,
            lambda _: self.terms,
            silence,
            self.clock,
            0.5,
            16,
            30.0,
            self.clock.sleep,
        )

    async def restart(self) -> None:
        """Starts a new process over what the old one left."""
        await self.store.close()
        await self.open()
        await self.recovery.take_over()

    async def read(self, payment: Payment) -> Payment | None:
        return await self.payments.get(payment.merchant_id, payment.livemode, payment.payment_id)

    def draft(self, key: str = "key", **changes: Any) -> Payment:
        order = Order(
            amount=Money(1999, "USD"),
            tokens={FIRST: "pm_first", SECOND: "pm_second"},
            fingerprint="",
            capture_method=CaptureMethod.AUTOMATIC,
        )
        return Payment(
            payment_id=derive("pay", "d1", key),
            merchant_id=DEMO_MERCHANT.merchant_id,
            livemode=False,
            order=replace(order, **changes),
            request_hash="hash",
            status=Status.PROCESSING,
            create_time=self.clock(),
            update_time=self.clock(),
        )

    def refund(self, minor: int = 500, name: str = "r") -> Refund:
        return Refund(
            refund_id=derive("ref", "d1", name),
            amount=Money(minor, "USD"),
            reason=RefundReason.REQUESTED_BY_CUSTOMER,
            status=RefundStatus.PENDING,
            create_time=self.clock(),
            update_time=self.clock(),
        )

    async def create(self, key: str = "key", **changes: Any) -> Payment:
        return await self.saga.create(self.draft(key, **changes), self.terms)

    async def capture(self, payment: Payment, minor: int = 1999, key: str = "c") -> Payment:
        claim = Claim(key, payment.payment_id, "hash")
        return await self.commands.start(payment, Command.CAPTURE, minor, claim)

    async def cancel(self, payment: Payment, key: str = "x") -> Payment:
        claim = Claim(key, payment.payment_id, "hash")
        return await self.commands.start(payment, Command.CANCEL, 0, claim)

    async def give_back(self, payment: Payment, minor: int = 500, key: str = "r") -> Payment | None:
        claim = Claim(key, payment.payment_id, "hash")
        return await self.commands.refund(payment, self.refund(minor, key), claim)

    def payer(self, payment: Payment, status: str) -> None:
        """Lets the payer's challenge end."""
        intent = self.processor.intents[payment.last_attempt.processor_key]
        intent.status = status
        intent.captured = intent.amount if status == "succeeded" else 0

    def charge_late(self, payment: Payment, index: int = -1, status: str = "succeeded") -> None:
        """Lets the processor take money for an attempt that it had refused or given up."""
        intent = self.processor.intents[payment.attempts[index].processor_key]
        intent.status = status
        intent.captured = intent.amount if status == "succeeded" else 0

    def charged_accounts(self, payment: Payment) -> list[str]:
        """The accounts where the processor's own truth holds a charge or could still make one."""
        return [
            i.account
            for i in self.processor.intents.values()
            if i.payment_id == payment.payment_id
            and i.status in ("succeeded", "requires_capture", "action")
        ]

    async def recover(self, looks: int = 12) -> None:
        """Lets two hours pass, looking whenever recovery would."""
        for _ in range(looks):
            self.clock.advance(minutes=10)
            while await self.recovery.step():
                pass

    async def history(self, payment: Payment) -> list[Payment]:
        """Answers all versions, from the log of events."""
        events = await self.payments.events_after(0, 10_000)
        return [e.payment for e in events if e.payment.payment_id == payment.payment_id]

    async def balance(self, payment: Payment) -> dict[str, int]:
        """Sums the ledger per account."""
        found: dict[str, int] = {}
        for entry in await self.payments.ledger(payment.payment_id):
            found[entry.account] = found.get(entry.account, 0) + entry.minor_units
        return found


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Story]:
    story = Story(path)
    await story.open()
    try:
        yield story
    finally:
        await story.store.close()


@pytest.fixture(scope="session")
def new_story() -> Callable[[Path], Any]:
    """Opens a story over a file; for tests that need many."""
    return opened


@pytest.fixture(scope="session")
def crash() -> type[BaseException]:
    """What a dying process raises."""
    return Crash


@pytest.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    async with opened(tmp_path / "payments.db") as running:
        yield running


class Rewards:
    """Rewards as payments asks it."""

    reward_of: rewards_pb2.Reward | None = rewards_pb2.Reward()
    asked = 0

    async def reward(self, payment: Payment) -> rewards_pb2.Reward | None:
        self.asked += 1
        return self.reward_of


@dataclass
class House:
    """The service as a caller finds it, and the story behind it."""

    story: Any
    servicer: PaymentsServicer
    stub: payments_pb2_grpc.PaymentsServiceAsyncStub
    rewards: Rewards
    refunds: refunds_pb2_grpc.RefundsServiceAsyncStub
    disputes: disputes_pb2_grpc.DisputesServiceAsyncStub

    def pay(self, key: str = "key", merchant: Any = DEMO_MERCHANT, **changes: Any) -> Any:
        tokens = [
            {"processor_account_id": FIRST, "token": "pm_first"},
            {"processor_account_id": SECOND, "token": "pm_second"},
        ]
        timeout = changes.pop("timeout", 20)
        request = payments_pb2.CreatePaymentRequest(
            **{
                "amount": {"minor_units": 1999, "currency_code": "USD"},
                "instrument": {"tokens": tokens},
                "capture_method": payment_pb2.CAPTURE_METHOD_AUTOMATIC,
                **changes,
            }
        )
        return self.stub.CreatePayment(
            request, metadata=as_merchant(merchant, idempotency_key=key), timeout=timeout
        )

    def refund(self, payment_id: str, minor: int = 500, key: str = "r", **more: Any) -> Any:
        return self.stub.RefundPayment(
            payments_pb2.RefundPaymentRequest(
                payment_id=payment_id,
                amount=money_pb2.Money(minor_units=minor, currency_code="USD"),
            ),
            metadata=as_merchant(more.get("merchant", DEMO_MERCHANT), idempotency_key=key),
            timeout=more.get("timeout", 20),
        )

    def capture(self, payment_id: str, minor: int = 1999, key: str = "c", **more: Any) -> Any:
        return self.stub.CapturePayment(
            payments_pb2.CapturePaymentRequest(
                payment_id=payment_id,
                amount=money_pb2.Money(
                    minor_units=minor, currency_code=more.get("currency", "USD")
                ),
            ),
            metadata=as_merchant(more.get("merchant", DEMO_MERCHANT), idempotency_key=key),
            timeout=more.get("timeout", 20),
        )

    def cancel(self, payment_id: str, key: str = "x", merchant: Any = DEMO_MERCHANT) -> Any:
        return self.stub.CancelPayment(
            payments_pb2.CancelPaymentRequest(payment_id=payment_id),
            metadata=as_merchant(merchant, idempotency_key=key),
        )

    def confirm(self, payment_id: str, merchant: Any = DEMO_MERCHANT) -> Any:
        return self.stub.ConfirmPayment(
            payments_pb2.ConfirmPaymentRequest(payment_id=payment_id),
            metadata=as_merchant(merchant),
        )

    def update(self, payment_id: str, merchant: Any = DEMO_MERCHANT, **changes: Any) -> Any:
        request = payments_pb2.UpdatePaymentRequest(
            payment_id=payment_id, **{"etag": '"1"', **changes}
        )
        return self.stub.UpdatePayment(request, metadata=as_merchant(merchant))

    async def get(self, payment_id: str, merchant: Any = DEMO_MERCHANT) -> payment_pb2.Payment:
        response = await self.stub.GetPayment(
            payments_pb2.GetPaymentRequest(payment_id=payment_id), metadata=as_merchant(merchant)
        )
        return response.payment

    async def stored(self, payment_id: str) -> Payment:
        payment: Payment | None = await self.story.payments.get(
            DEMO_MERCHANT.merchant_id, False, payment_id
        )
        assert payment is not None
        return payment

    async def listed(self, merchant: Any = DEMO_MERCHANT, **request: Any) -> Any:
        return await self.stub.ListPayments(
            payments_pb2.ListPaymentsRequest(**request), metadata=as_merchant(merchant)
        )

    async def refused(self, call: Any) -> dict[str, Any]:
        """Answers how a call was refused."""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        return error_info(refused.value)

    def watch(self, cursor: str = "") -> Any:
        request = payments_pb2.WatchRequest(cursor=cursor)
        return self.stub.Watch(request, metadata=as_service("rewards", None), timeout=20)

    async def log(self, cursor: str = "") -> list[payments_pb2.WatchResponse]:
        """Reads the log from a cursor until caught up."""
        stream, found = self.watch(cursor), []
        async for step in stream:
            if step.caught_up:
                found.append(step)
                break
            found.append(step)
        stream.cancel()
        return found


@pytest.fixture
async def house(story: Story) -> AsyncIterator[House]:
    rewards = Rewards()
    servicer = PaymentsServicer(
        story.saga, story.commands, story.payments, rewards, story.clock, watchers_max=2
    )
    async with serve_for_test(
        [
            (
                payments_pb2_grpc.add_PaymentsServiceServicer_to_server,
                servicer,
                payments_pb2.DESCRIPTOR.services_by_name["PaymentsService"],
            ),
            (
                refunds_pb2_grpc.add_RefundsServiceServicer_to_server,
                RefundsServicer(story.payments, story.commands, story.clock),
                refunds_pb2.DESCRIPTOR.services_by_name["RefundsService"],
            ),
            (
                disputes_pb2_grpc.add_DisputesServiceServicer_to_server,
                DisputesServicer(story.payments, story.commands, story.clock),
                disputes_pb2.DESCRIPTOR.services_by_name["DisputesService"],
            ),
        ]
    ) as channel:
        yield House(
            story,
            servicer,
            payments_pb2_grpc.PaymentsServiceStub(channel),
            rewards,
            refunds_pb2_grpc.RefundsServiceStub(channel),
            disputes_pb2_grpc.DisputesServiceStub(channel),
        )
        await servicer.drain()
