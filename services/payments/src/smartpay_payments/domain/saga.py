"""The story of a payment: score, route, store the intent, charge, store the outcome.

Two durable commits per payment. The first, before the processor is called, holds the payment,
the idempotency claim and the attempt with its key and exact body; the second holds the outcome,
the ledger and the event. `advance` goes on from whatever is stored, so that a crash at any point
is only a late second commit, and a timeout is never read as a failure.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_payments.domain.audit import Witness
from smartpay_payments.domain.commands import Commands
from smartpay_payments.domain.eligibility import (
    MerchantTerms,
    blocking_reason,
    check_tokens,
    eligible_accounts,
    holding_reason,
    no_eligible_account,
)
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.outcomes import (
    declined,
    fenced,
    with_outcome,
    with_transfers,
)
from smartpay_payments.domain.payment import (
    UNSENT,
    UNSETTLED,
    ActionKind,
    Attempt,
    AttemptStatus,
    FraudOpinion,
    Initiator,
    NextAction,
    Order,
    Payment,
    RouteAdvice,
    Status,
    replace,
    status_forbids,
)
from smartpay_payments.domain.processor import (
    ActionRequired,
    Canceled,
    Charged,
    Declined,
    NotKnown,
    NotTaken,
    Pending,
)
from smartpay_payments.domain.silence import Silence
from smartpay_payments.domain.transitions import Happening, apply
from smartpay_payments.domain.versions import Versions, payment_changed


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


class Saga:
    """Moves payments on. Holds no state of its own beside its ports.

    Args:
        versions: stores what becomes of payments.
        commands: finishes what merchants asked of a payment.
        fraud: asks fraud.
        router: asks the router.
        silence: hears which accounts answer.
    """

    def __init__(
        self,
        versions: Versions,
        commands: Commands,
        fraud: FraudAdvisor,
        router: RouteAdvisor,
        silence: Silence,
    ) -> None:
        self._versions = versions
        self._commands = commands
        self._fraud = fraud
        self._router = router
        self._silence = silence
        self._processors = versions.processors
        self._clock = versions.clock
        self._patience = versions.patience

    # ---- create, confirm, review -------------------------------------------------------------

    async def create(
        self, draft: Payment, terms: MerchantTerms, witness: Witness | None = None
    ) -> Payment:
        """Takes a new payment as far as it goes now.

        Args:
            draft: the payment as asked for, in status PROCESSING, or REQUIRES_CONFIRMATION when
                it is to be charged later; stored nowhere yet.
            terms: the merchant's rules.
            witness: who asked for it.

        Raises:
            Refusal: the input can't be charged, or the id or order id is taken. Nothing stored.
        """
        check_tokens(draft.order, terms)
        if not eligible_accounts(draft.order, terms, self._processors):
            raise no_eligible_account()
        draft = replace(
            draft,
            earns_reward=terms.rewards_enabled,
            reward_vesting_seconds=terms.reward_vesting_seconds,
            merchant_category=terms.merchant_category,
        )
        if draft.status is Status.REQUIRES_CONFIRMATION:
            payment = replace(draft, action_expire_time=self._in(self._patience.confirm_seconds))
        else:
            payment = await self._judged(draft, terms)
        payment = self._versions.first(payment)
        claim = Claim(payment.payment_id, payment.payment_id, payment.request_hash)
        stored = await self._versions.create(payment, claim, witness)
        if stored is not None:
            # Another replica was faster with the same key.
            if stored.request_hash != payment.request_hash:
                raise idempotency_key_reused()
            return stored
        if payment.status is not Status.PROCESSING:
            return payment
        return await self._charge(payment, terms, first_send=True)

    async def amend(
        self,
        payment: Payment,
        order: Order,
        terms: MerchantTerms,
        witness: Witness | None = None,
    ) -> Payment:
        """Changes what a payment asks for, before anything is charged.

        Args:
            payment: as stored.
            order: what it is to ask for.
            terms: the merchant's rules.
            witness: who asked for it.

        Raises:
            Refusal: a processor was asked already, the order can't be charged, or somebody else
                changed the payment.
        """
        if payment.status is not Status.REQUIRES_CONFIRMATION or payment.attempts:
            raise status_forbids(payment, "changed", "not charged anywhere yet")
        check_tokens(order, terms)
        if not eligible_accounts(order, terms, self._processors):
            raise no_eligible_account()
        amended = replace(apply(payment, Happening.AMEND), order=order)
        stored = await self._versions.store(payment, amended, None, witness)
        if stored is None:
            raise payment_changed()
        return stored

    async def confirm(
        self,
        payment: Payment,
        terms: MerchantTerms,
        account: str = "",
        witness: Witness | None = None,
    ) -> Payment:
        """Charges a payment that waited for its confirmation, or looks at what the payer did.

        Args:
            payment: as stored.
            terms: the merchant's rules.
            account: the account of the rail that the payer chose; "" leaves the choice.
            witness: who asked for it.

        Raises:
            Refusal: the account can't charge the payment, or somebody else changed it.
        """
        if payment.pending is not None:
            return payment
        if payment.status is Status.REQUIRES_ACTION:
            if account and account != payment.last_attempt.processor_account_id:
                return await self._switch(payment, terms, account, witness)
            return await self.look_again(payment)
        if payment.status is not Status.REQUIRES_CONFIRMATION:
            return payment
        if payment.attempts:
            changed = self._with_choice(payment, terms, account, Happening.CONFIRM)
        else:
            changed = await self._judged(payment, terms, account)
        return await self._sent(payment, changed, terms, None, witness)

    async def review(
        self,
        payment: Payment,
        terms: MerchantTerms,
        approve: bool,
        claim: Claim,
        witness: Witness | None = None,
    ) -> Payment:
        """Ends the hold of a payment that a person looked at: charges it, or blocks it.

        Raises:
            Refusal: somebody else changed the payment.
        """
        if approve:
            changed = await self._routed(payment, terms, Happening.APPROVE)
        else:
            changed = apply(payment, Happening.BLOCK, "review_rejected")
        return await self._sent(payment, changed, terms, claim, witness)

    async def _sent(
        self,
        before: Payment,
        changed: Payment,
        terms: MerchantTerms,
        claim: Claim | None,
        witness: Witness | None,
    ) -> Payment:
        stored = await self._versions.store(before, changed, claim, witness)
        if stored is None:
            raise payment_changed()
        if stored.status is not Status.PROCESSING:
            return stored
        return await self._charge(stored, terms, first_send=True)

    async def _judged(self, payment: Payment, terms: MerchantTerms, account: str = "") -> Payment:
        """Asks fraud, then the router; answers the payment ready to be stored and sent."""
        payment = replace(payment, fraud=await self._fraud.assess(payment))
        is_new = payment.status is Status.PROCESSING
        if blocked := blocking_reason(payment.fraud, terms, payment.order.amount):
            if is_new:
                return replace(payment, status=Status.BLOCKED, status_reason=blocked)
            return apply(payment, Happening.BLOCK, blocked)
        if held := holding_reason(payment.fraud, terms):
            if is_new:
                payment = replace(payment, status=Status.IN_REVIEW, status_reason=held)
            else:
                payment = apply(payment, Happening.HOLD, held)
            return replace(payment, action_expire_time=self._in(self._patience.review_seconds))
        # Only a payment that may be charged is routed: a block must use up no decision.
        return await self._routed(payment, terms, None if is_new else Happening.CONFIRM, account)

    async def _routed(
        self, payment: Payment, terms: MerchantTerms, why: Happening | None, account: str = ""
    ) -> Payment:
        if account:
            return self._with_choice(payment, terms, account, why)
        payment = replace(payment, route=await self._router.rank(payment))
        following = self._next_account(payment, terms)
        if not following:
            raise no_eligible_account()
        return self._with_next_attempt(payment, terms, following, why)

    def _with_choice(
        self, payment: Payment, terms: MerchantTerms, account: str, why: Happening | None
    ) -> Payment:
        action = payment.next_action
        if action is not None and action.kind is ActionKind.CHOOSE_RAIL and not account:
            raise rail_not_chosen()
        if account not in self._open_accounts(payment, terms):
            raise no_eligible_account("processor_account_id")
        return self._with_next_attempt(payment, terms, account, why)

    async def _switch(
        self, payment: Payment, terms: MerchantTerms, account: str, witness: Witness | None
    ) -> Payment:
        """Fences the attempt the payer turned away from, and charges the account they chose."""
        if account not in self._open_accounts(payment, terms):
            raise no_eligible_account("processor_account_id")
        attempt = payment.last_attempt
        processor = self._processors[attempt.processor]
        outcome = await processor.cancel(payment, attempt, f"{attempt.processor_key}-switch")
        if isinstance(outcome, Declined):
            # It can't be canceled, so something else is true: ask what.
            outcome = await processor.look(payment, attempt)
        if isinstance(outcome, ActionRequired | NotKnown | NotTaken):
            return payment
        if isinstance(outcome, Canceled):
            superseded = payment.with_attempt(fenced(attempt, outcome, self._clock()))
            changed = self._with_next_attempt(superseded, terms, account, Happening.CASCADED)
            return await self._sent(payment, changed, terms, None, witness)
        changed = with_outcome(payment, attempt, outcome, self._clock(), self._patience)
        stored = await self._versions.store(payment, changed)
        return stored or await self._versions.winner(payment)

    # ---- accounts ----------------------------------------------------------------------------

    def _open_accounts(self, payment: Payment, terms: MerchantTerms) -> list[str]:
        """Answers the accounts that were not tried, best first."""
        eligible = eligible_accounts(payment.order, terms, self._processors)
        ranking = eligible if payment.route is None else payment.route.ranking
        tried = {a.processor_account_id for a in payment.attempts}
        ranked = [a for a in ranking if a in eligible]
        return [a for a in (*ranked, *(e for e in eligible if e not in ranked)) if a not in tried]

    def _next_account(self, payment: Payment, terms: MerchantTerms) -> str:
        """Answers the account to try next; "" when there is none.

        After the first attempt only accounts of its rail: a declined card never becomes a
        wallet payment by itself.
        """
        accounts = self._open_accounts(payment, terms)
        if not payment.attempts:
            ranked = accounts if payment.route is None else payment.route.ranking
            return next((a for a in accounts if a in ranked), "")
        began = payment.attempts[0].start_time
        attempts_max = terms.attempts_max or self._patience.cascade_attempts_max
        seconds = terms.cascade_seconds or self._patience.cascade_seconds
        in_time = self._clock() - began <= timedelta(seconds=seconds)
        if len(payment.attempts) >= attempts_max or not in_time:
            return ""
        rail = payment.last_attempt.processor
        return next((a for a in accounts if terms.processor_of(a) == rail), "")

    def _other_rails(self, payment: Payment, terms: MerchantTerms) -> tuple[str, ...]:
        """Answers the accounts of other rails that a payer who is there may choose."""
        if payment.order.off_session or payment.order.initiator is Initiator.MERCHANT:
            return ()
        tried = {a.processor for a in payment.attempts}
        return tuple(
            a for a in self._open_accounts(payment, terms) if terms.processor_of(a) not in tried
        )

    def _with_next_attempt(
        self, payment: Payment, terms: MerchantTerms, account: str, why: Happening | None
    ) -> Payment:
        index = len(payment.attempts)
        now = self._clock()
        processor = terms.processor_of(account)
        attempt = Attempt(
            attempt_index=index,
            processor_account_id=account,
            processor=processor,
            processor_key=f"{payment.payment_id}-{index}",
            request_body=self._processors[processor].prepare(payment, account, index),
            status=AttemptStatus.STARTED,
            start_time=now,
        )
        changed = payment if why is None else apply(payment, why)
        return replace(
            changed,
            attempts=changed.attempts_with(attempt),
            checks=0,
            retry_time=now + timedelta(seconds=self._patience.first_look_seconds),
        )

    # ---- go on from what is stored -----------------------------------------------------------

    async def advance(self, payment: Payment, terms: MerchantTerms) -> Payment:
        """Takes up a stored payment whose time to be looked at has come.

        When somebody else changed the payment meanwhile, theirs stands and is answered.
        """
        before = payment
        if payment.pending is not None:
            payment = await self._commands.finish(payment)
        elif payment.status in UNSENT:
            payment = await self._drop_expired(payment)
        elif payment.status in {Status.REQUIRES_ACTION, Status.REQUIRES_CAPTURE}:
            payment = await self.look_again(payment)
        elif payment.status in UNSETTLED:
            payment = await self._charge(payment, terms, first_send=False)
        else:
            payment = await self._commands.refresh(payment)
        if payment.late_until is not None:
            payment = await self._look_late(payment)
        now = self._clock()
        for refund in payment.refunds:
            if refund.check_time is not None and refund.check_time <= now:
                payment = await self._commands.finish_refund(payment, refund.refund_id)
        if payment.version == before.version:
            await self._versions.postpone(payment)
        return payment

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
            answered = not isinstance(outcome, NotKnown | NotTaken)
            self._silence.heard(attempt.processor_account_id, answered)
            turned_away = isinstance(outcome, NotTaken)
            if isinstance(outcome, NotTaken):
                # Nobody charged only if nobody asked before; an earlier call may have charged.
                outcome = (
                    Declined(f"refused_{outcome.why}", soft=True)
                    if first_send
                    else NotKnown(outcome.why)
                )
            now = self._clock()
            following = ""
            if isinstance(outcome, Declined):
                refused = payment.with_attempt(declined(attempt, outcome, now))
                following = self._next_account(refused, terms) if outcome.soft else ""
                rails = self._other_rails(refused, terms)
                if following:
                    # The decline and the next intent are one commit: nothing lies between them.
                    changed = self._with_next_attempt(refused, terms, following, Happening.CASCADED)
                elif rails:
                    offered = apply(refused, Happening.OFFERED, outcome.code)
                    changed = replace(
                        offered,
                        next_action=NextAction(ActionKind.CHOOSE_RAIL, processor_account_ids=rails),
                        action_expire_time=self._in(self._patience.confirm_seconds),
                    )
                else:
                    changed = apply(refused, Happening.DECLINED, outcome.code)
            elif (
                isinstance(outcome, Pending)
                and payment.status is Status.PROCESSING
                and (attempt.processor_payment_id == outcome.processor_payment_id)
            ):
                # Still at work, as before: no news, no version.
                waiting = with_outcome(payment, attempt, outcome, now, self._patience)
                await self._versions.postpone(waiting)
                return payment
            else:
                changed = with_outcome(payment, attempt, outcome, now, self._patience)
            # Being the first to send proves something only while nobody else sends as well.
            stored = await self._versions.store(payment, changed, alone=turned_away and first_send)
            if stored is None:
                return await self._versions.winner(payment)
            if not following:
                return stored
            payment, first_send = stored, True

    async def look_again(self, payment: Payment) -> Payment:
        """Asks how a payment stands that waits for the payer or its capture; cancels a late one."""
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
        if self._is_no_news(payment, attempt, outcome):
            await self._versions.postpone(payment)
            return payment
        changed = with_outcome(payment, attempt, outcome, now, self._patience)
        if isinstance(outcome, Canceled):
            lapsed = payment.status is Status.REQUIRES_CAPTURE
            why = "authorization_expired" if lapsed else "action_expired" if expired else ""
            changed = replace(changed, status_reason=why)
        stored = await self._versions.store(payment, changed)
        return stored or await self._versions.winner(payment)

    @staticmethod
    def _is_no_news(payment: Payment, attempt: Attempt, outcome: object) -> bool:
        match outcome:
            case NotKnown() | NotTaken():
                return True
            case ActionRequired():
                return outcome.action == payment.next_action and set(outcome.transfers) <= set(
                    attempt.transfers
                )
            case Charged():
                return not outcome.captured_minor and payment.status is Status.REQUIRES_CAPTURE
            case Declined() | Pending():
                # An authorization is what the last call left; only these two can't follow it.
                return payment.status is Status.REQUIRES_CAPTURE
        return False

    async def _drop_expired(self, payment: Payment) -> Payment:
        expires = payment.action_expire_time
        if expires is None or self._clock() < expires:
            return payment
        reasons = {Status.IN_REVIEW: "review_expired"}
        reason = reasons.get(payment.status, "confirmation_expired")
        changed = apply(payment, Happening.DROPPED, reason)
        stored = await self._versions.store(payment, changed)
        return stored or await self._versions.winner(payment)

    async def _look_late(self, payment: Payment) -> Payment:
        """Books transfers that came after an attempt had ended; what is too much goes back."""
        changed = payment
        for attempt in payment.attempts:
            rail = self._versions.transfer_rails.get(attempt.processor)
            if rail is None or attempt.end_time is None:
                continue
            transfers = await rail.transfers(payment, attempt)
            if transfers:
                changed = with_transfers(changed, attempt, transfers)
        if changed == payment:
            return payment
        return await self._versions.store(payment, changed) or await self._versions.winner(payment)

    def _in(self, seconds: float) -> datetime:
        return self._clock() + timedelta(seconds=seconds)


def rail_not_chosen() -> Refusal:
    """Refuses to choose a rail in the payer's place."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "RAIL_NOT_CHOSEN",
        "The payment was declined on one rail, and nobody chose another.",
        remedy="Send one of next_action.choose_rail's accounts, as the payer chose it.",
        field="processor_account_id",
    )
