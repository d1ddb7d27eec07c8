"""What a payment asks for: read from a new request, or changed before anything was charged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from smartpay.payments.v1 import payment_pb2, payments_pb2
from smartpay_chassis.calls import Call
from smartpay_payments.domain.eligibility import MerchantTerms
from smartpay_payments.domain.instruments import (
    Chargeable,
    instrument_not_found,
    with_instrument,
)
from smartpay_payments.domain.payment import Initiator, Order, with_pairs
from smartpay_payments.messages import money_of, order_of

# Fields that a change sets as they are given; the request's names are the order's.
_TEXTS = {
    "customer_id",
    "device_id",
    "ip_address",
    "country",
    "statement_descriptor",
    "description",
    "reward_wallet",
}


class SavedInstruments(Protocol):
    """Knows the instruments that customers left for later."""

    async def chargeable(
        self, merchant_id: str, livemode: bool, instrument_id: str, *, payer_is_away: bool
    ) -> Chargeable:
        """Answers what a payment charges; raises Refusal when there is none, or not ready."""
        ...


class OrderDesk:
    """Reads orders, with what the merchant's settings and the vault know of them.

    Args:
        saved: finds what an instrument_id stands for; without it there is none.
    """

    def __init__(self, saved: SavedInstruments | None) -> None:
        self._saved = saved

    async def asked(
        self, request: payments_pb2.CreatePaymentRequest, call: Call, terms: MerchantTerms
    ) -> Order:
        """Reads what a new payment asks for; raises Refusal when its saved instrument is none."""
        order = order_of(request)
        if request.capture_method == payment_pb2.CAPTURE_METHOD_MERCHANT_DEFAULT:
            order = replace(order, capture_method=terms.capture_method)
        return await self._with_saved(order, request.instrument_id, call)

    async def changed(
        self, order: Order, request: payments_pb2.UpdatePaymentRequest, call: Call
    ) -> Order:
        """Answers an order with the fields that a change gives.

        Raises:
            Refusal: INSTRUMENT_NOT_FOUND, also when a saved instrument is of another customer
                than the one named; FIELD_INVALID when too many pairs would stay.
        """
        given: dict[str, Any] = {
            field.name: value for field, value in request.ListFields() if field.name in _TEXTS
        }
        if request.HasField("amount"):
            given["amount"] = money_of(request.amount)
        if request.HasField("instrument"):
            given |= {
                "tokens": {t.processor_account_id: t.token for t in request.instrument.tokens},
                "fingerprint": request.instrument.fingerprint,
                "instrument_id": "",
                "payers": {},
            }
        if request.metadata:
            given["metadata"] = with_pairs(order.metadata, request.metadata)
        changed = replace(order, **given)
        if request.instrument_id or changed.customer_id != order.customer_id:
            instrument_id = request.instrument_id or changed.instrument_id
            changed = await self._with_saved(changed, instrument_id, call)
        if _terms(changed) != _terms(order):
            # The decision was made for what is charged no more.
            changed = replace(changed, decision_id="")
        return changed

    async def _with_saved(self, order: Order, instrument_id: str, call: Call) -> Order:
        if not instrument_id:
            return order
        if self._saved is None:
            raise instrument_not_found()
        found = await self._saved.chargeable(
            call.merchant_id,
            call.livemode,
            instrument_id,
            payer_is_away=order.off_session or order.initiator is Initiator.MERCHANT,
        )
        return with_instrument(order, instrument_id, found)


def _terms(order: Order) -> tuple[object, Mapping[str, str]]:
    return order.amount, order.tokens
