"""Customers of a merchant, and what is left of one after an erasure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from smartpay_chassis.refusals import Kind, Refusal
from smartpay_payments.domain.payment import (
    OPEN,
    OPEN_REFUNDS,
    Order,
    Payment,
    with_pairs,
)

# What stands where something personal stood; no saved customer's id can begin so.
TOMBSTONE = "(erased)"


@dataclass(frozen=True, slots=True)
class Customer:
    """A saved customer."""

    merchant_id: str
    livemode: bool
    customer_id: str
    """The merchant's own id, or our reference."""
    reference: str
    """Ours: cus_, the cell, 24 characters; what processors are told."""
    request_hash: str
    """Of the request that made it."""
    create_time: datetime
    update_time: datetime
    email: str = ""
    name: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    default_instrument_id: str = ""
    payers: dict[str, str] = field(default_factory=dict)
    """The processors' own id of the customer by account, for instance Stripe's cus_..."""
    version: int = 1

    @property
    def etag(self) -> str:
        """Changes with every change."""
        return f'"{self.version}"'

    def changed(
        self,
        now: datetime,
        *,
        email: str | None = None,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        default_instrument_id: str | None = None,
    ) -> Customer:
        """Answers the next version; what is None stays as it is.

        Args:
            now: the time.
            email: the address; "" empties it.
            name: the name; "" empties it.
            metadata: pairs to set; one with an empty value is removed.
            default_instrument_id: the instrument; "" for none.

        Raises:
            Refusal: FIELD_INVALID when too many pairs would stay.
        """
        return replace(
            self,
            email=self.email if email is None else email,
            name=self.name if name is None else name,
            metadata=with_pairs(self.metadata, metadata or {}),
            default_instrument_id=(
                self.default_instrument_id
                if default_instrument_id is None
                else default_instrument_id
            ),
            update_time=now,
            version=self.version + 1,
        )

    def facts(self) -> dict[str, object]:
        """Lists what the audit trail may hold: which fields are filled, never what with."""
        return {
            "email": "(set)" if self.email else None,
            "name": "(set)" if self.name else None,
            "metadata": len(self.metadata),
            "default_instrument_id": self.default_instrument_id or None,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Erasure:
    """The removal of what is personal about one customer, as far as it came."""

    erasure_id: str
    merchant_id: str
    livemode: bool
    customer_id: str
    """Whom; the tombstone once it is done."""
    request_hash: str
    create_time: datetime
    erased_payments: int = 0
    end_time: datetime | None = None

    @property
    def is_done(self) -> bool:
        """True when nothing personal is left."""
        return self.end_time is not None


@dataclass(frozen=True, slots=True)
class ErasedCustomer:
    """What is told of an erasure that is done, so that others forget the customer as well."""

    erasure_id: str
    merchant_id: str
    livemode: bool
    customer_key: str
    """Says whom to nobody but those who know the id; see `customer_key`."""
    time: datetime


def customer_key(merchant_id: str, livemode: bool, customer_id: str) -> str:
    """Names a customer by a hash, since an erased id must stand nowhere."""
    lines = (merchant_id, "live" if livemode else "test", customer_id)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_settled(payment: Payment) -> bool:
    """Tells whether a payment has ended, so that nobody is at work with its order."""
    return (
        payment.status not in OPEN
        and payment.pending is None
        and not any(r.status in OPEN_REFUNDS for r in payment.refunds)
    )


def erased(payment: Payment) -> Payment:
    """Answers a payment without what is personal; amounts, states and attempts stay as they are.

    Kept: the merchant's order id and the processors' tokens, which belong to the books; the
    reward's wallet, which rewards must know; what a payer's wallet sent, which is public.
    """
    return replace(payment, order=_erased_order(payment.order))


def _erased_order(order: Order) -> Order:
    def stone(text: str) -> str:
        return TOMBSTONE if text else ""

    return replace(
        order,
        customer_id=stone(order.customer_id),
        device_id=stone(order.device_id),
        ip_address="",  # readers expect an address or none
        country="",
        description=stone(order.description),
        metadata=dict.fromkeys(order.metadata, TOMBSTONE),
    )


def check_erasable(customer_id: str) -> None:
    """Refuses the tombstone: what is erased already would be found for ever."""
    if customer_id == TOMBSTONE:
        raise Refusal(
            Kind.INVALID_ARGUMENT,
            "FIELD_INVALID",
            "This stands for customers who are erased already.",
            remedy="Name a customer as POST /customers or POST /pay did.",
            field="customer_id",
        )


def customer_not_found(field_name: str = "customer_id") -> Refusal:
    """Refuses a customer that is not the merchant's, or not at all; the two read the same."""
    return Refusal(
        Kind.NOT_FOUND,
        "CUSTOMER_NOT_FOUND",
        "There is no such customer.",
        remedy="Save the customer by POST /customers, or name one that is saved.",
        field=field_name,
    )


def customer_exists() -> Refusal:
    """Refuses to save another customer under an id that is taken."""
    return Refusal(
        Kind.ALREADY_EXISTS,
        "CUSTOMER_EXISTS",
        "There is a customer with this id.",
        remedy="Change that customer, or save this one under another id.",
        field="customer_id",
    )


def erasure_not_found() -> Refusal:
    """Refuses an erasure that is not the merchant's, or not at all; the two read the same."""
    return Refusal(
        Kind.NOT_FOUND,
        "ERASURE_NOT_FOUND",
        "There is no such erasure.",
        remedy="Use the erasure_id that POST /erasures answered.",
        field="erasure_id",
    )
