"""Reviews: what a person decides about a transaction, once, and what follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

from smartpay_fraud.domain import refusals
from smartpay_fraud.domain.assessment import Claim, Finding
from smartpay_fraud.domain.transaction import Transaction, TransactionKey
from smartpay_fraud.domain.verdict import Verdict

_PAYMENT = re.compile(r"pay_[a-z][0-9][0-9a-hjkmnp-tv-z]{24}")
_HELD_STATUS = "IN_REVIEW"
_ENDED_STATUSES = frozenset({"BLOCKED", "CANCELED", "FAILED"})


class State(Enum):
    """Where a review stands."""

    OPEN = "OPEN"
    RESOLVED = "RESOLVED"
    CLOSED = "CLOSED"


class Resolution(Enum):
    """What a person decided."""

    APPROVE = "APPROVE"
    FRAUD = "FRAUD"
    REJECT = "REJECT"


class Delivery(Enum):
    """Whether payments knows the decision."""

    PENDING = "PENDING"
    DONE = "DONE"
    MOOT = "MOOT"


class Answer(Enum):
    """What payments made of a decision."""

    TAKEN = "TAKEN"
    NOT_HELD = "NOT_HELD"
    UNKNOWN_PAYMENT = "UNKNOWN_PAYMENT"
    AWAY = "AWAY"


@dataclass(frozen=True, slots=True)
class Related:
    """A transaction that shares something with the one under review.

    Attributes:
        transaction: as it was told.
        verdict: what was answered.
        score: the model's.
        scored_ms: when.
        finding: what it turned out to be; None while nobody said.
        shared: the fields of the contract that are the same.
    """

    transaction: Transaction
    verdict: Verdict
    score: float
    scored_ms: int
    finding: Finding | None
    shared: tuple[str, ...]


_FINDINGS = {Resolution.APPROVE: Finding.LEGITIMATE, Resolution.FRAUD: Finding.FRAUD}


@dataclass(frozen=True, slots=True)
class Review:
    """A transaction that a person looks at.

    Attributes:
        review_id: ours: rev_, the cell, 24 characters.
        merchant_id: whose transaction it is.
        livemode: real money or test.
        transaction_id: the transaction.
        state: where it stands.
        amount_minor: what was to be paid, in minor units.
        currency_code: of the amount.
        score: the model's.
        create_ms: when it was opened.
        assignee: who looks at it; "" for nobody.
        resolution: what was decided; None while nothing is.
        note: what the person wrote.
        resolve_actor: who decided.
        close_reason: why it closed by itself: the payment's status.
        delivery: whether payments knows; None when there is nothing to tell.
        held: payments holds the payment until it is decided, as far as its events say.
        end_ms: when it was decided or closed; None while it is open.
        version: counts the changes.
    """

    review_id: str
    merchant_id: str
    livemode: bool
    transaction_id: str
    state: State
    amount_minor: int
    currency_code: str
    score: float
    create_ms: int
    assignee: str = ""
    resolution: Resolution | None = None
    note: str = ""
    resolve_actor: str = ""
    close_reason: str = ""
    delivery: Delivery | None = None
    held: bool = False
    end_ms: int | None = None
    version: int = 1

    @property
    def key(self) -> TransactionKey:
        """The transaction's key."""
        return TransactionKey(self.merchant_id, self.livemode, self.transaction_id)

    @property
    def etag(self) -> str:
        """Names this version of it."""
        return f'"{self.version}"'

    def facts(self) -> dict[str, object]:
        """What the audit trail tells of it."""
        return {
            "state": self.state.value,
            "assignee": self.assignee or None,
            "resolution": self.resolution and self.resolution.value,
            "note": self.note or None,
            "close_reason": self.close_reason or None,
            "delivery": self.delivery and self.delivery.value,
        }

    def given_to(self, person: str, etag: str) -> Review:
        """The review in somebody's hands, or in nobody's ("").

        Raises:
            Refusal: REVIEW_ENDED or ETAG_MISMATCH.
        """
        if self.assignee == person and self.state is State.OPEN:
            return self
        self._check_open(etag)
        return replace(self, assignee=person, version=self.version + 1)

    def resolved(
        self, resolution: Resolution, note: str, actor: str, etag: str, now_ms: int
    ) -> Review:
        """The review decided; a repeat of the same decision by the same person changes nothing.

        Raises:
            Refusal: REVIEW_ENDED or ETAG_MISMATCH.
        """
        said = (resolution, note, actor)
        if said == (self.resolution, self.note, self.resolve_actor):
            return self
        self._check_open(etag)
        return replace(
            self,
            state=State.RESOLVED,
            resolution=resolution,
            note=note,
            resolve_actor=actor,
            delivery=Delivery.PENDING if _PAYMENT.fullmatch(self.transaction_id) else None,
            end_ms=now_ms,
            version=self.version + 1,
        )

    def delivered(self, delivery: Delivery) -> Review:
        """The review once payments has answered."""
        return replace(self, delivery=delivery, version=self.version + 1)

    def after_payment(self, status: str, now_ms: int) -> Review:
        """The review after its payment's event; itself when that changes nothing.

        A payment that was held and is not any more was decided in payments; one that ended without
        a charge needs no decision. One that was charged all the same, because the merchant doesn't
        hold payments, may still turn out to be fraud: its review stays open.
        """
        if self.state is not State.OPEN:
            return self
        if status == _HELD_STATUS:
            return self if self.held else replace(self, held=True, version=self.version + 1)
        if self.held or status in _ENDED_STATUSES:
            return replace(
                self,
                state=State.CLOSED,
                close_reason=status.lower(),
                end_ms=now_ms,
                version=self.version + 1,
            )
        return self

    def claim(self) -> Claim | None:
        """What the decision says of the transaction's honesty; None when it says nothing."""
        finding = _FINDINGS.get(self.resolution) if self.resolution else None
        if finding is None or self.end_ms is None:
            return None
        return Claim(self.key, f"review:{self.review_id}", finding, self.end_ms, self.end_ms)

    def _check_open(self, etag: str) -> None:
        if self.state is not State.OPEN:
            raise refusals.review_ended(self.state.value)
        if etag != self.etag:
            raise refusals.etag_mismatch()
