"""Stores a payment's next version; whoever stores first is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.audit import AuditRecord, Witness
from smartpay_payments.domain.events import event_type
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.ledger import LedgerEntry, postings
from smartpay_payments.domain.outcomes import with_overpayments_refunded
from smartpay_payments.domain.patience import Patience
from smartpay_payments.domain.payment import NOT_PAID, UNSETTLED, Payment, Transfer, replace
from smartpay_payments.domain.processor import Processor, TransferRail


class Repository(Protocol):
    """Stores payments. Each method is one atomic unit of at most 25 conditional writes."""

    async def create(
        self,
        payment: Payment,
        claim: Claim,
        entries: Sequence[LedgerEntry],
        audit: AuditRecord | None = None,
    ) -> Payment | None:
        """Stores a new payment with its claim, order id and event.

        Answers None, or the payment already stored under this id; raises Refusal
        ORDER_ALREADY_PAID when another payment holds the order id.
        """
        ...

    async def save(
        self,
        payment: Payment,
        entries: Sequence[LedgerEntry],
        claim: Claim | None = None,
        audit: AuditRecord | None = None,
        planned: datetime | None = None,
        holds_order: bool = False,
    ) -> bool:
        """Stores the next version of a payment with its event, ledger and audit entries.

        Answers False, storing nothing, when the stored version is not payment.version - 1, or
        when the next look is not planned for the given moment any more: then somebody else has
        taken the payment up. With `holds_order` the order id is held again, and Refusal
        ORDER_ALREADY_PAID raised, nothing stored, when another payment holds it.
        """
        ...

    async def postpone(self, payment: Payment, until: datetime | None) -> None:
        """Plans the next look without a new version; does nothing when the payment changed."""
        ...

    async def get(self, merchant_id: str, livemode: bool, payment_id: str) -> Payment | None:
        """Reads one payment of one merchant."""
        ...


class Versions:
    """Makes versions of payments: each is one event, with its ledger entries and next look.

    Args:
        repository: the store.
        processors: by name, for instance "stripe".
        clock: the time, aware.
        patience: when recovery looks at what.
        derive_id: derives an id from (prefix, cell, parts...), the same for the same parts.
    """

    def __init__(
        self,
        repository: Repository,
        processors: Mapping[str, Processor],
        clock: Callable[[], datetime],
        patience: Patience,
        derive_id: Callable[..., str],
    ) -> None:
        self.repository = repository
        self.processors = processors
        self.clock = clock
        self.patience = patience
        self.derive_id = derive_id
        # Asking a protocol at run time is slow, and most payments never meet such a rail.
        self.transfer_rails = {
            name: rail for name, rail in processors.items() if isinstance(rail, TransferRail)
        }

    def first(self, payment: Payment) -> Payment:
        """Answers the first version of a new payment, as it is to be stored."""
        return replace(
            payment,
            event_type=event_type(None, payment),
            answered_version=0 if payment.status in UNSETTLED else payment.version,
            check_time=self.patience.next_look(payment, self.clock()),
        )

    async def create(
        self, payment: Payment, claim: Claim, witness: Witness | None = None
    ) -> Payment | None:
        """Stores a first version; answers the payment that holds its id, if there is one."""
        audit = witness(None, payment) if witness is not None else None
        return await self.repository.create(payment, claim, postings(None, payment), audit)

    async def store(
        self,
        before: Payment,
        after: Payment,
        claim: Claim | None = None,
        witness: Witness | None = None,
        *,
        alone: bool = False,
    ) -> Payment | None:
        """Stores the next version; answers None when somebody else stored theirs first.

        With `alone` it also answers None when somebody else has taken the payment up meanwhile.

        Whatever the change is, what a payer sent too much is given back from here on: the
        refunds are part of the same version.

        Raises:
            Refusal: ORDER_ALREADY_PAID when the payment had ended without money, is to be paid
                after all, and another payment holds its order id meanwhile.
        """
        version = before.version + 1
        now = self.clock()
        answered = before.answered_version
        if not answered and after.status not in UNSETTLED:
            answered = version
        after = self._with_late_money(after, now)
        after = replace(
            after,
            version=version,
            answered_version=answered,
            update_time=now,
            event_type=event_type(before, after),
            check_time=self.patience.next_look(after, now),
        )
        audit = witness(before, after) if witness is not None else None
        planned = before.check_time if alone else None
        holds_order = before.status in NOT_PAID and after.status not in NOT_PAID
        saved = await self.repository.save(
            after, postings(before, after), claim, audit, planned, holds_order
        )
        return after if saved else None

    def _with_late_money(self, payment: Payment, now: datetime) -> Payment:
        for attempt in payment.attempts:
            if attempt.end_time is None:
                continue
            rail, dust_minor = self.transfer_rails.get(attempt.processor), 0
            if rail is not None:
                until = attempt.end_time + timedelta(seconds=rail.late_seconds)
                payment = replace(payment, late_until=max(until, payment.late_until or until))
                dust_minor = rail.dust_minor(payment.order.amount.currency_code)
            elif not attempt.transfers:
                continue
            payment = with_overpayments_refunded(
                payment,
                now,
                partial(self._refund_id, payment.cell, payment.payment_id),
                dust_minor,
            )
        return payment

    def _refund_id(self, cell: str, payment_id: str, transfer: Transfer) -> str:
        return self.derive_id("ref", cell, payment_id, transfer.transfer_id)

    async def postpone(self, payment: Payment) -> None:
        """Plans the next look at a payment about which nothing new is known."""
        until = self.patience.next_look(payment, self.clock())
        await self.repository.postpone(payment, until)

    async def winner(self, loser: Payment) -> Payment:
        """Reads what somebody else stored; theirs is the truth."""
        fresh = await self.repository.get(loser.merchant_id, loser.livemode, loser.payment_id)
        assert fresh is not None  # payments are never deleted
        return fresh


def payment_changed() -> Refusal:
    """Refuses a command that lost a race against another one."""
    return Refusal(
        Kind.ABORTED,
        "PAYMENT_CHANGED",
        "Somebody changed the payment at the same time.",
        remedy="Read the payment and decide again.",
        field="payment_id",
    )
