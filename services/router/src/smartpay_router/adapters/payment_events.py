"""The payments' events: outcomes of routed payments, and the accounts that merchants add."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Protocol

import structlog

from smartpay.payments.v1.merchants_pb2 import MerchantEvent
from smartpay.payments.v1.payment_pb2 import Attempt, PaymentEvent
from smartpay.payments.v1.payments_pb2 import WatchRequest, WatchResponse
from smartpay.type.v1.instrument_pb2 import Processor
from smartpay_chassis.event_log import follow
from smartpay_router.domain.accounts import AddedAccount, AddedAccounts, AddedFee, Directory
from smartpay_router.domain.context import Context
from smartpay_router.domain.outcome import Learner, Outcome, Sample

log = structlog.get_logger()

# Statuses that are missing here teach nothing: the try still runs, nobody knows yet how it ended,
# or it was called off. FAILED is a request that the processor would not take.
_OUTCOMES = {
    Attempt.STATUS_SUCCEEDED: Outcome.SUCCEEDED,
    Attempt.STATUS_DECLINED: Outcome.DECLINED,
    Attempt.STATUS_FAILED: Outcome.TECHNICAL_FAILURE,
}


class EventStore(Protocol):
    """Where outcomes and the cursor are kept, both in one transaction."""

    async def take_in(self, samples: Sequence[Sample], cursor: str) -> int:
        """Logs one event's outcomes and the cursor behind it; answers how many were new."""
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
        learner: teaches the policy what the log gained.
        directory: hears of the accounts that merchants add.
    """

    def __init__(
        self,
        watch: Callable[[WatchRequest], AsyncIterable[WatchResponse]],
        store: EventStore,
        learner: Learner,
        directory: Directory,
    ) -> None:
        self._watch = watch
        self._store = store
        self._learner = learner
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
        if await self._store.take_in(samples, step.cursor):
            await self._learner.catch_up()


def accounts_of(event: MerchantEvent) -> AddedAccounts:
    """Reads the accounts out of a merchant's change; each tells all of them."""
    return AddedAccounts(
        merchant_id=event.merchant_id,
        livemode=event.livemode,
        sequence=event.sequence,
        accounts=tuple(
            AddedAccount(
                processor_account_id=account.processor_account_id,
                processor=Processor.Name(account.processor).removeprefix("PROCESSOR_").lower(),
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
    route = event.payment.route
    if not route.decision_id:
        return ()
    try:
        context = Context(route.context_schema, tuple(route.context))
    except ValueError as error:
        # Waiting would not mend it, and the stream must go on: the payment is left unlearned.
        log.error("event not learned", event_id=event.id, cause=str(error))
        return ()
    ranked = {account.processor_account_id for account in route.ranking}
    return tuple(
        Sample(
            decision_id=route.decision_id,
            attempt_index=attempt.attempt_index,
            merchant_id=event.merchant_id,
            livemode=event.livemode,
            processor_account_id=attempt.processor_account_id,
            outcome=_OUTCOMES[attempt.status],
            context=context,
        )
        for attempt in event.payment.attempts
        if attempt.status in _OUTCOMES and attempt.processor_account_id in ranked
    )
