"""The payments' events: outcomes of routed payments, disputes, and the accounts merchants add."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Protocol

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from smartpay.payments.v1.merchants_pb2 import MerchantEvent
from smartpay.payments.v1.payment_pb2 import Attempt, Dispute, Payment, PaymentEvent
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.type.v1.instrument_pb2 import Processor
from smartpay_chassis.event_log import follow
from smartpay_router.domain.accounts import AddedAccount, AddedAccounts, AddedFee, Directory
from smartpay_router.domain.chargebacks import SHARE_MAX, Chargeback
from smartpay_router.domain.context import Context
from smartpay_router.domain.learning import Learning
from smartpay_router.domain.outcome import Outcome, Sample, arm_of

log = structlog.get_logger()

# Statuses that are missing here tell nothing: the try still runs, or the payer has to act. FAILED
# is a request that the processor would not take.
_OUTCOMES = {
    Attempt.STATUS_SUCCEEDED: Outcome.SUCCEEDED,
    Attempt.STATUS_DECLINED: Outcome.DECLINED,
    Attempt.STATUS_FAILED: Outcome.TECHNICAL_FAILURE,
    Attempt.STATUS_UNKNOWN: Outcome.UNANSWERED,
    Attempt.STATUS_CANCELED: Outcome.ABANDONED,
}

# Declines by which somebody says that the payer is a thief, or the card is lost to one:
# https://docs.stripe.com/declines/codes.
_FRAUD_CODES = frozenset(
    {"fraudulent", "lost_card", "merchant_blacklist", "pickup_card", "stolen_card"}
)

# Declines that nobody decided: no issuer was reached, or something broke on the way. The last is
# ours: an operator gave a try up that the processor never accounted for.
_TECHNICAL_CODES = frozenset(
    {
        "issuer_not_available",
        "processing_error",
        "processing_failure",
        "transaction_timed_out",
        "resolved_not_charged",
    }
)

CLOCKS_APART_SECONDS_MAX = 3_600.0
"""A decision from further ahead than clocks ever differ would make all else seem long ago."""

_FRAUD_DISPUTE = "fraudulent"  # https://docs.stripe.com/disputes/categories


class EventStore(Protocol):
    """Where outcomes and the cursor are kept, both in one transaction."""

    async def take_in(
        self, samples: Sequence[Sample], chargebacks: Sequence[Chargeback], cursor: str
    ) -> int:
        """Logs what one event told and the cursor behind it; answers how many outcomes were new."""
        ...

    async def learn_accounts(self, told: AddedAccounts, cursor: str) -> None:
        """Stores what a merchant's change told, if it is news, and the cursor behind it."""
        ...

    async def cursor(self) -> str:
        """Answers where to go on; "" at the first start."""
        ...


class PaymentEvents:
    """Follows payments' Watch for ever. Each event tells all attempts so far; known ones pass.

    Args:
        watch: the Watch method of the payments' stub.
        store: where outcomes and cursor are kept.
        learning: teaches what the log gained.
        directory: hears of the accounts that merchants add.
    """

    def __init__(
        self,
        watch: Callable[[WatchRequest], AsyncIterable[WatchResponse]],
        store: EventStore,
        learning: Learning,
        directory: Directory,
    ) -> None:
        self._watch = watch
        self._store = store
        self._learning = learning
        self._directory = directory

    async def follow(self) -> None:
        """Reads events until cancelled, across restarts of either side."""
        await follow(self._open, self._store.cursor, self.apply, name="payments")

    def _open(self, cursor: str) -> AsyncIterator[WatchResponse]:
        return aiter(self._watch(WatchRequest(cursor=cursor)))

    async def apply(self, step: WatchResponse) -> None:
        """Takes in one step of the stream: stores it, then learns from it."""
        if step.HasField("merchant_event"):
            told = accounts_of(step.merchant_event)
            await self._store.learn_accounts(told, step.cursor)
            self._directory.learn(told)
            return
        samples = samples_of(step.event) if step.HasField("event") else ()
        chargebacks = chargebacks_of(step.event) if samples else ()
        if await self._store.take_in(samples, chargebacks, step.cursor):
            await self._learning.catch_up()


def accounts_of(event: MerchantEvent) -> AddedAccounts:
    """Reads the accounts out of a merchant's change; each tells all of them."""
    return AddedAccounts(
        merchant_id=event.merchant_id,
        livemode=event.livemode,
        sequence=event.sequence,
        accounts=tuple(
            AddedAccount(
                processor_account_id=account.processor_account_id,
                processor=_name(account.processor),
                fees={
                    fee.currency_code: AddedFee(fee.basis_points, fee.fixed_minor_units)
                    for fee in account.fees
                },
                enabled=account.enabled,
            )
            for account in event.processor_accounts
        ),
    )


def samples_of(event: PaymentEvent) -> Sequence[Sample]:
    """Reads the outcomes out of an event.

    The decision's context travels in the event, so a replica learns also from decisions that
    another one made. An attempt at an account that the decision did not rank teaches nothing.
    """
    payment, route = event.payment, event.payment.route
    if not route.decision_id:
        return ()
    decided_at = _seconds(route.create_time)
    try:
        context = Context(route.context_schema, tuple(route.context))
        if not 0 < decided_at <= _seconds(event.time) + CLOCKS_APART_SECONDS_MAX:
            raise ValueError("the decision was made at an impossible time")
    except ValueError as error:
        # Waiting would not mend it, and the stream must go on: the payment is left unlearned.
        log.error("event not learned", event_id=event.id, cause=str(error))
        return ()
    ranked = {account.processor_account_id for account in route.ranking}
    several_rails = len({account.processor for account in route.ranking}) > 1
    samples = []
    for attempt in payment.attempts:
        outcome = _outcome(payment, attempt)
        if outcome is None or attempt.processor_account_id not in ranked:
            continue
        known = attempt.end_time if attempt.HasField("end_time") else event.time
        samples.append(
            Sample(
                decision_id=route.decision_id,
                attempt_index=attempt.attempt_index,
                merchant_id=event.merchant_id,
                livemode=event.livemode,
                processor_account_id=attempt.processor_account_id,
                processor=_name(attempt.processor),
                outcome=outcome,
                several_rails=several_rails,
                context=context.of_attempt(attempt.attempt_index),
                decided_at=decided_at,
                at=_seconds(known),
            )
        )
    return samples


def chargebacks_of(event: PaymentEvent) -> Sequence[Chargeback]:
    """Reads the disputes out of an event: those for fraud unless won, and those that were lost."""
    payment = event.payment
    paid = [a for a in payment.attempts if a.status == Attempt.STATUS_SUCCEEDED]
    if not paid or payment.captured_amount.minor_units <= 0:
        return ()
    arm = arm_of(paid[-1].processor_account_id, _name(paid[-1].processor), livemode=event.livemode)
    return tuple(
        Chargeback(
            dispute_id=dispute.dispute_id,
            sequence=event.sequence,
            decision_id=payment.route.decision_id,
            model=arm.model,
            decided_at=_seconds(payment.route.create_time),
            share=_lost_share(payment, dispute),
        )
        for dispute in payment.disputes
    )


def _outcome(payment: Payment, attempt: Attempt) -> Outcome | None:
    outcome = _OUTCOMES.get(attempt.status)
    if outcome is Outcome.ABANDONED and payment.authorized_amount.minor_units > 0:
        # The charge had been approved, and the merchant let it go.
        return Outcome.SUCCEEDED
    if outcome is Outcome.DECLINED and attempt.decline_code in _FRAUD_CODES:
        return Outcome.FRAUD
    if outcome is Outcome.DECLINED and attempt.decline_code in _TECHNICAL_CODES:
        return Outcome.TECHNICAL_FAILURE
    return outcome


def _lost_share(payment: Payment, dispute: Dispute) -> float:
    is_lost = dispute.status == Dispute.STATUS_LOST or (
        dispute.reason == _FRAUD_DISPUTE and dispute.status != Dispute.STATUS_WON
    )
    if not is_lost:
        return 0.0
    captured, lost = payment.captured_amount, dispute.amount.minor_units
    if dispute.fee.currency_code == captured.currency_code:
        lost += dispute.fee.minor_units
    return min(SHARE_MAX, lost / captured.minor_units)


def _name(processor: Processor.ValueType) -> str:
    return Processor.Name(processor).removeprefix("PROCESSOR_").lower()


def _seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9
