"""What is asked of a stored payment: capture, cancel, refund, answer a dispute, resolve.

Each command is stored before it is sent, and finished by whoever finds it stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.audit import Witness
from smartpay_payments.domain.idempotency import Claim
from smartpay_payments.domain.late_charges import (
    CANCELED_BY_MERCHANT,
    RESOLVED_NOT_CHARGED,
    LateCharges,
)
from smartpay_payments.domain.outcomes import looked_in_vain, refund_after, with_outcome
from smartpay_payments.domain.payment import (
    OPEN_REFUNDS,
    UNSENT,
    Command,
    Dispute,
    DisputeStatus,
    Payment,
    PendingCommand,
    Refund,
    RefundStatus,
    Status,
    replace,
)
from smartpay_payments.domain.processor import (
    Canceled,
    Charged,
    Declined,
    DisputeDesk,
    NotKnown,
    NotTaken,
)
from smartpay_payments.domain.silence import Silence
from smartpay_payments.domain.transitions import Happening, apply
from smartpay_payments.domain.versions import Versions, payment_changed


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an operator found out about a payment nobody could resolve."""

    charged: bool
    processor_payment_id: str = ""
    """The processor's id of the charge; needed when charged."""
    captured_minor: int = 0


class Commands:
    """Does what merchants and operators ask, once.

    Args:
        versions: stores what becomes of payments.
        silence: hears which accounts answer.
    """

    def __init__(self, versions: Versions, silence: Silence) -> None:
        self._versions = versions
        self._silence = silence
        self._processors = versions.processors
        self._clock = versions.clock
        self._patience = versions.patience
        self._late = LateCharges(versions)

    # ---- capture and cancel ------------------------------------------------------------------

    async def start(
        self,
        payment: Payment,
        command: Command,
        amount_minor: int,
        claim: Claim,
        witness: Witness | None = None,
    ) -> Payment:
        """Stores a capture or cancellation, then does it.

        Raises:
            Refusal: ABORTED when the payment changed meanwhile.
        """
        if payment.status in UNSENT:
            dropped = apply(payment, Happening.DROPPED, CANCELED_BY_MERCHANT)
            stored = await self._versions.store(payment, dropped, claim, witness)
            if stored is None:
                raise payment_changed()
            return stored
        now = self._clock()
        happening = Happening.CAPTURE if command is Command.CAPTURE else Happening.CANCEL
        started = replace(
            apply(payment, happening, command.value.lower()),
            pending=PendingCommand(command, amount_minor, claim.operation_id, now),
            checks=0,
            retry_time=now + timedelta(seconds=self._patience.first_look_seconds),
        )
        stored = await self._versions.store(payment, started, claim, witness)
        if stored is None:
            raise payment_changed()
        return await self.finish(stored)

    async def finish(self, payment: Payment) -> Payment:
        """Sends the stored command, for the first time or again, and stores how it ended."""
        pending, attempt = payment.pending, payment.last_attempt
        assert pending is not None  # all callers have looked
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
        now = self._clock()
        answered = not isinstance(outcome, NotKnown | NotTaken)
        self._silence.heard(attempt.processor_account_id, answered)
        if isinstance(outcome, NotKnown | NotTaken):
            changed = looked_in_vain(payment, outcome.why, now, self._patience)
        else:
            done = replace(payment, pending=None)
            changed = with_outcome(done, attempt, outcome, now, self._patience)
            if reason and changed.status is not goal:
                changed = replace(changed, status_reason=reason)
            elif pending.command is Command.CANCEL and changed.status is goal:
                changed = replace(changed, status_reason=CANCELED_BY_MERCHANT)
        stored = await self._versions.store(payment, changed)
        return stored or await self._versions.winner(payment)

    # ---- refunds -----------------------------------------------------------------------------

    async def refund(
        self, payment: Payment, refund: Refund, claim: Claim, witness: Witness | None = None
    ) -> Payment | None:
        """Stores a refund, then does it. Answers None when the payment changed meanwhile."""
        first_look = self._clock() + timedelta(seconds=self._patience.first_look_seconds)
        started = payment.with_refund(
            replace(
                refund,
                check_time=first_look,
                attempt_index=payment.paid_attempt.attempt_index,
            )
        )
        stored = await self._versions.store(payment, started, claim, witness)
        if stored is None:
            return None
        return await self.finish_refund(stored, refund.refund_id)

    async def finish_refund(self, payment: Payment, refund_id: str) -> Payment:
        """Sends a stored refund, for the first time or again, and stores how it ended."""
        refund = payment.refund_of(refund_id)
        attempt = payment.attempts[refund.attempt_index]
        outcome = await self._processors[attempt.processor].refund(payment, attempt, refund)
        answered = outcome.status is not RefundStatus.UNKNOWN
        self._silence.heard(attempt.processor_account_id, answered)
        while True:
            current = payment.refund_of(refund_id)
            if current.status not in OPEN_REFUNDS:
                return payment
            changed = payment.with_refund(
                refund_after(current, outcome, self._clock(), self._patience)
            )
            stored = await self._versions.store(payment, changed)
            if stored is not None:
                return stored
            # Another change of the same payment was stored meanwhile: apply to the new version.
            payment = await self._versions.winner(payment)

    async def resolve_refund(
        self, payment: Payment, refund_id: str, succeeded: bool, witness: Witness | None = None
    ) -> Payment:
        """Ends a refund that needs review by an operator's word.

        Raises:
            Refusal: the refund doesn't wait for anybody's word, or the payment changed.
        """
        refund = payment.refund_of(refund_id)
        if refund.status is not RefundStatus.NEEDS_REVIEW:
            raise nothing_to_resolve("refund_id")
        resolved = replace(
            refund,
            status=RefundStatus.SUCCEEDED if succeeded else RefundStatus.FAILED,
            failure_code="" if succeeded else "resolved_not_refunded",
            update_time=self._clock(),
        )
        stored = await self._versions.store(payment, payment.with_refund(resolved), None, witness)
        if stored is None:
            raise payment_changed()
        return stored

    # ---- what became of a charge since -------------------------------------------------------

    async def refresh(self, payment: Payment) -> Payment:
        """Asks for disputes, fees the processor tells only later, and charges that come late."""
        payment = await self._late.look(payment)
        if payment.status is not Status.SUCCEEDED:
            return payment
        attempt = payment.paid_attempt
        standing = await self._processors[attempt.processor].standing(payment, attempt)
        if standing is None:
            return payment
        changed = replace(
            payment.with_disputes(_merged(payment.disputes, standing.disputes)),
            fee_minor=standing.fee_minor or payment.fee_minor,
        )
        if changed == payment:
            return payment
        return await self._versions.store(payment, changed) or await self._versions.winner(payment)

    async def book_fee(
        self,
        merchant_id: str,
        livemode: bool,
        payment_id: str,
        processor_account_id: str,
        fee_minor: int,
    ) -> bool:
        """Stores the fee of the charge that paid, which only a settlement tells.

        Answers False while no charge of the account has paid.
        """
        while True:
            payment = await self._versions.repository.get(merchant_id, livemode, payment_id)
            if payment is None or payment.status is not Status.SUCCEEDED:
                return False
            if payment.paid_attempt.processor_account_id != processor_account_id:
                return False
            if payment.fee_minor == fee_minor:
                return True
            changed = replace(payment, fee_minor=fee_minor)
            if await self._versions.store(payment, changed) is not None:
                return True

    async def submit_evidence(
        self,
        payment: Payment,
        dispute_id: str,
        evidence: dict[str, str],
        witness: Witness | None = None,
    ) -> Payment:
        """Hands in evidence for a dispute.

        Raises:
            Refusal: the dispute waits for none, its processor takes none, or nobody answers.
        """
        dispute, desk = self._open_dispute(payment, dispute_id)
        told = await desk.submit_evidence(payment, payment.paid_attempt, dispute, evidence)
        return await self._with_answer(payment, told, witness)

    async def accept_dispute(
        self, payment: Payment, dispute_id: str, witness: Witness | None = None
    ) -> Payment:
        """Gives a dispute up.

        Raises:
            Refusal: the dispute is decided, its processor can't be told, or nobody answers.
        """
        dispute, desk = self._open_dispute(payment, dispute_id)
        told = await desk.accept(payment, payment.paid_attempt, dispute)
        return await self._with_answer(payment, told, witness)

    def _open_dispute(self, payment: Payment, dispute_id: str) -> tuple[Dispute, DisputeDesk]:
        dispute = next(d for d in payment.disputes if d.dispute_id == dispute_id)
        desk = self._processors[payment.paid_attempt.processor]
        if dispute.status is not DisputeStatus.NEEDS_RESPONSE or not isinstance(desk, DisputeDesk):
            raise Refusal(
                Kind.FAILED_PRECONDITION,
                "STATUS_FORBIDS",
                "The dispute takes no answer.",
                remedy="Read the dispute; only one that needs a response can be answered.",
                field="dispute_id",
                facts={"status": f"STATUS_{dispute.status.value}"},
            )
        return dispute, desk

    async def _with_answer(
        self, payment: Payment, told: Dispute | None, witness: Witness | None
    ) -> Payment:
        if told is None:
            raise Refusal(
                Kind.UNAVAILABLE,
                "UNAVAILABLE",
                "The processor gave no usable answer.",
                remedy="Read the dispute in a minute and repeat the call if nothing changed.",
            )
        while True:
            changed = payment.with_disputes(_merged(payment.disputes, (told,)))
            if changed == payment:
                return payment
            stored = await self._versions.store(payment, changed, None, witness)
            if stored is not None:
                return stored
            payment = await self._versions.winner(payment)

    # ---- resolve -----------------------------------------------------------------------------

    async def resolve(
        self, payment: Payment, evidence: Evidence, claim: Claim, witness: Witness | None = None
    ) -> Payment:
        """Ends a payment that needs review: by the processor's word, else by the operator's.

        Raises:
            Refusal: nothing is to be resolved, the processor says otherwise, or the payment
                changed meanwhile.
        """
        if payment.status is not Status.NEEDS_REVIEW:
            raise nothing_to_resolve("payment_id")
        now = self._clock()
        attempt = replace(
            payment.last_attempt,
            processor_payment_id=evidence.processor_payment_id
            or payment.last_attempt.processor_payment_id,
        )
        outcome: object = NotKnown("not_asked")
        if attempt.processor_payment_id:
            outcome = await self._processors[attempt.processor].look(payment, attempt)
        match outcome:
            case Charged() | Declined() | Canceled():
                if isinstance(outcome, Charged) is not evidence.charged:
                    raise Refusal(
                        Kind.FAILED_PRECONDITION,
                        "EVIDENCE_CONTRADICTED",
                        "The processor says otherwise.",
                        remedy="Read the charge at the processor and resolve by what it shows.",
                        field="outcome",
                    )
                settled = outcome
            case _ if evidence.charged:
                whole = payment.order.amount.minor_units
                settled = Charged(
                    attempt.processor_payment_id, whole, min(evidence.captured_minor, whole)
                )
            case _:
                settled = Declined(RESOLVED_NOT_CHARGED, soft=False)
        done = replace(payment, pending=None)
        changed = with_outcome(done, attempt, settled, now, self._patience)
        if isinstance(settled, Charged) and not settled.processor_payment_id:
            raise nothing_to_resolve("processor_payment_id")
        stored = await self._versions.store(payment, changed, claim, witness)
        if stored is None:
            raise payment_changed()
        return stored


def _merged(known: tuple[Dispute, ...], told: tuple[Dispute, ...]) -> tuple[Dispute, ...]:
    """Answers disputes as they stand: what is known keeps its place and its first moment."""
    news = {d.dispute_id: d for d in told}
    merged = []
    for dispute in known:
        fresh = news.pop(dispute.dispute_id, dispute)
        same = replace(fresh, create_time=dispute.create_time, update_time=dispute.update_time)
        changed = replace(fresh, create_time=dispute.create_time)
        merged.append(dispute if same == dispute else changed)
    return (*merged, *news.values())


def nothing_to_resolve(field: str) -> Refusal:
    """Refuses an operator's word where nobody needs it."""
    return Refusal(
        Kind.FAILED_PRECONDITION,
        "STATUS_FORBIDS",
        "Nobody waits for an operator's word here.",
        remedy="Only what needs review can be resolved; a charge needs the processor's id.",
        field=field,
    )
