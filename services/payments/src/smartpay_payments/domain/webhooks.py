"""Notices of processors: who may tell us something, and when it is worth a look.

A notice is only ever a hint. It makes a payment due, and the story then asks the processor
itself: so notices may be lost, doubled, late and out of order, and none is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.payment import NOT_PAID, Status

REPLAY_WINDOW = timedelta(minutes=5)
"""How far a notice's time may lie from ours, before and after; Stripe's own default."""
OWN_ANSWER_COMES_FIRST = timedelta(seconds=2)
"""A notice often overtakes the answer of the very call it tells of; so after each change of our
own a look waits this long, and most often finds nothing left to ask."""


class Topic(StrEnum):
    """What a notice is about."""

    CHARGE = "charge"
    DECLINE = "decline"
    """A charge that was refused or given up."""
    LATE_CHARGE = "late_charge"
    """A charge of an attempt that is not the one that paid; the inbox finds that out."""
    REFUND = "refund"
    DISPUTE = "dispute"
    FEE = "fee"


class Fate(StrEnum):
    """What became of a notice."""

    DUE = "due"
    """Its payment is looked at soon."""
    NOTHING_NEW = "nothing_new"
    """We know already what it could tell."""
    DUPLICATE = "duplicate"
    """It was taken before."""
    NO_PAYMENT = "no_payment"
    """The account did something that is no payment of ours, or not yet."""
    IGNORED = "ignored"
    """Of a kind that concerns no payment."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a genuine notice says, as far as anybody here cares."""

    event_id: str
    """The processor's own, the same each time it is sent."""
    event_type: str
    topic: Topic | None
    """None for what concerns no payment."""
    payment_id: str = ""
    """Ours, when the processor carries it along; it has to belong to the account's merchant."""
    processor_payment_id: str = ""
    """The processor's, for instance pi_...; or what one or several begin with, up to a dash."""


@dataclass(frozen=True, slots=True)
class WebhookAccount:
    """A processor account as far as its notices go."""

    processor_account_id: str
    processor: str
    merchant_id: str
    livemode: bool
    secrets: tuple[str, ...] = field(repr=False)
    """What its notices must be signed with, or for; several while one replaces another."""


class WebhookAccounts(Protocol):
    """Knows the accounts whose notices are taken."""

    async def find(self, processor: str, processor_account_id: str) -> WebhookAccount | None:
        """Finds an account of this processor."""
        ...


class NoticeReader(Protocol):
    """Reads one processor's notices."""

    async def read(
        self, account: WebhookAccount, headers: Mapping[str, str], body: bytes
    ) -> Notice:
        """Answers what a notice says.

        Raises:
            Refusal: SIGNATURE_REFUSED when it is not genuine, of this account and of now;
                BODY_MALFORMED when it is genuine and can't be read.
        """
        ...


class Inbox(Protocol):
    """Where notices become durable."""

    async def take(self, account: WebhookAccount, notice: Notice, now: datetime) -> Fate:
        """Notes a notice and makes its payment due, both or neither."""
        ...


# No processor was asked, so none can have news.
_NEVER_ASKED = frozenset({Status.REQUIRES_CONFIRMATION, Status.IN_REVIEW, Status.BLOCKED})


def is_news(topic: Topic, status: Status) -> bool:
    """Tells whether a look can find what the payment doesn't show already.

    A payment that failed or was canceled is looked at too: a processor that tells of money there
    knows something that we don't.
    """
    if topic is Topic.DECLINE and status in NOT_PAID:
        return False
    if topic is Topic.FEE:
        return status is Status.SUCCEEDED
    if topic in {Topic.CHARGE, Topic.DECLINE}:
        return status is not Status.SUCCEEDED and status not in _NEVER_ASKED
    return status not in _NEVER_ASKED


def look_time(now: datetime, update_time: datetime) -> datetime:
    """Answers when to look at a payment that a notice came for."""
    return max(now, update_time + OWN_ANSWER_COMES_FIRST)


def is_of_now(sent: datetime, now: datetime) -> bool:
    """Tells whether a notice lies in the replay window, which is closed on both sides."""
    return abs(now - sent) <= REPLAY_WINDOW


def signature_refused() -> Refusal:
    """Refuses a notice that is not proven, with one text for all causes.

    An account that does not exist reads the same, so that nobody can find out which do.
    """
    return Refusal(
        Kind.PERMISSION_DENIED,
        "SIGNATURE_REFUSED",
        "The notice is not signed by this account, or not now.",
        remedy="Check the account in the address, its webhook secret and the sender's clock.",
        field="body",
    )


def body_malformed() -> Refusal:
    """Refuses a notice that is proven and can't be read."""
    return Refusal(
        Kind.INVALID_ARGUMENT,
        "BODY_MALFORMED",
        "The notice has not the documented shape.",
        remedy="Send the processor's own JSON unchanged.",
        field="body",
    )
