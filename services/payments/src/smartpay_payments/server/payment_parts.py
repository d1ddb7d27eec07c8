"""Lists what belongs to payments and is a resource of its own: refunds and disputes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from smartpay.payments.v1 import disputes_pb2, refunds_pb2
from smartpay_chassis.calls import current_call
from smartpay_chassis.pages import decode_page_token, encode_page_token, page_size
from smartpay_payments.domain.payment import Payment, payment_not_found

Parts = list[tuple[str, Payment]]
"""Ids with the payments they belong to."""
ReadParts = Callable[[str, bool, str, str, int], Awaitable[tuple[Parts, str]]]
"""Reads a page by (merchant id, livemode, payment id or "", position, size), newest first."""


class PaymentShelf(Protocol):
    """Where payments are found."""

    async def get(self, merchant_id: str, livemode: bool, payment_id: str) -> Payment | None:
        """Reads one payment of one merchant."""
        ...


async def page_of_parts(
    request: refunds_pb2.ListRefundsRequest | disputes_pb2.ListDisputesRequest,
    kind: str,
    read: ReadParts,
    shelf: PaymentShelf,
) -> tuple[Parts, str]:
    """Answers a page of the caller's merchant, and the token of the next one.

    Args:
        request: which payment's, and which page.
        kind: binds page tokens to this list.
        read: reads a page.
        shelf: tells a payment without parts from one that is not the merchant's.

    Raises:
        Refusal: PAGE_TOKEN_INVALID, or PAYMENT_NOT_FOUND for a payment of somebody else.
    """
    call, payment_id = current_call(), request.payment_id
    bound_to = f"{kind} {call.merchant_id} {call.livemode} {payment_id}"
    token = request.page_token
    after = decode_page_token(token, bound_to=bound_to) if token else ""
    size = page_size(request.page_size)
    found, position = await read(call.merchant_id, call.livemode, payment_id, after, size)
    holder = (call.merchant_id, call.livemode, payment_id)
    if payment_id and not found and await shelf.get(*holder) is None:
        raise payment_not_found()
    return found, encode_page_token(position, bound_to=bound_to) if position else ""
