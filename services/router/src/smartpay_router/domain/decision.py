"""A decision and the rules of its use: for one payment, once, in time, on the terms it was made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal, idempotency_key_reused
from smartpay_router.domain.charge import Charge
from smartpay_router.domain.outcome import Outcome, Sample
from smartpay_router.domain.route import Route
from smartpay_router.domain.tenant import Tenant


@dataclass(frozen=True)
class Decision:
    """One ranking with the terms it was made for.

    The risk is no term: it is advice, and a repeated payment may know it better.

    Attributes:
        decision_id: our id.
        tenant: whose it is.
        amount_minor: the amount it was made for, in minor units.
        currency: the amount's currency.
        instrument_hash: of the instrument it was made for.
        route: the ranking.
        payment_id: the payment that uses it; empty while none does.
        created_at: when it was made.
        expires_at: until when a payment may begin to use it.
    """

    decision_id: str
    tenant: Tenant
    amount_minor: int
    currency: str
    instrument_hash: str
    route: Route
    payment_id: str
    created_at: datetime
    expires_at: datetime

    def differs_in(self, charge: Charge) -> str | None:
        """Names the field in which a charge leaves the terms; None when it keeps them."""
        if self.amount_minor != charge.amount_minor:
            return "amount.minor_units"
        if self.currency != charge.currency:
            return "amount.currency_code"
        if self.instrument_hash != charge.instrument_hash():
            return "instrument.tokens"
        return None


class Decisions(Protocol):
    """The durable decisions; each method is one atomic unit."""

    async def keep(self, made: Decision, charge: Charge) -> Decision:
        """Stores a new decision, or answers the one its payment already has.

        Raises:
            Refusal: IDEMPOTENCY_KEY_REUSED when the payment's decision has other terms.
        """
        ...

    async def bind(
        self, decision_id: str, tenant: Tenant, payment_id: str, charge: Charge, at: datetime
    ) -> Decision:
        """Gives a decision to a payment for good; repeating it answers the same.

        Raises:
            Refusal: as `bound` says, DECISION_NOT_FOUND, or IDEMPOTENCY_KEY_REUSED when the
                payment has another decision.
        """
        ...

    async def get(self, decision_id: str, tenant: Tenant) -> Decision:
        """Reads a decision; raises Refusal DECISION_NOT_FOUND also for another tenant's."""
        ...

    async def report(
        self,
        decision_id: str,
        tenant: Tenant,
        attempt_index: int,
        processor_account_id: str,
        outcome: Outcome,
        at: datetime,
    ) -> None:
        """Logs an outcome told from outside, once per attempt; `at` is the present.

        Raises:
            Refusal: as `reported` says, DECISION_NOT_FOUND, or IDEMPOTENCY_KEY_REUSED when the
                attempt was told otherwise before.
        """
        ...


def repeated(stored: Decision, charge: Charge) -> Decision:
    """Answers a payment's decision again; raises Refusal when the payment changed its terms."""
    if stored.differs_in(charge) is not None:
        raise idempotency_key_reused()
    return stored


def bound(
    stored: Decision, payment_id: str, charge: Charge, at: datetime, *, reported_on: bool
) -> Decision:
    """Gives a decision to a payment.

    Args:
        stored: the tenant's decision.
        payment_id: the payment that wants it.
        charge: what the payment charges.
        at: the present.
        reported_on: True when an outcome was told from outside: it was used then.

    Raises:
        Refusal: FAILED_PRECONDITION DECISION_USED, DECISION_MISMATCH or DECISION_EXPIRED. The
            payment that has it is never told that it expired meanwhile.
    """
    if reported_on or stored.payment_id not in ("", payment_id):
        raise _unusable("DECISION_USED", "The decision was already used.")
    if (field := stored.differs_in(charge)) is not None:
        raise _unusable(
            "DECISION_MISMATCH",
            "The decision was made for another amount, currency or instrument.",
            differs_in=field,
        )
    if not stored.payment_id and at >= stored.expires_at:
        raise _unusable("DECISION_EXPIRED", "The decision is too old.")
    return replace(stored, payment_id=payment_id)


def reported(
    stored: Decision,
    attempt_index: int,
    processor_account_id: str,
    outcome: Outcome,
    at: datetime,
) -> Sample:
    """Takes an outcome told from outside; `at` is the present.

    Raises:
        Refusal: FAILED_PRECONDITION DECISION_USED when a payment has the decision, because its
            events tell the outcome; INVALID_ARGUMENT ACCOUNT_NOT_RANKED.
    """
    if stored.payment_id:
        raise Refusal(
            Kind.FAILED_PRECONDITION,
            "DECISION_USED",
            "A payment used this decision, so its outcome is known from the payment.",
            remedy="Report outcomes only of decisions that you followed outside /pay.",
            field="decision_id",
        )
    processors = {r.processor_account_id: r.processor for r in stored.route.ranking}
    if processor_account_id not in processors:
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "ACCOUNT_NOT_RANKED",
            "The account was not in the decision's ranking.",
            remedy="Name an account that the decision ranked.",
            field="processor_account_id",
        )
    return Sample(
        decision_id=stored.decision_id,
        attempt_index=attempt_index,
        merchant_id=stored.tenant.merchant_id,
        livemode=stored.tenant.livemode,
        processor_account_id=processor_account_id,
        processor=processors[processor_account_id],
        outcome=outcome,
        several_rails=len(set(processors.values())) > 1,
        context=stored.route.context.of_attempt(attempt_index),
        decided_at=stored.created_at.timestamp(),
        at=at.timestamp(),
    )


def not_found() -> Refusal:
    """Refuses a decision that this tenant doesn't have, whoever else may have it."""
    return Refusal(
        Kind.NOT_FOUND,
        "DECISION_NOT_FOUND",
        "There is no such decision.",
        remedy="Check the id, and that the token is of the merchant that asked for the decision.",
        field="decision_id",
    )


def _unusable(reason: str, message: str, **facts: str) -> Refusal:
    return Refusal(
        Kind.FAILED_PRECONDITION,
        reason,
        message,
        remedy="Ask for a fresh decision of this charge, or pay without one.",
        field="decision_id",
        facts=facts,
    )
