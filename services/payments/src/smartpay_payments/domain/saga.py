"""The story of a payment: score, route, store the intent, charge, store the outcome.

Two durable commits per payment. The first, before the processor is called, holds the payment,
the idempotency claim and the attempt with its key and exact body; the second holds the outcome,
the ledger and the event. `advance` goes on from whatever is stored, so that a crash at any point
is only a late second commit, and a timeout is never read as a failure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_payments.domain.eligibility import (
    MerchantTerms,
    blocking_reason,
    check_tokens,
    eligible_accounts,
    no_eligible_account,
)
from smartpay_payments.domain.events import event_type
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry, postings
from smartpay_payments.domain.payment import (
    OPEN_REFUNDS,
    UNSETTLED,
    Attempt,
    AttemptStatus,
    Command,
    FraudOpinion,
    Payment,
    PendingCommand,
    Refund,
    RefundStatus,
    RewardMark,
    RouteAdvice,
    Status,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Outcome,
    Processor,
    RefundOutcome,
)


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

    async def postpone(self, payment: Payment, until: datetime) -> None:
        """Plans the next look without a new version; does nothing when the payment changed."""
        ...

    async def get(self, merchant_id: str, livemode: bool, payment_id: str) -> Payment | None:
        """Reads one payment of one merchant."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long recovery waits, and when it gives up asking."""

    first_look_seconds: float = 30.0
    """After the first commit: longer than any processor call, so nobody asks while one runs."""
    schedule_seconds: tuple[float, ...] = (1, 5, 30, 120, 600, 3600)
    """Pauses between looks at an unknown outcome; after the last a person decides.

    Looks that come early, for instance after restarts, don't use it up.
    """
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
        processors: Mapping[str, Processor],
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
        check_tokens(draft.order, terms)
        if not eligible_accounts(draft.order, terms, self._processors):
            raise no_eligible_account()
        payment = replace(draft, fraud=await self._fraud.assess(draft))
        blocked = blocking_reason(payment.fraud, terms)
        if blocked:
            payment = replace(
                payment,
                status=Status.BLOCKED,
                status_reason=blocked,
                answered_version=payment.version,
            )
        else:
            # Only a payment that may be charged is routed: a block must use up no decision.
            payment = replace(payment, route=await self._router.rank(payment))
            account = self._next_account(payment, terms)
            if not account:
                raise no_eligible_account()
            payment = self._with_next_attempt(payment, terms, account)
        payment = replace(payment, event_type=event_type(None, payment))
        claim = Claim(payment.payment_id, payment.payment_id, payment.request_hash)
        stored = await self._repository.create(payment, claim, postings(None, payment))
        if stored is not None:
            # Another replica was faster with the same key.
            if stored.request_hash != payment.request_hash:
                raise idempotency_key_reused()
            return stored
        return payment if blocked else await self._charge(payment, terms, first_send=True)

    def _next_account(self, payment: Payment, terms: MerchantTerms) -> str:
        """Answers the best account that was not tried; "" when there is none."""
        eligible = eligible_accounts(payment.order, terms, self._processors)
        ranking = eligible if payment.route is None else payment.route.ranking
        tried = {a.processor_account_id for a in payment.attempts}
        return next((a for a in ranking if a in eligible and a not in tried), "")

    def _with_next_attempt(self, payment: Payment, terms: MerchantTerms, account: str) -> Payment:
        index = len(payment.attempts)
        now = self._clock()
        processor = next(a.processor for a in terms.accounts if a.processor_account_id == account)
        attempt = Attempt(
            attempt_index=index,
            processor_account_id=account,
            processor=processor,
            processor_key=f"{payment.payment_id}-{index}",
            request_body=self._processors[processor].prepare(payment, account, index),
            status=AttemptStatus.STARTED,
            start_time=now,
        )
        return replace(
            payment.with_attempt(attempt),
            status=Status.PROCESSING,
            status_reason="",
            checks=0,
            check_time=now + timedelta(seconds=self._patience.first_look_seconds),
        )

    # ---- go on from what is stored -----------------------------------------------------------

    async def advance(self, payment: Payment, terms: MerchantTerms) -> Payment:
        """Takes up a stored payment whose time to be looked at has come.

        When somebody else changed the payment meanwhile, theirs stands and is answered.
        """
        if payment.pending is not None:
            return await self._do_command(payment)
        if payment.status is Status.REQUIRES_ACTION:
            return await self.look_again(payment)
        if payment.status in UNSETTLED:
            return await self._charge(payment, terms, first_send=False)
        refunds = [r for r in payment.refunds if r.check_time is not None]
        return await self._do_refund(
            payment, min(refunds, key=lambda r: r.check_time or r.create_time)
        )

    async def _charge(self, payment: Payment, terms: MerchantTerms, *, first_send: bool) -> Payment:
        """Charges the last attempt, and the next account after each soft decline.

        Args:
            payment: as stored.
            terms: the merchant's rules.
            first_send: True when this process stored the attempt and surely never sent it.
        """
        while True:
            attempt = payment.last_attempt
            processor = self._processors[attempt.processor]
            if attempt.processor_payment_id:
                outcome = await processor.look(payment, attempt)
            else:
                outcome = await processor.charge(payment, attempt)
            if isinstance(outcome, NotTaken):
                # Nobody charged only if nobody asked before; an earlier call may have charged.
                outcome = (
                    Declined(f"refused_{outcome.why}", soft=True)
                    if first_send
                    else NotKnown(outcome.why)
                )
            changed = self._with_outcome(payment, attempt, outcome)
            soft = isinstance(outcome, Declined) and outcome.soft
            following = self._next_account(payment, terms) if soft else ""
            if following:
                # The decline and the next intent are one commit: nothing lies between them.
                changed = self._with_next_attempt(changed, terms, following)
            stored = await self._store(payment, changed, fee_of(outcome))
            if stored is None:
                return await self._winner(payment)
            if not following:
                return stored
            payment, first_send = stored, True

    async def look_again(self, payment: Payment) -> Payment:
        """Asks the processor how a payment that waits for the payer stands; cancels a late one."""
        attempt = payment.last_attempt
        processor = self._processors[attempt.processor]
        now = self._clock()
        expired = payment.action_expire_time is not None and now >= payment.action_expire_time
        outcome = await processor.look(payment, attempt)
        if isinstance(outcome, ActionRequired) and expired:
            outcome = await processor.cancel(payment, attempt, f"{attempt.processor_key}-expire")
            if isinstance(outcome, Declined):
                # The payer acted in this very moment.
                outcome = await processor.look(payment, attempt)
        if isinstance(outcome, ActionRequired | NotKnown | NotTaken):
            pause = timedelta(seconds=self._patience.action_poll_seconds)
            await self._repository.postpone(payment, now + pause)
            return payment
        changed = self._with_outcome(payment, attempt, outcome)
        if isinstance(outcome, Canceled) and expired:
            changed = replace(changed, status_reason="action_expired")
        stored = await self._store(payment, changed, fee_of(outcome))
        return stored or await self._winner(payment)

    # ---- capture and cancel ------------------------------------------------------------------

    async def command(
        self, payment: Payment, command: Command, amount_minor: int, claim: Claim
    ) -> Payment:
        """Stores a capture or cancellation, then does it.

        Raises:
            Refusal: ABORTED when the payment changed meanwhile.
        """
        now = self._clock()
        started = replace(
            payment.moved_to(Status.PROCESSING, command.value.lower()),
            pending=PendingCommand(command, amount_minor, claim.operation_id, now),
            checks=0,
            check_time=now + timedelta(seconds=self._patience.first_look_seconds),
        )
        stored = await self._store(payment, started, claim=claim)
        if stored is None:
            raise payment_changed()
        return await self._do_command(stored)

    async def _do_command(self, payment: Payment) -> Payment:
        pending, attempt = payment.pending, payment.last_attempt
        assert pending is not None  # both callers have looked
        processor = self._processors[attempt.processor]
        if pending.command is Command.CAPTURE:
            outcome, goal = await processor.capture(payment, attempt, pending), Status.SUCCEEDED
        else:
            outcome = await processor.cancel(payment, attempt, pending.processor_key)
            goal = Status.CANCELED
        reason = ""
        if isinstance(outcome, Declined):
            # The processor refused the command, so something else is true: ask what.
            reason = outcome.code
            outcome = await processor.look(payment, attempt)
        if isinstance(outcome, NotKnown | NotTaken):
            changed = self._looked_in_vain(payment, outcome.why)
        else:
            changed = self._with_outcome(replace(payment, pending=None), attempt, outcome)
            if reason and changed.status is not goal:
                changed = replace(changed, status_reason=reason)
        stored = await self._store(payment, changed, fee_of(outcome))
        return stored or await self._winner(payment)

    # ---- refunds -----------------------------------------------------------------------------

    async def refund(self, payment: Payment, refund: Refund, claim: Claim) -> Payment | None:
        """Stores a refund, then does it. Answers None when the payment changed meanwhile."""
        first_look = self._clock() + timedelta(seconds=self._patience.first_look_seconds)
        started = payment.with_refund(replace(refund, check_time=first_look))
        stored = await self._store(payment, started, claim=claim)
        if stored is None:
            return None
        return await self._do_refund(stored, stored.refund_of(refund.refund_id))

    async def _do_refund(self, payment: Payment, refund: Refund) -> Payment:
        attempt = payment.last_attempt
        outcome = await self._processors[attempt.processor].refund(payment, attempt, refund)
        while True:
            current = payment.refund_of(refund.refund_id)
            if current.status not in OPEN_REFUNDS:
                return payment
            changed = payment.with_refund(self._refund_after(current, outcome))
            stored = await self._store(payment, changed)
            if stored is not None:
                return stored
            # Another refund of the same payment was stored meanwhile: apply to the new version.
            payment = await self._winner(payment)

    def _refund_after(self, refund: Refund, outcome: RefundOutcome) -> Refund:
        now = self._clock()
        changed = replace(
            refund,
            status=outcome.status,
            processor_refund_id=outcome.processor_refund_id or refund.processor_refund_id,
            failure_code=outcome.failure_code,
            update_time=now,
            check_time=None,
        )
        if outcome.status not in OPEN_REFUNDS:
            return changed
        pause = self._pause(refund.checks, refund.create_time)
        if pause is None and outcome.status is RefundStatus.UNKNOWN:
            return replace(changed, status=RefundStatus.NEEDS_REVIEW)
        if pause is None:
            # Pending is no riddle: a bank may take days.
            pause = timedelta(seconds=self._patience.schedule_seconds[-1])
        return replace(changed, checks=refund.checks + 1, check_time=now + pause)

    # ---- outcomes ----------------------------------------------------------------------------

    def _with_outcome(self, payment: Payment, attempt: Attempt, outcome: Outcome) -> Payment:
        now = self._clock()
        settled = replace(
            payment, checks=0, check_time=None, action_url="", action_expire_time=None
        )
        match outcome:
            case Charged():
                ended = replace(
                    attempt,
                    status=AttemptStatus.SUCCEEDED,
                    processor_payment_id=outcome.processor_payment_id,
                    end_time=now,
                )
                captured = outcome.captured_minor
                settled = replace(
                    settled.with_attempt(ended),
                    authorized_minor=max(outcome.authorized_minor, settled.authorized_minor),
                    captured_minor=captured,
                    reward_mark=RewardMark.RECEIPT if captured else RewardMark.NONE,
                )
                return settled.moved_to(Status.SUCCEEDED if captured else Status.REQUIRES_CAPTURE)
            case ActionRequired():
                waiting = replace(
                    attempt,
                    status=AttemptStatus.REQUIRES_ACTION,
                    processor_payment_id=outcome.processor_payment_id,
                )
                return replace(
                    settled.with_attempt(waiting).moved_to(Status.REQUIRES_ACTION),
                    action_url=outcome.url,
                    action_expire_time=now + timedelta(seconds=self._patience.action_seconds),
                    check_time=now + timedelta(seconds=self._patience.action_poll_seconds),
                )
            case Declined():
                ended = replace(
                    attempt,
                    status=AttemptStatus.DECLINED,
                    decline_code=outcome.code,
                    soft_decline=outcome.soft,
                    processor_payment_id=outcome.processor_payment_id
                    or attempt.processor_payment_id,
                    end_time=now,
                )
                return settled.with_attempt(ended).moved_to(Status.FAILED, outcome.code)
            case Canceled():
                ended = replace(
                    attempt,
                    status=AttemptStatus.CANCELED,
                    processor_payment_id=outcome.processor_payment_id,
                    end_time=now,
                )
                return settled.with_attempt(ended).moved_to(Status.CANCELED)
            case NotKnown():
                unknown = replace(
                    attempt,
                    status=AttemptStatus.UNKNOWN,
                    processor_payment_id=outcome.processor_payment_id
                    or attempt.processor_payment_id,
                )
                return self._looked_in_vain(payment.with_attempt(unknown), outcome.why)
            case NotTaken():
                return self._looked_in_vain(payment, outcome.why)

    def _looked_in_vain(self, payment: Payment, why: str) -> Payment:
        pending = payment.pending
        since = payment.last_attempt.start_time if pending is None else pending.start_time
        pause = self._pause(payment.checks, since)
        unknown = payment.moved_to(Status.UNKNOWN, why)
        if pause is None:
            return replace(unknown.moved_to(Status.NEEDS_REVIEW, why), check_time=None)
        return replace(unknown, checks=payment.checks + 1, check_time=self._clock() + pause)

    def _pause(self, checks: int, since: datetime) -> timedelta | None:
        """Answers how long to wait after one more look in vain; None when a person must decide.

        Every restart looks at all that is open at once. So looks count only as far as time has
        passed too, or a service that is restarted often would give up within seconds.
        """
        schedule = self._patience.schedule_seconds
        offsets = list(accumulate(schedule))
        age = (self._clock() - since).total_seconds()
        if checks >= len(schedule) and age >= offsets[-1]:
            return None
        return timedelta(
            seconds=schedule[min(checks, bisect_right(offsets, age), len(schedule) - 1)]
        )

    # ---- versions ----------------------------------------------------------------------------

    async def _store(
        self, before: Payment, after: Payment, fee_minor: int = 0, claim: Claim | None = None
    ) -> Payment | None:
        """Stores the next version; answers None when somebody else stored theirs first."""
        version = before.version + 1
        answered = before.answered_version
        if not answered and after.status not in UNSETTLED:
            answered = version
        after = replace(
            after,
            version=version,
            answered_version=answered,
            update_time=self._clock(),
            event_type=event_type(before, after),
        )
        saved = await self._repository.save(after, postings(before, after, fee_minor), claim)
        return after if saved else None

    async def _winner(self, loser: Payment) -> Payment:
        """Reads what somebody else stored; theirs is the truth."""
        fresh = await self._repository.get(loser.merchant_id, loser.livemode, loser.payment_id)
        assert fresh is not None  # payments are never deleted
        return fresh


def fee_of(outcome: Outcome) -> int:
    """What the processor keeps, as far as it said so."""
    return outcome.fee_minor if isinstance(outcome, Charged) else 0


def payment_changed() -> Refusal:
    """Refuses a command that lost a race against another one."""
    return Refusal(
        Kind.ABORTED,
        "PAYMENT_CHANGED",
        "Somebody changed the payment at the same time.",
        remedy="Read the payment and decide again.",
        field="payment_id",
    )
