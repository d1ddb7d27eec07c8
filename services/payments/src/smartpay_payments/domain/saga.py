"""The story of a payment: score, route, store the intent, charge, store the outcome.

Two durable commits per payment. The first, before the processor is called, holds the payment,
the idempotency claim and the attempt with its key and exact body; the second holds the outcome,
the ledger and the event. `advance` goes on from whatever is stored, so the first run and recovery
are the same code, and a timeout is never read as a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry, postings
from smartpay_payments.domain.payment import (
    UNSETTLED,
    Attempt,
    AttemptStatus,
    Command,
    FraudOpinion,
    Order,
    Payment,
    PendingCommand,
    Refund,
    RefundStatus,
    RewardMark,
    RouteAdvice,
    Status,
)


@dataclass(frozen=True, slots=True)
class Account:
    """One of the merchant's processor accounts, as far as the story needs it."""

    processor_account_id: str
    processor: str
    currencies: frozenset[str]
    enabled: bool


@dataclass(frozen=True, slots=True)
class MerchantTerms:
    """The merchant's own rules."""

    merchant_id: str
    livemode: bool
    cell: str
    accounts: tuple[Account, ...]
    blocks_when_fraud_is_away: bool
    blocks_what_needs_review: bool


# ---- what a processor may answer -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Charged:
    """Authorized, and captured as far as captured_minor says."""

    processor_payment_id: str
    authorized_minor: int
    captured_minor: int
    fee_minor: int = 0


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The payer must act at this address first."""

    processor_payment_id: str
    url: str


@dataclass(frozen=True, slots=True)
class Declined:
    """An explicit no; nothing was charged and nothing will be."""

    code: str
    soft: bool
    processor_payment_id: str = ""


@dataclass(frozen=True, slots=True)
class Canceled:
    """Given up at the processor; it can never succeed."""

    processor_payment_id: str


@dataclass(frozen=True, slots=True)
class NotKnown:
    """No usable answer: the charge may exist, may come to exist, or not."""

    why: str
    processor_payment_id: str = ""
    """The processor's id, when it named one; then looking is enough."""


Outcome = Charged | ActionRequired | Declined | Canceled | NotKnown


@dataclass(frozen=True, slots=True)
class RefundOutcome:
    """What became of a refund at the processor."""

    status: RefundStatus
    processor_refund_id: str = ""
    failure_code: str = ""


# ---- ports -----------------------------------------------------------------------------------


class Processor(Protocol):
    """One processor. Every call may be repeated with the same key and is then the same call."""

    def prepare(self, payment: Payment, processor_account_id: str, attempt_index: int) -> str:
        """Writes the exact charge request, to be stored before it is sent."""
        ...

    async def charge(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Sends the stored request under the stored key, for the first time or again."""
        ...

    async def look(self, payment: Payment, attempt: Attempt) -> Outcome:
        """Reads how a charge with a known processor id stands now."""
        ...

    async def capture(self, payment: Payment, attempt: Attempt, pending: PendingCommand) -> Outcome:
        """Takes authorized money."""
        ...

    async def cancel(self, payment: Payment, attempt: Attempt, key: str) -> Outcome:
        """Gives up a charge; Canceled is the fence after which it can never succeed."""
        ...

    async def refund(self, payment: Payment, attempt: Attempt, refund: Refund) -> RefundOutcome:
        """Gives money back."""
        ...


class FraudAdvisor(Protocol):
    """Asks fraud."""

    async def assess(self, payment: Payment) -> FraudOpinion | None:
        """Answers what fraud says, or None when it can't be asked in time.

        Raises:
            Refusal: fraud refused the input itself.
        """
        ...


class RouteAdvisor(Protocol):
    """Asks the router."""

    async def rank(self, payment: Payment) -> RouteAdvice | None:
        """Answers the router's ranking, or None when it can't be asked in time.

        Raises:
            Refusal: the router refused the input, for instance a decision that was used.
        """
        ...


class Repository(Protocol):
    """Stores payments. Each method is one atomic unit of at most 25 conditional writes."""

    async def create(
        self, payment: Payment, claim: Claim, entries: Sequence[LedgerEntry]
    ) -> Payment | None:
        """Stores a new payment with its claim, order id and event.

        Answers None, or the payment already stored under this id; raises Refusal
        ORDER_ALREADY_PAID when another payment holds the order id.
        """
        ...

    async def save(
        self, payment: Payment, entries: Sequence[LedgerEntry], claim: Claim | None = None
    ) -> bool:
        """Stores the next version of a payment with its event and ledger entries.

        Answers False, storing nothing, when the stored version is not payment.version - 1.
        """
        ...

    async def get(self, merchant_id: str, livemode: bool, payment_id: str) -> Payment | None:
        """Reads one payment of one merchant."""
        ...

    async def claim(self, operation_id: str) -> Claim | None:
        """Reads the claim an idempotency key made."""
        ...

    async def version(self, payment_id: str, version: int) -> Payment | None:
        """Reads an earlier version while its event is kept."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long recovery waits, and when it gives up asking."""

    first_look_seconds: float = 30.0
    """After the first commit: longer than any processor call, so nobody asks while one runs."""
    schedule_seconds: tuple[float, ...] = (1, 5, 30, 120, 600, 3600)
    """Pauses between looks at an unknown outcome; after the last a person decides."""
    action_seconds: float = 3600.0
    """How long a payer may take for 3-D Secure."""
    action_poll_seconds: float = 60.0
    """How often a payment that waits for the payer is looked at."""


class Saga:
    """Moves payments on. Holds no state of its own beside its ports.

    Args:
        repository: the store.
        processors: by name, for instance "stripe".
        fraud: asks fraud.
        router: asks the router.
        clock: the time, aware.
        patience: recovery's schedule.
    """

    def __init__(
        self,
        repository: Repository,
        processors: dict[str, Processor],
        fraud: FraudAdvisor,
        router: RouteAdvisor,
        clock: Callable[[], datetime],
        patience: Patience,
    ) -> None:
        self._repository = repository
        self._processors = processors
        self._fraud = fraud
        self._router = router
        self._clock = clock
        self._patience = patience

    # ---- create ------------------------------------------------------------------------------

    async def create(self, draft: Payment, terms: MerchantTerms) -> Payment:
        """Takes a new payment as far as it goes now.

        Args:
            draft: the payment as asked for, in status PROCESSING, stored nowhere yet.
            terms: the merchant's rules.

        Raises:
            Refusal: the input can't be charged, or the id or order id is taken. Nothing stored.
        """
        static_order = eligible_accounts(draft.order, terms)
        opinion = await self._fraud.assess(draft)
        payment = replace(draft, fraud=opinion)
        advice = await self._router.rank(payment)
        payment = replace(payment, route=advice)
        ranking = static_order if advice is None else advice.ranking
        order = [account for account in ranking if account in static_order]
        if not order:
            raise no_eligible_account()
        blocked = blocking_reason(opinion, terms)
        if blocked:
            payment = replace(
                payment,
                status=Status.BLOCKED,
                status_reason=blocked,
                answered_version=payment.version,
            )
        else:
            payment = self._next_attempt(payment, terms, order[0])
        claim = Claim(payment.payment_id, payment.payment_id, payment.request_hash)
        stored = await self._repository.create(payment, claim, postings(None, payment))
        if stored is not None:
            # Another replica was faster with the same key.
            if stored.request_hash != payment.request_hash:
                raise idempotency_key_reused()
            return stored
        return await self.advance(payment, terms)

    def _next_attempt(self, payment: Payment, terms: MerchantTerms, account_id: str) -> Payment:
        index = len(payment.attempts)
        now = self._clock()
        account = next(a for a in terms.accounts if a.processor_account_id == account_id)
        attempt = Attempt(
            attempt_index=index,
            processor_account_id=account_id,
            processor=account.processor,
            processor_key=f"{payment.payment_id}-{index}",
            request_body=self._processors[account.processor].prepare(payment, account_id, index),
            status=AttemptStatus.STARTED,
            start_time=now,
        )
        return replace(
            payment.with_attempt(attempt),
            checks=0,
            check_time=now + timedelta(seconds=self._patience.first_look_seconds),
        )

    # ---- go on from what is stored -----------------------------------------------------------

    async def advance(self, payment: Payment, terms: MerchantTerms) -> Payment:
        """Takes a stored payment on until it is settled, waits for somebody, or is not known.

        The first run and recovery both call it. When somebody else changed the payment
        meanwhile, theirs stands and is answered.
        """
        while payment.check_time is not None:
            if payment.pending is not None:
                payment = await self._resume_command(payment)
            elif payment.status is Status.REQUIRES_ACTION:
                payment = await self._resume_action(payment)
            elif payment.status in UNSETTLED:
                payment = await self._resume_charge(payment, terms)
            else:
                payment = await self._resume_refunds(payment)
            if payment.last_attempt.status is not AttemptStatus.STARTED:
                break  # only a cascade goes on at once; everything else waits for its time
        return payment

    async def _resume_charge(self, payment: Payment, terms: MerchantTerms) -> Payment:
        attempt = payment.last_attempt
        processor = self._processors[attempt.processor]
        if attempt.processor_payment_id:
            outcome = await processor.look(payment, attempt)
        else:
            outcome = await processor.charge(payment, attempt)
        changed = self._with_outcome(payment, attempt, outcome)
        if isinstance(outcome, Declined) and outcome.soft:
            following = self._following_account(payment, terms)
            if following:
                # The decline and the next intent are one commit: nothing lies between them.
                changed = self._next_attempt(
                    replace(changed, status=Status.PROCESSING, status_reason=""), terms, following
                )
        return await self._save(payment, changed, fee_of(outcome))

    def _following_account(self, payment: Payment, terms: MerchantTerms) -> str:
        tried = {a.processor_account_id for a in payment.attempts}
        static = eligible_accounts(payment.order, terms)
        ranking = payment.route.ranking if payment.route is not None else static
        usable = {a.processor_account_id for a in terms.accounts if a.enabled}
        return next((a for a in ranking if a not in tried and a in usable), "")

    async def look_again(self, payment: Payment) -> Payment:
        """Asks the processor how a payment that waited for the payer stands now."""
        return await self._resume_action(payment)

    async def _resume_action(self, payment: Payment) -> Payment:
        attempt = payment.last_attempt
        processor = self._processors[attempt.processor]
        outcome = await processor.look(payment, attempt)
        expired = (
            payment.action_expire_time is not None and self._clock() >= payment.action_expire_time
        )
        if isinstance(outcome, ActionRequired) and expired:
            outcome = await processor.cancel(payment, attempt, f"{attempt.processor_key}-expire")
        if isinstance(outcome, ActionRequired | NotKnown):
            pause = timedelta(seconds=self._patience.action_poll_seconds)
            return await self._save(payment, replace(payment, check_time=self._clock() + pause))
        return await self._save(
            payment, self._with_outcome(payment, attempt, outcome), fee_of(outcome)
        )

    # ---- capture and cancel ------------------------------------------------------------------

    async def command(
        self, payment: Payment, command: Command, amount_minor: int, claim: Claim
    ) -> Payment:
        """Stores a capture or cancellation, then does it.

        Raises:
            Refusal: ABORTED when the payment changed meanwhile.
        """
        now = self._clock()
        pending = PendingCommand(command, amount_minor, claim.operation_id, now)
        started = replace(
            payment.moved_to(Status.PROCESSING, command.value.lower()),
            pending=pending,
            checks=0,
            check_time=now + timedelta(seconds=self._patience.first_look_seconds),
        )
        stored = self._next_version(started)
        if not await self._repository.save(stored, postings(payment, stored), claim):
            raise payment_changed()
        return await self._resume_command(stored)

    async def _resume_command(self, payment: Payment) -> Payment:
        pending, attempt = payment.pending, payment.last_attempt
        assert pending is not None
        processor = self._processors[attempt.processor]
        if pending.command is Command.CAPTURE:
            outcome = await processor.capture(payment, attempt, pending)
        else:
            outcome = await processor.cancel(payment, attempt, pending.processor_key)
        if isinstance(outcome, NotKnown):
            return await self._save(payment, self._looked_in_vain(payment, outcome.why))
        reason = ""
        if isinstance(outcome, Declined):
            # The processor refused the command, so something else is true: ask what.
            reason = outcome.code
            outcome = await processor.look(payment, attempt)
            if isinstance(outcome, NotKnown):
                return await self._save(payment, self._looked_in_vain(payment, outcome.why))
        done = self._with_outcome(replace(payment, pending=None), attempt, outcome)
        return await self._save(
            payment, replace(done, status_reason=reason or done.status_reason), fee_of(outcome)
        )

    # ---- refunds -----------------------------------------------------------------------------

    async def refund(self, payment: Payment, refund: Refund, claim: Claim) -> Payment | None:
        """Stores a refund, then does it. Answers None when the payment changed meanwhile."""
        started = replace(
            payment.with_refund(refund),
            checks=0,
            check_time=self._clock() + timedelta(seconds=self._patience.first_look_seconds),
        )
        stored = self._next_version(started)
        if not await self._repository.save(stored, postings(payment, stored), claim):
            return None
        return await self._do_refund(stored, refund)

    async def _resume_refunds(self, payment: Payment) -> Payment:
        for refund in payment.refunds:
            if refund.status in (RefundStatus.PENDING, RefundStatus.UNKNOWN):
                return await self._do_refund(payment, refund)
        return await self._save(payment, replace(payment, check_time=None))

    async def _do_refund(self, payment: Payment, refund: Refund) -> Payment:
        attempt = payment.last_attempt
        outcome = await self._processors[attempt.processor].refund(payment, attempt, refund)
        while True:
            now = self._clock()
            current = next(r for r in payment.refunds if r.refund_id == refund.refund_id)
            if current.status not in (RefundStatus.PENDING, RefundStatus.UNKNOWN):
                return payment
            changed = payment.with_refund(
                replace(
                    current,
                    status=outcome.status,
                    processor_refund_id=outcome.processor_refund_id or current.processor_refund_id,
                    failure_code=outcome.failure_code,
                    update_time=now,
                )
            )
            changed = self._schedule_refunds(changed)
            stored = self._next_version(changed)
            if await self._repository.save(stored, postings(payment, stored)):
                return stored
            # Another refund of the same payment was stored meanwhile: apply to the new version.
            fresh = await self._repository.get(
                payment.merchant_id, payment.livemode, payment.payment_id
            )
            assert fresh is not None
            payment = fresh

    def _schedule_refunds(self, payment: Payment) -> Payment:
        """Plans the next look at open refunds, or hands them to a person."""
        opened = [
            r for r in payment.refunds if r.status in (RefundStatus.PENDING, RefundStatus.UNKNOWN)
        ]
        if not opened:
            return replace(payment, checks=0, check_time=None)
        pause = self._pause(payment)
        if pause is None:
            for refund in opened:
                payment = payment.with_refund(replace(refund, status=RefundStatus.NEEDS_REVIEW))
            return replace(payment, check_time=None)
        return replace(payment, checks=payment.checks + 1, check_time=self._clock() + pause)

    # ---- outcomes ----------------------------------------------------------------------------

    def _with_outcome(self, payment: Payment, attempt: Attempt, outcome: Outcome) -> Payment:
        now = self._clock()
        ended = replace(attempt, end_time=now)
        settled = replace(
            payment, checks=0, check_time=None, action_url="", action_expire_time=None
        )
        match outcome:
            case Charged():
                ended = replace(
                    ended,
                    status=AttemptStatus.SUCCEEDED,
                    processor_payment_id=outcome.processor_payment_id,
                )
                captured = outcome.captured_minor
                settled = replace(
                    settled.with_attempt(ended),
                    authorized_minor=max(outcome.authorized_minor, settled.authorized_minor),
                    captured_minor=captured,
                    reward_mark=RewardMark.RECEIPT if captured else RewardMark.NONE,
                )
                status = Status.SUCCEEDED if captured else Status.REQUIRES_CAPTURE
                return settled.moved_to(status)
            case ActionRequired():
                ended = replace(
                    ended,
                    status=AttemptStatus.REQUIRES_ACTION,
                    processor_payment_id=outcome.processor_payment_id,
                    end_time=None,
                )
                return replace(
                    settled.with_attempt(ended).moved_to(Status.REQUIRES_ACTION),
                    action_url=outcome.url,
                    action_expire_time=now + timedelta(seconds=self._patience.action_seconds),
                    check_time=now + timedelta(seconds=self._patience.action_poll_seconds),
                )
            case Declined():
                ended = replace(
                    ended,
                    status=AttemptStatus.DECLINED,
                    decline_code=outcome.code,
                    soft_decline=outcome.soft,
                    processor_payment_id=outcome.processor_payment_id,
                )
                return settled.with_attempt(ended).moved_to(Status.FAILED, outcome.code)
            case Canceled():
                ended = replace(ended, status=AttemptStatus.CANCELED)
                return settled.with_attempt(ended).moved_to(
                    Status.CANCELED,
                    "action_expired" if payment.action_url else "",
                )
            case NotKnown():
                unknown = payment.with_attempt(
                    replace(
                        attempt,
                        status=AttemptStatus.UNKNOWN,
                        processor_payment_id=outcome.processor_payment_id,
                    )
                )
                return self._looked_in_vain(unknown, outcome.why)

    def _looked_in_vain(self, payment: Payment, why: str) -> Payment:
        pause = self._pause(payment)
        unknown = payment.moved_to(Status.UNKNOWN, why)
        if pause is None:
            return replace(unknown.moved_to(Status.NEEDS_REVIEW, why), check_time=None)
        return replace(unknown, checks=payment.checks + 1, check_time=self._clock() + pause)

    def _pause(self, payment: Payment) -> timedelta | None:
        schedule = self._patience.schedule_seconds
        if payment.checks >= len(schedule):
            return None
        return timedelta(seconds=schedule[payment.checks])

    def _next_version(self, payment: Payment) -> Payment:
        version = payment.version + 1
        answered = payment.answered_version
        if not answered and payment.status not in (Status.PROCESSING, Status.UNKNOWN):
            answered = version
        return replace(
            payment, version=version, answered_version=answered, update_time=self._clock()
        )

    async def _save(self, before: Payment, after: Payment, fee_minor: int = 0) -> Payment:
        stored = self._next_version(after)
        if await self._repository.save(stored, postings(before, stored, fee_minor)):
            return stored
        # Somebody else finished this step; what they stored is the truth.
        fresh = await self._repository.get(before.merchant_id, before.livemode, before.payment_id)
        assert fresh is not None
        return fresh


def fee_of(outcome: Outcome) -> int:
    """What the processor keeps, as far as it said so."""
    return outcome.fee_minor if isinstance(outcome, Charged) else 0


def eligible_accounts(order: Order, terms: MerchantTerms) -> tuple[str, ...]:
    """Answers the accounts that can charge the order, in the merchant's own order.

    Raises:
        Refusal: a token names an account that the merchant doesn't have, or none can charge.
    """
    known = {a.processor_account_id for a in terms.accounts}
    if not known.issuperset(order.tokens):
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "NO_ELIGIBLE_ACCOUNT",
            "A token names a processor account that the merchant doesn't have.",
            remedy="Send tokens of the merchant's own processor accounts.",
            field="instrument.tokens",
        )
    eligible = tuple(
        a.processor_account_id
        for a in terms.accounts
        if a.enabled
        and a.processor_account_id in order.tokens
        and order.amount.currency_code in a.currencies
    )
    if not eligible:
        raise no_eligible_account()
    return eligible


def no_eligible_account() -> Refusal:
    """Refuses an order that no account can charge."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "NO_ELIGIBLE_ACCOUNT",
        "No enabled account of the merchant charges this instrument in this currency.",
        remedy="Send a token of an enabled account that charges the currency.",
        field="instrument",
    )


def payment_changed() -> Refusal:
    """Refuses a command that lost a race against another one."""
    return Refusal(
        Kind.ABORTED,
        "PAYMENT_CHANGED",
        "Somebody changed the payment at the same time.",
        remedy="Read the payment and decide again.",
        field="payment_id",
    )


def blocking_reason(opinion: FraudOpinion | None, terms: MerchantTerms) -> str:
    """Says why fraud stops a payment; empty when it doesn't."""
    if opinion is None:
        return "fraud_unavailable" if terms.blocks_when_fraud_is_away else ""
    if opinion.verdict == "BLOCK":
        return opinion.reason or "fraud"
    if opinion.verdict == "REVIEW" and terms.blocks_what_needs_review:
        return opinion.reason or "fraud_review"
    return ""
